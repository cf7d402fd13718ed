"""One training of a comparison in a process of its own: train, export, evaluate.

Owns the chain for a single fold; called by ``benchmarks.folds`` with a JSON argument.
The operating point is chosen on validation fields of the domains the fold has seen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.folds import Fold, read_record
from calibration.accuracy import choose_operating_point
from edge_runtime.bundle import Artifact, open_bundle
from export.bundle_writer import DEFAULT_THRESHOLDS, detector_spec, write_float_bundle
from export.evaluation import find_in_domains
from export.float_onnx import float_onnx
from train.datasets.domains import domain_fields
from train.evaluate import evaluate_bundle, evaluation_sets, write_results
from train.recipe import Recipe, load_recipe
from train.trainer import train_detector


def run_fold(arguments: dict[str, Any]) -> None:
    """Trains the fold ``arguments`` describe and writes ``evaluation.json`` into its folder."""
    recipe = load_recipe(arguments["recipe"], arguments["data"])
    fold = Fold(**arguments["fold"]).applied_to(recipe)
    work = Path(arguments["work"])
    best = work / "run" / "weights" / "best.pt"
    if read_record(work / "training.json").get("recipe") != fold.model_dump(mode="json"):
        best = train_detector(fold, work)
    size = recipe.compose.size
    onnx = float_onnx(best, work / "float.onnx", size)
    thresholds = DEFAULT_THRESHOLDS.model_copy(update={"score": _operating_score(fold, onnx)})
    bundle = write_float_bundle(onnx, work / "bundle", image_size=size, thresholds=thresholds)
    results = evaluate_bundle(open_bundle(bundle), evaluation_sets(recipe))
    results["recipe"] = fold.model_dump(mode="json")
    results["minutes_of_training"] = read_record(work / "training.json")["minutes"]
    write_results(results, work / "evaluation.json")


def _operating_score(fold: Recipe, onnx: Path) -> float:
    domains = {
        domain.name: domain_fields(fold, domain, "val")
        for domain in fold.domains
        if domain.name != fold.leave_out
    }
    artifact = Artifact(path=onnx.name, runtime="cpu", precision="float32", quantisation="none")
    spec = detector_spec(
        architecture=fold.model, image_size=fold.compose.size, artifacts=[artifact]
    )
    return choose_operating_point(find_in_domains(spec, onnx.read_bytes(), domains)).score


if __name__ == "__main__":
    run_fold(json.loads(sys.argv[1]))
