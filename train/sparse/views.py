"""Other views of a batch's pictures: other colours, parts erased, every cell where it was.

Owns the drawing of random changes and making them. Does not own which changes a method wants.

Every picture of a batch gets changes of its own. What is drawn depends on the seed and the
step alone, so that a run that goes on where it stopped sees the same views.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from train.sparse.mining import BatchBoxes

# Principal axes and values of the colours of ImageNet's pictures (Krizhevsky et al., 2012),
# RGB in 0..1.
_AXES = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
_VALUES = (0.2175, 0.0188, 0.0045)
# Tries to fit an erased part of the drawn shape into a cell.
_TRIES = 10


def draws_of_step(seed: int, iteration: int) -> torch.Generator:
    """Where one step's random numbers come from."""
    # Seeds beside each other, and the same step of two runs, have nothing in common.
    return torch.Generator().manual_seed((seed + 1) * 1_000_003 + iteration)


def other_colours(
    images: Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float = 0.0,
    share: float = 1.0,
    draws: torch.Generator,
) -> Tensor:
    """Colour jitter, each picture with factors of its own; the order is the batch's.

    Args:
        images: ``(B, 3, H, W)`` in 0..1.
        brightness: factors are drawn from 1 - this to 1 + this.
        contrast: likewise, towards the picture's mean grey.
        saturation: likewise, towards the pixel's grey.
        hue: turned by at most this share of the circle, at most 0.5.
        share: of the pictures that are changed.
        draws: random numbers.

    Returns:
        New pictures, ``(B, 3, H, W)`` in 0..1.
    """
    count = len(images)
    chosen = torch.rand(count, generator=draws) < share
    factors = [
        (1 + width * (2 * torch.rand(count, generator=draws) - 1)).clamp(min=0)
        for width in (brightness, contrast, saturation)
    ]
    turns = hue * (2 * torch.rand(count, generator=draws) - 1)
    order = torch.randperm(4, generator=draws).tolist()
    place = chosen.nonzero().view(-1)
    if len(place) == 0:
        return images.clone()
    some = images[place.to(images.device)]
    for step in order:
        if step < 3:
            factor = factors[step][place].to(some).view(-1, 1, 1, 1)
            some = (some * factor + _faded(some, step) * (1 - factor)).clamp(0, 1)
        elif hue > 0:
            turned = [
                functional.adjust_hue(image, turn)
                for image, turn in zip(some, turns[place].tolist(), strict=True)
            ]
            some = torch.stack(turned)
    return images.index_copy(0, place.to(images.device), some)


def other_lighting(images: Tensor, strength: float, *, draws: torch.Generator) -> Tensor:
    """Each picture shifted along the axes on which colours of photographs vary.

    Args:
        images: ``(B, 3, H, W)`` in 0..1.
        strength: standard deviation of the shift, in grey levels of 255 for a variance of 1.
        draws: random numbers.
    """
    weights = torch.randn(len(images), 3, generator=draws) * strength * torch.tensor(_VALUES)
    shift = (weights @ torch.tensor(_AXES).T / 255).to(images)
    return (images + shift[:, :, None, None]).clamp(0, 1)


def erase_in_one_cell(
    images: Tensor,
    cells: BatchBoxes,
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
    draws: torch.Generator,
) -> Tensor:
    """Part of one cell in every picture that has some painted black.

    Args:
        images: ``(B, 3, H, W)``.
        cells: to choose from.
        area: least and largest share of the cell's box.
        ratio: least and largest height over width of what is erased.
        draws: random numbers.

    Returns:
        New pictures; a picture is unchanged where no shape drawn fits its cell.
    """
    erased = images.clone()
    pictures = cells.pictures.tolist()
    boxes = cells.boxes_xyxy.tolist()
    for picture in range(len(images)):
        own = [box for box, place in zip(boxes, pictures, strict=True) if place == picture]
        # Drawn also where nothing is erased: one picture's cells shall not change another's view.
        random = torch.rand(1 + 4 * _TRIES, generator=draws).tolist()
        if not own:
            continue
        x1, y1, x2, y2 = (round(value) for value in own[int(random[0] * len(own))])
        for size, shape, down, right in zip(*[iter(random[1:])] * 4, strict=True):
            pixels = (x2 - x1) * (y2 - y1) * (area[0] + size * (area[1] - area[0]))
            slant = ratio[0] + shape * (ratio[1] - ratio[0])
            height, width = round(math.sqrt(pixels * slant)), round(math.sqrt(pixels / slant))
            if 0 < height <= y2 - y1 and 0 < width <= x2 - x1:
                top = y1 + int(down * (y2 - y1 - height + 1))
                left = x1 + int(right * (x2 - x1 - width + 1))
                erased[picture, :, max(top, 0) : top + height, max(left, 0) : left + width] = 0
                break
    return erased


def _faded(images: Tensor, step: int) -> Tensor:
    """What brightness, contrast and saturation of 0 would leave."""
    if step == 0:
        return torch.zeros_like(images)
    grey: Tensor = functional.rgb_to_grayscale(images)
    return grey.mean((1, 2, 3), keepdim=True) if step == 1 else grey
