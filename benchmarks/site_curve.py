"""How many labelled fields a site needs, with and without replay of the source.

Owns the experiment's runs, its document and its picture. Does not own the trainings (see
``train.site``) nor running many of them (see ``training_grid``).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.training_grid import GridRun, over_seeds, read_figures
from train.method_recipe import load_sparse_recipe

BASE = "site-base"
SITE = "wbc-domains/lcm_raabin"
SOURCES = ("wbc-domains/hcm_pbc", "wbc-domains/bccd")
# Without a limit: the curve shows what is lost, the verdict of each run says whether a real
# one would have failed.
_KINDS = {"replay": True, "no-replay": False}


@dataclass(frozen=True, slots=True)
class SitePlan:
    """Which runs the experiment has.

    Attributes:
        fields: numbers of labelled fields.
        seeds: of draws and trainings.
        epochs: of an adaptation.
        data_root: of the data.
    """

    fields: Sequence[int]
    seeds: Sequence[int]
    epochs: int
    data_root: str

    def runs(self, work: Path) -> list[GridRun]:
        """The base detector of every seed, then the adaptations of it."""
        found = []
        for seed in self.seeds:
            recipe = load_sparse_recipe(BASE, Path(self.data_root))
            recipe = recipe.model_copy(update={"seed": seed})
            base = base_name(seed)
            arguments = {"recipe": recipe.model_dump(mode="json"), "method": "full"}
            found.append(GridRun(base, "sparse", arguments))
            start = str(work / base / "phase2" / "weights" / "last.pt")
            for count in self.fields:
                for kind, replayed in _KINDS.items():
                    settings = self._settings(start, count, seed, replayed)
                    name = run_name(seed, count, kind)
                    found.append(GridRun(name, "site", {"settings": settings}, after=base))
        return sorted(found, key=lambda run: run.after is not None)

    def _settings(self, start: str, count: int, seed: int, replayed: bool) -> dict[str, Any]:
        return {
            "fields": f"{self.data_root}/{SITE}",
            "most_fields": count,
            "replay": [f"{self.data_root}/{each}" for each in SOURCES],
            "mix_replay": replayed,
            "start_from": start,
            "check_split": "test",
            "epochs": self.epochs,
            "batch": 8,
            "size": 128,
            "seed": seed,
        }


def base_name(seed: int) -> str:
    """Folder of the base detector of a seed."""
    return f"seed{seed}/base"


def run_name(seed: int, count: int, kind: str) -> str:
    """Folder of an adaptation."""
    return f"seed{seed}/{count:03d}-{kind}"


def summarise(plan: SitePlan, work: Path) -> dict[str, Any]:
    """Means over seeds at every number of fields, 0 being the detector as it came.

    ``target``: AP50-95 and AP50 on the site's own test fields. ``source``: the mean over the
    source sets of their test fields. ``would_fail``: share of runs in which a source set lost
    more than the limit.
    """
    rows: list[dict[str, Any]] = []
    for kind in _KINDS:
        for count in plan.fields:
            runs = [read_figures(work, run_name(seed, count, kind)) for seed in plan.seeds]
            known = [run for run in runs if run is not None]
            if not known:
                continue
            if not any(row["fields"] == 0 for row in rows):
                rows.append({"fields": 0, "kind": "as it came", **_figures(runs, "before")})
            rows.append(
                {
                    "fields": count,
                    "kind": kind,
                    **_figures(runs, "after"),
                    "would_fail": sum(not run["passed"] for run in known) / len(known),
                    "minutes": over_seeds(
                        [None if run is None else run["minutes"] for run in runs]
                    ),
                }
            )
    limit = {
        run["settings"]["limit_drop"]
        for seed in plan.seeds
        for count in plan.fields
        for kind in _KINDS
        if (run := read_figures(work, run_name(seed, count, kind))) is not None
    }
    return {
        "site": SITE,
        "sources": list(SOURCES),
        "seeds": list(plan.seeds),
        "epochs": plan.epochs,
        "limit_drop": max(limit, default=None),
        "rows": rows,
    }


def _figures(runs: Sequence[dict[str, Any] | None], when: str) -> dict[str, Any]:
    return {
        f"{side}_{name}": over_seeds(
            [None if run is None else _figure(run, side, when, name) for run in runs]
        )
        for side in ("target", "source")
        for name in ("ap", "ap50")
    }


def _figure(run: dict[str, Any], side: str, when: str, name: str) -> float:
    if side == "target":
        value: float = run["site_test"][when][name]
        return value
    return statistics.fmean(each[when][name] for each in run["source"].values())


def draw_curve(result: dict[str, Any], file: Path) -> None:
    """The learning curve as a picture: site and source against the number of fields."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharex=True, constrained_layout=True)
    start = next(row for row in result["rows"] if row["fields"] == 0)
    for axis, side, title in (
        (axes[0], "target", "site: lcm_raabin, test fields"),
        (axes[1], "source", "source: hcm_pbc and bccd, test fields"),
    ):
        for kind, colour, label in (
            ("replay", "#1f6f8b", "with replay"),
            ("no-replay", "#c8553d", "without replay"),
        ):
            rows = [row for row in result["rows"] if row["kind"] == kind]
            if not rows:
                continue
            series = [start, *rows]
            axis.errorbar(
                [row["fields"] for row in series],
                [row[f"{side}_ap"]["mean"] for row in series],
                yerr=[row[f"{side}_ap"]["deviation"] or 0 for row in series],
                marker="o",
                capsize=3,
                color=colour,
                label=label,
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("labelled fields of the site")
        axis.set_ylabel("AP50-95")
        axis.grid(alpha=0.3)
    axes[1].axhline(
        start["source_ap"]["mean"] - (result["limit_drop"] or 0) / 100,
        color="#888888",
        linestyle="--",
        linewidth=1,
        label="allowed loss",
    )
    axes[1].legend(fontsize=8)
    figure.suptitle(
        "Adapting to a site. For research use only. Not for use in diagnostic procedures.",
        fontsize=9,
    )
    figure.savefig(file, dpi=130)
    plt.close(figure)
