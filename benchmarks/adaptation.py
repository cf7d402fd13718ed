"""From one microscope to another: source-only, ConfMix, DACA and the oracle, over seeds.

Owns the experiment's runs and its document. Does not own the trainings (see ``train``) nor
running many of them (see ``training_grid``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.training_grid import GridRun, over_seeds, read_figures
from train import adapt
from train.method_recipe import AdaptRecipe, load_adapt_recipe

DIRECTIONS = {"hcm-lcm": "adapt-hcm-lcm", "lcm-hcm": "adapt-lcm-hcm"}
CLASS_LISTS: dict[str, tuple[str, ...] | None] = {"three": None, "wbc": ("WBC",)}
# Beside the papers' settings: by name, a method and the options that differ.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "daca+stain": ("daca", {"stain_weight": 1.0}),
}
_PLAIN = "source-only"
_ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class AdaptationPlan:
    """Which runs an experiment has.

    Attributes:
        directions: of ``DIRECTIONS``.
        class_lists: of ``CLASS_LISTS``.
        methods: of ``train.adapt.METHODS``; source-only is always among the runs.
        seeds: of trainings.
        data_root: of the data.
        variants: by name, a method and options that change the recipe's.
    """

    directions: Sequence[str]
    class_lists: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    data_root: str
    variants: dict[str, tuple[str, dict[str, Any]]]

    def runs(self, work: Path) -> list[GridRun]:
        """Source-only first: the others begin with its source phase."""
        found: list[GridRun] = []
        for seed in self.seeds:
            for classes in self.class_lists:
                for direction in self.directions:
                    found += self._group(work, direction, classes, seed)
        # All first phases before anything that begins with them.
        return sorted(found, key=lambda run: run.after is not None)

    def _group(self, work: Path, direction: str, classes: str, seed: int) -> list[GridRun]:
        recipe = self.recipe(direction, classes, seed)
        plain = run_name(direction, classes, seed, _PLAIN)
        source = str(work / plain / "phase1" / "weights" / "last.pt")
        base = {"recipe": recipe.model_dump(mode="json")}
        found = [GridRun(plain, "adapt", {**base, "method": _PLAIN})]
        rest: dict[str, tuple[str, dict[str, Any]]] = {
            name: (name, {}) for name in self.methods if name != _PLAIN
        }
        rest |= self.variants
        for name, (method, options) in rest.items():
            changed = recipe.model_copy(
                update={
                    "options": {
                        **recipe.options,
                        method: {**recipe.options.get(method, {}), **options},
                    }
                }
            )
            arguments = {
                "recipe": changed.model_dump(mode="json"),
                "method": method,
                "source_checkpoint": source,
            }
            run = run_name(direction, classes, seed, name)
            found.append(GridRun(run, "adapt", arguments, after=plain))
        return found

    def recipe(self, direction: str, classes: str, seed: int) -> AdaptRecipe:
        """The recipe of one group of runs."""
        recipe = load_adapt_recipe(DIRECTIONS[direction], Path(self.data_root))
        chosen = CLASS_LISTS[classes]
        update: dict[str, Any] = {"seed": seed}
        if chosen is not None:
            for side in ("source", "target"):
                spec = getattr(recipe, side)
                update[side] = spec.model_copy(update={"classes": chosen, "others": "background"})
        return recipe.model_copy(update=update)


def run_name(direction: str, classes: str, seed: int, name: str) -> str:
    """Folder of a run below the experiment's."""
    return f"{direction}/{classes}/seed{seed}/{name}"


def summarise(plan: AdaptationPlan, work: Path) -> list[dict[str, Any]]:
    """One entry per direction and class list: means over seeds and the gap closed.

    The gap is closed per seed, then averaged: (method - source-only) / (oracle - source-only)
    of AP50-95 on the target's test fields.
    """
    names = [row.name for row in adapt.METHODS if row.name in plan.methods or row.name == _PLAIN]
    names += list(plan.variants)
    groups = []
    for direction in plan.directions:
        for classes in plan.class_lists:
            table = {
                name: [
                    read_figures(work, run_name(direction, classes, seed, name))
                    for seed in plan.seeds
                ]
                for name in names
            }
            if not any(any(runs) for runs in table.values()):
                continue
            groups.append(
                {
                    "direction": direction,
                    "classes": classes,
                    "seeds": list(plan.seeds),
                    "methods": {
                        name: _entry(runs, table[_PLAIN], table.get(_ORACLE))
                        for name, runs in table.items()
                        if any(runs)
                    },
                }
            )
    return groups


_Runs = list[dict[str, Any] | None]


def _entry(runs: _Runs, plain: _Runs, oracle: _Runs | None) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for side in ("target", "source"):
        for figure in ("ap", "ap50"):
            entry[f"{side}_{figure}"] = over_seeds([_figure(run, side, figure) for run in runs])
        entry[f"{side}_classes"] = _per_class(runs, side)
    if oracle is not None:
        seeds = list(zip(runs, plain, oracle, strict=True))
        entry["gap_closed"] = over_seeds(
            [_gap(*(_figure(each, "target", "ap") for each in seed)) for seed in seeds]
        )
        for place, row in enumerate(entry["target_classes"].values()):
            row["gap_closed"] = over_seeds(
                [_gap(*(_of_class(each, "target", place) for each in seed)) for seed in seeds]
            )
    entry["minutes"] = over_seeds([None if run is None else run["minutes"] for run in runs])
    return entry


def _per_class(runs: _Runs, side: str) -> dict[str, Any]:
    first = next(run for run in runs if run is not None)
    names = [row["name"] for row in first["fields"][side]["detection"]["classes"]]
    cells = [row["cells"] for row in first["fields"][side]["detection"]["classes"]]
    return {
        name: {
            "cells": cells[place],
            **{
                figure: over_seeds(
                    [
                        None
                        if run is None
                        else run["fields"][side]["detection"]["classes"][place][figure]
                        for run in runs
                    ]
                )
                for figure in ("ap", "ap50")
            },
        }
        for place, name in enumerate(names)
    }


def _of_class(run: dict[str, Any] | None, side: str, place: int) -> float | None:
    if run is None:
        return None
    value: float | None = run["fields"][side]["detection"]["classes"][place]["ap"]
    return value


def _figure(run: dict[str, Any] | None, side: str, name: str) -> float | None:
    if run is None:
        return None
    value: float = run["fields"][side]["detection"][name]
    return value


def _gap(method: float | None, plain: float | None, oracle: float | None) -> float | None:
    if method is None or plain is None or oracle is None or oracle == plain:
        return None
    return (method - plain) / (oracle - plain)
