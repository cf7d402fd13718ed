"""Figures of naming cells, against cases worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration.classification_metrics import (
    NO_ANSWER,
    evaluate_classification,
    probabilities,
)
from edge_runtime.errors import DataError

NAMES = ("a", "b", "c", "d")


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_a_case_by_hand() -> None:
    found = evaluate_classification(NAMES, ids(0, 0, 0, 1, 1, 2), ids(0, 0, 1, 1, NO_ANSWER, 1))
    assert (found.cells, found.unanswered) == (6, 1)
    assert found.accuracy == 0.5
    a, b, c, d = found.classes
    assert [a.precision, a.recall, a.f1] == pytest.approx([1.0, 2 / 3, 0.8])
    assert [b.precision, b.recall, b.f1] == pytest.approx([1 / 3, 0.5, 0.4])
    assert (c.precision, c.recall, c.f1) == (None, 0.0, 0.0)
    assert (d.precision, d.recall, d.f1) == (None, None, None)
    assert found.confusion == ((2, 1, 0, 0, 0), (0, 1, 0, 0, 1), (0, 1, 0, 0, 0), (0,) * 5)
    # d is absent from the truth: left out of one mean, 0 in the other.
    assert found.macro_f1 == pytest.approx((0.8 + 0.4 + 0) / 3)
    assert found.macro_f1_all == pytest.approx((0.8 + 0.4 + 0 + 0) / 4)
    assert found.ece is None
    assert json.loads(json.dumps(found.as_document()))["confusion"][0] == [2, 1, 0, 0, 0]


def test_an_absent_class_that_is_answered_costs_the_others_only() -> None:
    found = evaluate_classification(NAMES, ids(0, 0), ids(0, 3))
    assert found.macro_f1 == pytest.approx(2 / 3)
    assert found.classes[3].f1 == 0.0


def test_calibration_error_by_hand() -> None:
    truth, answers = ids(0, 0, 1, 1), ids(0, 1, 1, 0)
    # Two cells at 0.95, one right; two at 0.6, one right.
    confidence = np.array([0.95, 0.95, 0.6, 0.6], np.float32)
    found = evaluate_classification(NAMES, truth, answers, confidence)
    assert found.ece == pytest.approx((2 * 0.45 + 2 * 0.1) / 4, abs=1e-6)
    assert len(found.reliability) == 15
    assert [each.cells for each in found.reliability if each.cells] == [2, 2]
    assert sum(each.cells for each in found.reliability) == 4


def test_what_is_sure_and_right_is_calibrated() -> None:
    ones = np.ones(3, np.float32)
    assert evaluate_classification(NAMES, ids(0, 1, 2), ids(0, 1, 2), ones).ece == 0.0
    assert evaluate_classification(NAMES, ids(0, 1, 2), ids(1, 2, 0), ones).ece == 1.0


def test_cells_without_an_answer_have_no_part_in_the_calibration() -> None:
    confidence = np.array([1.0, 0.0], np.float32)
    found = evaluate_classification(NAMES, ids(0, 1), ids(0, NO_ANSWER), confidence)
    assert (found.ece, found.accuracy) == (0.0, 0.5)


def test_the_order_of_cells_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    truth, answers = rng.integers(0, 4, 200), rng.integers(-1, 4, 200)
    confidence = rng.random(200).astype(np.float32)
    turned = rng.permutation(200)
    one = evaluate_classification(NAMES, truth, answers, confidence)
    other = evaluate_classification(NAMES, truth[turned], answers[turned], confidence[turned])
    assert one.confusion == other.confusion
    assert (one.macro_f1, one.accuracy) == (other.macro_f1, other.accuracy)
    assert one.ece == pytest.approx(other.ece, abs=1e-6)


@pytest.mark.parametrize(
    ("truth", "answers", "why"),
    [
        (ids(), ids(), "no labelled cell"),
        (ids(0), ids(0, 1), "1 labels but 2 answers"),
        (ids(4), ids(0), "beyond the 4 classes"),
        (ids(0), ids(4), "beyond the 4 classes"),
        (ids(-1), ids(0), "beyond the 4 classes"),
    ],
)
def test_tables_that_do_not_fit(truth: np.ndarray, answers: np.ndarray, why: str) -> None:
    with pytest.raises(DataError, match=why):
        evaluate_classification(NAMES, truth, answers)


def test_probabilities_are_a_stable_softmax() -> None:
    logits = np.array([[1000.0, 1000.0], [0.0, np.log(3)]], np.float32)
    assert probabilities(logits) == pytest.approx(np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert probabilities(logits, 2.0)[1, 1] == pytest.approx(3**0.5 / (1 + 3**0.5))
