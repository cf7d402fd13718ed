"""The range of every activation of a float graph, measured on the calibration set.

Owns running the float graph on calibration tensors and turning what it saw into one
range per tensor. Tensors are made by ``edge_runtime.preprocess`` and by nothing else.
Does not own which pictures (see ``sampling``) nor the quantised graph (see ``export``).

Statistics are kept per tensor, never the activations themselves, so memory does not grow
with the number of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.dataset import CalibrationSet, preprocessing_id
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import Float32Array

# Input tensors of one call: of a model with one input, or by name.
Feed = Float32Array | Mapping[str, Float32Array]
Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse", "entropy")

# Values that may be clipped: one in ten thousand.
_PERCENTILE = 99.99
# Fine enough that 256 levels can be laid into it with a tenth of a level's error.
_BINS = 2048
_LEVELS = 256
_CANDIDATES = 128


@dataclass(frozen=True, slots=True)
class Range:
    """Lowest and highest value that must be representable; zero always is."""

    low: float
    high: float


@dataclass(slots=True)
class _Histogram:
    low: float
    high: float
    counts: NDArray[np.int64]


def calibration_tensors(
    calibration: CalibrationSet, folders: Mapping[str, Path], spec: InputSpec
) -> Iterator[Float32Array]:
    """The input tensor of every picture, as the device would make it.

    Args:
        calibration: the set.
        folders: per domain, what its file names are relative to.
        spec: the input; must be the one the set was drawn for.

    Yields:
        float32 ``(1, 3, spec.height, spec.width)``.

    Raises:
        DataError: another input spec, or a picture is missing or altered.
    """
    if calibration.preprocessing != preprocessing_id(spec):
        raise DataError("calibration set: drawn for another input spec; draw it again for this one")
    for pixels in calibration.pictures(folders):
        height, width = pixels.shape[:2]
        yield tensor_of(pixels, fit_window(width, height, spec), spec)


def measure_ranges(
    model: bytes,
    tensor_names: Sequence[str],
    tensors: Callable[[], Iterable[Feed]],
    *,
    method: Method = "minmax",
) -> dict[str, Range]:
    """Runs the float graph over the calibration tensors and finds a range per activation.

    ``minmax`` covers all that was seen. The others look twice, the second time with
    histograms: ``percentile`` leaves out one value in ten thousand, ``mse`` takes the
    range with the least squared rounding and clipping error, ``entropy`` the one whose
    distribution in 128 levels is nearest to the original (Kullback-Leibler divergence).

    Args:
        model: float ONNX bytes.
        tensor_names: activations wanted.
        tensors: called once or twice; each time all calibration tensors.
        method: one of ``METHODS``.

    Raises:
        DataError: no tensor was given, or an activation is not finite.
    """
    run = _open_with_outputs(model, tensor_names)
    lowest = np.full(len(tensor_names), np.inf)
    highest = np.full(len(tensor_names), -np.inf)
    seen = 0
    for tensor in tensors():
        seen += 1
        for index, values in enumerate(run(tensor)):
            lowest[index] = min(lowest[index], float(values.min()))
            highest[index] = max(highest[index], float(values.max()))
    if seen == 0:
        raise DataError("no calibration data: int8 ranges are measured and never assumed")
    _check_finite(tensor_names, lowest, highest)
    if method == "minmax":
        return {
            name: _with_zero(low, high)
            for name, low, high in zip(tensor_names, lowest, highest, strict=True)
        }
    histograms = [
        _Histogram(low, high, np.zeros(_BINS, np.int64))
        for low, high in zip(lowest.tolist(), highest.tolist(), strict=True)
    ]
    for tensor in tensors():
        for histogram, values in zip(histograms, run(tensor), strict=True):
            _count(histogram, values)
    narrow = {"percentile": _percentile, "mse": _least_error, "entropy": _least_divergence}[method]
    return {
        name: _with_zero(*narrow(histogram))
        for name, histogram in zip(tensor_names, histograms, strict=True)
    }


def _open_with_outputs(
    model: bytes, tensor_names: Sequence[str]
) -> Callable[[Feed], list[Float32Array]]:
    """A function from input tensors to the named activations of the float graph."""
    import onnx
    import onnxruntime

    graph = onnx.load_from_string(model)
    inputs = [each.name for each in graph.graph.input]
    inner = [name for name in tensor_names if name not in inputs]
    del graph.graph.output[:]
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(feed: Feed) -> list[Float32Array]:
        values = dict(feed) if isinstance(feed, Mapping) else {inputs[0]: feed}
        values |= dict(zip(inner, session.run(inner, dict(values)), strict=True))
        return [values[name] for name in tensor_names]

    return run


def _check_finite(
    names: Sequence[str], lowest: NDArray[np.float64], highest: NDArray[np.float64]
) -> None:
    for name, low, high in zip(names, lowest, highest, strict=True):
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                f"calibration: activation {name!r} has no finite range ({low} to {high}); "
                "the checkpoint is damaged, train again"
            )


def _with_zero(low: float, high: float) -> Range:
    """Zero must be exact: padding and ReLU produce it all the time."""
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def _count(histogram: _Histogram, values: Float32Array) -> None:
    if histogram.high <= histogram.low:
        return
    # Scaling by hand: a third of the time of numpy.histogram on millions of values.
    factor = (_BINS - 1e-3) / (histogram.high - histogram.low)
    bins = ((values.ravel() - np.float32(histogram.low)) * np.float32(factor)).astype(np.int32)
    np.clip(bins, 0, _BINS - 1, out=bins)
    histogram.counts += np.bincount(bins, minlength=_BINS)


def _centres(histogram: _Histogram) -> NDArray[np.float64]:
    width = (histogram.high - histogram.low) / _BINS
    return np.asarray(histogram.low + width * (np.arange(_BINS) + 0.5), np.float64)


def _percentile(histogram: _Histogram) -> tuple[float, float]:
    total = histogram.counts.sum()
    if total == 0:
        return histogram.low, histogram.high
    cut = (1 - _PERCENTILE / 100) / 2 * total
    below = np.cumsum(histogram.counts)
    width = (histogram.high - histogram.low) / _BINS
    first = int(np.searchsorted(below, cut, side="right"))
    last = int(np.searchsorted(below, total - cut, side="left"))
    return histogram.low + first * width, histogram.low + (last + 1) * width


def _search(histogram: _Histogram, cost: Callable[[float, float], float]) -> tuple[float, float]:
    """The cheapest range: first where it ends, then, with that end, where it begins."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if histogram.counts.sum() == 0:
        return low, high
    # A fifth of the range loses more than any outlier can be worth.
    shares = np.linspace(1.0, 0.2, _CANDIDATES).tolist()
    if high > 0:
        high = min((high * share for share in shares), key=lambda end: cost(low, end))
    if low < 0:
        low = min((low * share for share in shares), key=lambda start: cost(start, high))
    return low, high


def _least_error(histogram: _Histogram) -> tuple[float, float]:
    """The range with the least squared error of rounding and clipping."""
    values = _centres(histogram)

    def error(low: float, high: float) -> float:
        step = (high - low) / (_LEVELS - 1)
        clipped = values - np.clip(values, low, high)
        inside = np.where(clipped == 0, step**2 / 12, 0.0)
        return float((histogram.counts * (inside + clipped**2)).sum())

    return _search(histogram, error)


def _least_divergence(histogram: _Histogram) -> tuple[float, float]:
    """The clipping whose quantised histogram diverges least from the clipped original.

    Follows S. Migacz, "8-bit Inference with TensorRT" (GTC 2017): values beyond the range
    are counted into its last bins, levels spread their count over the bins they merge, and
    zeros are left out. After a ReLU they are the better part of all values and would drown
    what clipping costs the rest, while every range holds zero exactly.
    """
    values = _centres(histogram)
    counts = histogram.counts.astype(np.float64)
    if histogram.low <= 0 <= histogram.high:
        counts[int(np.abs(values).argmin())] = 0.0

    def divergence(low: float, high: float) -> float:
        inside = np.flatnonzero((values >= low) & (values <= high))
        if len(inside) < _LEVELS // 2:
            return np.inf
        first, last = int(inside[0]), int(inside[-1])
        kept = counts[first : last + 1]
        original = kept.copy()
        original[0] += counts[:first].sum()
        original[-1] += counts[last + 1 :].sum()
        level = np.arange(len(kept)) * (_LEVELS // 2) // len(kept)
        filled = kept > 0
        per_level = np.bincount(level, weights=kept)
        used = np.maximum(np.bincount(level, weights=filled), 1)
        spread = np.where(filled, (per_level / used)[level], 0.0)
        p, q = original / original.sum(), spread / max(spread.sum(), 1.0)
        both = p > 0
        # A bin that only clipping filled has no counterpart; it must cost, not vanish.
        return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())

    return _search(histogram, divergence)
