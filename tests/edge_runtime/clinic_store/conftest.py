"""An open store with a clock and a disk that tests move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="leukoscope[clinic]")
pytest.importorskip("argon2", reason="leukoscope[clinic]")

from edge_runtime.clinic.store import users
from edge_runtime.clinic.store.store import ClinicStore, open_store
from tests.clinic_films import Clock, Disk, People, hire


@pytest.fixture(autouse=True)
def cheap_hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not about hashes need not wait for them."""
    if "real_hashes" not in request.fixturenames:
        monkeypatch.setattr(users, "_MEMORY_KIB", 8)
        monkeypatch.setattr(users, "_PASSES", 1)


@pytest.fixture
def real_hashes() -> None:
    """Asks for hashes as a clinic has them."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def store(tmp_path: Path, clock: Clock, disk: Disk) -> Iterator[ClinicStore]:
    with open_store(tmp_path / "store", now=clock, free=disk) as opened:
        yield opened


@pytest.fixture
def people(store: ClinicStore) -> People:
    return hire(store)
