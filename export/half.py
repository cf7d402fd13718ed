"""Float16 graphs: half the memory, and the precision that RTX cards are fast in.

Owns which part of a graph stays in float32. Does not own the conversion of a node
(``onnxruntime.transformers``) nor int8 (see ``qdq``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge_runtime.bundle import Artifact, Precision, Runtime
from edge_runtime.errors import DataError
from export.graph import float_tail, load_graph, name_nodes


def also_artifact(head: str, precision: Precision) -> Artifact:
    """What an unquantised artifact of a head is called in the manifest.

    Args:
        head: as in ``<head>.<runtime>.<precision>.onnx``.
        precision: float16, which runs on TensorRT, or float32, which runs anywhere.
    """
    runtime: Runtime = "tensorrt" if precision == "float16" else "cpu"
    return Artifact(
        path=f"{head}.{runtime}.{precision}.onnx",
        runtime=runtime,
        precision=precision,
        quantisation="none, last layers float32" if precision == "float16" else "none",
    )


def unquantised(model: bytes, precision: Precision) -> bytes:
    """The float32 graph in a precision that needs no ranges.

    Raises:
        DataError: not an ONNX model.
    """
    return to_half(model) if precision == "float16" else model


def to_half(model: bytes) -> bytes:
    """The graph in float16, its inputs, outputs and float tail in float32.

    Half precision has steps of a quarter pixel from 256 on, so boxes are decoded in float32,
    as they are in the int8 graphs.

    Args:
        model: float32 ONNX bytes.

    Returns:
        ONNX bytes; the same for the same input.

    Raises:
        DataError: not an ONNX model, or the result is none.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    graph = load_graph(model)
    name_nodes(graph)
    tail = sorted(float_tail(graph))
    with _quiet("onnxruntime.transformers.float16"):
        made = convert_float_to_float16(graph, keep_io_types=True, node_block_list=tail)
    _mend_casts(made.graph, set(tail))
    # It puts its casts at the end, which some runtimes accept and the format does not.
    OnnxModel(made).topological_sort(is_deterministic=True)
    # Shapes are inferred again by whoever needs them; stale ones must not travel.
    del made.graph.value_info[:]
    try:
        onnx.checker.check_model(made)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"float16: the graph cannot be converted ({reason})") from error
    content: bytes = made.SerializeToString(deterministic=True)
    return content


def _mend_casts(graph: Any, tail: set[str]) -> None:
    """Casts once per tensor, and none between two nodes that are both in float32.

    The converter rounds to float16 between any two nodes that it was told to leave alone,
    which is what leaving them alone was to prevent, and does so anew for every reader.
    """
    from onnx import TensorProto

    nodes = list({node.output[0]: node for node in reversed(graph.node)}.values())[::-1]
    makers = {name: node for node in nodes for name in node.output}
    outputs = {output.name for output in graph.output}
    # Tensors by the name that they go by from here on.
    renamed: dict[str, str] = {}
    dropped: set[str] = set()
    for node in nodes:
        below = makers.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if below is None or not _casts_to(below, TensorProto.FLOAT16):
            continue
        source = makers.get(below.input[0])
        if source is None or source.name not in tail:
            continue
        back, original = node.output[0], below.input[0]
        if back in outputs:
            # An output keeps its name, so the tensor itself takes it.
            renamed[original] = back
            dropped.add(back)
        else:
            renamed[back] = original
    nodes = [node for node in nodes if not (_casts(node) and node.output[0] in dropped)]
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if not _casts(node):
            node.output[:] = [renamed.get(name, name) for name in node.output]
    # Twice: a cast that nobody reads may be the only reader of another.
    for _ in range(2):
        read = outputs.union(*(node.input for node in nodes))
        nodes = [node for node in nodes if not _casts(node) or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(nodes)


def _casts(node: Any) -> bool:
    return bool(node.op_type == "Cast")


def _casts_to(node: Any, kind: int) -> bool:
    return _casts(node) and node.attribute[0].i == kind


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """The converter warns of every weight that it rounds to the smallest half."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
