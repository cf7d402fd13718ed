"""Int8 graphs with QuantizeLinear / DequantizeLinear pairs, one kind per runtime family.

Owns where pairs go and how numbers become int8. Does not own the ranges (see
``calibration.ranges``) nor which end of the graph stays in float (see ``graph``).

Why two kinds: ONNX Runtime and OpenVINO on a CPU multiply unsigned activations with
signed weights and want every tensor between int8 operators in int8; TensorRT takes
symmetric signed int8 only, fuses best when nothing but the inputs of convolutions is
marked, and refuses quantised scalar constants. The graph of the one is slower than float
on the other.

Both are written node by node instead of through ONNX Runtime's quantiser, whose options
differ between the releases for Python 3.10 and later; this way the same input gives the
same bytes on all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.ranges import Range
from edge_runtime.errors import DataError
from export.graph import float_tail, load_graph, name_nodes
from export.trained_scales import TrainedScales

# Operators with weights of their own.
_WEIGHTED = frozenset({"Conv", "Gemm"})
# They hand values on, or means of them, so their output keeps the input's scale; runtimes
# only run them in int8 then.
_SAME_SCALE = frozenset({"MaxPool", "AveragePool", "Resize", "Split", "Flatten"})
# Operators that CPU runtimes have in int8 and that a ReLU detector or a head consists of.
_CPU_OPERATORS = frozenset({"Relu", "LeakyRelu", "Add", "Concat", *_WEIGHTED, *_SAME_SCALE})
# They compute nothing: not worth rounding for unless what they move is in int8 already.
_MOVE_ONLY = frozenset({"Concat", "Flatten"})
# A bias is added in int32 with scale input x weight; half of what int32 holds.
_LARGEST_BIAS = 2.0**30
# A channel or tensor of zeros would have scale 0, which runtimes refuse.
_SMALLEST_SCALE = 1e-9


@dataclass(frozen=True, slots=True)
class _Scale:
    """How a tensor becomes 8 bits: value = scale x (number - zero point)."""

    scale: float
    zero_point: int
    signed: bool


class _GraphWriter:
    """Builds the new node list; every pair and every int8 weight is made once."""

    def __init__(self, model: Any) -> None:
        self._graph = model.graph
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        self._nodes: list[Any] = []
        self._added: dict[str, Any] = {}
        self._scales: dict[str, NDArray[np.float32]] = {}

    def weight(self, name: str) -> NDArray[np.float32] | None:
        """A float weight's values, or None when the tensor is none."""
        from onnx import numpy_helper

        tensor = self._weights.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor), np.float32)

    def append(self, node: Any) -> None:
        """Adds a node as it is."""
        self._nodes.append(node)

    def append_pair(self, tensor: str, scale: _Scale) -> str:
        """Adds Q and DQ behind a tensor and returns the name of the rounded tensor."""
        from onnx import helper

        dtype = np.int8 if scale.signed else np.uint8
        parameters = [
            self._constant(f"{tensor}/scale", np.array(scale.scale, np.float32)),
            self._constant(f"{tensor}/zero_point", np.array(scale.zero_point, dtype)),
        ]
        number, rounded = f"{tensor}/int8", f"{tensor}/rounded"
        self._nodes.append(
            helper.make_node("QuantizeLinear", [tensor, *parameters], [number], name=f"{tensor}/Q")
        )
        self._nodes.append(
            helper.make_node(
                "DequantizeLinear", [number, *parameters], [rounded], name=f"{tensor}/DQ"
            )
        )
        return rounded

    def append_numbers(self, name: str, numbers: NDArray[Any], scale: NDArray[np.float32]) -> str:
        """Adds stored integers with one scale per first axis; returns their float name.

        Layers that share a weight or a bias share its integers only where they share the
        scale: a bias is counted in steps of its own layer's input.
        """
        from onnx import helper

        own, copies = name, 0
        while (known := self._scales.get(own)) is not None and not np.array_equal(known, scale):
            copies += 1
            own = f"{name}/{copies}"
        name = own
        rounded = f"{name}/rounded"
        if known is None:
            self._scales[name] = scale
            parameters = [
                self._constant(f"{name}/int8", numbers),
                self._constant(f"{name}/scale", scale),
                self._constant(f"{name}/zero_point", np.zeros(len(scale), numbers.dtype)),
            ]
            self._nodes.append(
                helper.make_node(
                    "DequantizeLinear", parameters, [rounded], name=f"{name}/DQ", axis=0
                )
            )
        return rounded

    def finish(self) -> None:
        """Puts the new nodes and weights into the graph; float weights go when unused."""
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        del self._graph.initializer[:]
        self._graph.initializer.extend([*kept, *self._added.values()])
        # Shapes are inferred again by whoever needs them; stale ones must not travel.
        del self._graph.value_info[:]

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._added[name] = numpy_helper.from_array(values, name)
        return name


def tensors_to_measure(model: bytes) -> list[str]:
    """Activations whose range either kind of graph needs, in graph order.

    Raises:
        DataError: not an ONNX model, or one that is quantised already.
    """
    graph = load_graph(model)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.graph.node):
        raise DataError("quantisation: the model is quantised already; give the float one")
    name_nodes(graph)
    cpu = _cpu_region(graph)
    names = [*_cpu_tensors(graph, cpu), *_convolution_inputs(graph)]
    return list(dict.fromkeys(names))


def quantise_for_cpu(
    model: bytes,
    ranges: Mapping[str, Range],
    trained: TrainedScales | None = None,
    *,
    keep_float: Collection[str] = (),
) -> bytes:
    """Unsigned activations, signed weights per channel, int32 bias.

    Weights use all 8 bits: processors with VNNI or its ARM counterpart add products in 32
    bits. On older ones sums of two products can saturate at 16 bits.

    Args:
        model: float ONNX bytes.
        ranges: measured range of every tensor in ``tensors_to_measure``.
        trained: of quantisation-aware training; its weights' scales are taken, for its
            activations were symmetric and these are not.
        keep_float: further nodes that stay in float, by name; nameless ones are called by
            ``graph.name_nodes``.

    Returns:
        ONNX bytes; the same for the same input.

    Raises:
        DataError: not an ONNX model, a range is missing, or no node has a name that is to stay
            in float.
    """
    graph = load_graph(model)
    name_nodes(graph)
    _check_names(graph, keep_float)
    region = _cpu_region(graph, keep_float)
    scales = _cpu_scales(graph, region, ranges)
    writer = _GraphWriter(graph)
    rounded: dict[str, str] = {}
    for value in graph.graph.input:
        if value.name in scales:
            rounded[value.name] = writer.append_pair(value.name, scales[value.name])
    for node in graph.graph.node:
        if node.op_type in _WEIGHTED and node.name in region:
            _quantise_weights(writer, node, scales[node.input[0]].scale, trained)
        node.input[:] = [rounded.get(name, name) for name in node.input]
        writer.append(node)
        for name in node.output:
            if name in scales:
                rounded[name] = writer.append_pair(name, scales[name])
    writer.finish()
    return _bytes(graph)


def quantise_for_tensorrt(
    model: bytes,
    ranges: Mapping[str, Range],
    trained: TrainedScales | None = None,
    *,
    keep_float: Collection[str] = (),
) -> bytes:
    """Symmetric signed int8 before every convolution outside the float tail.

    Zero points are 0, weights have one scale per output channel and are stored as int8,
    biases stay in float. Matrix products (a detector's attention block, a head's fully
    connected layers) stay in float: they are few and TensorRT has them in half precision.

    Args:
        model: float ONNX bytes.
        ranges: measured range of every tensor in ``tensors_to_measure``.
        trained: of quantisation-aware training; where it has a scale, that one is taken.
        keep_float: further nodes that stay in float, by name; nameless ones are called by
            ``graph.name_nodes``.

    Returns:
        ONNX bytes; the same for the same input.

    Raises:
        DataError: not an ONNX model, a range is missing, or no node has a name that is to stay
            in float.
    """
    graph = load_graph(model)
    name_nodes(graph)
    _check_names(graph, keep_float)
    known = {} if trained is None else trained.inputs
    tail = float_tail(graph).union(keep_float)
    writer = _GraphWriter(graph)
    rounded: dict[str, str] = {}
    for node in graph.graph.node:
        if node.op_type == "Conv" and node.name not in tail:
            source = node.input[0]
            if source not in rounded:
                scale = (
                    _Scale(known[source], 0, signed=True)
                    if source in known
                    else _symmetric(_range(ranges, source))
                )
                rounded[source] = writer.append_pair(source, scale)
            _quantise_weights(writer, node, None, trained)
            node.input[0] = rounded[source]
        writer.append(node)
    writer.finish()
    return _bytes(graph)


def _check_names(model: Any, keep_float: Collection[str]) -> None:
    unknown = set(keep_float) - {node.name for node in model.graph.node}
    if unknown:
        raise DataError(
            f"quantisation: {sorted(unknown)[0]!r} is to stay in float, but the model has no "
            "such node; name nodes of this very model"
        )


def _cpu_region(model: Any, keep_float: Collection[str] = ()) -> set[str]:
    """Nodes that run in int8 on a CPU."""
    tail = float_tail(model).union(keep_float)
    weights = {tensor.name for tensor in model.graph.initializer}
    made = {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    region = set()
    within: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in _CPU_OPERATORS or node.name in tail:
            continue
        operands = _data_inputs(node)
        # An operand that is a constant (other than a weight) is not worth a scale.
        if any(name in weights or name in made for name in operands):
            continue
        if node.op_type in _MOVE_ONLY and not within.intersection(operands):
            continue
        if node.op_type == "Gemm" and not _is_plain_gemm(node):
            continue
        region.add(node.name)
        within.update(node.output)
    return region


def _is_plain_gemm(node: Any) -> bool:
    """Whether it is input x transposed weights + bias: one weight row per output."""
    from onnx import helper

    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    return {**defaults, **given} == {**defaults, "transB": 1}


def _data_inputs(node: Any) -> list[str]:
    """Inputs that carry activations: sizes and weights left out."""
    return list(node.input[:1] if node.op_type in {*_WEIGHTED, *_SAME_SCALE} else node.input)


def _cpu_tensors(model: Any, region: set[str]) -> list[str]:
    """Tensors that get a pair: all at int8 nodes, but for those that only a ReLU reads."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    names: list[str] = []
    for node in model.graph.node:
        if node.name not in region:
            continue
        # A convolution and its ReLU are one int8 operator.
        names += [
            name
            for name in (*_data_inputs(node), *node.output)
            if any(reader.op_type != "Relu" for reader in readers.get(name, []))
        ]
    return list(dict.fromkeys(names))


def _convolution_inputs(model: Any) -> list[str]:
    tail = float_tail(model)
    return [
        node.input[0]
        for node in model.graph.node
        if node.op_type == "Conv" and node.name not in tail
    ]


def _cpu_scales(model: Any, region: set[str], ranges: Mapping[str, Range]) -> dict[str, _Scale]:
    scales = {name: _asymmetric(_range(ranges, name)) for name in _cpu_tensors(model, region)}
    for node in model.graph.node:
        if node.name in region and node.op_type in _SAME_SCALE:
            for name in node.output:
                if name in scales:
                    scales[name] = scales[node.input[0]]
    return scales


def _range(ranges: Mapping[str, Range], name: str) -> Range:
    try:
        return ranges[name]
    except KeyError:
        raise DataError(
            f"quantisation: activation {name!r} was not measured; calibrate this very model"
        ) from None


def _asymmetric(measured: Range) -> _Scale:
    scale = max((measured.high - measured.low) / 255, _SMALLEST_SCALE)
    return _Scale(scale, int(np.clip(round(-measured.low / scale), 0, 255)), signed=False)


def _symmetric(measured: Range) -> _Scale:
    reach = max(abs(measured.low), abs(measured.high))
    return _Scale(max(reach / 127, _SMALLEST_SCALE), 0, signed=True)


def _quantise_weights(
    writer: _GraphWriter, node: Any, input_scale: float | None, trained: TrainedScales | None
) -> None:
    """Replaces a node's weights, and with ``input_scale`` its bias, by integers."""
    weights = writer.weight(node.input[1])
    if weights is None:
        raise DataError(
            f"quantisation: {node.op_type} {node.name!r} computes its weights; only stored "
            "weights can be quantised"
        )
    known = None if trained is None else trained.weights.get(node.input[1])
    if known is None:
        scale = np.abs(weights.reshape(len(weights), -1)).max(axis=1).astype(np.float64) / 127
    else:
        scale = known.astype(np.float64)
    bias_name = node.input[2] if len(node.input) > 2 else ""
    bias = writer.weight(bias_name) if bias_name and input_scale is not None else None
    if bias is not None and input_scale is not None:
        scale = np.maximum(scale, np.abs(bias) / (input_scale * _LARGEST_BIAS))
    scale = np.maximum(scale, _SMALLEST_SCALE).astype(np.float32)
    by_channel = scale.reshape(-1, *[1] * (weights.ndim - 1))
    # Weights that grew beyond their trained scale were cut at the end of the 8 bits.
    lowest = -127 if known is None else -128
    numbers = np.clip(np.rint(weights / by_channel), lowest, 127).astype(np.int8)
    node.input[1] = writer.append_numbers(node.input[1], numbers, scale)
    if bias is not None and input_scale is not None:
        bias_scale = (scale * np.float32(input_scale)).astype(np.float32)
        counts = np.rint(bias.astype(np.float64) / bias_scale).astype(np.int32)
        node.input[2] = writer.append_numbers(bias_name, counts, bias_scale)


def _bytes(model: Any) -> bytes:
    import onnx

    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
