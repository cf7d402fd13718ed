"""Whether two detectors found the same cells on the same fields.

Owns the matching of two lists of finds with each other. Does not own accuracy against
labels (see ``calibration.accuracy``). A fast pipeline that finds other cells than the slow
one is broken, not fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.types import Float32Array

# Finds below are a matter of threshold, not of pipeline.
SURE_SCORE = 0.5
# Different interpolation moves an edge by a fraction of an input pixel, not more.
SAME_IOU = 0.9
# What must match so that two pipelines count as equal; the rest are scores near the
# threshold.
SAME_SHARE = 0.95
# A find of which this share lies in a matched one is the same cell, reported again. How many
# of those stay is a choice of each detector's suppression, not a difference in seeing.
_DOUBLE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two detectors agree.

    Attributes:
        fields: fields compared.
        cells, peer_cells: sure finds of the one and the other.
        doubles, peer_doubles: those of them that report a matched cell once more.
        matched: pairs of finds that overlap enough, each find in one pair at most.
        share: matched among the larger of the two counts without doubles; 1 when both
            found nothing.
        mean_iou: mean overlap of the matched pairs; 1 when there is none.
    """

    fields: int
    cells: int
    peer_cells: int
    doubles: int
    peer_doubles: int
    matched: int
    share: float
    mean_iou: float

    @property
    def same(self) -> bool:
        """Whether the two may be compared in speed; finding nothing at all proves nothing."""
        return self.share >= SAME_SHARE and self.matched > 0


def agreement(found: Sequence[Float32Array], peer_found: Sequence[Float32Array]) -> Agreement:
    """Compares finds field by field.

    Args:
        found: per field ``(N, 5)``: x1, y1, x2, y2 in pixels of the field, score.
        peer_found: the other detector's, same fields in the same order.
    """
    cells = peer_cells = doubles = peer_doubles = 0
    overlaps: list[float] = []
    for ours, theirs in zip(found, peer_found, strict=True):
        sure = ours[ours[:, 4] >= SURE_SCORE, :4]
        peer_sure = theirs[theirs[:, 4] >= SURE_SCORE, :4]
        pairs = _pairs(_iou(sure, peer_sure))
        overlaps += [overlap for _, _, overlap in pairs]
        cells += len(sure)
        peer_cells += len(peer_sure)
        doubles += _doubles(sure, [row for row, _, _ in pairs])
        peer_doubles += _doubles(peer_sure, [column for _, column, _ in pairs])
    most = max(cells - doubles, peer_cells - peer_doubles)
    return Agreement(
        fields=len(found),
        cells=cells,
        peer_cells=peer_cells,
        doubles=doubles,
        peer_doubles=peer_doubles,
        matched=len(overlaps),
        share=round(len(overlaps) / most, 4) if most else 1.0,
        mean_iou=round(float(np.mean(overlaps)), 4) if overlaps else 1.0,
    )


def _pairs(overlap: Float32Array) -> list[tuple[int, int, float]]:
    """One-to-one pairs that overlap enough, best first: row, column, overlap."""
    left = overlap.copy()
    pairs: list[tuple[int, int, float]] = []
    while left.size and float(left.max()) > SAME_IOU:
        row, column = (int(k) for k in np.unravel_index(int(left.argmax()), left.shape))
        pairs.append((row, column, float(left[row, column])))
        left[row, :] = 0
        left[:, column] = 0
    return pairs


def _doubles(boxes: Float32Array, matched: list[int]) -> int:
    """How many unmatched boxes lie mostly in a matched one."""
    others = np.delete(np.arange(len(boxes)), matched)
    if not matched or len(others) == 0:
        return 0
    inside = _shared(boxes[others], boxes[matched]).max(axis=1)
    return int((inside > _DOUBLE_SHARE * _areas(boxes[others])).sum())


def _iou(boxes: Float32Array, others: Float32Array) -> Float32Array:
    shared = _shared(boxes, others)
    union = _areas(boxes)[:, None] + _areas(others)[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)


def _shared(boxes: Float32Array, others: Float32Array) -> Float32Array:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=2), np.float32)


def _areas(boxes: Float32Array) -> Float32Array:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.float32)
