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
            RecordError: the store was not used for two months, or so the clock says; a clock
                that jumped would delete everything.
            AccessError: ``by`` may not.
        """
        due = self.due()
        if (due.films or due.frames) and not clock_is_right:
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
            last = connection.execute(select(func.max(trail.c.at))).scalar()
        if last is None or self._now() - datetime.fromisoformat(last) <= _LONGEST_SILENCE:
            return
        raise RecordError(
            f"retention: the clock says {self._now():%Y-%m-%d}, but the store was last used on "
            f"{last[:10]}; see whether the clock is right, then confirm"
        )

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
