"""Attribute F1 against cases worked out by hand, under each rule of matching."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.attribute_metrics import (
    AttributeMetrics,
    FieldTruth,
    FoundCells,
    evaluate_on_finds,
    evaluate_on_labelled_boxes,
)
from edge_runtime.attributes import MISSING, Attribute, AttributeSchema
from edge_runtime.errors import DataError
from edge_runtime.types import Int64Array

BINARY = AttributeSchema(name="one", attributes=(Attribute(name="vacuoles", values=("no", "yes")),))
MIXED = AttributeSchema(
    name="two",
    attributes=(
        Attribute(name="vacuoles", values=("no", "yes")),
        Attribute(name="shape", values=("round", "indented", "lobed")),
    ),
)
BOX = (10.0, 10.0, 50.0, 50.0)
FAR = (200.0, 200.0, 240.0, 240.0)


def table(*rows: tuple[int, ...], columns: int = 1) -> Int64Array:
    return np.array(rows, np.int64).reshape(-1, columns)


def labelled(*cells: tuple[tuple[float, ...], tuple[int, ...]], columns: int = 1) -> FieldTruth:
    boxes = np.array([box for box, _ in cells], np.float32).reshape(-1, 4)
    return FieldTruth(boxes, table(*(values for _, values in cells), columns=columns))


def found(*cells: tuple[tuple[float, ...], float, tuple[int, ...]], columns: int = 1) -> FoundCells:
    boxes = np.array([box for box, _, _ in cells], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in cells], np.float32)
    return FoundCells(boxes, scores, table(*(values for *_, values in cells), columns=columns))


def oracle(truth: list[int], predicted: list[int]) -> AttributeMetrics:
    return evaluate_on_labelled_boxes(
        BINARY, table(*((v,) for v in truth)), table(*((v,) for v in predicted))
    )


def test_two_right_one_false_one_missing() -> None:
    (figures,) = oracle([1, 1, 1, 0], [1, 1, 0, 1]).attributes
    assert figures.f1 == pytest.approx(0.6667, abs=1e-4)
    assert figures.accuracy == 0.5
    assert figures.prevalence == (0.25, 0.75)
    # 2p / (1 + p) with p = 0.75; value 1 is the majority too.
    assert figures.all_ones_f1 == pytest.approx(1.5 / 1.75)
    assert figures.majority_f1 == figures.all_ones_f1
    assert figures.majority_macro_f1 == pytest.approx(1.5 / 1.75 / 2)


def test_majority_zero_scores_nothing_on_value_one() -> None:
    (figures,) = oracle([0, 0, 0, 1], [0, 0, 0, 1]).attributes
    assert (figures.f1, figures.majority_f1) == (1.0, 0.0)
    assert figures.all_ones_f1 == pytest.approx(2 * 0.25 / 1.25)


def test_several_values_are_averaged() -> None:
    truth = table((0, 0), (0, 0), (0, 1), (0, 2), columns=2)
    predicted = table((0, 0), (0, 1), (0, 1), (0, 0), columns=2)
    shape = evaluate_on_labelled_boxes(MIXED, truth, predicted).attributes[1]
    # round: TP 1, FP 1, FN 1; indented: TP 1, FP 1; lobed: FN 1.
    assert shape.f1_by_value == pytest.approx((0.5, 2 / 3, 0.0))
    assert shape.f1 == shape.macro_f1 == pytest.approx((0.5 + 2 / 3) / 3)
    assert shape.all_ones_f1 is None
    # Always round: 2 of 4, F1 2 * 2 / (4 + 2); the two others 0.
    assert shape.majority_f1 == pytest.approx((2 / 3) / 3)


def test_a_value_that_never_occurs_does_not_count_in_the_mean() -> None:
    truth = table((0, 0), (0, 1), columns=2)
    shape = evaluate_on_labelled_boxes(MIXED, truth, truth).attributes[1]
    assert shape.f1_by_value == (1.0, 1.0, None)
    assert shape.macro_f1 == 1.0


def test_unknown_labels_are_left_out_and_missing_answers_count_as_missed() -> None:
    (figures,) = oracle([1, MISSING, 1, 0], [1, 0, MISSING, MISSING]).attributes
    assert (figures.cells, figures.missed) == (3, 2)
    assert figures.f1 == pytest.approx(2 / 3)
    assert figures.accuracy == pytest.approx(1 / 3)


def test_nothing_to_count_has_no_figure() -> None:
    metrics = oracle([MISSING], [1])
    (figures,) = metrics.attributes
    assert figures.cells == 0
    assert (figures.f1, figures.accuracy, figures.majority_f1) == (None, None, None)
    assert figures.prevalence == (None, None)
    assert metrics.mean_f1 is None


def test_means_are_over_attributes_with_a_figure() -> None:
    truth = table((1, MISSING), (0, MISSING), columns=2)
    metrics = evaluate_on_labelled_boxes(MIXED, truth, truth)
    assert (metrics.rule, metrics.mean_f1, metrics.mean_macro_f1) == ("oracle", 1.0, 1.0)


def test_nearest_takes_any_find_and_skips_fields_without_one() -> None:
    truth = [labelled((BOX, (1,))), labelled((BOX, (1,)))]
    finds = [found((FAR, 0.2, (1,))), found()]
    (nearest,) = evaluate_on_finds(BINARY, truth, finds, rule="nearest").attributes
    assert (nearest.cells, nearest.missed, nearest.f1) == (1, 0, 1.0)


def test_one_to_one_counts_what_was_not_found() -> None:
    truth = [labelled((BOX, (1,)), (FAR, (1,))), labelled((BOX, (1,)))]
    finds = [found((BOX, 0.9, (1,))), found()]
    (figures,) = evaluate_on_finds(BINARY, truth, finds, rule="one_to_one").attributes
    assert (figures.cells, figures.missed) == (3, 2)
    # TP 1, FN 2.
    assert figures.f1 == pytest.approx(0.5)


def test_one_find_serves_two_cells_by_nearest_but_one_by_one_to_one() -> None:
    shifted = (14.0, 10.0, 54.0, 50.0)
    truth = [labelled((BOX, (1,)), (shifted, (1,)))]
    finds = [found((BOX, 0.9, (1,)))]
    (nearest,) = evaluate_on_finds(BINARY, truth, finds, rule="nearest").attributes
    (single,) = evaluate_on_finds(BINARY, truth, finds, rule="one_to_one").attributes
    assert (nearest.missed, single.missed) == (0, 1)


def test_one_to_one_wants_half_overlap() -> None:
    # 40 x 40 against 40 x 21 and 40 x 19 inside it: IoU 0.525 and 0.475.
    for height, missed in ((21.0, 0), (19.0, 1)):
        finds = [found(((10.0, 10.0, 50.0, 10.0 + height), 0.9, (1,)))]
        metrics = evaluate_on_finds(BINARY, [labelled((BOX, (1,)))], finds, rule="one_to_one")
        assert metrics.attributes[0].missed == missed


def test_best_score_takes_the_cell_first() -> None:
    finds = [found((BOX, 0.3, (0,)), (BOX, 0.9, (1,)))]
    truth = [labelled((BOX, (1,)))]
    for rule in ("nearest", "one_to_one"):
        metrics = evaluate_on_finds(BINARY, truth, finds, rule=rule)
        assert metrics.attributes[0].f1 == 1.0


def test_nearest_leaves_out_cells_not_wholly_labelled() -> None:
    truth = [labelled((BOX, (1, MISSING)), (FAR, (1, 2)), columns=2)]
    finds = [found((BOX, 0.9, (1, 0)), (FAR, 0.9, (1, 2)), columns=2)]
    nearest = evaluate_on_finds(MIXED, truth, finds, rule="nearest")
    single = evaluate_on_finds(MIXED, truth, finds, rule="one_to_one")
    assert [each.cells for each in nearest.attributes] == [1, 1]
    assert [each.cells for each in single.attributes] == [2, 1]


def drawn_fields(count: int) -> tuple[list[FieldTruth], list[FoundCells]]:
    rng = np.random.default_rng(7)
    truth, finds = [], []
    for _ in range(count):
        cells = int(rng.integers(0, 5))
        corners = rng.uniform(0, 300, (cells, 2))
        boxes = np.concatenate([corners, corners + 40], axis=1).astype(np.float32)
        values = np.stack([rng.integers(-1, 2, cells), rng.integers(-1, 3, cells)], axis=1)
        seen = rng.permutation(cells)[: int(rng.integers(0, cells + 1))]
        moved = boxes[seen] + rng.normal(0, 6, (len(seen), 4)).astype(np.float32)
        answer = np.stack([rng.integers(0, 2, len(seen)), rng.integers(0, 3, len(seen))], axis=1)
        truth.append(FieldTruth(boxes, values.astype(np.int64)))
        scores = rng.uniform(0, 1, len(seen)).astype(np.float32)
        finds.append(FoundCells(moved, scores, answer.astype(np.int64)))
    return truth, finds


@pytest.mark.parametrize("rule", ["nearest", "one_to_one"])
def test_neither_the_order_of_fields_nor_of_rows_changes_a_figure(rule: str) -> None:
    truth, finds = drawn_fields(24)
    whole = evaluate_on_finds(MIXED, truth, finds, rule=rule)  # type: ignore[arg-type]
    assert whole.attributes[0].cells > 10
    rng = np.random.default_rng(0)
    order = rng.permutation(len(truth))
    shuffled_truth, shuffled_finds = [], []
    for index in order:
        rows = rng.permutation(len(truth[index].boxes_xyxy))
        columns = rng.permutation(len(finds[index].scores))
        shuffled_truth.append(FieldTruth(truth[index].boxes_xyxy[rows], truth[index].values[rows]))
        each = finds[index]
        shuffled_finds.append(
            replace(
                each,
                boxes_xyxy=each.boxes_xyxy[columns],
                scores=each.scores[columns],
                values=each.values[columns],
            )
        )
    again = evaluate_on_finds(
        MIXED,
        shuffled_truth,
        shuffled_finds,
        rule=rule,  # type: ignore[arg-type]
    )
    assert again == whole


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="1 labelled fields but finds of 0"):
        evaluate_on_finds(BINARY, [labelled()], [], rule="nearest")
    with pytest.raises(DataError, match="vacuoles has value index 2"):
        oracle([2], [0])
    with pytest.raises(DataError, match=r"wanted 1 cells by the 1 attributes"):
        evaluate_on_labelled_boxes(BINARY, table((0,)), table((0, 1), columns=2))
