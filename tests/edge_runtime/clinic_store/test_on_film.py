"""Stored cells of overlapping fields: one row each, and what people say stays with it."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.clinic.exports.film_files import film_csv
from edge_runtime.clinic.exports.training_set import write_training_set
from edge_runtime.clinic.store import migrations
from edge_runtime.clinic.store.database import DATABASE_FILE
from edge_runtime.clinic.store.records import NewFilm, StoredCell
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore, open_store
from edge_runtime.errors import RecordError
from edge_runtime.film.film_cells import CellMerge, Find, Sighting
from edge_runtime.film.mosaic import MosaicUpdate
from edge_runtime.film.track import FragmentTie, Lost, Placed
from edge_runtime.film_report import FilmReport
from edge_runtime.types import FieldResult
from tests.clinic_films import SETUP, People, bare_report, field_of, keep_film

TWO = ("neutrophil", "lymphocyte")


def seen(cell: int, frame: int, row: int, *, new: bool = False, best: bool = False) -> Sighting:
    return Sighting(cell, frame, row, new, best or new, 0.9)


def find(frame: int, row: int) -> Find:
    return Find(frame, row, (0.0, 0.0, 1.0, 1.0), 0.9, 1.0, True)


def on_film(index: int, update: MosaicUpdate, classes: tuple[str, ...] = TWO) -> FieldResult:
    return replace(field_of(index, classes), mosaic=update, pixel_size_um=0.4, age_ms=12.5)


# Two fields of one part; the second one shows the first cell of the first one again, and better.
FIRST = on_film(
    0,
    MosaicUpdate(Placed(0, 0, 0.0, 0.0), None, (seen(0, 0, 0, new=True), seen(1, 0, 1, new=True))),
)
BETTER = on_film(
    1,
    MosaicUpdate(
        Placed(1, 0, 50.0, 10.0), None, (seen(0, 1, 0, best=True), seen(2, 1, 1, new=True))
    ),
    ("eosinophil", "lymphocyte"),
)
NOWHERE = on_film(2, MosaicUpdate(Lost(2, "apart: too little in common", True)))
# Its place comes with the next field, which begins another part.
NEXT = on_film(
    3,
    MosaicUpdate(
        Placed(3, 1, 40.0, 0.0),
        Placed(2, 1, 0.0, 0.0),
        (seen(3, 2, 0, new=True), seen(4, 2, 1, new=True), seen(3, 3, 0), seen(5, 3, 1, new=True)),
    ),
)
# The parts are one, and two of the second one's cells were counted already.
JOINED = MosaicUpdate(
    None,
    ties=(FragmentTie(1, 0, 50.0, 10.0),),
    merges=(CellMerge(3, 0, find(1, 0)), CellMerge(4, 2, find(2, 1))),
)


class Growing:
    """A film that is being examined."""

    def __init__(self, store: ClinicStore) -> None:
        self.store = store
        self.sink = StoreSink(store, NewFilm("S-1"), SETUP)
        self.sink.start()

    @property
    def number(self) -> int:
        return self.sink.film

    def cell(self, film_cell: int) -> StoredCell:
        cells = self.store.films.cells(self.number)
        return next(each for each in cells if each.film_cell == film_cell)

    def counted(self) -> list[int]:
        return sorted(each.film_cell or 0 for each in self.store.films.cells(self.number))


@pytest.fixture
def film(store: ClinicStore) -> Growing:
    return Growing(store)


def test_cells_of_a_field_that_could_not_be_kept_are_missed_by_nobody(film: Growing) -> None:
    """A full disk ends the film in the middle; what its end ties together names cells without row.

    Found by the soak.
    """
    film.sink.append(FIRST)
    film.sink.append(BETTER)
    # Cells 7 and 8 were first seen in a field of which nothing is there.
    film.sink.settle(
        MosaicUpdate(
            None,
            merges=(
                CellMerge(7, 0, find(1, 0)),
                CellMerge(1, 8, find(0, 1)),
                CellMerge(9, 10, find(2, 0)),
            ),
        )
    )
    assert film.counted() == [0, 2, 8]
    film.sink.finish(interrupted(bare_report()))
    assert film.store.check() == []


def interrupted(report: FilmReport) -> FilmReport:
    return report.model_copy(update={"state": "interrupted"})


def test_a_better_look_takes_the_place_of_the_first_and_the_cell_stays_the_same(
    film: Growing, people: People
) -> None:
    film.sink.append(FIRST)
    first = film.cell(0)
    film.store.corrections.give_class(first.id, "erythroblast", people.operator)
    film.sink.append(BETTER)
    better = film.cell(0)
    assert better.id == first.id
    assert (better.field, better.number) == (1, 1)
    assert better.class_name == "eosinophil"
    assert better.crop_file != first.crop_file
    assert better.given_class == "erythroblast"
    assert film.counted() == [0, 1, 2]
    every = film.store.films.cells(film.number, every=True)
    assert [(x.field, x.number, x.film_cell, x.counts) for x in every] == [
        (0, 1, 0, False),
        (0, 2, 1, True),
        (1, 1, 0, True),
        (1, 2, 2, True),
    ]
    assert film.store.corrections.undo(film.number, people.operator) is not None
    assert film.cell(0).given_class is None


def test_cells_of_a_lost_field_count_once_its_place_is_known(film: Growing) -> None:
    for each in (FIRST, NOWHERE):
        film.sink.append(each)
    assert film.counted() == [0, 1]
    assert film.store.films.get(film.number).cells == 2
    lost = film.store.films.fields(film.number)[1]
    assert (lost.place, lost.lost) == (None, "apart: too little in common")
    report = film.store.reports.examined(film.number)
    assert report.mosaic is not None
    assert report.mosaic.lost == {"apart": 1}
    assert report.mosaic.finds_without_place == 2
    drawn = film.store.films.map_of(film.number)
    assert drawn is not None
    assert (len(drawn.cells), drawn.lost_fields) == (2, 1)
    film.sink.append(NEXT)
    assert film.counted() == [0, 1, 3, 4, 5]
    found = film.store.films.fields(film.number)[1]
    assert (found.place, found.lost) == ((1, 0.0, 0.0), None)
    assert found.age_ms == 12.5


def test_cells_that_turn_out_to_be_one_are_counted_once(film: Growing, people: People) -> None:
    for each in (FIRST, BETTER, NOWHERE, NEXT):
        film.sink.append(each)
    assert film.counted() == [0, 1, 2, 3, 4, 5]
    gone, stays = film.cell(4), film.cell(2)
    film.store.corrections.reject(gone.id, people.operator)
    film.store.corrections.give_class(film.cell(3).id, "lymphocyte", people.operator)
    film.store.corrections.give_class(film.cell(0).id, "erythroblast", people.operator)
    film.sink.settle(JOINED)
    assert film.counted() == [0, 1, 2, 5]
    # The one that is no more was the better look, and a person had said that it is none.
    kept = film.cell(2)
    assert kept.id == stays.id
    assert (kept.field, kept.number, kept.rejected) == (2, 2, True)
    # What was said of the cell that stays comes first.
    assert film.cell(0).given_class == "erythroblast"
    trail = film.store.trail.of_film(film.number)
    assert [(x.cell, x.user) for x in trail if x.action == "cells_merged"] == [(stays.id, None)]
    assert film.store.trail.check() == []
    places = {each.index: each.place for each in film.store.films.fields(film.number)}
    assert places[2] == (0, 50.0, 10.0)
    assert places[3] == (0, 90.0, 10.0)
    assert film.store.films.counts(film.number) == {"erythroblast": 1, "lymphocyte": 2}


def test_exports_count_once_and_a_field_has_all_its_boxes(
    film: Growing, people: People, tmp_path: Path
) -> None:
    film.sink.append(FIRST)
    film.sink.append(BETTER)
    film.sink.finish(bare_report(at=film.store.now()))
    film.store.corrections.give_class(film.cell(0).id, "erythroblast", people.operator)
    assert film_csv(film.store, film.number, None).count(b"\r\n") == 1 + 3
    for field in (0, 1):
        film.store.corrections.check_field(film.number, field, people.operator)
    made = write_training_set(film.store, [film.number], tmp_path / "set", None, by_class=True)
    # Four boxes of three cells; the repeat is what a person said of its cell.
    assert (made.fields, made.cells) == (2, 4)
    assert made.classes == ("erythroblast", "lymphocyte")


def test_a_signature_covers_what_counts(film: Growing, people: People) -> None:
    film.sink.append(FIRST)
    film.sink.append(BETTER)
    film.sink.finish(bare_report(at=film.store.now()))
    signature = film.store.review.sign(film.number, people.reviewer)
    assert film.store.review.holds(signature)
    # A repeat that suddenly counts is another film.
    with film.store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE cells SET counts = 1")
    assert not film.store.review.holds(signature)


def test_a_film_of_separate_pictures_has_no_map_and_every_find_counts(store: ClinicStore) -> None:
    number = keep_film(store, [field_of(0, TWO), field_of(1, TWO)])
    assert store.films.map_of(number) is None
    assert store.films.get(number).cells == 4
    assert store.films.cells(number) == store.films.cells(number, every=True)
    report = store.reports.examined(number)
    assert report.mosaic is None
    assert report.not_counted == []


def test_a_store_of_the_first_version_keeps_its_films_and_signatures(
    tmp_path: Path,
) -> None:
    """As a clinic has it that examined films before cells were counted once."""
    folder = tmp_path / "store"
    with open_store(folder) as store:
        number = keep_film(store, [field_of(0, TWO), field_of(1, TWO)])
        content = store.review.content(number)
    # Back to the first version: its columns only.
    plain = sqlite3.connect(folder / DATABASE_FILE)
    plain.execute("DROP INDEX cells_of_film_cell")
    for table, columns in (
        ("cells", ("film_cell", "counts")),
        ("fields", ("age_ms", "fragment", "film_x", "film_y", "lost", "pixel_size_um", "frames")),
    ):
        for column in columns:
            plain.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    plain.execute("PRAGMA user_version = 1")
    plain.commit()
    plain.close()
    with open_store(folder) as store:
        assert store.films.get(number).cells == 4
        assert store.review.content(number) == content
        assert all(each.counts for each in store.films.cells(number))
    assert (folder / f"{DATABASE_FILE}.version-1").is_file()
    assert len(migrations.STEPS) == 3


def test_what_was_carried_over_to_another_cell_is_taken_back_there(
    film: Growing, people: People
) -> None:
    for each in (FIRST, BETTER, NOWHERE, NEXT):
        film.sink.append(each)
    gone, stays = film.cell(4), film.cell(2)
    film.store.corrections.reject(gone.id, people.operator)
    film.sink.settle(JOINED)
    assert film.cell(2).rejected
    assert film.store.corrections.undo(film.number, people.operator) is not None
    assert (film.cell(2).id, film.cell(2).rejected) == (stays.id, False)
    assert film.store.films.counts(film.number) == {"eosinophil": 1, "lymphocyte": 3}
    undone = film.store.trail.of_film(film.number)[-1]
    assert (undone.action, undone.cell) == ("change_undone", stays.id)


def test_what_another_says_of_the_cell_that_stays_is_not_taken_back(
    film: Growing, people: People
) -> None:
    for each in (FIRST, BETTER, NOWHERE, NEXT):
        film.sink.append(each)
    film.store.corrections.reject(film.cell(2).id, people.reviewer)
    film.store.corrections.reject(film.cell(4).id, people.operator)
    film.sink.settle(JOINED)
    assert film.store.corrections.undo(film.number, people.operator) is not None
    assert film.cell(2).rejected


def test_a_repeat_takes_no_correction_that_would_count_for_nothing(
    film: Growing, people: People
) -> None:
    film.sink.append(FIRST)
    film.sink.append(BETTER)
    every = film.store.films.cells(film.number, every=True)
    repeat = next(each for each in every if not each.counts)
    with pytest.raises(RecordError, match=f"cell {film.cell(0).id}, seen again"):
        film.store.corrections.give_class(repeat.id, "erythroblast", people.operator)
    assert film.store.films.counted_as(repeat.id).id == film.cell(0).id
