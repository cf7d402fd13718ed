"""The range of every activation of a float graph, measured on the calibration set.

Owns the methods that turn what an activation did into one range, behind ``choose_range``.
Tensors are made by ``edge_runtime.preprocess`` and by nothing else. Does not own which pictures
(see ``sampling``), what is counted (see ``histograms``) nor the quantised graph (see ``export``).

ONNX Runtime's own calibrators agree with these where they should (tests hold one against the
other). They are not used: their histograms are made of all activations of all pictures held at
once, they know no least squared error, and their entropy's zeros drown the rest after a ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from calibration.dataset import CalibrationSet, preprocessing_id
from calibration.histograms import BINS, Feeds, TensorHistogram, observe
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import Float32Array

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse", "entropy")

# Values that may be clipped: one in ten thousand.
_PERCENTILE = 99.99
_LEVELS = 256
_CANDIDATES = 128


@dataclass(frozen=True, slots=True)
class Range:
    """Lowest and highest value that must be representable; zero always is."""

    low: float
    high: float


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
    tensors: Feeds,
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
    found = observe(model, tensor_names, tensors, count=method != "minmax")
    return {name: choose_range(histogram, method) for name, histogram in found.items()}


def choose_range(histogram: TensorHistogram, method: Method) -> Range:
    """The range a method takes from what was seen of one activation.

    Args:
        histogram: of ``observe``; only ``minmax`` does without counts.
        method: one of ``METHODS``.
    """
    low, high = _METHOD_TABLE[method](histogram)
    # Zero must be exact: padding and ReLU produce it all the time.
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def _extremes(histogram: TensorHistogram) -> tuple[float, float]:
    return histogram.low, histogram.high


def _percentile(histogram: TensorHistogram) -> tuple[float, float]:
    total = histogram.counts.sum()
    if total == 0:
        return histogram.low, histogram.high
    cut = (1 - _PERCENTILE / 100) / 2 * total
    below = np.cumsum(histogram.counts)
    width = (histogram.high - histogram.low) / BINS
    first = int(np.searchsorted(below, cut, side="right"))
    last = int(np.searchsorted(below, total - cut, side="left"))
    return histogram.low + first * width, histogram.low + (last + 1) * width


def _search(
    histogram: TensorHistogram, cost: Callable[[float, float], float]
) -> tuple[float, float]:
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


def _least_error(histogram: TensorHistogram) -> tuple[float, float]:
    """The range with the least squared error of rounding and clipping."""
    values = histogram.centres

    def error(low: float, high: float) -> float:
        step = (high - low) / (_LEVELS - 1)
        clipped = values - np.clip(values, low, high)
        inside = np.where(clipped == 0, step**2 / 12, 0.0)
        return float((histogram.counts * (inside + clipped**2)).sum())

    return _search(histogram, error)


def _least_divergence(histogram: TensorHistogram) -> tuple[float, float]:
    """The clipping whose quantised histogram diverges least from the clipped original.

    Follows S. Migacz, "8-bit Inference with TensorRT" (GTC 2017): values beyond the range
    are counted into its last bins, levels spread their count over the bins they merge, and
    zeros are left out. After a ReLU they are the better part of all values and would drown
    what clipping costs the rest, while every range holds zero exactly.
    """
    values = histogram.centres
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


_METHOD_TABLE: Mapping[Method, Callable[[TensorHistogram], tuple[float, float]]] = {
    "minmax": _extremes,
    "percentile": _percentile,
    "mse": _least_error,
    "entropy": _least_divergence,
}
