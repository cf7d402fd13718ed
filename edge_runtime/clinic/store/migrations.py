"""How a store of any older schema version becomes one of the newest.

Owns the steps and their order. A step, once released, is never edited: a store in a clinic
may have run it years ago. Each step is one transaction with the number it reaches, so a power
cut leaves the version before or after it. Does not own the tables as they are now (see
``tables``; a test compares the two).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from edge_runtime.errors import StoreError

# Element i takes a store from version i to i + 1.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE identity (uuid TEXT NOT NULL PRIMARY KEY, created_at TEXT NOT NULL)",
        "CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value JSON NOT NULL)",
        """
        CREATE TABLE users (
            id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
            name TEXT NOT NULL,
            name_key TEXT NOT NULL UNIQUE,
            role TEXT NOT NULL,
            secret_kind TEXT NOT NULL,
            secret_hash TEXT NOT NULL,
            active BOOLEAN NOT NULL,
            failures INTEGER NOT NULL,
            locked_until TEXT,
            epoch INTEGER NOT NULL,
            created_at TEXT NOT NULL
        )
        """,
        """
        CREATE TABLE films (
            id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
            state TEXT NOT NULL,
            slide TEXT NOT NULL,
            patient TEXT,
            note TEXT,
            operator INTEGER REFERENCES users (id),
            started_at TEXT NOT NULL,
            finished_at TEXT,
            bundle TEXT NOT NULL,
            header JSON NOT NULL,
            classes JSON NOT NULL,
            template JSON,
            report_file TEXT
        )
        """,
        """
        CREATE TABLE fields (
            film INTEGER NOT NULL REFERENCES films (id) ON DELETE CASCADE,
            "index" INTEGER NOT NULL,
            name TEXT NOT NULL,
            width INTEGER,
            height INTEGER,
            tiles INTEGER NOT NULL,
            reason TEXT,
            domain_score FLOAT,
            preview_file TEXT,
            preview_scale FLOAT,
            frame_file TEXT,
            checked_by INTEGER REFERENCES users (id),
            stored_at TEXT NOT NULL,
            PRIMARY KEY (film, "index")
        )
        """,
        """
        CREATE TABLE cells (
            id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
            film INTEGER NOT NULL,
            field INTEGER NOT NULL,
            number INTEGER NOT NULL,
            x1 FLOAT NOT NULL,
            y1 FLOAT NOT NULL,
            x2 FLOAT NOT NULL,
            y2 FLOAT NOT NULL,
            score FLOAT,
            class_name TEXT,
            best_class TEXT,
            class_probability FLOAT,
            class_probabilities JSON,
            attributes JSON,
            crop_file TEXT,
            given_class TEXT,
            rejected BOOLEAN NOT NULL,
            FOREIGN KEY (film, field) REFERENCES fields (film, "index") ON DELETE CASCADE,
            UNIQUE (film, field, number)
        )
        """,
        """
        CREATE TABLE signatures (
            id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
            film INTEGER NOT NULL REFERENCES films (id) ON DELETE CASCADE,
            user INTEGER NOT NULL REFERENCES users (id),
            signed_at TEXT NOT NULL,
            comment TEXT,
            content_sha256 TEXT NOT NULL,
            withdrawn_at TEXT,
            withdrawn_by INTEGER REFERENCES users (id),
            withdrawn_why TEXT
        )
        """,
        """
        CREATE TABLE trail (
            id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
            at TEXT NOT NULL,
            user INTEGER,
            action TEXT NOT NULL,
            film INTEGER,
            cell INTEGER,
            before JSON,
            after JSON,
            undoes INTEGER UNIQUE,
            chain TEXT NOT NULL
        )
        """,
        "CREATE INDEX signatures_of_film ON signatures (film)",
        "CREATE INDEX trail_of_film ON trail (film)",
        """
        CREATE TRIGGER trail_is_not_changed BEFORE UPDATE ON trail
        BEGIN SELECT RAISE(ABORT, 'the audit trail is not changed'); END
        """,
        """
        CREATE TRIGGER trail_is_not_shortened BEFORE DELETE ON trail
        BEGIN SELECT RAISE(ABORT, 'the audit trail is not shortened'); END
        """,
    ),
    # Places on the film, and which finds count: of older films every find does.
    (
        "ALTER TABLE fields ADD COLUMN age_ms FLOAT",
        "ALTER TABLE fields ADD COLUMN fragment INTEGER",
        "ALTER TABLE fields ADD COLUMN film_x FLOAT",
        "ALTER TABLE fields ADD COLUMN film_y FLOAT",
        "ALTER TABLE fields ADD COLUMN lost TEXT",
        "ALTER TABLE fields ADD COLUMN pixel_size_um FLOAT",
        "ALTER TABLE cells ADD COLUMN film_cell INTEGER",
        "ALTER TABLE cells ADD COLUMN counts BOOLEAN NOT NULL DEFAULT 1",
        "CREATE INDEX cells_of_film_cell ON cells (film, film_cell)",
    ),
    # Refused frames in a row are one row.
    ("ALTER TABLE fields ADD COLUMN frames INTEGER NOT NULL DEFAULT 1",),
)


def schema_version(connection: Connection) -> int:
    """The version a store has; 0 when it is empty."""
    return int(connection.execute(text("PRAGMA user_version")).scalar_one())


def migrate(
    connection: Connection, where: str, steps: Sequence[Sequence[str]] = STEPS
) -> tuple[int, int]:
    """Takes a store to the newest version, one transaction a step.

    Args:
        connection: without an open transaction.
        where: the store's name, for messages.
        steps: all steps there are; the store's version says which are still to do.

    Returns:
        The versions before and after.

    Raises:
        StoreError: the store is newer than this program.
    """
    before = schema_version(connection)
    connection.rollback()
    if before > len(steps):
        raise StoreError(
            f"store {where}: schema version {before}, this program knows {len(steps)}; "
            "update Leukoscope"
        )
    for version in range(before, len(steps)):
        with connection.begin():
            # Another process may have taken the step while this one waited for the lock.
            if schema_version(connection) != version:
                continue
            for statement in steps[version]:
                connection.execute(text(statement))
            connection.execute(text(f"PRAGMA user_version = {version + 1}"))
    return before, len(steps)
