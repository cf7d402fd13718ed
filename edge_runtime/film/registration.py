"""How far one field lies from another: small pictures, and matches between two of them.

Owns the picture that a field is recognised by and the evidence that two of them show the same
place. Does not own where fields lie on the film (see ``track``).

Two fields of a hand-moved stage may share no more than a fifth of their area. Phase correlation
as OpenCV has it knows no shift beyond half a field, and windows the edges away, where that fifth
lies; so every shift is judged by the cells in its own overlap: the cross-correlation divided by
the energy that both pictures have there (Padfield, IEEE Trans. Image Process. 21, 2012, for
rectangular masks). A peak counts only when enough separate patches of the overlap agree, which
one dark cell lying upon another one does not give, and when no second peak is as good, as in a
repeated pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.shrinking import resized
from edge_runtime.types import Float32Array, UInt8Image

# Longest side of the picture: a red cell of a 100x field is then about 8 pixels wide.
SIDE_PX = 160
# Large frames are thinned to this many times the picture before they are averaged.
_AVERAGED = 4
# Lamp, vignetting and slow drifts of stain are wider than this; cells are narrower.
_LEVEL_SIGMA_PX = 9.0
# Darker than this, nothing of the film can be seen (grey levels of 255).
_DARK = 12.0
# Standard deviation of the levelled logarithm of light; bare film and sensor noise have less.
_PLAIN = 0.02
_CLIP = 3.0
# Logarithm of light below the field's median that still counts; red cells have 0.2 to 0.4.
_DARKEST = 0.45
_STEPS = 42.0  # int8 steps per standard deviation; the clip then just fits

# Least share of the area that two fields must have in common.
MIN_OVERLAP = 0.12
_PEAKS = 3
# Peaks nearer than this are one: a red cell and its halo.
_PEAK_RADIUS_PX = 7
# Where a picture is emptier than this share of its mean, noise must not be scaled up.
_ENERGY_FLOOR = 0.3

_PATCH_PX = 8
_PATCH_ENERGY = 0.25  # of the picture's mean: less is no cell
_PATCH_AGREES = 0.6
# Patches that must agree, and their share of those that show anything; few are enough when all
# of them do. Fields with nothing in common reach neither.
_ENOUGH = ((12, 0.55), (8, 0.85))
# Patches from one end of those that agree to the other; two white cells that happen to lie upon
# each other are shorter.
_MIN_EXTENT = 7
_MIN_CORRELATION = 0.45
# A second place that explains this share as many patches makes the first one a guess.
_AS_GOOD = 0.75


@dataclass(frozen=True, slots=True)
class Match:
    """Two fields show the same place.

    Attributes:
        shift_px: how far right and down the second field lies of the first, in picture pixels.
        overlap: share of the field's area that they have in common.
        correlation: of the two in their overlap, -1 to 1.
        patches: how many patches of the overlap show the same detail.
        share: of the patches that show any.
    """

    shift_px: tuple[float, float]
    overlap: float
    correlation: float
    patches: int
    share: float


@dataclass(frozen=True, slots=True)
class NoMatch:
    """Why two fields were not brought together: ``apart`` or ``repeats``."""

    reason: str


class FieldPicture:
    """One field, small, levelled, in units of its own standard deviation.

    Attributes:
        detail: int8 ``(h, w)``, about 14 kB; all that is kept of a keyframe. Transforms are
            made when asked for, and dropped by ``forget``.
    """

    def __init__(self, detail: NDArray[np.int8]) -> None:
        self.detail = detail

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.detail.shape[0], self.detail.shape[1])

    @cached_property
    def values(self) -> Float32Array:
        """The detail as float32, standard deviation about 1."""
        return np.asarray(self.detail.astype(np.float32) / np.float32(_STEPS), np.float32)

    @cached_property
    def spectrum(self) -> Float32Array:
        """Of the picture padded for shifts, as OpenCV packs it."""
        rows, columns = _padded(self.shape)
        room = np.zeros((rows, columns), np.float32)
        room[: self.shape[0], : self.shape[1]] = self.values
        return np.asarray(cv2.dft(room, nonzeroRows=self.shape[0]), np.float32)

    @cached_property
    def overlap_weight(self) -> Float32Array:
        """One over the root of the energy in what overlaps a copy shifted by (row, column).

        Shape ``(2 * reach_y + 1, 2 * reach_x + 1)``, the shift of nothing in the middle; 0 where
        too little overlaps.
        """
        height, width = self.shape
        sums = cv2.integral(cv2.multiply(self.values, self.values), sdepth=cv2.CV_32F)
        reach_y, reach_x = _reach(self.shape)
        dy, dx = np.arange(-reach_y, reach_y + 1), np.arange(-reach_x, reach_x + 1)
        top, bottom = np.maximum(dy, 0), height + np.minimum(dy, 0)
        left, right = np.maximum(dx, 0), width + np.minimum(dx, 0)
        across = sums[:, right] - sums[:, left]
        energy = across[bottom] - across[top]
        area = _area(self.shape)
        weight = 1 / np.sqrt(np.maximum(energy, area * np.float32(_ENERGY_FLOOR)))
        weight[area < MIN_OVERLAP * height * width] = 0
        return np.asarray(weight, np.float32)

    @cached_property
    def half(self) -> FieldPicture:
        """The same at half the size, for looking at many places quickly."""
        size = (self.shape[1] // 2, self.shape[0] // 2)
        small = np.asarray(cv2.resize(self.values, size, interpolation=cv2.INTER_AREA), np.float32)
        return FieldPicture(_quantised(small, float(small.std())))

    def forget(self) -> None:
        """Drops everything that can be made again; the half-size picture keeps its detail."""
        for name in ("values", "spectrum", "overlap_weight"):
            self.__dict__.pop(name, None)
        if "half" in self.__dict__:
            self.half.forget()


class FieldEye:
    """Makes the picture of a field, less what is always there: dirt on lens and sensor.

    Dirt stays in its place while the film moves. Over a bare part of the film it would be all
    there is to see, and say that the stage stands still.
    """

    def __init__(self) -> None:
        self._fixed: Float32Array | None = None
        self._learnt = 0
        self._last: Float32Array | None = None

    def look(self, pixels: UInt8Image) -> FieldPicture | str:
        """The picture of a field, RGB uint8 ``(H, W, 3)``; else why there is none."""
        small = _shrunk(pixels)
        if float(small.mean()) < _DARK:
            return "dark: there is no light"
        light = np.log(small + np.float32(4.0))
        # Nuclei are many times darker than red cells, and would be all that counts.
        light = np.maximum(light, np.median(light) - np.float32(_DARKEST))
        level = cv2.GaussianBlur(light, (0, 0), _LEVEL_SIGMA_PX)
        seen = np.asarray(light - level, np.float32)
        self._last = seen
        if self._fixed is not None and self._fixed.shape == seen.shape:
            # Until some places were seen, what they share may be chance.
            seen = seen - self._fixed * np.float32(min(1.0, self._learnt / 8))
        spread = float(seen.std())
        if spread < _PLAIN:
            return "empty: too little to recognise the place by"
        return FieldPicture(_quantised(seen, spread))

    def learn(self) -> None:
        """The field last looked at is another place than those before."""
        if self._last is None:
            return
        self._learnt += 1
        if self._fixed is None or self._fixed.shape != self._last.shape:
            self._fixed, self._learnt = np.zeros_like(self._last), 1
        seen, self._last = np.clip(self._last, -0.15, 0.15), None
        # A mean at first, later one of about the last sixty places: dirt moves, lamps warm up.
        # Cells are dark and would leave traces; clipped, one of them weighs little.
        self._fixed += (seen - self._fixed) / np.float32(min(self._learnt, 60))


def match(first: FieldPicture, second: FieldPicture) -> Match | NoMatch:
    """Where ``second`` lies as seen from ``first``, wherever that is.

    Raises:
        ValueError: the pictures differ in size.
    """
    surface, significance = _surfaces(first, second)
    accepted: list[Match] = []
    for row, column in _peaks(significance, _PEAKS):
        found = _judged(first, second, surface, row, column)
        if found is not None:
            accepted.append(found)
    if not accepted:
        return NoMatch("apart")
    best = max(accepted, key=lambda each: each.patches)
    if any(each.patches >= _AS_GOOD * best.patches for each in accepted if each is not best):
        return NoMatch("repeats")
    return best


def glance(first: FieldPicture, second: FieldPicture) -> float:
    """How likely it is, from half-size pictures, that ``match`` would succeed.

    Returns:
        The highest peak in units of what unrelated fields give on average.
    """
    _, significance = _surfaces(first.half, second.half)
    return float(significance.max() / significance.std())


def match_near(
    first: FieldPicture, second: FieldPicture, expected_px: tuple[float, float], reach_px: int = 6
) -> Match | None:
    """Where ``second`` lies as seen from ``first``, within ``reach_px`` of where it should.

    Much cheaper than ``match``; None where the two do not agree anywhere near.
    """
    height, width = first.shape
    dx, dy = round(expected_px[0]), round(expected_px[1])
    # The part of the second field that the first one shows with room on every side.
    top, bottom = max(0, reach_px - dy), min(height, height - reach_px - dy)
    left, right = max(0, reach_px - dx), min(width, width - reach_px - dx)
    if (bottom - top) * (right - left) < MIN_OVERLAP / 2 * height * width:
        return None
    if bottom - top < 2 * _PATCH_PX or right - left < 2 * _PATCH_PX:
        return None
    part = second.values[top:bottom, left:right]
    field = first.values[
        top + dy - reach_px : bottom + dy + reach_px, left + dx - reach_px : right + dx + reach_px
    ]
    surface = np.asarray(cv2.matchTemplate(field, part, cv2.TM_CCOEFF_NORMED), np.float32)
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    y, x = _summit(surface, int(row), int(column))
    shift = (dx + x - reach_px, dy + y - reach_px)
    return _evidence(first, second, shift, float(surface[row, column]))


def _surfaces(first: FieldPicture, second: FieldPicture) -> tuple[Float32Array, Float32Array]:
    """Correlation of every shift in its overlap, and the same weighted by the overlap's size."""
    if first.shape != second.shape:
        raise ValueError(f"fields {first.shape} and {second.shape}: pictures must be alike")
    reach_y, reach_x = _reach(first.shape)
    product = cv2.mulSpectrums(first.spectrum, second.spectrum, 0, conjB=True)
    rolled = cv2.idft(product, flags=cv2.DFT_SCALE)
    surface = np.empty((2 * reach_y + 1, 2 * reach_x + 1), np.float32)
    surface[reach_y:, reach_x:] = rolled[: reach_y + 1, : reach_x + 1]
    surface[:reach_y, reach_x:] = rolled[-reach_y:, : reach_x + 1]
    surface[reach_y:, :reach_x] = rolled[: reach_y + 1, -reach_x:]
    surface[:reach_y, :reach_x] = rolled[-reach_y:, -reach_x:]
    surface *= first.overlap_weight
    surface *= second.overlap_weight[::-1, ::-1]
    return surface, surface * _root_area(first.shape)


def _judged(
    first: FieldPicture, second: FieldPicture, surface: Float32Array, row: int, column: int
) -> Match | None:
    correlation = float(surface[row, column])
    if correlation < _MIN_CORRELATION:
        return None
    reach_y, reach_x = _reach(first.shape)
    y, x = _summit(surface, row, column)
    return _evidence(first, second, (x - reach_x, y - reach_y), correlation)


def _evidence(
    first: FieldPicture, second: FieldPicture, shift: tuple[float, float], correlation: float
) -> Match | None:
    """The match at one shift, when enough patches of the overlap bear it out."""
    height, width = first.shape
    dx, dy = round(shift[0]), round(shift[1])
    one = first.values[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    other = second.values[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    rows, columns = one.shape[0] // _PATCH_PX, one.shape[1] // _PATCH_PX
    if rows == 0 or columns == 0 or correlation < _MIN_CORRELATION:
        return None

    def patches(values: Float32Array) -> Float32Array:
        cut = values[: rows * _PATCH_PX, : columns * _PATCH_PX]
        return np.asarray(
            cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA), np.float32
        )

    mean_one, mean_other = patches(one), patches(other)
    energy_one = patches(one * one) - mean_one * mean_one
    energy_other = patches(other * other) - mean_other * mean_other
    common = patches(one * other) - mean_one * mean_other
    shown = np.maximum(energy_one, energy_other) > _PATCH_ENERGY
    agree = shown & (common > _PATCH_AGREES * np.sqrt(energy_one * energy_other + 1e-6))
    count, seen = int(agree.sum()), int(shown.sum())
    share = count / max(1, seen)
    if not any(count >= least and share >= part for least, part in _ENOUGH):
        return None
    if max(int(np.ptp(where)) for where in np.nonzero(agree)) + 1 < _MIN_EXTENT:
        return None
    return Match(shift, one.size / (height * width), correlation, count, share)


def _peaks(significance: Float32Array, count: int) -> list[tuple[int, int]]:
    """Rows and columns of the highest peaks, highest first."""
    left = significance.copy()
    found: list[tuple[int, int]] = []
    for _ in range(count):
        row, column = (int(k) for k in np.unravel_index(int(left.argmax()), left.shape))
        found.append((row, column))
        near = _PEAK_RADIUS_PX
        left[max(0, row - near) : row + near + 1, max(0, column - near) : column + near + 1] = 0
    return found


def _summit(surface: Float32Array, row: int, column: int) -> tuple[float, float]:
    """The peak between the pixels: row and column of a parabola's top along each axis."""
    y, x = float(row), float(column)
    if 0 < row < surface.shape[0] - 1:
        y += _top(*(float(v) for v in surface[row - 1 : row + 2, column]))
    if 0 < column < surface.shape[1] - 1:
        x += _top(*(float(v) for v in surface[row, column - 1 : column + 2]))
    return y, x


def _top(before: float, middle: float, after: float) -> float:
    bend = before - 2 * middle + after
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))


def _reach(shape: tuple[int, int]) -> tuple[int, int]:
    """The largest shift down and to the right that leaves enough in common."""
    return (int(shape[0] * (1 - MIN_OVERLAP)), int(shape[1] * (1 - MIN_OVERLAP)))


def _padded(shape: tuple[int, int]) -> tuple[int, int]:
    reach_y, reach_x = _reach(shape)
    return (
        cv2.getOptimalDFTSize(shape[0] + reach_y + 1),
        cv2.getOptimalDFTSize(shape[1] + reach_x + 1),
    )


@lru_cache(maxsize=4)
def _area(shape: tuple[int, int]) -> Float32Array:
    """Pixels that two pictures have in common, for every shift."""
    reach_y, reach_x = _reach(shape)
    rows = shape[0] - np.abs(np.arange(-reach_y, reach_y + 1, dtype=np.float32))
    columns = shape[1] - np.abs(np.arange(-reach_x, reach_x + 1, dtype=np.float32))
    area = np.outer(rows, columns)
    area.flags.writeable = False
    return area


@lru_cache(maxsize=4)
def _root_area(shape: tuple[int, int]) -> Float32Array:
    root = np.sqrt(_area(shape))
    root.flags.writeable = False
    return root


def _quantised(values: Float32Array, spread: float) -> NDArray[np.int8]:
    scaled = np.clip(values / np.float32(max(spread, 1e-6)), -_CLIP, _CLIP)
    return np.asarray(np.rint(scaled * np.float32(_STEPS)), np.int8)


def _shrunk(pixels: UInt8Image) -> Float32Array:
    """The green plane, small: stain absorbs green most, and it is sharp in cheap lenses."""
    height, width = pixels.shape[:2]
    scale = SIDE_PX / max(height, width)
    step = max(1, int(1 / (scale * _AVERAGED)))
    green = np.ascontiguousarray(pixels[::step, ::step, 1])
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    return resized(green, *size).astype(np.float32)
