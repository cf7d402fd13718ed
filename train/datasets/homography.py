"""Registering two pictures of one field: the homography, and whether to believe it.

Owns the estimate (RANSAC, refit), the chain through a third magnification and every acceptance
test. Does not own landmarks (see ``landmarks``), labels nor what the homography is used for
(see ``transfer``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from train.datasets.landmarks import Landmarks, Points, Size, match

Matrix = NDArray[np.float64]

LEAST_INLIERS = 15
LEAST_INLIER_RATIO = 0.25
SCALE_TOLERANCE = 0.25
LARGEST_ANISOTROPY = 1.15
CORNER_MARGIN = 0.05
LEAST_QUADRANTS = 3
RANSAC_PX = 4.0
_RANSAC_ROUNDS = 5000
_REFITS = 3
# Four points decide a homography.
_FEWEST_POINTS = 4
_GRID = 9


@dataclass(frozen=True, slots=True)
class Check:
    """One acceptance test: its name, what was measured, and what was asked."""

    name: str
    value: float | None
    wanted: str
    passed: bool

    @classmethod
    def measured(cls, name: str, value: float | None, wanted: str, passed: bool) -> Check:
        """A test whose value is left out where it is no finite number, and then failed."""
        finite = value is not None and bool(np.isfinite(value))
        return cls(name, value if finite else None, wanted, finite and passed)

    @property
    def line(self) -> str:
        """Name, value and limit, for a person."""
        measured = "not measurable" if self.value is None else f"{self.value:.4g}"
        return f"{self.name}: {measured}, wanted {self.wanted}"


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """How one picture maps onto another, with every test that was made.

    Attributes:
        matrix: float64 ``(3, 3)``, source pixels to target pixels, or None.
        landmarks: how many each picture has.
        matches: pairs of landmarks that survived ratio and mutual test.
        inliers_xy: float64 ``(K, 2)``, source pixels of the pairs that agree.
        legs: the two registrations of a chain; empty without one.
    """

    source_size: Size
    target_size: Size
    matrix: Matrix | None
    landmarks: tuple[int, int]
    matches: int
    inliers_xy: Points
    checks: tuple[Check, ...]
    legs: tuple[Registration, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether every test was passed."""
        return self.matrix is not None and all(each.passed for each in self.checks)


def fit_homography(
    source_xy: Points, target_xy: Points, *, tolerance_px: float = RANSAC_PX
) -> tuple[Matrix | None, NDArray[np.bool_]]:
    """The homography most pairs agree with, refitted on those.

    Args:
        source_xy: ``(N, 2)``.
        target_xy: ``(N, 2)``.
        tolerance_px: how far from its place, in target pixels, an agreeing point may land.

    Returns:
        The matrix with 1 in its last place, or None; and which pairs agree, bool ``(N,)``.
    """
    nobody = np.zeros(len(source_xy), np.bool_)
    if len(source_xy) < _FEWEST_POINTS:
        return None, nobody
    # OpenCV's RANSAC draws from a generator of its own with a fixed seed.
    found, _ = cv2.findHomography(
        source_xy, target_xy, cv2.RANSAC, tolerance_px, maxIters=_RANSAC_ROUNDS, confidence=0.999
    )
    matrix = _normalised(found)
    if matrix is None:
        return None, nobody
    agree = _agreeing(matrix, source_xy, target_xy, tolerance_px)
    for _ in range(_REFITS):
        if agree.sum() < _FEWEST_POINTS:
            return None, nobody
        again, _ = cv2.findHomography(source_xy[agree], target_xy[agree], 0)
        refitted = _normalised(again)
        if refitted is None:
            return None, nobody
        matrix, before = refitted, agree
        agree = _agreeing(matrix, source_xy, target_xy, tolerance_px)
        if (agree == before).all():
            break
    return matrix, agree


def register(
    source: Landmarks,
    target: Landmarks,
    *,
    expected_scale: float | None,
    corner_margin: float | None = CORNER_MARGIN,
) -> Registration:
    """Registers two pictures from their landmarks and tests the result.

    Args:
        source: found with the first of ``working_factors``.
        target: found with the second.
        expected_scale: target pixels per source pixel, None when unknown: not tested then.
        corner_margin: how far outside the target, as a share of its sides, the source's corners
            may land; None: anywhere.
    """
    pairs = match(source, target)
    source_xy, target_xy = source.points_xy[pairs[:, 0]], target.points_xy[pairs[:, 1]]
    matrix, agree = fit_homography(
        source_xy, target_xy, tolerance_px=RANSAC_PX / max(target.factor, 1e-9)
    )
    inliers = source_xy[agree]
    fewest = min(len(source), len(target))
    checks = [
        Check("texture", float(fewest), f"{LEAST_INLIERS} landmarks", fewest >= LEAST_INLIERS),
        *agreement_checks(len(pairs), inliers, source.size_px),
    ]
    if matrix is not None:
        checks += shape_checks(
            matrix,
            source.size_px,
            target.size_px,
            expected_scale=expected_scale,
            corner_margin=corner_margin,
        )
    counts = (len(source), len(target))
    return Registration(
        source.size_px, target.size_px, matrix, counts, len(pairs), inliers, tuple(checks)
    )


def chained(
    first: Registration,
    second: Registration,
    *,
    expected_scale: float | None,
    corner_margin: float | None = CORNER_MARGIN,
) -> Registration:
    """Source to target through a third picture: both legs' tests, and those of the product."""
    matrix = None
    checks = [
        Check(f"{leg}: {each.name}", each.value, each.wanted, each.passed)
        for leg, registration in (("to chain", first), ("from chain", second))
        for each in registration.checks
    ]
    if first.matrix is not None and second.matrix is not None:
        matrix = _normalised(second.matrix @ first.matrix)
    if matrix is not None:
        checks += shape_checks(
            matrix,
            first.source_size,
            second.target_size,
            expected_scale=expected_scale,
            corner_margin=corner_margin,
        )
    return Registration(
        first.source_size,
        second.target_size,
        matrix,
        (first.landmarks[0], second.landmarks[1]),
        min(first.matches, second.matches),
        first.inliers_xy,
        tuple(checks),
        (first, second),
    )


def agreement_checks(matches: int, inliers_xy: Points, source_size: Size) -> Iterable[Check]:
    """Whether enough pairs agree, a large enough share of them, spread over the frame."""
    count = len(inliers_xy)
    ratio = count / matches if matches else None
    width, height = source_size
    right, low = inliers_xy[:, 0] >= width / 2, inliers_xy[:, 1] >= height / 2
    quadrants = len(set((2 * low + right).tolist()))
    return (
        Check.measured("inliers", float(count), f"{LEAST_INLIERS} or more", count >= LEAST_INLIERS),
        Check.measured(
            "inlier ratio",
            ratio,
            f"{LEAST_INLIER_RATIO} or more",
            ratio is not None and ratio >= LEAST_INLIER_RATIO,
        ),
        Check.measured(
            "quadrants",
            float(quadrants),
            f"inliers in {LEAST_QUADRANTS} or more",
            quadrants >= LEAST_QUADRANTS,
        ),
    )


def shape_checks(
    matrix: Matrix,
    source_size: Size,
    target_size: Size,
    *,
    expected_scale: float | None,
    corner_margin: float | None = CORNER_MARGIN,
) -> Iterable[Check]:
    """Whether a homography is one that two looks at one field can have."""
    corners = frame_corners(source_size)
    centre = corners.mean(axis=0, keepdims=True)
    # A mirrored or folded frame shows at its corners or its middle.
    determinants = np.linalg.det(_jacobians(matrix, np.concatenate([centre, corners])))
    in_front = bool((_weights(matrix, corners) > 0).all())
    lowest = float(determinants.min())
    checks = [
        Check.measured(
            "orientation", lowest, "a determinant above 0", bool(lowest > 0 and in_front)
        ),
    ]
    long, short = np.linalg.svd(_jacobians(matrix, centre)[0], compute_uv=False)
    scale = float(np.sqrt(long * short))
    if expected_scale is not None:
        low, high = (expected_scale * (1 + sign * SCALE_TOLERANCE) for sign in (-1, 1))
        checks.append(
            Check.measured("scale", scale, f"{low:.4g} to {high:.4g}", low <= scale <= high)
        )
    anisotropy = float(long / short) if short > 0 else None
    checks.append(
        Check.measured(
            "anisotropy",
            anisotropy,
            f"below {LARGEST_ANISOTROPY}",
            anisotropy is not None and anisotropy < LARGEST_ANISOTROPY,
        )
    )
    mapped = mapped_points(matrix, corners)
    turns = _turns(mapped)
    convex = bool(in_front and ((turns > 0).all() or (turns < 0).all()))
    checks.append(Check.measured("corners convex", float(convex), "1: a convex frame", convex))
    if corner_margin is not None:
        sides = np.array(target_size, np.float64)
        # 0 on the target's edge, in fractions of its width and height.
        outside = float(np.maximum(-mapped / sides, mapped / sides - 1).max())
        checks.append(
            Check.measured(
                "corners inside",
                outside,
                f"at most {corner_margin:g} outside the target",
                bool(in_front and outside <= corner_margin),
            )
        )
    return checks


def mapped_points(matrix: Matrix, points_xy: Points) -> Points:
    """Points ``(N, 2)`` through a homography, ``(N, 2)``."""
    mapped = np.column_stack([points_xy, np.ones(len(points_xy))]) @ matrix.T
    # A point on the horizon goes nowhere: not finite, and fails every test.
    with np.errstate(all="ignore"):
        return np.asarray(mapped[:, :2] / mapped[:, 2:], np.float64)


def frame_corners(size: Size) -> Points:
    """Corners of a frame, ``(4, 2)``, clockwise from the upper left."""
    width, height = size
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)


def round_trip_px(matrix: Matrix, source_size: Size) -> float:
    """Largest distance by which there and back misses, over the source frame, source pixels."""
    grid = _grid(source_size)
    back = mapped_points(_inverse(matrix), mapped_points(matrix, grid))
    return _largest(back - grid)


def both_ways_px(there: Matrix, back: Matrix, source_size: Size) -> float:
    """Largest distance between two estimates, one made each way, in target pixels."""
    grid = _grid(source_size)
    return _largest(mapped_points(there, grid) - mapped_points(_inverse(back), grid))


def _inverse(matrix: Matrix) -> Matrix:
    return np.asarray(np.linalg.inv(matrix), np.float64)


def _grid(size: Size) -> Points:
    xs, ys = np.meshgrid(np.linspace(0, size[0], _GRID), np.linspace(0, size[1], _GRID))
    return np.column_stack([xs.ravel(), ys.ravel()])


def _largest(differences: Points) -> float:
    return float(np.hypot(differences[:, 0], differences[:, 1]).max())


def _weights(matrix: Matrix, points_xy: Points) -> Points:
    return np.asarray(points_xy @ matrix[2, :2] + matrix[2, 2], np.float64)


def _jacobians(matrix: Matrix, points_xy: Points) -> NDArray[np.float64]:
    """Derivatives of the mapping, ``(N, 2, 2)``."""
    weights = _weights(matrix, points_xy)[:, None, None]
    mapped = mapped_points(matrix, points_xy)
    with np.errstate(all="ignore"):
        change = (matrix[:2, :2] - mapped[:, :, None] * matrix[2, :2]) / weights
    return np.nan_to_num(np.asarray(change, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _turns(polygon: Points) -> Points:
    """Cross product of every two following edges; of one sign where convex."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    following = np.roll(edges, -1, axis=0)
    return np.asarray(edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0], np.float64)


def _agreeing(
    matrix: Matrix, source_xy: Points, target_xy: Points, tolerance_px: float
) -> NDArray[np.bool_]:
    off = mapped_points(matrix, source_xy) - target_xy
    return np.asarray(np.hypot(off[:, 0], off[:, 1]) <= tolerance_px, np.bool_)


def _normalised(matrix: Any) -> Matrix | None:
    """With 1 in the last place; None for what is no usable homography."""
    if matrix is None or not np.isfinite(matrix).all() or abs(matrix[2, 2]) < 1e-12:
        return None
    scaled = np.asarray(matrix, np.float64) / matrix[2, 2]
    return scaled if abs(np.linalg.det(scaled)) > 1e-15 else None
