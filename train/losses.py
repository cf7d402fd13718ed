"""The asymmetric loss on attribute logits.

Owns the loss, and how value indices become one target per logit. Does not own the head that
makes the logits (see ``models.attribute_head``) nor the detector's own loss, which is
ultralytics'. Counts neither on a number of attributes nor on two values each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_runtime.attributes import MISSING

# Below this a probability is taken as this in the logarithm, as the reference loss does.
_LOWEST = 1e-8


def one_hot_targets(values: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One target per logit, and which of them are known.

    An attribute with ``k`` logits is a one-hot group of ``k``. One with a single logit is
    binary: its target is the value itself, 0 or 1.

    Args:
        values: integer ``(n, attributes)``, indices into each attribute's values, or
            ``MISSING``.
        widths: logits per attribute; their sum is the head's number of outputs.

    Returns:
        ``(targets, known)``, float32 and bool, both ``(n, sum(widths))``.

    Raises:
        ValueError: a value that its attribute does not have, or another number of columns.
    """
    if values.ndim != 2 or values.shape[1] != len(widths):
        raise ValueError(
            f"attribute values of shape {tuple(values.shape)} for {len(widths)} attributes; "
            "one column per attribute is wanted"
        )
    last = torch.tensor([max(width, 2) - 1 for width in widths], device=values.device)
    if bool(((values < MISSING) | (values > last)).any()):
        row, column = torch.nonzero((values < MISSING) | (values > last))[0].tolist()
        raise ValueError(
            f"attribute {column} of cell {row} has value {int(values[row, column])}; "
            f"wanted 0 to {int(last[column])}, or {MISSING} where nobody judged it"
        )
    # Per logit: the attribute it belongs to, and the value it stands for.
    group = torch.tensor([a for a, width in enumerate(widths) for _ in range(width)])
    meaning = torch.tensor([v for width in widths for v in (range(width) if width > 1 else (1,))])
    spread = values[:, group.to(values.device)]
    return (spread == meaning.to(values.device)).float(), spread != MISSING


@dataclass(frozen=True, slots=True)
class AsymmetricLoss:
    """Focal-like loss that forgets easy negatives; one sigmoid per logit.

    With ``p`` the probability of a logit and ``q = min(1, 1 - p + margin)``, a logit whose
    target is 1 costs ``-(1 - p)^gamma_positive log p``, one whose target is 0
    ``-(1 - q)^gamma_negative log q``. The two focusing weights carry no gradient. Source:
    Ridnik et al., "Asymmetric Loss For Multi-Label Classification" (ICCV 2021), with the
    margin of AttriDet (0.08; 0.05 there).

    Attributes:
        gamma_negative: how fast negatives that are nearly right stop counting.
        gamma_positive: the same for positives.
        margin: negatives with a probability up to this cost nothing.
    """

    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    margin: float = 0.08

    def __call__(self, logits: Tensor, values: Tensor, widths: Sequence[int]) -> Tensor:
        """The loss, summed over known logits, per cell with any known attribute.

        Args:
            logits: ``(n, sum(widths))``; computed in float32 whatever their type.
            values: integer ``(n, attributes)`` or ``MISSING``.
            widths: logits per attribute.

        Returns:
            A scalar. Without a known attribute it is 0 and still part of the graph, so
            that every process of a multi-GPU run has a gradient for every weight.

        Raises:
            ValueError: shapes or values that do not fit the widths.
        """
        targets, known = one_hot_targets(values, widths)
        if logits.shape != targets.shape:
            raise ValueError(
                f"attribute logits of shape {tuple(logits.shape)}; {tuple(targets.shape)} wanted"
            )
        cells = (values != MISSING).any(dim=1).sum()
        costs = torch.where(known, self._per_logit(logits.float(), targets), 0.0)
        return costs.sum() / cells.clamp(min=1)

    def _per_logit(self, logits: Tensor, targets: Tensor) -> Tensor:
        right = torch.sigmoid(logits)
        # sigmoid(-z), not 1 - sigmoid(z): the difference rounds to 0 for confident logits.
        shifted = (torch.sigmoid(-logits) + self.margin).clamp(max=1.0)
        with torch.no_grad():
            positive_weight = (1.0 - right) ** self.gamma_positive
            negative_weight = (1.0 - shifted) ** self.gamma_negative
        positive = positive_weight * torch.log(right.clamp(min=_LOWEST))
        negative = negative_weight * torch.log(shifted.clamp(min=_LOWEST))
        return -(targets * positive + (1.0 - targets) * negative)
