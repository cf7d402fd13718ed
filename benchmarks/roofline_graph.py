"""What one run of an ONNX graph computes and moves, kernel by kernel.

Owns shapes, multiply-accumulates, and which nodes share a kernel. Does not own devices nor times
(see ``roofline``). Nodes are put together as runtimes commonly do:

* what depends on constants alone is done before;
* reshaping, joining and cutting tensors, and the Q/DQ pairs themselves, cost nothing;
* pointwise operations run inside the kernel that makes the last of their inputs.

A tensor between two kernels is written once and read once by each kernel that uses it. Whatever
a cache saves, or a runtime does not fuse, is in the efficiency of the device, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_runtime.errors import DataError
from export.graph import load_graph, name_nodes

_FREE = frozenset(
    {
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "DequantizeLinear",
        "Dropout",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Range",
        "Reshape",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Unsqueeze",
    }
)
_POINTWISE = frozenset(
    {
        "Abs",
        "Add",
        "BatchNormalization",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Sub",
        "Tanh",
        "Where",
    }
)
_INT8_TYPES = frozenset({2, 3})  # onnx.TensorProto.UINT8, INT8


@dataclass(frozen=True, slots=True)
class Kernel:
    """Nodes that run as one.

    Attributes:
        name: of its first node.
        operation: of its first node.
        nodes: how many.
        macs: multiply-accumulates.
        int8: whether all of these are between Q/DQ pairs.
        float_elements: values that are read or written in float.
        int8_elements: values that are read or written in int8.
    """

    name: str
    operation: str
    nodes: int
    macs: int
    int8: bool
    float_elements: int
    int8_elements: int


@dataclass(slots=True)
class _Open:
    """A kernel that still grows."""

    first: Any
    nodes: int = 0
    macs: int = 0
    int8_macs: int = 0
    reads: set[str] = field(default_factory=set)
    makes: list[str] = field(default_factory=list)


def kernels_of(model: bytes, shapes: Mapping[str, tuple[int, ...]] | None = None) -> list[Kernel]:
    """All kernels of one run, in graph order.

    Args:
        model: ONNX bytes.
        shapes: of inputs whose size is free; a free first axis is one otherwise.

    Raises:
        DataError: no ONNX model, an input whose size nobody told, or a shape that cannot be found.
    """
    loaded = _with_input_shapes(model, shapes or {})
    name_nodes(loaded)
    graph = loaded.graph
    tensors = _Tensors(_all_shapes(loaded))
    tensors.constant = {each.name for each in graph.initializer}
    tensors.int8 = {each.name for each in graph.initializer if each.data_type in _INT8_TYPES}
    kernels: list[_Open] = []
    maker: dict[str, int] = {}
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "DequantizeLinear":
            tensors.int8.update(node.output)
        if all(name in tensors.constant for name in inputs):
            tensors.constant.update(node.output)
            continue
        if node.op_type in _FREE:
            continue
        made_by = [maker[name] for name in inputs if name in maker]
        place = len(kernels)
        if node.op_type in _POINTWISE and made_by:
            place = max(made_by)
        else:
            kernels.append(_Open(node))
        kernel, work = kernels[place], _macs(node, tensors.shapes)
        kernel.nodes += 1
        kernel.macs += work
        if all(name in tensors.int8 for name in inputs[:2]):
            kernel.int8_macs += work
        kernel.reads.update(inputs)
        kernel.makes.extend(node.output)
        maker.update(dict.fromkeys(node.output, place))
    for node in graph.node:
        for name in node.input:
            tensors.readers.setdefault(name, []).append(node)
    tensors.asked = {each.name for each in graph.output}
    return [_closed(each, tensors) for each in kernels]


@dataclass(slots=True)
class _Tensors:
    """What is known of a graph's tensors by name.

    Attributes:
        int8: those that a reader loads as int8: behind ``DequantizeLinear``, or weights so stored.
        asked: outputs of the graph.
    """

    shapes: Mapping[str, tuple[int, ...]]
    constant: set[str] = field(default_factory=set)
    int8: set[str] = field(default_factory=set)
    readers: dict[str, list[Any]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)


def _closed(kernel: _Open, tensors: _Tensors) -> Kernel:
    made = set(kernel.makes)
    elements = {True: 0, False: 0}
    for name in kernel.reads - made:
        elements[name in tensors.int8] += _volume(tensors.shapes.get(name, ()))
    for name in kernel.makes:
        others = [node for node in tensors.readers.get(name, []) if not set(node.output) <= made]
        if not others and name not in tensors.asked:
            continue
        only_int8 = name not in tensors.asked and all(
            node.op_type == "QuantizeLinear" for node in others
        )
        elements[only_int8] += _volume(tensors.shapes[name])
    return Kernel(
        name=kernel.first.name,
        operation=kernel.first.op_type,
        nodes=kernel.nodes,
        macs=kernel.macs,
        int8=kernel.macs > 0 and kernel.int8_macs == kernel.macs,
        float_elements=elements[False],
        int8_elements=elements[True],
    )


def _macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if node.op_type == "Conv":
        return _volume(shapes[node.output[0]]) * _volume(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return _volume(shapes[node.input[0]]) * _volume(shapes[node.input[1]][1:])
    if node.op_type == "Gemm":
        transposed = any(each.name == "transA" and each.i for each in node.attribute)
        return _volume(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "MatMul":
        return _volume(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return 0


def _volume(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) if shape else 1


def _with_input_shapes(model: bytes, given: Mapping[str, tuple[int, ...]]) -> Any:
    """The graph with every input's size fixed and what follows from it inferred."""
    loaded = load_graph(model)
    names = [each.name for each in loaded.graph.input]
    for name in given:
        if name not in names:
            raise DataError(f"--shape {name}: no such input; the model has {', '.join(names)}")
    stored = {each.name for each in loaded.graph.initializer}
    changed = False
    for each in loaded.graph.input:
        sides = each.type.tensor_type.shape.dim
        if each.name in stored:
            continue
        wanted = given.get(each.name)
        if wanted is not None and len(wanted) != len(sides):
            raise DataError(f"--shape {each.name}: {len(sides)} sides are needed")
        for axis, side in enumerate(sides):
            if side.dim_value > 0 and (wanted is None or wanted[axis] == side.dim_value):
                continue
            if side.dim_value > 0:
                raise DataError(
                    f"--shape {each.name}: side {axis} is fixed at {side.dim_value} in the model"
                )
            if wanted is None and axis > 0:
                raise DataError(
                    f"model: input {each.name!r} has a free size; tell it with "
                    f"--shape {each.name}=1x3x640x640 or the like"
                )
            side.dim_value = 1 if wanted is None else wanted[axis]
            changed = True
    if not changed:
        return loaded
    # Sizes that were inferred from free ones are no longer true.
    del loaded.graph.value_info[:]
    for each in loaded.graph.output:
        for axis, side in enumerate(each.type.tensor_type.shape.dim):
            # Free again: the checker wants the sides to be there.
            side.dim_param = f"{each.name}_{axis}"
    return load_graph(bytes(loaded.SerializeToString()))


def _all_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor; those that cannot be inferred come out of one run on zeros."""
    shapes = {each.name: tuple(each.dims) for each in model.graph.initializer}
    for each in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = each.type.tensor_type
        sides = tuple(side.dim_value for side in kind.shape.dim)
        if kind.HasField("shape") and all(side > 0 for side in sides):
            shapes.setdefault(each.name, sides)
    made = [name for node in model.graph.node for name in node.output if name]
    missing = [name for name in made if name not in shapes]
    return shapes | _shapes_of_a_run(model, missing) if missing else shapes


def _shapes_of_a_run(model: Any, missing: Iterable[str]) -> dict[str, tuple[int, ...]]:
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = list(missing)
    asked = {each.name for each in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in asked)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {
            each.name: np.zeros(
                [side if isinstance(side, int) else 1 for side in each.shape],
                _NUMPY.get(each.type, np.float32),
            )
            for each in session.get_inputs()
        }
        found = session.run(names, feeds)
    except Exception as error:  # ONNX Runtime raises its own unrelated classes
        reason = " ".join(str(error).split())
        raise DataError(f"model: the size of {names[0]!r} cannot be found ({reason})") from error
    return {name: np.shape(value) for name, value in zip(names, found, strict=True)}


_NUMPY: Mapping[str, Any] = {
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}
