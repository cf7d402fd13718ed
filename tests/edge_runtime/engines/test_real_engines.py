"""The shipped bundle's engines, really built, with TensorRT-RTX and without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime import device_buffers
from edge_runtime.bundle import Bundle, open_bundle, shipped_bundle_path
from edge_runtime.engines.cache import EngineCache
from edge_runtime.engines.cli import app
from edge_runtime.engines.for_bundle import (
    BuiltEngine,
    EngineTarget,
    build_engine,
    build_for_bundle,
    engine_target,
)
from edge_runtime.engines.tensorrt_api import flavour_named, load_api
from edge_runtime.errors import BackendError
from tests.support import toy_detector

pytestmark = pytest.mark.engines

# RTX 30, 40 and 50.
CAPABILITIES = ("8.6", "8.9", "12.0")

Command = Callable[..., str]


@pytest.fixture(scope="module")
def target() -> EngineTarget:
    return engine_target(flavour_named("tensorrt-rtx"), CAPABILITIES)


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(shipped_bundle_path())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def built(shipped: Bundle, target: EngineTarget, folder: Path) -> tuple[BuiltEngine, ...]:
    return build_for_bundle(shipped, folder, say=print, target=target)


@pytest.fixture
def engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> str:
        app([*arguments, "--engines", str(folder)], standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_all_heads_build_and_run_in_int8_but_for_their_ends(
    built: tuple[BuiltEngine, ...],
) -> None:
    detector, attribute_head, classifier = (engine.record for engine in built)
    for record in (detector, attribute_head, classifier):
        assert record.capabilities == CAPABILITIES
        assert record.strongly_typed
        assert record.layers_from == "builder's log"
        # The library does what the graph asks for, convolution by convolution.
        assert [row.runs for row in record.convolutions] == [
            row.asked for row in record.convolutions
        ]
    runs = [row.runs for row in detector.convolutions]
    # The detector's last convolutions and its DFL stay in float.
    assert (runs.count("int8"), runs.count("float32")) == (81, 7)
    assert {row.runs for row in attribute_head.convolutions} == {"int8"}
    assert {row.runs for row in classifier.convolutions} == {"int8"}
    assert len(classifier.convolutions) == 15
    assert len(attribute_head.convolutions) == 3


def test_a_built_engine_is_found_again_for_each_of_its_gpus(
    shipped: Bundle, built: tuple[BuiltEngine, ...], folder: Path
) -> None:
    rtx = flavour_named("tensorrt-rtx")
    for capability in CAPABILITIES:
        one = engine_target(rtx, [capability])
        again = build_for_bundle(shipped, folder, say=print, target=one)
        assert not any(engine.built for engine in again)
        assert [engine.record for engine in again] == [engine.record for engine in built]


def test_a_float_graph_builds_and_is_not_called_int8(target: EngineTarget, tmp_path: Path) -> None:
    model = toy_detector()
    engine = build_engine(EngineCache(tmp_path), target, model, artifact="float.onnx")
    asked = {row.asked for row in engine.record.convolutions}
    runs = {row.runs for row in engine.record.convolutions}
    assert asked == {"float32"}
    assert "int8" not in runs
    assert "int8" not in {layer.precision for layer in engine.record.layers if layer.multiplies}


def test_an_altered_engine_is_built_again(
    shipped: Bundle, built: tuple[BuiltEngine, ...], target: EngineTarget, folder: Path
) -> None:
    path = built[2].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said: list[str] = []
    again = build_for_bundle(shipped, folder, say=said.append, target=target)
    assert [engine.built for engine in again] == [False, False, True]
    assert "altered" in "".join(said)
    EngineCache(folder).load(again[2].record)


@pytest.mark.parametrize("model", [b"", b"no model", bytes(4096)], ids=["empty", "text", "zeros"])
def test_the_real_parser_refuses_rubbish_in_one_line(
    model: bytes, target: EngineTarget, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match=r"tensorrt-rtx .* refuses the model") as refusal:
        build_engine(EngineCache(tmp_path), target, model, artifact="rubbish")
    assert "\n" not in str(refusal.value)


def test_the_real_library_has_all_that_the_interface_names() -> None:
    """What was written down in ``tensorrt_api`` by hand, against the library itself."""
    import inspect

    from edge_runtime.engines import tensorrt_api

    api = load_api(flavour_named("tensorrt-rtx"))
    names = {
        tensorrt_api.Builder: "Builder",
        tensorrt_api.BuilderConfig: "IBuilderConfig",
        tensorrt_api.Context: "IExecutionContext",
        tensorrt_api.Engine: "ICudaEngine",
        tensorrt_api.Network: "INetworkDefinition",
        tensorrt_api.NetworkLayer: "ILayer",
        tensorrt_api.NetworkTensor: "ITensor",
        tensorrt_api.Parser: "OnnxParser",
        tensorrt_api.Profile: "IOptimizationProfile",
        tensorrt_api.Runtime: "Runtime",
    }
    for protocol, name in names.items():
        methods = {each for each, _ in inspect.getmembers(protocol, inspect.isfunction)}
        wanted = {each for each in methods | set(protocol.__annotations__) if each[0] != "_"}
        assert wanted, name
        assert wanted - set(dir(getattr(api, name))) == set(), name
    for name in tensorrt_api.TensorRt.__annotations__:
        assert hasattr(api, name), name


def test_the_commands_show_what_was_built(
    built: tuple[BuiltEngine, ...], engine: Command, folder: Path
) -> None:
    listed = engine("list")
    for each in built:
        assert each.record.key[:12] in listed
    assert listed.count("8.6, 8.9, 12.0") == 3
    shown = engine("inspect", built[0].record.key[:8])
    assert "81 of 88 convolutions in int8, 7 in float32" in shown
    assert "builder's log" in shown
    assert "compiled on the GPU when the engine is first loaded" in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith("/model.23/dfl")]
    assert rows == [["/model.23/dfl/conv/Conv", "float32", "float32", "correlation"]]
    assert "Not for use in diagnostic procedures" in shown
    with pytest.raises(BackendError, match="0 engines"):
        engine("inspect", "ffffffff")
    with pytest.raises(BackendError, match="3 engines"):
        engine("inspect", "")


def test_building_from_the_command_line(
    built: tuple[BuiltEngine, ...], engine: Command, tmp_path: Path
) -> None:
    shown = engine("build", "--flavour", "tensorrt-rtx", "--capability", "8.9")
    assert shown.count("already there") == 3
    assert "not run: no GPU was used" in shown
    with pytest.raises(BackendError, match=r"'89': wanted two numbers such as 8\.6"):
        engine("build", "--capability", "89")
    with pytest.raises(BackendError, match="unknown; choose tensorrt or tensorrt-rtx"):
        engine("build", "--flavour", "trt")
    if device_buffers.unsupported_reason() is not None:
        with pytest.raises(BackendError, match="name its --capability"):
            engine("build", "--flavour", "tensorrt-rtx")


def test_clearing_from_the_command_line(
    built: tuple[BuiltEngine, ...], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for arguments, left in (([built[0].record.key[:12]], 2), ([], 0)):
        app(["clear", *arguments, "--engines", str(tmp_path)], standalone_mode=False)
        assert len(EngineCache(tmp_path).records()) == left
    app(["list", "--engines", str(tmp_path)], standalone_mode=False)
    assert "no engines in" in capsys.readouterr().out
