"""Landmarks of a picture, and which of two pictures' landmarks belong together.

Owns the working scale (grey, contrast, blur, size), SIFT and matching. Does not own what pairs
of landmarks say about two pictures (see ``homography``).

A picture's coordinates are continuous: pixel ``i`` covers ``i`` to ``i + 1``, as in label files.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.types import Float32Array, Int64Array, UInt8Image

Points = NDArray[np.float64]
# Width and height in pixels.
Size = tuple[int, int]

RATIO = 0.75
# Of the larger working picture; SIFT doubles it once and keeps some ten copies in float.
_WORKING_SIDE = 2048
# More would match no better, and comparing all with all grows with the square.
_MOST_LANDMARKS = 6000


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """SIFT landmarks of one picture, found at a working scale.

    Attributes:
        points_xy: float64 ``(N, 2)``, pixels of the whole picture.
        descriptors: float32 ``(N, 128)``.
        size_px: of the whole picture.
        factor: working pixels per pixel of the whole picture.
    """

    points_xy: Points
    descriptors: Float32Array
    size_px: Size
    factor: float

    def __len__(self) -> int:
        return len(self.points_xy)


def grey_levels(pixels: UInt8Image) -> UInt8Image:
    """Grey picture with its contrast evened out, uint8 ``(H, W)``."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    even = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(grey)
    return np.asarray(even, np.uint8)


def shrunk(picture: UInt8Image, factor: float) -> UInt8Image:
    """The picture at ``factor`` (at most 1) of its size, blurred first as a lens would."""
    if factor >= 1:
        return picture
    height, width = picture.shape[:2]
    # Every camera blurs by about half of its own pixel; the coarser pixel's blur is what lacks.
    sigma = 0.5 * float(np.sqrt(1 / factor**2 - 1))
    blurred = cv2.GaussianBlur(picture, (0, 0), sigma)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def working_factors(
    source: Size, target: Size, expected_scale: float | None
) -> tuple[float, float]:
    """Factors that bring both pictures to one scale, none above 1, neither picture too large."""
    scale = 1.0 if expected_scale is None else expected_scale
    one, other = (scale, 1.0) if scale <= 1 else (1.0, 1 / scale)
    cap = min(1.0, _WORKING_SIDE / max(one * max(source), other * max(target)))
    return one * cap, other * cap


def find_landmarks(pixels: UInt8Image, factor: float) -> Landmarks:
    """SIFT landmarks of a picture looked at with ``factor`` of its size.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
        factor: at most 1.
    """
    height, width = pixels.shape[:2]
    working = shrunk(grey_levels(pixels), factor)
    sift = cv2.SIFT.create(nfeatures=_MOST_LANDMARKS)
    found, descriptors = sift.detectAndCompute(working, None)
    per_pixel = np.array([working.shape[1] / width, working.shape[0] / height])
    # SIFT counts from the middle of the first pixel.
    points = np.array([each.pt for each in found], np.float64).reshape(-1, 2) + 0.5
    table = descriptors if len(found) else np.zeros((0, 128), np.float32)
    return Landmarks(points / per_pixel, np.asarray(table, np.float32), (width, height), factor)


def match(one: Landmarks, other: Landmarks) -> Int64Array:
    """Pairs of landmarks, int64 ``(M, 2)``: clearly nearest, and nearest both ways."""
    if len(one) == 0 or len(other) < 2:
        return np.zeros((0, 2), np.int64)
    a, b = one.descriptors, other.descriptors
    # Descriptors are small whole numbers, so these squares are exact in float32.
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    rows = np.arange(len(a))
    nearest, nearest_back = squared.argmin(axis=1), squared.argmin(axis=0)
    first = squared[rows, nearest]
    squared[rows, nearest] = np.inf
    clear = first < RATIO**2 * squared.min(axis=1)
    chosen = clear & (nearest_back[nearest] == rows)
    return np.column_stack([rows[chosen], nearest[chosen]]).astype(np.int64)


def picture_size(pixels: UInt8Image) -> Size:
    """Width and height of a picture ``(H, W, ...)``."""
    return int(pixels.shape[1]), int(pixels.shape[0])
