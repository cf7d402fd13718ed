"""ONNX Runtime on an NVIDIA GPU: what its three execution providers share.

Owns asking for one provider and making sure that it came. ONNX Runtime by itself replaces
a provider that does not start by the CPU, with a warning at most; here that is an error,
and so is a graph of which a part would have to run on the CPU.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edge_runtime.errors import BackendError


def missing_provider(provider: str, install: str) -> str | None:
    """Why ONNX Runtime here has not this provider, or None.

    Args:
        provider: ONNX Runtime's name of it.
        install: what brings it.
    """
    have = import_module("onnxruntime").get_available_providers()
    if provider in have:
        return None
    return f"onnxruntime here has no {provider}, only {', '.join(have)}; {install}"


def open_with_provider(
    model: bytes,
    *,
    name: str,
    provider: str,
    threads: int,
    provider_options: dict[str, str] | None = None,
    plugin: str | None = None,
) -> OnnxRuntimeBackend:
    """A session that runs on this provider and nowhere else.

    Args:
        model: ONNX bytes.
        name: of the backend, as in the table.
        provider: ONNX Runtime's name of the provider.
        threads: how many calls may run at once.
        provider_options: the provider's own.
        plugin: import name of the package whose library brings the provider, where
            ONNX Runtime has it not built in.

    Raises:
        BackendError: the session came up without the provider, or the model is refused.
    """
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without this, nodes that the provider does not take run on the CPU and nobody hears it.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    built_in = provider in onnxruntime.get_available_providers()
    try:
        with warnings.catch_warnings():
            # Its warning of a missing provider; below that is an error.
            warnings.simplefilter("ignore")
            if plugin is not None and not built_in and find_spec(plugin) is not None:
                _add_plugin(onnxruntime, options, import_module(plugin), provider)
                session = onnxruntime.InferenceSession(model, options)
            else:
                session = onnxruntime.InferenceSession(
                    model, options, providers=[(provider, provider_options or {})]
                )
    except BackendError:
        raise
    except Exception as error:  # ONNX Runtime raises its own unrelated classes
        reason = " ".join(str(error).split())
        raise BackendError(f"{name} refuses the model: {reason}") from error
    came = session.get_providers()
    if not came or came[0] != provider:
        raise BackendError(
            f"{name}: the session came up with {', '.join(came) or 'nothing'} instead of "
            f"{provider}; see that GPU driver, CUDA and onnxruntime fit each other, or choose "
            "another --backend"
        )
    return OnnxRuntimeBackend(
        session, name=name, version=str(onnxruntime.__version__), streams=threads
    )


def _add_plugin(onnxruntime: Any, options: Any, package: Any, provider: str) -> None:
    """Brings in a provider that is a library of its own (ONNX Runtime 1.23 and later)."""
    own_name = package.get_ep_name()
    if not any(each.ep_name == own_name for each in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(own_name, package.get_library_path())
    devices = [each for each in onnxruntime.get_ep_devices() if each.ep_name == own_name]
    if not devices:
        raise BackendError(
            f"{provider}: its library finds no GPU that it runs on; see that the driver is "
            "installed, or choose another --backend"
        )
    options.add_provider_for_devices(devices[:1], {})
