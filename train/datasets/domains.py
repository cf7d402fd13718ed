"""The labelled fields of a recipe's domains.

Owns turning a domain's entry into its fields. Does not own parsing (see
``calibration.fields``) nor what is made of them.
"""

from __future__ import annotations

from pathlib import Path

from calibration.fields import LabelledField, load_fields
from train.recipe import Domain, Recipe


def domain_fields(recipe: Recipe, domain: Domain, split: str) -> list[LabelledField]:
    """All fields of one domain's split, with the boxes of its white cells.

    Raises:
        DataError: the folder is missing or a label row is bad.
    """
    return load_fields(
        Path(recipe.data_root) / domain.path,
        split,
        domain=domain.name,
        keep_classes=domain.white_cell_classes,
        class_count=domain.class_count,
    )
