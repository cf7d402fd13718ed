"""One labelled field's cells on another picture of the same field.

Owns mapping boxes and the labelled part of a picture through a homography, and the figures that
say whether the result can be right. Does not own the homography (see ``homography``) nor files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.fields import xywhn_to_xyxy, xyxy_to_xywhn
from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.homography import (
    CORNER_MARGIN,
    Check,
    Matrix,
    Registration,
    both_ways_px,
    chained,
    frame_corners,
    mapped_points,
    register,
    round_trip_px,
)
from train.datasets.inscribed import clipped_polygon, largest_rectangle
from train.datasets.labelled import LabelledImage, Patch
from train.datasets.landmarks import (
    Landmarks,
    Points,
    Size,
    find_landmarks,
    picture_size,
    working_factors,
)
from train.datasets.transfer_figures import purple_shares, warped_correlation

LEAST_REMAINING = 0.5
LARGEST_ROUND_TRIP_PX = 1.0
LARGEST_BOTH_WAYS_PX = 3.0
LEAST_CORRELATION = 0.5
_ELLIPSE_POINTS = 16
# A box that ends within a pixel of the frame may belong to a cell that goes on.
_EDGE_PX = 1.0


@dataclass(frozen=True, slots=True)
class Scales:
    """What is known beforehand about two pictures' scales, None for nothing.

    Attributes:
        target: target pixels per source pixel.
        chain: chain pixels per source pixel.
    """

    target: float | None = None
    chain: float | None = None

    @property
    def from_chain(self) -> float | None:
        """Target pixels per chain pixel."""
        if self.target is None or self.chain is None:
            return None
        return self.target / self.chain


@dataclass(frozen=True, slots=True, eq=False)
class MappedCells:
    """N cells on the target, those that were dropped included.

    Attributes:
        boxes_xyxy: float64 ``(N, 4)``, target pixels, clipped.
        remaining: float64 ``(N,)``, share of the mapped box inside the target.
    """

    boxes_xyxy: Points
    remaining: NDArray[np.float64]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Cells of which enough is left, bool ``(N,)``."""
        return np.asarray(self.remaining >= LEAST_REMAINING, np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """What came of one pair.

    Attributes:
        registration: of source and target, with the acceptance tests.
        verification: tests of the mapped labels; empty without a homography.
        labels: the target with the cells that were kept; None without a homography.
        cells: of the source, mapped; None without a homography.
        cut_in_source: bool ``(N,)``, cells that end at the source's own frame.
        purple: share of purple pixels in boxes and outside them, as far as measurable.
    """

    source: LabelledImage
    target: Path
    registration: Registration
    verification: tuple[Check, ...]
    labels: LabelledImage | None
    cells: MappedCells | None
    cut_in_source: NDArray[np.bool_]
    purple: tuple[float | None, float | None] = (None, None)

    @property
    def accepted(self) -> bool:
        """Whether every test was passed."""
        return self.registration.accepted and all(each.passed for each in self.verification)

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every test that was made."""
        return (*self.registration.checks, *self.verification)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One line for each failed test; empty when accepted."""
        return tuple(each.line for each in self.checks if not each.passed)


def transfer_field(
    source: LabelledImage,
    source_pixels: UInt8Image,
    target: Path,
    target_pixels: UInt8Image,
    *,
    scales: Scales,
    chain_pixels: UInt8Image | None = None,
    corner_margin: float = CORNER_MARGIN,
) -> Transfer:
    """Registers two pictures and maps the labels of the first onto the second.

    Args:
        source: with its labels.
        source_pixels: RGB uint8 ``(H, W, 3)``.
        target: file name for the new labels.
        target_pixels: RGB uint8 ``(H, W, 3)``.
        scales: what is known of the scales.
        chain_pixels: a picture of a magnification between, RGB uint8 ``(H, W, 3)``.
        corner_margin: how far outside the target, as a share of its sides, the source's corners
            may land.
    """
    source_size, target_size = picture_size(source_pixels), picture_size(target_pixels)
    there, back = _both_ways(source_pixels, target_pixels, chain_pixels, scales, corner_margin)
    cut = _cut_by_frame(source.boxes_xywhn, source_size)
    if there.matrix is None:
        return Transfer(source, target, there, (), None, None, cut)
    cells = map_boxes(there.matrix, source.boxes_xywhn, source_size, target_size)
    boxes = xyxy_to_xywhn(cells.boxes_xyxy.astype(np.float32), *target_size)
    labels = replace(
        replace(source, boxes_xywhn=boxes).select(cells.kept),
        image=target,
        patch_xyxyn=mapped_patch(there.matrix, source.patch_xyxyn, source_size, target_size),
        mask=None,
        size_px=target_size,
    )
    area = mapped_points(there.matrix, _labelled_corners(source.patch_xyxyn, source_size))
    purple = purple_shares(target_pixels, cells.boxes_xyxy[cells.kept], area)
    verification = (
        *_geometry_checks(there.matrix, back.matrix, source_size),
        _correlation_check(source_pixels, target_pixels, there.matrix, scales.target),
        *_label_checks(purple, labels.patch_xyxyn),
    )
    return Transfer(source, target, there, verification, labels, cells, cut, purple)


def map_boxes(
    matrix: Matrix, boxes_xywhn: Float32Array, source_size: Size, target_size: Size
) -> MappedCells:
    """Boxes ``(N, 4)`` through a homography.

    The ellipse inside the box is mapped and not its corners: cells are round, and corners
    would make the box of a turned cell too large.
    """
    angles = np.arange(_ELLIPSE_POINTS) * (2 * np.pi / _ELLIPSE_POINTS)
    ring = np.column_stack([np.cos(angles), np.sin(angles)]) / 2
    sides = np.array(source_size, np.float64)
    centres, extents = boxes_xywhn[:, None, :2] * sides, boxes_xywhn[:, None, 2:] * sides
    points = mapped_points(matrix, (centres + ring * extents).reshape(-1, 2))
    points = points.reshape(-1, _ELLIPSE_POINTS, 2)
    whole = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    # A wild homography, kept for the review's picture, may send points anywhere.
    whole = np.nan_to_num(whole, nan=-1.0, posinf=1e9, neginf=-1e9)
    clipped = whole.copy()
    for axis, side in enumerate(target_size):
        np.clip(clipped[:, axis::2], 0, side, out=clipped[:, axis::2])
    before, after = (_areas(each) for each in (whole, clipped))
    remaining = np.divide(after, before, out=np.zeros(len(before)), where=before > 0)
    return MappedCells(clipped, remaining)


def mapped_patch(
    matrix: Matrix, patch: Patch | None, source_size: Size, target_size: Size
) -> Patch | None:
    """The part of the target in which every cell is labelled, as fractions.

    That is the largest upright rectangle inside the mapped source frame, or inside its mapped
    patch where the source is itself labelled in a patch only. None: no area.
    """
    corners = mapped_points(matrix, _labelled_corners(patch, source_size))
    if not np.isfinite(corners).all():
        return None
    rectangle = largest_rectangle(clipped_polygon(corners, target_size))
    if rectangle is None:
        return None
    # Files keep six decimals; rounded inwards, so that nothing unlabelled is called labelled.
    step = 1e6
    fractions = np.array(rectangle) / np.array(target_size * 2, np.float64) * step
    x1, y1 = (float(each) / step for each in np.ceil(fractions[:2] + 1e-6))
    x2, y2 = (float(each) / step for each in np.floor(fractions[2:] - 1e-6))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _both_ways(
    source: UInt8Image,
    target: UInt8Image,
    chain: UInt8Image | None,
    scales: Scales,
    corner_margin: float,
) -> tuple[Registration, Registration]:
    if chain is None:
        one, other = _landmarks(source, target, scales.target)
        return (
            register(one, other, expected_scale=scales.target, corner_margin=corner_margin),
            register(other, one, expected_scale=None, corner_margin=None),
        )
    first, between = _landmarks(source, chain, scales.chain)
    middle, last = _landmarks(chain, target, scales.from_chain)
    there = chained(
        register(first, between, expected_scale=scales.chain, corner_margin=corner_margin),
        # Only the source's part of the chain picture has to lie in the target.
        register(middle, last, expected_scale=scales.from_chain, corner_margin=None),
        expected_scale=scales.target,
        corner_margin=corner_margin,
    )
    back = chained(
        register(last, middle, expected_scale=None, corner_margin=None),
        register(between, first, expected_scale=None, corner_margin=None),
        expected_scale=None,
        corner_margin=None,
    )
    return there, back


def _landmarks(
    one: UInt8Image, other: UInt8Image, scale: float | None
) -> tuple[Landmarks, Landmarks]:
    factors = working_factors(picture_size(one), picture_size(other), scale)
    return find_landmarks(one, factors[0]), find_landmarks(other, factors[1])


def _geometry_checks(matrix: Matrix, back: Matrix | None, source_size: Size) -> Iterator[Check]:
    trip = round_trip_px(matrix, source_size)
    yield Check.measured(
        "round trip", trip, f"below {LARGEST_ROUND_TRIP_PX} px", trip < LARGEST_ROUND_TRIP_PX
    )
    apart = None if back is None else both_ways_px(matrix, back, source_size)
    yield Check.measured(
        "both ways",
        apart,
        f"below {LARGEST_BOTH_WAYS_PX} px",
        apart is not None and apart < LARGEST_BOTH_WAYS_PX,
    )


def _correlation_check(
    source: UInt8Image, target: UInt8Image, matrix: Matrix, expected: float | None
) -> Check:
    corners = mapped_points(matrix, frame_corners(picture_size(source)))
    across = np.hypot(*(corners[1] - corners[0])) / source.shape[1]
    measured = float(across) if np.isfinite(across) and across > 0 else 1.0
    value = warped_correlation(source, target, matrix, expected or measured)
    passed = value is not None and value >= LEAST_CORRELATION
    return Check.measured("correlation", value, f"{LEAST_CORRELATION} or more", passed)


def _label_checks(
    purple: tuple[float | None, float | None], patch: Patch | None
) -> Iterator[Check]:
    in_boxes, on_ground = purple
    # A field without cells, or all covered by boxes, leaves nothing to compare.
    if in_boxes is not None and on_ground is not None:
        wanted = f"above {on_ground:.3g} outside the boxes"
        yield Check.measured("purple in boxes", in_boxes, wanted, in_boxes > on_ground)
    if patch is None:
        yield Check("patch", None, "a rectangle inside the mapped frame", False)


def _cut_by_frame(boxes_xywhn: Float32Array, size: Size) -> NDArray[np.bool_]:
    corners = xywhn_to_xyxy(boxes_xywhn, *size)
    limit = np.array(size, np.float32) - _EDGE_PX
    at_edge = (corners[:, :2] <= _EDGE_PX) | (corners[:, 2:] >= limit)
    return np.asarray(at_edge.any(axis=1), np.bool_)


def _labelled_corners(patch: Patch | None, size: Size) -> Points:
    corners = frame_corners(size)
    if patch is None:
        return corners
    x1, y1, x2, y2 = patch
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]) * np.array(size, np.float64)


def _areas(boxes: Points) -> NDArray[np.float64]:
    return np.asarray(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1), np.float64)
