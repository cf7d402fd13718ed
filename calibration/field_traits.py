"""What a whole field looks like in a few numbers: how sharp, how stained, how full.

Owns the measures that calibration pictures are told apart by. They order the pictures of one
domain; none of them judges a picture, and none compares two microscopes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from calibration.fields import parse_label_file
from edge_runtime.errors import DataError
from edge_runtime.types import UInt8Image

# Sharpness is compared at one size: a 12 MP still is not blurred, it is only larger.
_LONGER_SIDE = 640
# Light never falls to nothing on an 8-bit camera; the logarithm needs that.
_DARKEST = 1.0
_NO_CONTRAST = 1e-6
# Any class id a label file can hold; which ids are cells is asked apart.
_ANY_CLASS = 10_000

CellCounter = Callable[[Path, UInt8Image], int]
CellsFrom = Literal["labels", "detector", "none"]
CELLS_FROM: tuple[CellsFrom, ...] = get_args(CellsFrom)


@dataclass(frozen=True, slots=True)
class FieldTraits:
    """One field.

    Attributes:
        focus: logarithm of the Laplacian's variance over the brightness' variance; higher
            is sharper. The quotient leaves out how strong the stain is.
        density: mean optical density over the three channels.
        hue: red's share of red and green density: high where azure and methylene blue
            prevail, low where eosin does.
        cells: number of white cells; 0 for all when nobody counts.
    """

    focus: float
    density: float
    hue: float
    cells: int = 0


def field_traits(pixels: UInt8Image, *, cells: int = 0) -> FieldTraits:
    """The traits of RGB uint8 ``(H, W, 3)``."""
    height, width = pixels.shape[:2]
    shrink = _LONGER_SIDE / max(height, width)
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    focus = float(np.log10(edges + _NO_CONTRAST) - np.log10(float(grey.var()) + _NO_CONTRAST))
    density = -np.log10(np.maximum(pixels, _DARKEST) / 255.0).reshape(-1, 3).mean(axis=0)
    red, green = float(density[0]), float(density[1])
    hue = red / (red + green) if red + green > 0 else 0.5
    return FieldTraits(focus, float(density.mean()), hue, cells)


def label_counter(classes: tuple[int, ...] | None = None) -> CellCounter:
    """Counts the rows of the YOLO label file that belongs to a picture.

    The file is looked for as training does: in the folder ``labels`` beside ``images``, or
    else beside the picture. A picture without one has no cells.

    Args:
        classes: class ids that count [default: all].
    """

    def count(path: Path, pixels: UInt8Image) -> int:
        del pixels
        file = _label_file(path)
        if not file.is_file():
            return 0
        rows, bad = parse_label_file(file, class_count=_ANY_CLASS)
        if bad:
            raise DataError(f"{bad[0]}; mend the label file or count with --cells-from none")
        return sum(1 for class_id, _ in rows if classes is None or class_id in classes)

    return count


def _label_file(picture: Path) -> Path:
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")
