"""The report on paper: what it says, that it is always the same file, and that it paginates."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

pytest.importorskip("fpdf", reason="leukoscope[clinic]")

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.film_pdf import film_pdf, sample_cells
from edge_runtime.clinic.paper import words
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.errors import RecordError
from edge_runtime.film_report import (
    RESEARCH_USE,
    CameraGapRecord,
    CorrectedShareRecord,
    LiveRecord,
    ScreeningRecord,
)
from edge_runtime.types import FieldResult, SkippedFrame
from tests.clinic_films import DETECTOR_SETUP, SETUP, Clock, People, field_of, keep_film

MANY = [
    *("segmented_neutrophil", "band_neutrophil", "lymphocyte", "monocyte", "eosinophil"),
    *("basophil", "myeloblast", "lymphoblast", "promyelocyte", "myelocyte", "metamyelocyte"),
    *("plasma_cell", "atypical_lymphocyte", "hairy_cell", "smudge_cell", "prolymphocyte"),
    "erythroblast",
]
needs_poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="poppler-utils reads the text back"
)


def text_of(pdf: bytes, folder: Path) -> str:
    """What a reader may select and copy, page after page."""
    file = folder / "report.pdf"
    file.write_bytes(pdf)
    done = subprocess.run(
        ["pdftotext", "-layout", str(file), "-"], check=True, capture_output=True, timeout=30
    )
    return done.stdout.decode("utf-8")


def squeezed(text: str) -> str:
    return " ".join(text.split())


def pages_of(pdf: bytes) -> int:
    return len(re.findall(rb"/Type /Page\b", pdf))


def long_film(cells: int) -> list[FieldResult | SkippedFrame]:
    """Six cells a field, of many classes in turn, one in thirty unclassified."""
    like = [field_of(n, ("neutrophil",) * 6) for n in range(3)]
    fields: list[FieldResult | SkippedFrame] = []
    number = 0
    for index in range(-(-cells // 6)):
        found = []
        for cell in like[index % 3].cells:
            name = UNCLASSIFIED if number % 30 == 29 else MANY[number % len(MANY)]
            sure = 0.4 + 0.6 * (number % 97) / 97
            found.append(dataclasses.replace(cell, class_name=name, class_probability=sure))
            number += 1
        fields.append(dataclasses.replace(like[0], index=index, cells=tuple(found)))
    return fields


SCREENING = ScreeningRecord(
    state="enough: below",
    text="Enough.",
    threshold_percent=20,
    confidence=0.95,
    cells=150,
    named=3,
    why=None,
    more_cells=0,
    may_settle=True,
    corrected=CorrectedShareRecord(
        percent=2.1, low_percent=0.4, high_percent=5.0, at_least_threshold=0.0
    ),
    domain_assessed=False,
)
LIVE = LiveRecord(
    sessions=[],
    frames_passed_over=0,
    frame_age=None,
    gaps=[CameraGapRecord(at_s=3, seconds=2.5, reason="unplugged")],
)
LONG_SETUP = dataclasses.replace(
    SETUP,
    classifier=SETUP.classifier and SETUP.classifier.model_copy(update={"classes": MANY}),
)


@needs_poppler
def test_a_preliminary_report_says_so_and_what_was_found(
    store: ClinicStore, people: People, tmp_path: Path
) -> None:
    film = keep_film(
        store,
        [
            field_of(0, ("neutrophil", "lymphocyte")),
            SkippedFrame(1, "b", "out of focus (edges 4.1 pixels, at most 3.2): turn the focus"),
            SkippedFrame(2, "c", "out of focus (edges 5.0 pixels, at most 3.2): turn the focus"),
        ],
        film=NewFilm("S-77", "4711", "pale stain"),
        by=people.operator,
    )
    text = squeezed(text_of(film_pdf(store, film), tmp_path))
    assert words.PRELIMINARY_MEANS in text
    for said in ("S-77", "4711", "pale stain", "Otto Operator", "2026-07-25 12:00 UTC"):
        assert said in text
    assert "neutrophil 1 50.0 1.3 – 98.7" in text
    assert "1 examined, 2 skipped" in text
    assert "out of focus 2" in text
    assert store.review.content(film) in text
    assert "toy-1.0.0" in text
    assert "ab" * 32 in text


@needs_poppler
def test_a_signed_report_names_who_when_and_what(
    store: ClinicStore, people: People, clock: Clock, tmp_path: Path
) -> None:
    film = keep_film(store, [field_of(0, ("neutrophil", "lymphocyte"))])
    clock.move(hours=1)
    first, second = store.films.cells(film)
    store.corrections.give_class(first.id, "eosinophil", people.reviewer)
    store.corrections.reject(second.id, people.reviewer)
    signature = store.review.sign(film, people.reviewer, comment="seen twice")
    final = squeezed(text_of(film_pdf(store, film), tmp_path))
    assert "FINAL" in final
    assert "Reviewed and signed by Rosa Reviewer, 2026-07-25 13:00 UTC" in final
    assert signature.content_sha256 in final
    assert "seen twice" in final
    assert words.CONTENT_HOLDS in final
    assert "1 named anew, 1 rejected, 0 added" in final
    assert "eosinophil 1 100.0" in final
    assert words.PRELIMINARY_MEANS not in final
    store.review.reopen(film, people.reviewer, "wrong slide")
    assert words.PRELIMINARY_MEANS in squeezed(text_of(film_pdf(store, film), tmp_path))
    store.review.sign(film, people.reviewer)
    amended = squeezed(text_of(film_pdf(store, film), tmp_path))
    assert "AMENDED" in amended
    assert "by Rosa Reviewer: wrong slide" in amended


def test_the_same_film_is_the_same_file_whatever_the_time(
    store: ClinicStore, people: People, clock: Clock
) -> None:
    film = keep_film(store, [field_of(0, ("neutrophil", "lymphocyte"))])
    before = film_pdf(store, film)
    assert b"/CreationDate (D:20260725120000" in before
    clock.move(days=40)
    assert film_pdf(store, film) == before
    store.corrections.give_class(store.films.cells(film)[0].id, "eosinophil", people.reviewer)
    assert film_pdf(store, film) != before


@needs_poppler
def test_a_long_film_of_many_classes_paginates(store: ClinicStore, tmp_path: Path) -> None:
    film = keep_film(store, long_film(400), setup=LONG_SETUP)
    pdf = film_pdf(store, film)
    pages = text_of(pdf, tmp_path).split("\f")[:-1]
    assert 4 <= len(pages) == pages_of(pdf) <= 8
    for number, page in enumerate(pages, start=1):
        assert RESEARCH_USE in page
        assert f"Page {number} of {len(pages)}" in page
        assert f"Film {film}, slide S-1" in page
    whole = squeezed(" ".join(pages))
    for name in MANY:
        assert f"{name.replace('_', ' ')}: " in whole
    # A page's text ends above its foot: the last line before it is no foot and not empty.
    assert all(len(page.splitlines()) > 6 for page in pages)


@needs_poppler
def test_names_in_any_script_of_the_font_and_a_word_on_those_it_lacks(
    store: ClinicStore, tmp_path: Path
) -> None:
    film = keep_film(store, [], film=NewFilm("Σλάιντ-1", "Иванова Łukasz", "李 and \u202eשרה"))
    text = text_of(film_pdf(store, film), tmp_path)
    for said in ("Σλάιντ-1", "Иванова Łukasz", "U+674E"):
        assert said in text
    assert "李" not in text
    assert "\u202e" not in text


def test_it_can_be_said_in_another_language(store: ClinicStore) -> None:
    asked: set[str] = set()

    def t(message: str, /, **values: object) -> str:
        asked.add(message)
        return words.in_english(message, **values)

    film = keep_film(store, [field_of(0), SkippedFrame(1, "b", "moving")])
    pdf = film_pdf(store, film, t=t, language="es")
    assert b"/Lang (es)" in pdf
    own = {"neutrophil", "lymphocyte", "eosinophil", "erythroblast", "unclassified", "moving"}
    assert asked <= {*words.MESSAGES, *own}
    assert {words.TITLE, words.RESEARCH, words.PRELIMINARY, words.PAGE} <= asked


@needs_poppler
def test_without_a_classifier_cells_are_only_counted(store: ClinicStore, tmp_path: Path) -> None:
    plain = field_of(0)
    cell = dataclasses.replace(
        plain.cells[0],
        class_name="WBC",
        best_class=None,
        class_probability=None,
        class_probabilities=None,
        attributes=None,
    )
    film = keep_film(store, [dataclasses.replace(plain, cells=(cell,))], setup=DETECTOR_SETUP)
    text = squeezed(text_of(film_pdf(store, film), tmp_path))
    assert words.NO_CLASSIFIER in text
    assert "WBC 1" in text


@needs_poppler
def test_a_missing_picture_is_said_and_the_report_comes(store: ClinicStore, tmp_path: Path) -> None:
    film = keep_film(store, [field_of(0, ("neutrophil", "lymphocyte"))])
    name = store.films.cells(film)[0].crop_file
    assert name is not None
    store.pictures.path(film, name).unlink()
    text = squeezed(text_of(film_pdf(store, film), tmp_path))
    assert "1 pictures could not be read" in text
    assert words.NO_PICTURE in text


@needs_poppler
def test_what_was_changed_behind_a_signature_is_a_warning(
    store: ClinicStore, people: People, tmp_path: Path
) -> None:
    film = keep_film(store, [field_of(0)])
    store.review.sign(film, people.reviewer)
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE cells SET given_class = 'lymphocyte'")
    text = squeezed(text_of(film_pdf(store, film), tmp_path))
    assert words.NO_LONGER in text
    assert words.CONTENT_DIFFERS in text


def test_a_film_that_runs_or_is_not_there_is_refused(store: ClinicStore) -> None:
    from edge_runtime.clinic.store.sink import StoreSink

    sink = StoreSink(store, NewFilm("S-1"), SETUP)
    sink.start()
    with pytest.raises(RecordError, match="still running"):
        film_pdf(store, sink.film)
    with pytest.raises(RecordError, match="no such film"):
        film_pdf(store, 99)


def test_a_sample_reaches_from_the_surest_to_the_least_sure(store: ClinicStore) -> None:
    film = keep_film(store, long_film(60), setup=LONG_SETUP)
    cells = store.films.cells(film)
    chosen = sample_cells(cells, 7)
    sure = [each.class_probability or 0.0 for each in chosen]
    every = [each.class_probability or 0.0 for each in cells]
    assert sure == sorted(sure, reverse=True)
    assert (sure[0], sure[-1], len(set(chosen_ids := [x.id for x in chosen]))) == (
        max(every),
        min(every),
        len(chosen_ids),
    )
    assert sample_cells(cells, 60) == sorted(
        cells, key=lambda x: (-(x.class_probability or 0.0), x.field, x.number)
    )


@needs_poppler
def test_a_guided_film_shows_verdict_map_and_what_was_not_seen(
    store: ClinicStore, tmp_path: Path
) -> None:
    film = keep_film(store, [field_of(0, ("neutrophil", "lymphocyte")), field_of(1)])
    with store.database.writing() as connection:
        for field, x in ((0, 0.0), (1, 120.0)):
            connection.exec_driver_sql(
                f"UPDATE fields SET fragment = 0, film_x = {x}, film_y = 0, pixel_size_um = 0.5 "
                f'WHERE film = {film} AND "index" = {field}'
            )
        header = store.films.header(film).model_copy(
            update={
                "screening": SCREENING,
                "live": LIVE,
            }
        )
        document = header.model_dump_json(exclude={"fields", "cells"})
        connection.exec_driver_sql("UPDATE films SET header = ?", (document,))
    pdf = film_pdf(store, film)
    text = squeezed(text_of(pdf, tmp_path))
    assert "the share of blasts is below 20 %" in text
    assert "3 of 150 white cells named blasts" in text
    assert "2.1 % (95 % interval 0.4 – 5.0 %)" in text
    assert "no picture 1 times, for 2.5 s in all" in text
    assert words.MAP in text
    assert "3 cells, each once" in text
    # 320 pixels of half a micrometre lie on the sheet's width.
    assert "20 µm" in text
    assert "neutrophil 2" in text
    assert film_pdf(store, film) == pdf


def test_its_text_is_text(store: ClinicStore) -> None:
    """Characters are mapped back from glyphs, so that search and screen readers find them."""
    pdf = film_pdf(store, keep_film(store, [field_of(0)]))
    assert b"/ToUnicode" in pdf
    assert b"/DisplayDocTitle true" in pdf
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    assert any(b"beginbfchar" in _plain(each) for each in streams)


def _plain(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return stream
