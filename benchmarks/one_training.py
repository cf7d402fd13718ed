"""One training of an experiment in a process of its own: train, then measure.

Owns the chain for a single run; called by ``benchmarks.training_grid`` with a JSON argument.
A run that was interrupted is taken up after its last whole epoch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.training_grid import FIGURES
from edge_runtime.errors import LeukoscopeError
from train.judge_method import judge_method
from train.method_recipe import AdaptRecipe, SparseRecipe
from train.method_run import How, train_adapted, train_sparse
from train.run_folder import RECIPE_NAME, RECORD_NAME
from train.step_loss import read_counts


def run_one(arguments: dict[str, Any]) -> None:
    """Does what ``arguments`` describe and writes ``figures.json`` into its folder."""
    out = Path(arguments["out"])
    figures = {"site": _site, "detect": _detect}.get(arguments["kind"], _method)(arguments, out)
    partial = out / f"{FIGURES}.partial"
    partial.write_text(json.dumps(figures, indent=1) + "\n")
    partial.replace(out / FIGURES)


def _method(arguments: dict[str, Any], out: Path) -> dict[str, Any]:
    if not (out / RECORD_NAME).is_file():
        how = How(workers=0, resume=(out / RECIPE_NAME).is_file(), say=print)
        if arguments["kind"] == "adapt":
            source = arguments.get("source_checkpoint")
            train_adapted(
                AdaptRecipe.model_validate(arguments["recipe"]),
                arguments["method"],
                out,
                how,
                source_checkpoint=None if source is None else Path(source),
            )
        else:
            recipe = SparseRecipe.model_validate(arguments["recipe"])
            train_sparse(recipe, arguments["method"], out, how)
    figures = judge_method(out, "test")
    record = json.loads((out / RECORD_NAME).read_text())
    figures["minutes"] = record["minutes"]
    figures["options"] = record["options"]
    figures["counts"] = {
        phase.name: read_counts(phase / "method") for phase in sorted(out.glob("phase?"))
    }
    return figures


def _site(arguments: dict[str, Any], out: Path) -> dict[str, Any]:
    from train.site.run import SETTINGS_NAME, adapt_to_site
    from train.site.settings import SiteSettings

    settings = SiteSettings.model_validate(arguments["settings"])
    run = out / "run"
    if not (run / RECORD_NAME).is_file():
        adapt_to_site(settings, run, resume=(run / SETTINGS_NAME).is_file(), workers=0, say=print)
    record: dict[str, Any] = json.loads((run / RECORD_NAME).read_text())
    return record


def _detect(arguments: dict[str, Any], out: Path) -> dict[str, Any]:
    from benchmarks.qat import judge_rounding
    from train.recipe import Recipe
    from train.trainer import train_detector

    recipe, run = Recipe.model_validate(arguments["recipe"]), out / "run"
    start = arguments.get("start_from")
    begun = {"method": arguments["method"], "recipe": arguments["recipe"]}
    (out / RECIPE_NAME).write_text(json.dumps(begun) + "\n")
    if not (run / RECORD_NAME).is_file():
        train_detector(
            recipe,
            run,
            start_from=None if start is None else Path(start),
            resume=(run / "run" / "weights" / "last.pt").is_file(),
            workers=0,
        )
    record = json.loads((run / RECORD_NAME).read_text())
    return {**judge_rounding(run, Path(recipe.data_root)), "minutes": record["minutes"]}


if __name__ == "__main__":
    try:
        run_one(json.loads(sys.argv[1]))
    except LeukoscopeError as error:
        sys.exit(str(error))
