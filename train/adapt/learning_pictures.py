"""Pictures of what a method learns from, for people.

Owns one sheet of pictures with their boxes. Does not own when one is drawn (``StepLog``).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from edge_runtime.types import UInt8Image
from train.adapt.pseudo_boxes import PseudoBoxes
from train.step_loss import boxes_on

_MOST = 8
_COLUMNS = 4
# Shorter pictures are enlarged to about this many pixels, or thin boxes hide small cells.
_TILE = 320
_GAP = 4


def sheet(images: Tensor, found: PseudoBoxes, classes: tuple[str, ...]) -> UInt8Image:
    """Up to eight pictures with their boxes, side by side, RGB uint8 ``(H, W, 3)``.

    Args:
        images: float ``(B, 3, H, W)`` in 0..1, at least one.
        found: boxes in them, pixels.
        classes: names, for the colours.
    """
    import cv2

    images = images[:_MOST].detach().float().cpu()
    height, width = images.shape[2:]
    times = max(1, round(_TILE / max(height, width)))
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    step_y, step_x = height * times + _GAP, width * times + _GAP
    drawn = np.full((rows * step_y - _GAP, columns * step_x - _GAP, 3), 255, np.uint8)
    for number, image in enumerate(images):
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        large = cv2.resize(
            pixels, (width * times, height * times), interpolation=cv2.INTER_LINEAR
        ).astype(np.uint8)
        own = found.select(found.pictures == number)
        tile = boxes_on(
            large,
            (own.boxes_xyxy.detach().float().cpu() * times).numpy().astype(np.float32),
            own.class_ids.cpu().numpy().astype(np.int64),
            classes,
        )
        y, x = number // columns * step_y, number % columns * step_x
        drawn[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return drawn
