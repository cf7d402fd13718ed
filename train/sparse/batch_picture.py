"""What a sparsely annotated batch looks like to the method that learns from it.

Owns the drawing alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from edge_runtime.types import UInt8Image
from train.step_loss import boxes_on

# In the order of `boxes_on`'s first colours: red, blue, green.
KINDS = ("accepted pseudo-label", "label", "patch")
_PSEUDO, _LABEL, _PATCH = range(3)
# More would be too small to look at.
_MOST = 16


def draw_batch(
    images: Tensor,
    patches: tuple[Tensor, Tensor],
    labels: tuple[Tensor, Tensor],
    accepted: tuple[Tensor, Tensor],
) -> UInt8Image:
    """The batch's first pictures in a grid: patches green, labels blue, accepted boxes red.

    Args:
        images: ``(B, 3, H, W)`` in 0..1.
        patches: corner boxes ``(n, 4)`` in pixels, and the picture of each.
        labels: the same of labels.
        accepted: the same of accepted pseudo-labels.
    """
    shown = images[:_MOST].detach().float().clamp(0, 1).mul(255).round().byte()
    pixels = shown.permute(0, 2, 3, 1).cpu().numpy()
    kinds = ((_PATCH, patches), (_LABEL, labels), (_PSEUDO, accepted))
    drawn = []
    for picture, image in enumerate(pixels):
        boxes = [pair[0][pair[1] == picture] for _, pair in kinds]
        ids = [np.full(len(box), kind) for (kind, _), box in zip(kinds, boxes, strict=True)]
        together = torch.cat(boxes).float().cpu().numpy()
        drawn.append(boxes_on(image, together, np.concatenate(ids).astype(np.int64), KINDS))
    columns = math.ceil(math.sqrt(len(drawn)))
    blank = np.zeros_like(drawn[0])
    drawn += [blank] * (-len(drawn) % columns)
    rows = [np.hstack(drawn[at : at + columns]) for at in range(0, len(drawn), columns)]
    return np.ascontiguousarray(np.vstack(rows))
