"""White cells cut from their fields, ready to be set into others.

Owns reading single-cell data sets (``wbc-masks``, ``pbc-extra``) and making soft masks.
Does not own where a cut-out goes (see ``compose``).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from calibration.fields import LabelledField, xyxy_to_xywhn
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.appearance import background_colour

# Optical density (natural log) of the red channel above which a PBC pixel is taken for nucleus or
# basophil granule rather than red cell; a guess checked by eye only, not a fit.
_NUCLEUS_RED_DENSITY = 0.45
# More nucleus colour than a few platelets have is taken for a second cell; by eye.
_SECOND_CELL_PX = 450


@dataclass(frozen=True, slots=True)
class CutoutSource:
    """One single-cell picture: where it lies, the cell's box, its mask file if it has one."""

    image: Path
    box_xyxy: tuple[int, int, int, int]
    mask: Path | None


@dataclass(frozen=True, slots=True)
class Cutout:
    """A white cell without its surroundings.

    Attributes:
        pixels: RGB uint8 ``(h, w, 3)``, tight around the cell.
        alpha: float32 ``(h, w)`` in [0, 1].
        background: RGB float32 ``(3,)`` of the film it was taken from.
    """

    pixels: UInt8Image
    alpha: Float32Array
    background: Float32Array


def wbc_mask_sources(root: Path, split: str) -> list[CutoutSource]:
    """Cells with hand-drawn masks (``wbc-masks``).

    Raises:
        DataError: the table is missing.
    """
    return [
        CutoutSource(root / row["file"], _box(row), root / row["mask"])
        for row in _rows(root / "labels.csv")
        if row["split"] == split
    ]


def wbc_mask_fields(root: Path, split: str) -> list[LabelledField]:
    """The same pictures as detection fields: the masked cell is their only one.

    Raises:
        DataError: the table or a picture is missing.
    """
    fields = []
    for source in wbc_mask_sources(root, split):
        height, width = _read(source.image).shape[:2]
        box = np.array([source.box_xyxy], np.float32)
        fields.append(LabelledField(source.image, "wbc_masks", xyxy_to_xywhn(box, width, height)))
    return fields


def pbc_sources(root: Path) -> list[CutoutSource]:
    """Single centred cells with a box and no mask (``pbc-extra``).

    Raises:
        DataError: the table is missing.
    """
    return [
        CutoutSource(root / row["file"], _box(row), None)
        for row in _rows(root / "annotations.csv")
        if row["split"] == "train"
    ]


def whole_fields(sources: list[CutoutSource], *, domain: str) -> list[LabelledField]:
    """The pictures in which the boxed cell is the only one, as detection fields.

    A picture with nucleus colour outside the box is left out: its second cell has no box.
    """
    fields = []
    for source in sources:
        pixels = _read(source.image)
        height, width = pixels.shape[:2]
        nucleus = _nucleus(pixels)
        x1, y1, x2, y2 = source.box_xyxy
        nucleus[max(0, y1 - 6) : y2 + 6, max(0, x1 - 6) : x2 + 6] = 0
        count, _, stats, _ = cv2.connectedComponentsWithStats(nucleus)
        largest = int(stats[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0
        if largest <= _SECOND_CELL_PX:
            box = np.array([source.box_xyxy], np.float32)
            fields.append(LabelledField(source.image, domain, xyxy_to_xywhn(box, width, height)))
    return fields


def cut_out(source: CutoutSource) -> Cutout:
    """The cell of one picture with a soft mask.

    Raises:
        DataError: the picture or its mask cannot be read.
    """
    pixels = _read(source.image)
    x1, y1, x2, y2 = source.box_xyxy
    if source.mask is not None:
        mask = cv2.imread(str(source.mask), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise DataError(f"{source.mask}: not a readable mask; copy the data set again")
        solid = (mask > 0).astype(np.uint8)
    else:
        solid = _segment(pixels, source.box_xyxy)
    alpha = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 1.0)
    window = np.s_[max(0, y1) : y2, max(0, x1) : x2]
    return Cutout(
        np.ascontiguousarray(pixels[window]),
        np.ascontiguousarray(alpha[window], np.float32),
        background_colour(pixels),
    )


def _segment(pixels: UInt8Image, box: tuple[int, int, int, int]) -> UInt8Image:
    """Cell pixels inside the box: stained, within the box's ellipse, holes filled."""
    x1, y1, x2, y2 = box
    background = background_colour(pixels)
    distance = np.abs(pixels.astype(np.float32) - background).sum(axis=2)
    stained = (distance > 30).astype(np.uint8)
    oval = np.zeros(pixels.shape[:2], np.uint8)
    centre = ((x1 + x2) // 2, (y1 + y2) // 2)
    # Slightly wider than the inscribed ellipse: white cells are rounder than ellipses
    # but the box corners hold neighbours.
    axes = (int((x2 - x1) * 0.53), int((y2 - y1) * 0.53))
    cv2.ellipse(oval, centre, axes, 0, 0, 360, 1, -1)
    cell = cv2.morphologyEx(
        stained & oval, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    )
    contours, _ = cv2.findContours(cell, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return oval
    filled = np.zeros_like(cell)
    cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, -1)
    return np.asarray(filled, np.uint8)


def _nucleus(pixels: UInt8Image) -> UInt8Image:
    red0 = float(background_colour(pixels)[0])
    density = np.log(red0 + 1) - np.log(pixels[:, :, 0].astype(np.float32) + 1)
    return (density > _NUCLEUS_RED_DENSITY).astype(np.uint8)


def _read(path: Path) -> UInt8Image:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError(f"{path}: not a readable image; copy the data set again")
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        raise DataError(f"{table}: no such table; is this the right data set folder?")
    with table.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _box(row: dict[str, str]) -> tuple[int, int, int, int]:
    return int(row["x1"]), int(row["y1"]), int(row["x2"]), int(row["y2"])
