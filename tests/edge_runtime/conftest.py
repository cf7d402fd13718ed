"""The toy detector and a bundle around it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle, open_bundle
from tests.support import MODEL_NAME, toy_detector, write_bundle


@pytest.fixture(scope="session")
def toy_model() -> bytes:
    """A small detector of purple discs, as ONNX bytes."""
    pytest.importorskip("onnx", reason="the toy model is made with onnx; leukoscope[export]")
    return toy_detector()


@pytest.fixture(scope="session")
def toy_bundle_folder(toy_model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder around it; read it only."""
    return write_bundle(tmp_path_factory.mktemp("bundle"), {MODEL_NAME: toy_model})


@pytest.fixture(scope="session")
def toy_bundle(toy_bundle_folder: Path) -> Bundle:
    """The same, verified."""
    return open_bundle(toy_bundle_folder)
