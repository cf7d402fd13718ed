"""ONNX Runtime with the TensorRT-RTX execution provider, for RTX cards.

Owns the provider's names only; see ``onnxruntime_providers``. The provider is built into
some packages of ONNX Runtime, and a library of its own beside others.
"""

from __future__ import annotations

from importlib.util import find_spec

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.backends.onnxruntime_providers import missing_provider, open_with_provider

NAME = "onnxruntime-nv-tensorrt-rtx"
PROVIDER = "NvTensorRTRTXExecutionProvider"
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_INSTALL = "pip install onnxruntime-ep-nv-tensorrt-rtx"


def unsupported_reason() -> str | None:
    """Why it cannot run here, or None."""
    if find_spec("onnxruntime") is None:
        return f"onnxruntime is not installed; pip install onnxruntime, then {_INSTALL}"
    if find_spec(_PLUGIN) is not None:
        return None
    return missing_provider(PROVIDER, _INSTALL)


def open_backend(model: bytes, *, threads: int) -> OnnxRuntimeBackend:
    """Loads ONNX bytes.

    Raises:
        BackendError: the provider did not start, or refuses the model or a part of it.
    """
    return open_with_provider(model, name=NAME, provider=PROVIDER, threads=threads, plugin=_PLUGIN)
