"""The store's SQLite file: how it is opened, read and written.

Owns durability (write-ahead log, full sync), transactions, the copy before a migration, and
the wording of what goes wrong there. Does not own any table's meaning.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DatabaseError, IntegrityError

from edge_runtime.clinic.atomic_file import sync_folder
from edge_runtime.clinic.store.migrations import STEPS, migrate, schema_version
from edge_runtime.errors import StoreError

DATABASE_FILE = "store.sqlite"

# Longer than any write of ours; only a program that hangs holds the lock for so long.
_WAIT_FOR_LOCK_S = 20
_REMEDIES = (
    ("disk is full", "free some space, or let retention remove old films"),
    ("locked", "another program holds it; close that one"),
    ("readonly", "its files must belong to the user who runs Leukoscope"),
    ("unable to open", "its files must belong to the user who runs Leukoscope"),
    ("malformed", "the file is damaged; restore it from a copy"),
    ("not a database", "the file is damaged; restore it from a copy"),
)


class Database:
    """One open store file; may be used from any thread. Close it after use.

    Args:
        folder: of the store; must exist.

    Raises:
        StoreError: it cannot be opened, is damaged, or is of a newer version.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DATABASE_FILE
        fresh = not self._path.exists()
        self._engine = create_engine(f"sqlite:///{self._path}")
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        self._writing = self._engine.execution_options(leukoscope_begin="IMMEDIATE")
        try:
            with self._told(), self._writing.connect() as connection:
                version = schema_version(connection)
                connection.rollback()
                if 0 < version < len(STEPS):
                    self._keep_copy(version)
                migrate(connection, str(folder))
        except BaseException:
            self.close()
            raise
        if fresh:
            # SQLite flushes the file; its name in the folder is ours to flush.
            sync_folder(folder)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of the store; writers are not held up.

        Raises:
            StoreError: it cannot be read.
        """
        with self._told(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: on the disk when the block ended well, else as if it never was.

        Raises:
            StoreError: it cannot be written.
        """
        with self._told(), self._writing.begin() as connection:
            yield connection

    def forget_deleted(self) -> None:
        """Empties the log, so that deleted rows are in none of the store's files."""
        with self._told(), self._engine.connect() as connection:
            connection.connection.driver_connection.execute(  # type: ignore[union-attr]
                "PRAGMA wal_checkpoint(TRUNCATE)"
            )

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file, one line each; empty when it is sound."""
        with self.reading() as connection:
            found = [str(row[0]) for row in connection.execute(text("PRAGMA integrity_check"))]
            found += [
                f"row {row[1]} of {row[0]} refers to no row of {row[2]}"
                for row in connection.execute(text("PRAGMA foreign_key_check"))
            ]
        return [line for line in found if line != "ok"]

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    def _keep_copy(self, version: int) -> None:
        copy = self._path.with_name(f"{self._path.name}.version-{version}")
        part = copy.with_name(f".{copy.name}.part")
        part.unlink(missing_ok=True)
        try:
            with (
                closing(sqlite3.connect(self._path)) as source,
                closing(sqlite3.connect(part)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise StoreError(f"store {self._path}: no copy before the update: {error}") from error
        part.replace(copy)
        sync_folder(copy.parent)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            # A rule of the schema was broken: a fault of the program, not of the place.
            raise
        except DatabaseError as error:
            reason = str(error.orig)
            remedy = next((what for word, what in _REMEDIES if word in reason), "check the disk")
            raise StoreError(f"store {self._path}: {reason}; {remedy}") from error


def _prepare(connection: Any, record: object) -> None:
    # Transactions are begun by ``_begin``; the driver's own begin too late, and deferred.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {1000 * _WAIT_FOR_LOCK_S}",
        "journal_mode = WAL",
        # A commit is on the disk before it returns, not only safe from corruption.
        "synchronous = FULL",
        "foreign_keys = ON",
        # What is deleted is overwritten: a patient's number must not linger in a free page.
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A writer that reads first and only then asks for the lock could find itself outrun.
    kind = connection.get_execution_options().get("leukoscope_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")
