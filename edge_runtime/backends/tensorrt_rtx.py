"""TensorRT-RTX: engines for workstations with RTX cards.

Owns the row only; everything is as with TensorRT (see ``tensorrt``).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from edge_runtime import device_buffers
from edge_runtime.backends.tensorrt import TensorRtBackend, open_engine
from edge_runtime.engines.tensorrt_api import flavour_named

_FLAVOUR = "tensorrt-rtx"


def unsupported_reason() -> str | None:
    """Why it cannot run here, or None."""
    flavour = flavour_named(_FLAVOUR)
    if not any(find_spec(module) is not None for module in flavour.modules):
        return f"tensorrt-rtx is not installed; {flavour.install}"
    return device_buffers.unsupported_reason()


def open_backend(model: bytes, *, threads: int, engines: Path | None = None) -> TensorRtBackend:
    """Runs the engine that was built of these ONNX bytes.

    Raises:
        BackendError: no such engine is in the folder, or it does not load.
    """
    return open_engine(flavour_named(_FLAVOUR), model, threads=threads, engines=engines)
