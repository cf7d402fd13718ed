"""Soft-edged shapes and textures on a small square canvas around one cell.

Owns outlines, masks, noise and the optical-density layers of a stamp. Does not own what a
cell looks like (``cells``, ``background_cells``) nor colours (``stain``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.types import Float32Array, UInt8Image

# Value of a stamp pixel that changes nothing; the head-room above it lets the edge of a
# cell shine brighter than the film around it, as refraction does.
CLEAR = 224

_SUBPIXEL_BITS = 4

_Image = TypeVar("_Image", UInt8Image, Float32Array)


@dataclass(frozen=True, slots=True)
class Stamp:
    """One drawn thing, ready to be multiplied onto the film.

    Attributes:
        transmitted: uint8 ``(3, n, n)``, light let through in units of 1 / ``CLEAR``.
        box_px: tight box of the thing, x1, y1, x2, y2 in stamp pixels.
    """

    transmitted: UInt8Image
    box_px: tuple[int, int, int, int]

    def view(self, which: int) -> Stamp:
        """The stamp turned by ``which % 4`` quarters, mirrored first when ``which`` >= 4."""
        image, (x1, y1, x2, y2) = self.transmitted, self.box_px
        size = image.shape[1]
        if which >= 4:
            image, x1, x2 = image[:, :, ::-1], size - x2, size - x1
        for _ in range(which % 4):  # np.rot90 takes (x, y) to (y, size - x)
            x1, y1, x2, y2 = y1, size - x2, y2, size - x1
        turned = np.ascontiguousarray(np.rot90(image, which % 4, (1, 2)))
        return Stamp(turned, (x1, y1, x2, y2))


class Textures:
    """Smooth noise for one film: drawn once per grain size, then cut out at random places."""

    def __init__(self, rng: np.random.Generator, pixel_size_um: float) -> None:
        self.pixel_size_um = pixel_size_um
        self._rng = rng
        self._tiles: dict[tuple[float, float], Float32Array] = {}

    def cut(
        self, rng: np.random.Generator, size: int, grain_um: float, stretch: float
    ) -> Float32Array:
        """A piece ``(size, size)``, mean 0 and deviation about 1."""
        tile = self._tiles.get((grain_um, stretch))
        if tile is None or tile.shape[0] < size + 64:
            extent = max(640, size + 256)
            rows = max(4, math.ceil(extent * self.pixel_size_um / grain_um))
            columns = max(4, math.ceil(extent * self.pixel_size_um / (grain_um * stretch)))
            coarse = self._rng.standard_normal((rows, columns), dtype=np.float32)
            smooth = cv2.resize(coarse, (extent, extent), interpolation=cv2.INTER_CUBIC)
            # Interpolation takes a fifth of the deviation.
            tile = np.asarray(smooth, np.float32) * np.float32(1.25)
            self._tiles[(grain_um, stretch)] = tile
        top, left = (int(k) for k in rng.integers(tile.shape[0] - size, size=2))
        return tile[top : top + size, left : left + size]


class Canvas:
    """A square around one cell; lengths in µm, the origin in the middle.

    Attributes:
        density: float32 ``(3, n, n)``, natural-log optical density drawn so far; planes first
            because that is several times faster to add to.
    """

    def __init__(self, rng: np.random.Generator, textures: Textures, extent_um: float) -> None:
        self.rng = rng
        self.pixel_size_um = textures.pixel_size_um
        self.size = max(8, math.ceil(extent_um / self.pixel_size_um))
        self._textures = textures
        self.density: Float32Array = np.zeros((3, self.size, self.size), np.float32)

    def to_px(self, points_um: NDArray[np.float64]) -> NDArray[np.int32]:
        """Points in µm as OpenCV fixed-point pixel coordinates."""
        pixels = points_um / self.pixel_size_um + (self.size - 1) / 2
        return np.round(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def outline(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        angle: float = 0.0,
        wobble: float = 0.0,
        lobes: int = 5,
    ) -> NDArray[np.float64]:
        """A closed outline ``(64, 2)`` in µm: an ellipse with smooth random bumps.

        ``wobble`` is the relative height of the bumps, ``lobes`` how many fit around.
        """
        theta = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = np.ones_like(theta)
        for k in range(2, lobes + 1):
            amplitude = wobble * self.rng.normal() / math.sqrt(k - 1)
            radius += amplitude * np.cos(k * theta + self.rng.uniform(0, 2 * np.pi))
        radius = np.clip(radius, 0.55, 1.5)
        x, y = radii[0] * radius * np.cos(theta), radii[1] * radius * np.sin(theta)
        cos, sin = math.cos(angle), math.sin(angle)
        return np.stack([centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y], axis=1)

    def fill(self, outlines: list[NDArray[np.float64]]) -> UInt8Image:
        """All outlines filled, uint8 ``(n, n)`` 0 or 255 with smooth edges."""
        mask = np.zeros((self.size, self.size), np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [self.to_px(outline)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return mask

    def line(self, mask: UInt8Image, points_um: NDArray[np.float64], width_um: float) -> None:
        """Add an open line to ``mask``."""
        thickness = max(1, round(width_um / self.pixel_size_um))
        cv2.polylines(
            mask, [self.to_px(points_um)], False, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS
        )

    def soften(self, mask: UInt8Image, sigma_um: float, gain: float = 2.0) -> Float32Array:
        """Blur, then steepen the edge: neighbouring parts flow together, float32 0 to 1."""
        blurred = self.blur(mask.astype(np.float32) * np.float32(1 / 255), sigma_um)
        edge = np.clip((blurred - 0.5) * gain + 0.5, 0, 1)
        return np.asarray(edge * edge * (3 - 2 * edge), np.float32)

    def blur(self, values: Float32Array, sigma_um: float) -> Float32Array:
        """Gaussian blur."""
        sigma = max(0.3, sigma_um / self.pixel_size_um)
        if sigma <= 3:
            reach = 2 * math.ceil(3 * sigma) + 1
            return np.asarray(cv2.GaussianBlur(values, (reach, reach), sigma), np.float32)
        # A wide blur leaves nothing that a coarser grid would lose.
        shrink = sigma / 1.5
        small = max(4, round(self.size / shrink))
        coarse = cv2.resize(values, (small, small), interpolation=cv2.INTER_AREA)
        coarse = cv2.GaussianBlur(coarse, (0, 0), 1.3)
        wide = cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return np.asarray(wide, np.float32)

    def noise(self, grain_um: float, stretch: float = 1.0) -> Float32Array:
        """Smooth noise ``(n, n)``, mean 0 and deviation about 1; one grain is ``grain_um``."""
        return self._textures.cut(self.rng, self.size, grain_um, stretch)

    def turned(self, values: Float32Array, degrees: float) -> Float32Array:
        """``values`` rotated about the middle, its corners mirrored outwards."""
        middle = (self.size - 1) / 2
        matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
        rotated = cv2.warpAffine(
            values, matrix, (self.size, self.size), borderMode=cv2.BORDER_REFLECT
        )
        return np.asarray(rotated, np.float32)

    def bend(self, mask: _Image, grain_um: float, reach_um: float) -> _Image:
        """``mask`` pushed about by smooth noise, so that no part stays a perfect ellipse."""
        rows, columns = np.indices((self.size, self.size), dtype=np.float32)
        reach = np.float32(reach_um / self.pixel_size_um)
        bent = cv2.remap(
            mask,
            columns + reach * self.noise(grain_um),
            rows + reach * self.noise(grain_um),
            cv2.INTER_LINEAR,
        )
        return cast(_Image, bent)

    def lay(
        self,
        mask: Float32Array,
        density: Float32Array,
        texture: Float32Array | float = 1.0,
    ) -> None:
        """Replace what is under ``mask`` (0 to 1) by ``density`` (3,) times ``texture``."""
        self.density *= 1 - mask
        self.density += (mask * texture) * density[:, None, None]

    def add(self, mask: Float32Array, density: Float32Array) -> None:
        """Add ``density`` (3,) on top of what is there."""
        self.density += mask * density[:, None, None]

    def bleach(self, mask: Float32Array, share: float) -> None:
        """Take ``share`` of the density away where ``mask`` is 1."""
        self.density *= 1 - np.float32(share) * mask

    def dots(
        self,
        inside: Float32Array,
        count: int,
        radius_um: tuple[float, float],
        soften_um: float = 0.12,
        faintest: float = 0.5,
    ) -> Float32Array:
        """About ``count`` round granules where ``inside`` is above one half, 0 to 1."""
        rows, columns = np.nonzero(inside > 0.5)
        mask = np.zeros((self.size, self.size), np.uint8)
        if len(rows) == 0 or count <= 0:
            return mask.astype(np.float32)
        chosen = self.rng.integers(len(rows), size=count)
        scale = 1 << _SUBPIXEL_BITS
        radii = self.rng.uniform(*radius_um, size=count) / self.pixel_size_um * scale
        shades = 255 * self.rng.uniform(faintest, 1.0, size=count)
        for k, radius, shade in zip(chosen, radii, shades, strict=True):
            centre = (int(columns[k]) * scale, int(rows[k]) * scale)
            cv2.circle(mask, centre, round(radius), int(shade), -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self.blur(mask.astype(np.float32) * np.float32(1 / 255), soften_um)

    def stamp(self, body: Float32Array) -> Stamp:
        """The finished stamp; its box holds every pixel where ``body`` is above one half.

        A thin bright line is added around the body: light bends at the cell's edge.
        """
        wide = self.blur(body, 0.45)
        ring = np.clip(wide - body, 0, 1)
        light = np.exp(-self.density) * (CLEAR * (1 + np.float32(0.16) * ring))
        transmitted = np.clip(light + np.float32(0.5), 0, 255).astype(np.uint8)
        columns = np.nonzero((body > 0.5).any(axis=0))[0]
        rows = np.nonzero((body > 0.5).any(axis=1))[0]
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        return Stamp(transmitted, box)
