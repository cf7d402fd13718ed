from __future__ import annotations

import numpy as np
import pytest

from calibration.accuracy import evaluate_detections
from calibration.class_accuracy import ClassedCells, evaluate_classes
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
