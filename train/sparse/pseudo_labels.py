"""Predictions outside the patches that are taken for labels (SLA-Det's L_PL).

Owns candidates, the rules that accept them, and their loss. Does not own thresholds (see
``thresholds``) nor where patches are (see ``inside``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms
from typing_extensions import Self

from train.sparse.anchors import AnchorOutputs, Cells, assign, losses_on
from train.sparse.inside import Patches

# Share of a candidate that may lie inside patches.
_MOST_INSIDE = 0.1
# Boxes this near to the picture's border may have been cut by it.
_BORDER_PX = 1.0


@dataclass(frozen=True)
class Candidates:
    """k predicted cells of a batch, without gradient, best first.

    Attributes:
        boxes_px: float ``(k, 4)``, corners in pixels.
        scores: float ``(k, classes)``, in 0..1.
        pictures: int64 ``(k,)``.
    """

    boxes_px: Tensor
    scores: Tensor
    pictures: Tensor

    @classmethod
    def find(cls, outputs: AnchorOutputs, *, floor: float, nms_iou: float, agnostic: bool) -> Self:
        """Predictions above ``floor`` that no better one overlaps.

        Args:
            outputs: of the network that labels.
            floor: confidence, the highest class score, above which predictions count.
            nms_iou: overlap from which the weaker of two is dropped.
            agnostic: also where the two are of different classes.
        """
        scores = outputs.scores
        top, class_ids = scores.max(2)
        pictures, anchors = (top > floor).nonzero(as_tuple=True)
        boxes, top = outputs.boxes_px[pictures, anchors], top[pictures, anchors]
        groups = pictures
        if not agnostic:
            groups = pictures * scores.shape[2] + class_ids[pictures, anchors]
        kept = batched_nms(boxes, top, groups, nms_iou)
        return cls(boxes[kept], scores[pictures, anchors][kept], pictures[kept])

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def confidence(self) -> Tensor:
        """Highest class score, ``(k,)``."""
        return self.scores.max(1).values if len(self) else self.scores.new_zeros(0)

    @property
    def class_ids(self) -> Tensor:
        """Class of the highest score, int64 ``(k,)``."""
        return self.scores.argmax(1) if len(self) else self.pictures.new_zeros(0)

    @property
    def areas(self) -> Tensor:
        """Square pixels, ``(k,)``."""
        return (self.boxes_px[:, 2:] - self.boxes_px[:, :2]).prod(1)

    @property
    def centres_px(self) -> Tensor:
        """Centres ``(k, 2)`` in pixels."""
        return (self.boxes_px[:, :2] + self.boxes_px[:, 2:]) / 2

    def select(self, mask: Tensor) -> Self:
        """Those that a boolean ``(k,)`` picks."""
        return type(self)(self.boxes_px[mask], self.scores[mask], self.pictures[mask])

    def outside(self, patches: Patches) -> Tensor:
        """Which lie outside all patches, bool ``(k,)``: centre, and nine tenths of the area."""
        held = patches.hold_points(self.centres_px, self.pictures)
        return ~held & (patches.shares_of(self.boxes_px, self.pictures) <= _MOST_INSIDE)

    def cells(self, size: Tensor) -> Cells:
        """As labels, of a picture that wide and high."""
        return Cells.of_corners(self.boxes_px, self.class_ids.float(), self.pictures, size)


def entropy_bits(scores: Tensor) -> Tensor:
    """Entropy in bits of class scores ``(k, classes)``, divided by their sum first; ``(k,)``.

    The scores are independent, each of its own sigmoid, so they do not sum to 1 by themselves.
    With a single class it is 0.
    """
    shares = scores / scores.sum(1, keepdim=True).clamp(min=1e-9)
    return -(shares * shares.clamp(min=1e-9).log2()).sum(1)


@dataclass(frozen=True)
class Judgement:
    """What became of k candidates.

    Attributes:
        accepted: bool ``(k,)``, taken for labels.
        similar: bool ``(k,)``, between the two thresholds, for the similarity loss.
        counts: candidates by outcome; each is counted under the first rule that rejects it.
    """

    accepted: Tensor
    similar: Tensor
    counts: dict[str, int]


def judge(
    candidates: Candidates, patches: Patches, *, t0: float, t1: float, t2: float, min_area: float
) -> Judgement:
    """Which candidates become labels, and which are compared with labelled cells.

    Args:
        candidates: predictions.
        patches: candidates in them are no candidates, there are labels.
        t0: confidence that is needed at all.
        t1: confidence from which a candidate may be a label.
        t2: entropy in bits that a label must stay below.
        min_area: square pixels that both kinds must have.
    """
    top = candidates.confidence
    outside = candidates.outside(patches)
    large = outside & (candidates.areas >= min_area) & (top > t0)
    confident = large & (top > t1)
    accepted = confident & (entropy_bits(candidates.scores) < t2)
    # Scores between the thresholds, and those alone: an undecided but high score is neither.
    similar = large & (top < t1)
    steps = torch.stack(
        [each.sum() for each in (outside, large, confident, accepted, similar)]
    ).tolist()
    counts = {
        "candidates": len(candidates),
        "rejected_in_patch": len(candidates) - steps[0],
        "rejected_area": steps[0] - steps[1],
        "rejected_confidence": steps[1] - steps[2],
        "rejected_entropy": steps[2] - steps[3],
        "accepted": steps[3],
        "similar": steps[4],
    }
    return Judgement(accepted, similar, counts)


def pseudo_label_loss(
    plain: Any, outputs: AnchorOutputs, cells: Cells, inside: Tensor, *, box_area: bool = False
) -> Tensor:
    """L_PL: ultralytics' losses at accepted candidates alone, shape ``(3,)``.

    Source: LLD, pseudo-label loss. No anchor learns that it is background from a picture
    whose other cells nobody found.

    Args:
        plain: ultralytics' criterion.
        outputs: of the network that learns.
        cells: accepted candidates.
        inside: bool ``(B, N)``, anchors in patches, which learn from labels only.
        box_area: all anchors within an accepted box learn its class or background, as the
            paper masks; otherwise only those that answer for it.
    """
    assignment = assign(plain, outputs, cells, ~inside)
    classified = assignment.foreground
    if box_area:
        boxes = Patches(cells.corners_px(outputs.size), cells.pictures, outputs.size, len(inside))
        classified = classified | (boxes.hold_anchors(outputs.centres_px) & ~inside)
    return losses_on(plain, outputs, assignment, classified)


class SmallestCell:
    """Area of the smallest labelled cell seen so far, in pixels of the network's picture.

    Measured in training itself, as the augmentations that scale cells scale candidates too.
    Cells cut by the picture's border are left out.
    """

    def __init__(self) -> None:
        self.area_px = 0.0
        self._seen = False

    def see(self, cells: Cells, size: Tensor) -> None:
        """Takes note of a batch's labels."""
        boxes = cells.corners_px(size.float())
        whole = (boxes[:, :2] > _BORDER_PX).all(1)
        whole &= (boxes[:, 2:] < size.float() - _BORDER_PX).all(1)
        areas = (boxes[whole, 2:] - boxes[whole, :2]).prod(1)
        if len(areas):
            least = float(areas.min())
            self.area_px = min(self.area_px, least) if self._seen else least
            self._seen = True
