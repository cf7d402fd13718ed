"""The largest upright rectangle inside a turned frame.

Owns plane geometry of convex polygons only; what the rectangle is for is told in ``transfer``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from train.datasets.landmarks import Points, Size

Rectangle = tuple[float, float, float, float]

_INVERSE_GOLDEN = (5**0.5 - 1) / 2
# Each step keeps 0.618 of the interval: what is left of a frame is far below a pixel.
_STEPS = 48


def clipped_polygon(polygon: Points, size: Size) -> Points:
    """The part of a convex polygon ``(N, 2)`` inside a frame, ``(M, 2)``; M may be 0."""
    width, height = size
    for axis, limit, keep in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        # Positive on the inner side of this edge of the frame.
        depth = keep * (polygon[:, axis] - limit)
        kept: list[np.ndarray] = []
        for i in range(len(polygon)):
            here, there = depth[i - 1], depth[i]
            if (here >= 0) != (there >= 0):
                kept.append(polygon[i - 1] + (polygon[i] - polygon[i - 1]) * here / (here - there))
            if there >= 0:
                kept.append(polygon[i])
        polygon = np.array(kept, np.float64).reshape(-1, 2)
    return polygon


def largest_rectangle(polygon: Points) -> Rectangle | None:
    """The upright rectangle of largest area inside a convex polygon, x1, y1, x2, y2.

    The height that fits over an interval is a concave function of its two ends, so the
    logarithm of the area is concave as well: one search inside another finds its only peak.

    Args:
        polygon: corners in order, ``(N, 2)``.

    Returns:
        The rectangle, or None for a polygon without area.
    """
    if len(polygon) < 3:
        return None
    upper, lower = _chains(polygon)
    left, right = float(polygon[:, 0].min()), float(polygon[:, 0].max())

    def rows(x1: float, x2: float) -> tuple[float, float]:
        top = max(float(np.interp(x, *upper)) for x in (x1, x2))
        bottom = min(float(np.interp(x, *lower)) for x in (x1, x2))
        return top, bottom

    def area(x1: float, x2: float) -> float:
        top, bottom = rows(x1, x2)
        # Negative heights stay comparable, so that the search finds its way out of them.
        return (x2 - x1) * (bottom - top) if bottom > top else bottom - top

    def best_right(x1: float) -> float:
        return _peak(lambda x2: area(x1, x2), x1, right)

    x1 = _peak(lambda x: area(x, best_right(x)), left, right)
    x2 = best_right(x1)
    y1, y2 = rows(x1, x2)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def _chains(polygon: Points) -> tuple[tuple[Points, Points], tuple[Points, Points]]:
    """Edges with least and with largest y over x, each as x and y in ascending x."""
    ordered = polygon[np.lexsort((polygon[:, 1], polygon[:, 0]))]
    xs = np.unique(ordered[:, 0])
    following = np.roll(polygon, -1, axis=0)
    tops, bottoms = [], []
    for x in xs:
        ys = []
        for (x1, y1), (x2, y2) in zip(polygon, following, strict=True):
            if min(x1, x2) <= x <= max(x1, x2):
                ys += [y1, y2] if x1 == x2 else [y1 + (y2 - y1) * (x - x1) / (x2 - x1)]
        tops.append(min(ys))
        bottoms.append(max(ys))
    return (xs, np.array(tops)), (xs, np.array(bottoms))


def _peak(value: Callable[[float], float], low: float, high: float) -> float:
    """Place of the maximum of a function with one peak (golden section)."""
    a = high - (high - low) * _INVERSE_GOLDEN
    b = low + (high - low) * _INVERSE_GOLDEN
    at_a, at_b = value(a), value(b)
    for _ in range(_STEPS):
        if at_a < at_b:
            low, a, at_a = a, b, at_b
            b = low + (high - low) * _INVERSE_GOLDEN
            at_b = value(b)
        else:
            high, b, at_b = b, a, at_a
            a = high - (high - low) * _INVERSE_GOLDEN
            at_a = value(a)
    return (low + high) / 2
