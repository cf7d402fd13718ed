"""What a bundle's heads are worth on labelled cells, and what they cost.

Owns the comparison of cells found by the device's own path with labelled ones, of the
classifier on labelled boxes with the same on found boxes, and the stages' times. Does not
own the figures' definitions (see ``calibration``) nor the stages (see ``edge_runtime``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from calibration.attribute_metrics import (
    AttributeMetrics,
    FoundCells,
    LabelledCells,
    evaluate_on_finds,
    evaluate_on_labelled_boxes,
    one_to_one,
)
from calibration.class_metrics import evaluate_classes, expected_calibration_error
from calibration.labelled_cells import CellPicture
from edge_runtime.attributes import MISSING
from edge_runtime.bundle import Bundle
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.examiner import Examination, Examiner
from edge_runtime.film_run import LoadedBundle, load_bundle
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.settings import Settings
from edge_runtime.types import Float32Array, Frame, Int64Array, UInt8Image

_STAGES = ("detect", "attributes", "classify")


def labelled_pictures(
    recipe: str, split: str, data: Path | None
) -> tuple[tuple[CellPicture, ...], Path, tuple[str, ...]]:
    """One split of the sets that a classifier's recipe names, with attributes.

    Returns:
        Pictures, what their files are relative to, and the class list.

    Raises:
        SettingsError: no such recipe or split.
        DataError: the data is missing or bad.
    """
    from train.classify import load_classify_recipe
    from train.datasets.cell_sources import read_sources

    if split not in ("train", "val", "test"):
        raise SettingsError(f"split {split!r}: choose train, val or test")
    chosen = load_classify_recipe(recipe, data)
    root = Path(chosen.data_root)
    cells = read_sources(
        chosen.sources, root, chosen.classes, name=chosen.name, with_attributes=True
    )
    pictures = tuple(picture for picture in cells.pictures if picture.split == split)
    return pictures, root, cells.classes


def measure_heads(
    bundle: Bundle,
    pictures: Sequence[CellPicture],
    root: Path,
    classes: tuple[str, ...],
    *,
    backend: str = "auto",
    threads: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Figures per domain of the labelled pictures, and the stages' times.

    A labelled cell that was not found counts as named wrong and as not described.

    Args:
        bundle: with a classifier, an attribute head or both.
        pictures: labelled with this class list and the head's attributes.
        root: what the pictures' files are relative to.
        classes: the labels' class list.
        backend: as in the settings.
        threads: as in the settings; 0 is one per core.
        progress: told of each domain.

    Raises:
        DataError: no picture, or the bundle has neither head.
        BackendError: the backend is not available here.
    """
    if not pictures:
        raise DataError("heads: no labelled picture to measure on")
    settings = Settings(backend=backend, threads=threads)
    domains = sorted({picture.domain for picture in pictures})
    with load_bundle(bundle, settings) as loaded:
        if loaded.classifier is None and loaded.attribute_head is None:
            raise DataError(f"bundle {bundle.id}: it has no head to measure")
        results = {}
        for domain in domains:
            chosen = [picture for picture in pictures if picture.domain == domain]
            results[domain] = _domain(loaded, chosen, root, classes)
            progress(f"measured: {domain}")
        return {
            "bundle": bundle.id,
            "bundle_sha256": bundle.sha256,
            "backend": loaded.record.model_dump(mode="json"),
            "heads": {
                name: record.model_dump(mode="json") for name, record in loaded.head_records.items()
            },
            "sets": results,
        }


def _domain(
    loaded: LoadedBundle, pictures: Sequence[CellPicture], root: Path, classes: tuple[str, ...]
) -> dict[str, Any]:
    examiner = Examiner(
        loaded.detector, attribute_head=loaded.attribute_head, classifier=loaded.classifier
    )
    rows = _Rows(classes)
    seconds: list[dict[str, float]] = []
    for number, picture in enumerate(pictures):
        pixels = picture.read(root)
        frame = Frame(number, 0, pixels, picture.file)
        if number == 0:
            # The first call sets up threads and buffers.
            examiner.examine(frame)
        examined = examiner.examine(frame)
        if len(examined.detections) == 1 and examined.windows == 1:
            seconds.append(examined.seconds)
        boxes = picture.boxes_xyxy(frame.width, frame.height)
        rows.take(loaded, picture, boxes, examined, pixels)
    result: dict[str, Any] = {"pictures": len(pictures), "cells": len(rows.truth)}
    if loaded.classifier is not None:
        result["classes"] = rows.class_figures(loaded.classifier.spec.classes)
    if loaded.attribute_head is not None and rows.labelled:
        result["attributes"] = rows.attribute_figures(loaded)
    result["stages"] = _costs(seconds)
    return result


class _Rows:
    """What was labelled and what was said, cell by cell."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self.truth: list[str] = []
        self._on_labels: list[str] = []
        self._on_finds: list[str] = []
        self._named: list[str] = []
        self._sure: list[float] = []
        self.labelled: list[LabelledCells] = []
        self._found: list[FoundCells] = []
        self._oracle: list[Int64Array] = []

    def take(
        self,
        loaded: LoadedBundle,
        picture: CellPicture,
        boxes: Float32Array,
        examined: Examination,
        pixels: UInt8Image,
    ) -> None:
        """Notes the cells of one picture."""
        self.truth += [self._classes[index] for index in picture.class_ids]
        if loaded.classifier is not None and examined.classes is not None:
            names = loaded.classifier.spec.classes
            own = loaded.classifier.classify(pixels, boxes)
            self._on_labels += [names[index] for index in own.class_ids]
            self._sure += own.probabilities.max(axis=1).tolist()
            for find in _own_finds(boxes, examined):
                best = "missed" if find < 0 else names[int(examined.classes.class_ids[find])]
                unsure = find >= 0 and bool(examined.classes.unclassified[find])
                self._on_finds.append(best)
                self._named.append("unclassified" if unsure else best)
        head = loaded.attribute_head
        values = examined.detections.attribute_values
        judged = picture.attributes.shape[1] > 0 and bool((picture.attributes != MISSING).any())
        if head is None or values is None or not judged:
            return
        self.labelled.append(LabelledCells(boxes, picture.attributes))
        found = examined.detections
        self._found.append(FoundCells(found.boxes_xyxy, found.scores, values))
        self._oracle.append(_on_labelled_boxes(loaded, pixels, boxes))

    def class_figures(self, names: tuple[str, ...]) -> dict[str, Any]:
        """On labelled crops, on found crops, and as the report names them."""
        labels = (*names, *(each for each in self._classes if each not in names))
        truth = _indices(self.truth, labels)
        figures: dict[str, Any] = {}
        for what, said in (
            ("labelled_crops", self._on_labels),
            ("found_crops", self._on_finds),
            ("as_reported", self._named),
        ):
            answered = _indices(said, labels)
            figures[what] = asdict(evaluate_classes(labels, truth, answered))
        figures["missed"] = self._on_finds.count("missed")
        figures["unclassified"] = self._named.count("unclassified")
        figures["expected_calibration_error"] = expected_calibration_error(
            np.array(self._sure), _indices(self._on_labels, labels) == truth
        )
        pairs = Counter(zip(self.truth, self._on_finds, strict=True))
        figures["confusion"] = {
            "rows": "labelled",
            "columns": [*labels, "missed"],
            "counts": {
                label: [pairs[label, said] for said in (*labels, "missed")] for label in labels
            },
        }
        return figures

    def attribute_figures(self, loaded: LoadedBundle) -> dict[str, Any]:
        """Under the three rules."""
        assert loaded.attribute_head is not None
        schema = loaded.attribute_head.spec.attributes
        truth = np.concatenate([each.values for each in self.labelled])
        metrics: list[AttributeMetrics] = [
            evaluate_on_finds(schema, self.labelled, self._found, rule="nearest"),
            evaluate_on_finds(schema, self.labelled, self._found, rule="one_to_one"),
            evaluate_on_labelled_boxes(schema, truth, np.concatenate(self._oracle)),
        ]
        return {each.rule: asdict(each) for each in metrics}


def _indices(names: Sequence[str], labels: Sequence[str]) -> Int64Array:
    """Indices of names; one past the last for what is no class."""
    return np.array(
        [labels.index(name) if name in labels else len(labels) for name in names], np.int64
    )


def _own_finds(boxes: Float32Array, examined: Examination) -> list[int]:
    """For every labelled box the row of its own find, or -1."""
    found = examined.detections
    empty = np.zeros((len(found), 0), np.int64)
    own = one_to_one(boxes, FoundCells(found.boxes_xyxy, found.scores, empty))
    return [int(row) for row in own]


def _on_labelled_boxes(loaded: LoadedBundle, pixels: UInt8Image, boxes: Float32Array) -> Int64Array:
    """The attributes of labelled boxes, in the whole view."""
    assert loaded.attribute_head is not None
    spec = loaded.bundle.manifest.detector.input
    window = fit_window(pixels.shape[1], pixels.shape[0], spec)
    maps = loaded.backend.infer({spec.name: tensor_of(pixels, window, spec)})
    scale = np.array([window.scale_x, window.scale_y] * 2, np.float32)
    pad = np.array([window.pad_x, window.pad_y] * 2, np.float32)
    values, _ = loaded.attribute_head.judge(maps, (boxes * scale + pad).astype(np.float32))
    return values


def _costs(seconds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Median times on fields with one cell in one window, and the heads' share."""
    if not seconds:
        return {"fields_with_one_cell": 0}
    medians = {
        stage: round(float(np.median([each[stage] for each in seconds])) * 1000, 3)
        for stage in _STAGES
        if stage in seconds[0]
    }
    heads = np.array([sum(each.values()) - each["detect"] for each in seconds])
    detect = np.array([each["detect"] for each in seconds])
    return {
        "fields_with_one_cell": len(seconds),
        "median_ms": medians,
        "heads_per_detector": round(float(np.median(heads / detect)), 3),
    }
