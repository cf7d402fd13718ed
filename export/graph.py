"""What an ONNX graph consists of: its float tail, its convolutions, their work.

Owns reading the graph's structure. Does not own changing it (see ``qdq``). Parts are
found by how nodes are connected, never by their names: names belong to the exporter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.bundle import Decode
from edge_runtime.errors import DataError

# Only moves or renames values, so a search may look through it.
_SHAPE_ONLY = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
# Corners, score, class; and centre, width, height before the scores.
_FIND_COLUMNS = 6
_BOX_ROWS = 4


@dataclass(frozen=True, slots=True)
class ConvolutionWork:
    """Multiply-accumulates of all convolutions, and of those between Q/DQ pairs."""

    total: int
    quantised: int

    @property
    def share(self) -> float:
        """Quantised share, 0..1."""
        return self.quantised / self.total if self.total else 0.0


def load_graph(model: bytes) -> Any:
    """The ONNX model with the shape of every tensor inferred.

    Raises:
        DataError: not an ONNX model.
    """
    import onnx

    try:
        loaded = onnx.load_from_string(model)
        onnx.checker.check_model(loaded)
        return onnx.shape_inference.infer_shapes(loaded, data_prop=True)
    except Exception as error:  # protobuf and onnx raise their own unrelated classes
        reason = " ".join(str(error).split())
        raise DataError(f"float model: not a valid ONNX graph ({reason})") from error


def float_tail(model: Any) -> set[str]:
    """Names of the nodes that stay in float: the end of a detector or of a head.

    These are the last convolutions before each output, and everything behind them:
    concatenation, the expectation over distance bins (DFL) and its softmax, decoding to
    boxes, the scores' sigmoid. Box coordinates and scores share output tensors whose
    ranges differ a hundredfold; 256 levels over them round small scores to zero.

    Going back from the outputs, the first convolution on every way is a last one. The
    convolution of DFL is passed: it reads a softmax and only weighs its bins. In a head that
    ends with fully connected layers (``Gemm``), the last of these is the tail.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    tail: set[str] = set()
    waiting = [output.name for output in model.graph.output]
    while waiting:
        node = producer.get(waiting.pop())
        if node is None or node.name in tail:
            continue
        tail.add(node.name)
        if node.op_type == "Gemm":
            continue
        if node.op_type == "Conv" and not _reads_softmax(node, producer):
            continue
        waiting.extend(node.input)
    return tail


def convolution_work(model: Any) -> ConvolutionWork:
    """Counts the multiply-accumulates of one picture, in a head of one cell.

    A convolution is quantised when both its data and its weights come out of
    ``DequantizeLinear``: counted in the finished graph, not in a plan for it.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    shapes = _shapes(model)
    total = quantised = 0
    for node in convolutions(model):
        out, weight = shapes[node.output[0]], shapes[node.input[1]]
        work = int(np.prod(out)) * int(np.prod(weight[1:]))
        total += work
        if all(
            name in producer and producer[name].op_type == "DequantizeLinear"
            for name in node.input[:2]
        ):
            quantised += work
    return ConvolutionWork(total, quantised)


def decode_of(model: Any) -> Decode:
    """How a detector's first output is read, by its shape.

    Raises:
        DataError: its shape is neither form.
    """
    output = model.graph.output[0]
    sides = tuple(side.dim_value for side in output.type.tensor_type.shape.dim)
    if len(sides) == 3 and sides[2] == _FIND_COLUMNS:
        return "xyxy_score_class"
    if len(sides) == 3 and sides[1] > _BOX_ROWS:
        return "xywh_scores"
    raise DataError(
        f"detector: output {output.name!r} {sides} is neither (1, 4 + classes, anchors) nor "
        "(1, finds, 6); export a detection network"
    )


def convolutions(model: Any) -> Iterator[Any]:
    """All convolution nodes in graph order."""
    return (node for node in model.graph.node if node.op_type == "Conv")


def name_nodes(model: Any) -> None:
    """Gives every nameless node a name, so that nodes can be told apart."""
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{index}"


def _reads_softmax(node: Any, producer: dict[str, Any]) -> bool:
    source = producer.get(node.input[0])
    while source is not None and source.op_type in _SHAPE_ONLY:
        source = producer.get(source.input[0])
    return source is not None and source.op_type == "Softmax"


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    graph = model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = value.type.tensor_type.shape
        # A head's first axis has no fixed length; one cell then.
        sides = tuple(int(side.dim_value) or 1 for side in shape.dim)
        shapes.setdefault(value.name, sides)
    return shapes
