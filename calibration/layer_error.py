"""How much an int8 graph's numbers differ from those of the float graph, layer by layer.

Owns the signal-to-noise ratio between the two (SQNR), measured on pictures or estimated from a
histogram. Does not own what the difference costs in found cells (see ``sensitivity``).

SQNR = 10 log10(sum of squared float values / sum of squared differences), in dB; 6 dB are one
bit. Measured ones hold the errors of all layers before as well: both graphs run as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from calibration.histograms import Feeds, TensorHistogram, open_activations
from calibration.ranges import Range
from edge_runtime.errors import DataError

# No difference at all; more than float32 tells apart.
HIGHEST_DB = 120.0
_LEVELS_BELOW_AND_ABOVE, _LEVELS = 254, 255


def layer_errors(
    float_model: bytes, int8_model: bytes, tensor_names: Sequence[str], feeds: Feeds
) -> dict[str, float]:
    """SQNR of tensors that both graphs have, in dB.

    Where the int8 graph rounds a tensor, the rounded values count, as the next layer reads
    them. The graph runs with these tensors put out, so that a runtime fuses less than it will
    on the device; what it computes is the same but for the last bits.

    Args:
        float_model: ONNX bytes.
        int8_model: the graph made of it, with QuantizeLinear and DequantizeLinear.
        tensor_names: inputs or outputs of nodes of the float graph.
        feeds: input tensors; called once.

    Raises:
        DataError: no input, or the int8 graph lacks a tensor.
    """
    names = list(dict.fromkeys(tensor_names))
    run_float = open_activations(float_model, names)
    run_int8 = open_activations(int8_model, rounded_names(int8_model, names))
    signal, noise = np.zeros(len(names)), np.zeros(len(names))
    seen = 0
    for feed in feeds():
        seen += 1
        for index, (wanted, found) in enumerate(zip(run_float(feed), run_int8(feed), strict=True)):
            exact = wanted.astype(np.float64).ravel()
            difference = exact - found.ravel()
            signal[index] += exact @ exact
            noise[index] += difference @ difference
    if seen == 0:
        raise DataError("layer errors: no picture to compare float and int8 on")
    return {
        name: decibels(float(s), float(n)) for name, s, n in zip(names, signal, noise, strict=True)
    }


def rounded_names(int8_model: bytes, tensor_names: Sequence[str]) -> list[str]:
    """Per float tensor its name in the int8 graph, behind its pair where it has one.

    Raises:
        DataError: the int8 graph lacks a tensor.
    """
    import onnx

    graph = onnx.load_from_string(int8_model).graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    known = {name for node in graph.node for name in node.output}
    known |= {each.name for each in graph.input}
    found = []
    for tensor in tensor_names:
        if tensor not in known:
            raise DataError(
                f"layer errors: the int8 graph has no tensor {tensor!r}; it was made of another "
                "float model"
            )
        behind = tensor
        for quantise in readers.get(tensor, []):
            if quantise.op_type == "QuantizeLinear":
                for back in readers.get(quantise.output[0], []):
                    if back.op_type == "DequantizeLinear":
                        behind = back.output[0]
        found.append(behind)
    return found


def rounding_sqnr(histogram: TensorHistogram, chosen: Range, *, symmetric: bool) -> float | None:
    """SQNR of rounding one activation alone, estimated from its histogram, in dB.

    Args:
        histogram: with counts.
        chosen: its range.
        symmetric: as the kind of graph for TensorRT has it: the same reach to both sides.

    Returns:
        None for an activation that was constant or zero.
    """
    counts = histogram.counts.astype(np.float64)
    low, high = chosen.low, chosen.high
    levels = _LEVELS
    if symmetric:
        high = max(abs(low), abs(high))
        low, levels = -high, _LEVELS_BELOW_AND_ABOVE
    if counts.sum() == 0 or high <= low:
        return None
    values = histogram.centres
    clipped = values - np.clip(values, low, high)
    step = (high - low) / levels
    # Evenly spread inside a level. Zero itself is exact, and after a ReLU it is most of all.
    rounded = np.where(clipped == 0, step**2 / 12, clipped**2)
    width = (histogram.high - histogram.low) / len(counts)
    rounded[np.abs(values) < width] = 0.0
    return decibels(float(counts @ values**2), float(counts @ rounded))


def clipped_share(histogram: TensorHistogram, chosen: Range) -> float:
    """Share of values outside a range, 0..1, from the histogram."""
    total = int(histogram.counts.sum())
    if total == 0:
        return 0.0
    values = histogram.centres
    # Half a bin of slack: the ends of a range are borders of bins.
    slack = (histogram.high - histogram.low) / len(values) / 2
    outside = (values < chosen.low - slack) | (values > chosen.high + slack)
    return int(histogram.counts[outside].sum()) / total


def decibels(signal: float, noise: float) -> float:
    """10 log10 of the quotient, at most ``HIGHEST_DB``; 0 when there is no signal but noise."""
    if noise <= 0:
        return HIGHEST_DB
    if signal <= 0:
        return 0.0
    return float(min(10 * np.log10(signal / noise), HIGHEST_DB))
