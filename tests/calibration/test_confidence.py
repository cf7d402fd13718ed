"""Figures by hand, a temperature that undoes one, and a limit where right turns to wrong."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.confidence import (
    at_temperature,
    choose_abstention,
    expected_calibration_error,
    fit_temperature,
)
from edge_runtime.errors import DataError


def ids(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def test_calibration_error_by_hand() -> None:
    said = np.array([0.9, 0.9, 0.9, 0.9, 0.3, 0.3], np.float32)
    right = np.array([True, True, True, False, False, False])
    # Four cells that are 0.15 too sure, two that are 0.3 too sure.
    found = expected_calibration_error(said, right)
    assert found == pytest.approx((4 * 0.15 + 2 * 0.3) / 6, abs=1e-6)
    assert expected_calibration_error(np.ones(3), np.ones(3, bool)) == 0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_undoes_overconfidence(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (rng.random((len(honest), 1)) < honest.cumsum(axis=1)).argmax(axis=1)
    sharp = np.exp(logits * temperature)
    said = (sharp / sharp.sum(axis=1, keepdims=True)).astype(np.float32)
    fitted = fit_temperature(said, truth)
    assert fitted == pytest.approx(temperature, rel=0.05)
    assert at_temperature(said, fitted) == pytest.approx(honest, abs=0.03)


def test_certain_and_wrong_answers_are_finite() -> None:
    said = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    assert 0 < fit_temperature(said, ids(1, 1, 0)) <= 20
    assert np.isfinite(at_temperature(said, 3.0)).all()


def test_limit_is_where_wrong_answers_begin_to_prevail() -> None:
    best = np.linspace(0.4, 0.99, 60)
    said = np.stack([best, 1 - best], axis=1).astype(np.float32)
    said[best < 0.5] = [[0.6, 0.4]]
    truth = np.where(best > 0.705, 0, 1)
    # Up to 0.70 all are wrong, from 0.71 on all are right.
    assert choose_abstention(said, truth) == pytest.approx(0.71)


def test_without_a_wrong_answer_the_limit_is_even_odds() -> None:
    said = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    assert choose_abstention(said, ids(0, 1)) == pytest.approx(0.5)


def test_nothing_is_measured_on_nothing() -> None:
    none = np.zeros((0, 2), np.float32)
    with pytest.raises(DataError):
        expected_calibration_error(np.zeros(0), np.zeros(0, bool))
    with pytest.raises(DataError):
        expected_calibration_error(np.zeros(1), np.zeros(2, bool))
    with pytest.raises(DataError):
        fit_temperature(none, ids())
    with pytest.raises(DataError):
        choose_abstention(none, ids())
