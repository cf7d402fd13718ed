"""Pictures put together from four augmented copies of a target's surest quarter.

Owns cutting the quarter out and laying the copies down. Does not own the augmentations (see
``crop_augment``) nor the loss (see ``daca``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from train.adapt.crop_augment import LabelledCrop
from train.adapt.pseudo_boxes import PseudoBoxes
from train.adapt.quadrants import (
    LEFT_BOTTOM,
    LEFT_TOP,
    RIGHT_BOTTOM,
    RIGHT_TOP,
    boxes_in_quadrants,
    middle,
    surest_quadrants,
)

# Where quadrants are equally sure, the first of these is taken.
_ORDER = (LEFT_TOP, LEFT_BOTTOM, RIGHT_BOTTOM, RIGHT_TOP)
# Copies go here, in this order.
_PLACES = (LEFT_TOP, LEFT_BOTTOM, RIGHT_BOTTOM, RIGHT_TOP)


def surest_crops(images: Tensor, found: PseudoBoxes) -> list[LabelledCrop]:
    """The surest quarter of each picture with its boxes.

    Args:
        images: float ``(B, 3, H, W)``, H and W even.
        found: boxes in them.

    Returns:
        One per picture that has a box there; pictures without are left out.
    """
    row, column = middle(images)
    quadrants = surest_quadrants(found, len(images), row, column, _ORDER)
    inside = boxes_in_quadrants(found, quadrants, row, column).without_slivers()
    crops = []
    for number, quadrant in enumerate(quadrants.tolist()):
        own = inside.select(inside.pictures == number)
        if not len(own):
            continue
        x, y = (quadrant // 2) * column, (quadrant % 2) * row
        shift = torch.tensor([x, y, x, y], device=images.device)
        crops.append(
            LabelledCrop(
                images[number, :, y : y + row, x : x + column],
                own.boxes_xyxy - shift,
                own.class_ids,
                own.confidences,
            )
        )
    return crops


def composites(
    crops: Sequence[LabelledCrop],
    augment: Callable[[LabelledCrop], LabelledCrop],
    size: tuple[int, int],
    fill: tuple[float, float, float],
) -> tuple[Tensor, PseudoBoxes]:
    """Canvases of four copies each, and their boxes.

    Args:
        crops: at least one, none larger than half the canvas.
        augment: makes one copy, which may be smaller.
        size: height and width of a canvas.
        fill: colour under and beside the copies, RGB in 0..1.

    Returns:
        Float ``(len(crops), 3, H, W)``, and boxes in the order of pictures.
    """
    height, width = size
    like = crops[0].image
    colour = torch.tensor(fill, dtype=like.dtype, device=like.device)
    canvases = colour[None, :, None, None].repeat(len(crops), 1, height, width)
    copies: list[LabelledCrop] = []
    pictures: list[Tensor] = []
    boxes: list[Tensor] = []
    for number, crop in enumerate(crops):
        for place in _PLACES:
            copy = augment(crop)
            x, y = (place // 2) * (width // 2), (place % 2) * (height // 2)
            rows, columns = copy.image.shape[1:]
            canvases[number, :, y : y + rows, x : x + columns] = copy.image
            boxes.append(copy.boxes_xyxy + torch.tensor([x, y, x, y], device=like.device))
            pictures.append(torch.full_like(copy.class_ids, number))
            copies.append(copy)
    return canvases, PseudoBoxes(
        torch.cat(pictures),
        torch.cat(boxes),
        torch.cat([copy.class_ids for copy in copies]),
        torch.cat([copy.confidences for copy in copies]),
    )
