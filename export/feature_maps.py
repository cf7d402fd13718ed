"""A detector's early feature maps as further outputs of a graph that is int8 already.

Owns finding the tapped layers' tensors in a quantised graph and naming them as outputs. Does
not own which layers are tapped (the float graph of the same checkpoint says so by its
outputs) nor making either graph.

Nothing is quantised anew and no number changes: the maps are what the int8 graph hands from
layer to layer anyway, dequantised, and the finds stay the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import FeatureMapSpec
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array
from export.graph import load_graph

# Int8 maps of the same weights agree with float ones far better (0.98 and more), those of
# other weights hardly at all.
LEAST_CORRELATION = 0.95
# ONNX' number for float32.
_FLOAT = 1


def expose_feature_maps(
    quantised: bytes, float_model: bytes, maps: Sequence[FeatureMapSpec]
) -> bytes:
    """Adds the maps to a quantised detector's outputs.

    Args:
        quantised: out of ``export.qdq``, without the maps.
        float_model: of the same checkpoint, with the maps among its outputs.
        maps: those wanted.

    Raises:
        DataError: either graph is not of that form.
    """
    import onnx

    graph = load_graph(quantised)
    tapped = load_graph(float_model).graph
    makers = {name: node for node in tapped.node for name in node.output}
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in tapped.output
    }
    outputs = {value.name for value in graph.graph.output}
    halves = {
        value.name
        for value in graph.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    for each in maps:
        if each.name not in shapes or each.name in outputs or each.name not in makers:
            raise DataError(
                f"feature map {each.name!r}: not an output of the float detector, or one of the "
                "int8 detector already; start from a bundle without heads"
            )
        shape = shapes[each.name]
        if shape[1] != each.channels or shape[2] <= 0:
            raise DataError(
                f"feature map {each.name!r}: {shape[1]} channels, the head wants {each.channels}; "
                "give the detector it was trained on"
            )
        tensor = _tensor_of(graph.graph, makers[each.name], each.name)
        if tensor in halves:
            # Heads and statistics read float32.
            graph.graph.node.append(
                onnx.helper.make_node(
                    "Cast", [tensor], [each.name], name=f"{each.name}/float32", to=_FLOAT
                )
            )
        else:
            _rename(graph.graph, tensor, each.name)
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info(each.name, onnx.TensorProto.FLOAT, shape)
        )
    # Shapes are inferred again by whoever needs them; stale ones must not travel.
    del graph.graph.value_info[:]
    onnx.checker.check_model(graph)
    content: bytes = graph.SerializeToString(deterministic=True)
    return content


def check_feature_maps(
    quantised: bytes,
    exposed: bytes,
    float_model: bytes,
    maps: Sequence[FeatureMapSpec],
    tensors: Sequence[Float32Array],
) -> dict[str, float]:
    """Holds an exposed graph against the one it was made of, and against float.

    Args:
        quantised: before.
        exposed: after ``expose_feature_maps``.
        float_model: with the maps among its outputs.
        maps: those exposed.
        tensors: input tensors ``(1, 3, height, width)`` to look at.

    Returns:
        Per map, the least correlation with the float map over all tensors.

    Raises:
        DataError: the finds differ by a bit, or a map is another detector's.
    """
    row = backend_row("onnxruntime")
    least = {each.name: 1.0 for each in maps}
    with (
        open_backend(row, quantised, threads=1) as before,
        open_backend(row, exposed, threads=1) as after,
        open_backend(row, float_model, threads=1) as reference,
    ):
        name = before.inputs[0].name
        for tensor in tensors:
            old, new = before.infer({name: tensor}), after.infer({name: tensor})
            wanted = reference.infer({name: tensor})
            for output, values in old.items():
                if not np.array_equal(values, new[output]):
                    raise DataError(
                        f"detector: with its feature maps put out, {output!r} differs; "
                        "export the whole bundle again"
                    )
            for each in maps:
                found = float(np.corrcoef(new[each.name].ravel(), wanted[each.name].ravel())[0, 1])
                least[each.name] = min(least[each.name], found)
    worst = min(least, key=lambda key: least[key])
    # Written so that a correlation that is no number fails too.
    if not least[worst] >= LEAST_CORRELATION:
        raise DataError(
            f"feature map {worst!r}: correlates {least[worst]:.3f} with the checkpoint's, at "
            f"least {LEAST_CORRELATION} is needed; the bundle was made of another checkpoint"
        )
    return least


def _tensor_of(graph: Any, maker: Any, wanted: str) -> str:
    """The tensor that a float graph's node puts out, as the quantised graph hands it on."""
    same = [n for n in graph.node if n.name == maker.name and n.op_type == maker.op_type]
    if len(same) != 1:
        raise DataError(
            f"feature map {wanted!r}: the int8 detector has no {maker.op_type} "
            f"{maker.name!r}; it was made of another checkpoint"
        )
    tensor: str = same[0].output[0]
    readers = {name: node for node in graph.node for name in node.input[:1]}
    for quantise in (n for n in graph.node if n.op_type == "QuantizeLinear"):
        behind = readers.get(quantise.output[0]) if quantise.input[0] == tensor else None
        if behind is not None and behind.op_type == "DequantizeLinear":
            # What later layers read; the unrounded tensor would cost a copy in float.
            rounded: str = behind.output[0]
            return rounded
    return tensor


def _rename(graph: Any, tensor: str, name: str) -> None:
    # Renamed, not copied: OpenVINO takes a copy away and may keep the other name of the two.
    for node in graph.node:
        node.input[:] = [name if each == tensor else each for each in node.input]
        node.output[:] = [name if each == tensor else each for each in node.output]
