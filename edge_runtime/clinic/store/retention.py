"""What leaves the device: films past their time, full-size fields past theirs.

Owns which films those are and their removal: rows first, then files, so that a power cut
leaves files that nobody names and never a row without its picture. Does not own the limits
(see ``device_settings``) nor when it is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, select, update

from edge_runtime.clinic.store import rows
from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.device_settings import DeviceSettings
from edge_runtime.clinic.store.pictures import Pictures
from edge_runtime.clinic.store.records import stamp
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.tables import fields, films, trail
from edge_runtime.clinic.store.trail import record
from edge_runtime.clinic.store.users import User, Users
from edge_runtime.errors import RecordError

# A clock without a battery may wake up years ahead; then everything would be past its time.
_LONGEST_SILENCE = timedelta(days=60)
_CONFIRMED = "clock_confirmed"


@dataclass(frozen=True, slots=True)
class Due:
    """Films past their time.

    Attributes:
        films: to delete whole.
        frames: whose full-size fields go.
    """

    films: tuple[int, ...]
    frames: tuple[int, ...]


class Retention:
    """Removes films of one store."""

    def __init__(
        self,
        database: Database,
        pictures: Pictures,
        people: Users,
        settings: DeviceSettings,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._pictures = pictures
        self._users = people
        self._settings = settings
        self._now = now

    def due(self) -> Due:
        """What the device's settings say should go; signed or not, but never a running film."""
        limits = self._settings.current()
        with self._database.reading() as connection:
            old = self._older(connection, limits.retention_days)
            bulky = self._older(connection, limits.frame_retention_days)
            with_frames = {
                int(number)
                for (number,) in connection.execute(
                    select(fields.c.film).where(fields.c.frame_file.is_not(None)).distinct()
                )
            }
        return Due(tuple(old), tuple(x for x in bulky if x in with_frames and x not in old))

    def run(self, by: User | None, *, clock_is_right: bool = False) -> Due:
        """Removes what is due.

        Args:
            by: an admin; None when the device does so by itself, as its settings say.
            clock_is_right: somebody looked at the clock (see the first error).

        Returns:
            What was removed.

        Raises:
            RecordError: between two things that were done, or since the last, two months went by,
                or so the clock says; one that jumped would delete everything. It stays so until
                somebody confirms the clock.
            AccessError: ``by`` may not.
        """
        due = self.due()
        if clock_is_right:
            self._confirm_clock(by)
        elif due.films or due.frames:
            self._distrust_clock()
        for film in due.films:
            self._delete(film, by, "film_expired")
        for film in due.frames:
            self._drop_frames(film, by)
        if due.films or due.frames:
            self._database.forget_deleted()
        return due

    def delete_film(self, film: int, by: User) -> None:
        """Deletes a film before its time, signed or not.

        Raises:
            AccessError: ``by`` may not.
            RecordError: it runs, or is not there.
        """
        self._delete(film, by, "film_deleted")
        self._database.forget_deleted()

    def _older(self, connection: Connection, days: int | None) -> list[int]:
        if days is None:
            return []
        edge = stamp(self._now() - timedelta(days=days))
        query = select(films.c.id).where(films.c.state != "running", films.c.finished_at < edge)
        return [int(number) for (number,) in connection.execute(query.order_by(films.c.id))]

    def _distrust_clock(self) -> None:
        with self._database.reading() as connection:
            leap = _leap(connection, self._now())
        if leap is not None:
            before, after = leap
            raise RecordError(
                f"retention: the clock went from {before[:10]} to {after[:10]} at once; see "
                f"whether {self._now():%Y-%m-%d} is right, then confirm"
            )

    def _confirm_clock(self, by: User | None) -> None:
        with self._database.writing() as connection:
            self._require(connection, by)
            if _leap(connection, self._now()) is not None:
                actor = None if by is None else by.id
                record(connection, self._now(), actor, _CONFIRMED)

    def _delete(self, film: int, by: User | None, action: str) -> None:
        with self._database.writing() as connection:
            self._require(connection, by)
            found = rows.get_film(connection, film)
            if found.state == "running":
                raise RecordError(f"film {film}: still running; end it before it is deleted")
            # Fields, cells and signatures go with it.
            connection.execute(delete(films).where(films.c.id == film))
            counts = {"fields": found.fields, "cells": found.cells, "review": found.review}
            actor = None if by is None else by.id
            record(connection, self._now(), actor, action, film=film, before=counts)
        self._pictures.remove_film(film)

    def _drop_frames(self, film: int, by: User | None) -> None:
        with self._database.writing() as connection:
            self._require(connection, by)
            done = connection.execute(
                update(fields)
                .where(fields.c.film == film, fields.c.frame_file.is_not(None))
                .values(frame_file=None)
            )
            actor = None if by is None else by.id
            before = {"frames": done.rowcount}
            record(connection, self._now(), actor, "frames_expired", film=film, before=before)
            named = rows.named_files(connection, film)
        self._pictures.sweep(film, named)

    def _require(self, connection: Connection, by: User | None) -> None:
        if by is not None:
            require(self._users.in_transaction(connection, by), "delete")


def _leap(connection: Connection, now: datetime) -> tuple[str, str] | None:
    """The first long step forward of the clock that nobody has confirmed: from when to when."""
    confirmed = connection.execute(
        select(func.max(trail.c.id)).where(trail.c.action == _CONFIRMED)
    ).scalar()
    last: str | None = None
    query = select(trail.c.at).where(trail.c.id >= (confirmed or 0)).order_by(trail.c.id)
    for at in (*connection.execute(query).scalars(), stamp(now)):
        if last is not None:
            silence = datetime.fromisoformat(at) - datetime.fromisoformat(last)
            if silence > _LONGEST_SILENCE:
                return last, at
        last = at
    return None
