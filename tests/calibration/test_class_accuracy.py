from __future__ import annotations

import numpy as np
import pytest

from calibration.accuracy import evaluate_detections
from calibration.class_accuracy import ClassedCells, count_finds, evaluate_classes
from edge_runtime.errors import DataError
from edge_runtime.types import Detections

NAMES = ("a", "b", "never there")


def cells(rng: np.random.Generator, classes: tuple[int, ...]) -> ClassedCells:
    corners = (rng.random((len(classes), 2)) * 200).astype(np.float32)
    return ClassedCells(
        np.concatenate([corners, corners + 20], axis=1),
        np.array(classes, np.int64),
        np.ones(len(classes), np.float32),
    )


def shaken(truth: ClassedCells, rng: np.random.Generator) -> ClassedCells:
    moved = truth.boxes_xyxy + rng.normal(0, 2, truth.boxes_xyxy.shape)
    scores = rng.random(len(truth.scores)).astype(np.float32)
    return ClassedCells(moved.astype(np.float32), truth.class_ids, scores)


@pytest.fixture
def truth() -> list[ClassedCells]:
    rng = np.random.default_rng(0)
    return [cells(rng, (0, 0, 1, 1, 0)) for _ in range(6)]


def test_perfect_finds_score_one_and_absent_classes_do_not_count(
    truth: list[ClassedCells],
) -> None:
    metrics = evaluate_classes(NAMES, truth, truth)
    assert (metrics.ap, metrics.ap50, metrics.images, metrics.cells) == (1.0, 1.0, 6, 30)
    assert [(each.cells, each.ap) for each in metrics.classes] == [(18, 1.0), (12, 1.0), (0, None)]


def test_each_class_is_what_it_would_be_alone(truth: list[ClassedCells]) -> None:
    rng = np.random.default_rng(1)
    found = [shaken(each, rng) for each in truth]
    metrics = evaluate_classes(NAMES, truth, found)
    alone = []
    for class_id in (0, 1):
        boxes = [each.boxes_xyxy[each.class_ids == class_id] for each in truth]
        finds = [
            Detections(
                each.boxes_xyxy[each.class_ids == class_id],
                each.scores[each.class_ids == class_id],
                np.zeros((each.class_ids == class_id).sum(), np.int64),
            )
            for each in found
        ]
        alone.append(evaluate_detections(boxes, finds, score=0.5))
    assert [each.ap for each in metrics.classes[:2]] == pytest.approx([each.ap for each in alone])
    assert metrics.ap50 == pytest.approx(np.mean([each.ap50 for each in alone]))
    assert 0 < metrics.ap < 1


def test_a_wrong_name_is_no_find(truth: list[ClassedCells]) -> None:
    renamed = [ClassedCells(x.boxes_xyxy, 1 - x.class_ids, x.scores) for x in truth]
    assert evaluate_classes(NAMES, truth, renamed).ap50 == 0


def test_finds_past_the_hundredth_count() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(15), np.arange(10)), -1).reshape(-1, 2) * 30
    boxes = np.concatenate([grid, grid + 20], axis=1).astype(np.float32)
    many = ClassedCells(boxes, np.zeros(150, np.int64), rng.random(150).astype(np.float32))
    assert evaluate_classes(("a",), [many], [many]).ap == 1.0
    assert evaluate_classes(("a",), [many], [many], max_finds=100).ap < 0.7


def test_no_find_is_zero(truth: list[ClassedCells]) -> None:
    nothing = [cells(np.random.default_rng(0), ())] * 6
    metrics = evaluate_classes(NAMES, truth, nothing)
    assert (metrics.ap, metrics.ap50) == (0.0, 0.0)


def test_bad_input(truth: list[ClassedCells]) -> None:
    nothing = [cells(np.random.default_rng(0), ())] * 6
    with pytest.raises(DataError, match="no labelled cell"):
        evaluate_classes(NAMES, nothing, truth)
    with pytest.raises(DataError, match="6 labelled fields but finds of 5"):
        evaluate_classes(NAMES, truth, truth[:5])
    with pytest.raises(DataError, match="labels of field 0: class 1; the list has 1"):
        evaluate_classes(("a",), truth, truth)


def test_finds_are_counted_from_a_score_on_once_per_cell() -> None:
    labelled = ClassedCells(
        np.array([[0, 0, 20, 20], [50, 50, 70, 70]], np.float32),
        np.array([0, 1], np.int64),
        np.ones(2, np.float32),
    )
    finds = ClassedCells(
        np.array([[1, 0, 21, 20], [0, 1, 20, 21], [50, 50, 70, 70], [52, 50, 72, 70]], np.float32),
        # The third lies on the other class's cell.
        np.array([0, 0, 0, 1], np.int64),
        np.array([0.4, 0.9, 0.8, 0.3], np.float32),
    )
    counted = count_finds(NAMES, [labelled], [finds])
    rows = {(each.name, each.score): each for each in counted}
    low, high = rows["a", 0.25], rows["a", 0.5]
    assert (low.finds, low.recall) == (3, 1.0)
    assert low.precision == pytest.approx(1 / 3)
    assert (high.finds, high.precision, high.recall) == (2, 0.5, 1.0)
    # Found, but not surely enough for the higher score: what AP would not tell.
    assert rows["b", 0.25].recall == 1.0
    assert (rows["b", 0.5].precision, rows["b", 0.5].recall) == (None, 0.0)
    assert rows["never there", 0.25].recall is None


def test_fields_without_cells_or_finds_are_counted() -> None:
    nothing = ClassedCells(
        np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
    )
    one = ClassedCells(
        np.array([[0, 0, 9, 9]], np.float32), np.zeros(1, np.int64), np.ones(1, np.float32)
    )
    counted = count_finds(NAMES, [nothing, one], [one, nothing], scores=[0.5])
    assert (counted[0].precision, counted[0].recall, counted[0].finds) == (0.0, 0.0, 1)
