"""Who finds the target's boxes, and on what terms.

Owns the options that ConfMix and DACA share, and forward passes that leave the network as it
was. Does not own what is made of the boxes (see ``confmix`` and ``daca``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_runtime.errors import DataError, SettingsError
from train.adapt.box_uncertainty import box_share
from train.adapt.pseudo_boxes import PseudoBoxes, find_boxes
from train.step_loss import TARGET_IMAGES, MethodOptions, StepContext


class TeachingOptions(MethodOptions):
    """How boxes are found in pictures.

    Attributes:
        confidence: boxes must be surer than this to be learnt from.
        per_class_confidence: the same for single classes, by name, instead of it.
        nms_iou: boxes of one class that overlap more are one.
        sigma_reference: spread of a side, in bins of its distribution, from which on it
            counts as unknown.
        box_confidence: ``dfl`` takes unsure boxes down more and more during the adaptation,
            ``none`` leaves the class score.
        teacher: network that finds the target's boxes: the trained one itself, as printed, or
            its running average.
        bn_target: pictures with the target in them move the running statistics of batch
            normalisation, as printed; false lets labelled pictures alone do so.
        weight: of the loss on pictures made from the target.
    """

    confidence: float = Field(default=0.25, ge=0, lt=1)
    per_class_confidence: dict[str, float] = Field(default_factory=dict)
    nms_iou: float = Field(default=0.5, gt=0, le=1)
    sigma_reference: float = Field(default=2.0, gt=0)
    box_confidence: Literal["dfl", "none"] = "dfl"
    teacher: Literal["self", "ema"] = "self"
    bn_target: bool = True
    weight: float = Field(default=1.0, ge=0)

    def require_fit(self, classes: tuple[str, ...]) -> None:
        """Refuses thresholds of classes that the detector has not; see ``thresholds``."""
        self.thresholds(classes)

    def thresholds(self, classes: tuple[str, ...]) -> Tensor:
        """One threshold per class, float32.

        Raises:
            SettingsError: a class that the detector has not, or no share of one.
        """
        for name, value in self.per_class_confidence.items():
            if name not in classes:
                known = ", ".join(classes)
                raise SettingsError(
                    f"option per_class_confidence: no class {name!r}; there are {known}"
                )
            if not 0 <= value < 1:
                raise SettingsError(
                    f"option per_class_confidence.{name}: {value} is not in 0..1, 1 excluded"
                )
        values = [self.per_class_confidence.get(name, self.confidence) for name in classes]
        return torch.tensor(values)


class Teacher:
    """Finds boxes in a step's pictures.

    Args:
        context: the training.
        options: see ``TeachingOptions``.

    Raises:
        SettingsError: a bad option, or a detector whose boxes are no distributions.
    """

    def __init__(self, context: StepContext, options: TeachingOptions) -> None:
        layers: Any = context.model.model
        self._head = layers[-1]
        if options.box_confidence == "dfl" and self._head.reg_max < 3:
            raise SettingsError(
                "option box_confidence: this detector predicts no distribution of box sides; "
                "set it to none"
            )
        self._context = context
        self._options = options
        self._thresholds = options.thresholds(context.classes)

    def boxes(self, preds: Any, pictures: int) -> PseudoBoxes:
        """Boxes in the first pictures of a batch whose outputs there are."""
        options = self._options
        share = 0.0
        if options.box_confidence == "dfl":
            share = box_share(self._context.moment().ratio)
        return find_boxes(
            preds,
            strides=self._head.stride,
            thresholds=self._thresholds,
            nms_iou=options.nms_iou,
            sigma_reference=options.sigma_reference,
            share=share,
            pictures=pictures,
        )

    @torch.no_grad()
    def target_boxes(self, images: Tensor) -> PseudoBoxes:
        """Boxes in pictures of the target ``(B, 3, H, W)``; one forward pass."""
        if self._options.teacher == "ema":
            average = self._context.averaged()
            with _evaluating(average):
                return self.boxes(average(images), len(images))
        return self.boxes(self.outputs(images), len(images))

    def outputs(self, images: Tensor) -> Any:
        """Training outputs for pictures with the target in them."""
        if self._options.bn_target:
            return self._context.model(images)
        with _statistics_kept(self._context.model):
            return self._context.model(images)


def target_images(batch: dict[str, Any], most: int | None) -> Tensor:
    """Pictures of the target that come with a step.

    Args:
        batch: of the trainer.
        most: not more than this; None for all.

    Raises:
        DataError: they have another size than the labelled ones.
    """
    images: Tensor = batch[TARGET_IMAGES]
    ours, theirs = tuple(batch["img"].shape[2:]), tuple(images.shape[2:])
    if ours != theirs:
        raise DataError(
            f"target pictures are {theirs} and labelled ones {ours} pixels; train with rect: false"
        )
    return images[:most]


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch, without a trace of it in the running statistics."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """A network in eval mode, as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
