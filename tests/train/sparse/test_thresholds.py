"""Schedule of the losses, and thresholds that are measured."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from tests.train.sparse_outputs import SIDE  # noqa: E402
from train.sparse.anchors import Cells  # noqa: E402
from train.sparse.inside import Patches, Region  # noqa: E402
from train.sparse.pseudo_labels import Candidates  # noqa: E402
from train.sparse.schedule import TRIPLET_SHARE_WITH_ATTRIBUTES, Schedule  # noqa: E402
from train.sparse.thresholds import (  # noqa: E402
    Thresholds,
    lowest_with_precision,
    right_predictions,
)

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ("schedule", "epochs", "first"),
    [
        (Schedule(), 50, 40),
        (Schedule(TRIPLET_SHARE_WITH_ATTRIBUTES), 30, 10),
        (Schedule(40), 50, 40),
        (Schedule(20), 30, 20),
        (Schedule(1), 30, 1),
        (Schedule(0), 30, 0),
    ],
)
def test_triplet_is_on_in_the_first_epochs(schedule: Schedule, epochs: int, first: int) -> None:
    on = [schedule.similarity(epoch, epochs) for epoch in range(epochs)]
    assert on == [epoch < first for epoch in range(epochs)]
    assert all(schedule.pseudo_labels(epoch, epochs) for epoch in range(epochs))


def test_last_epoch_and_warm_start() -> None:
    schedule = Schedule(50, start_epoch=3, last_epoch_lr_only=True)
    labels = [schedule.pseudo_labels(epoch, 6) for epoch in range(6)]
    assert labels == [False, False, False, True, True, False]
    assert [schedule.similarity(epoch, 6) for epoch in range(6)] == [True] * 5 + [False]


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_lowest_score_with_a_precision() -> None:
    values = scores(0.9, 0.8, 0.7, 0.6, 0.5)
    right = np.array([True, True, False, True, False])
    assert lowest_with_precision(values, right, 0.95) == pytest.approx(0.8)
    # Three of four are right down to 0.6.
    assert lowest_with_precision(values, right, 0.70) == pytest.approx(0.6)
    assert lowest_with_precision(values, right, 0.60) == pytest.approx(0.5)
    assert lowest_with_precision(values[::-1], right[::-1], 0.95) == pytest.approx(0.8)
    assert lowest_with_precision(values, ~right, 0.70) is None
    # Equal scores stand or fall together.
    assert lowest_with_precision(scores(0.9, 0.9), np.array([True, False]), 0.95) is None
    assert lowest_with_precision(scores(), np.array([], bool), 0.95) is None


def cells_and_region(count: int) -> tuple[Cells, Region]:
    rows = torch.tensor([[0.25, 0.25, 0.25, 0.25]]).repeat(count, 1)
    cells = Cells(rows, torch.zeros(count), torch.arange(count))
    corners = torch.tensor([[0.0, 0.0, 40.0, 40.0]]).repeat(count, 1)
    size = torch.tensor([float(SIDE)] * 2)
    patches = Patches(corners, torch.arange(count), size, count)
    nothing = torch.zeros(count, 1, dtype=torch.bool)
    return cells, Region(patches, patches.shrunk(4.0), nothing, nothing)


def test_right_predictions_match_each_cell_once() -> None:
    cells, _ = cells_and_region(2)
    corners = cells.corners_px(torch.tensor([SIDE, SIDE]))
    boxes = torch.tensor(
        [[8.0, 8, 24, 24], [8, 8, 24, 23], [8, 8, 24, 24], [20, 20, 40, 40], [8, 8, 24, 24]]
    )
    found = Candidates(
        boxes,
        torch.tensor([[0.6, 0.1], [0.9, 0.1], [0.1, 0.95], [0.9, 0.1], [0.3, 0.1]]),
        torch.tensor([0, 0, 1, 1, 1]),
    )
    # Beaten by the second; right; wrong class; elsewhere; right although weak.
    assert right_predictions(found, cells, corners).tolist() == [False, True, False, False, True]
    nobody = cells.select(torch.zeros(2, dtype=torch.bool))
    assert not right_predictions(found, nobody, corners[:0]).any()


def predictions(count: int, wrong: int) -> Candidates:
    """One a picture; the first ``wrong`` ones are of another class; scores rise."""
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]]).repeat(count, 1)
    rising = torch.linspace(0.2, 0.8, count)
    kinds = torch.arange(count) < wrong
    both = torch.stack([torch.where(kinds, 0.0, rising), torch.where(kinds, rising, 0.0)], 1)
    return Candidates(box, both, torch.arange(count))


def test_calibration_in_patches() -> None:
    cells, region = cells_and_region(100)
    thresholds = Thresholds(0.70, 0.95, every=5)
    assert [epoch for epoch in range(12) if thresholds.collects(epoch)] == [4, 9]
    assert thresholds.floor(3) == 0.70
    assert thresholds.floor(4) == 0.1
    found = predictions(100, wrong=40)
    thresholds.collect(found, cells, region)
    thresholds.begin_epoch(4)
    assert (thresholds.t0, thresholds.t1) == (0.70, 0.95)
    thresholds.begin_epoch(5)
    # 60 right ones: 63 at most for 0.95, 85 for 0.70.
    expected = found.confidence.sort(descending=True).values
    assert thresholds.t1 == pytest.approx(float(expected[62]))
    assert thresholds.t0 == pytest.approx(float(expected[84]))
    # Old predictions are not used a second time.
    thresholds.t0, thresholds.t1 = 0.3, 0.4
    thresholds.begin_epoch(10)
    assert (thresholds.t0, thresholds.t1) == (0.3, 0.4)


def test_calibration_that_finds_no_precise_score_accepts_nothing() -> None:
    cells, region = cells_and_region(40)
    thresholds = Thresholds(0.70, 0.95, every=1)
    thresholds.collect(predictions(40, wrong=40), cells, region)
    thresholds.begin_epoch(1)
    assert (thresholds.t0, thresholds.t1) == (1.0, 1.0)


def test_few_predictions_and_those_in_the_guard_band_change_nothing() -> None:
    cells, region = cells_and_region(40)
    thresholds = Thresholds(0.70, 0.95, every=1)
    thresholds.collect(predictions(10, wrong=10), cells, region)
    found = predictions(40, wrong=40)
    at_the_side = Candidates(found.boxes_px + 21.0, found.scores, found.pictures)
    thresholds.collect(at_the_side, cells, region)
    thresholds.begin_epoch(1)
    assert (thresholds.t0, thresholds.t1) == (0.70, 0.95)


def test_fixed_thresholds_stay() -> None:
    thresholds = Thresholds(0.70, 0.95)
    assert not any(thresholds.collects(epoch) for epoch in range(20))
    thresholds.begin_epoch(5)
    assert (thresholds.t0, thresholds.t1, thresholds.floor(4)) == (0.70, 0.95, 0.70)
