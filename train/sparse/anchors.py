"""A detector's outputs per anchor, and its loss on chosen anchors only.

Owns taking ultralytics' criterion apart, so that a method can say which anchors learn as
cells, which as background and which not at all. Does not own that choice (see ``inside`` and
``pseudo_labels``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self
from ultralytics.utils.ops import xywh2xyxy, xyxy2xywh
from ultralytics.utils.tal import make_anchors


@dataclass(frozen=True)
class Cells:
    """n boxes of a batch, sorted by picture.

    Sorted, because ultralytics' packing of targets silently loses boxes of unsorted rows.

    Attributes:
        boxes_xywhn: float ``(n, 4)``, centre boxes as fractions of the network's picture.
        class_ids: float ``(n,)``.
        pictures: int64 ``(n,)``, the picture of the batch each lies in.
    """

    boxes_xywhn: Tensor
    class_ids: Tensor
    pictures: Tensor

    @classmethod
    def sort(cls, boxes_xywhn: Tensor, class_ids: Tensor, pictures: Tensor) -> Self:
        """The boxes in order of their pictures, within a picture as given."""
        order = torch.argsort(pictures, stable=True)
        return cls(boxes_xywhn[order], class_ids.reshape(-1)[order], pictures.long()[order])

    @classmethod
    def labelled(cls, batch: dict[str, Any], device: torch.device) -> Self:
        """What ultralytics' batch says is labelled."""
        return cls.sort(
            batch["bboxes"].to(device), batch["cls"].to(device), batch["batch_idx"].to(device)
        )

    @classmethod
    def of_corners(
        cls, boxes_px: Tensor, class_ids: Tensor, pictures: Tensor, size: Tensor
    ) -> Self:
        """From corner boxes in pixels; ``size`` is width and height."""
        return cls.sort(xyxy2xywh(boxes_px) / size.repeat(2), class_ids, pictures)

    def __len__(self) -> int:
        return len(self.class_ids)

    def select(self, mask: Tensor) -> Self:
        """Those that a boolean ``(n,)`` picks."""
        return type(self)(self.boxes_xywhn[mask], self.class_ids[mask], self.pictures[mask])

    def corners_px(self, size: Tensor) -> Tensor:
        """Corner boxes ``(n, 4)`` in pixels; ``size`` is width and height."""
        corners: Tensor = xywh2xyxy(self.boxes_xywhn.float()) * size.repeat(2)
        return corners


@dataclass(frozen=True)
class AnchorOutputs:
    """Training outputs of B pictures at N anchors.

    Attributes:
        points: ``(N, 2)``, anchor centres in cells of their own level.
        strides: ``(N, 1)``, pixels per cell of the level.
        distances: ``(B, N, 4 * bins)``.
        logits: ``(B, N, classes)``.
        boxes: corner boxes ``(B, N, 4)`` in cells of their own level.
        finest: feature map of the finest level, ``(B, channels, h, w)``.
        size: width and height of the network's picture in pixels.
    """

    points: Tensor
    strides: Tensor
    distances: Tensor
    logits: Tensor
    boxes: Tensor
    finest: Tensor
    size: Tensor

    @classmethod
    def read(cls, plain: Any, preds: Any) -> Self:
        """From a forward pass, through ultralytics' criterion ``plain``."""
        outputs = plain.parse_output(preds)
        distances = outputs["boxes"].permute(0, 2, 1).contiguous()
        logits = outputs["scores"].permute(0, 2, 1).contiguous()
        points, strides = make_anchors(outputs["feats"], plain.stride, 0.5)
        height, width = outputs["feats"][0].shape[2:]
        size = torch.tensor([width, height], device=logits.device, dtype=logits.dtype)
        boxes = plain.bbox_decode(points, distances)
        finest = outputs["feats"][0]
        return cls(points, strides, distances, logits, boxes, finest, size * plain.stride[0])

    @property
    def centres_px(self) -> Tensor:
        """Anchor centres ``(N, 2)`` in pixels."""
        return self.points * self.strides

    @property
    def boxes_px(self) -> Tensor:
        """Predicted corner boxes ``(B, N, 4)`` in pixels, without gradient."""
        return (self.boxes.detach() * self.strides).float()

    @property
    def scores(self) -> Tensor:
        """Class scores ``(B, N, classes)`` in 0..1, without gradient."""
        return self.logits.detach().float().sigmoid()


@dataclass(frozen=True)
class Assignment:
    """What each of ``(B, N)`` anchors should answer.

    Attributes:
        boxes_px: ``(B, N, 4)``.
        scores: ``(B, N, classes)``, 0 where there is no cell.
        foreground: bool ``(B, N)``, anchors that answer for a cell.
    """

    boxes_px: Tensor
    scores: Tensor
    foreground: Tensor


def assign(plain: Any, outputs: AnchorOutputs, cells: Cells, allowed: Tensor) -> Assignment:
    """Ultralytics' assignment of cells to anchors, with the allowed anchors alone.

    Predictions elsewhere are hidden from the assigner instead of being taken out of its
    answer only: they would take a cell's places, so a cell across the border would have
    fewer anchors, chosen by predictions that nothing trains.

    Args:
        plain: ultralytics' criterion.
        outputs: of the network.
        cells: to be assigned.
        allowed: bool ``(B, N)``.
    """
    pictures = len(outputs.logits)
    rows = torch.cat([cells.pictures[:, None], cells.class_ids[:, None], cells.boxes_xywhn], dim=1)
    packed = plain.preprocess(rows, pictures, scale_tensor=outputs.size.repeat(2))
    labels, boxes = packed.split((1, 4), 2)
    known = boxes.sum(2, keepdim=True).gt_(0.0)
    seen = allowed[..., None]
    _, target_boxes, scores, foreground, _ = plain.assigner(
        outputs.logits.detach().sigmoid() * seen,
        (outputs.boxes.detach() * outputs.strides).type(boxes.dtype) * seen,
        outputs.centres_px,
        labels,
        boxes,
        known,
    )
    return Assignment(target_boxes, scores * seen, foreground & allowed)


def losses_on(
    plain: Any, outputs: AnchorOutputs, assignment: Assignment, classified: Tensor
) -> Tensor:
    """Box, class and distribution losses with ultralytics' gains, shape ``(3,)``.

    Args:
        plain: ultralytics' criterion.
        outputs: of the network.
        assignment: boxes and distributions are learnt on its foreground.
        classified: bool ``(B, N)``, the anchors whose class scores are learnt; the others
            have a class gradient of exactly zero.
    """
    total = assignment.scores.sum().clamp(min=1)
    logits = outputs.logits
    # Chosen, not multiplied by zero: an infinite logit elsewhere must not turn into NaN.
    entropy = plain.bce(logits[classified], assignment.scores[classified].to(logits.dtype))
    if plain.class_weights is not None:
        entropy = entropy * plain.class_weights.view(1, -1)
    box, distribution = plain.bbox_loss(
        outputs.distances,
        outputs.boxes,
        outputs.points,
        assignment.boxes_px / outputs.strides,
        assignment.scores,
        total,
        assignment.foreground,
        outputs.size.flip(0),
        outputs.strides,
    )
    gains = plain.hyp
    return torch.stack(
        [box * gains.box, entropy.sum() / total * gains.cls, distribution * gains.dfl]
    )
