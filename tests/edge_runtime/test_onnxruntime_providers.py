"""ONNX Runtime's GPU providers: the one that was asked for, or an error."""

from __future__ import annotations

import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends import backend_row
from edge_runtime.errors import BackendError
from tests.support import SIDE, toy_detector

pytest.importorskip("onnx", reason="the toy model is made with onnx; leukoscope[export]")

PROVIDERS = {
    "onnxruntime_cuda": "CUDAExecutionProvider",
    "onnxruntime_tensorrt": "TensorrtExecutionProvider",
    "onnxruntime_nv_tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
}


@pytest.mark.parametrize(("name", "provider"), PROVIDERS.items())
def test_the_real_library_without_the_provider_never_runs_on_the_cpu(
    name: str, provider: str
) -> None:
    module = import_module(f"edge_runtime.backends.{name}")
    if module.unsupported_reason() is None:
        pytest.skip(f"{provider} is here")
    assert provider in module.unsupported_reason()
    with pytest.raises(BackendError, match=provider) as refusal:
        backend_row(name.replace("_", "-"))
    assert "\n" not in str(refusal.value)
    # Even when asked past the table: ONNX Runtime itself falls back to the CPU here.
    with pytest.raises(BackendError) as refusal:
        module.open_backend(toy_detector(), threads=1)
    assert "\n" not in str(refusal.value)


class FakeOnnxRuntime:
    """A library whose sessions come up with the providers that the test says."""

    __version__ = "1.99.0"
    __spec__ = object()

    def __init__(self, came: list[str], available: list[str]) -> None:
        self.came, self.available = came, available
        self.config: dict[str, str] = {}
        self.devices: list[Any] = []
        self.registered: list[tuple[str, str]] = []
        self.asked: Any = None

    def get_available_providers(self) -> list[str]:
        return self.available

    def SessionOptions(self) -> Any:  # noqa: N802
        return SimpleNamespace(
            add_session_config_entry=self.config.__setitem__,
            add_provider_for_devices=lambda devices, options: self.devices.append(devices),
        )

    def InferenceSession(self, model: bytes, options: Any, **more: Any) -> Any:  # noqa: N802
        self.asked = more.get("providers")
        return SimpleNamespace(
            get_providers=lambda: self.came,
            get_outputs=lambda: [SimpleNamespace(name="output")],
            run=lambda names, arrays: [np.ones((1, 5, 9), np.float32)],
        )

    def get_ep_devices(self) -> list[Any]:
        names = [name for name, _ in self.registered]
        return [SimpleNamespace(ep_name=name) for name in ["CPU", *names]]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.registered.append((name, path))


@pytest.mark.parametrize(("name", "provider"), PROVIDERS.items())
def test_what_came_up_is_checked_and_told(
    name: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"edge_runtime.backends.{name}")
    library = FakeOnnxRuntime([provider, "CPUExecutionProvider"], [provider])
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    assert module.unsupported_reason() is None
    with module.open_backend(b"model", threads=3) as backend:
        assert backend.facts.device == provider
        assert backend.facts.name == name.replace("_", "-")
        assert backend.facts.version == "1.99.0"
        assert backend.streams == 3
        picture = np.zeros((1, 3, SIDE, SIDE), np.float32)
        assert backend.infer({"images": picture})["output"].shape == (1, 5, 9)
    assert library.asked == [(provider, {})]
    # Without this, nodes that the provider does not take would run on the CPU unseen.
    assert library.config == {"session.disable_cpu_ep_fallback": "1"}


@pytest.mark.parametrize("came", [["CPUExecutionProvider"], []])
@pytest.mark.parametrize(("name", "provider"), PROVIDERS.items())
def test_a_session_that_came_up_without_it_is_an_error(
    name: str, provider: str, came: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"edge_runtime.backends.{name}")
    library = FakeOnnxRuntime(came, [provider])
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    with pytest.raises(BackendError, match=f"instead of {provider}"):
        module.open_backend(b"model", threads=1)


def test_the_rtx_provider_also_comes_as_a_library_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edge_runtime.backends import onnxruntime_nv_tensorrt_rtx as module
    from edge_runtime.backends import onnxruntime_providers as providers

    library = FakeOnnxRuntime([module.PROVIDER], ["CPUExecutionProvider"])
    package = SimpleNamespace(
        get_ep_name=lambda: module.PROVIDER, get_library_path=lambda: "plugin.so"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", package)
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(providers, "find_spec", lambda name: object())
    assert module.unsupported_reason() is None
    with module.open_backend(b"model", threads=1) as backend:
        assert backend.facts.device == module.PROVIDER
    module.open_backend(b"model", threads=1)
    assert library.registered == [(module.PROVIDER, "plugin.so")]
    assert [len(devices) for devices in library.devices] == [1, 1]
    assert library.asked is None

    library.register_execution_provider_library = lambda name, path: None  # type: ignore[method-assign]
    library.registered.clear()
    with pytest.raises(BackendError, match="finds no GPU"):
        module.open_backend(b"model", threads=1)
