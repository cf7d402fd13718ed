"""What every test file shares: where the real data is, and when a marked test is skipped.

Owns fixtures of the whole suite only; a fixture used by one folder lives in that folder.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge_runtime.engines.tensorrt_api import absent_reason, flavour_named

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test files run at once: torch in each of them must not take every core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def _shared_data_folder() -> Path:
    named = os.environ.get("LEUKOSCOPE_DATA")
    return Path(named) if named else REPOSITORY.parent / "shared" / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips, with its reason, a marked test whose needs are not met here."""
    if item.get_closest_marker("realdata") and not _shared_data_folder().is_dir():
        pytest.skip(f"no shared data in {_shared_data_folder()}; set LEUKOSCOPE_DATA")
    if item.get_closest_marker("engines"):
        flavour = flavour_named("tensorrt-rtx")
        reason = absent_reason(flavour)
        if reason is not None:
            pytest.skip(reason)
    if item.get_closest_marker("train"):
        absent = [name for name in ("torch", "ultralytics") if find_spec(name) is None]
        if absent:
            pytest.skip(f"not installed here: {', '.join(absent)}; pip install 'leukoscope[train]'")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared data folder (``wbc-domains`` and others below it); skips when absent."""
    folder = _shared_data_folder()
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}; set LEUKOSCOPE_DATA")
    return folder
