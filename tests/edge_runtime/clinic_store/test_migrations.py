"""A store of an older version becomes one of the newest, or stays what it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from edge_runtime.clinic.store import database, migrations
from edge_runtime.clinic.store.database import DATABASE_FILE, Database
from edge_runtime.clinic.store.store import open_store
from edge_runtime.clinic.store.tables import metadata
from edge_runtime.errors import StoreError
from tests.clinic_films import field_of, keep_film

MORE = (*migrations.STEPS, ("ALTER TABLE films ADD COLUMN ward TEXT",))


def described(engine: Engine) -> dict[str, Any]:
    """Columns and foreign keys of every table, as SQLite itself tells them."""
    made: dict[str, Any] = {}
    with engine.connect() as connection:
        names = connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        )
        for (name,) in names.all():
            columns = connection.execute(text(f"PRAGMA table_info({name})")).all()
            keys = connection.execute(text(f"PRAGMA foreign_key_list({name})")).all()
            unique = connection.execute(text(f"PRAGMA index_list({name})")).all()
            made[name] = (
                # SQLAlchemy says NOT NULL of no primary key of one number.
                [(c.name, c.type, c.notnull or c.pk > 0, c.pk) for c in columns],
                sorted((k.table, k[3], k[4], k.on_delete) for k in keys),
                sum(u.unique for u in unique),
            )
    return made


def test_the_steps_lead_to_the_tables_that_the_program_knows(tmp_path: Path) -> None:
    with open_store(tmp_path / "migrated"):
        pass
    declared = create_engine(f"sqlite:///{tmp_path / 'declared.sqlite'}")
    metadata.create_all(declared)
    migrated = create_engine(f"sqlite:///{tmp_path / 'migrated' / DATABASE_FILE}")
    found = [described(declared), described(migrated)]
    declared.dispose()
    migrated.dispose()
    assert found[0] == found[1]
    assert set(found[1]) == {table.name for table in metadata.sorted_tables}


def test_an_older_store_is_copied_then_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    with open_store(folder) as store:
        film = keep_film(store, [field_of(0)])
    monkeypatch.setattr(database, "STEPS", MORE)
    monkeypatch.setattr(migrations.migrate, "__defaults__", (MORE,))
    with open_store(folder) as store:
        assert store.films.get(film).cells == 1
        with store.database.reading() as connection:
            assert connection.execute(text("SELECT ward FROM films")).all() == [(None,)]
    copy = sqlite3.connect(folder / f"{DATABASE_FILE}.version-{len(migrations.STEPS)}")
    try:
        assert copy.execute("SELECT count(*) FROM cells").fetchone() == (1,)
        assert copy.execute("PRAGMA user_version").fetchone() == (len(migrations.STEPS),)
    finally:
        copy.close()


def test_a_step_that_fails_leaves_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    with open_store(folder):
        pass
    broken = (*migrations.STEPS, (*MORE[-1], "ALTER TABLE nowhere ADD COLUMN ward TEXT"))
    monkeypatch.setattr(database, "STEPS", broken)
    monkeypatch.setattr(migrations.migrate, "__defaults__", (broken,))
    with pytest.raises(StoreError, match="nowhere"):
        Database(folder)
    monkeypatch.undo()
    with open_store(folder) as store, store.database.reading() as connection:
        columns = [row[1] for row in connection.execute(text("PRAGMA table_info(films)"))]
    assert "ward" not in columns


def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with open_store(folder) as store, store.database.writing() as connection:
        connection.execute(text("PRAGMA user_version = 99"))
    with pytest.raises(StoreError, match=r"version 99.*update Leukoscope"), open_store(folder):
        pass
