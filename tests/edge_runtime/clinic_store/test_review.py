"""Corrections, undo, signatures and what leaves the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.store.records import NewFilm, StoredCell
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.errors import AccessError, RecordError
from edge_runtime.image_file import decode_image
from edge_runtime.types import SkippedFrame
from tests.clinic_films import (
    DETECTOR_SETUP,
    SETUP,
    Clock,
    People,
    bare_report,
    field_of,
    keep_film,
)

FIELDS = [
    field_of(0, ("neutrophil", "neutrophil", "lymphocyte")),
    field_of(1, ("lymphocyte", "erythroblast")),
]


@pytest.fixture
def film(store: ClinicStore) -> int:
    return keep_film(store, [*FIELDS, SkippedFrame(2, "broken", "truncated")])


def cell_of(store: ClinicStore, film: int, field: int, number: int) -> StoredCell:
    return next(x for x in store.films.cells(film, field) if x.number == number)


def test_corrections_count_and_are_told(store: ClinicStore, film: int, people: People) -> None:
    first, second, third = store.films.cells(film, 0)
    store.corrections.give_class(first.id, "blast", people.operator)
    store.corrections.reject(second.id, people.reviewer)
    added = store.corrections.add_cell(
        film, 1, (150, 100, 260, 149.5), "eosinophil", people.operator
    )
    assert list(added.box_xyxy) == [150, 100, 200, 149.5]
    assert (added.number, added.added, added.score) == (3, True, None)
    assert store.films.counts(film) == {
        "blast": 1,
        "lymphocyte": 2,
        "eosinophil": 1,
        "erythroblast": 1,
    }
    report = store.reports.corrected(film)
    assert report.differential is not None
    counts = {each.class_name: each.count for each in report.differential.classes}
    assert counts == {"neutrophil": 0, "lymphocyte": 2, "eosinophil": 1, "blast": 1}
    assert report.differential.outside == {"erythroblast": 1}
    assert report.totals.cells == 5
    assert [each.cells for each in report.fields] == [2, 3, 0]
    shown = next(each for each in report.cells if each.class_name == "blast")
    assert shown.class_probability is None
    assert shown.attributes is not None
    # The run's own report stays as it was.
    assert store.films.cells(film)[0].class_name == "neutrophil"
    told = [(each.user, each.action, each.cell) for each in store.trail.of_film(film)][-3:]
    assert told == [
        ("Otto Operator", "class_given", first.id),
        ("Rosa Reviewer", "cell_rejected", second.id),
        ("Otto Operator", "cell_added", added.id),
    ]
    assert third.corrected is False
    assert cell_of(store, film, 0, 1).corrected


def test_a_cell_of_a_class_that_is_not_described_loses_its_attributes(
    store: ClinicStore, film: int, people: People
) -> None:
    cell = cell_of(store, film, 0, 1)
    store.corrections.give_class(cell.id, "erythroblast", people.operator)
    shown = store.reports.corrected(film).cells[0]
    assert shown.attributes == {"size": None}


def test_an_added_cell_has_its_crop_from_the_full_size_field(
    store: ClinicStore, film: int, people: People
) -> None:
    cell = store.corrections.add_cell(film, 0, (10, 20, 50, 60), "blast", people.operator)
    crop = decode_image(store.pictures.read(film, cell.crop_file or ""))
    # A margin of 15 % on each side.
    assert crop.shape[:2] == (52, 52)


@pytest.mark.parametrize(
    "box",
    [(10, 10, 13, 50), (50, 50, 10, 10), (300, 10, 400, 60), (float("nan"), 1, 50, 50)],
)
def test_a_box_of_no_size_is_refused(
    store: ClinicStore, film: int, people: People, box: tuple[float, float, float, float]
) -> None:
    with pytest.raises(RecordError, match="narrower than 4 px"):
        store.corrections.add_cell(film, 0, box, "blast", people.operator)


def test_what_is_not_there_is_named(store: ClinicStore, film: int, people: People) -> None:
    with pytest.raises(RecordError, match="no such cell"):
        store.corrections.give_class(999, "blast", people.operator)
    with pytest.raises(RecordError, match="not one of this film's"):
        store.corrections.give_class(1, "Blast", people.operator)
    with pytest.raises(RecordError, match="no examined field 2"):
        store.corrections.add_cell(film, 2, (1, 1, 30, 30), "blast", people.operator)
    with pytest.raises(RecordError, match="no such film"):
        store.corrections.check_field(77, 0, people.operator)
    with pytest.raises(AccessError, match="may not correct"):
        store.corrections.reject(1, people.admin)


def test_undo_goes_back_step_by_step_and_only_ones_own(
    store: ClinicStore, film: int, people: People
) -> None:
    before = store.films.cells(film)
    cell = before[0]
    store.corrections.give_class(cell.id, "blast", people.operator)
    store.corrections.give_class(cell.id, "lymphocyte", people.operator)
    store.corrections.check_field(film, 1, people.operator)
    store.corrections.reject(before[3].id, people.reviewer)
    added = store.corrections.add_cell(film, 0, (1, 1, 30, 30), "blast", people.operator)
    undone = [store.corrections.undo(film, people.operator) for _ in range(4)]
    assert [each.action for each in undone if each] == [
        "cell_added",
        "field_checked",
        "class_given",
        "class_given",
    ]
    assert store.corrections.undo(film, people.operator) is None
    after = {each.id: each for each in store.films.cells(film)}
    assert after[cell.id] == cell
    assert after[added.id].rejected
    assert after[before[3].id].rejected
    assert not any(each.checked for each in store.films.fields(film))
    trail = store.trail.of_film(film)
    assert sum(each.action == "change_undone" for each in trail) == 4
    assert sum(each.undone for each in trail) == 4
    assert store.trail.check() == []


def test_undo_does_not_trample_on_what_somebody_else_did_since(
    store: ClinicStore, film: int, people: People
) -> None:
    cell = store.films.cells(film)[0]
    store.corrections.give_class(cell.id, "blast", people.operator)
    store.corrections.give_class(cell.id, UNCLASSIFIED, people.reviewer)
    with pytest.raises(RecordError, match="somebody else"):
        store.corrections.undo(film, people.operator)
    assert store.films.cells(film)[0].given_class == UNCLASSIFIED


def test_the_same_correction_twice_is_one(store: ClinicStore, film: int, people: People) -> None:
    cell = store.films.cells(film)[0]
    for _ in range(2):
        store.corrections.reject(cell.id, people.operator)
    assert sum(each.action == "cell_rejected" for each in store.trail.of_film(film)) == 1
    store.corrections.restore(cell.id, people.operator)
    assert store.films.cells(film)[0] == cell


def test_a_signature_makes_a_film_final_until_it_is_reopened(
    store: ClinicStore, film: int, people: People, clock: Clock
) -> None:
    assert store.films.get(film).review == "preliminary"
    with pytest.raises(AccessError, match="may not sign"):
        store.review.sign(film, people.operator)
    with pytest.raises(AccessError, match="may not sign"):
        store.review.sign(film, people.admin)
    seen = store.review.content(film)
    store.corrections.reject(1, people.operator)
    with pytest.raises(RecordError, match="changed since it was shown"):
        store.review.sign(film, people.reviewer, content_sha256=seen)
    clock.move(hours=1)
    signature = store.review.sign(film, people.reviewer, comment=" seen ")
    assert (signature.user, signature.comment) == ("Rosa Reviewer", "seen")
    assert signature.signed_at == clock.at
    found = store.films.get(film)
    assert (found.review, found.amended) == ("final", False)
    assert [each.id for each in store.films.search(review="final")] == [film]
    for refused in (
        lambda: store.corrections.give_class(2, "blast", people.reviewer),
        lambda: store.corrections.undo(film, people.operator),
        lambda: store.corrections.check_field(film, 0, people.operator),
        lambda: store.corrections.add_cell(film, 0, (1, 1, 30, 30), "blast", people.operator),
        lambda: store.films.relabel(film, NewFilm("other"), people.reviewer),
        lambda: store.review.sign(film, people.reviewer),
    ):
        with pytest.raises(RecordError, match="signed; a reviewer must reopen"):
            refused()
    assert store.review.holds(signature)
    with pytest.raises(RecordError, match="say why"):
        store.review.reopen(film, people.reviewer, " ")
    store.review.reopen(film, people.reviewer, "wrong slide")
    with pytest.raises(RecordError, match="not signed"):
        store.review.reopen(film, people.reviewer, "again")
    store.corrections.give_class(2, "blast", people.reviewer)
    assert not store.review.holds(signature)
    store.review.sign(film, people.reviewer)
    first, second = store.review.signatures(film)
    assert (first.withdrawn_by, first.withdrawn_why) == ("Rosa Reviewer", "wrong slide")
    assert second.withdrawn_at is None
    assert store.films.get(film).amended


def test_a_running_film_is_neither_signed_nor_deleted(store: ClinicStore, people: People) -> None:
    sink = StoreSink(store, NewFilm("S"), SETUP)
    sink.start()
    sink.append(FIELDS[0])
    with pytest.raises(RecordError, match="still running"):
        store.review.sign(sink.film, people.reviewer)
    with pytest.raises(RecordError, match="still running"):
        store.retention.delete_film(sink.film, people.admin)
    sink.finish(bare_report())
    store.review.sign(sink.film, people.reviewer)


def test_later_settings_do_not_change_what_a_film_may_be(
    store: ClinicStore, film: int, people: People
) -> None:
    store.settings.change(people.admin, extra_classes=("hairy_cell",), extra_outside=())
    with pytest.raises(RecordError, match="not one of this film's"):
        store.corrections.give_class(1, "hairy_cell", people.operator)
    later = keep_film(store, [FIELDS[0]], setup=DETECTOR_SETUP)
    assert store.films.classes(later).names == ("WBC", "hairy_cell", UNCLASSIFIED)


def test_a_film_without_a_classifier_can_be_named_by_hand(
    store: ClinicStore, people: People
) -> None:
    film = keep_film(store, [field_of(0, ("neutrophil",))], setup=DETECTOR_SETUP)
    store.corrections.give_class(store.films.cells(film)[0].id, "blast", people.operator)
    report = store.reports.corrected(film)
    assert report.totals.cells_by_class["blast"] == 1
    assert report.differential is None


def test_films_leave_when_their_time_is_over(
    store: ClinicStore, film: int, people: People, clock: Clock
) -> None:
    assert store.retention.due().films == ()
    store.settings.change(people.admin, retention_days=30, frame_retention_days=7)
    clock.move(days=6)
    assert store.retention.run(None).frames == ()
    clock.move(days=2)
    named = {each.frame_file for each in store.films.fields(film)} - {None}
    due = store.retention.run(None)
    assert (due.films, due.frames) == ((), (film,))
    assert not any(store.pictures.path(film, name).exists() for name in named if name)
    assert store.check() == []
    assert all(store.films.fields(film)[n].preview_file for n in (0, 1))
    later = keep_film(store, [FIELDS[1]], film=NewFilm("S-2", "PATIENT-4711"))
    clock.move(days=29)
    assert store.retention.run(people.admin).films == (film,)
    with pytest.raises(RecordError, match="no such film"):
        store.films.get(film)
    assert store.films.get(later).cells == 2
    assert not (store.folder / "films" / f"{film:06d}").exists()
    # A number is never given twice, and the trail remembers the film.
    assert any(each.action == "film_expired" for each in store.trail.of_film(film))
    with pytest.raises(AccessError):
        store.retention.delete_film(later, people.reviewer)
    store.retention.delete_film(later, people.admin)
    assert keep_film(store, [FIELDS[0]]) > later
    for file in Path(store.folder).rglob("store.sqlite*"):
        assert b"PATIENT-4711" not in file.read_bytes()


def test_a_clock_that_jumped_ahead_deletes_nothing(
    store: ClinicStore, film: int, people: People, clock: Clock
) -> None:
    store.settings.change(people.admin, retention_days=30)
    clock.move(days=3650)
    with pytest.raises(RecordError, match=r"went from 2026-07-25 to 2036-07-22 at once"):
        store.retention.run(None)
    assert store.films.get(film).cells == 5
    assert store.retention.run(people.admin, clock_is_right=True).films == (film,)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE films SET note = 'another'",
        "UPDATE films SET operator = NULL",
        "UPDATE films SET header = replace(header, '\"virtual\"', '\"other\"')",
        "UPDATE cells SET crop_file = NULL",
        "UPDATE cells SET attributes = NULL",
        "UPDATE cells SET class_probability = 0.99",
        "UPDATE fields SET preview_file = NULL",
        "UPDATE fields SET lost = 'apart'",
        "UPDATE fields SET frames = 7",
    ],
)
def test_a_signature_covers_everything_that_is_shown(
    store: ClinicStore, people: People, change: str
) -> None:
    film = keep_film(store, [field_of(0)], film=NewFilm("S-1", note="one"), by=people.operator)
    signature = store.review.sign(film, people.reviewer)
    assert store.review.holds(signature)
    with store.database.writing() as connection:
        connection.exec_driver_sql(change)
    assert not store.review.holds(signature)
