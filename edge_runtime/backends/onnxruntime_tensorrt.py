"""ONNX Runtime with its TensorRT execution provider, for workstations with an NVIDIA card.

Owns the provider's name and options only; see ``onnxruntime_providers``.
"""

from __future__ import annotations

from importlib.util import find_spec

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.backends.onnxruntime_providers import missing_provider, open_with_provider

NAME = "onnxruntime-tensorrt"
PROVIDER = "TensorrtExecutionProvider"
_INSTALL = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"


def unsupported_reason() -> str | None:
    """Why it cannot run here, or None."""
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed; pip install onnxruntime-gpu"
    return missing_provider(PROVIDER, _INSTALL)


def open_backend(model: bytes, *, threads: int) -> OnnxRuntimeBackend:
    """Loads ONNX bytes.

    Raises:
        BackendError: the provider did not start, or refuses the model or a part of it.
    """
    return open_with_provider(model, name=NAME, provider=PROVIDER, threads=threads)
