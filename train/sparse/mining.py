"""Cells that a network finds while it is trained, next to the labelled ones.

Owns boxes of a whole batch in one table, finding them in training outputs, comparing them,
and adding some to the labels. Does not own which finds count: that is each method's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.ops import xywh2xyxy, xyxy2xywh
from ultralytics.utils.tal import dist2bbox, make_anchors

from edge_runtime.errors import SettingsError
from edge_runtime.types import UInt8Image
from train.step_loss import PATCH_INDEX, PATCHES, boxes_on

# As many as ultralytics keeps of a picture; more only come from a training that diverges.
_MOST_PER_PICTURE = 300
_MOST_BEFORE_SUPPRESSION = 30_000


@dataclass(frozen=True, slots=True)
class BatchBoxes:
    """Boxes in the pictures of a batch.

    Attributes:
        boxes_xyxy: float ``(n, 4)``, pixels of the network's input.
        class_ids: int64 ``(n,)``.
        scores: float ``(n,)`` in 0..1; of labels 1.
        pictures: int64 ``(n,)``, which picture of the batch each lies in.
    """

    boxes_xyxy: Tensor
    class_ids: Tensor
    scores: Tensor
    pictures: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    def select(self, chosen: Tensor) -> BatchBoxes:
        """Those that a boolean ``(n,)`` or an index picks."""
        return BatchBoxes(
            self.boxes_xyxy[chosen],
            self.class_ids[chosen],
            self.scores[chosen],
            self.pictures[chosen],
        )


def outputs_of(answer: Any) -> dict[str, Any]:
    """A network's training outputs, also of one in eval mode."""
    outputs: dict[str, Any] = answer[1] if isinstance(answer, tuple) else answer
    return outputs


def run_view(model: DetectionModel, images: Tensor, *, moves_statistics: bool) -> dict[str, Any]:
    """A further forward pass in the same step, in training mode.

    Args:
        model: in training mode.
        images: another view of the batch's pictures.
        moves_statistics: the running statistics of batch normalisation, by which the network
            judges later, take part in this view too. This pass itself goes by the view's own
            either way.
    """
    if moves_statistics:
        return outputs_of(model(images))
    layers: list[Any] = [
        each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)
    ]
    before = [each.momentum for each in layers]
    try:
        for each in layers:
            each.momentum = 0.0
        return outputs_of(model(images))
    finally:
        for each, momentum in zip(layers, before, strict=True):
            each.momentum = momentum


def require_one_head(model: DetectionModel, method: str) -> None:
    """Makes sure that a network's outputs are those that mining reads.

    Raises:
        SettingsError: a network with a second head, which needs no suppression.
    """
    if getattr(_head(model), "one2one_cv2", None) is not None:
        raise SettingsError(
            f"method {method}: the model has a one-to-one head beside its own; "
            "take a family without one, such as yolo11"
        )


def labels_of(batch: dict[str, Any]) -> BatchBoxes:
    """The labelled cells of a batch in ultralytics' form."""
    images = batch["img"]
    device = images.device
    boxes = xywh2xyxy(batch["bboxes"].to(device).float()) * _sides(images)
    pictures = batch["batch_idx"].to(device).view(-1).long()
    classes = batch["cls"].to(device).view(-1).long()
    return BatchBoxes(boxes, classes, torch.ones_like(boxes[:, 0]), pictures)


def with_boxes(batch: dict[str, Any], boxes: BatchBoxes) -> dict[str, Any]:
    """A batch whose labels are its own and these boxes.

    Rows are sorted by picture: ultralytics packs them by counting, and silently loses boxes
    that are not.
    """
    device = batch["img"].device
    pictures = torch.cat([batch["batch_idx"].to(device).view(-1).long(), boxes.pictures])
    order = pictures.argsort(stable=True)
    found = xyxy2xywh(boxes.boxes_xyxy) / _sides(batch["img"])
    centred = torch.cat([batch["bboxes"].to(device).float(), found])
    classes = torch.cat([batch["cls"].to(device).view(-1).float(), boxes.class_ids.float()])
    together = {
        "batch_idx": pictures[order].to(batch["batch_idx"].dtype),
        "bboxes": centred[order],
        "cls": classes[order].view(-1, 1),
    }
    # What else stands in a batch row by row no longer fits the longer table.
    return {"img": batch["img"], **together}


def anchor_boxes(model: DetectionModel, outputs: dict[str, Any]) -> Tensor:
    """Every anchor's predicted box, float ``(B, N, 4)``, pixel corners; without gradient."""
    head = _head(model)
    # Half precision would round a box by a quarter of a pixel.
    with torch.no_grad(), torch.autocast(outputs["boxes"].device.type, enabled=False):
        points, strides = make_anchors(outputs["feats"], head.stride, 0.5)
        distances = head.dfl(outputs["boxes"].float())
        corners = dist2bbox(distances, points.T.float().unsqueeze(0), xywh=False, dim=1)
        boxes: Tensor = (corners * strides.T.float()).transpose(1, 2)
    return boxes


def anchor_centres(model: DetectionModel, outputs: dict[str, Any]) -> Tensor:
    """Where the anchors lie, float ``(N, 2)``, pixels of the network's input."""
    points, strides = make_anchors(outputs["feats"], _head(model).stride, 0.5)
    centres: Tensor = points.float() * strides.float()
    return centres


def inside_patches(centres: Tensor, batch: dict[str, Any]) -> Tensor:
    """Which anchors lie in a labelled patch of their picture.

    Args:
        centres: of anchors, float ``(N, 2)``, pixels.
        batch: with patches.

    Returns:
        bool ``(B, N)``.
    """
    images = batch["img"]
    patches = batch[PATCHES].to(images.device).float() * _sides(images)
    hits = torch.zeros(len(images), len(centres), device=images.device)
    hits.index_add_(
        0, batch[PATCH_INDEX].to(images.device).long(), contains(patches, centres).float()
    )
    return hits > 0


def contains(boxes_xyxy: Tensor, points: Tensor) -> Tensor:
    """Which of ``(n, 2)`` points lie in which of ``(k, 4)`` boxes: bool ``(k, n)``."""
    low = points[None] >= boxes_xyxy[:, None, :2]
    high = points[None] < boxes_xyxy[:, None, 2:]
    return (low & high).all(-1)


def find_cells(
    model: DetectionModel, outputs: dict[str, Any], *, confidence: float, suppression_iou: float
) -> BatchBoxes:
    """Cells in training outputs, overlapping ones of a class suppressed; without gradient.

    Args:
        model: the network that gave the outputs.
        outputs: of one forward pass.
        confidence: a class counts where its probability is greater.
        suppression_iou: of finds that overlap more only the surest stays.
    """
    with torch.no_grad():
        probabilities = outputs["scores"].float().sigmoid()
        pictures, classes, anchors = torch.where(probabilities > confidence)
        boxes = anchor_boxes(model, outputs)[pictures, anchors]
        scores = probabilities[pictures, classes, anchors]
        found = BatchBoxes(boxes, classes, scores, pictures)
        return suppress(clipped(found, outputs, model), suppression_iou)


def clipped(found: BatchBoxes, outputs: dict[str, Any], model: DetectionModel) -> BatchBoxes:
    """Boxes cut at the pictures' borders; what is left less than a pixel wide is dropped."""
    height, width = outputs["feats"][0].shape[2:]
    stride = float(_head(model).stride[0])
    limit = found.boxes_xyxy.new_tensor([width, height, width, height]) * stride
    boxes = torch.minimum(found.boxes_xyxy.clamp(min=0), limit)
    cut = BatchBoxes(boxes, found.class_ids, found.scores, found.pictures)
    return cut.select(((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1))


def suppress(found: BatchBoxes, iou: float, *, by_class: bool = True) -> BatchBoxes:
    """Of overlapping finds of a picture, and of a class, the surest; surest first."""
    if len(found) > _MOST_BEFORE_SUPPRESSION:
        found = found.select(found.scores.topk(_MOST_BEFORE_SUPPRESSION).indices)
    groups = found.pictures
    if by_class and len(found):
        groups = groups * (int(found.class_ids.max()) + 1) + found.class_ids
    kept = found.select(batched_nms(found.boxes_xyxy, found.scores, groups, iou))
    return kept.select(_rank_in_picture(kept.pictures) < _MOST_PER_PICTURE)


def overlaps(first: BatchBoxes, second: BatchBoxes, *, same_class: bool = False) -> Tensor:
    """Intersection over union ``(n, m)``; 0 for two pictures or, if asked so, two classes."""
    alike = first.pictures[:, None] == second.pictures[None]
    if same_class:
        alike = alike & (first.class_ids[:, None] == second.class_ids[None])
    iou: Tensor = box_iou(first.boxes_xyxy, second.boxes_xyxy) * alike
    return iou


def best_overlap(found: BatchBoxes, labels: BatchBoxes, *, same_class: bool = False) -> Tensor:
    """Each find's largest overlap with a labelled cell, ``(n,)``; 0 where there is none."""
    if len(labels) == 0:
        return torch.zeros_like(found.scores)
    return overlaps(found, labels, same_class=same_class).amax(1)


def contact_sheet(
    rows: Sequence[tuple[Tensor, BatchBoxes]], classes: tuple[str, ...], most: int = 4
) -> UInt8Image:
    """Pictures of a batch with boxes, one row for each kind of boxes.

    Args:
        rows: images ``(B, 3, H, W)`` in 0..1 and what to draw on them.
        classes: detector classes.
        most: pictures in a row.
    """
    lines = []
    for images, boxes in rows:
        line = []
        for place in range(min(len(images), most)):
            own = boxes.select(boxes.pictures == place)
            pixels = images[place].detach().float().clamp(0, 1).mul(255).byte().cpu()
            line.append(
                boxes_on(
                    np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0)),
                    own.boxes_xyxy.detach().float().cpu().numpy(),
                    own.class_ids.cpu().numpy(),
                    classes,
                )
            )
        lines.append(np.concatenate(line, axis=1))
    return np.concatenate(lines, axis=0)


def no_boxes(device: torch.device) -> BatchBoxes:
    """An empty table."""
    return BatchBoxes(
        torch.zeros(0, 4, device=device),
        torch.zeros(0, dtype=torch.long, device=device),
        torch.zeros(0, device=device),
        torch.zeros(0, dtype=torch.long, device=device),
    )


def _head(model: DetectionModel) -> Any:
    layers: Any = model.model
    return layers[-1]


def _sides(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    return torch.tensor([width, height, width, height], device=images.device).float()


def _rank_in_picture(pictures: Tensor) -> Tensor:
    """How many of the same picture stand before each, ``(n,)``."""
    order = pictures.argsort(stable=True)
    ordered = pictures[order]
    starts = torch.searchsorted(ordered, ordered)
    rank = torch.empty_like(pictures)
    rank[order] = torch.arange(len(pictures), device=pictures.device) - starts
    return rank
