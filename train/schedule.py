"""How a learning rate moves over a training.

Owns the curve. Does not own optimisers: a loop multiplies each group's height by it, so a
resumed training needs the step's number and no state.
"""

from __future__ import annotations

import math


def warm_cosine(step: int, *, total: int, warmup: float, final: float) -> float:
    """Share of the height at a step: a straight rise, then a falling half cosine.

    Args:
        step: from 0.
        total: steps in all.
        warmup: share of them in which the rate rises; at least one.
        final: share of the height that the last step comes near to.
    """
    warm = max(1, round(total * warmup))
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, total - warm)
    return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2
