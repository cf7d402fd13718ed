"""What tells a usable field from one that is not: blur, smear, light, stain, as numbers.

Owns the measures. Does not own which values are good enough (see ``gate``).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.scale import cell_size_from_red_cells
from edge_runtime.types import UInt8Image

Float32Image = NDArray[np.float32]

# Larger pictures are shrunk: what is finer than a 960th of a field decides nothing, and a
# 12-megapixel field would cost a tenth of a second.
_LONGER_SIDE = 960
# An edge that was blurred by b has, seen through a Gaussian s, a slope of 1/sqrt(b^2 + s^2);
# two of them give b without knowing the edge's height (after Zhuo and Sim, Pattern Recognition
# 44, 2011). The finer one is coarse enough to leave a cheap camera's noise behind.
_FINE, _COARSE = 1.2, 2.4
# The steepest edges are those of cells; the rest is grain and noise.
_STEEPEST_PERCENT = 98.0
_LARGEST_BLUR_PX = 20.0
_CLIPPED = 253
# Neighbouring pixels say the same after smoothing.
_EVERY = 2
# Light of clear film: brighter is dust and glare.
_CLEAR_PERCENT = 97.0
# Optical density by which the thinnest red cell stands out of clear film.
_STAINED_DENSITY = 0.06
_WHITE_CELL_UM = 13.0


@dataclass(frozen=True, slots=True)
class FieldMeasures:
    """One field.

    Attributes:
        blur_px: width (standard deviation) of its steepest edges in pixels of the frame.
        blur_um: the same in µm; None when no size of a pixel is known.
        smear: how much blurrier edges are along one direction than across it, from 1: high
            when the film moved while the picture was taken.
        light: level of clear film, 0..255, mean of the channels.
        clipped: share of pixels whose green, which tells cells from clear film, is at its end.
        stained: share of pixels that are darker than clear film.
        contrast: grey levels between clear film and the darkest hundredth.
        edge_slope: grey levels per pixel of the steepest edges: what noise alone has is low.
    """

    blur_px: float
    blur_um: float | None
    smear: float
    light: float
    clipped: float
    stained: float
    contrast: float
    edge_slope: float


def measure_field(
    pixels: UInt8Image,
    *,
    pixel_size_um: float | None = None,
    light: Float32Image | None = None,
) -> FieldMeasures:
    """The measures of RGB uint8 ``(H, W, 3)``.

    Args:
        pixels: the field.
        pixel_size_um: µm per pixel; None: judged from red cells where there are enough.
        light: the light of an empty field, float32 ``(h, w, 3)`` of any size, 1 where it is
            brightest; stain is told from it. None: the field is taken for evenly lit.
    """
    height, width = pixels.shape[:2]
    shrink = min(1.0, _LONGER_SIDE / max(height, width))
    small = pixels
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    # Haemoglobin and nuclei both absorb green.
    green = np.asarray(small[:, :, 1], np.float32)
    blur, smear, slope = _edges(green)
    clipped = int(np.count_nonzero(small[:, :, 1] >= _CLIPPED)) / green.size
    if light is not None:
        green = green / cv2.resize(light[:, :, 1], green.shape[::-1], interpolation=cv2.INTER_CUBIC)
    calm = np.asarray(cv2.GaussianBlur(green, (0, 0), 2.0), np.float32)[::_EVERY, ::_EVERY]
    darkest, clear = (float(level) for level in np.percentile(calm, [1, _CLEAR_PERCENT]))
    stained = float((calm < clear * 10**-_STAINED_DENSITY).mean())
    if pixel_size_um is None:
        cell = cell_size_from_red_cells(pixels)
        if cell is not None:
            pixel_size_um = _WHITE_CELL_UM / float(np.sqrt(cell.width * cell.height))
    blur_px = blur / shrink
    return FieldMeasures(
        blur_px=blur_px,
        blur_um=None if pixel_size_um is None else blur_px * pixel_size_um,
        smear=smear,
        light=_light(small[::_EVERY, ::_EVERY]),
        clipped=clipped,
        stained=stained,
        contrast=clear - darkest,
        edge_slope=slope,
    )


def _light(pixels: UInt8Image) -> float:
    """Mean of the channels that a few brighter pixels exceed; counted, as there are few sums."""
    sums = np.bincount(
        np.add(np.add(pixels[:, :, 0], pixels[:, :, 1], dtype=np.uint16), pixels[:, :, 2]).ravel(),
        minlength=1,
    )
    upto = np.cumsum(sums)
    place = _CLEAR_PERCENT / 100 * (upto[-1] - 1)
    low, high = np.searchsorted(upto, [np.floor(place), np.ceil(place)], side="right")
    return float(low + (high - low) * (place - np.floor(place))) / 3


def _edges(green: Float32Image) -> tuple[float, float, float]:
    """Blur in pixels, smear, and slope of the steepest edges."""
    fine_x, fine_y = _gradient(green, _FINE)
    coarse_x, coarse_y = _gradient(green, _COARSE)
    everywhere = np.asarray(cv2.magnitude(coarse_x, coarse_y), np.float32)
    steep = everywhere >= np.percentile(everywhere, _STEEPEST_PERCENT)
    coarse, fine_x, fine_y = everywhere[steep], fine_x[steep], fine_y[steep]
    slope = float(np.median(coarse))
    ratio = float(np.median(np.hypot(fine_x, fine_y) / np.maximum(coarse, 1e-6)))
    # Directions in which the film could have moved: edges across it keep their slope.
    xx, yy = float((fine_x**2).mean()), float((fine_y**2).mean())
    xy = float((fine_x * fine_y).mean())
    spread = float(np.hypot(xx - yy, 2 * xy))
    smear = float(np.sqrt((xx + yy + spread) / max(xx + yy - spread, 1e-9)))
    return _blur_of(ratio), smear, slope


def _blur_of(ratio: float) -> float:
    """The blur at which the slope grows by ``ratio`` from the coarse to the fine Gaussian."""
    square = ratio * ratio
    if square <= 1:
        return _LARGEST_BLUR_PX
    inside = (_COARSE**2 - square * _FINE**2) / (square - 1)
    return float(min(_LARGEST_BLUR_PX, np.sqrt(max(0.0, inside))))


def _gradient(green: Float32Image, sigma: float) -> tuple[Float32Image, Float32Image]:
    """Slopes to the right and down of every second pixel, by Scharr's filter.

    Worked out for those pixels alone: four times less than ``cv2.Scharr`` and a choice after it.
    """
    smooth = cv2.GaussianBlur(green, (0, 0), sigma)
    edged = np.asarray(cv2.copyMakeBorder(smooth, 1, 1, 1, 1, cv2.BORDER_REFLECT_101), np.float32)
    rows, columns = (-(-length // _EVERY) for length in green.shape)
    across, down = _differences(edged, columns), _differences(edged.T, rows)
    return _weighed(across, rows), np.ascontiguousarray(_weighed(down, columns).T)


def _differences(edged: Float32Image, count: int) -> Float32Image:
    """Right less left neighbour of every second column."""
    return edged[:, 2::_EVERY][:, :count] - edged[:, 0::_EVERY][:, :count]


def _weighed(slopes: Float32Image, count: int) -> Float32Image:
    """Scharr's weights over three rows, around every second one."""
    above, here, below = (slopes[start::_EVERY][:count] for start in range(3))
    weighed = (above + below) * np.float32(3 / 32) + here * np.float32(10 / 32)
    return np.asarray(weighed, np.float32)
