"""Quarters of pictures: which one is surest, and pictures mixed from two along them.

Owns geometry of pictures and boxes. Does not own losses (see ``confmix``).

A quadrant is a number of two bits: bit 1 says right, bit 0 says bottom.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.adapt.pseudo_boxes import PseudoBoxes, joined

LEFT_TOP, LEFT_BOTTOM, RIGHT_TOP, RIGHT_BOTTOM = range(4)


def middle(images: Tensor) -> tuple[int, int]:
    """First row and first column of the lower and the right half."""
    return images.shape[2] // 2, images.shape[3] // 2


def quadrant_of(found: PseudoBoxes, row: int, column: int) -> Tensor:
    """Quadrant of each box by its centre, int64 ``(n,)``; on the line is right, or bottom."""
    x, y = found.centres
    return (x >= column).long() * 2 + (y >= row).long()


def surest_quadrants(
    found: PseudoBoxes, pictures: int, row: int, column: int, order: tuple[int, ...]
) -> Tensor:
    """Of each picture the quadrant whose boxes have the highest mean confidence.

    Args:
        found: boxes of the batch.
        pictures: in the batch.
        row: first row of the lower half.
        column: first column of the right half.
        order: all four; where quadrants are equal, as all are without boxes, the first wins.

    Returns:
        int64 ``(pictures,)``.
    """
    place = found.pictures * 4 + quadrant_of(found, row, column)
    sums = torch.zeros(pictures * 4, device=place.device)
    sums = sums.index_add(0, place, found.confidences.float())
    counts = torch.bincount(place, minlength=pictures * 4)
    means = (sums / counts.clamp(min=1)).reshape(pictures, 4)
    ranked = torch.tensor(order, device=place.device)
    # Of equal values argmax takes the first.
    return ranked[means[:, ranked].argmax(1)]


def quadrant_masks(quadrants: Tensor, height: int, width: int, row: int, column: int) -> Tensor:
    """Pixels of each picture's quadrant, bool ``(B, 1, H, W)``."""
    right = torch.arange(width, device=quadrants.device) >= column
    bottom = torch.arange(height, device=quadrants.device) >= row
    columns = right[None] == (quadrants // 2).bool()[:, None]
    rows = bottom[None] == (quadrants % 2).bool()[:, None]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def mixed_images(source: Tensor, target: Tensor, quadrants: Tensor) -> Tensor:
    """The source's pictures with one quadrant each of the target's, ``(B, 3, H, W)``."""
    row, column = middle(source)
    mask = quadrant_masks(quadrants, source.shape[2], source.shape[3], row, column)
    return torch.where(mask, target, source)


def clipped_to_half(values: Tensor, line: int, far: Tensor) -> Tensor:
    """Two coordinates ``(n, 2)``, ascending, kept on one side of a line.

    Args:
        values: pixels.
        line: where the far half begins.
        far: bool ``(n,)``, kept on the far side.
    """
    low = torch.where(far, values[:, 0].clamp(min=line), values[:, 0])
    high = torch.where(far, values[:, 1], values[:, 1].clamp(max=line))
    return torch.stack([low, high], 1)


def boxes_in_quadrants(found: PseudoBoxes, quadrants: Tensor, row: int, column: int) -> PseudoBoxes:
    """Boxes whose centre lies in their picture's quadrant, clipped to it."""
    inside = found.select(quadrant_of(found, row, column) == quadrants[found.pictures])
    own = quadrants[inside.pictures]
    x = clipped_to_half(inside.boxes_xyxy[:, 0::2], column, own >= RIGHT_TOP)
    y = clipped_to_half(inside.boxes_xyxy[:, 1::2], row, own % 2 == 1)
    return inside.moved(torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1))


def boxes_outside_quadrants(
    found: PseudoBoxes, quadrants: Tensor, row: int, column: int
) -> PseudoBoxes:
    """Boxes whose centre lies elsewhere, clipped where they would reach into the quadrant.

    Boxes beside the quadrant are clipped in x, above or below it in y; those diagonally
    opposite stay as they are, as in the authors' code: no side to clip would be the right one.
    """
    own = quadrant_of(found, row, column)
    outside = found.select(own != quadrants[found.pictures])
    own = quadrant_of(outside, row, column)
    difference = own ^ quadrants[outside.pictures]
    columns, rows = outside.boxes_xyxy[:, 0::2], outside.boxes_xyxy[:, 1::2]
    beside = clipped_to_half(columns, column, own >= RIGHT_TOP)
    above = clipped_to_half(rows, row, own % 2 == 1)
    x = torch.where((difference == RIGHT_TOP)[:, None], beside, columns)
    y = torch.where((difference == LEFT_BOTTOM)[:, None], above, rows)
    return outside.moved(torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1))


def mixed_boxes(
    source: PseudoBoxes, target: PseudoBoxes, quadrants: Tensor, row: int, column: int
) -> PseudoBoxes:
    """Boxes of mixed pictures, in the order of pictures."""
    parts = [
        boxes_outside_quadrants(source, quadrants, row, column),
        boxes_in_quadrants(target, quadrants, row, column),
    ]
    return joined(parts).without_slivers()
