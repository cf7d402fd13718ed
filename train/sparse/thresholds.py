"""Confidence from which a prediction is a candidate and from which it is a label.

Owns the two thresholds, as published or calibrated while training. Does not own what they
decide (see ``pseudo_labels``).

The published values are for a confidence that is a product of two; here it is one class score,
whose level depends on network, data and length of training. Calibrated, they mean the same
everywhere: a share of predictions that is right, measured where labels are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from edge_runtime.types import Float32Array
from train.sparse.anchors import Cells
from train.sparse.inside import Region
from train.sparse.pseudo_labels import Candidates

# Overlap from which a prediction shows a labelled cell.
_RIGHT_IOU = 0.5
# Share of predictions that must be right above each threshold.
PRECISION_T0 = 0.70
PRECISION_T1 = 0.95
# Fewer predictions say nothing about a precision of 0.95.
_FEWEST = 20
# Above every score: accepts nothing.
_NOTHING = 1.0


def right_predictions(candidates: Candidates, cells: Cells, cells_px: Tensor) -> Tensor:
    """Which candidates show a labelled cell of their class that no better one shows; ``(k,)``.

    Args:
        candidates: predictions.
        cells: labels of the batch.
        cells_px: their corners ``(n, 4)`` in pixels.
    """
    found = torch.zeros(len(candidates), dtype=torch.bool, device=cells_px.device)
    if not len(candidates) or not len(cells):
        return found
    fits = candidates.pictures[:, None] == cells.pictures
    fits &= candidates.class_ids[:, None] == cells.class_ids.long()
    overlap, nearest = (box_iou(candidates.boxes_px, cells_px) * fits).max(1)
    rows = (overlap >= _RIGHT_IOU).nonzero().squeeze(1)
    rows = rows[candidates.confidence[rows].argsort(descending=True, stable=True)]
    # Of those that show one cell the first has the least place in this order.
    place = torch.arange(len(rows), device=rows.device)
    first = place.new_full((len(cells),), len(rows))
    first = first.scatter_reduce(0, nearest[rows], place, "amin")
    found[rows] = first[nearest[rows]] == place
    return found


def lowest_with_precision(
    scores: Float32Array, right: np.ndarray, precision: float
) -> float | None:
    """Lowest score such that of the predictions from it on that share is right, or None.

    Args:
        scores: ``(k,)``.
        right: bool ``(k,)``.
        precision: in 0..1.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(right[order])
    shares = hits / np.arange(1, len(order) + 1)
    # Equal scores pass or fail together, so only the last of them is a place to cut.
    last = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    fitting = ordered[last & (shares >= precision)]
    return float(fitting[-1]) if len(fitting) else None


@dataclass
class Thresholds:
    """The two thresholds in use.

    Attributes:
        t0: from which a prediction is a candidate.
        t1: from which a candidate may be a label.
        every: epochs between two calibrations; None keeps the values as they are.
        collect_from: confidence from which predictions are collected.
    """

    t0: float
    t1: float
    every: int | None = None
    collect_from: float = 0.1
    _scores: list[Float32Array] = field(default_factory=list)
    _right: list[np.ndarray] = field(default_factory=list)

    def take_up(self, counts: Sequence[dict[str, float]]) -> None:
        """Goes on with the thresholds of an interrupted training.

        Args:
            counts: one entry per epoch, with ``t0`` and ``t1`` where SLA-Det wrote it.
        """
        for each in reversed(counts):
            if "t0" in each and "t1" in each:
                self.t0, self.t1 = each["t0"], each["t1"]
                return

    def collects(self, epoch: int) -> bool:
        """Whether this epoch's predictions count: those right before a calibration.

        Older ones were made by a network that knew less.
        """
        return self.every is not None and (epoch + 1) % self.every == 0

    def floor(self, epoch: int) -> float:
        """Lowest confidence that anything is asked of in this epoch."""
        return min(self.t0, self.collect_from) if self.collects(epoch) else self.t0

    def collect(self, candidates: Candidates, cells: Cells, region: Region) -> None:
        """Takes note of predictions where every cell is labelled."""
        certain = region.certain.hold_points(candidates.centres_px, candidates.pictures)
        known = candidates.select(certain)
        right = right_predictions(known, cells, cells.corners_px(region.patches.size))
        self._scores.append(np.asarray(known.confidence.cpu().numpy(), np.float32))
        self._right.append(right.cpu().numpy())

    def begin_epoch(self, epoch: int) -> None:
        """Calibrates where it is time.

        With too few predictions the values stay. Where no confidence is precise enough,
        nothing is accepted.
        """
        if self.every is None or epoch % self.every or not self._scores:
            return
        scores, right = np.concatenate(self._scores), np.concatenate(self._right)
        self._scores, self._right = [], []
        if len(scores) < _FEWEST:
            return
        t0 = lowest_with_precision(scores, right, PRECISION_T0)
        t1 = lowest_with_precision(scores, right, PRECISION_T1)
        self.t0 = _NOTHING if t0 is None else t0
        self.t1 = _NOTHING if t1 is None else t1
