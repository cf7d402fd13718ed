"""One training of a comparison in a process of its own: train, export, evaluate.

Owns the chain for a single fold; called by ``benchmarks.folds`` with a JSON argument.
The operating point is chosen on validation fields of the domains the fold has seen.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from edge_runtime.bundle import open_bundle
from export.bundle_writer import write_float_bundle
from export.float_onnx import float_onnx
from train.evaluate import evaluate_bundle, evaluation_sets, write_results
from train.recipe import load_recipe
from train.trainer import train_detector


def run_fold(arguments: dict[str, Any]) -> None:
    """Trains the fold ``arguments`` describe and writes ``evaluation.json`` into its folder."""
    started = time.monotonic()
    recipe = load_recipe(arguments["recipe"])
    recipe = recipe.model_copy(update={"activation": arguments["activation"]})
    if arguments["data"] is not None:
        recipe = recipe.model_copy(update={"data_root": arguments["data"]})
    fold = recipe if arguments["leave_out"] is None else recipe.without(arguments["leave_out"])
    work = Path(arguments["work"])
    best = work / "run" / "weights" / "best.pt"
    if not (work / "training.json").is_file():
        best = train_detector(fold, work)
    onnx = float_onnx(best, work / "float.onnx", recipe.compose.size)
    bundle = write_float_bundle(onnx, work / "bundle", image_size=recipe.compose.size)
    results = evaluate_bundle(open_bundle(bundle), evaluation_sets(recipe))
    results["minutes"] = round((time.monotonic() - started) / 60, 1)
    write_results(results, work / "evaluation.json")


if __name__ == "__main__":
    run_fold(json.loads(sys.argv[1]))
