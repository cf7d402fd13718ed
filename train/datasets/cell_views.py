"""Views of single cells for training a classifier: turned, shifted, re-stained, blurred.

Owns geometry and chance of these views. Does not own how a device cuts a crop
(``edge_runtime.preprocess.crop_tensor``): a cell's surroundings are cut by that very code,
only wider, and an unaugmented crop is exactly the device's.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from pydantic import BaseModel, ConfigDict, Field

from edge_runtime.bundle import CropInputSpec
from edge_runtime.preprocess import crop_tensor
from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.appearance import light_and_lens, restain

# Surroundings kept at more than the crop's resolution, so that turning loses little.
_FINER = 1.25
# A turned square needs its diagonal, and shifts and shrinking some more.
_REACH = 1.75


class ViewSpec(BaseModel):
    """How far a training view may stray from the crop a device would cut.

    Attributes:
        smallest, largest: of the crop's side, against the device's.
        shift: of the centre, share of the crop's side, each way.
        restained: share of views in another stain; real stains differ by laboratory.
        stain: strength of that, 0..1.
        lens: strength of light, focus and sensor, 0..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    smallest: float = Field(default=0.85, gt=0)
    largest: float = Field(default=1.2, gt=0)
    shift: float = Field(default=0.06, ge=0)
    restained: float = Field(default=0.5, ge=0, le=1)
    stain: float = Field(default=0.5, ge=0, le=1)
    lens: float = Field(default=0.7, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One cell with enough around it for every view.

    Attributes:
        pixels: RGB uint8, square.
        side: pixels that the device's crop would take of it, at the centre.
    """

    pixels: UInt8Image
    side: float


def surroundings(pixels: UInt8Image, box_xyxy: Float32Array, spec: CropInputSpec) -> Surroundings:
    """A cell's surroundings out of its picture.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
        box_xyxy: ``(4,)``, pixels.
        spec: of the device's crop.
    """
    longer = max(float(box_xyxy[2] - box_xyxy[0]), float(box_xyxy[3] - box_xyxy[1]), 1.0)
    crop_side = longer * (1 + 2 * spec.margin) + 2 * spec.margin_px
    # Larger margins, and never finer than the picture itself is.
    finer = min(_FINER, max(1.0, crop_side / spec.width))
    size = round(spec.width * finer * _REACH)
    wide = spec.model_copy(
        update={
            "width": size,
            "height": size,
            "scale": 1.0,
            "margin": (_REACH * (1 + 2 * spec.margin) - 1) / 2,
            "margin_px": spec.margin_px * _REACH,
        }
    )
    cut = crop_tensor(pixels, box_xyxy.reshape(1, 4), wide)[0]
    return Surroundings(
        np.ascontiguousarray(cut.transpose(1, 2, 0).astype(np.uint8)), size / _REACH
    )


def draw_view(
    cell: Surroundings, rng: Generator, spec: CropInputSpec, view: ViewSpec
) -> UInt8Image:
    """One training view, RGB uint8 ``(spec.height, spec.width, 3)``."""
    grow = spec.width / (cell.side * rng.uniform(view.smallest, view.largest))
    turn = rng.uniform(0, 2 * np.pi)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    linear = grow * np.array(
        [[np.cos(turn) * mirror, -np.sin(turn)], [np.sin(turn) * mirror, np.cos(turn)]]
    )
    middle = (
        # OpenCV counts from the centre of the first pixel.
        np.array([(len(cell.pixels) - 1) / 2] * 2)
        + rng.uniform(-view.shift, view.shift, 2) * cell.side
    )
    target = np.array([(spec.width - 1) / 2, (spec.height - 1) / 2])
    matrix = np.concatenate([linear, (target - linear @ middle)[:, None]], axis=1)
    drawn = np.asarray(
        cv2.warpAffine(
            cell.pixels,
            matrix,
            (spec.width, spec.height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        ),
        np.uint8,
    )
    if rng.random() < view.restained:
        drawn = restain(drawn, rng, view.stain * rng.random())
    return light_and_lens(drawn, rng, view.lens * rng.random())
