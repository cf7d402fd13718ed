"""What a bundle's heads are worth on labelled cells, and what they cost.

Owns the comparison of cells found by the device's own path with labelled ones, of the
classifier on labelled boxes with the same on found boxes, and the stages' times. Does not
own the figures' definitions (see ``calibration``) nor the stages (see ``edge_runtime``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from calibration.attribute_metrics import (
    AttributeMetrics,
    FieldTruth,
    FoundCells,
    evaluate_on_finds,
    evaluate_on_labelled_boxes,
    one_to_one,
)
from calibration.classification_metrics import NO_ANSWER, evaluate_classification
from calibration.labelled_cells import CellPicture, OpenedCells
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
    if split not in ("train", "val", "test"):
        raise SettingsError(f"split {split!r}: choose train, val or test")
    opened = labelled_cells(recipe, data)
    pictures = tuple(picture for picture in opened.cells.pictures if picture.split == split)
    return pictures, opened.root, opened.cells.classes


def labelled_cells(recipe: str, data: Path | None) -> OpenedCells:
    """All splits of the sets that a classifier's recipe names, with attributes.

    Raises:
        SettingsError: no such recipe.
        DataError: the data is missing or bad.
    """
    from train.classify import load_classify_recipe
    from train.datasets.cell_sources import read_sources

    chosen = load_classify_recipe(recipe, data)
    root = Path(chosen.data_root)
    cells = read_sources(
        chosen.sources, root, chosen.classes, name=chosen.name, with_attributes=True
    )
    return OpenedCells(cells, root)


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


class _Said:
    """Answers and how sure they were."""

    def __init__(self) -> None:
        self._answers: list[int] = []
        self._sure: list[float] = []

    def note(self, class_id: int, probabilities: Float32Array | None = None) -> None:
        self._answers.append(class_id)
        self._sure.append(0.0 if probabilities is None else float(probabilities.max()))

    def arrays(self) -> tuple[Int64Array, Float32Array]:
        return np.array(self._answers, np.int64), np.array(self._sure, np.float32)


class _Rows:
    """What was labelled and what was said, cell by cell."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self.truth: list[str] = []
        self._on_labels, self._on_finds, self._named = _Said(), _Said(), _Said()
        self.labelled: list[FieldTruth] = []
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
            own = loaded.classifier.classify(pixels, boxes)
            found = examined.classes
            for row, find in enumerate(_own_finds(boxes, examined)):
                self._on_labels.note(int(own.class_ids[row]), own.probabilities[row])
                if find < 0:
                    self._on_finds.note(NO_ANSWER)
                    self._named.note(NO_ANSWER)
                    continue
                class_id, shares = int(found.class_ids[find]), found.probabilities[find]
                self._on_finds.note(class_id, shares)
                unsure = bool(found.unclassified[find])
                self._named.note(NO_ANSWER if unsure else class_id, shares)
        head = loaded.attribute_head
        values = examined.detections.attribute_values
        judged = picture.attributes.shape[1] > 0 and bool((picture.attributes != MISSING).any())
        if head is None or not judged:
            return
        if values is None:
            values = np.zeros((0, len(head.spec.widths)), np.int64)
        self.labelled.append(FieldTruth(boxes, picture.attributes))
        cells = examined.detections
        self._found.append(FoundCells(cells.boxes_xyxy, cells.scores, values))
        self._oracle.append(_on_labelled_boxes(loaded, pixels, boxes))

    def class_figures(self, names: tuple[str, ...]) -> dict[str, Any]:
        """On labelled crops, on found crops, and as the report names them."""
        # Labels that the bundle has no class for can only be named wrong.
        every = (*names, *(each for each in self._classes if each not in names))
        truth = np.array([every.index(name) for name in self.truth], np.int64)
        return {
            what: evaluate_classification(every, truth, *said.arrays()).as_document()
            for what, said in (
                ("labelled_crops", self._on_labels),
                ("found_crops", self._on_finds),
                ("as_reported", self._named),
            )
        }

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
    values, _ = loaded.attribute_head.judge(maps, window.to_input(boxes))
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
