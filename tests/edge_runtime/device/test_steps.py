"""Engines and self-test of an installation use one folder, and the library that will run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime import device_buffers
from edge_runtime.backends import tensorrt as backend_module
from edge_runtime.backends import tensorrt_rtx as rtx_module
from edge_runtime.bundle import open_bundle
from edge_runtime.device.cli import device_of
from edge_runtime.device.install import Device, build_engines, install
from edge_runtime.device.slots import active_bundle
from edge_runtime.device.steps import engines_for
from edge_runtime.engines import for_bundle
from edge_runtime.errors import BackendError
from edge_runtime.film_run import load_bundle
from edge_runtime.settings import Settings
from tests.recording_tensorrt import RecordingTensorRt
from tests.signed_bundles import NOW, drawn_key, public


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RecordingTensorRt:
    """The recording library and GPU as if they were this machine's; no user's cache."""
    library = RecordingTensorRt()
    for module in (backend_module, rtx_module):
        monkeypatch.setattr(module, "unsupported_reason", lambda: None)
    for user in (backend_module, for_bundle):
        monkeypatch.setattr(user, "load_api", lambda flavour: library)
    monkeypatch.setattr(for_bundle, "absent_reason", lambda flavour: None)
    monkeypatch.setattr(device_buffers, "open_device", lambda: library.gpu)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LEUKOSCOPE_ENGINES", raising=False)
    return library


def device_with(settings: Settings, said: list[str]) -> Device:
    """As ``leukoscope device`` makes one, in the days of the key."""
    device = replace(device_of(settings), say=said.append, clock=lambda: NOW)
    device.root.keys.mkdir(parents=True)
    (device.root.keys / "lab.json").write_bytes(public(drawn_key(1)).to_bytes())
    return device


@pytest.mark.parametrize("named", [False, True])
def test_what_is_installed_runs_on_the_engines_that_were_built(
    api: RecordingTensorRt, toy_for_both: Path, tmp_path: Path, named: bool
) -> None:
    folder = tmp_path / "elsewhere" if named else None
    settings = Settings(backend="tensorrt", device_root=tmp_path / "device", engines=folder)
    said: list[str] = []
    device = device_with(settings, said)
    install(device, toy_for_both)
    where = folder or tmp_path / "device" / "engines"
    assert [path.suffix for path in sorted(where.glob("*"))] == [".engine", ".json", ".timing"]
    assert not (tmp_path / "cache").exists()
    assert any(line.startswith("engine built: detector.onnx with tensorrt 10.3.0") for line in said)
    bundle = active_bundle(tmp_path / "device", say=said.append)
    with load_bundle(bundle, settings) as loaded:
        assert loaded.record.name == "tensorrt"
    build_engines(device)
    assert any(line.startswith("engine there already: detector.onnx") for line in said)


def test_the_library_that_runs_the_engines_builds_them(
    api: RecordingTensorRt, toy_for_both: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    api.gpu.compute_capability = "8.6"
    settings = Settings(backend="tensorrt-rtx", device_root=tmp_path / "device")
    install(device_with(settings, said), toy_for_both)
    assert any("with tensorrt-rtx 10.3.0 for 8.6" in line for line in said)


def test_a_device_of_processors_needs_no_engines(toy_for_cpu: Path, tmp_path: Path) -> None:
    said: list[str] = []
    install(device_with(Settings(device_root=tmp_path / "device"), said), toy_for_cpu)
    (line,) = (line for line in said if "no engine built" in line)
    assert line.endswith("backend onnxruntime is what runs")
    assert any("detector: passed" in line for line in said)


def test_a_provider_of_onnx_runtime_needs_no_engines(
    monkeypatch: pytest.MonkeyPatch, toy_for_both: Path, tmp_path: Path
) -> None:
    from edge_runtime.backends import onnxruntime_cuda

    def no_library(*given: object) -> None:
        raise BackendError("no TensorRT here")

    monkeypatch.setattr(onnxruntime_cuda, "unsupported_reason", lambda: None)
    monkeypatch.setattr(for_bundle, "installed_flavour", no_library)
    build = engines_for("onnxruntime-cuda", lambda line: None)
    (line,) = build(open_bundle(toy_for_both), tmp_path)
    assert line == "no engine built: no TensorRT here; backend onnxruntime-cuda is what runs"


def test_a_backend_of_engines_is_not_replaced_when_none_can_be_built(
    api: RecordingTensorRt, toy_for_both: Path, toy_for_cpu: Path, tmp_path: Path
) -> None:
    build = engines_for("tensorrt", lambda line: None)
    api.refuses_to_build = "out of memory"
    with pytest.raises(BackendError, match="out of memory"):
        build(open_bundle(toy_for_both), tmp_path)
    with pytest.raises(Exception, match="no detector artifact for tensorrt"):
        build(open_bundle(toy_for_cpu), tmp_path)
