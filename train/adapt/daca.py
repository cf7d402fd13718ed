"""DACA: learning from augmented copies of the quarter of a target picture that is surest.

Owns the method's loss. Does not own finding boxes (``pseudo_boxes``, ``teaching``), the
augmentations (``crop_augment``) nor the pictures made of them (``composite``).

Mekhalfi et al., 2023, as in the authors' code. Differences: classes travel through the
augmentations with their boxes, and a picture in which nothing is found is left out, where the
authors' code learns from an invented box.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from train.adapt.composite import composites, surest_crops
from train.adapt.crop_augment import AugmentOptions, augmented
from train.adapt.learning_pictures import sheet
from train.adapt.pseudo_boxes import PseudoBoxes, as_labels
from train.adapt.stain import painted
from train.adapt.teaching import Teacher, TeachingOptions, target_images
from train.step_loss import StepContext


class Options(TeachingOptions):
    """DACA's options; defaults are the authors'.

    Attributes:
        augment: what happens to the copies.
        stain_weight: of the labelled pictures once more in the target's colours (see
            ``stain``), which is not DACA's; 0 leaves them out.
    """

    confidence: float = Field(default=0.1, ge=0, lt=1)
    stain_weight: float = Field(default=0.0, ge=0)
    augment: AugmentOptions = AugmentOptions()


class Daca:
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
        self._generator = torch.Generator()

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on the labels plus the loss on composites; see ``StepLoss``.

        Raises:
            DataError: target pictures of another size.
        """
        plain, items = self._context.plain(preds, batch)
        count = len(batch["img"])
        target = target_images(batch, most=count)
        if self._options.stain_weight:
            losses, _ = self._context.plain(
                self._context.model(painted(batch["img"], target)), batch
            )
            plain = plain + self._options.stain_weight * losses
        found = self._teacher.target_boxes(target)
        images, labels = self.composed(target, found)
        if not len(labels):
            self._tell(images, found, labels)
            return plain, {**items, "composite_loss": plain.detach().new_zeros(())}
        outputs = self._teacher.outputs(images)
        term, _ = self._context.plain(outputs, as_labels(labels, images))
        # Ultralytics multiplies by the pictures of the batch, of which there may be fewer.
        term = self._options.weight * term / len(images)
        self._tell(images, found, labels)
        return plain + term * count, {**items, "composite_loss": term.detach().sum()}

    @torch.no_grad()
    def composed(self, target: Tensor, found: PseudoBoxes) -> tuple[Tensor, PseudoBoxes]:
        """Composites and their labels; none of either where nothing was found.

        Args:
            target: float ``(B, 3, H, W)``.
            found: boxes in them.
        """
        crops = surest_crops(target, found)
        if not crops:
            return target[:0], found.select(found.pictures < 0)
        # By iteration: a resumed training draws what an uninterrupted one would have.
        moment = self._context.moment()
        self._generator.manual_seed(self._context.seed * 1_000_003 + moment.iteration)
        return composites(
            crops,
            lambda crop: augmented(crop, self._options.augment, self._generator),
            (target.shape[2], target.shape[3]),
            self._context.source_mean,
        )

    def _tell(self, images: Tensor, found: PseudoBoxes, labels: PseudoBoxes) -> None:
        log, classes = self._context.log, self._context.classes
        log.count(
            composites=len(images),
            target_boxes=len(found),
            composite_labels=len(labels),
            **{f"pseudo_{name}": n for name, n in found.per_class(classes).items()},
        )
        iteration = self._context.moment().iteration
        if len(images) and log.wants_picture(iteration):
            log.picture(f"composite-{iteration:06d}", lambda: sheet(images, labels, classes))


def build(context: StepContext, options: Options) -> Daca:
    """DACA for a training."""
    return Daca(context, options)
