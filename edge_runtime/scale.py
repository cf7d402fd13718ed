"""How large cells appear, and which windows of a frame to look at because of it.

Owns the working scale: estimating cell size and cutting a frame into overlapping
windows. Does not own inference (see ``stages``).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge_runtime.bundle import InputSpec, WorkingScale
from edge_runtime.preprocess import Window
from edge_runtime.types import Float32Array, UInt8Image

# Red cells are 7.5 um wide and vary little; white cells on a film about 13 um.
_WHITE_PER_RED_DIAMETER = 13.0 / 7.5
_FEWEST_RED_CELLS = 6
# Between a red cell (0.58) and a small lymphocyte, and above the largest blasts.
_FINDS_PER_RED_ESTIMATE = (0.64, 2.0)
# A field squeezed from 16:9 to a square has cells 1.78 times as high as wide.
_LARGEST_SQUEEZE = 1.9
# Beyond this enlargement there is nothing more to see.
_LARGEST_ENLARGEMENT = 2.5
# Overlap of windows in cell widths: a cell on a border lies whole in the neighbour.
_OVERLAP_CELLS = 1.35


@dataclass(frozen=True, slots=True)
class CellSize:
    """A typical white cell's width and height in frame pixels."""

    width: float
    height: float


def cell_size_of_finds(boxes_xyxy: Float32Array) -> CellSize | None:
    """The median find; None without finds. Boxes are ``(N, 4)`` in frame pixels."""
    if len(boxes_xyxy) == 0:
        return None
    extent = np.median(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=0)
    width, height = float(extent[0]), float(extent[1])
    # One elongated cell is no squeezed field.
    squeeze = float(np.clip(width / height, 1 / _LARGEST_SQUEEZE, _LARGEST_SQUEEZE))
    if len(boxes_xyxy) < 3:
        squeeze = float(np.clip(squeeze, 0.75, 1.33))
    side = float(np.sqrt(width * height))
    return CellSize(side * np.sqrt(squeeze), side / np.sqrt(squeeze))


def agreed_cell_size(found: CellSize | None, expected: CellSize | None) -> CellSize | None:
    """The finds' size, unless red cells say that no white cell is that small or large.

    Args:
        found: from the finds of the whole view (see ``cell_size_of_finds``).
        expected: from red cells (see ``cell_size_from_red_cells``).
    """
    if found is None or expected is None:
        return expected if found is None else found
    low, high = _FINDS_PER_RED_ESTIMATE
    ratio = np.sqrt(found.width * found.height / (expected.width * expected.height))
    return found if low <= ratio <= high else expected


def cell_size_from_red_cells(pixels: UInt8Image) -> CellSize | None:
    """A white cell's size, from the diameter of lone round red cells.

    Args:
        pixels: the frame, RGB uint8 ``(H, W, 3)``.

    Returns:
        None when fewer than six round, lone, equally large bodies are in sight.
    """
    shrink = min(1.0, 960 / max(pixels.shape[:2]))
    size = (max(8, round(pixels.shape[1] * shrink)), max(8, round(pixels.shape[0] * shrink)))
    # Haemoglobin absorbs green: the channel with the best contrast for red cells.
    green = cv2.resize(pixels[:, :, 1], size, interpolation=cv2.INTER_AREA)
    green = cv2.GaussianBlur(green, (0, 0), 1.2)
    _, stained = cv2.threshold(green, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    contours, _ = cv2.findContours(stained, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    widths, heights = [], []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        inside = x > 1 and y > 1 and x + w < size[0] - 1 and y + h < size[1] - 1
        area = float(cv2.contourArea(contour))
        # An ellipse fills pi/4 of its box; pairs and rouleaux fill less.
        # Longer than any squeeze makes them are rolls lying side by side.
        lone = max(w, h) <= _LARGEST_SQUEEZE * min(w, h) and 0.68 < area / (w * h) < 0.86
        if inside and lone and min(w, h) >= 5:
            widths.append(w)
            heights.append(h)
    if len(widths) < _FEWEST_RED_CELLS:
        return None
    sides = np.sqrt(np.array(widths) * np.array(heights))
    middle = float(np.median(sides))
    alike = (sides > 0.7 * middle) & (sides < 1.4 * middle)
    if alike.sum() < _FEWEST_RED_CELLS:
        return None
    grow = _WHITE_PER_RED_DIAMETER / shrink
    return CellSize(
        float(np.median(np.array(widths)[alike])) * grow,
        float(np.median(np.array(heights)[alike])) * grow,
    )


def windows_at_scale(
    width: int, height: int, cell: CellSize, scale: WorkingScale, spec: InputSpec
) -> list[Window]:
    """Overlapping windows in which a cell is ``scale.cell_px`` input pixels wide and high.

    Returns:
        Windows covering every pixel of the frame, at most ``scale.max_windows``; the
        scale is lowered until that many suffice.
    """
    scale_x = min(scale.cell_px / cell.width, _LARGEST_ENLARGEMENT)
    scale_y = min(scale.cell_px / cell.height, _LARGEST_ENLARGEMENT)
    while True:
        spans_x = _spans(width, spec.width, scale_x, cell.width)
        spans_y = _spans(height, spec.height, scale_y, cell.height)
        if len(spans_x) * len(spans_y) <= scale.max_windows:
            break
        scale_x, scale_y = scale_x * 0.9, scale_y * 0.9
    return [
        Window(
            x1,
            y1,
            x2,
            y2,
            scale_x,
            scale_y,
            max(0, (spec.width - round((x2 - x1) * scale_x)) // 2),
            max(0, (spec.height - round((y2 - y1) * scale_y)) // 2),
        )
        for y1, y2 in spans_y
        for x1, x2 in spans_x
    ]


def _spans(length: int, side: int, scale: float, cell: float) -> list[tuple[int, int]]:
    """Starts and ends along one axis, in frame pixels; the last is snapped to the edge."""
    # Floor, so that the resized window never exceeds the input by a rounded pixel.
    reach = int(side / scale)
    if reach >= length:
        return [(0, length)]
    # A length that can be halved as often as it has to be is shrunk quickly.
    pairs = 2 ** max(0, int(np.log2(1 / scale)))
    reach -= reach % pairs
    overlap = min(_OVERLAP_CELLS * cell, 0.6 * reach)
    count = int(np.ceil((length - overlap) / (reach - overlap)))
    starts = np.linspace(0, length - reach, count).round().astype(int)
    return [(int(start), int(start) + reach) for start in starts]
