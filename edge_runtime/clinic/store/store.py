"""The clinic's store as a whole: a folder that is opened, used and closed.

Owns putting its parts together, and telling whether another process uses it. Does not own what
any part does.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from sqlalchemy import insert, select

from edge_runtime.clinic.atomic_file import prepare_folder, store_error
from edge_runtime.clinic.store import rows
from edge_runtime.clinic.store.corrected import Reports
from edge_runtime.clinic.store.corrections import Corrections
from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.device_settings import DeviceSettings
from edge_runtime.clinic.store.films import Films
from edge_runtime.clinic.store.pictures import Pictures, free_bytes
from edge_runtime.clinic.store.records import stamp
from edge_runtime.clinic.store.retention import Retention
from edge_runtime.clinic.store.review import Review
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.tables import films, identity
from edge_runtime.clinic.store.trail import Trail, record
from edge_runtime.clinic.store.users import User, Users
from edge_runtime.device.files import DurableFiles
from edge_runtime.errors import StoreError

_LOG = logging.getLogger(__name__)

_LOCK_FILE = "lock"
_FLAG = "--store"


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class ClinicStore:
    """An open store; its parts may be used from any thread.

    Attributes:
        folder: where it is.
        uuid: sets it apart from every other store.
        recovered: films that a power cut had left running, ended now.
    """

    folder: Path
    uuid: str
    recovered: tuple[int, ...]
    database: Database
    pictures: Pictures
    users: Users
    settings: DeviceSettings
    films: Films
    corrections: Corrections
    review: Review
    reports: Reports
    retention: Retention
    trail: Trail
    now: Callable[[], datetime]

    def require_room(self) -> None:
        """The free-disk gate before a film, as the device's settings have it.

        Raises:
            StoreError: less is free.
        """
        self.pictures.require_room(self.settings.current().minimum_free_mb * 1_000_000)

    def note_export(self, film: int, by: User | None, what: str) -> None:
        """Writes into the trail that a film left the device, and in which form.

        Raises:
            AccessError: ``by`` may not export any more.
        """
        with self.database.writing() as connection:
            if by is not None:
                require(self.users.in_transaction(connection, by), "export")
            actor = None if by is None else by.id
            record(connection, self.now(), actor, "exported", film=film, after={"form": what})

    def check(self) -> list[str]:
        """Looks for damage: the database, the trail's chain, every picture's content.

        Returns:
            One line each; empty when the store is sound.
        """
        found = [*self.database.check(), *self.trail.check()]
        with self.database.reading() as connection:
            named = {
                int(number): rows.named_files(connection, number)
                for (number,) in connection.execute(select(films.c.id))
            }
        for film, names in named.items():
            for name in sorted(names):
                try:
                    self.pictures.read(film, name)
                except StoreError as error:
                    found.append(f"film {film}: {error}")
        return found


@contextlib.contextmanager
def open_store(
    folder: Path,
    *,
    now: Callable[[], datetime] = _utc_now,
    files: DurableFiles | None = None,
    free: Callable[[Path], int] = free_bytes,
    new_uuid: Callable[[], str] | None = None,
) -> Iterator[ClinicStore]:
    """Opens a store, making it when the folder is empty or missing.

    The first process that opens it ends films that a power cut left running.

    Args:
        folder: of the store; only its owner may look into a new one.
        now: the clock.
        files: what changes picture files.
        free: tells the free bytes of a disk.
        new_uuid: names a new store.

    Raises:
        StoreError: it cannot be made, opened or read, or is of a newer version.
    """
    # Hashes of PINs and numbers of patients are nobody else's business.
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise store_error(folder, error, flag=_FLAG) from error
    prepare_folder(folder, flag=_FLAG)
    with contextlib.ExitStack() as closing:
        lock = closing.enter_context(_presence(folder / _LOCK_FILE))
        database = Database(folder)
        closing.callback(database.close)
        pictures = Pictures(folder, files, free)
        people = Users(database, now)
        settings = DeviceSettings(database, people, now)
        kept = Films(database, pictures, people, now)
        uuid = _identity(database, now, new_uuid)
        recovered = tuple(kept.recover()) if lock.alone else ()
        lock.share()
        closing.callback(_end_left_over, kept)
        yield ClinicStore(
            folder=folder,
            uuid=uuid,
            recovered=recovered,
            database=database,
            pictures=pictures,
            users=people,
            settings=settings,
            films=kept,
            corrections=Corrections(database, pictures, people, now),
            review=Review(database, people, now),
            reports=Reports(database, pictures),
            retention=Retention(database, pictures, people, settings, now),
            trail=Trail(database),
            now=now,
        )


def _end_left_over(kept: Films) -> None:
    try:
        kept.end_left_over()
    except StoreError as error:
        # The next start ends them without their report's head.
        _LOG.warning("a film's end could not be written: %s", error)


@dataclass(frozen=True, slots=True)
class _Presence:
    """Shows other processes that the store is in use.

    Attributes:
        alone: no other process uses it, and none gets in before ``share``.
    """

    handle: int
    alone: bool

    def share(self) -> None:
        """Lets others in."""
        fcntl.flock(self.handle, fcntl.LOCK_SH)


@contextlib.contextmanager
def _presence(path: Path) -> Iterator[_Presence]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise store_error(path, error, flag=_FLAG) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        yield _Presence(handle, alone)
    finally:
        os.close(handle)


def _identity(
    database: Database, now: Callable[[], datetime], new_uuid: Callable[[], str] | None
) -> str:
    with database.writing() as connection:
        found = connection.execute(select(identity.c.uuid)).scalar()
        if found is None:
            if new_uuid is None:
                from uuid import uuid4

                found = str(uuid4())
            else:
                found = new_uuid()
            connection.execute(insert(identity).values(uuid=found, created_at=stamp(now())))
    return str(found)
