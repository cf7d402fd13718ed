"""The box of a training window goes where the cell goes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from train.datasets.cell_windows import WindowSpec, draw_window

STILL = WindowSpec(box_jitter=0, restained=0, lens=0)
PAPER, CELL = 230, 20


def picture(width: int = 300, height: int = 260) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.full((height, width, 3), PAPER, np.uint8)
    cv2.ellipse(pixels, (150, 120), (45, 30), 0, 0, 360, (CELL,) * 3, cv2.FILLED)
    return pixels, np.array([104.5, 89.5, 196.5, 151.5], np.float32) + np.float32(0)


@pytest.mark.parametrize("seed", range(12))
def test_the_box_is_the_extent_of_the_cell(seed: int) -> None:
    pixels, box = picture()
    rng = np.random.default_rng(seed)
    window, moved = draw_window(pixels, box, 320 / 300, rng, STILL)
    rows, columns = np.nonzero(window[:, :, 0] < (PAPER + CELL) / 2 - 20)
    # The pad is lighter than half way, so dark pixels are the cell's.
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert moved == pytest.approx(np.array(seen, float), abs=2.0)
    assert window.shape == (224, 224, 3)


def test_the_whole_cell_is_inside_however_large() -> None:
    pixels, _ = picture()
    box = np.array([20, 10, 280, 250], np.float32)
    large = STILL.model_copy(update={"small_share": 0.0})
    for seed in range(20):
        _, moved = draw_window(pixels, box, 1.5, np.random.default_rng(seed), large)
        assert moved.min() >= 0
        assert moved.max() <= 224
        assert (moved[2:] - moved[:2]).min() > 100


def test_jitter_moves_the_sides_and_nothing_else() -> None:
    pixels, box = picture()
    loose = STILL.model_copy(update={"box_jitter": 0.2})
    still = draw_window(pixels, box, 1.0, np.random.default_rng(2), STILL)
    moved = draw_window(pixels, box, 1.0, np.random.default_rng(2), loose)
    assert (still[0] == moved[0]).all()
    assert np.abs(still[1] - moved[1]).max() > 1


def test_windows_hang_on_the_seed_alone() -> None:
    pixels, box = picture()
    one, other, third = (
        draw_window(pixels, box, 1.0, np.random.default_rng(seed), WindowSpec())
        for seed in (5, 5, 6)
    )
    assert (one[0] == other[0]).all()
    assert (one[1] == other[1]).all()
    assert not (one[0] == third[0]).all()
