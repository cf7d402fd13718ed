"""SparseDet, adapted to a detector without proposals.

Owns the method's step. Does not own views (see ``views``) nor boxes (see ``mining``).

Suri et al., "SparseDet: improving sparsely annotated object detection with pseudo-positive
mining", ICCV 2023, is a two-stage detector: one proposal network on the joined features of a
weakly and a strongly changed view finds regions that are likely cells though nobody labelled
them; those are never sampled as background, and both views' features of them shall agree. What
is different here:

- No layer joins the two views. A region's score is the mean of both views' class
  probabilities at an anchor, its box the mean of both boxes: the network that is saved has no
  parameter that the plain detector lacks.
- "Never sampled as background" is: an anchor in such a region, or whose own prediction is one,
  has no class loss, unless a cell is assigned to it.
- Features are those of the finest level that enters the detection head, not a box head's.
- A labelled cell is never suppressed by a prediction; predictions that overlap one, of
  whatever class, are not added.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from train.sparse.anchor_loss import AnchorLoss
from train.sparse.mining import (
    BatchBoxes,
    anchor_boxes,
    anchor_centres,
    best_overlap,
    clipped,
    contact_sheet,
    contains,
    find_cells,
    labels_of,
    no_boxes,
    outputs_of,
    require_one_head,
    run_view,
    suppress,
    with_boxes,
)
from train.sparse.views import (
    draws_of_step,
    erase_in_one_cell,
    other_colours,
    other_lighting,
)
from train.step_loss import MethodOptions, StepContext, StepLoss

CONSISTENCY = "consistency_loss"
_POOLED = 7


class Options(MethodOptions):
    """What SparseDet can be told; the defaults are its program's, on COCO.

    Attributes:
        candidate_confidence: a region is likely a cell where its score is greater.
        labelled_iou: and where it overlaps no labelled cell more.
        candidate_iou: of regions that overlap more only the surest stays.
        merge_confidence: what the weak view finds with a greater probability is a target of
            the strong one.
        merge_iou: of such finds of a class that overlap more only the surest stays, and one
            that overlaps a labelled cell more is that cell.
        warm_up: share of the training before any region is looked for; 0.5 on VOC.
        consistency: weight of the agreement of features.
        brightness: largest change in the strong view, as a share.
        contrast: likewise.
        saturation: likewise.
        lighting: shift along the colour axes of photographs, in grey levels of 255; as weak
            as in the program, which applies a strength meant for 0..1 to 0..255.
        erase_area: least and largest share of one labelled cell's box that is erased.
        erase_ratio: least and largest height over width of it.
        view_moves_statistics: the strong view's colours count in the running statistics of
            batch normalisation. The published program keeps pre-trained statistics.
    """

    candidate_confidence: float = Field(default=0.8, gt=0, lt=1)
    labelled_iou: float = Field(default=0.2, ge=0, le=1)
    candidate_iou: float = Field(default=0.3, gt=0, le=1)
    merge_confidence: float = Field(default=0.9, gt=0, lt=1)
    merge_iou: float = Field(default=0.5, gt=0, le=1)
    warm_up: float = Field(default=0.11, ge=0, le=1)
    consistency: float = Field(default=1.0, ge=0)
    brightness: float = Field(default=0.5, ge=0)
    contrast: float = Field(default=0.5, ge=0)
    saturation: float = Field(default=0.5, ge=0)
    lighting: float = Field(default=1.2, ge=0)
    erase_area: tuple[float, float] = (0.4, 0.7)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    view_moves_statistics: bool = True

    @field_validator("erase_area", "erase_ratio")
    @classmethod
    def _is_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give the least above 0, then the largest")
        return value

    @field_validator("erase_area")
    @classmethod
    def _is_share(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError("give shares up to 1")
        return value


def build(context: StepContext, options: Options) -> StepLoss:
    """The criterion.

    Raises:
        SettingsError: a network that mining cannot read.
    """
    require_one_head(context.model, "sparsedet")
    return SparseDet(context, options)


class SparseDet:
    """The losses of one step.

    Args:
        context: what the training gives.
        options: see ``Options``.
    """

    def __init__(self, context: StepContext, options: Options) -> None:
        self._context, self._options = context, options
        self._loss = AnchorLoss(context.model)

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Half of both views' losses and the agreement of features, see ``StepLoss``."""
        context, told = self._context, self._options
        moment = context.moment()
        images = batch["img"]
        labels = labels_of(batch)
        view = self._strong_view(images, labels, moment.iteration)
        weak = outputs_of(preds)
        strong = run_view(context.model, view, moves_statistics=told.view_moves_statistics)
        candidates = sure = no_boxes(images.device)
        known = torch.ones(len(images), weak["scores"].shape[2], device=images.device).bool()
        if moment.ratio >= told.warm_up:
            candidates, left_out = self.candidates(weak, strong, labels)
            known = ~left_out
            sure = self.sure_finds(weak, labels)
        losses, items = self._loss(weak, batch, known)
        other, more = self._loss(strong, with_boxes(batch, sure), known)
        agreement = told.consistency * disagreement(
            weak["feats"][0], strong["feats"][0], candidates, images.shape[3]
        )
        context.log.count(
            labelled=len(labels),
            candidates=len(candidates),
            anchors_left_out=int((~known).sum()),
            merged=len(sure),
        )
        if context.log.wants_picture(moment.iteration):
            context.log.picture(
                f"step{moment.iteration:06d}",
                lambda: contact_sheet(
                    [(images, labels), (images, candidates), (view, sure)], context.classes
                ),
            )
        total = torch.cat([(losses + other) / 2, (agreement * len(images)).reshape(1)])
        halves = {name: (value + more[name]) / 2 for name, value in items.items()}
        return total, {**halves, CONSISTENCY: agreement.detach()}

    def candidates(
        self, weak: dict[str, Any], strong: dict[str, Any], labels: BatchBoxes
    ) -> tuple[BatchBoxes, Tensor]:
        """Regions that are likely unlabelled cells.

        Args:
            weak: outputs for the pictures as they are.
            strong: for their other view.
            labels: of the pictures.

        Returns:
            The regions, and bool ``(B, N)``: anchors that must not count as background.
        """
        told, model = self._options, self._context.model
        with torch.no_grad():
            both = (weak["scores"].float().sigmoid() + strong["scores"].float().sigmoid()) / 2
            scores, classes = both.max(1)
            boxes = (anchor_boxes(model, weak) + anchor_boxes(model, strong)) / 2
            pictures, anchors = torch.where(scores > told.candidate_confidence)
            likely = BatchBoxes(
                boxes[pictures, anchors],
                classes[pictures, anchors],
                scores[pictures, anchors],
                pictures,
            )
            unlabelled = best_overlap(likely, labels) <= told.labelled_iou
            likely, anchors = likely.select(unlabelled), anchors[unlabelled]
            kept = suppress(clipped(likely, weak, model), told.candidate_iou, by_class=False)
            inside = contains(kept.boxes_xyxy, anchor_centres(model, weak))
            hits = torch.zeros_like(scores).index_add_(0, kept.pictures, inside.to(scores))
            left_out = hits > 0
            left_out[likely.pictures, anchors] = True
        return kept, left_out

    def sure_finds(self, weak: dict[str, Any], labels: BatchBoxes) -> BatchBoxes:
        """What the weak view is sure of and nobody labelled: targets of the strong view."""
        told = self._options
        found = find_cells(
            self._context.model,
            weak,
            confidence=told.merge_confidence,
            suppression_iou=told.merge_iou,
        )
        return found.select(best_overlap(found, labels) <= told.merge_iou)

    def _strong_view(self, images: Tensor, labels: BatchBoxes, step: int) -> Tensor:
        told = self._options
        draws = draws_of_step(self._context.seed, step)
        coloured = other_colours(
            images,
            brightness=told.brightness,
            contrast=told.contrast,
            saturation=told.saturation,
            draws=draws,
        )
        lit = other_lighting(coloured, told.lighting, draws=draws)
        return erase_in_one_cell(
            lit, labels, area=told.erase_area, ratio=told.erase_ratio, draws=draws
        )


def disagreement(weak: Tensor, strong: Tensor, regions: BatchBoxes, width: int) -> Tensor:
    """Mean squared difference of two views' features in regions, a scalar.

    Args:
        weak: features ``(B, C, h, w)``.
        strong: likewise.
        regions: in pixels of the network's input.
        width: of the network's input, pixels.
    """
    if len(regions) == 0:
        # Part of the graph all the same: a step without regions is like any other.
        return (weak.float().sum() + strong.float().sum()) * 0
    rois = torch.cat([regions.pictures[:, None].to(regions.boxes_xyxy), regions.boxes_xyxy], 1)
    scale = weak.shape[3] / width
    # One pass over both: pooling is called once.
    count = len(weak)
    again = rois + rois.new_tensor([count, 0, 0, 0, 0])
    with torch.autocast(weak.device.type, enabled=False):
        pooled = roi_align(
            torch.cat([weak, strong]).float(),
            torch.cat([rois, again]),
            _POOLED,
            spatial_scale=scale,
            aligned=True,
        )
        first, second = pooled.chunk(2)
        return functional.mse_loss(first, second)
