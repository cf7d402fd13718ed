"""How good found cells are against labelled ones, and which score to report from.

Owns the COCO figures (through faster-coco-eval), one-to-one matching and the choice of
the operating point. Does not own finding cells nor which fields are looked at.

All figures are of one class: a white cell found under another name is still found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError
from edge_runtime.types import Detections, Float32Array, Int64Array

# A find is right when it overlaps a labelled cell by this much (IoU).
MATCH_IOU = 0.5
# COCO's own limit of finds per picture.
_MAX_FINDS = 100
# Scores that can become an operating point: below, a detector reports noise.
_LOWEST_SCORE, _HIGHEST_SCORE, _SCORE_STEP = 0.05, 0.95, 0.01
# Differences in F1 below this are chance on a few hundred cells.
_EQUALLY_GOOD = 0.002

LabelledFinds = tuple[Sequence[Float32Array], Sequence[Detections]]


@dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """Figures over a set of fields; rates are in 0..1.

    Attributes:
        images: fields looked at.
        cells: labelled cells in them.
        ap: COCO average precision over IoU 0.50 to 0.95, 101 recall points.
        ap50: the same at IoU 0.50.
        ar: COCO average recall at 100 finds per field.
        recall: labelled cells found at the operating point, IoU 0.5, one to one.
        precision: right finds among all at the operating point; 0 without any find.
        false_cells: wrong finds at the operating point.
    """

    images: int
    cells: int
    ap: float
    ap50: float
    ar: float
    recall: float
    precision: float
    false_cells: int


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A score, and what it gives per domain.

    Attributes:
        score: finds from this score on are reported.
        f1: mean F1 over the domains.
        recall, precision: by domain.
    """

    score: float
    f1: float
    recall: dict[str, float]
    precision: dict[str, float]


def evaluate_detections(
    truth: Sequence[Float32Array], found: Sequence[Detections], *, score: float
) -> DetectionMetrics:
    """COCO figures of finds, and recall and precision from one score on.

    Args:
        truth: per field, labelled boxes ``(N, 4)`` as pixel corners.
        found: per field, finds with scores from (near) 0 on: average precision needs
            the whole ranking.
        score: the operating point.

    Raises:
        DataError: the two differ in length, or there is no labelled cell.
    """
    cells = _count_cells(truth, found)
    ap, ap50, ar = _coco_figures(truth, found)
    scores, right = match_finds(truth, found)
    reported = scores >= score
    hits = int(right[reported].sum())
    finds = int(reported.sum())
    return DetectionMetrics(
        images=len(truth),
        cells=cells,
        ap=ap,
        ap50=ap50,
        ar=ar,
        recall=hits / cells,
        precision=hits / finds if finds else 0.0,
        false_cells=finds - hits,
    )


def match_finds(
    truth: Sequence[Float32Array], found: Sequence[Detections]
) -> tuple[Float32Array, NDArray[np.bool_]]:
    """Which finds are right: best score first, each labelled cell at most once.

    A find takes the labelled cell it overlaps most among those not taken yet. Finds of
    lower score never change the match of higher ones, so one pass serves every score.

    Returns:
        ``(scores, right)``, float32 ``(M,)`` and bool ``(M,)``, over all fields.
    """
    scores: list[Float32Array] = [np.zeros(0, np.float32)]
    flags: list[NDArray[np.bool_]] = [np.zeros(0, bool)]
    for boxes, finds in zip(truth, found, strict=True):
        order = np.argsort(-finds.scores, kind="stable")
        overlap = iou_matrix(finds.boxes_xyxy[order], boxes)
        right = np.zeros(len(order), bool)
        for row in range(len(order) if len(boxes) else 0):
            best = int(overlap[row].argmax())
            if overlap[row, best] >= MATCH_IOU:
                right[row] = True
                overlap[:, best] = -1.0
        scores.append(finds.scores[order])
        flags.append(right)
    return np.concatenate(scores).astype(np.float32), np.concatenate(flags)


def pair_cells(
    boxes_xyxy: Float32Array, found_xyxy: Float32Array, scores: Float32Array
) -> Int64Array:
    """Per labelled cell of one field its own find, or -1: best score first, as ``match_finds``.

    Args:
        boxes_xyxy: labelled, ``(n, 4)``, pixel corners.
        found_xyxy: finds, ``(m, 4)``.
        scores: of the finds, ``(m,)``.

    Returns:
        int64 ``(n,)``, rows of ``found_xyxy``; no row stands twice.
    """
    chosen = np.full(len(boxes_xyxy), -1, np.int64)
    overlap = iou_matrix(found_xyxy, boxes_xyxy)
    for row in np.argsort(-scores, kind="stable") if len(boxes_xyxy) else ():
        best = int(overlap[row].argmax())
        if overlap[row, best] >= MATCH_IOU:
            chosen[best] = row
            overlap[:, best] = -1.0
    return chosen


def choose_operating_point(domains: Mapping[str, LabelledFinds]) -> OperatingPoint:
    """The score with the best mean F1, every domain counting the same.

    Of the scores that are equally good the middle one is taken: it is the farthest from
    where the figures fall. Give it validation fields only; a score chosen on test fields
    makes their figures worthless.

    Args:
        domains: per domain, labelled boxes and finds per field as for
            ``evaluate_detections``.

    Raises:
        DataError: no domain, or one without a labelled cell.
    """
    if not domains:
        raise DataError("operating point: no validation fields to choose it on")
    grid = np.arange(_LOWEST_SCORE, _HIGHEST_SCORE + _SCORE_STEP / 2, _SCORE_STEP).round(4)
    recalls: dict[str, NDArray[np.float64]] = {}
    precisions: dict[str, NDArray[np.float64]] = {}
    mean_f1 = np.zeros(len(grid))
    for name, (truth, found) in domains.items():
        cells = _count_cells(truth, found)
        scores, right = match_finds(truth, found)
        reported = scores[None, :] >= grid[:, None]
        hits = (reported & right[None, :]).sum(axis=1)
        finds = reported.sum(axis=1)
        recalls[name] = hits / cells
        precisions[name] = hits / np.maximum(finds, 1)
        mean_f1 += 2 * hits / (cells + finds) / len(domains)
    good = np.flatnonzero(mean_f1 >= mean_f1.max() - _EQUALLY_GOOD)
    # Only the plateau around the best score: a second one elsewhere has no middle with it.
    best = int(mean_f1.argmax())
    low = high = best
    while low - 1 in good:
        low -= 1
    while high + 1 in good:
        high += 1
    chosen = (low + high) // 2
    return OperatingPoint(
        score=float(grid[chosen]),
        f1=float(mean_f1[chosen]),
        recall={name: float(values[chosen]) for name, values in recalls.items()},
        precision={name: float(values[chosen]) for name, values in precisions.items()},
    )


def _count_cells(truth: Sequence[Float32Array], found: Sequence[Detections]) -> int:
    if len(truth) != len(found):
        raise DataError(f"evaluation: {len(truth)} labelled fields but finds of {len(found)}")
    cells = sum(len(boxes) for boxes in truth)
    if cells == 0:
        raise DataError(f"evaluation: no labelled cell in {len(truth)} fields; check the labels")
    return cells


def _coco_figures(
    truth: Sequence[Float32Array], found: Sequence[Detections]
) -> tuple[float, float, float]:
    """AP over IoU 0.50 to 0.95, AP at 0.50, AR at 100 finds."""
    from faster_coco_eval import COCO, COCOeval_faster

    labelled: list[dict[str, Any]] = []
    finds: list[dict[str, Any]] = []
    for image, (boxes, detections) in enumerate(zip(truth, found, strict=True), start=1):
        for box in _xywh(boxes):
            labelled.append(
                {
                    "id": len(labelled) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        for box, score in zip(_xywh(detections.boxes_xyxy), detections.scores, strict=True):
            finds.append({"image_id": image, "category_id": 1, "bbox": box, "score": float(score)})
    if not finds:
        return 0.0, 0.0, 0.0
    document = {
        "images": [{"id": image, "width": 1, "height": 1} for image in range(1, len(truth) + 1)],
        "annotations": labelled,
        "categories": [{"id": 1, "name": "WBC"}],
    }
    reference = COCO(document)
    evaluation = COCOeval_faster(
        reference, reference.loadRes(finds), "bbox", print_function=_silent
    )
    evaluation.params.maxDets = [1, 10, _MAX_FINDS]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    stats = evaluation.stats
    return float(stats[0]), float(stats[1]), float(stats[8])


def _silent(*_: object) -> None:
    """Takes the lines faster-coco-eval would print."""


def _xywh(boxes_xyxy: Float32Array) -> list[list[float]]:
    corners = boxes_xyxy.astype(np.float64).reshape(-1, 4)
    rows: list[list[float]] = np.concatenate(
        [corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1
    ).tolist()
    return rows


def iou_matrix(boxes: Float32Array, others: Float32Array) -> NDArray[np.float64]:
    """Overlap of every box with every other, ``(N, M)``; both as pixel corners."""
    first, second = boxes.astype(np.float64), others.astype(np.float64).reshape(-1, 4)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = np.prod(first[:, 2:] - first[:, :2], axis=1)
    other_areas = np.prod(second[:, 2:] - second[:, :2], axis=1)
    union = areas[:, None] + other_areas[None, :] - shared
    overlap: NDArray[np.float64] = shared / np.maximum(union, 1e-12)
    return overlap
