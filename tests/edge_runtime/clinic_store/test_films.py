"""Films in the store: what comes in comes out, and reports made of it are those of the run."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text

from edge_runtime.bundle import open_bundle
from edge_runtime.cameras import Camera
from edge_runtime.clinic.store.database import DATABASE_FILE
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore, open_store
from edge_runtime.errors import AccessError, RecordError, StoreError
from edge_runtime.film_report import FilmReport
from edge_runtime.film_run import film_runner, film_setup, load_bundle
from edge_runtime.settings import Settings
from edge_runtime.types import Frame, SkippedFrame
from tests.clinic_films import (
    SETUP,
    Clock,
    Disk,
    People,
    bare_report,
    field_of,
    keep_film,
)
from tests.support import paint_field
from tests.toy_heads import classifier_part, head_part, write_toy_bundle

# Enough cells for votes and sentences.
KINDS = ["violet"] * 16 + ["navy"] * 6 + ["plum"] * 2


class Frames:
    """A camera of painted fields, one of which cannot be read."""

    frame_count = None

    def __iter__(self) -> Any:
        for index in range(len(KINDS) // 2):
            stained: dict[str, list[tuple[float, float, float]]] = {}
            for place, kind in enumerate(KINDS[2 * index : 2 * index + 2]):
                stained.setdefault(kind, []).append((45.0 + 90 * place, 50.0, 26.0 + 22 * place))
            yield Frame(index, 0, paint_field(180, 130, stained=stained, seed=index), f"f{index}")
        yield SkippedFrame(len(KINDS) // 2, "broken \udcff.jpg", "truncated")


def examine(store: ClinicStore, bundle: Path) -> tuple[int, FilmReport]:
    settings = Settings(threads=1, save_frames=True)
    with load_bundle(open_bundle(bundle), settings) as loaded:
        setup = film_setup(loaded, source="painted", settings=settings)
        sink = StoreSink(store, NewFilm("S-1"), setup)
        camera = cast(Camera, Frames())
        runner = film_runner(loaded, camera, source="painted", settings=settings, sinks=[sink])
        report = runner.run()
        return sink.film, report


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    pytest.importorskip("onnx", reason="leukoscope[export]")
    return write_toy_bundle(tmp_path / "bundle", head=head_part(), classifier=classifier_part())


def shown(report: FilmReport) -> dict[str, Any]:
    return report.model_dump(
        mode="json",
        include={"fields", "cells", "totals", "differential", "morphology", "description"},
    )


def test_the_store_gives_back_the_report_of_the_run(store: ClinicStore, bundle: Path) -> None:
    """As it was written; made of rows; and made of rows after a power cut."""
    number, report = examine(store, bundle)
    (film,) = store.films.search()
    assert (film.id, film.fields, film.skipped, film.cells) == (number, 12, 1, 24)
    assert report.differential is not None
    assert report.description is not None
    kept = store.reports.examined(number)
    assert kept.fields[-1].name == "broken \ufffd.jpg"
    assert kept.cells == report.cells
    assert kept.model_dump(exclude={"fields"}) == report.model_dump(exclude={"fields"})
    # Counts, intervals, votes and sentences made of rows are those that the run made.
    assert shown(store.reports.corrected(number)) == shown(kept)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE films SET state = 'running', report_file = NULL"))
    assert store.films.recover() == [number]
    assert store.films.get(number).state == "interrupted"
    assert shown(store.reports.examined(number)) == shown(kept)


def test_pictures_are_those_of_the_run_and_named_by_their_content(store: ClinicStore) -> None:
    result = field_of(3, ("neutrophil", "lymphocyte"))
    film = keep_film(store, [result])
    (kept,) = store.films.fields(film)
    assert store.pictures.read(film, kept.preview_file or "") == result.preview_jpeg
    assert store.pictures.read(film, kept.frame_file or "") == result.frame_jpeg
    crops = [store.pictures.read(film, cell.crop_file or "") for cell in store.films.cells(film)]
    assert crops == [cell.crop_jpeg for cell in result.cells]
    path = store.pictures.path(film, kept.preview_file or "")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(StoreError, match="altered or damaged"):
        store.pictures.read(film, path.name)
    assert any("altered" in line for line in store.check())


def test_a_name_that_leads_out_of_the_store_is_refused(store: ClinicStore) -> None:
    film = keep_film(store, [field_of(0)])
    for name in ("../../store.sqlite", "/etc/passwd", "a" * 64, "A" * 64 + ".jpg", ""):
        with pytest.raises(ValueError, match="not a name of the store"):
            store.pictures.path(film, name)


def test_full_size_fields_are_left_out_where_the_clinic_wants_none(
    store: ClinicStore, people: People
) -> None:
    store.settings.change(people.admin, keep_frames=False)
    film = keep_film(store, [field_of(0)])
    assert store.films.fields(film)[0].frame_file is None


def test_every_commit_waits_for_the_disk(store: ClinicStore) -> None:
    with store.database.writing() as connection:
        values = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
    }


def test_writers_take_turns_and_a_failed_write_leaves_nothing(store: ClinicStore) -> None:
    film = keep_film(store, [field_of(0)])

    def fail() -> None:
        with store.database.writing() as connection:
            connection.execute(text("DELETE FROM films"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.films.get(film).cells == 1
    other = sqlite3.connect(store.database.path, timeout=0)
    try:
        with (
            store.database.writing(),
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
    finally:
        other.close()


def test_search_finds_by_every_word_and_pages(store: ClinicStore, clock: Clock) -> None:
    numbers = [
        keep_film(store, [field_of(n)], film=NewFilm(slide, patient, note))
        for n, (slide, patient, note) in enumerate(
            [("S-1", "P100", None), ("S-2", "P200", "pale"), ("50%", None, "pale rim")]
        )
    ]
    assert [each.id for each in store.films.search()] == numbers[::-1]
    assert [each.id for each in store.films.search("pale rim")] == [numbers[2]]
    assert [each.id for each in store.films.search("p200")] == [numbers[1]]
    # A percent sign is no pattern.
    assert [each.id for each in store.films.search("%")] == [numbers[2]]
    assert [each.id for each in store.films.search(str(numbers[0]))][-1] == numbers[0]
    assert [each.id for each in store.films.search(before=numbers[2], limit=1)] == [numbers[1]]
    assert store.films.search(state="running") == []
    assert store.films.search(review="final") == []
    assert len(store.films.search(review="preliminary")) == 3


def test_a_film_needs_a_slide_and_somebody_who_may_examine(
    store: ClinicStore, people: People
) -> None:
    with pytest.raises(RecordError, match="name its slide"):
        keep_film(store, [], film=NewFilm("  "))
    with pytest.raises(RecordError, match="at most 200"):
        keep_film(store, [], film=NewFilm("s" * 201))
    with pytest.raises(AccessError, match="may not examine"):
        keep_film(store, [], by=people.admin)
    film = keep_film(store, [], by=people.operator)
    assert store.films.get(film).operator == "Otto Operator"
    changed = store.films.relabel(film, NewFilm(" S  9 ", "P7"), people.operator)
    assert (changed.slide, changed.patient) == ("S 9", "P7")
    # The trail outlives the film and must not name anybody.
    assert "P7" not in str(store.trail.of_film(film))


def test_a_full_disk_stops_a_film_and_keeps_what_it_has(store: ClinicStore, disk: Disk) -> None:
    disk.bytes = 499_000_000
    with pytest.raises(StoreError, match="499 MB free, 500 MB needed"):
        keep_film(store, [field_of(0)])
    disk.bytes = 500_000_000
    sink = StoreSink(store, NewFilm("S"), SETUP)
    sink.start()
    sink.append(field_of(0))
    disk.bytes = 249_000_000
    with pytest.raises(StoreError, match="free some space"):
        sink.append(field_of(1))
    sink.finish(bare_report())
    assert store.films.get(sink.film).cells == 1


def test_a_report_that_finds_no_room_ends_the_film_without_it(
    store: ClinicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = StoreSink(store, NewFilm("S"), SETUP)
    sink.start()
    sink.append(field_of(0, ("lymphocyte",)))

    def full(*args: object) -> list[str]:
        raise StoreError("no room")

    monkeypatch.setattr(store.pictures, "keep", full)
    with pytest.raises(StoreError, match="no room"):
        sink.finish(bare_report())
    assert store.films.get(sink.film).state == "complete"
    assert store.reports.examined(sink.film).totals.cells_by_class["lymphocyte"] == 1


def test_only_the_first_process_ends_what_was_left_running(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with open_store(folder) as first:
        sink = StoreSink(first, NewFilm("S"), SETUP)
        sink.start()
        sink.append(field_of(0))
        with open_store(folder) as second:
            assert second.recovered == ()
            assert second.films.get(sink.film).state == "running"
        sink.append(field_of(1))
        # Left without finish, as by a power cut.
    stray = folder / "films" / f"{sink.film:06d}" / ("0" * 64 + ".jpg")
    stray.write_bytes(b"of no row")
    (folder / "films" / "000077").mkdir()
    with open_store(folder) as third:
        assert third.recovered == (sink.film,)
        assert third.films.get(sink.film).cells == 2
        assert not stray.exists()
        assert third.check() == []
    assert not (folder / "films" / "000077").exists()


def test_a_damaged_or_foreign_file_is_told_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / DATABASE_FILE).write_bytes(b"no database at all" * 300)
    with pytest.raises(StoreError, match="restore it from a copy") as refusal, open_store(folder):
        pass
    assert "\n" not in str(refusal.value)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StoreError, match="file is in the way"), open_store(tmp_path / "file"):
        pass


def test_only_the_owner_may_look_into_a_store(store: ClinicStore) -> None:
    assert store.folder.stat().st_mode & 0o077 == 0


def test_refused_frames_in_a_row_are_one_row_and_all_are_counted(store: ClinicStore) -> None:
    many = SkippedFrame(1, "f1", "out of focus (9 px): turn", "out of focus", 4000)
    number = keep_film(
        store, [field_of(0), many, SkippedFrame(4001, "torn", "torn"), field_of(5000)]
    )
    assert store.films.get(number).skipped == 4001
    assert [each.frames for each in store.films.fields(number)] == [1, 4000, 1, 1]
    report = store.reports.corrected(number)
    assert (report.totals.fields, report.totals.fields_skipped) == (2, 4001)
    assert [each.frames for each in report.fields] == [1, 4000, 1, 1]


def test_a_field_that_shows_nothing_new_has_no_pictures(store: ClinicStore) -> None:
    first = field_of(0)
    cells = tuple(replace(each, crop_jpeg=b"") for each in field_of(1).cells)
    again = replace(field_of(1), cells=cells, preview_jpeg=b"", frame_jpeg=None)
    film = keep_film(store, [first, again])
    kept = store.films.fields(film)
    assert [each.shown for each in kept] == [True, False]
    assert (kept[1].preview_file, kept[1].frame_file, kept[1].reason) == (None, None, None)
    assert [cell.crop_file for cell in store.films.cells(film) if cell.field == 1] == [None] * len(
        cells
    )
    assert store.films.get(film).fields == 2
    assert store.check() == []
