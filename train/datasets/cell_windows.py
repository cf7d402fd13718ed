"""Windows of a detector's input around single cells, for training a head on its features.

Owns geometry and chance: scale, turn, mirror, shift and the box that goes with them. Does
not own appearance (see ``appearance``) nor the network.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.random import Generator
from pydantic import BaseModel, ConfigDict, Field

from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.appearance import light_and_lens, restain


class WindowSpec(BaseModel):
    """How cells lie in training windows.

    Attributes:
        size: side of the window in input pixels.
        pad_value: grey beyond the picture, the detector's own.
        fitted_px: longer side of the box when its picture is fitted to the input whole, as
            a range; most windows show a cell at its picture's own fitted scale instead.
        small_share: share of windows drawn at a scale from ``fitted_px``.
        zoom: chance of scale on top, largest factor each way.
        box_jitter: of each side, share of the box: a detector's boxes are not the labelled.
        restained, stain, lens: as in ``cell_views.ViewSpec``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=224, gt=0)
    pad_value: int = Field(default=114, ge=0, le=255)
    fitted_px: tuple[float, float] = (48.0, 150.0)
    small_share: float = Field(default=0.25, ge=0, le=1)
    zoom: float = Field(default=1.15, ge=1)
    box_jitter: float = Field(default=0.05, ge=0)
    restained: float = Field(default=0.4, ge=0, le=1)
    stain: float = Field(default=0.3, ge=0, le=1)
    lens: float = Field(default=0.4, ge=0, le=1)


def draw_window(
    pixels: UInt8Image,
    box_xyxy: Float32Array,
    fitted_scale: float,
    rng: Generator,
    spec: WindowSpec,
) -> tuple[UInt8Image, Float32Array]:
    """One window with a cell, turned and mirrored at random.

    Args:
        pixels: the picture, RGB uint8 ``(H, W, 3)``.
        box_xyxy: ``(4,)``, picture pixels.
        fitted_scale: input pixels per picture pixel when the picture is fitted whole.
        rng: source of chance.
        spec: how.

    Returns:
        RGB uint8 ``(size, size, 3)`` and the cell's box in it, float32 ``(4,)``: the extent
        of the box's inscribed ellipse, because cells are round and corners grow when turned.
    """
    width, height = float(box_xyxy[2] - box_xyxy[0]), float(box_xyxy[3] - box_xyxy[1])
    scale = fitted_scale
    if rng.random() < spec.small_share:
        low, high = (math.log(side) for side in spec.fitted_px)
        scale = math.exp(rng.uniform(low, high)) / max(width, height)
    scale *= math.exp(rng.uniform(-1, 1) * math.log(spec.zoom))
    # The head needs the whole cell, not its corners cut.
    scale = min(scale, 0.94 * spec.size / math.hypot(width, height) * math.sqrt(2))
    turn = rng.uniform(0, 2 * math.pi)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    linear = scale * np.array(
        [[math.cos(turn) * mirror, -math.sin(turn)], [math.sin(turn) * mirror, math.cos(turn)]]
    )
    half = np.sqrt((linear**2) @ np.array([width / 2, height / 2]) ** 2)
    room = np.maximum(spec.size / 2 - half - 1, 0)
    centre = spec.size / 2 + rng.uniform(-1, 1, 2) * room
    middle = np.array([box_xyxy[0] + box_xyxy[2], box_xyxy[1] + box_xyxy[3]], np.float64) / 2
    matrix = np.concatenate([linear, (centre - linear @ middle)[:, None]], axis=1)
    source = pixels
    if scale < 0.7:
        # Averaged first: plain interpolation would skip pixels and show false grain.
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        source = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        matrix[:, 0] *= pixels.shape[1] / size[0]
        matrix[:, 1] *= pixels.shape[0] / size[1]
    # OpenCV counts from the centre of the first pixel, boxes from its edge.
    matrix[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    drawn = np.asarray(
        cv2.warpAffine(
            source,
            matrix,
            (spec.size, spec.size),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(spec.pad_value,) * 3,
        ),
        np.uint8,
    )
    box = np.concatenate([centre - half, centre + half])
    box += rng.normal(0, spec.box_jitter / 2, 4) * np.tile(2 * half, 2)
    if rng.random() < spec.restained:
        drawn = restain(drawn, rng, spec.stain * rng.random())
    drawn = light_and_lens(drawn, rng, spec.lens * rng.random())
    return drawn, np.clip(box, 0, spec.size).astype(np.float32)
