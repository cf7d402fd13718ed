"""ConfMix: learning from pictures of the source into which the target's surest quarter is set.

Owns the method's loss. Does not own finding boxes (``pseudo_boxes``, ``teaching``) nor the
geometry of mixing (``quadrants``).

Mattolin et al., WACV 2023, as in the authors' code, on a detector without objectness: a box's
detection confidence is its best class score. Differences: the quadrant is chosen picture by
picture and not once for the batch, and the confidence in a box is read from the distributions
of its sides and not from four outputs added to the head.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from train.adapt.learning_pictures import sheet
from train.adapt.pseudo_boxes import PseudoBoxes, as_labels, from_labels
from train.adapt.quadrants import (
    LEFT_BOTTOM,
    LEFT_TOP,
    RIGHT_BOTTOM,
    RIGHT_TOP,
    middle,
    mixed_boxes,
    mixed_images,
    surest_quadrants,
)
from train.adapt.recolour import reinhard
from train.adapt.teaching import Teacher, TeachingOptions, target_images
from train.step_loss import StepContext

# Where quadrants are equally sure, the first of these is taken, as in the authors' code.
_ORDER = (LEFT_BOTTOM, LEFT_TOP, RIGHT_BOTTOM, RIGHT_TOP)


class Options(TeachingOptions):
    """ConfMix's options; defaults are the authors'.

    Attributes:
        gamma_confidence: labels surer than this count for the weight of a mixed batch.
        source_labels: what a mixed picture's source part is labelled with: boxes found in it,
            as printed, or its real labels.
        recolour: ``reinhard`` gives the source part the target picture's colours before
            mixing.
    """

    gamma_confidence: float = Field(default=0.5, ge=0, lt=1)
    source_labels: Literal["pseudo", "truth"] = "pseudo"
    recolour: Literal["none", "reinhard"] = "none"


def sure_share(confidences: Tensor, least: float) -> float:
    """Share of labels surer than ``least``; 0 without labels."""
    if not len(confidences):
        return 0.0
    return float((confidences > least).float().mean())


class ConfMix:
    """The criterion.

    Args:
        context: the training.
        options: see ``Options``.

    Raises:
        SettingsError: see ``Teacher``.
    """

    def __init__(self, context: StepContext, options: Options) -> None:
        self._context = context
        self._options = options
        self._teacher = Teacher(context, options)

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on the labels plus the weighted loss on mixed pictures; see ``StepLoss``.

        Raises:
            DataError: target pictures of another size.
        """
        plain, items = self._context.plain(preds, batch)
        count = len(batch["img"])
        target = target_images(batch, most=count)
        source = batch["img"][: len(target)]
        found = self._teacher.target_boxes(target)
        if self._options.source_labels == "pseudo":
            known = self._teacher.boxes(preds, len(target))
        else:
            known = from_labels(batch, len(target))
        images, labels = self.mixed(source, target, known, found)
        gamma = sure_share(labels.confidences, self._options.gamma_confidence)

        mixed = self._loss(images, labels, self._options.weight * gamma)
        self._tell(images, known, found, labels, gamma)
        return plain + mixed * count, {**items, "mixed_loss": mixed.detach().sum()}

    def _loss(self, images: Tensor, labels: PseudoBoxes, weight: float) -> Tensor:
        """Weighted losses on mixed pictures, shape ``(3,)``, for one picture of the batch."""
        if weight == 0:
            # Their normalisation statistics belong to the method still, their gradient is 0.
            if self._options.bn_target:
                with torch.no_grad():
                    self._teacher.outputs(images)
            return torch.zeros(3, device=images.device)
        outputs = self._teacher.outputs(images)
        losses, _ = self._context.plain(outputs, as_labels(labels, images))
        # Ultralytics multiplies by the pictures of the batch, of which there may be fewer.
        return weight * losses / len(images)

    @torch.no_grad()
    def mixed(
        self, source: Tensor, target: Tensor, known: PseudoBoxes, found: PseudoBoxes
    ) -> tuple[Tensor, PseudoBoxes]:
        """Mixed pictures and their labels.

        Args:
            source: float ``(B, 3, H, W)``.
            target: the same shape.
            known: boxes of the source.
            found: boxes of the target.
        """
        row, column = middle(source)
        quadrants = surest_quadrants(found, len(target), row, column, _ORDER)
        if self._options.recolour == "reinhard":
            source = reinhard(source, target)
        return (
            mixed_images(source, target, quadrants),
            mixed_boxes(known, found, quadrants, row, column),
        )

    def _tell(
        self,
        images: Tensor,
        known: PseudoBoxes,
        found: PseudoBoxes,
        labels: PseudoBoxes,
        gamma: float,
    ) -> None:
        log, classes = self._context.log, self._context.classes
        log.count(
            pictures=len(images),
            source_boxes=len(known),
            target_boxes=len(found),
            mixed_labels=len(labels),
            gamma_sum=gamma,
            **{f"pseudo_{name}": n for name, n in found.per_class(classes).items()},
        )
        iteration = self._context.moment().iteration
        if log.wants_picture(iteration):
            log.picture(
                f"mixed-{iteration:06d}-gamma-{gamma:.2f}", lambda: sheet(images, labels, classes)
            )


def build(context: StepContext, options: Options) -> ConfMix:
    """ConfMix for a training."""
    return ConfMix(context, options)
