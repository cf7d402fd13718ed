"""Both int8 graphs: where pairs are, what the numbers look like, what they compute."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.ranges import Range, measure_ranges
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array
from export.graph import convolution_work, float_tail, load_graph
from export.qdq import quantise_for_cpu, quantise_for_tensorrt, tensors_to_measure
from tests.export.conftest import paint_square

onnx = pytest.importorskip("onnx")
BOTH = [quantise_for_cpu, quantise_for_tensorrt]


def pictures() -> list[Float32Array]:
    return [
        np.ascontiguousarray(
            paint_square(column, row, seed=column).transpose(2, 0, 1)[None] / np.float32(255),
            np.float32,
        )
        for column, row in ((0, 1), (3, 3), (6, 2), (5, 6))
    ]


@pytest.fixture(scope="module")
def ranges(float_model: bytes) -> dict[str, Range]:
    return measure_ranges(float_model, tensors_to_measure(float_model), pictures)


def outputs(model: bytes, picture: Float32Array) -> Float32Array:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": picture})[0], np.float32)


def parts(model: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Nodes by name, producers by tensor, stored arrays by name."""
    graph = onnx.load_from_string(model).graph
    return (
        {node.name: node for node in graph.node},
        {name: node for node in graph.node for name in node.output},
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer},
    )


@pytest.mark.parametrize("quantise", BOTH)
def test_int8_finds_what_float_finds(
    float_model: bytes, ranges: dict[str, Range], quantise: Any
) -> None:
    model = quantise(float_model, ranges)
    for picture in pictures():
        expected, found = outputs(float_model, picture), outputs(model, picture)
        assert found[0, 4].argmax() == expected[0, 4].argmax()
        assert found[0, 4] == pytest.approx(expected[0, 4], abs=0.1)
        assert found[0, :4] == pytest.approx(expected[0, :4], abs=0.5)


@pytest.mark.parametrize("quantise", BOTH)
def test_all_convolutions_but_the_last_are_quantised(
    float_model: bytes, ranges: dict[str, Range], quantise: Any
) -> None:
    model = quantise(float_model, ranges)
    nodes, producers, _ = parts(model)
    tail = float_tail(load_graph(float_model))
    for name, node in nodes.items():
        if node.op_type != "Conv":
            continue
        from_int8 = [
            producers[source].op_type == "DequantizeLinear" if source in producers else False
            for source in node.input[:2]
        ]
        assert from_int8[1] == (name not in tail)
        assert from_int8[0] or name in tail
    work = convolution_work(load_graph(model))
    assert 0.9 < work.share < 1
    assert work.total == convolution_work(load_graph(float_model)).total


@pytest.mark.parametrize("quantise", BOTH)
def test_the_end_of_the_head_is_untouched(
    float_model: bytes, ranges: dict[str, Range], quantise: Any
) -> None:
    nodes, _, stored = parts(quantise(float_model, ranges))
    before, _, weights = parts(float_model)
    for name in float_tail(load_graph(float_model)) - {"n/score_last", "n/box_last"}:
        assert nodes[name] == before[name]
    for name in ("score_last.weight", "box_last.weight", "expected.weight"):
        assert (stored[name] == weights[name]).all()


@pytest.mark.parametrize("quantise", BOTH)
def test_weights_are_stored_as_int8_per_channel_and_not_twice(
    float_model: bytes, ranges: dict[str, Range], quantise: Any
) -> None:
    _, _, stored = parts(quantise(float_model, ranges))
    _, _, weights = parts(float_model)
    for name in ("stem.weight", "mix.weight", "features.weight"):
        assert name not in stored
        numbers, scale = stored[f"{name}/int8"], stored[f"{name}/scale"]
        assert numbers.dtype == np.int8
        assert scale.shape == (len(weights[name]),)
        assert (stored[f"{name}/zero_point"] == 0).all()
        back = numbers * scale.reshape(-1, 1, 1, 1)
        assert np.abs(back - weights[name]).max() <= scale.max() / 2 * 1.001
        # Every channel uses its 8 bits in full.
        assert (np.abs(numbers).reshape(len(numbers), -1).max(axis=1) == 127).all()


def test_tensorrt_graph_is_symmetric_and_marks_convolution_inputs_only(
    float_model: bytes, ranges: dict[str, Range]
) -> None:
    nodes, _, stored = parts(quantise_for_tensorrt(float_model, ranges))
    assert all((values == 0).all() for name, values in stored.items() if "zero_point" in name)
    assert {v.dtype for n, v in stored.items() if "zero_point" in n} == {np.dtype(np.int8)}
    rounded = {
        node.output[0]
        for node in nodes.values()
        if node.op_type == "DequantizeLinear" and node.input[0] not in stored
    }
    readers = [node for node in nodes.values() if set(node.input) & rounded]
    assert {node.op_type for node in readers} == {"Conv"}
    assert Counter(n.op_type for n in nodes.values())["QuantizeLinear"] == len(rounded) == 3
    assert stored["stem.bias"].dtype == np.float32


def test_cpu_graph_has_unsigned_activations_and_int32_bias(
    float_model: bytes, ranges: dict[str, Range]
) -> None:
    nodes, producers, stored = parts(quantise_for_cpu(float_model, ranges))
    assert stored["images/zero_point"].dtype == np.uint8
    bias, scale = stored["stem.bias/int8"], stored["stem.bias/scale"]
    assert bias.dtype == np.int32
    assert scale == pytest.approx(stored["images/scale"] * stored["stem.weight/scale"], rel=1e-6)
    # A ReLU belongs to its convolution: nothing between the two.
    assert producers[nodes["n/dark"].input[0]].op_type == "Conv"
    # What comes out of a ReLU is never negative, so all 256 levels are above zero.
    assert stored["dark/zero_point"] == 0
    assert stored["peak/scale"] == stored["both/scale"], "pooling changes no value"


def test_runtime_fuses_the_cpu_graph_into_integer_operators(
    float_model: bytes, ranges: dict[str, Range], tmp_path: Path
) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(
        quantise_for_cpu(float_model, ranges), options, providers=["CPUExecutionProvider"]
    )
    graph = onnx.load(str(tmp_path / "fused.onnx")).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QLinearConv"] == 3
    assert kinds["QLinearAdd"] == 1
    assert kinds["QLinearConcat"] == 1


@pytest.mark.parametrize("quantise", BOTH)
def test_a_dead_channel_and_a_silent_activation_do_no_harm(
    float_model: bytes, ranges: dict[str, Range], quantise: Any
) -> None:
    model = onnx.load_from_string(float_model)
    for tensor in model.graph.initializer:
        if tensor.name == "mix.weight":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[1] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    silent = ranges | {"mixed": Range(0, 0)}
    found = outputs(quantise(model.SerializeToString(), silent), pictures()[0])
    assert np.isfinite(found).all()


def test_a_model_that_is_quantised_already_is_refused(
    float_model: bytes, ranges: dict[str, Range]
) -> None:
    with pytest.raises(DataError, match="quantised already; give the float one"):
        tensors_to_measure(quantise_for_cpu(float_model, ranges))


def test_pictures_that_the_model_does_not_take_are_one_line(float_model: bytes) -> None:
    wrong = np.zeros((1, 3, 8, 9), np.float32)
    with pytest.raises(DataError, match="does not run on these pictures") as refusal:
        measure_ranges(float_model, tensors_to_measure(float_model), lambda: [wrong])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("quantise", BOTH)
def test_an_activation_without_a_range_is_refused(
    float_model: bytes, ranges: dict[str, Range], quantise: Any
) -> None:
    lacking = {name: found for name, found in ranges.items() if name != "images"}
    with pytest.raises(DataError, match="'images' was not measured"):
        quantise(float_model, lacking)


def test_same_input_same_bytes_in_another_process(
    float_model: bytes, ranges: dict[str, Range], tmp_path: Path, repository: Path
) -> None:
    """Sets and dictionaries are walked in another order there."""
    (tmp_path / "float.onnx").write_bytes(float_model)
    known = {name: (found.low, found.high) for name, found in ranges.items()}
    code = (
        "import sys; from pathlib import Path; from calibration.ranges import Range\n"
        "from export.qdq import *\n"
        f"folder = Path({str(tmp_path)!r}); model = (folder / 'float.onnx').read_bytes()\n"
        f"ranges = {{k: Range(*v) for k, v in {known!r}.items()}}\n"
        "(folder / 'cpu').write_bytes(quantise_for_cpu(model, ranges))\n"
        "(folder / 'trt').write_bytes(quantise_for_tensorrt(model, ranges))\n"
    )
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": str(repository)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert (tmp_path / "cpu").read_bytes() == quantise_for_cpu(float_model, ranges)
    assert (tmp_path / "trt").read_bytes() == quantise_for_tensorrt(float_model, ranges)


def test_layers_that_share_weights_and_bias_count_in_their_own_steps() -> None:
    """As a head does that is laid over several maps: each has an input of another range."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(4, 4, 1, 1)),
        "b": np.array([5, -3, 2, 1]),
        "louder": 50 * np.eye(4).reshape(4, 4, 1, 1),
    }
    # The last convolution stays in float.
    chain = [("x", "w", "b"), ("c0", "louder"), ("c1", "w", "b"), ("c2", "louder")]
    nodes = []
    for place, inputs in enumerate(chain):
        nodes.append(onnx.helper.make_node("Conv", inputs, [f"s{place}"], name=f"conv{place}"))
        nodes.append(onnx.helper.make_node("Relu", [f"s{place}"], [f"c{place}"]))
    shape = [1, 4, 8, 8]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, shape)], [value("c3", 1, shape)],
        [onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    seen = [rng.random(shape, np.float32) for _ in range(4)]
    measured = measure_ranges(model, tensors_to_measure(model), lambda: seen)
    by_name, makers, stored = parts(quantise_for_cpu(model, measured))
    for name in ("conv0", "conv2"):
        data, weight, bias = (makers[each].input for each in by_name[name].input)
        steps = stored[data[1]] * stored[weight[1]]
        np.testing.assert_allclose(stored[bias[1]], steps, rtol=1e-6)
        np.testing.assert_allclose(stored[bias[0]] * stored[bias[1]], arrays["b"], rtol=1e-2)
    assert sum(array.dtype == np.int8 and array.ndim == 4 for array in stored.values()) == 2


def test_a_bias_far_above_its_weights_stays_what_it_is() -> None:
    """Counted in steps of tiny weights, it would not fit into 32 bits."""
    weights = np.full((2, 3, 1, 1), 1e-6, np.float32)
    bias = np.array([900.0, -7.0], np.float32)
    value, shape = onnx.helper.make_tensor_value_info, [1, 3, 8, 8]
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w", "b"], ["c"], name="first"),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
        onnx.helper.make_node("Conv", ["r", "last"], ["y"], name="second"),
    ]
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, shape)], [value("y", 1, [1, 1, 8, 8])],
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(bias, "b"),
         onnx.numpy_helper.from_array(np.ones((1, 2, 1, 1), np.float32), "last")],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    seen = np.random.default_rng(0).random(shape, np.float32)
    measured = measure_ranges(model, tensors_to_measure(model), lambda: [seen])
    by_name, makers, stored = parts(quantise_for_cpu(model, measured))
    kept = makers[by_name["first"].input[2]].input
    np.testing.assert_allclose(stored[kept[0]] * stored[kept[1]], bias, rtol=1e-3)
