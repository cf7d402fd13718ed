"""Fields labelled in one patch: the baselines, SLA-Det step by step, and every label.

Owns the experiment's runs and its document. Does not own the trainings (see ``train``) nor
running many of them (see ``training_grid``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.training_grid import GridRun, over_seeds, read_figures
from train.method_recipe import SparseRecipe, load_sparse_recipe

RECIPE = "sparse-wbc-domains"
# What all rows begin with, and its run's folder: one for all seeds, as published weights are.
START = "sparse-start"
START_RUN = "start"
_LR = {"pseudo_labels": False, "similarity": False}
_PL = {"similarity": False}
# Rows of the table: the method, and options that differ from its defaults.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "naive": ("naive", {}),
    "masked": ("masked", {}),
    "crops+windows": ("crops", {}),
    "co-mining": ("co-mining", {}),
    "sparsedet": ("sparsedet", {}),
    "sla-det-lr": ("sla-det", _LR),
    "sla-det-lr-pl": ("sla-det", _PL),
    "sla-det-lr-pl-tri": ("sla-det", {}),
    "sla-det-calibrated": ("sla-det", {"thresholds": "calibrated"}),
    "full": ("full", {}),
}


@dataclass(frozen=True, slots=True)
class SparsePlan:
    """Which runs the experiment has.

    Attributes:
        rows: of ``ROWS``.
        seeds: of patches and trainings.
        data_root: of the data.
    """

    rows: Sequence[str]
    seeds: Sequence[int]
    data_root: str

    def runs(self, work: Path) -> list[GridRun]:
        """The detector that all rows of all seeds begin with, then the rows."""
        start = {"recipe": self.start().model_dump(mode="json"), "method": "full"}
        found = [GridRun(START_RUN, "sparse", start)]
        for seed in self.seeds:
            begun = self.recipe(seed).model_copy(
                update={"start_from": str(work / START_RUN / "phase2" / "weights" / "last.pt")}
            )
            found += [
                GridRun(run_name(seed, name), "sparse", _arguments(begun, name), after=START_RUN)
                for name in self.rows
            ]
        return found

    def recipe(self, seed: int) -> SparseRecipe:
        """The recipe of one seed's rows."""
        recipe = load_sparse_recipe(RECIPE, Path(self.data_root))
        return recipe.model_copy(update={"seed": seed})

    def start(self) -> SparseRecipe:
        """The recipe of what they begin with."""
        return load_sparse_recipe(START, Path(self.data_root))


def run_name(seed: int, name: str) -> str:
    """Folder of a run below the experiment's."""
    return f"seed{seed}/{name}"


def _arguments(recipe: SparseRecipe, name: str) -> dict[str, Any]:
    method, options = ROWS[name]
    own = {**recipe.options, method: {**recipe.options.get(method, {}), **options}}
    changed = recipe.model_copy(update={"options": own})
    return {"recipe": changed.model_dump(mode="json"), "method": method}


def summarise(plan: SparsePlan, work: Path) -> dict[str, Any]:
    """Per row means over seeds, on all test fields and per set, and the share of the ceiling.

    Attributes of a row: ``ap``, ``ap50`` on the test fields of all sets together; ``sets``;
    ``classes``; ``recall_at`` a score, for AP does not see how unsure a detector is;
    ``of_ceiling``, the mean over seeds of AP50 over that of full labels;
    ``above_naive``, of AP50; counts of accepted pseudo-labels per epoch of the first seed.
    """
    names = [name for name in ROWS if name in plan.rows]
    table = {
        name: [read_figures(work, run_name(seed, name)) for seed in plan.seeds] for name in names
    }
    rows = {}
    for name, runs in table.items():
        if not any(runs):
            continue
        known = next(run for run in runs if run is not None)
        sets = list(known["fields"])
        ap50 = [_figure(run, "all", "ap50") for run in runs]
        rows[name] = {
            "ap": over_seeds([_figure(run, "all", "ap") for run in runs]),
            "ap50": over_seeds(ap50),
            "of_ceiling": over_seeds(_ratio(ap50, table.get("full"))),
            "above_naive": over_seeds(_difference(ap50, table.get("naive"))),
            "sets": {
                each: {
                    figure: over_seeds([_figure(run, each, figure) for run in runs])
                    for figure in ("ap", "ap50")
                }
                for each in sets
                if each != "all"
            },
            "classes": {
                row["name"]: {
                    figure: over_seeds([_of_class(run, place, figure) for run in runs])
                    for figure in ("ap", "ap50")
                }
                for place, row in enumerate(known["fields"]["all"]["detection"]["classes"])
            },
            "recall_at": _recalls(runs),
            "counts": known["counts"],
            "options": known["options"],
            "minutes": over_seeds([None if run is None else run["minutes"] for run in runs]),
        }
    return {"seeds": list(plan.seeds), "rows": rows}


_Run = dict[str, Any] | None


def _recalls(runs: list[_Run]) -> dict[str, dict[str, Any]]:
    """Recall over seeds by score from which finds count, and class, on all test fields."""
    known = next(run for run in runs if run is not None)
    found: dict[str, dict[str, Any]] = {}
    for place, row in enumerate(known["fields"]["all"]["counted"]):
        found.setdefault(f"{row['score']:g}", {})[row["name"]] = over_seeds(
            [
                None if run is None else run["fields"]["all"]["counted"][place]["recall"]
                for run in runs
            ]
        )
    return found


def _figure(run: _Run, fields: str, name: str) -> float | None:
    if run is None:
        return None
    value: float = run["fields"][fields]["detection"][name]
    return value


def _of_class(run: _Run, place: int, name: str) -> float | None:
    if run is None:
        return None
    value: float | None = run["fields"]["all"]["detection"]["classes"][place][name]
    return value


def _ratio(values: list[float | None], ceiling: list[_Run] | None) -> list[float | None]:
    tops = [_figure(run, "all", "ap50") for run in ceiling or [None] * len(values)]
    return [
        None if value is None or not top else value / top
        for value, top in zip(values, tops, strict=True)
    ]


def _difference(values: list[float | None], naive: list[_Run] | None) -> list[float | None]:
    others = [_figure(run, "all", "ap50") for run in naive or [None] * len(values)]
    return [
        None if value is None or other is None else value - other
        for value, other in zip(values, others, strict=True)
    ]
