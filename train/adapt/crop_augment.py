"""Augmentations of a small labelled picture, boxes and their classes kept together.

Owns the transforms of DACA and their draws. Does not own what is put together from the
results (see ``composite``).

Every draw comes from a generator that is given, so that a step can be repeated and nothing
else's randomness is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torchvision.transforms.v2 import functional as colour

from train.adapt.pseudo_boxes import LEAST_SIDE
from train.step_loss import MethodOptions


class AugmentOptions(MethodOptions):
    """Probabilities and extents; defaults are those of DACA's authors.

    Attributes:
        crop: probability of a crop that keeps every box.
        erosion: share of a box that such a crop may take away at each side.
        flip: probability of mirroring left and right.
        blur: probability of a blur.
        blur_side: side of its box in pixels; the authors' 1 changes nothing.
        jitter: probability of a change of colours.
        jitter_extent: of brightness, contrast, saturation and hue.
        downscale: probability of fewer pixels.
        downscale_least: smallest share of the side that is kept.
        light: probability of a change of brightness and contrast.
        light_extent: of both.
    """

    crop: float = Field(default=0.2, ge=0, le=1)
    erosion: float = Field(default=0.1, ge=0, lt=0.5)
    flip: float = Field(default=0.5, ge=0, le=1)
    blur: float = Field(default=0.5, ge=0, le=1)
    blur_side: Literal[1, 3, 5, 7] = 1
    jitter: float = Field(default=0.5, ge=0, le=1)
    jitter_extent: float = Field(default=0.2, ge=0, le=0.5)
    downscale: float = Field(default=0.5, ge=0, le=1)
    downscale_least: float = Field(default=0.5, gt=0, le=0.99)
    light: float = Field(default=0.5, ge=0, le=1)
    light_extent: float = Field(default=0.1, ge=0, lt=1)


# The other end of the authors' range of downscaling.
_DOWNSCALE_MOST = 0.99


@dataclass(frozen=True)
class LabelledCrop:
    """A small picture with boxes.

    Attributes:
        image: float ``(3, H, W)`` in 0..1.
        boxes_xyxy: float32 ``(n, 4)``, pixels of it.
        class_ids: int64 ``(n,)``.
        confidences: float32 ``(n,)``.
    """

    image: Tensor
    boxes_xyxy: Tensor
    class_ids: Tensor
    confidences: Tensor

    def __len__(self) -> int:
        return len(self.boxes_xyxy)


def cut(crop: LabelledCrop, x1: int, y1: int, x2: int, y2: int) -> LabelledCrop:
    """A part of a picture; boxes are clipped to it, and what is left of none is dropped."""
    shift = torch.tensor([x1, y1, x1, y1], device=crop.boxes_xyxy.device)
    limits = torch.tensor([x2 - x1, y2 - y1] * 2, device=crop.boxes_xyxy.device)
    boxes = (crop.boxes_xyxy - shift).clamp(min=0).minimum(limits)
    kept = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(1)
    return LabelledCrop(
        crop.image[:, y1:y2, x1:x2], boxes[kept], crop.class_ids[kept], crop.confidences[kept]
    )


def mirrored(crop: LabelledCrop) -> LabelledCrop:
    """Left and right exchanged."""
    x1, y1, x2, y2 = crop.boxes_xyxy.unbind(1)
    width = crop.image.shape[2]
    return replace(
        crop,
        image=crop.image.flip(2),
        boxes_xyxy=torch.stack([width - x2, y1, width - x1, y2], 1),
    )


def safe_cut(crop: LabelledCrop, erosion: float, generator: Generator) -> LabelledCrop:
    """A random part of a picture that holds every box, save a margin of each.

    Args:
        crop: with or without boxes; without, a share of ``erosion`` may go at each side.
        erosion: share of a box's side that may be cut off.
        generator: of the draws.
    """
    height, width = crop.image.shape[1:]
    if len(crop):
        margin = (crop.boxes_xyxy[:, 2:] - crop.boxes_xyxy[:, :2]) * erosion
        left, top = (crop.boxes_xyxy[:, :2] + margin).amin(0).tolist()
        right, bottom = (crop.boxes_xyxy[:, 2:] - margin).amax(0).tolist()
    else:
        left, top = erosion * width, erosion * height
        right, bottom = width - left, height - top
    draws = torch.rand(4, generator=generator).tolist()
    x1, y1 = int(left * draws[0]), int(top * draws[1])
    x2 = max(x1 + 1, width - int((width - right) * draws[2]))
    y2 = max(y1 + 1, height - int((height - bottom) * draws[3]))
    return cut(crop, x1, y1, x2, y2)


def blurred(image: Tensor, side: int) -> Tensor:
    """Mean over a square of ``side`` pixels, odd; 1 changes nothing."""
    if side == 1:
        return image
    pad = side // 2
    return avg_pool2d(image[None], side, stride=1, padding=pad, count_include_pad=False)[0]


def downscaled(image: Tensor, share: float) -> Tensor:
    """A picture of the same size with fewer pixels in it, nearest neighbours."""
    height, width = image.shape[1:]
    small = interpolate(
        image[None], (max(1, round(height * share)), max(1, round(width * share))), mode="nearest"
    )
    return interpolate(small, (height, width), mode="nearest")[0]


def jittered(image: Tensor, extent: float, generator: Generator) -> Tensor:
    """Brightness, contrast, saturation and hue changed, in a random order."""
    factors = (1 + (torch.rand(3, generator=generator) * 2 - 1) * extent).tolist()
    hue = float((torch.rand(1, generator=generator) * 2 - 1) * extent)
    steps: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda picture: colour.adjust_brightness(picture, factors[0]),
        lambda picture: colour.adjust_contrast(picture, factors[1]),
        lambda picture: colour.adjust_saturation(picture, factors[2]),
        lambda picture: colour.adjust_hue(picture, hue),
    )
    for number in torch.randperm(len(steps), generator=generator).tolist():
        image = steps[number](image)
    return image


def lit(image: Tensor, extent: float, generator: Generator) -> Tensor:
    """Pixels times a factor near 1 plus an offset near 0."""
    factor, offset = ((torch.rand(2, generator=generator) * 2 - 1) * extent).tolist()
    return (image * (1 + factor) + offset).clamp(0, 1)


def augmented(crop: LabelledCrop, options: AugmentOptions, generator: Generator) -> LabelledCrop:
    """One augmented copy; it may be smaller than the original.

    Args:
        crop: as cut from a picture.
        options: what happens how often.
        generator: of the draws, on the CPU.
    """
    o = options
    happens = torch.rand(6, generator=generator)
    chances = torch.tensor([o.crop, o.flip, o.blur, o.jitter, o.downscale, o.light])
    cropping, flipping, blurring, jittering, downscaling, lighting = (happens < chances).tolist()
    if cropping:
        crop = safe_cut(crop, o.erosion, generator)
    if flipping:
        crop = mirrored(crop)
    image = crop.image
    if blurring:
        image = blurred(image, o.blur_side)
    if jittering:
        image = jittered(image, o.jitter_extent, generator)
    if downscaling:
        least = o.downscale_least
        drawn = float(torch.rand(1, generator=generator))
        image = downscaled(image, least + (_DOWNSCALE_MOST - least) * drawn)
    if lighting:
        image = lit(image, o.light_extent, generator)
    return replace(crop, image=image)
