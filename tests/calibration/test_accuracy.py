"""COCO figures against values worked out by hand, matching, and the operating point."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from calibration.accuracy import choose_operating_point, evaluate_detections, match_finds
from edge_runtime.errors import DataError
from edge_runtime.types import Detections, Float32Array

pytest.importorskip("faster_coco_eval")


def boxes(*rows: tuple[float, float, float, float]) -> Float32Array:
    return np.array(rows, np.float32).reshape(-1, 4)


def finds(*rows: tuple[float, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(table[:, :4].copy(), table[:, 4].copy(), np.zeros(len(table), np.int64))


CELL = (10.0, 10.0, 110.0, 110.0)


def test_perfect_finds_score_one_everywhere() -> None:
    metrics = evaluate_detections([boxes(CELL)], [finds((*CELL, 0.9))], score=0.5)
    assert (metrics.ap, metrics.ap50, metrics.ar) == pytest.approx((1, 1, 1))
    assert (metrics.recall, metrics.precision, metrics.false_cells) == (1, 1, 0)
    assert (metrics.images, metrics.cells) == (1, 1)


def test_looser_box_counts_at_the_thresholds_its_overlap_reaches() -> None:
    # 100 x 76 inside 100 x 100: IoU 0.76, so right at 0.50 .. 0.75, 6 of 10 thresholds.
    metrics = evaluate_detections([boxes(CELL)], [finds((10.0, 10.0, 110.0, 86.0, 0.9))], score=0.5)
    assert metrics.ap50 == pytest.approx(1)
    assert metrics.ap == pytest.approx(0.6)
    assert metrics.ar == pytest.approx(0.6)


def test_one_of_two_cells_found_gives_half_the_recall_points() -> None:
    other = (200.0, 200.0, 260.0, 260.0)
    metrics = evaluate_detections([boxes(CELL, other)], [finds((*CELL, 0.9))], score=0.5)
    # Precision is 1 at the 51 of 101 recall points from 0 to 0.50.
    assert metrics.ap == pytest.approx(51 / 101)
    assert metrics.recall == 0.5


def test_a_better_scored_false_find_lowers_precision_and_ap() -> None:
    away = (300.0, 300.0, 340.0, 340.0)
    metrics = evaluate_detections([boxes(CELL)], [finds((*away, 0.95), (*CELL, 0.9))], score=0.5)
    assert metrics.ap == pytest.approx(0.5)
    assert metrics.precision == 0.5
    assert metrics.false_cells == 1


def test_score_decides_recall_and_precision_but_not_ap() -> None:
    away = (300.0, 300.0, 340.0, 340.0)
    arguments = ([boxes(CELL)], [finds((*CELL, 0.9), (*away, 0.3))])
    strict, lax = (evaluate_detections(*arguments, score=score) for score in (0.5, 0.1))
    assert strict.ap == lax.ap
    assert (strict.precision, lax.precision) == (1.0, 0.5)


def test_a_cell_found_twice_is_found_once() -> None:
    scores, right = match_finds([boxes(CELL)], [finds((*CELL, 0.8), (*CELL, 0.9))])
    assert scores.tolist() == pytest.approx([0.9, 0.8])
    assert right.tolist() == [True, False]


def test_finds_in_a_field_without_cells_are_false() -> None:
    metrics = evaluate_detections(
        [boxes(CELL), boxes()], [finds((*CELL, 0.9)), finds((*CELL, 0.9))], score=0.5
    )
    assert (metrics.recall, metrics.precision, metrics.false_cells) == (1.0, 0.5, 1)


def test_nothing_found_is_zero_and_not_an_error() -> None:
    metrics = evaluate_detections([boxes(CELL)], [Detections.empty()], score=0.5)
    assert (metrics.ap, metrics.recall, metrics.precision) == (0, 0, 0)


@pytest.mark.parametrize(
    ("truth", "found", "match"),
    [([boxes()], [Detections.empty()], "no labelled cell"), ([boxes(CELL)], [], "finds of 0")],
)
def test_sets_that_cannot_be_evaluated_are_refused(
    truth: list[Float32Array], found: list[Detections], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        evaluate_detections(truth, found, score=0.5)


def test_operating_point_lies_in_the_middle_between_right_and_false_scores() -> None:
    away = (300.0, 300.0, 340.0, 340.0)
    domain = ([boxes(CELL)], [finds((*CELL, 0.8), (*away, 0.2))])
    point = choose_operating_point({"a": domain})
    assert point.score == pytest.approx(0.5, abs=0.02)
    assert point.f1 == 1.0
    assert point.recall == {"a": 1.0}


def test_every_domain_counts_the_same_whatever_its_size() -> None:
    # A large domain wants 0.6 and a small one needs 0.3 to find anything at all.
    away = (300.0, 300.0, 340.0, 340.0)
    large = ([boxes(CELL)] * 20, [finds((*CELL, 0.9), (*away, 0.5))] * 20)
    small = ([boxes(CELL)], [finds((*CELL, 0.3))])
    # F1 of the large one: 1 above 0.5, 2/3 below. The small one: 0 above 0.3, 1 below.
    assert choose_operating_point({"large": large, "small": small}).score <= 0.3
    assert choose_operating_point({"large": large}).score > 0.5


def test_operating_point_needs_a_domain() -> None:
    with pytest.raises(DataError, match="no validation fields"):
        choose_operating_point({})


def test_the_evaluation_loads_no_training_framework() -> None:
    code = (
        "import sys, faster_coco_eval, calibration.accuracy;"
        "sys.exit(bool({'torch', 'ultralytics'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
