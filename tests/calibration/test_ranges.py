"""Ranges against values a graph is known to produce."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest

from calibration.ranges import METHODS, Method, Range, measure_ranges
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array

onnx = pytest.importorskip("onnx")


def doubling_graph() -> bytes:
    """``images`` -> ``twice`` = 2 x images -> ``out`` = ReLU(twice)."""
    helper = onnx.helper
    shape = [1, 1, 100, 100]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["images", "two"], ["twice"], name="mul"),
            helper.make_node("Relu", ["twice"], ["out"], name="relu"),
        ],
        "doubling",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def tensor(values: Iterable[float]) -> Float32Array:
    flat = np.fromiter(values, np.float32)
    return np.resize(flat, (1, 1, 100, 100)).astype(np.float32)


def measured(tensors: list[Float32Array], method: Method, name: str = "twice") -> Range:
    return measure_ranges(doubling_graph(), [name], lambda: tensors, method=method)[name]


def test_minmax_covers_every_picture() -> None:
    tensors = [tensor([0, 1]), tensor([-3, 0.5])]
    ranges = measure_ranges(doubling_graph(), ["images", "twice", "out"], lambda: tensors)
    assert ranges == {"images": Range(-3, 1), "twice": Range(-6, 2), "out": Range(0, 2)}


def test_zero_is_always_inside() -> None:
    assert measured([tensor([2, 3])], "minmax") == Range(0, 6)
    assert measured([tensor([-2, -3])], "minmax") == Range(-6, 0)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_a_lone_outlier_is_left_out(method: Method) -> None:
    rng = np.random.default_rng(0)
    tensors = [rng.normal(0, 1, (1, 1, 100, 100)).astype(np.float32) for _ in range(8)]
    tensors[3][0, 0, 5, 5] = 20.0
    assert measured(tensors, "minmax").high == 40
    # Twice four standard deviations hold all but the outlier.
    assert 5 < measured(tensors, method).high < 12


@pytest.mark.parametrize("method", METHODS)
def test_evenly_spread_values_keep_their_range(method: Method) -> None:
    tensors = [tensor(np.linspace(0, 1, 10_000))]
    found = measured(tensors, method)
    assert found.low == pytest.approx(0, abs=0.02)
    assert found.high == pytest.approx(2, rel=0.06)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_activation_has_its_own_range(method: Method) -> None:
    assert measured([tensor([0])], method) == Range(0, 0)
    assert measured([tensor([1.5])], method) == Range(0, 3)


def test_least_error_clips_only_when_that_is_cheaper() -> None:
    dense = np.linspace(-1, 1, 10_000)
    near = tensor([*dense[:-1], 1.02])
    far = tensor([*dense[:-1], 40.0])
    # Doubled by the graph. One value 0.02 out costs less than a coarser step for all, one
    # 39 out costs more.
    assert measured([near], "mse").high == pytest.approx(2.0, abs=0.02)
    assert measured([far], "mse").high == pytest.approx(80, rel=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_pictures_does_not_matter(method: Method) -> None:
    rng = np.random.default_rng(2)
    tensors = [rng.normal(0, 1, (1, 1, 100, 100)).astype(np.float32) for _ in range(4)]
    both = [measured(each, method) for each in (tensors, tensors[::-1])]
    assert all(one == other for one, other in pairwise(both))


def test_no_tensors_no_ranges() -> None:
    with pytest.raises(DataError, match="no calibration data"):
        measured([], "minmax")


def test_a_range_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="'twice' has no finite range"):
        measured([tensor([np.inf])], "minmax")
