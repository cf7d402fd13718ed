"""Stain transfer: the source's pictures once more, in the colours of the target.

Owns the method's loss. Does not own the transfer of colours (see ``recolour``).

The obvious remedy where two microscopes differ in stain, light and camera: every labelled
picture is learnt from as it is and with the mean and spread of colours of a target picture
(Reinhard et al. 2001), with its real labels both times. No pseudo-label is made, so none can be
wrong; what differs in shape or sharpness stays different.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from train.adapt.learning_pictures import sheet
from train.adapt.pseudo_boxes import from_labels
from train.adapt.recolour import reinhard
from train.adapt.teaching import target_images
from train.step_loss import MethodOptions, StepContext, StepLoss


class Options(MethodOptions):
    """What stain transfer can be told.

    Attributes:
        weight: of the recoloured pictures' loss beside the plain one.
    """

    weight: float = Field(default=1.0, ge=0)


class Stain:
    """The criterion.

    Args:
        context: the training.
        options: see ``Options``.
    """

    def __init__(self, context: StepContext, options: Options) -> None:
        self._context, self._options = context, options

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on the labelled pictures in their own and in the target's colours.

        Raises:
            DataError: target pictures of another size.
        """
        plain, items = self._context.plain(preds, batch)
        count = len(batch["img"])
        images = painted(batch["img"], target_images(batch, most=count))
        losses, _ = self._context.plain(self._context.model(images), batch)
        losses = self._options.weight * losses
        log, iteration = self._context.log, self._context.moment().iteration
        if log.wants_picture(iteration):
            found = from_labels(batch, count)
            log.picture(
                f"stain-{iteration:06d}", lambda: sheet(images, found, self._context.classes)
            )
        return plain + losses, {**items, "painted_loss": losses.detach().sum() / count}


@torch.no_grad()
def painted(images: Tensor, target: Tensor) -> Tensor:
    """Pictures in the colours of as many of the target, over again where those are fewer.

    Args:
        images: float ``(B, 3, H, W)``, sRGB in 0..1.
        target: float ``(B', 3, H, W)``, B' from 1 to B.
    """
    places = torch.arange(len(images), device=images.device) % len(target)
    return reinhard(images, target[places])


def build(context: StepContext, options: Options) -> StepLoss:
    """The method's criterion."""
    return Stain(context, options)
