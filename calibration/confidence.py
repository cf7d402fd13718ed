"""How sure a classifier may say it is, and when it should not answer.

Owns the calibration error, the temperature and the abstention limit. Does not own how often
it is right (see ``classification_metrics``) nor running it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, Int64Array

# Beyond these, all answers are certain or all alike.
_COLDEST, _HOTTEST = 0.05, 20.0
_HALVINGS = 60
# A float32 probability of zero would count as an infinite surprise.
_SMALLEST = 1e-30
_LIMIT_STEP = 0.01
# Where calibrated probabilities put the border between right and wrong.
_EVEN = 0.5


def expected_calibration_error(
    probabilities: NDArray[np.floating[Any]], right: NDArray[np.bool_], *, bins: int = 15
) -> float:
    """How far stated probabilities are from the share of right answers.

    Cells are put into bins of equal width by the probability of their best class; the
    result is the mean distance between a bin's mean probability and its share of right
    answers, weighted by its cells (Guo et al., "On Calibration of Modern Neural Networks",
    ICML 2017, equation 3).

    Args:
        probabilities: ``(n,)``, of the answered class.
        right: bool ``(n,)``.
        bins: their number.

    Raises:
        DataError: no cell, or the two differ in length.
    """
    if len(probabilities) != len(right) or len(right) == 0:
        raise DataError(f"calibration error: {len(probabilities)} answers, {len(right)} labels")
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    error = 0.0
    for number in range(bins):
        own = place == number
        if own.any():
            error += float(own.mean()) * abs(
                float(probabilities[own].mean()) - float(right[own].mean())
            )
    return error


def fit_temperature(probabilities: Float32Array, truth: Int64Array) -> float:
    """The temperature that makes the labelled classes least surprising.

    The mean negative log-likelihood has one minimum in 1 / temperature; it is found by
    halving where the slope changes its sign.

    Args:
        probabilities: float32 ``(n, classes)`` at temperature 1.
        truth: int64 ``(n,)``, the labelled classes.

    Raises:
        DataError: no cell.
    """
    if len(truth) == 0:
        raise DataError("temperature: no validation cell to fit it on")
    logits = _logits(probabilities)
    own = logits[np.arange(len(truth)), truth]

    def slope(factor: float) -> float:
        expected = (softmax(logits * factor) * logits).sum(axis=1)
        return float((expected - own).mean())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return round(1 / high, 4)


def at_temperature(probabilities: Float32Array, temperature: float) -> Float32Array:
    """Probabilities ``(n, classes)`` at temperature 1, at another."""
    return np.asarray(softmax(_logits(probabilities) / temperature), np.float32)


def choose_abstention(probabilities: Float32Array, truth: Int64Array) -> float:
    """Below which best probability a cell is to stay unclassified.

    Cells are left out where they are more likely wrong than right: the limit is the one
    at which right answers exceed wrong ones by most. Of equally good limits the one
    nearest to 0.5 is taken, where calibrated probabilities put it.

    Args:
        probabilities: float32 ``(n, classes)``, as the device will have them.
        truth: int64 ``(n,)``, the labelled classes.

    Raises:
        DataError: no cell.
    """
    if len(truth) == 0:
        raise DataError("abstention: no validation cell to choose the limit on")
    best = probabilities.max(axis=1)
    worth = np.where(probabilities.argmax(axis=1) == truth, 1, -1)
    grid = np.arange(0.0, 1.0, _LIMIT_STEP).round(4)
    gained = (worth * (best >= grid[:, None].astype(np.float32))).sum(axis=1)
    good = grid[gained == gained.max()]
    return float(good[np.abs(good - _EVEN).argmin()])


def _logits(probabilities: Float32Array) -> NDArray[np.float64]:
    # Up to a constant per cell, which no softmax sees.
    return np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities ``(n, classes)`` of logits, each row summing to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
