"""A running average of weights that follows a young network faster than an old one.

Owns the average's pace. Does not own training loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def moving_average(model: nn.Module, decay: float, *, buffers: bool = False) -> AveragedModel:
    """An exponential moving average of a model.

    After ``n`` steps the share kept of the old average is the lower of ``decay`` and
    ``(1 + n) / (10 + n)``; without that the first, random weights would weigh on short runs.

    Args:
        model: what is averaged.
        decay: share kept per step once the run is long.
        buffers: average running statistics as well.
    """

    def update(averaged: Sequence[Any], current: Sequence[Any], steps: Any) -> None:
        share = min(decay, (1 + float(steps)) / (10 + float(steps)))
        get_ema_multi_avg_fn(share)(averaged, current, steps)

    # torch's own signature asks for a tuple and a list in places that take either.
    pace: Any = update
    return AveragedModel(model, multi_avg_fn=pace, use_buffers=buffers)
