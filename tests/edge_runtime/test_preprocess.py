"""Frames to tensors: geometry there and back, and what the numbers are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import InputSpec
from edge_runtime.preprocess import Window, fit_window, tensor_of
from edge_runtime.types import Frame, UInt8Image
from tests.support import paint_field

SPEC = InputSpec(name="images", width=320, height=320, scale=1 / 255, pad_value=114)
QUICK = settings(max_examples=150, deadline=None)
SIDES = st.integers(32, 5000)


def spec_of(width: int, height: int) -> InputSpec:
    return SPEC.model_copy(update={"width": width, "height": height})


def extent(window: Window) -> tuple[int, int]:
    """Input pixels that the window's picture takes."""
    return (
        round((window.x2 - window.x1) * window.scale_x),
        round((window.y2 - window.y1) * window.scale_y),
    )


@QUICK
@given(width=SIDES, height=SIDES, side_x=st.integers(1, 20), side_y=st.integers(1, 20))
def test_the_whole_frame_fits_in_proportion(
    width: int, height: int, side_x: int, side_y: int
) -> None:
    spec = spec_of(32 * side_x, 32 * side_y)
    window = fit_window(width, height, spec)
    assert (window.x1, window.y1, window.x2, window.y2) == (0, 0, width, height)
    wide, high = extent(window)
    assert 1 <= wide <= spec.width
    assert 1 <= high <= spec.height
    assert wide == spec.width or high == spec.height
    # Centred: what is left over is split evenly, the odd pixel on the far side.
    assert 0 <= spec.width - wide - 2 * window.pad_x <= 1
    assert 0 <= spec.height - high - 2 * window.pad_y <= 1
    # One rounded pixel is all that the proportions may lose.
    ideal = min(spec.width / width, spec.height / height)
    assert abs(wide - max(1.0, width * ideal)) <= 0.5 + 1e-6
    assert abs(high - max(1.0, height * ideal)) <= 0.5 + 1e-6


@QUICK
@given(
    width=SIDES,
    height=SIDES,
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_come_back_where_they_were(width: int, height: int, corners: list[float]) -> None:
    window = fit_window(width, height, SPEC)
    box = np.array(
        [[corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height]]
    )
    scale = np.array([window.scale_x, window.scale_y] * 2)
    pad = np.array([window.pad_x, window.pad_y] * 2)
    back = window.to_frame((box * scale + pad).astype(np.float32))
    assert back.dtype == np.float32
    # float32 keeps seven digits of up to 5000 pixels, through a multiplication by up to 16.
    np.testing.assert_allclose(back, box, atol=0.02)


def test_boxes_beyond_the_window_are_clipped_to_it() -> None:
    window = Window(100, 50, 300, 250, 1.6, 1.6, 0, 0)
    boxes = np.array([[-50, -50, 400, 400], [0, 0, 320, 320], [16, 32, 48, 64]], np.float32)
    expected = [[100, 50, 300, 250], [100, 50, 300, 250], [110, 70, 130, 90]]
    np.testing.assert_allclose(window.to_frame(boxes), expected, atol=1e-3)


def test_no_boxes_stay_no_boxes() -> None:
    back = fit_window(640, 480, SPEC).to_frame(np.zeros((0, 4), np.float32))
    assert back.shape == (0, 4)


def test_to_frame_leaves_its_argument_alone() -> None:
    boxes = np.array([[-5, -5, 400, 400]], np.float32)
    fit_window(640, 480, SPEC).to_frame(boxes)
    assert boxes.tolist() == [[-5, -5, 400, 400]]


def test_the_tensor_is_the_picture_itself_where_nothing_is_resized() -> None:
    field = paint_field(320, 200, [(100, 100, 60)])
    tensor = tensor_of(field, fit_window(320, 200, SPEC), SPEC)
    assert tensor.shape == (1, 3, 320, 320)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    expected = np.full((320, 320, 3), 114, np.float32)
    expected[60:260] = field
    np.testing.assert_allclose(tensor[0], expected.transpose(2, 0, 1) / 255, atol=1e-6)


def test_red_stays_the_first_channel() -> None:
    red = np.zeros((320, 320, 3), np.uint8)
    red[:, :, 0] = 200
    tensor = tensor_of(red, fit_window(320, 320, SPEC), SPEC)
    np.testing.assert_allclose(tensor.mean(axis=(0, 2, 3)), [200 / 255, 0, 0], atol=1e-6)


@pytest.mark.parametrize("value", [0.5, 1.0, 2 / 255])
def test_the_scale_is_the_manifests(value: float) -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    spec = SPEC.model_copy(update={"scale": value})
    assert tensor_of(white, fit_window(64, 64, spec), spec).max() == pytest.approx(255 * value)


def test_a_window_shows_its_own_part_only() -> None:
    field = np.zeros((400, 600, 3), np.uint8)
    field[100:200, 300:400] = 255
    inside = Window(300, 100, 400, 200, 3.2, 3.2, 0, 0)
    assert tensor_of(field, inside, SPEC).min() == 1.0
    beside = Window(400, 100, 500, 200, 3.2, 3.2, 0, 0)
    assert tensor_of(field, beside, SPEC).max() == 0.0


def test_shrinking_averages_instead_of_sampling() -> None:
    """One-pixel stripes become grey; sampling would make them black or white."""
    stripes = np.zeros((1280, 1280, 3), np.uint8)
    stripes[:, ::2] = 255
    tensor = tensor_of(stripes, fit_window(1280, 1280, SPEC), SPEC)
    np.testing.assert_allclose(tensor, 0.5, atol=0.01)


def test_the_frame_is_left_as_it_was() -> None:
    field = paint_field(700, 500, [(100, 100, 60)])
    before = field.copy()
    tensor_of(field, fit_window(700, 500, SPEC), SPEC)
    assert np.array_equal(field, before)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 900), height=st.integers(1, 900))
def test_any_size_gives_a_tensor(width: int, height: int) -> None:
    field = np.full((height, width, 3), 200, np.uint8)
    window = fit_window(width, height, SPEC)
    tensor = tensor_of(field, window, SPEC)
    assert tensor.shape == (1, 3, 320, 320)
    wide, high = extent(window)
    # Picture and padding, nothing between: a flat field has two values at most.
    assert np.isclose(tensor[0, 0], 200 / 255).sum() == max(1, wide) * max(1, high)
    assert np.isclose(tensor, 200 / 255).sum() + np.isclose(tensor, 114 / 255).sum() == tensor.size


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(600, 1400), st.integers(600, 1400)),
    corner=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    side=st.integers(100, 540),
)
def test_a_picture_halved_by_others_gives_the_same_tensor(
    size: tuple[int, int], corner: tuple[int, int], side: int
) -> None:
    width, height = size
    pixels = np.random.default_rng(side).integers(0, 256, (height, width, 3), np.uint8)
    frame = Frame(0, 0, pixels, "grains")
    scale = SPEC.width / side
    part = Window(*corner, corner[0] + side, corner[1] + side, scale, scale, 0, 0)
    for window in (part, fit_window(width, height, SPEC)):
        alone = tensor_of(pixels, window, SPEC)
        assert np.array_equal(tensor_of(pixels, window, SPEC, frame.half), alone)


def test_a_frame_is_halved_once_and_only_when_asked() -> None:
    frame = Frame(0, 0, np.zeros((1280, 1280, 3), np.uint8), "black")
    asked: list[int] = []

    def half() -> UInt8Image:
        asked.append(1)
        return frame.half()

    tensor_of(frame.pixels, Window(0, 0, 320, 320, 1.0, 1.0, 0, 0), SPEC, half)
    tensor_of(frame.pixels, Window(1, 0, 1281, 1280, 0.25, 0.25, 0, 0), SPEC, half)
    assert asked == []
    tensor_of(frame.pixels, fit_window(1280, 1280, SPEC), SPEC, half)
    assert asked == [1]
    assert frame.half() is frame.half()


@pytest.mark.parametrize(
    ("side", "most"),
    [
        # A whole number of times: the mean of every block, but for rounding on the way.
        (640, 0.01),
        (960, 0.01),
        (1280, 0.5),
        (1920, 0.5),
        # Halved, and sampled between pixels.
        (684, 2.5),
        (866, 2.5),
        (1444, 2.5),
        # Cannot be halved as often as it should be.
        (1446, 1.0),
        (701, 0.01),
    ],
)
def test_shrinking_is_nearly_the_mean_over_areas(side: int, most: float) -> None:
    """Of what a microscope shows, which is nothing finer than its blur; in grey levels."""
    grains = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    blurred = cv2.GaussianBlur(grains.astype(np.float32), (0, 0), 0.8 * side / 320)
    low, high = float(blurred.min()), float(blurred.max())
    field = np.asarray((blurred - low) * (255 / (high - low)), np.uint8)
    wanted = cv2.resize(field, (320, 320), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    off = tensor_of(field, fit_window(side, side, SPEC), SPEC)[0] * 255 - wanted
    assert np.abs(off).mean() <= most
    assert abs(float(off.mean())) <= 0.3
