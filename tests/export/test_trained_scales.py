"""Scales out of quantisation-aware training: read from its graph, used to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, load_from_string, numpy_helper

from calibration.ranges import measure_ranges
from edge_runtime.errors import DataError
from export.graph import convolutions, float_tail, load_graph
from export.qdq import quantise_for_cpu, quantise_for_tensorrt, tensors_to_measure
from export.trained_scales import TrainedScales, trained_scales
from tests.export.conftest import SIDE, paint_square, square_detector

REACH = 3.0
_ZERO = np.int8(0)


def rounded_detector(
    model: bytes, *, zero: Any = _ZERO, reach: float = REACH, shrink: float = 0.5
) -> bytes:
    """The toy with pairs at data and weights of all convolutions outside its tail.

    Weights keep a scale of ``shrink`` times their largest, as after training that let them
    grow beyond it.
    """
    graph = load_from_string(model)
    tail = float_tail(load_graph(model))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    nodes = []

    def constant(name: str, value: Any) -> str:
        nodes.append(
            helper.make_node(
                "Constant", [], [name], value=numpy_helper.from_array(np.asarray(value))
            )
        )
        return name

    def pair(source: str, label: str, scale: Any, zeros: Any, **axis: Any) -> str:
        parameters = [constant(f"{label}/s", scale), constant(f"{label}/z", zeros)]
        for kind, given, made in (
            ("QuantizeLinear", source, f"{label}/q"),
            ("DequantizeLinear", f"{label}/q", f"{label}/dq"),
        ):
            nodes.append(
                helper.make_node(kind, [given, *parameters], [made], name=f"{label}/{kind}", **axis)
            )
        return f"{label}/dq"

    for node in graph.graph.node:
        if node.op_type == "Conv" and node.name not in tail:
            weight = stored[node.input[1]]
            scale = shrink * np.abs(weight.reshape(len(weight), -1)).max(axis=1) / 127
            scale = scale.astype(np.float32)
            zeros = np.zeros(len(scale), np.int8)
            node.input[0] = pair(node.input[0], f"{node.name}/x", np.float32(reach / 127), zero)
            node.input[1] = pair(node.input[1], f"{node.name}/w", scale, zeros, axis=0)
        nodes.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return bytes(graph.SerializeToString())


def run(model: bytes, tensor: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Fused kernels round elsewhere; the arithmetic of the graph itself is compared.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": tensor})[0]


def tensor_of_a_square() -> Any:
    pixels = paint_square(2, 3)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / 255


def test_our_graph_with_trained_scales_computes_what_the_trained_one_does() -> None:
    model = square_detector()
    rounded = rounded_detector(model)
    tensor = tensor_of_a_square()
    assert tensor.shape == (1, 3, SIDE, SIDE)
    found = trained_scales(rounded, model)
    ranges = measure_ranges(model, tensors_to_measure(model), lambda: [tensor])
    ours = quantise_for_tensorrt(model, ranges, found)
    np.testing.assert_array_equal(run(ours, tensor), run(rounded, tensor))
    # Neither measured ranges nor float would have given that.
    for other in (quantise_for_tensorrt(model, ranges), model):
        assert np.abs(run(other, tensor) - run(rounded, tensor)).max() > 1e-4


def test_scales_are_those_of_the_graph_by_our_names() -> None:
    model = square_detector()
    found = trained_scales(rounded_detector(model), model)
    graph = load_graph(model)
    tail = float_tail(graph)
    inner = [node for node in convolutions(graph) if node.name not in tail]
    assert set(found.inputs) == {node.input[0] for node in inner}
    assert set(found.weights) == {node.input[1] for node in inner}
    assert set(found.inputs.values()) == {float(np.float32(REACH / 127))}
    weight = numpy_helper.to_array(
        next(each for each in graph.graph.initializer if each.name == inner[0].input[1])
    )
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    np.testing.assert_allclose(found.weights[inner[0].input[1]], largest / 2 / 127, rtol=1e-6)


def test_the_processors_graph_takes_the_weights_scales() -> None:
    model = square_detector()
    tensor = tensor_of_a_square()
    found = trained_scales(rounded_detector(model), model)
    ranges = measure_ranges(model, tensors_to_measure(model), lambda: [tensor])
    graph = load_from_string(quantise_for_cpu(model, ranges, found))
    stored = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    for name, scale in found.weights.items():
        np.testing.assert_array_less(scale * 0.999, stored[f"{name}/scale"])
        # Half of the largest weight is representable, so some weights are cut.
        assert np.abs(stored[f"{name}/int8"].astype(int)).max() >= 127


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"zero": np.uint8(0)}, "not symmetric int8"),
        ({"zero": np.int8(3)}, "not symmetric int8"),
        ({"reach": 0.0}, "not symmetric int8"),
    ],
)
def test_other_rounding_is_refused(changed: dict[str, Any], says: str) -> None:
    model = square_detector()
    with pytest.raises(DataError, match=says):
        trained_scales(rounded_detector(model, **changed), model)


def test_graphs_that_do_not_belong_together_are_refused() -> None:
    model = square_detector()
    with pytest.raises(DataError, match=r"weights of .* differ"):
        trained_scales(rounded_detector(square_detector(seed=1)), model)
    with pytest.raises(DataError, match="no convolution was trained in int8"):
        trained_scales(model, model)
    fewer = load_from_string(rounded_detector(model))
    last = next(node for node in fewer.graph.node if node.name == "n/expected")
    last.CopyFrom(helper.make_node("ReduceSum", ["likely"], ["expected"]))
    with pytest.raises(DataError, match="convolutions, the float model has"):
        trained_scales(fewer.SerializeToString(), model)


def test_a_tensor_with_two_scales_is_refused() -> None:
    model = square_detector()
    graph = load_from_string(model)
    # A second reader of a tensor that a convolution reads already.
    twin = next(node for node in graph.graph.node if node.name == "n/mix")
    graph.graph.node.insert(
        list(graph.graph.node).index(twin) + 1,
        helper.make_node("Conv", list(twin.input), ["again"], name="n/again"),
    )
    added = next(node for node in graph.graph.node if node.name == "n/both")
    added.input[1] = "again"
    plain = graph.SerializeToString()
    rounded = load_from_string(rounded_detector(plain))
    scale = next(node for node in rounded.graph.node if node.output[0] == "n/again/x/s")
    scale.attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32(2 * REACH / 127)))
    with pytest.raises(DataError, match="two scales"):
        trained_scales(rounded.SerializeToString(), plain)


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.slow
def test_a_checkpoint_trained_with_rounding_is_exported_to_the_bit(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason="pip install 'leukoscope[qat]'")
    from export.float_onnx import float_onnx, trained_quantisation
    from tests.export.qat_run import trained_with_rounding
    from train.to_onnx import export_rounded_onnx

    checkpoint, pictures = trained_with_rounding(tmp_path)
    model = float_onnx(checkpoint, tmp_path / "float.onnx", SIDE).read_bytes()
    assert b"QuantizeLinear" not in model
    found = trained_quantisation(checkpoint, model, SIDE)
    assert isinstance(found, TrainedScales)
    assert len(found.weights) == 81
    ranges = measure_ranges(model, tensors_to_measure(model), lambda: pictures)
    rounded = export_rounded_onnx(checkpoint, SIDE)
    assert rounded is not None
    ours = quantise_for_tensorrt(model, ranges, found)
    np.testing.assert_allclose(run(ours, pictures[0]), run(rounded, pictures[0]), atol=1e-3)
    assert np.abs(run(model, pictures[0]) - run(rounded, pictures[0])).max() > 0.01
    assert len(ours) < 0.3 * len(rounded)


@pytest.mark.train
def test_a_plain_checkpoint_has_no_trained_scales(tmp_path: Path, repository: Path) -> None:
    from export.float_onnx import float_onnx, trained_quantisation

    checkpoint = repository / "models" / "wbc-detector.pt"
    model = float_onnx(checkpoint, tmp_path / "float.onnx", SIDE).read_bytes()
    assert trained_quantisation(checkpoint, model, SIDE) is None
