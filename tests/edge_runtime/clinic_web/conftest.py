"""A page over a real store, and people who use it through a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="leukoscope[clinic]")
pytest.importorskip("sqlalchemy", reason="leukoscope[clinic]")

from starlette.testclient import TestClient

from edge_runtime.clinic.store import users
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.store import ClinicStore, open_store
from edge_runtime.clinic.web.app import build_app
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.settings import Settings
from edge_runtime.types import FieldResult, SkippedFrame
from tests.clinic_browser import Browser, Seconds
from tests.clinic_films import PASSWORD, PIN, Clock, Disk, People, field_of, hire, keep_film


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_MEMORY_KIB", 8)
    monkeypatch.setattr(users, "_PASSES", 1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[ClinicStore]:
    with open_store(tmp_path / "store", now=clock, free=Disk()) as opened:
        yield opened


@pytest.fixture
def people(store: ClinicStore) -> People:
    return hire(store)


@pytest.fixture
def clinic(store: ClinicStore, seconds: Seconds) -> Clinic:
    return Clinic(store, Settings(), hosts=frozenset({"testserver"}), monotonic=seconds)


@pytest.fixture
def anybody(clinic: Clinic) -> Iterator[TestClient]:
    """A browser in which nobody is signed in."""
    with TestClient(build_app(clinic), follow_redirects=False) as client:
        yield client


@pytest.fixture
def sign_in(clinic: Clinic, people: People) -> Iterator[Callable[[str], Browser]]:
    """Signs in one of the people, each in a browser of its own, over one application."""
    app = build_app(clinic)
    secrets = {"admin": PASSWORD, "reviewer": PASSWORD, "operator": PIN}
    with TestClient(app):
        yield lambda role: Browser(
            TestClient(app, follow_redirects=False), getattr(people, role).name, secrets[role]
        )


@pytest.fixture
def film(store: ClinicStore, people: People) -> int:
    """Three fields with six cells, and one that could not be looked at."""
    fields: list[FieldResult | SkippedFrame] = [
        field_of(0, ("neutrophil", "lymphocyte", "erythroblast")),
        field_of(1, ("eosinophil",)),
        SkippedFrame(2, "field_2", "out of focus"),
        field_of(3, ("neutrophil", "unclassified")),
    ]
    label = NewFilm("S-<7>", "P-1042", "a 'note' & more")
    return keep_film(store, fields, film=label, by=people.operator)
