"""Registration: known mappings come back, and every acceptance test can fail by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import paint_field
from tests.train.datasets.conftest import See
from train.datasets.homography import (
    Check,
    Matrix,
    Registration,
    agreement_checks,
    both_ways_px,
    chained,
    fit_homography,
    frame_corners,
    mapped_points,
    register,
    round_trip_px,
    shape_checks,
)
from train.datasets.landmarks import find_landmarks, match, picture_size, shrunk, working_factors

SIZE = (400, 300)
TARGET = (500, 400)


def similarity(scale: float, degrees: float, dx: float = 0.0, dy: float = 0.0) -> Matrix:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, dx], [s, c, dy], [0, 0, 1.0]])


def failed(checks: tuple[Check, ...] | list[Check]) -> set[str]:
    return {each.name for each in checks if not each.passed}


def registered(
    source: NDArray[np.uint8], target: NDArray[np.uint8], scale: float | None
) -> Registration:
    one, other = working_factors(picture_size(source), picture_size(target), scale)
    return register(
        find_landmarks(source, one), find_landmarks(target, other), expected_scale=scale
    )


# --- points -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_similarity_with_noise_and_40_percent_outliers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = similarity(float(rng.uniform(0.1, 1.2)), float(rng.uniform(-180, 180)), 90, 60)
    source = rng.uniform(0, SIZE, (100, 2))
    target = mapped_points(true, source) + rng.normal(0, 0.7, (100, 2))
    wrong = rng.permutation(100)[:40]
    target[wrong] = rng.uniform(-100, 500, (40, 2))
    matrix, agree = fit_homography(source, target)
    assert matrix is not None
    centre = np.array([SIZE]) / 2
    assert np.hypot(*(mapped_points(matrix, centre) - mapped_points(true, centre))[0]) < 1
    right = np.setdiff1d(np.arange(100), wrong)
    assert agree[right].mean() > 0.95
    again, same = fit_homography(source, target)
    assert again is not None
    assert np.array_equal(matrix, again)
    assert np.array_equal(agree, same)


def test_mirrored_points_fail_by_orientation() -> None:
    rng = np.random.default_rng(0)
    source = rng.uniform(0, SIZE, (60, 2))
    target = source * [-1, 1] + [SIZE[0], 0]
    matrix, agree = fit_homography(source, target)
    assert matrix is not None
    assert agree.all()
    assert failed(list(shape_checks(matrix, SIZE, SIZE, expected_scale=1.0))) == {"orientation"}


@pytest.mark.parametrize(
    "source",
    [np.zeros((0, 2)), np.zeros((3, 2)), np.zeros((20, 2)), np.arange(40.0).reshape(20, 2)],
)
def test_points_that_decide_nothing_give_nothing(source: NDArray[np.float64]) -> None:
    matrix, agree = fit_homography(source, source[::-1].copy())
    # Points on one line may be mapped somehow, but never so that a frame survives it.
    if matrix is None:
        assert not agree.any()
    else:
        assert failed(list(shape_checks(matrix, SIZE, SIZE, expected_scale=1.0)))


# --- acceptance, one limit at a time -------------------------------------------------------


def test_a_good_mapping_passes_everything() -> None:
    matrix = similarity(0.4, 12, 200, 100)
    checks = list(shape_checks(matrix, SIZE, TARGET, expected_scale=0.4))
    assert failed(checks) == set()
    assert {each.name: each.value for each in checks}["scale"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("factor", "passes"), [(0.74, False), (0.76, True), (1.24, True), (1.26, False)]
)
def test_scale_within_a_quarter(factor: float, passes: bool) -> None:
    matrix = similarity(0.4 * factor, 30, 200, 100)
    names = failed(list(shape_checks(matrix, SIZE, TARGET, expected_scale=0.4)))
    assert names == (set() if passes else {"scale"})
    # Nothing to compare with: not tested.
    checks = list(shape_checks(matrix, SIZE, TARGET, expected_scale=None))
    assert "scale" not in {each.name for each in checks}


@pytest.mark.parametrize(("stretch", "passes"), [(1.14, True), (1.16, False)])
def test_anisotropy(stretch: float, passes: bool) -> None:
    turn = similarity(1, 33)
    matrix = turn @ np.diag([0.4 * stretch, 0.4, 1]) @ turn.T
    matrix[:2, 2] = 150
    names = failed(list(shape_checks(matrix, SIZE, TARGET, expected_scale=0.4)))
    assert names == (set() if passes else {"anisotropy"})


@pytest.mark.parametrize(
    ("dx", "passes"), [(-24.0, True), (-26.0, False), (364.0, True), (366.0, False)]
)
def test_corners_inside_the_target(dx: float, passes: bool) -> None:
    # 160 px wide on the target; 5 % of its 500 px are 25 px.
    matrix = similarity(0.4, 0, dx, 100)
    names = failed(list(shape_checks(matrix, SIZE, TARGET, expected_scale=0.4)))
    assert names == (set() if passes else {"corners inside"})
    free = shape_checks(matrix, SIZE, TARGET, expected_scale=0.4, corner_margin=None)
    assert failed(list(free)) == set()


def test_a_folded_frame_fails() -> None:
    # The line that a perspective sends to infinity runs through the frame.
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-1 / 300, 0, 1.0]])
    names = failed(list(shape_checks(matrix, SIZE, TARGET, expected_scale=None)))
    assert {"orientation", "corners convex", "corners inside"} <= names


@pytest.mark.parametrize(
    ("count", "matches", "expected"),
    [
        (15, 60, set()),
        (14, 56, {"inliers"}),
        (15, 61, {"inlier ratio"}),
        (0, 0, {"inliers", "inlier ratio", "quadrants"}),
    ],
)
def test_number_and_share_of_inliers(count: int, matches: int, expected: set[str]) -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, SIZE, (count, 2))
    assert failed(list(agreement_checks(matches, points, SIZE))) == expected


@pytest.mark.parametrize(
    ("corners", "passes"),
    [([(0, 0)], False), ([(0, 0), (1, 1)], False), ([(0, 0), (1, 0), (0, 1)], True)],
)
def test_inliers_in_three_quadrants(corners: list[tuple[int, int]], passes: bool) -> None:
    rng = np.random.default_rng(2)
    half = np.array(SIZE) / 2
    points = np.concatenate([rng.uniform(0, 1, (20, 2)) * half + half * each for each in corners])
    names = failed(list(agreement_checks(len(points), points, SIZE)))
    assert names == (set() if passes else {"quadrants"})


def test_a_failed_check_says_what_was_wanted() -> None:
    (low, *_) = agreement_checks(20, np.ones((3, 2)), SIZE)
    assert low.line == "inliers: 3, wanted 15 or more"
    nothing = Check.measured("anisotropy", float("nan"), "below 1.15", True)
    assert (nothing.passed, nothing.value) == (False, None)
    assert nothing.line == "anisotropy: not measurable, wanted below 1.15"


# --- distances -----------------------------------------------------------------------------


def test_round_trip_and_both_ways() -> None:
    there = similarity(0.4, 20, 100, 50)
    back = np.asarray(np.linalg.inv(there), np.float64)
    assert round_trip_px(there, SIZE) < 1e-6
    assert both_ways_px(there, back, SIZE) < 1e-6
    moved = similarity(1, 0, 3, 4) @ there
    assert both_ways_px(moved, back, SIZE) == pytest.approx(5)


# --- pictures ------------------------------------------------------------------------------


def test_identity(see: See) -> None:
    pixels, _, _ = see((480, 360), 0.15)
    found = registered(pixels, pixels, 1.0)
    assert found.accepted
    assert found.matrix is not None
    corners = frame_corners((480, 360))
    assert np.abs(mapped_points(found.matrix, corners) - corners).max() < 0.01


def test_a_mirrored_picture_is_rejected(see: See) -> None:
    pixels, _, _ = see((480, 360), 0.15)
    for mirrored in (pixels[:, ::-1], pixels[::-1]):
        found = registered(pixels, np.ascontiguousarray(mirrored), 1.0)
        assert not found.accepted
        assert failed(found.checks) & {"inliers", "orientation"}
    turned = registered(pixels, np.ascontiguousarray(pixels[::-1, ::-1]), 1.0)
    assert turned.accepted


def test_another_field_is_rejected(see: See) -> None:
    one, _, _ = see((300, 240), 0.15, (30.0, 30.0))
    other, _, _ = see((300, 240), 0.15, (95.0, 80.0))
    found = registered(one, other, 1.0)
    assert not found.accepted
    assert "inliers" in failed(found.checks)


def test_a_texture_free_picture_is_rejected_by_name(see: See) -> None:
    pixels, _, _ = see((480, 360), 0.15)
    for blank in (np.full_like(pixels, 200), paint_field(480, 360)):
        for pair in ((pixels, blank), (blank, pixels), (blank, blank)):
            found = registered(*pair, 1.0)
            assert not found.accepted
            assert "inliers" in failed(found.checks)
    nothing = registered(pixels, np.full_like(pixels, 200), 1.0)
    assert nothing.matrix is None
    assert "texture" in failed(nothing.checks)


def test_a_chain_is_the_product_of_its_legs_and_answers_for_both(see: See) -> None:
    source, _, _ = see((640, 480), 0.1)
    between, _, _ = see((480, 400), 0.22, (62.0, 53.0), seed=1, blur_um=0.2)
    first = registered(source, between, 0.1 / 0.22)
    second = registered(between, between, 1.0)
    found = chained(first, second, expected_scale=0.1 / 0.22)
    assert found.accepted
    assert found.legs == (first, second)
    assert first.matrix is not None
    assert found.matrix is not None
    assert np.abs(found.matrix - first.matrix).max() < 0.05
    wrong = chained(first, registered(between, np.full_like(between, 200), 1.0), expected_scale=1.0)
    assert wrong.matrix is None
    assert {"from chain: texture", "from chain: inliers"} <= failed(wrong.checks)
    off = chained(first, second, expected_scale=0.1)
    assert failed(off.checks) == {"scale"}


# --- working scale -------------------------------------------------------------------------


def test_working_factors_bring_both_to_one_scale() -> None:
    assert working_factors((400, 300), (400, 300), None) == (1, 1)
    assert working_factors((400, 300), (400, 300), 0.4) == (0.4, 1)
    assert working_factors((400, 300), (400, 300), 2.5) == (1, 0.4)
    one, other = working_factors((8192, 4000), (8192, 4000), 0.5)
    assert one / other == pytest.approx(0.5)
    assert other * 8192 == pytest.approx(2048)


def test_a_landmark_keeps_its_place_whatever_the_working_scale(see: See) -> None:
    pixels, _, _ = see((640, 480), 0.1)
    small = find_landmarks(pixels, 0.5)
    whole = find_landmarks(shrunk(pixels, 0.5), 1.0)
    pairs = match(small, whole)
    assert len(pairs) > 50
    # The contrast is evened out before shrinking in one, after it in the other.
    off = small.points_xy[pairs[:, 0]] / 2 - whole.points_xy[pairs[:, 1]]
    assert np.abs(np.median(off, axis=0)).max() < 0.1


@pytest.mark.realdata
def test_a_real_field_registers_with_its_reduced_self(shared_data: Path) -> None:
    from edge_runtime.image_file import read_image

    folder = shared_data / "wbc-domains" / "bccd" / "images" / "val"
    picture = read_image(sorted(folder.iterdir())[0])
    found = registered(picture, shrunk(picture, 0.4), 0.4)
    assert found.matrix is not None
    true = np.diag([0.4, 0.4, 1.0])
    assert both_ways_px(found.matrix, np.linalg.inv(true), picture_size(picture)) < 1
