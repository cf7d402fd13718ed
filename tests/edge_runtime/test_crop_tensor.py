"""Boxes to the classifier's batch: which pixels a crop holds, and at which size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import CropInputSpec
from edge_runtime.preprocess import crop_tensor

SPEC = CropInputSpec(name="crops", width=24, height=24, scale=1.0, pad_value=114, margin=0.0)


def spec_with(**changes: object) -> CropInputSpec:
    return SPEC.model_copy(update=changes)


def noise(height: int, width: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_a_crop_of_the_inputs_size_is_the_frames_own_pixels() -> None:
    pixels = noise(60, 80)
    crop = crop_tensor(pixels, boxes((10, 20, 34, 44)), spec_with(scale=1 / 255))
    assert crop.shape == (1, 3, 24, 24)
    assert crop.dtype == np.float32
    assert crop.flags.c_contiguous
    expected = pixels[20:44, 10:34].transpose(2, 0, 1) * np.float32(1 / 255)
    np.testing.assert_array_equal(crop[0], expected)


def test_the_square_is_as_wide_as_the_longer_side_and_its_margins() -> None:
    pixels = noise(200, 200)
    # Longer side 40, a quarter on each side, and 3 pixels: 40 * 1.5 + 6 = 66.
    spec = spec_with(width=66, height=66, margin=0.25, margin_px=3)
    crop = crop_tensor(pixels, boxes((80, 90, 120, 110)), spec)
    np.testing.assert_array_equal(crop[0], pixels[67:133, 67:133].transpose(2, 0, 1))


def test_beyond_the_frame_lies_the_pad_value() -> None:
    pixels = np.full((50, 50, 3), 7, np.uint8)
    crop = crop_tensor(pixels, boxes((-12, -6, 12, 18), (40, 40, 64, 64)), SPEC)
    assert (crop[0, :, :6] == 114).all()
    assert (crop[0, :, :, :12] == 114).all()
    assert (crop[0, :, 6:, 12:] == 7).all()
    assert (crop[1, :, :10, :10] == 7).all()
    assert (crop[1, :, 10:] == 114).all()
    away = crop_tensor(pixels, boxes((100, 100, 120, 120), (-90, 4, -70, 24)), SPEC)
    assert (away == 114).all()


def test_shrinking_averages_areas_and_enlarging_interpolates() -> None:
    pixels = noise(100, 100)
    small = crop_tensor(pixels, boxes((0, 0, 96, 96)), SPEC)[0]
    means = pixels[:96, :96].reshape(24, 4, 24, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(small - means).max() <= 0.51
    large = crop_tensor(pixels, boxes((30, 30, 42, 42)), SPEC)[0]
    expected = cv2.resize(pixels[30:42, 30:42], (24, 24), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(large, expected.transpose(2, 0, 1))


def test_no_boxes_make_an_empty_batch() -> None:
    assert crop_tensor(noise(9, 9), boxes(), SPEC).shape == (0, 3, 24, 24)


@pytest.mark.parametrize("box", [(5.0, 5.0, 5.2, 5.1), (5.5, 5.5, 5.5, 5.5)])
def test_a_box_below_one_pixel_still_has_a_crop(box: tuple[float, float, float, float]) -> None:
    pixels = np.full((9, 9, 3), 60, np.uint8)
    assert (crop_tensor(pixels, boxes(box), SPEC) == 60).all()


@settings(max_examples=100, deadline=None)
@given(x=st.floats(-40, 140), y=st.floats(-40, 100), w=st.floats(1, 90), h=st.floats(1, 90))
def test_every_box_fills_its_own_row(x: float, y: float, w: float, h: float) -> None:
    pixels = noise(60, 100)
    box = (x, y, x + w, y + h)
    together = crop_tensor(pixels, boxes((1, 2, 30, 40), box), SPEC)
    np.testing.assert_array_equal(together[1], crop_tensor(pixels, boxes(box), SPEC)[0])
    assert together.min() >= 0
    assert together.max() <= 255
