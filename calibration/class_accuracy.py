"""How good found cells with a class are against labelled ones, per class and overall.

Owns the COCO figures of several classes (through faster-coco-eval). Does not own the figures
of cells without a class (see ``accuracy``), finding cells, nor which fields are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.accuracy import iou_matrix
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, Int64Array

MAX_FINDS = 300


@dataclass(frozen=True, slots=True)
class ClassedCells:
    """Labelled or found cells of one field.

    Attributes:
        boxes_xyxy: float32 ``(n, 4)``, pixel corners.
        class_ids: int64 ``(n,)``.
        scores: float32 ``(n,)``; of labelled cells, whatever.
    """

    boxes_xyxy: Float32Array
    class_ids: Int64Array
    scores: Float32Array


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class. ``ap`` and ``ap50`` are None where no cell is labelled with it."""

    name: str
    cells: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Figures over a set of fields; rates are in 0..1.

    Attributes:
        images: fields looked at.
        cells: labelled cells in them.
        ap: COCO average precision over IoU 0.50 to 0.95, mean of the classes with cells.
        ap50: the same at IoU 0.50.
        classes: in the order of the class list.
    """

    images: int
    cells: int
    ap: float
    ap50: float
    classes: tuple[ClassFigures, ...]


def evaluate_classes(
    classes: Sequence[str],
    truth: Sequence[ClassedCells],
    found: Sequence[ClassedCells],
    *,
    max_finds: int = MAX_FINDS,
) -> ClassMetrics:
    """COCO figures of classed finds.

    Args:
        classes: class ``i`` is ``classes[i]``.
        truth: labelled cells, one entry per field.
        found: finds with scores from (near) 0 on, in the order of ``truth``.
        max_finds: so many finds of each class and field count, best first.

    Raises:
        DataError: the two differ in length, there is no labelled cell, or a class is not in
            the list.
    """
    if len(truth) != len(found):
        raise DataError(f"classes: {len(truth)} labelled fields but finds of {len(found)}")
    counts = np.zeros(len(classes), np.int64)
    for field, cells in enumerate(truth):
        _check(cells, len(classes), f"labels of field {field}")
        _check(found[field], len(classes), f"finds of field {field}")
        counts += np.bincount(cells.class_ids, minlength=len(classes))
    if counts.sum() == 0:
        raise DataError("classes: no labelled cell to compare with; check the data set")
    precision = _precision(classes, truth, found, max_finds)
    figures = []
    for place, name in enumerate(classes):
        known = counts[place] > 0
        figures.append(
            ClassFigures(
                name=name,
                cells=int(counts[place]),
                ap=float(precision[:, :, place].mean()) if known else None,
                ap50=float(precision[0, :, place].mean()) if known else None,
            )
        )
    present = counts > 0
    return ClassMetrics(
        images=len(truth),
        cells=int(counts.sum()),
        ap=float(precision[:, :, present].mean()),
        ap50=float(precision[0][:, present].mean()),
        classes=tuple(figures),
    )


# Scores at which finds are counted beside AP, which depends on their order alone.
COUNTED_FROM = (0.25, 0.5)
_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class CountedFinds:
    """Finds of one class from a score on; rates are None where nothing was to be counted.

    A find is right when it overlaps a labelled cell of its class by half that no surer find
    has taken.
    """

    name: str
    score: float
    precision: float | None
    recall: float | None
    finds: int


def count_finds(
    classes: Sequence[str],
    truth: Sequence[ClassedCells],
    found: Sequence[ClassedCells],
    *,
    scores: Sequence[float] = COUNTED_FROM,
) -> tuple[CountedFinds, ...]:
    """Precision and recall from fixed scores on, per score and class.

    AP ranks finds, so a detector that is unsure of everything alike loses nothing by it; a
    device that shows finds from a score on loses the cells.

    Args:
        classes: class ``i`` is ``classes[i]``.
        truth: labelled cells, one entry per field.
        found: finds, in the order of ``truth``.
        scores: from which finds count.
    """
    right = np.zeros((len(scores), len(classes)), np.int64)
    given = np.zeros_like(right)
    cells = np.zeros(len(classes), np.int64)
    for labelled, finds in zip(truth, found, strict=True):
        cells += np.bincount(labelled.class_ids, minlength=len(classes))
        overlap = iou_matrix(finds.boxes_xyxy, labelled.boxes_xyxy)
        overlap *= finds.class_ids[:, None] == labelled.class_ids[None]
        for find in np.argsort(-finds.scores, kind="stable"):
            counted = finds.scores[find] >= np.asarray(scores)
            given[counted, finds.class_ids[find]] += 1
            best = int(overlap[find].argmax()) if len(labelled.class_ids) else -1
            if best >= 0 and overlap[find, best] >= _OVERLAP:
                right[counted, finds.class_ids[find]] += 1
                overlap[:, best] = 0.0
    return tuple(
        CountedFinds(
            name=name,
            score=score,
            precision=float(right[row, place] / given[row, place]) if given[row, place] else None,
            recall=float(right[row, place] / cells[place]) if cells[place] else None,
            finds=int(given[row, place]),
        )
        for row, score in enumerate(scores)
        for place, name in enumerate(classes)
    )


def _check(cells: ClassedCells, classes: int, where: str) -> None:
    strange = (cells.class_ids < 0) | (cells.class_ids >= classes)
    if strange.any():
        raise DataError(
            f"classes, {where}: class {int(cells.class_ids[strange][0])}; the list has {classes}"
        )


def _precision(
    classes: Sequence[str],
    truth: Sequence[ClassedCells],
    found: Sequence[ClassedCells],
    max_finds: int,
) -> NDArray[np.float64]:
    """Precision by IoU threshold, recall point and class; 0 where nothing reaches it."""
    from faster_coco_eval import COCO, COCOeval_faster

    labelled: list[dict[str, Any]] = []
    finds: list[dict[str, Any]] = []
    for image, (cells, detected) in enumerate(zip(truth, found, strict=True), start=1):
        for box, class_id in zip(_xywh(cells), cells.class_ids.tolist(), strict=True):
            labelled.append(
                {
                    "id": len(labelled) + 1,
                    "image_id": image,
                    "category_id": class_id + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        for box, class_id, score in zip(
            _xywh(detected), detected.class_ids.tolist(), detected.scores.tolist(), strict=True
        ):
            finds.append(
                {"image_id": image, "category_id": class_id + 1, "bbox": box, "score": score}
            )
    if not finds:
        return np.zeros((10, 101, len(classes)))
    document = {
        "images": [{"id": image, "width": 1, "height": 1} for image in range(1, len(truth) + 1)],
        "annotations": labelled,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
    }
    reference = COCO(document)
    evaluation = COCOeval_faster(
        reference, reference.loadRes(finds), "bbox", print_function=_silent
    )
    evaluation.params.maxDets = [1, 10, max_finds]
    evaluation.evaluate()
    evaluation.accumulate()
    # Axes: IoU threshold, recall point, class, area (all first), finds per field.
    shape = (10, 101, len(classes), 4, 3)
    precision = np.asarray(evaluation.eval["precision"], np.float64).reshape(shape)[:, :, :, 0, 2]
    clipped: NDArray[np.float64] = np.clip(precision, 0.0, 1.0)
    return clipped


def _silent(*_: object) -> None:
    """Takes the lines faster-coco-eval would print."""


def _xywh(cells: ClassedCells) -> list[list[float]]:
    corners = cells.boxes_xyxy.astype(np.float64).reshape(-1, 4)
    rows: list[list[float]] = np.concatenate(
        [corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1
    ).tolist()
    return rows
