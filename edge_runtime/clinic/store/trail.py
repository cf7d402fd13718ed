"""The audit trail: who changed what, when, in an order that shows gaps.

Owns entries and their chain. Every entry is written in the transaction of the change that it
tells of. Does not own what a change means. The chain shows an entry that was altered or taken
out from between others; that the newest were cut off shows only against a copy elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.records import Change, stamp
from edge_runtime.clinic.store.tables import trail, users

_AT_ONCE = 1000
_SIGNED = ("at", "user", "action", "film", "cell", "before", "after", "undoes")


def record(
    connection: Connection,
    at: datetime,
    user: int | None,
    action: str,
    *,
    film: int | None = None,
    cell: int | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    undoes: int | None = None,
) -> int:
    """Adds an entry within the caller's transaction; gives its number."""
    entry = {
        "at": stamp(at),
        "user": user,
        "action": action,
        "film": film,
        "cell": cell,
        "before": None if before is None else dict(before),
        "after": None if after is None else dict(after),
        "undoes": undoes,
    }
    last = connection.execute(select(trail.c.chain).order_by(trail.c.id.desc()).limit(1)).scalar()
    done = connection.execute(insert(trail).values(**entry, chain=_link(last or "", entry)))
    (number,) = done.inserted_primary_key or (0,)
    return int(number)


class Trail:
    """Reads the trail."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_film(self, film: int) -> list[Change]:
        """Every entry of a film, oldest first."""
        with self._database.reading() as connection:
            return changes(connection, film)

    def newest(self, count: int = 100) -> list[Change]:
        """The newest entries of all, newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(_with_names().order_by(trail.c.id.desc()).limit(count))
            return _as_changes(rows.all(), _undone(connection))

    def check(self) -> list[str]:
        """What is wrong with the chain, one line each; empty when it is whole."""
        wrong: list[str] = []
        chain, number = "", 0
        with self._database.reading() as connection:
            for row in _all(connection):
                number += 1
                if row.id != number:
                    wrong.append(f"audit trail: entry {number} is missing")
                    number = row.id
                entry = {name: getattr(row, name) for name in _SIGNED}
                if row.chain != _link(chain, entry):
                    wrong.append(f"audit trail: entry {row.id} or the one before was altered")
                chain = row.chain
        return wrong


def changes(connection: Connection, film: int) -> list[Change]:
    """Every entry of a film, oldest first."""
    rows = connection.execute(_with_names().where(trail.c.film == film).order_by(trail.c.id))
    return _as_changes(rows.all(), _undone(connection, film))


def _all(connection: Connection) -> Iterator[Row[Any]]:
    last = 0
    while True:
        rows = connection.execute(
            select(trail).where(trail.c.id > last).order_by(trail.c.id).limit(_AT_ONCE)
        ).all()
        yield from rows
        if len(rows) < _AT_ONCE:
            return
        last = rows[-1].id


def _with_names() -> Any:
    return select(trail, users.c.name.label("user_name")).outerjoin(
        users, trail.c.user == users.c.id
    )


def _undone(connection: Connection, film: int | None = None) -> set[int]:
    query = select(trail.c.undoes).where(trail.c.undoes.is_not(None))
    if film is not None:
        query = query.where(trail.c.film == film)
    return {int(number) for (number,) in connection.execute(query)}


def _as_changes(rows: Sequence[Row[Any]], undone: set[int]) -> list[Change]:
    return [
        Change(
            id=row.id,
            at=datetime.fromisoformat(row.at),
            user=row.user_name,
            action=row.action,
            film=row.film,
            cell=row.cell,
            before=row.before,
            after=row.after,
            undoes=row.undoes,
            undone=row.id in undone,
        )
        for row in rows
    ]


def _link(before: str, entry: Mapping[str, Any]) -> str:
    text = json.dumps(entry, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
