"""How sure a detector is of a box: spread of the four side distributions, and its schedule.

Owns numbers only. Does not own decoding (see ``pseudo_boxes``).

ConfMix trains four extra outputs per box for this. Detectors here predict each side of a box as
a distribution over bins already, whose standard deviation says the same without another head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of the schedule: slope of the sigmoid as printed.
_SLOPE = 5.0


def side_distances(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Expectation and standard deviation of sides given as distributions over bins.

    Args:
        logits: float ``(..., bins)``, of bins 0, 1, 2 and so on.

    Returns:
        Both float ``(...)``, in bins: a sharp peak has deviation 0, two neighbours sharing
        alike 0.5, sixteen bins alike 4.61, the two extreme ones of sixteen 7.5.
    """
    shares = logits.float().softmax(-1)
    bins = torch.arange(logits.shape[-1], dtype=shares.dtype, device=shares.device)
    mean = (shares * bins).sum(-1)
    # About the mean, not as a difference of two squares, which cancels to less than nothing.
    variance = (shares * (bins - mean.unsqueeze(-1)) ** 2).sum(-1)
    return mean, variance.sqrt()


def box_confidence(deviations: Tensor, reference: float) -> Tensor:
    """Confidence in boxes by the spread of their sides.

    Args:
        deviations: float ``(..., 4)``, bins.
        reference: deviation in bins from which on a side counts as unknown.

    Returns:
        float ``(...)`` in 0..1.
    """
    return 1 - (deviations / reference).clamp(max=1).mean(-1)


def box_share(ratio: float) -> float:
    """How much the boxes' confidence counts when a share of the adaptation is done.

    Args:
        ratio: iterations done over iterations in all, of the adaptation alone.

    Returns:
        0 at the beginning, 0.8483 halfway, 0.9866 at the end.
    """
    return 2 / (1 + math.exp(-_SLOPE * ratio)) - 1


def detection_confidence(scores: Tensor, boxes: Tensor, share: float) -> Tensor:
    """Class score, taken down where the box is unsure; never above the score.

    Args:
        scores: float, best class score.
        boxes: float of the same shape, see ``box_confidence``.
        share: see ``box_share``.
    """
    return scores * ((1 - share) + share * boxes)
