"""How well predicted attributes agree with labelled ones.

Owns F1 under three rules of matching, and what a predictor without eyes would score. Does
not own finding cells (see ``accuracy``) nor predicting attributes. All figures are pooled
over the cells of all fields, so neither their order nor batches can change one.

The three rules differ in which prediction a labelled cell is compared with:

* ``nearest``: the find of highest IoU, however low, of any class, as often as it comes;
  fields without finds, and cells with any unknown attribute, are left out. This is how the
  figures published for AttriDet were made, less a mistake of indexing in that code.
* ``one_to_one``: a find of its own with IoU at least 0.5; a cell without one is missed.
* ``oracle``: predictions made on the labelled boxes themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from calibration.accuracy import iou_matrix, pair_cells
from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, Int64Array

Rule = Literal["nearest", "one_to_one", "oracle"]


@dataclass(frozen=True, slots=True)
class FieldTruth:
    """The labelled cells of one field.

    Attributes:
        boxes_xyxy: float32 ``(n, 4)``, pixel corners.
        values: int64 ``(n, attributes)``, value indices or ``MISSING``.
    """

    boxes_xyxy: Float32Array
    values: Int64Array


@dataclass(frozen=True, slots=True)
class FoundCells:
    """The finds of one field with their predicted attributes.

    Attributes:
        boxes_xyxy: float32 ``(m, 4)``, pixel corners.
        scores: float32 ``(m,)``.
        values: int64 ``(m, attributes)``, value indices or ``MISSING`` for no prediction.
    """

    boxes_xyxy: Float32Array
    scores: Float32Array
    values: Int64Array


@dataclass(frozen=True, slots=True)
class AttributeFigures:
    """One attribute's agreement. A figure without a cell to take it from is None.

    Attributes:
        name: the attribute.
        cells: labelled cells that count.
        missed: those of them without a prediction.
        prevalence: share of each value among ``cells``, in the schema's order.
        f1: of value 1 where the attribute is binary, else ``macro_f1``.
        macro_f1: mean of ``f1_by_value`` over the values that occur.
        f1_by_value: None for a value that is neither labelled nor predicted.
        accuracy: share of cells with the right value.
        all_ones_f1: ``f1`` of always answering value 1, 2p / (1 + p); binary only.
        majority_f1: ``f1`` of always answering the most frequent value. It is 0 for a
            binary attribute whose value 0 is the more frequent one.
        majority_macro_f1: ``macro_f1`` of the same answer.
    """

    name: str
    cells: int
    missed: int
    prevalence: tuple[float | None, ...]
    f1: float | None
    macro_f1: float | None
    f1_by_value: tuple[float | None, ...]
    accuracy: float | None
    all_ones_f1: float | None
    majority_f1: float | None
    majority_macro_f1: float | None


@dataclass(frozen=True, slots=True)
class AttributeMetrics:
    """All attributes under one rule.

    Attributes:
        mean_f1: mean of the attributes' ``f1``, those without a figure left out.
        mean_macro_f1: the same of ``macro_f1``.
    """

    rule: Rule
    attributes: tuple[AttributeFigures, ...]
    mean_f1: float | None
    mean_macro_f1: float | None


def evaluate_on_finds(
    schema: AttributeSchema,
    truth: Sequence[FieldTruth],
    found: Sequence[FoundCells],
    *,
    rule: Literal["nearest", "one_to_one"],
) -> AttributeMetrics:
    """Agreement of the attributes of finds with those of labelled cells.

    Args:
        schema: attributes, in the order of the columns.
        truth: labelled cells, one entry per field.
        found: finds, one entry per field, in the order of ``truth``.
        rule: how a labelled cell is paired with a find.

    Raises:
        DataError: the two differ in length, or a table does not fit the schema.
    """
    if len(truth) != len(found):
        raise DataError(f"attributes: {len(truth)} labelled fields but finds of {len(found)}")
    wanted = [np.zeros((0, len(schema.attributes)), np.int64)]
    answered = [np.zeros((0, len(schema.attributes)), np.int64)]
    for field, (labelled, finds) in enumerate(zip(truth, found, strict=True)):
        _check(schema, labelled.values, len(labelled.boxes_xyxy), f"labels of field {field}")
        _check(schema, finds.values, len(finds.boxes_xyxy), f"finds of field {field}")
        if rule == "nearest":
            rows = np.flatnonzero((labelled.values != MISSING).all(axis=1))
            if len(finds.scores) == 0 or len(rows) == 0:
                continue
            chosen = _nearest(labelled.boxes_xyxy[rows], finds)
        else:
            rows = np.arange(len(labelled.boxes_xyxy))
            chosen = one_to_one(labelled.boxes_xyxy, finds)
        answer = np.full((len(rows), len(schema.attributes)), MISSING, np.int64)
        answer[chosen >= 0] = finds.values[chosen[chosen >= 0]]
        wanted.append(labelled.values[rows])
        answered.append(answer)
    return _metrics(schema, np.concatenate(wanted), np.concatenate(answered), rule)


def evaluate_on_labelled_boxes(
    schema: AttributeSchema, truth: Int64Array, predicted: Int64Array
) -> AttributeMetrics:
    """Agreement of attributes predicted on the labelled boxes, cell by cell.

    Args:
        schema: attributes, in the order of the columns.
        truth: int64 ``(n, attributes)``, value indices or ``MISSING``.
        predicted: the same for the predictions, row by row.

    Raises:
        DataError: the two differ in length, or a table does not fit the schema.
    """
    _check(schema, truth, len(truth), "labels")
    _check(schema, predicted, len(truth), "predictions")
    return _metrics(schema, truth, predicted, "oracle")


def _check(schema: AttributeSchema, values: Int64Array, rows: int, where: str) -> None:
    if values.shape != (rows, len(schema.attributes)):
        raise DataError(
            f"attributes, {where}: table {values.shape}, wanted {rows} cells by the "
            f"{len(schema.attributes)} attributes of schema {schema.name!r}"
        )
    for column, attribute in enumerate(schema.attributes):
        strange = (values[:, column] < MISSING) | (values[:, column] >= len(attribute.values))
        if strange.any():
            raise DataError(
                f"attributes, {where}: {attribute.name} has value index "
                f"{int(values[strange, column][0])}; schema {schema.name!r} knows 0 to "
                f"{len(attribute.values) - 1}"
            )


def _nearest(boxes: Float32Array, finds: FoundCells) -> Int64Array:
    """Per box the find of highest IoU; of equal ones that of the highest score, then first."""
    order = np.argsort(-finds.scores, kind="stable")
    overlap = iou_matrix(boxes, finds.boxes_xyxy[order])
    chosen: Int64Array = order[overlap.argmax(axis=1)].astype(np.int64)
    return chosen


def one_to_one(boxes: Float32Array, finds: FoundCells) -> Int64Array:
    """Per box its own find's row, int64 ``(n,)``, or -1: see ``accuracy.pair_cells``."""
    return pair_cells(boxes, finds.boxes_xyxy, finds.scores)


def _metrics(
    schema: AttributeSchema, truth: Int64Array, predicted: Int64Array, rule: Rule
) -> AttributeMetrics:
    figures = tuple(
        _figures(attribute.name, len(attribute.values), truth[:, column], predicted[:, column])
        for column, attribute in enumerate(schema.attributes)
    )
    return AttributeMetrics(
        rule=rule,
        attributes=figures,
        mean_f1=_mean([each.f1 for each in figures]),
        mean_macro_f1=_mean([each.macro_f1 for each in figures]),
    )


def _figures(name: str, values: int, truth: Int64Array, predicted: Int64Array) -> AttributeFigures:
    known = truth != MISSING
    truth, predicted = truth[known], predicted[known]
    cells = len(truth)
    counts = np.bincount(truth, minlength=values)
    by_value = _f1_by_value(values, truth, predicted)
    # argmax: of equally frequent values the lower one, so that two runs agree.
    majority = _f1_by_value(values, truth, np.full(cells, counts.argmax(), np.int64))
    macro, majority_macro = _mean(by_value), _mean(majority)
    binary = values == 2
    ones = _f1_by_value(values, truth, np.ones(cells, np.int64))[1] if binary else None
    return AttributeFigures(
        name=name,
        cells=cells,
        missed=int((predicted == MISSING).sum()),
        prevalence=tuple(int(count) / cells if cells else None for count in counts),
        f1=by_value[1] if binary else macro,
        macro_f1=macro,
        f1_by_value=by_value,
        accuracy=float((truth == predicted).mean()) if cells else None,
        all_ones_f1=ones,
        majority_f1=majority[1] if binary else majority_macro,
        majority_macro_f1=majority_macro,
    )


def _f1_by_value(values: int, truth: Int64Array, predicted: Int64Array) -> tuple[float | None, ...]:
    """2 TP / (2 TP + FP + FN) per value; None where that is 0 / 0."""
    scores: list[float | None] = []
    for value in range(values):
        labelled, answered = truth == value, predicted == value
        total = int(labelled.sum()) + int(answered.sum())
        scores.append(2 * int((labelled & answered).sum()) / total if total else None)
    return tuple(scores)


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None
