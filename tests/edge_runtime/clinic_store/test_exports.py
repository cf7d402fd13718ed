"""What leaves the store: CSV, JSON, FHIR, and training sets that the training reads."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.exports.fhir import BLASTS, LOINC, fhir_bundle
from edge_runtime.clinic.exports.film_files import COLUMNS, film_csv, film_json
from edge_runtime.clinic.exports.training_set import Layout, write_training_set
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.errors import AccessError, RecordError, StoreError
from edge_runtime.film.differential import exact_interval
from edge_runtime.film_report import RESEARCH_USE, FilmReport
from edge_runtime.types import SkippedFrame
from tests.clinic_films import DETECTOR_SETUP, People, field_of, keep_film

NAMES = ("SLIDE-77", "PATIENT-4711", "a note on Mrs X", "Otto", "Rosa", "Mrs_X_01.jpg", "2026")


@pytest.fixture
def film(store: ClinicStore, people: People) -> int:
    number = keep_film(
        store,
        [
            field_of(0, ("neutrophil", "neutrophil", "lymphocyte"), name="Mrs_X_01.jpg"),
            field_of(1, ("monocyte_like", "erythroblast"), name="=HYPERLINK(1)"),
            SkippedFrame(2, "Mrs_X_01.jpg", "cannot read Mrs_X_01.jpg"),
            field_of(3, ()),
        ],
        film=NewFilm("SLIDE-77", "PATIENT-4711", "a note on Mrs X"),
        by=people.operator,
    )
    first, second, *_ = store.films.cells(number)
    store.corrections.give_class(first.id, "blast", people.operator)
    store.corrections.reject(second.id, people.operator)
    for field in (0, 1, 3):
        store.corrections.check_field(number, field, people.operator)
    return number


def test_csv_has_every_cell_and_no_formula(store: ClinicStore, film: int, people: People) -> None:
    text = film_csv(store, film, people.reviewer).decode()
    header, *lines = list(csv.reader(io.StringIO(text)))
    assert tuple(header) == COLUMNS
    cells = [dict(zip(header, line, strict=True)) for line in lines]
    assert [each["class"] for each in cells] == [
        "blast",
        "",
        "lymphocyte",
        "monocyte_like",
        "erythroblast",
    ]
    assert [each["rejected"] for each in cells] == ["0", "1", "0", "0", "0"]
    assert cells[0]["model_class"] == "neutrophil"
    assert cells[3]["field_name"] == "'=HYPERLINK(1)"
    assert cells[0]["patient"] == "PATIENT-4711"


def test_json_holds_the_corrected_report(store: ClinicStore, film: int, people: People) -> None:
    store.review.sign(film, people.reviewer)
    document = json.loads(film_json(store, film, people.reviewer))
    assert FilmReport.model_validate(document["report"]) == store.reports.corrected(film)
    assert document["research_use"] == RESEARCH_USE
    assert document["film"]["patient"] == "PATIENT-4711"
    assert document["signatures"][0]["user"] == "Rosa Reviewer"
    assert {"class_given", "film_signed"} <= {each["action"] for each in document["changes"]}
    assert store.trail.of_film(film)[-1].action == "exported"


def test_an_anonymous_export_names_nobody(store: ClinicStore, film: int, people: People) -> None:
    store.review.sign(film, people.reviewer, comment="spoke with Mrs X")
    texts = [
        film_json(store, film, people.reviewer, anonymous=True).decode(),
        film_csv(store, film, people.reviewer, anonymous=True).decode(),
    ]
    for text in texts:
        assert not [name for name in (*NAMES, store.uuid) if name in text]
    again = film_json(store, film, people.reviewer, anonymous=True).decode()
    assert json.loads(again)["film"]["id"] != json.loads(texts[0])["film"]["id"]
    whole = film_json(store, film, people.reviewer).decode()
    assert all(name in whole for name in NAMES)


def test_an_operator_exports_nothing(
    store: ClinicStore, film: int, people: People, tmp_path: Path
) -> None:
    for export in (film_csv, film_json, fhir_bundle):
        with pytest.raises(AccessError, match="may not export"):
            export(store, film, people.operator)
    with pytest.raises(AccessError, match="may not export"):
        write_training_set(store, [film], tmp_path / "set", people.operator)
    assert not (tmp_path / "set").exists()


def resources(content: bytes) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The report, and its observations by what they are called."""
    bundle = json.loads(content)
    report, *observations = [entry["resource"] for entry in bundle["entry"]]
    urls = [entry["fullUrl"] for entry in bundle["entry"][1:]]
    assert [each["reference"] for each in report["result"]] == urls
    assert len(set(urls)) == len(urls)
    return report, {each["code"]["text"]: each for each in observations}


def test_fhir_has_codes_shares_intervals_and_a_status(
    store: ClinicStore, film: int, people: People
) -> None:
    pytest.importorskip("fhir.resources", reason="leukoscope[clinic]")
    report, found = resources(fhir_bundle(store, film, people.reviewer))
    assert report["status"] == "preliminary"
    assert "not reviewed by a person" in report["conclusion"]
    assert RESEARCH_USE in report["conclusion"]
    assert report["category"][0]["coding"][0]["code"] == "HM"
    assert report["subject"]["identifier"]["value"] == "PATIENT-4711"
    assert report["specimen"][0]["identifier"]["value"] == "SLIDE-77"
    blasts = found["blast per 100 leukocytes"]
    assert blasts["code"]["coding"] == [{"system": LOINC, "code": BLASTS}]
    # One blast, one lymphocyte; the strange class is none that the bundle knows.
    assert blasts["valueQuantity"]["value"] == 50
    low, high = exact_interval(1, 2)
    ends = [part["valueQuantity"]["value"] for part in blasts["component"][1:]]
    assert ends == [round(100 * low, 2), round(100 * high, 2)]
    assert found["eosinophil per 100 leukocytes"]["code"]["coding"][0]["code"] == "26450-7"
    assert "coding" not in found["neutrophil per 100 leukocytes"]["code"]
    assert found["erythroblast, counted beside the differential"]["valueInteger"] == 1
    assert {each["status"] for each in found.values()} == {"preliminary"}
    # Leukocytes per volume cannot be told from a film.
    assert "26464-8" not in json.dumps(found)


def test_fhir_says_who_signed_and_that_it_was_amended(
    store: ClinicStore, film: int, people: People
) -> None:
    pytest.importorskip("fhir.resources", reason="leukoscope[clinic]")
    store.review.sign(film, people.reviewer)
    report, found = resources(fhir_bundle(store, film, None))
    assert report["status"] == "final"
    assert report["resultsInterpreter"][0]["display"] == "Rosa Reviewer"
    assert "not reviewed" not in report["conclusion"]
    store.review.reopen(film, people.reviewer, "wrong")
    assert resources(fhir_bundle(store, film, None))[0]["status"] == "preliminary"
    store.review.sign(film, people.reviewer)
    report, again = resources(fhir_bundle(store, film, None))
    assert report["status"] == "amended"
    assert again.keys() == found.keys()


def test_fhir_of_a_film_without_a_cell_or_a_classifier(store: ClinicStore) -> None:
    pytest.importorskip("fhir.resources", reason="leukoscope[clinic]")
    _, found = resources(fhir_bundle(store, keep_film(store, [field_of(0, ())]), None))
    share = found["neutrophil per 100 leukocytes"]
    assert "valueQuantity" not in share
    assert share["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    bare = keep_film(store, [field_of(1, ("WBC", "WBC"))], setup=DETECTOR_SETUP)
    _, found = resources(fhir_bundle(store, bare, None))
    assert found["Cells found on the film"]["valueInteger"] == 2


def test_several_classes_of_blasts_are_one_share(store: ClinicStore, people: People) -> None:
    pytest.importorskip("fhir.resources", reason="leukoscope[clinic]")
    store.settings.change(people.admin, extra_classes=("myeloblast", "lymphoblast"))
    film = keep_film(store, [field_of(0, ("neutrophil",) * 4)])
    for cell, name in zip(store.films.cells(film), ("myeloblast", "lymphoblast"), strict=False):
        store.corrections.give_class(cell.id, name, people.operator)
    _, found = resources(fhir_bundle(store, film, None))
    together = found["blasts per 100 leukocytes (myeloblast, lymphoblast)"]
    assert together["valueQuantity"]["value"] == 50
    assert together["code"]["coding"][0]["code"] == BLASTS
    assert "coding" not in found["myeloblast per 100 leukocytes"]["code"]


def test_a_training_set_takes_checked_whole_fields_only(
    store: ClinicStore, film: int, people: People, tmp_path: Path
) -> None:
    store.corrections.check_field(film, 1, people.operator, checked=False)
    made = write_training_set(store, [film], tmp_path / "set", people.admin)
    assert (made.fields, made.cells, made.classes, made.unchecked) == (2, 2, ("WBC",), 1)
    labels = sorted((tmp_path / "set" / "labels").iterdir())
    assert [len(each.read_text().splitlines()) for each in labels] == [2, 0]
    files = [each.relative_to(tmp_path).as_posix() for each in (tmp_path / "set").rglob("*")]
    assert not [name for name in NAMES if name in " ".join(files)]
    with pytest.raises(StoreError, match="not empty"):
        write_training_set(store, [film], tmp_path / "set", people.admin)
    store.settings.change(people.admin, keep_frames=False)
    bare = keep_film(store, [field_of(0)])
    store.corrections.check_field(bare, 0, people.operator)
    with pytest.raises(RecordError, match=r"0 not checked, 1 not kept at full size"):
        write_training_set(store, [bare], tmp_path / "other", people.admin)


def test_by_class_leaves_out_fields_with_a_cell_of_no_class(
    store: ClinicStore, film: int, people: People, tmp_path: Path
) -> None:
    last = store.films.cells(film, 1)[-1]
    store.corrections.give_class(last.id, UNCLASSIFIED, people.operator)
    made = write_training_set(store, [film], tmp_path / "set", None, by_class=True)
    assert (made.fields, made.classes, made.unclassified) == (2, ("blast", "lymphocyte"), 1)


@pytest.mark.train
@pytest.mark.parametrize("layout", ["yolo", "coco"])
@pytest.mark.parametrize("by_class", [False, True])
def test_the_training_reads_what_was_written(
    store: ClinicStore, people: People, tmp_path: Path, layout: Layout, by_class: bool
) -> None:
    """Read by `leukoscope train site`'s own reader, then divided as it does."""
    from train.datasets.site_fields import formats_in, read_site_fields
    from train.site.fields import divide_site

    films = []
    for number in range(3):
        kinds = [("neutrophil", "lymphocyte"), ("lymphocyte",), ()]
        fields = [field_of(n, kinds[n], seed=10 * number + n) for n in range(3)]
        films.append(keep_film(store, fields))
        for n in range(3):
            store.corrections.check_field(films[-1], n, people.operator)
    store.corrections.add_cell(films[0], 2, (20.25, 30, 60, 71.5), "neutrophil", people.operator)
    out = tmp_path / "set"
    made = write_training_set(store, films, out, None, layout=layout, by_class=by_class)
    assert formats_in(out) == (layout,)
    found = read_site_fields(out).require_clean()
    assert len(found.images) == made.fields == 9
    assert sorted(found.classes) == sorted(made.classes)
    assert len({each.group for each in found.images}) == 3
    read = [
        (found.classes[class_id], box[0] * 200, box[1] * 150, box[2] * 200, box[3] * 150)
        for each in found.images
        for class_id, box in zip(each.class_ids, each.boxes_xywhn.tolist(), strict=True)
    ]
    kept = [
        (
            cell.shown_class if by_class else "WBC",
            (cell.box_xyxy[0] + cell.box_xyxy[2]) / 2,
            (cell.box_xyxy[1] + cell.box_xyxy[3]) / 2,
            cell.box_xyxy[2] - cell.box_xyxy[0],
            cell.box_xyxy[3] - cell.box_xyxy[1],
        )
        for film in films
        for cell in store.films.cells(film)
    ]
    assert len(read) == len(kept) == made.cells == 10
    for one, other in zip(sorted(read), sorted(kept), strict=True):
        assert one[0] == other[0]
        assert one[1:] == pytest.approx(other[1:], abs=0.01)
    divided = divide_site(found, minimum=5, share=0.2, least_held_out=2, most=None, seed=1)
    assert divided.different == 9
    # Whole films are held out.
    assert {each.group for each in divided.train}.isdisjoint(x.group for x in divided.held_out)
