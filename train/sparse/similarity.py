"""Undecided predictions drawn to labelled cells of their class (SLA-Det's L_Tri).

Owns features of cells and the triplet loss. Does not own which predictions are undecided (see
``pseudo_labels``).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.ops import box_iou, roi_align

from train.sparse.anchors import Cells
from train.sparse.pseudo_labels import Candidates

Sign = Literal["intended", "printed"]

# Eq. 10.
MARGIN = 0.05
# Bins per side that a cell is pooled to before averaging.
_BINS = 4
# Samples per bin and axis; 2 keeps the result independent of the box's size.
_SAMPLES = 2
# A candidate that overlaps a labelled cell of its own picture this much is that cell.
_SAME_CELL_IOU = 0.3


def cell_features(feature_map: Tensor, stride: float, boxes_px: Tensor, pictures: Tensor) -> Tensor:
    """Features of length 1, float32 ``(n, channels)``, of boxes ``(n, 4)`` in pixels.

    Args:
        feature_map: ``(B, channels, h, w)``.
        stride: pixels per cell of it.
        boxes_px: corners.
        pictures: the picture of the batch each box lies in.
    """
    # A type of its own under mixed precision: half precision is too coarse for cosines
    # that are compared at a margin of 0.05.
    with torch.autocast(feature_map.device.type, enabled=False):
        rows = torch.cat([pictures[:, None].float(), boxes_px.float()], dim=1)
        pooled = roi_align(
            feature_map.float(), rows, (_BINS, _BINS), 1 / stride, _SAMPLES, aligned=True
        )
        return normalize(pooled.mean((2, 3)), dim=1)


def same_cell(candidates: Candidates, cells: Cells, cells_px: Tensor) -> Tensor:
    """Which candidates are which labelled cells, bool ``(k, n)``, by overlap in one picture."""
    in_one = candidates.pictures[:, None] == cells.pictures
    overlap: Tensor = box_iou(candidates.boxes_px, cells_px)
    return in_one & (overlap >= _SAME_CELL_IOU)


def triplet_loss(
    features: Tensor,
    class_ids: Tensor,
    labelled: Tensor,
    labelled_ids: Tensor,
    excluded: Tensor | None = None,
    *,
    sign: Sign = "intended",
) -> tuple[Tensor, int]:
    """Mean triplet loss of candidates, and how many of them took part.

    Source: LLD, eq. 10. A candidate should be nearer to the labelled cells of its class (the
    farthest of them counts) than to those of other classes (the nearest counts). As printed
    the equation punishes exactly that; ``sign`` chooses.

    Args:
        features: of k candidates, ``(k, channels)``.
        class_ids: of the candidates, ``(k,)``.
        labelled: features of n labelled cells of the whole batch, ``(n, channels)``.
        labelled_ids: their classes, ``(n,)``.
        excluded: bool ``(k, n)``, pairs that do not count.
        sign: ``intended`` or ``printed``.

    Returns:
        The loss, a zero connected to the graph where no candidate has a labelled cell of its
        class and one of another.
    """
    if not len(features) or not len(labelled):
        return (features.sum() + labelled.sum()) * 0.0, 0
    cosine = normalize(features, dim=1) @ normalize(labelled, dim=1).T
    counts = torch.ones_like(cosine, dtype=torch.bool) if excluded is None else ~excluded
    same = class_ids[:, None] == labelled_ids
    mine, others = same & counts, ~same & counts
    taking_part = mine.any(1) & others.any(1)
    # Cosines lie within -1..1, so 2 is never the least of them and -2 never the most.
    least = cosine.masked_fill(~mine, 2.0).amin(1)
    most = cosine.masked_fill(~others, -2.0).amax(1)
    gap = least - (most + MARGIN) if sign == "printed" else most - least + MARGIN
    pairs = int(taking_part.sum())
    return (gap.clamp(min=0) * taking_part).sum() / max(pairs, 1), pairs
