"""What tells a usable field from one that is not: blur, smear, light, stain, as numbers.

Owns the measures. Does not own which values are good enough (see ``gate``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.scale import cell_size_from_red_cells
from edge_runtime.shrinking import halved
from edge_runtime.types import UInt8Image

Float32Image = NDArray[np.float32]

# Larger pictures are halved, which costs a tenth of any other shrinking: what is finer than a 500th
# of a field decides nothing, and a 12-megapixel field would cost a tenth of a second.
_LONGER_SIDE = 1024
# An edge that was blurred by b has, seen through a Gaussian s, a slope of 1/sqrt(b^2 + s^2);
# two of them give b without knowing the edge's height (after Zhuo and Sim, Pattern Recognition
# 44, 2011). The finer one is coarse enough to leave a cheap camera's noise behind. Both are what
# an edge meets altogether: averaging over a width w and differences over w blur by w^2 / 12 each.
_FINE, _COARSE = 1.33, 2.47
# The coarse one sees the half-size picture: means of two, differences over four of its pixels.
_FINE_SIGMA = (_FINE**2 - 1 / 12) ** 0.5
_COARSE_SIGMA = (_COARSE**2 - 4 / 12 - 16 / 12) ** 0.5 / 2
# The steepest edges are those of cells; the rest is grain and noise.
_STEEPEST_PERCENT = 98.0
_LARGEST_BLUR_PX = 20.0
_CLIPPED = 253
# Of light every fourth pixel is enough.
_LIGHT_EVERY = 4
_SLOPE_STEPS = 4096
_LEVEL_STEP = 0.0625  # grey levels; smoothed pixels of a byte tell no finer
# Sixteen times as bright as white: where little light falls, it is divided by little.
_TOP_STEP = 65_535
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
    shrunk: tuple[UInt8Image, int] | None = None,
) -> FieldMeasures:
    """The measures of RGB uint8 ``(H, W, 3)``.

    Args:
        pixels: the field.
        pixel_size_um: µm per pixel; None: judged from red cells where there are enough.
        light: the light of an empty field, float32 ``(h, w, 3)`` of any size, 1 where it is
            brightest; stain is told from it. None: the field is taken for evenly lit.
        shrunk: what ``shrunk_field`` made of it; None to have it made.
    """
    small, times = shrunk_field(pixels) if shrunk is None else shrunk
    # Haemoglobin and nuclei both absorb green.
    green = np.asarray(cv2.extractChannel(small, 1), np.uint8)
    clipped = int(np.count_nonzero(green >= _CLIPPED)) / green.size
    grey = green.astype(np.float32)
    half = (max(1, grey.shape[1] // 2), max(1, grey.shape[0] // 2))
    pairs = grey[: max(1, half[1] * 2), : max(1, half[0] * 2)]
    pairs = np.asarray(cv2.resize(pairs, half, interpolation=cv2.INTER_AREA), np.float32)
    coarse = _smooth(pairs, _COARSE_SIGMA)
    blur, smear, slope = _edges(_smooth(grey, _FINE_SIGMA), coarse)
    calm = coarse
    if light is not None:
        even = cv2.resize(light[:, :, 1], calm.shape[::-1], interpolation=cv2.INTER_CUBIC)
        calm = np.asarray(calm / even, np.float32)
    darkest, clear = _levels(calm, [1, _CLEAR_PERCENT])
    stained = float((calm < clear * 10**-_STAINED_DENSITY).mean())
    if pixel_size_um is None:
        cell = cell_size_from_red_cells(pixels)
        if cell is not None:
            pixel_size_um = _WHITE_CELL_UM / float(np.sqrt(cell.width * cell.height))
    blur_px = blur * times
    return FieldMeasures(
        blur_px=blur_px,
        blur_um=None if pixel_size_um is None else blur_px * pixel_size_um,
        smear=smear,
        light=_light(small[::_LIGHT_EVERY, ::_LIGHT_EVERY]),
        clipped=clipped,
        stained=stained,
        contrast=clear - darkest,
        edge_slope=slope,
    )


def shrunk_field(
    pixels: UInt8Image, half: Callable[[], UInt8Image] | None = None
) -> tuple[UInt8Image, int]:
    """The field no larger than its measures need, and how many of its pixels became one each way.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
        half: gives the same halved, where somebody has made it already.
    """
    height, width = pixels.shape[:2]
    small, times = pixels, 1
    while max(height, width) > _LONGER_SIDE * times and min(height, width) >= 2 * times:
        small = halved(small) if times > 1 or half is None else half()
        times *= 2
    return small, times


def _smooth(grey: Float32Image, sigma: float) -> Float32Image:
    # What lies beyond three sigmas weighs a thousandth.
    side = 2 * int(np.ceil(3 * sigma)) + 1
    return np.asarray(cv2.GaussianBlur(grey, (side, side), sigma), np.float32)


def _counted(values: Float32Image, step: float) -> NDArray[np.float32]:
    """How many values lie below each further step, until all do; those below 0 count as 0."""
    steps = np.clip(values * np.float32(1 / step), 0, _TOP_STEP).astype(np.uint16)
    bins = int(steps.max()) + 1
    # Whole numbers are counted at a third of what fractions take.
    return np.cumsum(cv2.calcHist([steps], [0], None, [bins], [0, bins]).ravel())


def _levels(grey: Float32Image, percents: Sequence[float]) -> list[float]:
    """Percentiles of grey levels, counted, which takes a fifth of sorting them."""
    upto = _counted(grey, _LEVEL_STEP)
    places = np.asarray(percents) / 100 * (upto[-1] - 1)
    return [float(at) * _LEVEL_STEP for at in np.searchsorted(upto, places, side="right")]


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


def _edges(fine: Float32Image, coarse: Float32Image) -> tuple[float, float, float]:
    """Blur in pixels, smear, and slope of the steepest edges, of a field seen through both.

    Args:
        fine: the field.
        coarse: the same at half the size.
    """
    # Grey levels for a pixel of the field.
    across, down = (
        cv2.Scharr(coarse, cv2.CV_32F, *order, scale=1 / 64) for order in ((1, 0), (0, 1))
    )
    everywhere = np.asarray(cv2.magnitude(across, down), np.float32)
    steep = np.flatnonzero(everywhere >= _slope_over(everywhere, _STEEPEST_PERCENT))
    fine_x, fine_y = _slopes_between(fine, *np.divmod(steep, everywhere.shape[1]))
    slopes = everywhere.ravel()[steep]
    ratio = float(np.median(np.hypot(fine_x, fine_y) / np.maximum(slopes, 1e-6)))
    # Directions in which the film could have moved: edges across it keep their slope.
    xx, yy = float((fine_x**2).mean()), float((fine_y**2).mean())
    xy = float((fine_x * fine_y).mean())
    spread = float(np.hypot(xx - yy, 2 * xy))
    smear = float(np.sqrt((xx + yy + spread) / max(xx + yy - spread, 1e-9)))
    return _blur_of(ratio), smear, float(np.median(slopes))


def _slopes_between(
    fine: Float32Image, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[Float32Image, Float32Image]:
    """Slopes to the right and down amid the four pixels that became one of the half-size picture.

    Returns:
        float32 ``(n,)`` each, grey levels a pixel.
    """
    below = np.minimum(2 * rows + 1, fine.shape[0] - 1)
    beside = np.minimum(2 * columns + 1, fine.shape[1] - 1)
    first, second = fine[2 * rows, 2 * columns], fine[2 * rows, beside]
    third, fourth = fine[below, 2 * columns], fine[below, beside]
    across = (second - first + fourth - third) / 2
    down = (third - first + fourth - second) / 2
    return across.astype(np.float32), down.astype(np.float32)


def _slope_over(slopes: Float32Image, percent: float) -> float:
    """A slope that so many per cent do not reach; never above the steepest."""
    steepest = float(slopes.max())
    if steepest <= 0:
        return 0.0
    # Every second row tells as much.
    upto = _counted(slopes[::2], steepest / _SLOPE_STEPS)
    at = int(np.searchsorted(upto, percent / 100 * upto[-1]))
    return min(at, _SLOPE_STEPS - 1) * steepest / _SLOPE_STEPS


def _blur_of(ratio: float) -> float:
    """The blur at which the slope grows by ``ratio`` from the coarse to the fine Gaussian."""
    square = ratio * ratio
    if square <= 1:
        return _LARGEST_BLUR_PX
    inside = (_COARSE**2 - square * _FINE**2) / (square - 1)
    return float(min(_LARGEST_BLUR_PX, np.sqrt(max(0.0, inside))))
