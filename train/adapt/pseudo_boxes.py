"""Boxes that a detector finds itself during training, to learn from as if they were labels.

Owns decoding, thresholds and suppression of outputs, and labels made of the result. Does not
own confidences of boxes (see ``box_uncertainty``) nor which network is asked (``teaching``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms
from ultralytics.utils.tal import make_anchors

from train.adapt.box_uncertainty import box_confidence, detection_confidence, side_distances

# Anchors a picture that are looked at, best first. Ten times what any field holds; without a
# limit an untrained network's thousands of boxes would be compared in pairs.
_MOST_CANDIDATES = 1000
# Sides in pixels below which a box is a sliver left by clipping.
LEAST_SIDE = 2.0


@dataclass(frozen=True)
class PseudoBoxes:
    """Boxes of a batch in one table.

    Attributes:
        pictures: int64 ``(n,)``, place in the batch, ascending.
        boxes_xyxy: float32 ``(n, 4)``, pixels.
        class_ids: int64 ``(n,)``.
        confidences: float32 ``(n,)``, in 0..1.
    """

    pictures: Tensor
    boxes_xyxy: Tensor
    class_ids: Tensor
    confidences: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def centres(self) -> tuple[Tensor, Tensor]:
        """Columns and rows, each ``(n,)``, pixels."""
        x1, y1, x2, y2 = self.boxes_xyxy.unbind(1)
        return (x1 + x2) / 2, (y1 + y2) / 2

    def select(self, chosen: Tensor) -> PseudoBoxes:
        """Boxes by mask or by number, in the order given."""
        return PseudoBoxes(
            self.pictures[chosen],
            self.boxes_xyxy[chosen],
            self.class_ids[chosen],
            self.confidences[chosen],
        )

    def moved(self, boxes_xyxy: Tensor) -> PseudoBoxes:
        """The same with other coordinates."""
        return PseudoBoxes(self.pictures, boxes_xyxy, self.class_ids, self.confidences)

    def without_slivers(self) -> PseudoBoxes:
        """Boxes of which both sides are long enough to be something."""
        sides = self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]
        return self.select((sides >= LEAST_SIDE).all(1))

    def per_class(self, classes: Sequence[str]) -> dict[str, float]:
        """How many there are of each class, by name."""
        counts = torch.bincount(self.class_ids, minlength=len(classes)).tolist()
        return {name: float(count) for name, count in zip(classes, counts, strict=True)}


def joined(parts: Sequence[PseudoBoxes]) -> PseudoBoxes:
    """Several tables as one, in the order of pictures.

    Ultralytics packs labels by picture and silently loses boxes that are out of order.
    """
    together = PseudoBoxes(
        torch.cat([part.pictures for part in parts]),
        torch.cat([part.boxes_xyxy for part in parts]),
        torch.cat([part.class_ids for part in parts]),
        torch.cat([part.confidences for part in parts]),
    )
    return together.select(torch.sort(together.pictures, stable=True).indices)


def as_labels(found: PseudoBoxes, images: Tensor) -> dict[str, Any]:
    """A batch as ultralytics' criterion reads it.

    Args:
        found: boxes, in the order of pictures.
        images: float ``(B, 3, H, W)``.
    """
    height, width = images.shape[2:]
    x1, y1, x2, y2 = found.boxes_xyxy.unbind(1)
    centre = torch.stack(
        [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], 1
    )
    return {
        "img": images,
        "cls": found.class_ids.float().reshape(-1, 1),
        "bboxes": centre,
        "batch_idx": found.pictures.float(),
    }


def from_labels(batch: dict[str, Any], pictures: int) -> PseudoBoxes:
    """Labels of the first pictures of a batch as sure boxes."""
    height, width = batch["img"].shape[2:]
    device = batch["img"].device
    x, y, w, h = batch["bboxes"].to(device).float().unbind(1)
    boxes = torch.stack(
        [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height], 1
    )
    index = batch["batch_idx"].to(device).long().reshape(-1)
    labels = PseudoBoxes(
        index, boxes, batch["cls"].to(device).long().reshape(-1), torch.ones_like(boxes[:, 0])
    )
    first = labels.select(torch.sort(index, stable=True).indices)
    return first.select(first.pictures < pictures)


def raw_outputs(preds: Any) -> dict[str, Any]:
    """The outputs with one box per anchor, of a forward pass in either mode."""
    outputs: dict[str, Any] = preds[1] if isinstance(preds, tuple) else preds
    return outputs.get("one2many", outputs)


@torch.no_grad()
def find_boxes(
    preds: Any,
    *,
    strides: Tensor,
    thresholds: Tensor,
    nms_iou: float,
    sigma_reference: float,
    share: float,
    pictures: int | None = None,
) -> PseudoBoxes:
    """Decodes outputs, takes down unsure boxes, and suppresses doubles class by class.

    Args:
        preds: training outputs, or those in eval mode.
        strides: of the levels.
        thresholds: float ``(classes,)``; a confidence must be above its class's.
        nms_iou: boxes of one class that overlap more are one.
        sigma_reference: see ``box_confidence``, bins.
        share: how much confidence in boxes counts, see ``box_share``.
        pictures: only the first so many; None takes all.

    Returns:
        Boxes clipped to the picture, within a picture the surest first.
    """
    outputs = raw_outputs(preds)
    feats = outputs["feats"]
    scores, labels = outputs["scores"][:pictures].detach().float().sigmoid().max(1)
    thresholds = thresholds.to(scores.device)
    # A confidence is never above its score: what fails here need not be decoded.
    score, anchor = scores.topk(min(_MOST_CANDIDATES, scores.shape[1]), dim=1)
    label = labels.gather(1, anchor)
    picture, rank = (score > thresholds[label]).nonzero(as_tuple=True)
    anchor, score, label = anchor[picture, rank], score[picture, rank], label[picture, rank]

    sides = outputs["boxes"].detach()[picture, :, anchor]
    distances, deviations = side_distances(sides.reshape(len(sides), 4, sides.shape[1] // 4))
    confidence = detection_confidence(score, box_confidence(deviations, sigma_reference), share)
    points, steps = make_anchors(feats, strides.to(scores.device), 0.5)
    point = points[anchor].float()
    boxes = torch.cat([point - distances[:, :2], point + distances[:, 2:]], 1)
    boxes = boxes * steps[anchor].float()
    stride = float(strides[0])
    height, width = feats[0].shape[2] * stride, feats[0].shape[3] * stride
    limits = torch.tensor([width, height, width, height], device=boxes.device)
    boxes = boxes.clamp(min=0).minimum(limits)

    found = PseudoBoxes(picture, boxes, label, confidence)
    found = found.select(confidence > thresholds[label]).without_slivers()
    # One suppression for the whole batch: no picture and no class meets another.
    group = found.pictures * len(thresholds) + found.class_ids
    found = found.select(batched_nms(found.boxes_xyxy, found.confidences, group, nms_iou))
    return found.select(torch.sort(found.pictures, stable=True).indices)
