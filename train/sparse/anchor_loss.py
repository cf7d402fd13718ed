"""Ultralytics' loss without the anchors of which nobody knows whether they are background.

Owns that exception alone; assignment, box losses, gains and normalisation stay ultralytics'.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss


class AnchorLoss:
    """Ultralytics' criterion, told which anchors may count as background.

    An anchor that a target is assigned to counts whatever is said of it; any other counts
    only where it may, and otherwise has exactly no class loss and no class gradient.

    Args:
        model: the network that is trained, with the trainer's settings in ``args``.
    """

    def __init__(self, model: DetectionModel) -> None:
        criterion: Any = v8DetectionLoss(model)
        # The one place where ultralytics sees logits and targets of every anchor.
        criterion.bce = self._class_loss
        self._criterion = criterion
        self._background: Tensor | None = None

    def __call__(
        self, preds: Any, batch: dict[str, Any], background: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As ultralytics' criterion.

        Args:
            preds: the network's training outputs.
            batch: with the targets.
            background: bool ``(B, N)``, anchors that may count as background.
        """
        self._background = background
        try:
            losses: tuple[Tensor, dict[str, Tensor]] = self._criterion(preds, batch)
        finally:
            self._background = None
        return losses

    def _class_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        assert self._background is not None
        counts = self._background | (targets > 0).any(-1)
        return torch.where(counts[..., None], loss, torch.zeros_like(loss))
