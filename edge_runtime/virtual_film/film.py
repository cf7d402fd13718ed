"""One rendered blood film and the truth about what lies on it.

Owns the rendered film: its raster, its cells and their coordinates. Does not own the look
of a cell (``cells``, ``background_cells``), colours (``stain``), how many there are
(``recipe``), where they lie (``placement``) nor how a microscope sees them (``optics``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from edge_runtime.types import Float32Array, UInt8Image
from edge_runtime.virtual_film.background_cells import ARTEFACT_PAINTERS, red_cell
from edge_runtime.virtual_film.cells import WHITE_CELL_PAINTERS
from edge_runtime.virtual_film.placement import Disc, Places, RedCellMap
from edge_runtime.virtual_film.recipe import (
    FilmSpec,
    Recipe,
    artefact_classes,
    decide,
    white_cell_classes,
)
from edge_runtime.virtual_film.shapes import CLEAR, Stamp, Textures
from edge_runtime.virtual_film.stain import Stain, draw_stain

# Kinds of red cell and platelet on one film; each is seen from eight sides.
_BANK = 56
_PYRAMID_LEVELS = 5


@dataclass(frozen=True, slots=True)
class FilmCell:
    """One white cell, platelet or artefact on the film.

    Attributes:
        id: running number on its film.
        class_name: one of ``WHITE_CELL_CLASSES`` or ``ARTEFACT_CLASSES``.
        box_um_xyxy: tight box in film µm, origin at the film's upper left corner.
        centre_um: middle of the box.
    """

    id: int
    class_name: str
    is_white_cell: bool
    box_um_xyxy: tuple[float, float, float, float]
    centre_um: tuple[float, float]


@dataclass(frozen=True, eq=False)
class VirtualFilm:
    """A rendered film; obtained through ``VirtualFilm.build``.

    Attributes:
        seed: what it was drawn from.
        spec: what was asked for.
        stain: the colours it was given.
        pixel_size_um: µm per raster pixel.
        cells: white cells, platelets and artefacts; the truth for detectors.
        red_cells_um: float32 ``(N, 3)``: centre x, y and diameter of every red cell.
        boxes_um_xyxy: float32 ``(len(cells), 4)``, the boxes of ``cells`` as one array.
        pyramid: the film in bright light, uint8 planes red, green, blue ``(3, H, W)``, at
            full size, half, quarter and so on. Planes, because optics treats each colour
            by itself.
    """

    seed: int
    spec: FilmSpec
    stain: Stain
    pixel_size_um: float
    cells: tuple[FilmCell, ...]
    red_cells_um: Float32Array
    boxes_um_xyxy: Float32Array
    pyramid: tuple[UInt8Image, ...]

    @property
    def raster(self) -> UInt8Image:
        """The whole film, RGB uint8 ``(H, W, 3)``; a view of the planes, not contiguous."""
        return np.asarray(self.pyramid[0].transpose(1, 2, 0))

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height in µm."""
        height, width = self.pyramid[0].shape[1:]
        return (width * self.pixel_size_um, height * self.pixel_size_um)

    @classmethod
    def build(cls, seed: int, spec: FilmSpec | None = None) -> VirtualFilm:
        """Render the film that ``seed`` and ``spec`` describe; the same pair, the same pixels.

        Costs seconds for the default size; time and memory grow with the film's area.
        """
        return _build(seed, spec or FilmSpec())


def _clear_film(
    rng: np.random.Generator, stain: Stain, shape: tuple[int, int], graininess: float
) -> UInt8Image:
    """The film without cells: its colour, slow drifts of tone, fine grain of dried plasma."""
    rows, columns = shape
    coarse = (max(4, rows // 700 + 3), max(4, columns // 700 + 3))
    drift = 0.012 * rng.standard_normal((*coarse, 1)) + 0.005 * rng.standard_normal((*coarse, 3))
    colour = np.asarray(stain.background_rgb) * np.exp(drift)
    clear = np.clip(colour, 0, 255).astype(np.uint8)
    planes = np.empty((3, rows, columns), np.uint8)
    for k, plane in enumerate(cv2.split(clear)):
        cv2.resize(plane, (columns, rows), dst=planes[k], interpolation=cv2.INTER_CUBIC)
    fine = rng.standard_normal((512, 512), dtype=np.float32)
    coarse_grain = rng.standard_normal((64, 64), dtype=np.float32)
    grain = 3 * np.asarray(cv2.GaussianBlur(fine, (0, 0), 1.2), np.float32)
    grain += 1.2 * np.asarray(
        cv2.resize(coarse_grain, (512, 512), interpolation=cv2.INTER_CUBIC), np.float32
    )
    # Only darker: dried plasma absorbs. One tile repeats, too faint for the eye to notice.
    tile = np.clip(graininess * np.abs(grain), 0, 12).astype(np.uint8)
    for top in range(0, rows, 512):
        for left in range(0, columns, 512):
            for plane in planes:
                part = plane[top : top + 512, left : left + 512]
                cv2.subtract(part, tile[: part.shape[0], : part.shape[1]], dst=part)
    return planes


class _Press:
    """Prints stamps onto the film's planes ``(3, H, W)``."""

    def __init__(self, planes: UInt8Image, pixel_size_um: float) -> None:
        self.planes = planes
        self.pixel_size_um = pixel_size_um

    def print(self, stamp: Stamp, x_um: float, y_um: float) -> tuple[int, int]:
        """Multiply a stamp onto the planes, its middle at a film position.

        Returns:
            Raster column and row of the stamp's upper left corner, perhaps outside.
        """
        size = stamp.transmitted.shape[1]
        left = round(x_um / self.pixel_size_um - size / 2)
        top = round(y_um / self.pixel_size_um - size / 2)
        rows, columns = self.planes.shape[1:]
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + size, columns), min(top + size, rows)
        if x1 < x2 and y1 < y2:
            for plane, layer in zip(self.planes, stamp.transmitted, strict=True):
                part = plane[y1:y2, x1:x2]
                light = layer[y1 - top : y2 - top, x1 - left : x2 - left]
                cv2.multiply(part, light, dst=part, scale=1 / CLEAR)
        return left, top

    def box_um(self, stamp: Stamp, corner: tuple[int, int]) -> tuple[float, float, float, float]:
        """The stamp's box on the film in µm, clipped to the film."""
        left, top = corner
        rows, columns = self.planes.shape[1:]
        x1, y1, x2, y2 = stamp.box_px
        return (
            max(0, left + x1) * self.pixel_size_um,
            max(0, top + y1) * self.pixel_size_um,
            min(columns, left + x2) * self.pixel_size_um,
            min(rows, top + y2) * self.pixel_size_um,
        )


def _print_red_cells(
    rng: np.random.Generator,
    recipe: Recipe,
    stain: Stain,
    textures: Textures,
    press: _Press,
    discs: RedCellMap,
) -> Float32Array:
    """Draw a bank of red cells and tile the free film with them, turned and mirrored."""
    bank = [
        red_cell(
            rng,
            stain,
            textures,
            poikilocytosis=recipe.poikilocytosis,
            diameter_um=recipe.red_cell_diameter_um,
        )
        for _ in range(_BANK)
    ]
    diameters = [
        (s.box_px[2] - s.box_px[0] + s.box_px[3] - s.box_px[1]) / 2 * press.pixel_size_um
        for s in bank
    ]
    found: list[tuple[float, float, float]] = []
    for x, y in discs.scatter(rng, recipe.coverage, recipe.rouleaux):
        which, view = int(rng.integers(len(bank))), int(rng.integers(8))
        press.print(bank[which].view(view), x, y)
        found.append((x, y, diameters[which]))
    return np.asarray(found, np.float32).reshape(-1, 3)


def _build(seed: int, spec: FilmSpec) -> VirtualFilm:
    # Separate streams: a change in how one part is drawn leaves the others as they were.
    streams = [
        np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(7)
    ]
    stain = spec.stain or draw_stain(streams[0])
    recipe = decide(streams[1], spec)
    width, height = spec.size_um
    shape = (math.ceil(height / spec.pixel_size_um), math.ceil(width / spec.pixel_size_um))
    planes = _clear_film(streams[2], stain, shape, recipe.graininess)
    press = _Press(planes, spec.pixel_size_um)
    textures = Textures(streams[6], spec.pixel_size_um)

    red_map = RedCellMap(spec.size_um, recipe.red_cell_diameter_um)
    places = Places(streams[5], spec.size_um, recipe.clustering)
    cells: list[FilmCell] = []
    for name, stamp in _drawn(streams[3], streams[4], recipe, stain, textures):
        is_white = name in WHITE_CELL_PAINTERS
        place = places.find(Disc(_radius_um(stamp, spec.pixel_size_um), is_white))
        if place is None:
            continue
        box = press.box_um(stamp, press.print(stamp, *place))
        if name != "platelet":  # red cells lie over and under platelets
            red_map.block(box, is_white)
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        cells.append(FilmCell(len(cells), name, is_white, box, centre))
    red_cells = _print_red_cells(streams[5], recipe, stain, textures, press, red_map)

    pyramid = [planes]
    for _ in range(_PYRAMID_LEVELS - 1):
        pyramid.append(np.stack([cv2.pyrDown(plane) for plane in pyramid[-1]]))
    boxes = np.asarray([cell.box_um_xyxy for cell in cells], np.float32).reshape(-1, 4)
    return VirtualFilm(
        seed=seed,
        spec=spec,
        stain=stain,
        pixel_size_um=spec.pixel_size_um,
        cells=tuple(cells),
        red_cells_um=red_cells,
        boxes_um_xyxy=boxes,
        pyramid=tuple(pyramid),
    )


def _drawn(
    cell_rng: np.random.Generator,
    artefact_rng: np.random.Generator,
    recipe: Recipe,
    stain: Stain,
    textures: Textures,
) -> Iterator[tuple[str, Stamp]]:
    """Every thing of the film, one at a time: all stamps at once would fill the memory."""
    for name in white_cell_classes(cell_rng, recipe):
        yield name, WHITE_CELL_PAINTERS[name](cell_rng, stain, textures)
    for name in artefact_classes(artefact_rng, recipe):
        yield name, ARTEFACT_PAINTERS[name](artefact_rng, stain, textures)
    paint = ARTEFACT_PAINTERS["platelet"]
    bank = [paint(artefact_rng, stain, textures) for _ in range(min(_BANK, recipe.platelets))]
    for k in range(recipe.platelets):
        yield "platelet", bank[k % len(bank)].view(int(artefact_rng.integers(8)))


def _radius_um(stamp: Stamp, pixel_size_um: float) -> float:
    x1, y1, x2, y2 = stamp.box_px
    return (x2 - x1 + y2 - y1) / 4 * pixel_size_um
