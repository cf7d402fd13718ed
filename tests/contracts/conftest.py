"""What every suite of this folder needs: the toy detector, and the backends that work here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from edge_runtime.backends import BACKENDS, BackendRow, InferenceBackend, open_backend
from tests.contracts.live_sources import LiveSource, plug_in_fake
from tests.fake_cameras import Hardware
from tests.support import toy_detector

# TensorRT's backend on a runtime that writes its calls down: what a GPU-less machine can test.
RECORDING = BackendRow("tensorrt", "tests.recording_tensorrt", "tensorrt", None, runs_engines=True)

OpenRow = Callable[[BackendRow, bytes, int], InferenceBackend]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One run of a test for each backend that works here, and for the recording one.

    Those that do not are told once, by ``test_a_backend_works_here_or_says_why``.
    """
    if "row" in metafunc.fixturenames:
        here = [row for row in BACKENDS if import_module(row.module).unsupported_reason() is None]
        marks = [pytest.param(row, id=row.name) for row in here]
        marks.append(pytest.param(RECORDING, id="tensorrt-recording"))
        metafunc.parametrize("row", marks)


@pytest.fixture(scope="session")
def toy_model() -> bytes:
    """A small detector of purple discs, as ONNX bytes."""
    pytest.importorskip("onnx", reason="the toy model is made with onnx; leukoscope[export]")
    return toy_detector()


@pytest.fixture
def open_row(tmp_path: Path) -> OpenRow:
    """Opens a row's backend on ONNX bytes; engines are built first, where a row runs those."""

    def opened(row: BackendRow, model: bytes, threads: int) -> InferenceBackend:
        if row.runs_engines and row != RECORDING:
            from edge_runtime.engines.cache import EngineCache
            from edge_runtime.engines.for_bundle import build_engine, engine_target
            from edge_runtime.engines.tensorrt_api import flavour_named

            target = engine_target(flavour_named(row.name))
            build_engine(EngineCache(tmp_path), target, model, artifact="toy.onnx")
        return open_backend(row, model, threads=threads, engines=tmp_path)

    return opened


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[LiveSource], Hardware]:
    """Puts fake hardware behind a live source."""
    return lambda made: plug_in_fake(made, tmp_path, monkeypatch)
