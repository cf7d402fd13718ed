"""What every suite of this folder needs: the toy detector."""

from __future__ import annotations

import pytest

from tests.support import toy_detector


@pytest.fixture(scope="session")
def toy_model() -> bytes:
    """A small detector of purple discs, as ONNX bytes."""
    pytest.importorskip("onnx", reason="the toy model is made with onnx; leukoscope[export]")
    return toy_detector()
