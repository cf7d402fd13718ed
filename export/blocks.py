"""A float graph's layers, the blocks they form, and what became of each in an int8 graph.

Owns the list of layers with weights, their grouping and the reason why one is still in float.
Does not own which layers are quantised (see ``qdq``): that is read off the finished graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from calibration.report import LayerState
from edge_runtime.bundle import Runtime
from export.graph import float_tail, load_graph, name_nodes

_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul", "ConvTranspose"})
# Coarser names no cause; finer than some thirty nobody reads or waits for.
_WANTED_BLOCKS = 8

IN_TAIL = "last layer before an output: box distances and scores share tensors of unlike range"
LEFT_OUT = "left in float on purpose: this candidate excludes its block"
NO_WEIGHTS = "multiplies two activations; only layers with stored weights are quantised"
NOT_FOR_TENSORRT = "fully connected; TensorRT runs these few in half precision"
NOT_FOR_CPU = "of a form that the processors' runtimes have no int8 operator for"


def blocks_of(model: bytes) -> dict[str, frozenset[str]]:
    """The nodes of every block that has a layer which can be int8, in graph order.

    A block is a module of the network as exporters write it into node names
    (``/model.4/cv1/conv/Conv``): as shallow as gives eight blocks, else as deep as there are
    names. Without such names each layer is a block together with the nodes behind it.

    Raises:
        DataError: not an ONNX model.
    """
    graph = load_graph(model)
    name_nodes(graph)
    tail = float_tail(graph)
    weights = {tensor.name for tensor in graph.graph.initializer}
    layers = [
        node.name
        for node in graph.graph.node
        if _has_weights(node, weights) and node.name not in tail
    ]
    names = _scoped(graph, layers) or _by_layer(graph, layers)
    blocks: dict[str, set[str]] = {}
    for node in graph.graph.node:
        if node.name not in tail:
            blocks.setdefault(names[node.name], set()).add(node.name)
    return {
        block: frozenset(nodes) for block, nodes in blocks.items() if nodes.intersection(layers)
    }


def all_but(model: bytes, kept: Collection[str]) -> frozenset[str]:
    """Names of all nodes except these: what stays in float when only ``kept`` is int8."""
    graph = load_graph(model)
    name_nodes(graph)
    return frozenset(node.name for node in graph.graph.node).difference(kept)


def layer_states(
    model: bytes, int8: bytes, runtime: Runtime, *, keep_float: Collection[str] = ()
) -> list[LayerState]:
    """What became of every layer.

    Args:
        model: float ONNX bytes.
        int8: the graph made of it.
        runtime: family it was made for.
        keep_float: nodes that were excluded.
    """
    graph, finished = load_graph(model), load_graph(int8)
    name_nodes(graph)
    tail = float_tail(graph)
    weights = {tensor.name for tensor in graph.graph.initializer}
    block_of = {node: block for block, nodes in blocks_of(model).items() for node in nodes}
    quantised = _quantised_nodes(finished)
    states = []
    for node in graph.graph.node:
        if node.op_type not in _WEIGHTED:
            continue
        why = ""
        if node.name not in quantised:
            if node.name in keep_float:
                why = LEFT_OUT
            elif node.name in tail:
                why = IN_TAIL
            elif not _has_weights(node, weights):
                why = NO_WEIGHTS
            else:
                why = NOT_FOR_TENSORRT if runtime == "tensorrt" else NOT_FOR_CPU
        states.append(
            LayerState(
                name=node.name,
                kind=node.op_type,
                block=block_of.get(node.name, ""),
                output=node.output[0],
                int8=node.name in quantised,
                why_float=why,
            )
        )
    return states


def _quantised_nodes(model: Any) -> set[str]:
    from_int8 = {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    return {
        node.name
        for node in model.graph.node
        if node.op_type in _WEIGHTED and from_int8.issuperset(node.input[:2])
    }


def _has_weights(node: Any, weights: Collection[str]) -> bool:
    return node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[1] in weights


def _scoped(graph: Any, layers: Collection[str]) -> Mapping[str, str]:
    """Block by node out of the names, or nothing when they have no parts."""
    scopes = {node.name: node.name.strip("/").split("/")[:-1] for node in graph.graph.node}
    deepest = max((len(scopes[name]) for name in layers), default=0)
    if deepest == 0:
        return {}
    names: dict[str, str] = {}
    for depth in range(1, deepest + 1):
        # Nodes beside the modules of this depth stay with the module they are in.
        names = {node: "/".join(parts[:depth]) or node for node, parts in scopes.items()}
        if len({names[layer] for layer in layers}) >= _WANTED_BLOCKS:
            break
    return names if len({names[layer] for layer in layers}) > 1 else {}


def _by_layer(graph: Any, layers: Collection[str]) -> Mapping[str, str]:
    """Every node belongs to the last layer before it."""
    names: dict[str, str] = {}
    current = next(iter(layers), "")
    for node in graph.graph.node:
        if node.name in layers:
            current = node.name
        names[node.name] = current
    return names


def last_layers(model: bytes) -> list[str]:
    """Tensors that the last layers put out, before decoding.

    Boxes in pixels and scores in 0..1 share a detector's output: the difference that rounding
    makes to a score would be lost in one number for both.

    Raises:
        DataError: not an ONNX model.
    """
    graph = load_graph(model)
    name_nodes(graph)
    tail = float_tail(graph)
    maker = {name: node.name for node in graph.graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.graph.initializer}
    return [
        node.output[0]
        for node in graph.graph.node
        # What reads a node of the tail, as the convolution of DFL does, is already decoding.
        if node.name in tail
        and _has_weights(node, weights)
        and maker.get(node.input[0]) not in tail
    ]
