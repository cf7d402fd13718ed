"""A disk that refuses the end of a film, and a clock that is moved while one runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore, open_store
from edge_runtime.errors import RecordError, StoreError
from edge_runtime.film_report import FilmReport
from tests.clinic_films import SETUP, Clock, People, bare_report, field_of, keep_film


def refuse_writing(store: ClinicStore, refused: bool) -> None:
    with store.database.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if refused else 'OFF'}")


def begun(store: ClinicStore) -> StoreSink:
    sink = StoreSink(store, NewFilm("S-1"), SETUP)
    sink.start()
    sink.append(field_of(0))
    return sink


def moved_of(store: ClinicStore, film: int) -> list[object]:
    return [
        each.after.get("clock_moved_s")
        for each in store.trail.of_film(film)
        if each.action == "film_finished" and each.after is not None
    ]


def lasting(seconds: float, store: ClinicStore) -> FilmReport:
    return bare_report(SETUP, store.now()).model_copy(update={"duration_s": seconds})


def test_a_film_whose_end_cannot_be_written_ends_before_the_next(store: ClinicStore) -> None:
    sink = begun(store)
    refuse_writing(store, True)
    with pytest.raises(StoreError, match="readonly"):
        sink.finish(lasting(1, store))
    with pytest.raises(StoreError):
        store.films.end_left_over()
    refuse_writing(store, False)
    assert store.films.get(sink.film).state == "running"
    other = begun(store)
    ended = store.films.get(sink.film)
    assert (ended.state, ended.fields) == ("complete", 1)
    assert store.films.get(other.film).state == "running"
    assert store.films.end_left_over() == []


def test_it_ends_when_the_store_closes_too(tmp_path: Path, clock: Clock) -> None:
    with open_store(tmp_path / "store", now=clock) as store:
        sink = begun(store)
        refuse_writing(store, True)
        with pytest.raises(StoreError):
            sink.finish(lasting(1, store))
        refuse_writing(store, False)
    with open_store(tmp_path / "store", now=clock) as store:
        assert store.recovered == ()
        assert store.films.get(sink.film).state == "complete"


@pytest.mark.parametrize("hours", [-72, 5])
def test_the_trail_tells_that_the_clock_was_moved(
    store: ClinicStore, clock: Clock, hours: int
) -> None:
    sink = begun(store)
    clock.move(seconds=10, hours=hours)
    sink.finish(lasting(10, store))
    assert moved_of(store, sink.film) == [hours * 3600]


def test_a_long_film_is_no_moved_clock(store: ClinicStore, clock: Clock) -> None:
    sink = begun(store)
    clock.move(hours=5, seconds=8)
    sink.finish(lasting(5 * 3600, store))
    assert moved_of(store, sink.film) == [None]


def test_a_clock_that_leaps_during_a_film_deletes_nothing(
    store: ClinicStore, people: People, clock: Clock
) -> None:
    store.settings.change(people.admin, retention_days=30)
    old = keep_film(store, [field_of(0)])
    sink = begun(store)
    clock.move(days=400)
    sink.finish(lasting(60, store))
    # The store was used a moment ago, by this clock.
    with pytest.raises(RecordError, match=r"went from 2026-07-25 to 2027-08-29"):
        store.retention.run(None)
    clock.move(days=-400)
    assert store.retention.run(None).films == ()
    clock.move(days=31)
    with pytest.raises(RecordError):
        store.retention.run(None)
    assert store.films.get(old).cells == 1
    assert store.retention.run(people.admin, clock_is_right=True).films == (old,)
    # Once confirmed, the device cleans up by itself again.
    later = keep_film(store, [field_of(1)])
    clock.move(days=31)
    assert store.retention.run(None).films == (later,)
