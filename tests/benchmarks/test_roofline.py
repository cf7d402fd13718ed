"""Counting a graph, the roofline over it, and the error of the fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.roofline import Fit, Ideal, estimate, ideal_of, left_out_errors, measure_roofline
from benchmarks.roofline_devices import DEVICES, PUBLISHED
from benchmarks.roofline_graph import Kernel, kernels_of
from edge_runtime.errors import DataError, LeukoscopeError, SettingsError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "roofline.json"


def _model(
    nodes: list[Any],
    weights: dict[str, Any],
    shape: list[Any],
    outputs: tuple[str, ...] = ("y",),
    rank: int = 4,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _conv(source: str, out: str, weight: str = "w") -> Any:
    return helper.make_node("Conv", [source, weight], [out], pads=[1, 1, 1, 1], name=f"conv_{out}")


W8 = np.zeros((8, 3, 3, 3), np.float32)


def test_a_convolution_with_its_activation_is_one_kernel() -> None:
    nodes = [
        _conv("x", "a"),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    (kernel,) = kernels_of(_model(nodes, {"w": W8}, [1, 3, 10, 20]))
    assert kernel.nodes == 3
    assert kernel.macs == 8 * 10 * 20 * 3 * 3 * 3
    # Input, weights and the last output; nothing in between goes to memory.
    assert kernel.float_elements == 600 + 216 + 1600
    assert kernel.int8_elements == 0
    assert not kernel.int8


def test_a_tensor_that_others_read_is_written() -> None:
    nodes = [
        _conv("x", "a"),
        helper.make_node("Relu", ["a"], ["b"]),
        _conv("b", "c", "v"),
        helper.make_node("Add", ["b", "c"], ["y"]),
        helper.make_node("MaxPool", ["a"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    weights = {"w": W8, "v": np.zeros((8, 8, 3, 3), np.float32)}
    first, second, pool = kernels_of(_model(nodes, weights, [1, 3, 10, 20], ("y", "z")))
    assert first.float_elements == 600 + 216 + 1600 + 1600
    # Reads b once though two of its nodes use it.
    assert second.float_elements == 1600 + 576 + 1600
    assert (pool.operation, pool.macs, pool.float_elements) == ("MaxPool", 0, 1600 + 400)


def test_grouped_and_full_products_are_counted() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], group=3),
        helper.make_node("Flatten", ["a"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"]),
    ]
    weights = {"w": np.zeros((3, 1, 1, 1), np.float32), "g": np.zeros((12, 5), np.float32)}
    conv, full = kernels_of(_model(nodes, weights, [1, 3, 2, 2], rank=2))
    assert conv.macs == 12
    assert full.macs == 60
    assert full.float_elements == 12 + 60 + 5


def test_what_lies_between_q_and_dq_is_int8() -> None:
    def pair(source: str, out: str) -> list[Any]:
        return [
            helper.make_node("QuantizeLinear", [source, "s", "zp"], [f"{out}_q"]),
            helper.make_node("DequantizeLinear", [f"{out}_q", "s", "zp"], [out]),
        ]

    nodes = [
        *pair("x", "xd"),
        helper.make_node("DequantizeLinear", ["w", "s", "zp"], ["wd"]),
        _conv("xd", "a", "wd"),
        helper.make_node("Relu", ["a"], ["b"]),
        *pair("b", "bd"),
        _conv("bd", "y", "v"),
    ]
    weights = {
        "w": W8.astype(np.int8),
        "v": np.zeros((8, 8, 3, 3), np.float32),
        "s": np.float32(0.1),
        "zp": np.int8(0),
    }
    first, second = kernels_of(_model(nodes, weights, [1, 3, 10, 20]))
    assert first.int8
    assert (first.int8_elements, first.float_elements) == (600 + 216 + 1600, 0)
    # Its data is int8, its weights are not: it computes in float.
    assert not second.int8
    assert (second.int8_elements, second.float_elements) == (1600, 576 + 1600)


def test_what_depends_on_constants_alone_costs_nothing() -> None:
    nodes = [
        helper.make_node("Mul", ["w", "two"], ["w2"]),
        _conv("x", "y", "w2"),
    ]
    (kernel,) = kernels_of(_model(nodes, {"w": W8, "two": np.float32(2)}, [1, 3, 4, 4]))
    assert kernel.operation == "Conv"


def test_free_sizes_are_told_or_refused() -> None:
    model = _model([_conv("x", "y")], {"w": W8}, ["n", 3, "h", 20])
    with pytest.raises(DataError, match="--shape x="):
        kernels_of(model)
    (kernel,) = kernels_of(model, {"x": (1, 3, 10, 20)})
    assert kernel.macs == 8 * 10 * 20 * 27
    with pytest.raises(DataError, match="fixed at 20"):
        kernels_of(model, {"x": (1, 3, 10, 30)})
    with pytest.raises(DataError, match="no such input"):
        kernels_of(model, {"picture": (1, 3, 10, 20)})
    with pytest.raises(DataError, match="not a valid ONNX graph"):
        kernels_of(b"no model")


def test_sizes_that_only_a_run_can_tell_come_out_of_one() -> None:
    # How many are not zero depends on values: shape inference cannot know.
    nodes = [
        helper.make_node("NonZero", ["w"], ["places"]),
        helper.make_node("Cast", ["places"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["x", "f"], ["y"]),
    ]
    (kernel,) = kernels_of(_model(nodes, {"w": np.eye(4, dtype=np.float32)}, [3, 2], rank=2))
    assert kernel.macs == 3 * 2 * 4


def test_the_larger_of_computing_and_moving_counts() -> None:
    device = DEVICES["orin-nano-super"]
    computing = Kernel(
        "a", "Conv", 1, macs=17 * 10**9, int8=False, float_elements=1, int8_elements=0
    )
    moving = Kernel("b", "MaxPool", 1, 0, False, float_elements=51 * 10**6, int8_elements=0)
    ideal = ideal_of([computing, moving], device)
    # 34 GFLOP at 17 TFLOPS, and 102 MB at 102 GB/s.
    assert ideal.seconds == pytest.approx(0.002 + 0.001)
    assert ideal.memory_share == pytest.approx(1 / 3)
    whole = ideal_of([computing, moving], device, all_int8=True)
    # Convolutions at 33 TOPS; what multiplies nothing stays in float16.
    assert whole.seconds == pytest.approx(34e9 / 33e12 + 0.001)


def test_the_fit_finds_the_factors_that_made_the_times() -> None:
    ideals = {
        name: Ideal(seconds, kernels, 0)
        for name, seconds, kernels in (("a", 1, 10), ("b", 2, 10), ("c", 5, 20), ("d", 9, 40))
    }
    times = {name: each.seconds / 0.4 + each.kernels * 0.03 for name, each in ideals.items()}
    assert max(map(abs, left_out_errors(ideals, times).values())) < 1e-9
    alone = left_out_errors(ideals, times, two=False)
    assert max(map(abs, alone.values())) > 0.02
    times["d"] *= 2
    # Its own time is not in the factors that judge it.
    assert left_out_errors(ideals, times)["d"] == pytest.approx(-0.5)


def test_two_networks_fit_one_factor_only() -> None:
    ideals = {"a": Ideal(1.0, 10, 0), "b": Ideal(2.0, 10, 0)}
    errors = left_out_errors(ideals, {"a": 2.0, "b": 5.0})
    assert errors == {"a": pytest.approx(0.25), "b": pytest.approx(-0.2)}


def test_an_estimate_says_what_its_error_rests_on() -> None:
    fits = [
        Fit("jetson", "float16", "TensorRT", 0.5, 1e-5, 0.1, 0.05, 5, 0.001, 0.01),
        Fit("card", "float16", "TensorRT", 0.5, 1e-5, 0.2, 0.05, 5, 0.001, 0.01),
    ]
    kernel = Kernel("a", "Conv", 1, 17 * 10**9, False, 0, 0)
    row = estimate([kernel], DEVICES["orin-nano-super"], fits)
    assert row["estimated_ms"] == pytest.approx(4.01, abs=0.001)
    assert (row["low_ms"], row["high_ms"]) == (pytest.approx(3.609), pytest.approx(4.411))
    assert row["checked"] == "published times of this device at this precision"
    small = Kernel("a", "Conv", 1, 17 * 10**7, False, 0, 0)
    row = estimate([small], DEVICES["orin-nano-super"], fits)
    # Below all that was fitted to: the range begins without the cost of a kernel, 0.01 ms.
    assert row["estimated_ms"] == pytest.approx(0.05)
    assert (row["low_ms"], row["high_ms"]) == (pytest.approx(0.036), pytest.approx(0.055))
    assert row["checked"].endswith("smaller than any network there")
    assert "not of this one" in estimate([kernel], DEVICES["agx-orin"], fits)["checked"]
    int8 = Kernel("a", "Conv", 1, 17 * 10**9, True, 0, 0)
    assert "nothing at this precision" in estimate([int8], DEVICES["rtx-4060"], fits)["checked"]
    with pytest.raises(DataError, match="nothing was fitted"):
        estimate([kernel], DEVICES["raspberry-pi-5"], fits)


def test_every_device_names_its_sources_and_has_something_fitted_to_its_kind() -> None:
    fitted = {DEVICES[each.device].family for each in PUBLISHED if each.fits}
    for device in DEVICES.values():
        assert device.sources
        assert device.family in fitted
        assert device.floats in device.operations
        assert "int8" in device.operations
        assert device.operations["int8"] > device.operations[device.floats]


def test_the_check_needs_the_published_networks() -> None:
    with pytest.raises(DataError, match="two needed"):
        measure_roofline({"yolo11n": [Kernel("a", "Conv", 1, 10, False, 1, 0)]})


def test_the_committed_result_holds_what_was_asked() -> None:
    document = json.loads(RESULT.read_text(encoding="utf-8"))
    # Ultralytics' own counts of the same networks.
    stated = {"yolo11n": 6.5, "yolo11s": 21.5, "yolo11m": 68.0, "yolo11l": 86.9, "yolo11x": 194.9}
    for name, gflop in stated.items():
        assert document["networks"][name]["gflop"] == pytest.approx(gflop, rel=0.01)
    nano = [each for each in document["checks"] if each["device"] == "orin-nano-super"]
    assert [each["precision"] for each in nano] == ["float16", "int8"]
    assert all(len(each["rows"]) == 5 for each in nano)
    models = document["models"]
    assert {each["head"] for each in models.values()} == {
        "detector",
        "attribute_head",
        "classifier",
    }
    assert models["detector.tensorrt.int8.onnx"]["int8_share"] > 0.9


def test_any_model_is_judged_by_the_committed_factors(tmp_path: Path) -> None:
    path, out = tmp_path / "any.onnx", tmp_path / "any.json"
    path.write_bytes(_model([_conv("x", "y")], {"w": W8}, [1, 3, 64, 64]))
    flags = ["--model", str(path), "--device", "agx-orin", "--factors", str(RESULT)]
    answer = CliRunner().invoke(app, ["roofline", *flags, "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    (row,) = json.loads(out.read_text(encoding="utf-8"))["models"]["any.onnx"]["estimates"]
    assert row["device"] == "agx-orin"
    assert 0 < row["ideal_ms"] < row["estimated_ms"]


@pytest.mark.parametrize(
    ("flags", "error", "said"),
    [
        (["--device", "abacus"], SettingsError, "choose of orin-nano-super"),
        (["--shape", "x=1x3"], SettingsError, "is for --model"),
        (["--model", "x.onnx", "--shape", "1x3"], SettingsError, "images=1x3x640x640"),
        (["--model", "gone.onnx", "--factors", str(RESULT)], DataError, "give an ONNX file"),
        (["--model", "x.onnx", "--factors", "gone.json"], DataError, "without --model first"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], error: type[LeukoscopeError], said: str, tmp_path: Path
) -> None:
    answer = CliRunner().invoke(app, ["roofline", *flags, "--out", str(tmp_path / "x.json")])
    assert isinstance(answer.exception, error), answer.output
    assert said in str(answer.exception)
