"""Int8 scales that a network was trained with, out of its Q/DQ graph.

Owns reading them from the graph that the training side exports of a quantisation-aware
checkpoint, and matching them to the float graph of the same checkpoint. Does not own the
training (see ``train``) nor writing int8 graphs (see ``qdq``).

The graph as it comes is not shipped: it keeps its weights in float behind a
QuantizeLinear, four times as large, and leaves other convolutions in float than ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError
from export.graph import convolutions, load_graph

# Both graphs hold the same weights; what folding batch normalisation twice may differ by.
_SAME = 1e-5


@dataclass(frozen=True, slots=True)
class TrainedScales:
    """What quantisation-aware training has fixed.

    Attributes:
        inputs: scale per tensor of the float graph that a convolution reads.
        weights: scale per output channel, per name of a convolution's weight.
    """

    inputs: Mapping[str, float]
    weights: Mapping[str, NDArray[np.float32]]


def trained_scales(quantised: bytes, float_model: bytes) -> TrainedScales:
    """Matches the scales of a Q/DQ graph to the float graph of the same checkpoint.

    Convolutions are matched in graph order, which one exporter keeps, and every pair is
    checked by its weights.

    Args:
        quantised: ONNX bytes with a pair at the data and the weights of every convolution
            that was trained in int8.
        float_model: ONNX bytes of the checkpoint without them.

    Raises:
        DataError: the graphs are not of one checkpoint, nothing is quantised, or a scale is
            of another kind than symmetric int8.
    """
    ours, theirs = load_graph(float_model), load_graph(quantised)
    plain, paired = list(convolutions(ours)), list(convolutions(theirs))
    if len(plain) != len(paired):
        raise DataError(
            f"trained scales: {len(paired)} convolutions, the float model has {len(plain)}; "
            "export both from one checkpoint"
        )
    weights, reader = _Constants(ours), _Constants(theirs)
    inputs: dict[str, float] = {}
    by_weight: dict[str, NDArray[np.float32]] = {}
    for node, twin in zip(plain, paired, strict=True):
        data, weight = reader.pair(twin.input[0]), reader.pair(twin.input[1])
        if data is None or weight is None:
            continue
        _check_same(weights.value(node.input[1]), reader.value(weight.source), node.name)
        scale = float(data.scale.max())
        known = inputs.setdefault(node.input[0], scale)
        if not np.isclose(known, scale, rtol=1e-3):
            raise DataError(
                f"trained scales: tensor {node.input[0]!r} was trained with two scales, "
                f"{known:g} and {scale:g}; train again"
            )
        by_weight[node.input[1]] = weight.scale.reshape(-1)
    if not inputs:
        raise DataError(
            "trained scales: no convolution was trained in int8; give a checkpoint of a "
            "quantisation-aware training"
        )
    return TrainedScales(inputs, by_weight)


@dataclass(frozen=True, slots=True)
class _Pair:
    source: str
    scale: NDArray[np.float32]


class _Constants:
    """Values stored in a graph, however they are stored, and the pairs in it."""

    def __init__(self, model: Any) -> None:
        self._producer = {name: node for node in model.graph.node for name in node.output}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def value(self, name: str) -> NDArray[np.float32]:
        """A constant's numbers.

        Raises:
            DataError: it is computed.
        """
        from onnx import numpy_helper

        tensor = self._stored.get(name)
        node = self._producer.get(name)
        while tensor is None and node is not None and node.op_type in ("Identity", "Constant"):
            if node.op_type == "Constant":
                tensor = node.attribute[0].t
            else:
                # The exporter stores equal values once.
                tensor = self._stored.get(node.input[0])
                node = self._producer.get(node.input[0])
        if tensor is None:
            raise DataError(f"trained scales: {name!r} is computed, not stored; export again")
        return np.asarray(numpy_helper.to_array(tensor))

    def pair(self, tensor: str) -> _Pair | None:
        """What stands behind a tensor that comes out of a pair; None where none is.

        Raises:
            DataError: it is not of symmetric int8.
        """
        dequantise = self._producer.get(tensor)
        if dequantise is None or dequantise.op_type != "DequantizeLinear":
            return None
        quantise = self._producer.get(dequantise.input[0])
        if quantise is None or quantise.op_type != "QuantizeLinear":
            return None
        zero = self.value(quantise.input[2]) if len(quantise.input) > 2 else np.zeros(1, np.uint8)
        scale = self.value(quantise.input[1]).astype(np.float32)
        if zero.dtype != np.int8 or np.any(zero) or not np.all(np.isfinite(scale) & (scale > 0)):
            raise DataError(
                f"trained scales: {quantise.name!r} is not symmetric int8 (zero point "
                f"{zero.dtype}, scale {scale.min():g}); train with int8"
            )
        return _Pair(quantise.input[0], scale)


def _check_same(ours: NDArray[np.float32], theirs: NDArray[np.float32], convolution: str) -> None:
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=_SAME, atol=_SAME):
        raise DataError(
            f"trained scales: the weights of {convolution!r} differ from the float model's; "
            "export both from one checkpoint"
        )
