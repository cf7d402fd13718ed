"""The float tail and the convolutions' work, read off the graph."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import DataError
from export.graph import convolution_work, float_tail, load_graph, name_nodes

onnx = pytest.importorskip("onnx")


def test_tail_begins_at_the_last_convolutions_and_passes_the_expectation(
    float_model: bytes,
) -> None:
    model = load_graph(float_model)
    kinds = {node.name: node.op_type for node in model.graph.node}
    tail = float_tail(model)
    convolutions = {name for name in tail if kinds[name] == "Conv"}
    assert convolutions == {"n/score_last", "n/box_last", "n/expected"}
    assert {"n/likely", "n/scores", "n/output0", "n/centre"} <= tail
    assert not {"n/stem", "n/dark", "n/joined", "n/features", "n/kept"} & tail


def test_tail_does_not_depend_on_names(float_model: bytes) -> None:
    model = load_graph(float_model)
    named = len(float_tail(model))
    for node in model.graph.node:
        node.name = ""
    name_nodes(model)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert len(float_tail(model)) == named


def test_a_convolution_behind_a_softmax_that_is_not_the_last_stays_a_last_one() -> None:
    # Without a softmax before it, the very last convolution ends the search.
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Softmax", ["images"], ["soft"], name="soft"),
            helper.make_node("Conv", ["soft", "w"], ["first"], name="first"),
            helper.make_node("Conv", ["first", "w"], ["out"], name="last"),
        ],
        "two",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1, 1, 4, 4])],
        [weight],
    )
    assert float_tail(helper.make_model(graph)) == {"last"}


def test_work_is_multiply_accumulates(float_model: bytes) -> None:
    work = convolution_work(load_graph(float_model))
    points = 49
    stem = points * 4 * 3 * 16 * 16
    inner = points * (4 * 4 + 8 * 2)
    last = points * 2 * (1 + 16)
    expectation = points * 4 * 4
    assert work.total == stem + inner + last + expectation
    assert work.quantised == 0
    assert work.share == 0


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(DataError, match="not a valid ONNX graph"):
        load_graph(b"no model")
