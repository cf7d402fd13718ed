"""Co-mining: each of two views of a picture finds the unlabelled cells for the other.

Owns the method's step. Does not own views (see ``views``) nor boxes (see ``mining``).

Wang et al., "Co-mining: self-supervised learning for sparsely annotated object detection",
AAAI 2021, with its published program's constants. One network sees a picture as it is and in
other colours. What it finds in either view, beyond the labels, is added to the labels that the
other view is trained on; everything else stays background, also outside the labelled patch.
That is the method's own weakness with patches; ``patch_aware`` mends it.

On this detector both views go through ultralytics' criterion and their losses are added.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from train.sparse.anchor_loss import AnchorLoss
from train.sparse.mining import (
    BatchBoxes,
    anchor_centres,
    best_overlap,
    contact_sheet,
    find_cells,
    inside_patches,
    labels_of,
    outputs_of,
    require_one_head,
    run_view,
    with_boxes,
)
from train.sparse.views import draws_of_step, other_colours
from train.step_loss import MethodOptions, StepContext, StepLoss


class Options(MethodOptions):
    """What Co-mining can be told; the defaults are its program's for RetinaNet.

    Attributes:
        confidence: finds count where a class's probability is greater; 0.5 with extremely
            sparse labels.
        suppression_iou: of finds of a class that overlap more only the surest stays.
        same_cell_iou: a find that overlaps a labelled cell of its class more is that cell.
        patch_aware: outside labelled patches only cells count, labelled or found, and nothing
            is background.
        brightness: largest change of brightness in the second view, as a share.
        contrast: of contrast.
        saturation: of saturation.
        hue: of hue, as a share of the colour circle.
        changed_share: of the pictures whose second view differs at all.
        view_moves_statistics: the second view's colours count in the running statistics of
            batch normalisation. The published program keeps pre-trained statistics.
    """

    confidence: float = Field(default=0.6, gt=0, lt=1)
    suppression_iou: float = Field(default=0.6, gt=0, le=1)
    same_cell_iou: float = Field(default=0.4, gt=0, le=1)
    patch_aware: bool = False
    brightness: float = Field(default=0.8, ge=0)
    contrast: float = Field(default=0.8, ge=0)
    saturation: float = Field(default=0.8, ge=0)
    hue: float = Field(default=0.2, ge=0, le=0.5)
    changed_share: float = Field(default=0.8, ge=0, le=1)
    view_moves_statistics: bool = True


def build(context: StepContext, options: Options) -> StepLoss:
    """The criterion.

    Raises:
        SettingsError: a network that mining cannot read.
    """
    require_one_head(context.model, "co-mining")
    return CoMining(context, options)


def unlabelled_finds(found: BatchBoxes, labels: BatchBoxes, same_cell_iou: float) -> BatchBoxes:
    """Finds that are no labelled cell of the same class."""
    return found.select(best_overlap(found, labels, same_class=True) <= same_cell_iou)


class CoMining:
    """The losses of one step.

    Args:
        context: what the training gives.
        options: see ``Options``.
    """

    def __init__(self, context: StepContext, options: Options) -> None:
        self._context, self._options = context, options
        self._masked = AnchorLoss(context.model) if options.patch_aware else None

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of both views, see ``StepLoss``."""
        context = self._context
        step = context.moment().iteration
        images = batch["img"]
        view = self._second_view(images, step)
        second = run_view(context.model, view, moves_statistics=self._options.view_moves_statistics)
        outputs = outputs_of(preds), second
        labels = labels_of(batch)
        mined = tuple(self._mine(each, labels) for each in outputs)
        losses, items = self._loss(outputs[0], with_boxes(batch, mined[1]), batch)
        other, more = self._loss(outputs[1], with_boxes(batch, mined[0]), batch)
        context.log.count(
            labelled=len(labels), mined_in_picture=len(mined[0]), mined_in_view=len(mined[1])
        )
        if context.log.wants_picture(step):
            context.log.picture(
                f"step{step:06d}",
                lambda: contact_sheet(
                    [(images, labels), (images, mined[1]), (view, mined[0])], context.classes
                ),
            )
        return losses + other, {name: value + more[name] for name, value in items.items()}

    def _second_view(self, images: Tensor, step: int) -> Tensor:
        told = self._options
        return other_colours(
            images,
            brightness=told.brightness,
            contrast=told.contrast,
            saturation=told.saturation,
            hue=told.hue,
            share=told.changed_share,
            draws=draws_of_step(self._context.seed, step),
        )

    def _mine(self, outputs: dict[str, Any], labels: BatchBoxes) -> BatchBoxes:
        told = self._options
        with torch.no_grad():
            found = find_cells(
                self._context.model,
                outputs,
                confidence=told.confidence,
                suppression_iou=told.suppression_iou,
            )
            return unlabelled_finds(found, labels, told.same_cell_iou)

    def _loss(
        self, outputs: dict[str, Any], targets: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self._masked is None:
            return self._context.plain(outputs, targets)
        centres = anchor_centres(self._context.model, outputs)
        return self._masked(outputs, targets, inside_patches(centres, batch))
