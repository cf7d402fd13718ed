from __future__ import annotations

import numpy as np
import pytest

from benchmarks.agreement import agreement
from edge_runtime.types import Float32Array


def cells(*rows: tuple[float, float, float, float, float]) -> Float32Array:
    return np.array(rows, np.float32).reshape(-1, 5)


A, B = (10.0, 10.0, 60.0, 60.0, 0.9), (100.0, 20.0, 140.0, 70.0, 0.8)


def test_the_same_finds_in_another_order_agree() -> None:
    found = agreement([cells(A, B), cells()], [cells(B, A), cells()])
    assert (found.fields, found.cells, found.peer_cells, found.matched) == (2, 2, 2, 2)
    assert found.share == 1
    assert found.mean_iou == 1
    assert found.same


def test_a_shifted_find_is_not_the_same() -> None:
    shifted = (14.0, 10.0, 64.0, 60.0, 0.9)  # IoU 46 / 54
    found = agreement([cells(shifted, B)], [cells(A, B)])
    assert found.matched == 1
    assert found.share == 0.5
    assert not found.same


def test_a_missed_cell_counts_against() -> None:
    assert agreement([cells(A)], [cells(A, B)]).share == 0.5
    assert agreement([cells(A, B)], [cells(A)]).share == 0.5


def test_a_cell_reported_twice_is_no_second_cell() -> None:
    again = (20.0, 20.0, 65.0, 65.0, 0.6)
    found = agreement([cells(A)], [cells(A, again)])
    assert (found.cells, found.peer_cells, found.doubles, found.peer_doubles) == (1, 2, 0, 1)
    assert found.share == 1


def test_unsure_finds_are_left_out() -> None:
    unsure = (200.0, 200.0, 240.0, 240.0, 0.49)
    assert agreement([cells(A)], [cells(A, unsure)]).share == 1


def test_cells_of_different_fields_do_not_match() -> None:
    assert agreement([cells(A), cells()], [cells(), cells(A)]).matched == 0


@pytest.mark.parametrize("unsure", [0.1, 0.49])
def test_two_detectors_that_find_nothing_prove_nothing(unsure: float) -> None:
    nothing = cells((0, 0, 10, 10, unsure))
    assert not agreement([nothing], [nothing]).same
