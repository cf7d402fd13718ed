"""The differential count of a film, each share with an exact interval.

Owns the counting and the intervals. Does not own classifying cells. The intervals hold for
cells drawn at random from the film and named without error; what the classifier gets wrong
is not in them, and each class's interval stands for itself, not for all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

CONFIDENCE = 0.95
# Twice what halving alone would take to come below the spacing of doubles.
_MOST_STEPS = 120
# A step that changes no more than this, of the answer, is the last.
_CLOSE = 1e-14
# Logarithm of a slope that is no number to divide by.
_STEEPEST = 700.0
# The fraction needs about the square root of the count of steps; this serves 10^8 cells.
_STEPS = 100_000
_PRECISION = 1e-15
# Replaces a zero denominator in the fraction, by the modified Lentz method.
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class ClassShare:
    """One class of the differential.

    Attributes:
        name: the class.
        count: cells of it.
        share: ``count`` over the differential's total, 0..1; None without a cell.
        low, high: exact bounds of the share; 0 and 1 without a cell: anything is possible.
    """

    name: str
    count: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Differential:
    """All classes of one film.

    Attributes:
        total: cells of all classes that count.
        classes: in the order they were given.
        outside: classes that are counted beside the differential, such as erythroblasts or
            artefacts, with their counts.
        unclassified: cells that no class was sure enough for; not in ``total``.
        confidence: of the intervals.
    """

    total: int
    classes: tuple[ClassShare, ...]
    outside: tuple[tuple[str, int], ...]
    unclassified: int
    confidence: float = CONFIDENCE


def count_differential(
    counts: Mapping[str, int],
    *,
    outside: Collection[str] = (),
    unclassified: int = 0,
    confidence: float = CONFIDENCE,
) -> Differential:
    """Shares with exact intervals from counts per class.

    Args:
        counts: cells by class name; every class the model knows, those without a cell too.
        outside: names of classes that do not belong to the differential.
        unclassified: cells without a class.
        confidence: of the intervals, between 0 and 1.

    Raises:
        ValueError: a negative count, a confidence outside (0, 1), or a name in ``outside``
            that ``counts`` does not have.
    """
    strange = sorted(set(outside) - set(counts))
    if strange:
        raise ValueError(f"differential: no class {strange[0]!r} among {', '.join(counts)}")
    negative = [name for name, count in counts.items() if count < 0]
    if negative or unclassified < 0:
        raise ValueError(f"differential: negative count of {(*negative, 'unclassified')[0]!r}")
    inside = {name: count for name, count in counts.items() if name not in outside}
    total = sum(inside.values())
    classes = []
    for name, count in inside.items():
        low, high = exact_interval(count, total, confidence=confidence)
        classes.append(ClassShare(name, count, count / total if total else None, low, high))
    return Differential(
        total=total,
        classes=tuple(classes),
        outside=tuple((name, count) for name, count in counts.items() if name in outside),
        unclassified=unclassified,
        confidence=confidence,
    )


def exact_interval(
    count: int, total: int, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The exact binomial interval of Clopper and Pearson (Biometrika 26, 1934).

    Its ends are the shares at which ``count`` or more, or ``count`` or fewer, of ``total``
    cells become as unlikely as half of what ``confidence`` leaves over.

    Args:
        count: cells of the class, 0 to ``total``.
        total: cells counted; with 0 the interval is everything.
        confidence: between 0 and 1.

    Returns:
        ``(low, high)``, shares between 0 and 1.

    Raises:
        ValueError: a count outside 0 to ``total``, or a confidence outside (0, 1).
    """
    if not 0 <= count <= total:
        raise ValueError(f"interval: {count} of {total} cells; count between 0 and the total")
    if not 0 < confidence < 1:
        raise ValueError(f"interval: confidence {confidence}; wanted between 0 and 1")
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else beta_quantile(tail, count, total - count + 1)
    high = 1.0 if count == total else beta_quantile(1 - tail, count + 1, total - count)
    return low, high


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Where the beta distribution's integral reaches ``probability``.

    Newton's steps from the mean, halving instead where one would leave what is known to hold the
    answer: a running film asks for it with every field, for every class.

    Args:
        probability: between 0 and 1.
        a: the distribution's first parameter, above 0; a whole or half number.
        b: its second one.
    """
    low, high, x = 0.0, 1.0, a / (a + b)
    constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    for _ in range(_MOST_STEPS):
        over = _beta_integral(x, a, b) - probability
        if over < 0:
            low = x
        else:
            high = x
        logarithm = constant + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x)
        moved = x - over * math.exp(-logarithm) if logarithm > -_STEEPEST else low
        if not low < moved < high:
            moved = (low + high) / 2
        if abs(moved - x) <= _CLOSE * x or not low < moved < high:
            return moved
        x = moved
    return x


def _beta_integral(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    For whole numbers, I_x(k, n - k + 1) is the chance of k or more of n at share x.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    # The fraction converges fast only below the mean; above it the mirror image is used.
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta_integral(1.0 - x, b, a)
    logarithm = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(logarithm) * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b), DLMF 8.17.22, from the top down.

    Raises:
        ArithmeticError: no convergence, which whole and half numbers up to 10^8 do not show.
    """
    # `upper` and `lower` are the quotients of successive numerators and denominators.
    upper, lower = 1.0, 1.0 / _apart(1.0 - (a + b) * x / (a + 1))
    value = lower
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            lower = 1.0 / _apart(1.0 + term * lower)
            upper = _apart(1.0 + term / upper)
            step = lower * upper
            value *= step
        if abs(step - 1.0) < _PRECISION:
            return value
    raise ArithmeticError(f"incomplete beta: no convergence at x={x}, a={a}, b={b}")


def _apart(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
