"""What leaves the device through the page: the right forms, to the right people, on record."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable

import pytest

from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.web.export_routes import sweep_left_over
from tests.clinic_browser import Browser
from tests.clinic_films import People

SignIn = Callable[[str], Browser]


def test_csv_json_and_html(sign_in: SignIn, store: ClinicStore, people: People, film: int) -> None:
    browser = sign_in("reviewer")
    cells = store.films.cells(film)
    store.corrections.reject(cells[0].id, people.operator)
    store.corrections.give_class(cells[1].id, "eosinophil", people.operator)
    table = browser.post(f"/films/{film}/export", {"form": "csv"})
    assert table.headers["content-disposition"] == (
        f'attachment; filename="film-{film:06d}-preliminary.csv"'
    )
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert len(rows) == len(cells)
    assert rows[0]["patient"] == "P-1042"
    document = browser.post(f"/films/{film}/export", {"form": "json"}).json()
    assert document["film"]["patient"] == "P-1042"
    page = browser.post(f"/films/{film}/export", {"form": "html"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-disposition"].startswith("attachment")
    assert page.text.count("data:image/jpeg") >= len(cells) - 1
    exports = [x for x in store.trail.of_film(film) if x.action == "exported"]
    forms = [(x.after or {})["form"] for x in exports]
    assert forms == ["CSV", "JSON", "HTML report"]
    assert {x.user for x in exports} == {"Rosa Reviewer"}


def test_the_html_report_is_the_corrected_one(
    sign_in: SignIn, store: ClinicStore, people: People, film: int
) -> None:
    cells = store.films.cells(film)
    for cell in cells:
        if cell.shown_class != "unclassified":
            store.corrections.give_class(cell.id, "eosinophil", people.operator)
    text = sign_in("reviewer").post(f"/films/{film}/export", {"form": "html"}).text
    assert "eosinophil: 5 of 5 cells" in text


def test_the_html_report_says_how_far_the_review_is(
    sign_in: SignIn, store: ClinicStore, people: People, film: int
) -> None:
    def exported() -> str:
        return sign_in("reviewer").post(f"/films/{film}/export", {"form": "html"}).text

    text = exported()
    assert "<strong>Preliminary.</strong> Preliminary: proposed by software" in text
    assert store.review.content(film) in text
    signature = store.review.sign(film, people.reviewer, comment="looked <twice>")
    text = exported()
    assert "<strong>Final</strong>" in text
    assert "Reviewed and signed by Rosa Reviewer, 2026-07-25 12:00 UTC." in text
    assert signature.content_sha256 in text
    assert "looked &lt;twice&gt;" in text
    store.review.reopen(film, people.reviewer, "a wrong class")
    assert "by Rosa Reviewer: a wrong class" in exported()
    store.review.sign(film, people.reviewer)
    text = exported()
    assert "<strong>Amended</strong>" in text
    assert "matches what is stored" in text
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE films SET note = 'another'")
    text = exported()
    assert '<strong class="warn">Amended</strong>' in text
    assert "does not match what is stored" in text


def test_anonymous_names_nobody(sign_in: SignIn, film: int) -> None:
    browser = sign_in("admin")
    for form in ("csv", "json"):
        answer = browser.post(f"/films/{film}/export", {"form": form, "anonymous": "true"})
        assert answer.status_code == 200
        for name in ("P-1042", "S-<7>", "Otto", f"{film:06d}"):
            assert name not in answer.text + answer.headers["content-disposition"]
    for form in ("pdf", "html", "fhir"):
        refused = browser.post(f"/films/{film}/export", {"form": form, "anonymous": "true"})
        assert refused.status_code == 422


def test_fhir(sign_in: SignIn, film: int) -> None:
    pytest.importorskip("fhir.resources", reason="leukoscope[clinic]")
    answer = sign_in("reviewer").post(f"/films/{film}/export", {"form": "fhir"})
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.json()["resourceType"] == "Bundle"


def test_pdf_in_the_language_of_the_page(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    pytest.importorskip("fpdf", reason="leukoscope[clinic]")
    browser = sign_in("reviewer")
    english = browser.post(f"/films/{film}/export", {"form": "pdf"})
    assert english.headers["content-type"] == "application/pdf"
    assert english.content.startswith(b"%PDF")
    browser.post("/language", {"language": "es"})
    spanish = browser.post(f"/films/{film}/export", {"form": "pdf"})
    assert spanish.content != english.content
    assert b"/Lang (es" in spanish.content
    actions = [(x.after or {}).get("form") for x in store.trail.of_film(film)]
    assert actions.count("PDF report") == 2


@pytest.mark.parametrize("form", ["csv", "json", "fhir", "html", "pdf"])
def test_an_operator_exports_nothing(
    sign_in: SignIn, store: ClinicStore, film: int, form: str
) -> None:
    browser = sign_in("operator")
    assert browser.post(f"/films/{film}/export", {"form": form}).status_code == 403
    assert browser.post("/training-set", {"films": film}).status_code == 403
    assert "exported" not in [each.action for each in store.trail.of_film(film)]
    assert "/export" not in browser.get(f"/films/{film}").text


def test_looking_ahead_exports_nothing(sign_in: SignIn, film: int) -> None:
    assert sign_in("reviewer").get(f"/films/{film}/export").status_code == 405


@pytest.mark.parametrize("layout", ["yolo", "coco"])
def test_a_training_set_of_checked_fields(
    sign_in: SignIn, store: ClinicStore, people: People, film: int, layout: str
) -> None:
    browser = sign_in("reviewer")
    assert browser.post("/training-set", {"films": film}).status_code == 409
    store.corrections.check_field(film, 0, people.operator)
    answer = browser.post("/training-set", {"films": [film, film], "layout": layout})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        if layout == "coco":
            (table,) = [each for each in names if each.endswith(".json")]
            assert len(json.loads(archive.read(table))["annotations"]) == 3
    assert len([each for each in names if each.startswith("images/")]) == 1
    # Nothing of it stays behind, neither of the one that was refused.
    assert [x.name for x in store.folder.iterdir() if x.name.startswith(".export")] == []


def test_a_training_set_of_nothing(sign_in: SignIn, film: int) -> None:
    browser = sign_in("reviewer")
    assert browser.post("/training-set", {"films": 999}).status_code == 409
    assert browser.post("/training-set", {"films": "9" * 30}).status_code == 422
    assert browser.post("/training-set").status_code == 422


def test_what_a_power_cut_left_is_removed(store: ClinicStore) -> None:
    left = store.folder / ".export-abc"
    (left / "set").mkdir(parents=True)
    sweep_left_over(store.folder)
    assert not left.exists()
    assert (store.folder / "store.sqlite").exists()
