"""A session over a stage that tests move, with the toy bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="leukoscope[clinic]")
pytest.importorskip("argon2", reason="leukoscope[clinic]")
pytest.importorskip("onnx", reason="the toy model is made with onnx; leukoscope[export]")

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.clinic.live.session import LiveSession, Pace
from edge_runtime.clinic.store import users
from edge_runtime.clinic.store.store import ClinicStore, open_store
from edge_runtime.film_run import LoadedBundle, load_bundle
from edge_runtime.settings import Settings
from tests.clinic_films import Disk, People, hire
from tests.painted_stage import Stage
from tests.toy_heads import classifier_part, write_toy_bundle

SETTINGS = Settings(threads=1)
QUICK = Pace(preview_fps=30, looks_s=0.5, close_s=0.6, retry_s=0.1, poll_s=0.02)


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_MEMORY_KIB", 8)
    monkeypatch.setattr(users, "_PASSES", 1)


@pytest.fixture(scope="session")
def naming_bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy detector with a classifier, so that there is a differential; read it only."""
    return write_toy_bundle(tmp_path_factory.mktemp("naming"), classifier=classifier_part())


@pytest.fixture(scope="session")
def naming_bundle(naming_bundle_folder: Path) -> Bundle:
    """The same, verified."""
    return open_bundle(naming_bundle_folder)


@pytest.fixture(scope="session")
def loaded(naming_bundle: Bundle) -> Iterator[LoadedBundle]:
    with load_bundle(naming_bundle, SETTINGS) as opened:
        yield opened


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def store(tmp_path: Path, disk: Disk) -> Iterator[ClinicStore]:
    with open_store(tmp_path / "store", free=disk) as opened:
        yield opened


@pytest.fixture
def people(store: ClinicStore) -> People:
    return hire(store)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def session(store: ClinicStore, loaded: LoadedBundle, stage: Stage) -> Iterator[LiveSession]:
    with LiveSession(
        store, loaded, SETTINGS, source="stage", pace=QUICK, open_source=stage.open_source
    ) as opened:
        yield opened
