"""Bringing a labelled set into a model's class list, by the names of its classes.

Owns which name means which class. Does not own class mappings of published sets, which
``schemas.yaml`` holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_runtime.errors import DataError, SettingsError
from train.datasets.labelled import LabelledSet
from train.datasets.schemas import ClassMapping

# What becomes of cells whose class the model does not have.
Others = Literal["refuse", "background"]


@dataclass(frozen=True, slots=True)
class NameRules:
    """How names of classes become a model's.

    Attributes:
        classes: the model's, in its order.
        renames: name in the set to the model's name.
        others: ``refuse`` other classes, or take their cells as ``background``.
    """

    classes: tuple[str, ...]
    renames: Mapping[str, str]
    others: Others = "refuse"

    def target(self, name: str) -> str | None:
        """The model's name for a class, None where there is none."""
        renamed = {folded(old): new for old, new in self.renames.items()}
        wanted = folded(renamed.get(folded(name), name))
        return next((each for each in self.classes if folded(each) == wanted), None)

    def check(self, *sets: LabelledSet) -> None:
        """Refuses renames that can mean nothing.

        Raises:
            SettingsError: to a class that the model lacks, or of one that no set has.
        """
        have = {folded(name) for each in sets for name in each.classes}
        for old, new in self.renames.items():
            if all(folded(each) != folded(new) for each in self.classes):
                raise SettingsError(
                    f"--map {old}={new}: the model has no class {new!r}; it has "
                    f"{', '.join(self.classes)}"
                )
            if folded(old) not in have:
                shown = ", ".join(sorted({name for each in sets for name in each.classes}))
                raise SettingsError(f"--map {old}={new}: no set has a class {old!r}, only {shown}")


def folded(name: str) -> str:
    """A class name without what spellings differ in: case, blanks, dashes."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def with_model_classes(found: LabelledSet, rules: NameRules) -> tuple[LabelledSet, dict[str, int]]:
    """The set in the model's classes, and the cells of other classes that went away.

    Returns:
        The set, and cells per name of each class taken as background.

    Raises:
        DataError: cells of a class that the model lacks, where ``others`` refuses them.
    """
    counts = np.zeros(len(found.classes), np.int64)
    for each in found.images:
        counts += np.bincount(each.class_ids, minlength=len(found.classes))
    targets = {name: rules.target(name) for name in found.classes}
    strange = {
        name: int(count)
        for name, count in zip(found.classes, counts, strict=True)
        if count and targets[name] is None
    }
    if strange and rules.others == "refuse":
        shown = ", ".join(f"{name!r} ({count} cells)" for name, count in strange.items())
        raise DataError(
            f"{found.root}: the model has no class {shown}; it has {', '.join(rules.classes)}. "
            f"Say --map {next(iter(strange))!r}={rules.classes[0]!r} for each that means one of "
            "them, and --others background if the rest is to be left unfound"
        )
    mapped = found.mapped(ClassMapping(classes=rules.classes, of=targets))
    return mapped, strange
