"""Unsupervised domain adaptation: labels of one microscope, pictures of another.

One row per method; a new method is one module and one row.
"""

from __future__ import annotations

from train.step_loss import MethodRow

METHODS: tuple[MethodRow, ...] = (
    MethodRow("source-only", "labels of the source alone"),
    MethodRow("oracle", "labels of the target, for reference", learns_from="target"),
    MethodRow("stain", "source in the target's colours", "train.adapt.stain", wants_target=True),
    MethodRow("confmix", "ConfMix", "train.adapt.confmix", wants_target=True),
    MethodRow("daca", "DACA", "train.adapt.daca", wants_target=True),
)
