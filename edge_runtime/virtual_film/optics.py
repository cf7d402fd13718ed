"""How a microscope and its camera see a film: the optical chain.

Owns the picture of one window of a film and the truth about what is in it. Does not own
the profiles (``profiles``), the film nor the order in which a camera visits it.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from edge_runtime.types import UInt8Image
from edge_runtime.virtual_film.film import VirtualFilm
from edge_runtime.virtual_film.profiles import OpticalProfile

# Noise is cut from a tile this much larger than the frame, at a random place each time:
# drawing new noise for every frame would cost more than everything else together.
_NOISE_MARGIN_PX = 64
_NOISE_TILE_PX = 700


@dataclass(frozen=True, slots=True)
class WindowCell:
    """What lies in one window.

    Attributes:
        film_id: ``FilmCell.id``.
        box_xyxy: frame pixels, clipped to the frame.
        visible: share of the cell's whole box that the window shows, 0 to 1.
    """

    film_id: int
    class_name: str
    is_white_cell: bool
    box_xyxy: tuple[float, float, float, float]
    visible: float


class Optics:
    """The optical chain of one profile; everything that does not change is computed once."""

    def __init__(self, profile: OpticalProfile) -> None:
        width, height = profile.resolution
        self.profile = profile
        self._gain = _gain(profile)
        rng = np.random.Generator(np.random.PCG64(20))
        drawn = rng.standard_normal((_NOISE_TILE_PX, _NOISE_TILE_PX, 3), dtype=np.float32)
        # A camera interpolates colours, so neighbouring pixels share part of their noise.
        noise = np.asarray(cv2.GaussianBlur(drawn, (3, 3), 0.55), np.float32)
        noise *= profile.sensor_noise_sigma / float(noise.std())
        rounded = np.round(noise)
        margin = ((0, height + _NOISE_MARGIN_PX), (0, width + _NOISE_MARGIN_PX), (0, 0))
        self._brighter, self._darker = (
            np.pad(np.clip(sign * rounded, 0, 255).astype(np.uint8), margin, "wrap")[
                : height + _NOISE_MARGIN_PX, : width + _NOISE_MARGIN_PX
            ].copy()
            for sign in (1, -1)
        )

    def capture(
        self, film: VirtualFilm, centre_um: tuple[float, float], rng: np.random.Generator
    ) -> UInt8Image:
        """The frame around a film position, RGB uint8 ``(height, width, 3)``.

        ``rng`` decides focus and noise of this frame. Beyond the film's edge there is clear
        film.
        """
        profile = self.profile
        width, height = profile.resolution
        focus = 1 + profile.focus_spread * min(2.0, abs(float(rng.normal())))
        # Never finer than the frame can hold, or thin things would flicker.
        blur_um = max(profile.blur_sigma_um * focus, 0.4 * profile.pixel_size_um)
        planes = self._resample(film, blur_um, centre_um)
        frame = np.asarray(cv2.merge(planes), np.uint8)
        cv2.multiply(frame, self._gain, dst=frame, scale=1 / 255)
        if profile.sensor_noise_sigma > 0:
            top, left = (int(k) for k in rng.integers(_NOISE_MARGIN_PX, size=2))
            cut = np.s_[top : top + height, left : left + width]
            cv2.add(frame, self._brighter[cut], dst=frame)
            cv2.subtract(frame, self._darker[cut], dst=frame)
        if profile.jpeg_quality is not None:
            frame = _compressed(frame, profile.jpeg_quality)
        return frame

    def _resample(
        self, film: VirtualFilm, blur_um: float, centre_um: tuple[float, float]
    ) -> list[UInt8Image]:
        """Red, green and blue planes, blurred, each at its own magnification.

        Cut and scaled in whole pixels, which is five times faster than an exact affine
        transform and puts a cell less than one frame pixel from its true place.
        """
        profile = self.profile
        width, height = profile.resolution
        level, source_um = _level(film, max(profile.pixel_size_um, 1.1 * blur_um))
        # Film and scaling already blur by about half a source pixel.
        sigma = math.sqrt(max(0.0, (blur_um / source_um) ** 2 - 0.25))
        fringe = 1 + 0.12 * profile.chromatic_aberration_px
        spread = profile.chromatic_aberration_px / math.hypot(width, height)
        # Pixel (0, 0) of every level lies where pixel (0, 0) of the finest lies.
        shift = 0.5 * (source_um - film.pixel_size_um)
        planes: list[UInt8Image] = []
        for k, plane in enumerate(film.pyramid[level]):
            scale = profile.pixel_size_um * (1 + spread * (k - 1)) / source_um
            columns, rows = (
                _Cut.across((centre_um[axis] + shift) / source_um, size, scale, extent)
                for axis, size, extent in ((0, width, plane.shape[1]), (1, height, plane.shape[0]))
            )
            clear = round(film.stain.background_rgb[k])
            if columns.scaled <= 0 or rows.scaled <= 0:
                planes.append(np.full((height, width), clear, np.uint8))
                continue
            part = plane[rows.first : rows.last, columns.first : columns.last]
            wanted = sigma * (1.0 if k == 1 else fringe)
            if wanted > 0.3:
                size = 2 * max(1, math.ceil(2.5 * wanted)) + 1
                part = cv2.GaussianBlur(part, (size, size), wanted)
            part = cv2.resize(part, (columns.scaled, rows.scaled), interpolation=cv2.INTER_LINEAR)
            planes.append(_framed(part, rows.skip, columns.skip, (height, width), clear))
        return planes


@dataclass(frozen=True, slots=True)
class _Cut:
    """Which pixels of the film to take along one axis, and how they come into the frame.

    Attributes:
        first: first source pixel.
        last: one past the last source pixel.
        scaled: how many frame pixels they become.
        skip: frame pixels to drop at the start; negative where the film ends earlier.
    """

    first: int
    last: int
    scaled: int
    skip: int

    @classmethod
    def across(cls, middle: float, size: int, scale: float, extent: int) -> _Cut:
        """The cut for ``size`` frame pixels of ``scale`` source pixels around ``middle``."""
        start, stop = middle - size * scale / 2, middle + size * scale / 2
        first, last = max(0, math.floor(start) - 2), min(extent, math.ceil(stop) + 2)
        return cls(first, last, round((last - first) / scale), round((start - first) / scale))


def _framed(
    part: UInt8Image, top: int, left: int, shape: tuple[int, int], clear: int
) -> UInt8Image:
    """``shape`` pixels of ``part`` from (top, left) on; clear film where it has none."""
    bottom, right = top + shape[0], left + shape[1]
    if top >= 0 and left >= 0 and bottom <= part.shape[0] and right <= part.shape[1]:
        return part[top:bottom, left:right]
    frame = np.full(shape, clear, np.uint8)
    inside = part[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    y, x = max(0, -top), max(0, -left)
    frame[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return frame


def _level(film: VirtualFilm, finest_um: float) -> tuple[int, float]:
    """The coarsest level of the pyramid whose pixels are at most ``finest_um``, and its µm."""
    level = 0
    while level + 1 < len(film.pyramid) and film.pixel_size_um * 2 ** (level + 1) <= finest_um:
        level += 1
    return level, film.pixel_size_um * 2**level


def _gain(profile: OpticalProfile) -> UInt8Image:
    """Light and white balance per pixel, ``(H, W, 3)`` in units of 1/255."""
    width, height = profile.resolution
    aspect = height / width
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1)[None, :]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1)[:, None]
    # The lamp is never centred exactly: a tenth of the field off.
    radius2 = ((x - 0.1) ** 2 + ((y - 0.06) * aspect) ** 2) / (1 + aspect**2)
    light = (1 - profile.vignetting * radius2) * (1 + profile.illumination_tilt * 0.5 * (x - y / 2))
    light /= max(1.0, float(light.max()))
    planes = [
        np.clip(light * (255 * gain) + 0.5, 0, 255).astype(np.uint8)
        for gain in profile.white_balance
    ]
    return np.asarray(cv2.merge(planes), np.uint8)


def _compressed(frame: UInt8Image, quality: int) -> UInt8Image:
    """The frame after the camera's own JPEG compression, two halves at a time."""
    # Blocks are 16 rows high with their colour, and know nothing of each other.
    middle = len(frame) // 32 * 16
    halves = (frame[:middle], frame[middle:]) if middle else (frame,)
    with ThreadPoolExecutor(len(halves)) as pool:
        return np.concatenate(list(pool.map(lambda half: _recoded(half, quality), halves)))


def _recoded(frame: UInt8Image, quality: int) -> UInt8Image:
    # OpenCV takes the channels for BGR; swapped both ways, only the weights of red and blue
    # in the luma differ from a camera's, which nobody sees.
    done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"JPEG quality {quality}: must be 1 to 100")
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def truth_in_window(
    film: VirtualFilm,
    profile: OpticalProfile,
    centre_um: tuple[float, float],
    min_visible: float = 0.5,
) -> list[WindowCell]:
    """Everything but red cells that the window around ``centre_um`` shows.

    A cell counts when at least ``min_visible`` of its box lies in the window.
    """
    width, height = profile.resolution
    origin = np.array([centre_um[0], centre_um[1]]) - np.array(profile.field_um) / 2
    boxes = (film.boxes_um_xyxy.astype(np.float64) - np.tile(origin, 2)) / profile.pixel_size_um
    clipped = np.clip(boxes, 0, (width, height, width, height))
    whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    seen = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    visible = np.minimum(1.0, seen / np.maximum(whole, 1e-9))
    found: list[WindowCell] = []
    for k in np.nonzero((visible >= min_visible) & (seen > 0))[0]:
        cell = film.cells[int(k)]
        x1, y1, x2, y2 = (float(v) for v in clipped[k])
        found.append(
            WindowCell(
                cell.id, cell.class_name, cell.is_white_cell, (x1, y1, x2, y2), float(visible[k])
            )
        )
    return found
