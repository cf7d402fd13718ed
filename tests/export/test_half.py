"""Float16 graphs: the tail stays in float32, and nothing is rounded on the way through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, load_from_string

from edge_runtime.errors import DataError
from export.graph import float_tail, load_graph
from export.half import also_artifact, to_half, unquantised
from tests.export.conftest import paint_square, square_detector
from tests.export.toy_heads import toy_attribute_head, toy_classifier

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def run(model: bytes, tensor: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": tensor})[0]


def kinds(model: bytes) -> dict[str, int]:
    """Element type of every tensor, stored or computed."""
    graph = load_graph(model).graph
    found = {each.name: each.data_type for each in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def test_only_the_tail_is_left_in_float32() -> None:
    model = square_detector()
    half = to_half(model)
    assert half == to_half(model)
    tail, types = float_tail(load_graph(model)), kinds(half)
    computed = [n for n in load_from_string(half).graph.node if n.op_type != "Cast"]
    assert computed
    for node in computed:
        wanted = FLOAT if node.name in tail else HALF
        assert {types[name] for name in node.output} == {wanted}, node.name
    assert types["images"] == types["output0"] == FLOAT


def test_casts_stand_at_the_borders_alone() -> None:
    half = load_from_string(to_half(square_detector())).graph
    casts = [(node.input[0], node.attribute[0].i) for node in half.node if node.op_type == "Cast"]
    # One way in, and one way out to the two last convolutions, which read the same tensor.
    assert sorted(casts) == sorted([("images", HALF), ("kept", FLOAT)])


def test_it_finds_what_the_float_graph_finds() -> None:
    model = square_detector()
    tensor = np.float32(paint_square(3, 4).transpose(2, 0, 1)[None]) / np.float32(255)
    ours, expected = run(to_half(model), tensor), run(model, tensor)
    assert ours.dtype == np.float32
    best = expected[0, 4].argmax()
    assert ours[0, 4].argmax() == best
    np.testing.assert_allclose(ours[0, :, best], expected[0, :, best], atol=0.02)
    assert np.abs(ours - expected).max() > 0


@pytest.mark.parametrize("model", [toy_classifier().model, toy_attribute_head().model])
def test_heads_of_any_number_of_cells(model: bytes) -> None:
    half = load_graph(to_half(model))
    for before, after in zip(load_graph(model).graph.output, half.graph.output, strict=True):
        assert after.name == before.name
        assert after.type.tensor_type.elem_type == FLOAT
    assert HALF in kinds(half.SerializeToString()).values()


def test_what_they_are_called() -> None:
    half, whole = (also_artifact("classifier", each) for each in ("float16", "float32"))
    assert (half.path, half.runtime) == ("classifier.tensorrt.float16.onnx", "tensorrt")
    assert (whole.path, whole.runtime) == ("classifier.cpu.float32.onnx", "cpu")
    model = square_detector()
    assert unquantised(model, "float32") == model
    assert unquantised(model, "float16") == to_half(model)


def test_what_is_no_graph_is_one_line() -> None:
    with pytest.raises(DataError, match="not a valid ONNX graph"):
        to_half(b"rubbish")
