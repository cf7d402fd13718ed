"""What int8 costs on fields and cells that nothing was chosen on: the test splits.

Owns the comparison of a bundle's artifacts with the float models of its checkpoints. Does not
own the figures (see ``calibration``), running models over fields and cells (see ``export``)
nor the gate, which judges validation splits before a bundle is written.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.accuracy import evaluate_detections
from calibration.labelled_cells import OpenedCells
from edge_runtime.bundle import Bundle, HeadName
from edge_runtime.errors import BundleError, DataError
from export.assembly import runs_here
from export.evaluation import find_in_domains, views_to_tell
from export.float_onnx import float_attribute_head, float_classifier, float_onnx
from export.graph import convolution_work, load_graph
from export.head_evaluation import (
    HeadOnDetector,
    cell_views_to_tell,
    classify_cells,
    judge_cells,
)
from export.parity import ALLOWED_HEAD_POINTS, ALLOWED_POINTS
from export.training_run import TrainingRun, open_training_run

FLOAT = "float32"
# Figure per domain, of a model.
_Figures = dict[str, float]
_Measure = Callable[[str, bytes], _Figures]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What the bundle was made of; a checkpoint is a pickle: own ones only."""

    detector: Path
    classifier: Path
    attribute_head: Path


def measure_parity(
    bundle: Bundle,
    checkpoints: Checkpoints,
    run: TrainingRun,
    cells: OpenedCells,
    *,
    threads: int,
    say: Say,
) -> dict[str, Any]:
    """Every artifact on every backend that runs here, against float on ONNX Runtime.

    Args:
        bundle: with all three heads.
        checkpoints: of them.
        run: the detector's training run, for its test fields.
        cells: labelled cells, for the other heads.
        threads: fields or pictures at once.
        say: takes a line per model.

    Returns:
        Per head the figure, the points allowed, the number of pictures and views, and rows:
        artifact, backend, share of convolution work in int8, and per domain float, int8 and
        points lost.

    Raises:
        BundleError: the bundle lacks a head.
        DataError: checkpoints or data are missing, or do not fit the bundle.
    """
    manifest = bundle.manifest
    named, judged, spec = manifest.classifier, manifest.attribute_head, manifest.detector
    if named is None or judged is None:
        raise BundleError(f"bundle {bundle.id}: needs a classifier and an attribute head")
    side = spec.input.width
    with tempfile.TemporaryDirectory(prefix="leukoscope-parity-") as scratch:
        head = float_attribute_head(checkpoints.attribute_head, checkpoints.detector, side)
        detector = float_onnx(
            checkpoints.detector, Path(scratch) / "float.onnx", side, feature_layers=head.layers
        ).read_bytes()
    classifier = float_classifier(checkpoints.classifier).model
    fields = run.test_fields()
    views = views_to_tell(fields)
    cell_views = cell_views_to_tell(cells.cells, "test")

    def find(backend: str, model: bytes) -> _Figures:
        found = find_in_domains(spec, model, fields, backend=backend, threads=threads, views=views)
        return {
            name: evaluate_detections(truth, finds, score=0.5).ap
            for name, (truth, finds) in found.items()
        }

    def classify(backend: str, model: bytes) -> _Figures:
        answers = classify_cells(
            named, {"it": model}, cells, "test", backend=backend, threads=threads, views=cell_views
        )
        return {name: each.macro_f1 for name, each in answers.figures(named.classes, "it").items()}

    def describe(backend: str, model: bytes) -> _Figures:
        # As on the device: an int8 head on the int8 maps of its runtime's detector.
        maps = detector
        for artifact in judged.artifacts:
            if bundle.contents[artifact.path] == model:
                maps = bundle.contents[bundle.artifact_for(artifact.runtime).path]
        variants = {"it": HeadOnDetector(model, maps)}
        answers = judge_cells(
            judged,
            spec,
            variants,
            cells,
            "test",
            backend=backend,
            threads=threads,
            views=cell_views,
        )
        figures = answers.figures(judged.attributes, "it")
        return {name: each.mean_macro_f1 or 0.0 for name, each in figures.items()}

    count = sum(len(group) for group in fields.values())
    pictures = len(cells.cells.of_split("test"))
    return {
        "detector": {
            "figure": "AP50-95",
            "judged_on": f"{count} test fields",
            "views": views,
            **_rows(bundle, None, detector, find, ALLOWED_POINTS, say),
        },
        "classifier": {
            "figure": "macro-F1",
            "judged_on": f"cells of {pictures} test pictures",
            "views": cell_views,
            **_rows(bundle, "classifier", classifier, classify, ALLOWED_HEAD_POINTS, say),
        },
        "attribute_head": {
            "figure": "mean macro-F1",
            "judged_on": f"cells of {pictures} test pictures",
            "views": cell_views,
            **_rows(bundle, "attribute_head", head.model, describe, ALLOWED_HEAD_POINTS, say),
        },
    }


def recorded_run(record: Path, data_root: Path) -> TrainingRun:
    """A detector's training run by its record alone: enough for its test fields.

    Args:
        record: ``training.json`` of a run, or a list of those of one run after the other.
        data_root: of its data.

    Raises:
        DataError: the record is missing or damaged.
    """
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        last = found[-1] if isinstance(found, list) else found
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{record}: unreadable ({error}); give --models the folder of checkpoints and records"
        ) from error
    with tempfile.TemporaryDirectory(prefix="leukoscope-parity-") as scratch:
        (Path(scratch) / "training.json").write_text(json.dumps(last), encoding="utf-8")
        return open_training_run(Path(scratch), data_root=data_root)


def _rows(
    bundle: Bundle,
    head: HeadName | None,
    float_model: bytes,
    measure: _Measure,
    allowed: float,
    say: Say,
) -> dict[str, Any]:
    manifest = bundle.manifest
    parts = {
        None: manifest.detector,
        "classifier": manifest.classifier,
        "attribute_head": manifest.attribute_head,
    }
    part = parts[head]
    if part is None:
        raise BundleError(f"bundle {bundle.id}: it has no {head}")
    say(f"{head or 'detector'}, {FLOAT}")
    before = measure("onnxruntime", float_model)
    rows = []
    for artifact in part.artifacts:
        # What TensorRT would run is computed by ONNX Runtime here: the same rounding.
        backends = ["onnxruntime"]
        if artifact.runtime == "cpu" and runs_here("openvino"):
            backends.append("openvino")
        model = bundle.contents[artifact.path]
        share = convolution_work(load_graph(model)).share
        for backend in backends:
            say(f"{artifact.path} on {backend}")
            lost = _lost(before, measure(backend, model))
            rows.append(
                {
                    "artifact": artifact.path,
                    "backend": backend,
                    "quantised_share": round(share, 4),
                    "domains": lost,
                    "within": all(each["lost_points"] <= allowed for each in lost.values()),
                }
            )
    return {"allowed_points": allowed, "rows": rows}


def _lost(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    if set(before) != set(after):
        raise DataError(f"parity: float on {sorted(before)}, int8 on {sorted(after)}")
    return {
        name: {
            "float": round(before[name], 5),
            "int8": round(after[name], 5),
            "lost_points": round(100 * (before[name] - after[name]), 3),
        }
        for name in before
    }
