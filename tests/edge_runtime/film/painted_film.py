"""A large painted film from which tests cut fields: red cells, white cells, bare and odd parts."""

from __future__ import annotations

import cv2
import numpy as np

from edge_runtime.types import Detections, Frame, UInt8Image

WIDE, HIGH = 320, 200
CELL_PX = 34
_CLEAR = (225, 215, 230)
_RED = (205, 150, 165)
_WHITE = (90, 50, 130)


def paint(size: tuple[int, int] = (1600, 900), seed: int = 1, red_cells: int = 1500) -> UInt8Image:
    """Clear film with red cells strewn over it, RGB ``(H, W, 3)``."""
    rng = np.random.default_rng(seed)
    film = np.full((size[1], size[0], 3), _CLEAR, np.uint8)
    for x, y in rng.uniform((0, 0), size, (red_cells, 2)):
        cv2.circle(film, (int(x), int(y)), int(rng.integers(8, 11)), _RED, -1, cv2.LINE_AA)
    return film


def white_cell(film: UInt8Image, x: int, y: int) -> None:
    """One white cell of ``CELL_PX`` across, its middle there."""
    cv2.circle(film, (x, y), CELL_PX // 2, _WHITE, -1, cv2.LINE_AA)


def bare(size: tuple[int, int] = (1600, 900)) -> UInt8Image:
    """Film without anything on it."""
    return paint(size, red_cells=0)


def repeated(size: tuple[int, int] = (1600, 900), every: int = 48) -> UInt8Image:
    """The same few red cells again and again."""
    tile = paint((every, every), seed=3, red_cells=4)
    times = (size[1] // every + 1, size[0] // every + 1, 1)
    return np.ascontiguousarray(np.tile(tile, times)[: size[1], : size[0]])


def cut(film: UInt8Image, x: int, y: int, index: int = 0) -> Frame:
    """The field whose upper left corner is there, with a camera's noise."""
    rng = np.random.default_rng((7, index))
    pixels = film[y : y + HIGH, x : x + WIDE].astype(np.int16)
    pixels += rng.normal(0, 2, pixels.shape).round().astype(np.int16)
    return Frame(index, index, np.clip(pixels, 0, 255).astype(np.uint8), f"field {index}", 0.4)


def finds(*boxes: tuple[float, float, float, float]) -> Detections:
    """Detections with these boxes, sure of each."""
    count = len(boxes)
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.full(count, 0.9, np.float32),
        np.zeros(count, np.int64),
    )


def cells_in(places: list[tuple[int, int]], x: int, y: int) -> Detections:
    """White cells at ``places`` of the film that the field there shows by half or more."""
    half = CELL_PX / 2
    shown = []
    for cell_x, cell_y in places:
        if 0 <= cell_x - x <= WIDE and 0 <= cell_y - y <= HIGH:
            left, top = max(0.0, cell_x - x - half), max(0.0, cell_y - y - half)
            right, low = min(WIDE, cell_x - x + half), min(HIGH, cell_y - y + half)
            shown.append((left, top, right, low))
    return finds(*shown)
