"""Pictures made smaller, with and without one that somebody halved already."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.cameras.device import shrink
from edge_runtime.shrinking import halved, resized
from edge_runtime.types import Frame, UInt8Image


def grains(width: int, height: int) -> UInt8Image:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


def test_halving_takes_the_mean_of_two_by_two() -> None:
    pixels = grains(7, 5)
    pairs = pixels[:4, :6].reshape(2, 2, 3, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(halved(pixels) - pairs).max() <= 0.5


SIZES = pytest.mark.parametrize(
    ("width", "height"), [(1920, 1080), (1281, 721), (640, 480), (4001, 300)]
)


@SIZES
def test_a_half_made_by_others_changes_nothing(width: int, height: int) -> None:
    frame = Frame(0, 0, grains(width, height), "grains")
    small = (width // 3, height // 3)
    assert np.array_equal(resized(frame.pixels, *small, frame.half), resized(frame.pixels, *small))


@SIZES
@pytest.mark.parametrize("longest", [100, 320, 800])
def test_a_picture_for_people_by_a_half_made_by_others(
    width: int, height: int, longest: int
) -> None:
    frame = Frame(0, 0, grains(width, height), "grains")
    alone = shrink(frame.pixels, longest)
    seen = shrink(frame.pixels, longest, frame.half)
    assert seen.shape == alone.shape
    assert seen.shape[1] == min(longest, width)
    if longest * 4 > width:
        assert np.array_equal(seen, alone)
    # Every pixel counts, not the middle ones of sixteen alone.
    assert seen.std() <= alone.std()


def test_a_small_picture_for_people_is_left_as_it_is() -> None:
    pixels = grains(300, 200)
    assert shrink(pixels, 300) is pixels
