"""Figures by which transferred labels can be doubted or believed.

Owns what is measured on pixels and against boxes drawn by hand. Does not own the limits asked of
a pair (see ``transfer``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.accuracy import iou_matrix
from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.homography import Matrix
from train.datasets.landmarks import Points, picture_size, shrunk

MATCHING_IOU = 0.5
# Red and blue this far above green, of 255, once the clear ground is white.
_PURPLE = 25.0
# The clear ground is brighter than nearly everything on it.
_GROUND_PERCENTILE = 90


def warped_correlation(
    source_pixels: UInt8Image, target_pixels: UInt8Image, matrix: Matrix, scale: float
) -> float | None:
    """Normalised cross-correlation of the warped source and what lies under it, -1 to 1.

    None where the source covers next to nothing, or one of the two shows no contrast.
    """
    width, height = picture_size(target_pixels)
    grey = np.asarray(cv2.cvtColor(source_pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    small = shrunk(grey, min(1.0, scale))
    step = np.array([small.shape[1] / grey.shape[1], small.shape[0] / grey.shape[0], 1.0])
    # OpenCV counts from the middle of the first pixel.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    mapping = np.linalg.inv(half) @ matrix @ np.diag(1 / step) @ half
    warped = cv2.warpPerspective(small, mapping, (width, height))
    ones = np.full(small.shape, 255, np.uint8)
    covered = cv2.warpPerspective(ones, mapping, (width, height)) == 255
    if covered.sum() < 100:
        return None
    under = cv2.cvtColor(target_pixels, cv2.COLOR_RGB2GRAY)
    # One pixel of blur: two cameras' noise has nothing in common, the cells do.
    one, other = (
        np.asarray(cv2.GaussianBlur(each, (0, 0), 1.0), np.float64)[covered]
        for each in (warped, under)
    )
    one, other = one - one.mean(), other - other.mean()
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread > 0 else None


def purple_pixels(pixels: UInt8Image) -> NDArray[np.bool_]:
    """Where stained nuclei may be, bool ``(H, W)``: red and blue clearly above green.

    Colours are taken relative to the clear ground, which differs from camera to camera.
    """
    ground = np.percentile(pixels.reshape(-1, 3), _GROUND_PERCENTILE, axis=0)
    red, green, blue = np.moveaxis(pixels / np.maximum(ground, 1.0) * 255.0, 2, 0)
    return np.asarray(np.minimum(red, blue) - green > _PURPLE, np.bool_)


def purple_shares(
    pixels: UInt8Image, boxes_xyxy: Points, area: Points
) -> tuple[float | None, float | None]:
    """Share of purple pixels inside boxes, and in the rest of the labelled area; None: no pixel."""
    inside, labelled = (np.zeros(pixels.shape[:2], np.uint8) for _ in range(2))
    for x1, y1, x2, y2 in np.round(boxes_xyxy).astype(int):
        inside[y1:y2, x1:x2] = 1
    if np.isfinite(area).all() and np.abs(area).max() < 1e6:
        cv2.fillConvexPoly(labelled, np.round(area).astype(np.int32), 1)
    purple = purple_pixels(pixels)
    boxed, ground = inside == 1, (labelled == 1) & (inside == 0)
    return tuple(  # type: ignore[return-value]
        float(purple[mask].mean()) if mask.any() else None for mask in (boxed, ground)
    )


@dataclass(frozen=True, slots=True)
class HandFigures:
    """Transferred boxes against boxes drawn by hand, over all pictures that have both.

    Attributes:
        recall: share of hand boxes found at IoU 0.5; None without any.
        median_centre_error_px: of those found; None without any.
    """

    pictures: int
    hand_boxes: int
    found: int
    recall: float | None
    median_centre_error_px: float | None


def compare_with_hand(fields: list[tuple[Float32Array, Float32Array]]) -> HandFigures:
    """Figures over pictures, each as transferred and hand-drawn boxes, pixels ``(N, 4)``."""
    errors: list[float] = []
    for transferred, by_hand in fields:
        overlaps = iou_matrix(by_hand, transferred)
        for i, j in _best_pairs(overlaps):
            off = (by_hand[i, :2] + by_hand[i, 2:] - transferred[j, :2] - transferred[j, 2:]) / 2
            errors.append(float(np.hypot(*off)))
    total = sum(len(by_hand) for _, by_hand in fields)
    return HandFigures(
        len(fields),
        total,
        len(errors),
        len(errors) / total if total else None,
        float(np.median(errors)) if errors else None,
    )


def _best_pairs(overlaps: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Pairs of largest overlap first, every box once."""
    left = overlaps.copy()
    while left.size and left.max() >= MATCHING_IOU:
        i, j = np.unravel_index(int(left.argmax()), left.shape)
        left[i, :] = left[:, j] = -1
        yield int(i), int(j)
