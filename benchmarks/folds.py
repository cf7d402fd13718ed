"""Comparisons that need several trainings: leave one domain out, ReLU against SiLU.

Owns which runs a comparison needs, running those that are not done yet, and the table.
Every run keeps its own folder with checkpoint and evaluation, so an interrupted
comparison goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from benchmarks.training_grid import run_module
from edge_runtime.errors import DataError
from train.recipe import Recipe, load_recipe

_METRICS = ("ap", "ap50", "ar", "recall", "precision")


@dataclass(frozen=True, slots=True)
class Fold:
    """One training of a comparison."""

    name: str
    leave_out: str | None
    activation: Literal["relu", "silu"]

    def applied_to(self, recipe: Recipe) -> Recipe:
        """The recipe of this very training."""
        recipe = recipe.model_copy(update={"activation": self.activation})
        return recipe if self.leave_out is None else recipe.without(self.leave_out)


def folds_of(recipe: Recipe) -> list[Fold]:
    """The full mix with either activation, then one fold per source of data left out."""
    names = [domain.name for domain in recipe.domains]
    names += [source.name for source in recipe.cell_sources if source.as_fields_of is None]
    return [
        Fold("relu", None, "relu"),
        Fold("silu", None, "silu"),
        *(Fold(f"without-{name}", name, "relu") for name in [*names, "virtual"]),
    ]


def run_folds(
    recipe_name: str,
    data: Path | None,
    work: Path,
    *,
    only: list[str],
    jobs: int,
    report: Callable[[str], None],
) -> None:
    """Trains and evaluates every fold that has no evaluation yet.

    Args:
        recipe_name: recipe file or shipped recipe.
        data: data root, or None for the recipe's.
        work: one folder per fold goes here.
        only: names of folds; empty means all.
        jobs: folds at once; the processor's cores are shared among them.
        report: called with one line per event.

    Raises:
        DataError: an unknown fold, or a fold failed.
    """
    recipe = load_recipe(recipe_name, data)
    folds = {fold.name: fold for fold in folds_of(recipe)}
    unknown = [name for name in only if name not in folds]
    if unknown:
        raise DataError(f"fold {unknown[0]!r}: not one of {', '.join(folds)}")
    wanted = [folds[name] for name in (only or list(folds))]
    waiting = [fold for fold in wanted if not _finished(recipe, fold, work)]
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def one(fold: Fold) -> None:
        report(f"{fold.name}: training")
        (work / fold.name).mkdir(parents=True, exist_ok=True)
        arguments = {
            "recipe": recipe_name,
            "data": None if data is None else str(data),
            "work": str(work / fold.name),
            "fold": asdict(fold),
        }
        log = work / fold.name / "log.txt"
        if run_module("benchmarks.one_fold", arguments, log, threads=threads) != 0:
            raise DataError(f"fold {fold.name}: failed; see {log}")
        report(f"{fold.name}: done")

    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(one, waiting):
            pass


def read_record(path: Path) -> dict[str, Any]:
    """A JSON record, empty where there is none.

    Raises:
        DataError: the file is no JSON record.
    """
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a JSON record ({error}); remove it") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: not a JSON record; remove it")
    return record


def _finished(recipe: Recipe, fold: Fold, work: Path) -> dict[str, Any] | None:
    """The fold's evaluation, None when there is none of this very recipe."""
    document = read_record(work / fold.name / "evaluation.json")
    wanted = fold.applied_to(recipe).model_dump(mode="json")
    return document if document.get("recipe") == wanted else None


def gather(recipe_name: str, data: Path | None, work: Path) -> dict[str, Any]:
    """One document of all finished folds: for every set, the metrics of every fold.

    Raises:
        DataError: no fold is finished.
    """
    recipe = load_recipe(recipe_name, data)
    finished: dict[str, Any] = {}
    for fold in folds_of(recipe):
        document = _finished(recipe, fold, work)
        if document is not None:
            finished[fold.name] = document
    if not finished:
        raise DataError(f"{work}: no finished fold; run the comparison first")
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"data_root"}),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": date.today().isoformat(),
        "artifact": "float32 through ONNX Runtime and the device's own path",
        "folds": {
            name: {
                "minutes_of_training": document["minutes_of_training"],
                "operating_score": document["operating_score"],
                "sets": {
                    each: {key: round(row[key], 4) for key in _METRICS}
                    | {"cells": row["cells"], "false_cells": row["false_cells"]}
                    for each, row in document["sets"].items()
                },
            }
            for name, document in finished.items()
        },
    }
