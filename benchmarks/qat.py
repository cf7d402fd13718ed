"""Int8 after training against int8 while training, for networks of two sizes.

Owns the experiment's runs, what is measured of each, and its document. Does not own the
trainings (see ``train.trainer``), running them (see ``training_grid``) nor quantising.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.training_grid import GridRun, over_seeds, read_figures
from train.recipe import Recipe, load_recipe

RECIPE = "wbc-detector-qat"
SIZES = {"n": "yolo11n.yaml", "s": "yolo11s.yaml"}
# Epochs and step of the detector that both begin with; the recipe has those of what follows.
_FLOAT_EPOCHS, _FLOAT_LR0 = 4, 0.002
FLOAT, MORE, ROUNDED = "float", "more", "rounded"
# What stands in figures for a graph without rounding and for scales out of training.
UNROUNDED, TRAINED = "float32", "trained"


@dataclass(frozen=True, slots=True)
class QatPlan:
    """Which runs the experiment has.

    Attributes:
        sizes: of ``SIZES``.
        seeds: of data order and weights.
        data_root: of the data.
    """

    sizes: Sequence[str]
    seeds: Sequence[int]
    data_root: str

    def runs(self, work: Path) -> list[GridRun]:
        """Per size and seed a detector, then the same on for some epochs, with and without.

        Without the run that goes on in float, the extra epochs would be counted as a gain of
        rounding.
        """
        found = []
        for size in self.sizes:
            for seed in self.seeds:
                first = run_name(size, seed, FLOAT)
                best = work / first / "run" / "run" / "weights" / "last.pt"
                for name in (FLOAT, MORE, ROUNDED):
                    arguments: dict[str, Any] = {
                        "method": "detect",
                        "recipe": self.recipe(size, seed, name).model_dump(mode="json"),
                    }
                    if name != FLOAT:
                        arguments["start_from"] = str(best)
                    after = None if name == FLOAT else first
                    found.append(GridRun(run_name(size, seed, name), "detect", arguments, after))
        return sorted(found, key=lambda run: run.after is not None)

    def recipe(self, size: str, seed: int, name: str) -> Recipe:
        """The recipe of one run."""
        recipe = load_recipe(RECIPE, self.data_root)
        changes: dict[str, Any] = {"qat": name == ROUNDED}
        if name == FLOAT:
            changes |= {"epochs": _FLOAT_EPOCHS, "lr0": _FLOAT_LR0}
        return recipe.model_copy(
            update={
                "model": SIZES[size],
                "seed": seed,
                "train": recipe.train.model_copy(update=changes),
            }
        )


def run_name(size: str, seed: int, name: str) -> str:
    """Folder of a run below the experiment's."""
    return f"{size}/seed{seed}/{name}"


def judge_rounding(folder: Path, data_root: Path) -> dict[str, Any]:
    """AP of a finished run on test fields: in float, and as TensorRT-style int8.

    Args:
        folder: of ``train_detector``.
        data_root: of its data.

    Returns:
        ``ap``: per kind of graph (float32, every method of finding ranges, or ``trained``) the
        AP50-95 per domain.

    Raises:
        DataError: the run or its data is damaged.
    """
    import tempfile

    from calibration.accuracy import evaluate_detections
    from calibration.ranges import METHODS, calibration_tensors, measure_ranges
    from calibration.sampling import draw_calibration_set, hash_files
    from export.assembly import TENSORRT
    from export.bundle_writer import detector_spec
    from export.evaluation import find_in_domains
    from export.float_onnx import float_onnx, trained_quantisation
    from export.qdq import quantise_for_tensorrt, tensors_to_measure
    from export.training_run import open_training_run

    run = open_training_run(folder, data_root=data_root)
    size = run.image_size
    spec = detector_spec(architecture=run.architecture, image_size=size, artifacts=[TENSORRT])
    with tempfile.TemporaryDirectory(prefix="leukoscope-qat-") as scratch:
        model = float_onnx(run.checkpoint, Path(scratch) / "float.onnx", size).read_bytes()
    trained = trained_quantisation(run.checkpoint, model, size)
    fields = run.test_fields()
    drawn = draw_calibration_set(
        run.pools(),
        spec.input,
        evaluation_hashes=hash_files([each.image for group in fields.values() for each in group]),
    )
    folders = {pool.domain: pool.folder for pool in run.pools()}
    wanted = tensors_to_measure(model)
    graphs = {UNROUNDED: model}
    for method in METHODS[:1] if trained is not None else METHODS:
        ranges = measure_ranges(
            model,
            wanted,
            lambda: calibration_tensors(drawn, folders, spec.input),
            method=method,
        )
        name = method if trained is None else TRAINED
        graphs[name] = quantise_for_tensorrt(model, ranges, trained)
    return {
        "ap": {
            name: {
                domain: evaluate_detections(truth, found, score=0.5).ap
                for domain, (truth, found) in find_in_domains(spec, graph, fields).items()
            }
            for name, graph in graphs.items()
        },
        "calibration_images": len(drawn.images),
    }


def summarise(plan: QatPlan, work: Path) -> dict[str, Any]:
    """Per size the mean AP over domains of float and int8, and the points int8 costs.

    Points are counted from the detector that went on in float for as long.
    """
    rows = {}
    for size in plan.sizes:
        more = [_means(read_figures(work, run_name(size, seed, MORE))) for seed in plan.seeds]
        rounded = [_means(read_figures(work, run_name(size, seed, ROUNDED))) for seed in plan.seeds]
        pairs = [(a, b) for a, b in zip(more, rounded, strict=True) if a and b]
        if not pairs:
            continue
        after = [name for name in pairs[0][0] if name != UNROUNDED]
        rows[size] = {
            "seeds": len(pairs),
            "float_ap": over_seeds([a[UNROUNDED] for a, _ in pairs]),
            "lost_after_training": {
                name: over_seeds([100 * (a[UNROUNDED] - a[name]) for a, _ in pairs])
                for name in after
            },
            "rounded_float_ap": over_seeds([b[UNROUNDED] for _, b in pairs]),
            "lost_while_training": over_seeds(
                [100 * (a[UNROUNDED] - b[TRAINED]) for a, b in pairs]
            ),
        }
    return {"seeds": list(plan.seeds), "rows": rows}


def _means(figures: Mapping[str, Any] | None) -> dict[str, float]:
    """Per kind of graph the mean over domains; nothing where the run is not there."""
    if figures is None:
        return {}
    return {name: statistics.fmean(each.values()) for name, each in figures["ap"].items()}
