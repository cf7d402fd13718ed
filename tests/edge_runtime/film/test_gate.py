"""The field gate: each fault is refused by its name, and good fields pass."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_runtime.cameras.virtual import VirtualCamera
from edge_runtime.film import field_measures
from edge_runtime.film.camera_profile import CameraProfile, GateLimits
from edge_runtime.film.camera_setup import light_of
from edge_runtime.film.field_measures import measure_field, shrunk_field
from edge_runtime.film.gate import FieldGate, shift_between
from edge_runtime.types import Frame, UInt8Image
from edge_runtime.virtual_film import PROFILES, FilmSpec, OpticalProfile, VirtualFilm
from tests.edge_runtime.film.painted_film import paint

# A quarter of the pixels: the measures shrink larger pictures to this anyhow.
PROFILE = replace(PROFILES["hcm_100x_c2"], resolution=(960, 540), pixel_size_um=0.15)


@pytest.fixture(scope="module")
def film() -> VirtualFilm:
    return VirtualFilm.build(6, FilmSpec(size_um=(160.0, 100.0), red_cell_coverage=0.35))


def field(film: VirtualFilm, profile: OpticalProfile = PROFILE, index: int = 0) -> UInt8Image:
    return VirtualCamera(film, profile, 4).frame(index).pixels


def frame(pixels: UInt8Image, *, at_ms: int = 0, size: float | None = 0.15) -> Frame:
    return Frame(0, at_ms * 1_000_000, pixels, "field", size)


def refusal(pixels: UInt8Image, gate: FieldGate | None = None) -> str | None:
    return (gate or FieldGate()).judge(frame(pixels)).refusal


def test_good_fields_pass_and_say_nothing(film: VirtualFilm) -> None:
    for index in range(4):
        verdict = FieldGate().judge(frame(field(film, index=index)))
        assert verdict.good
        assert (verdict.refusal, verdict.reason) == (None, None)


@pytest.mark.parametrize("blur_px", [1.5, 3.0, 5.0])
def test_blur_of_edges_is_measured(blur_px: float) -> None:
    discs = np.full((540, 960, 3), 225, np.uint8)
    for x in range(50, 940, 70):
        for y in range(50, 500, 70):
            cv2.circle(discs, (x, y), 24, (140, 140, 140), -1, cv2.LINE_AA)
    soft = np.asarray(cv2.GaussianBlur(discs, (0, 0), blur_px), np.uint8)
    noise = np.random.default_rng(3).normal(0, 3, soft.shape)
    noisy = np.clip(soft + noise, 0, 255).astype(np.uint8)
    for pixels in (soft, noisy):
        measured = measure_field(pixels, pixel_size_um=0.2)
        assert measured.blur_px == pytest.approx(blur_px, rel=0.2)
        assert measured.blur_um == pytest.approx(0.2 * measured.blur_px)


def test_defocus_of_a_film_is_measured_within_a_factor(film: VirtualFilm) -> None:
    """Drawn cells have soft and thin parts, which are no clean edges."""
    for blur_um in (0.3, 0.5, 0.8):
        soft = replace(PROFILE, blur_sigma_um=blur_um, focus_spread=0.0)
        measured = measure_field(field(film, soft), pixel_size_um=0.15).blur_um
        assert measured is not None
        assert 1.0 <= measured / blur_um <= 1.65


def test_blur_does_not_depend_on_contrast(film: VirtualFilm) -> None:
    sharp = field(film)
    pale = (220 - (220 - sharp.astype(np.float32)) * 0.5).astype(np.uint8)
    one, other = (measure_field(each, pixel_size_um=0.15).blur_px for each in (sharp, pale))
    assert other == pytest.approx(one, rel=0.15)


def test_a_defocused_field_is_refused_with_number_and_advice(film: VirtualFilm) -> None:
    soft = replace(PROFILE, blur_sigma_um=1.4, focus_spread=0.0)
    verdict = FieldGate().judge(frame(field(film, soft)))
    assert verdict.refusal == "out of focus"
    assert verdict.reason is not None
    assert verdict.reason.endswith("µm, at most 1.00): turn the fine focus")


def test_without_a_scale_blur_is_judged_by_the_field(film: VirtualFilm) -> None:
    pixels = cv2.GaussianBlur(field(film), (0, 0), 14)
    verdict = FieldGate().judge(frame(np.asarray(pixels, np.uint8), size=None))
    if verdict.measures.blur_um is None:
        assert verdict.reason is not None
        assert "pixels, at most 9.6" in verdict.reason
    assert verdict.refusal == "out of focus"


def test_smear_is_told_from_blur(film: VirtualFilm) -> None:
    kernel = np.full((1, 31), 1 / 31, np.float32)
    moved = np.asarray(cv2.filter2D(field(film), -1, kernel), np.uint8)
    turned = np.asarray(cv2.filter2D(field(film), -1, kernel.T), np.uint8)
    assert refusal(moved) == refusal(turned) == "in motion"


@pytest.mark.parametrize(("gain", "wanted"), [(0.3, "too dark"), (1.7, "too bright")])
def test_exposure(film: VirtualFilm, gain: float, wanted: str) -> None:
    assert refusal(np.clip(field(film) * gain, 0, 255).astype(np.uint8)) == wanted


def test_clear_glass_is_empty_with_and_without_noise() -> None:
    glass = np.full((540, 960, 3), (225, 220, 215), np.uint8)
    noise = np.random.default_rng(4).normal(0, 4, glass.shape)
    assert refusal(glass) == "empty field"
    assert refusal(np.clip(glass + noise, 0, 255).astype(np.uint8)) == "empty field"


def test_layers_over_layers_are_too_thick(film: VirtualFilm) -> None:
    light = np.ones((540, 960, 3))
    for index in range(4):
        light *= field(film, index=index)[:: 1 if index % 2 else -1] / 235.0
    deep = np.clip(np.minimum(light, 1) * 235, 0, 255).astype(np.uint8)
    assert FieldGate(profile(stained_most=0.7)).judge(frame(deep)).refusal == "too thick"


def profile(**limits: float) -> CameraProfile:
    return CameraProfile(
        name="test",
        source="virtual",
        made_at="2026-01-02T03:04:05+00:00",
        width=960,
        height=540,
        pixel_size_um=0.15,
        limits=GateLimits().model_copy(update=limits),
    )


def test_uneven_light_is_not_taken_for_stain() -> None:
    fall = np.linspace(0.4, 1.0, 960)[None, :, None]
    glass = (np.full((540, 960, 3), 220.0) * fall).astype(np.uint8)
    light = np.array(light_of(glass), np.float32)
    flat = measure_field(glass, pixel_size_um=0.15, light=light)
    assert flat.stained < 0.02 < 0.5 < measure_field(glass, pixel_size_um=0.15).stained


def test_a_live_camera_sees_the_stage_move(film: VirtualFilm) -> None:
    wide = np.tile(field(film), (1, 2, 1))
    gate = FieldGate(live=True)
    assert gate.judge(frame(wide[:, :960])).shift_share is None
    still = gate.judge(frame(wide[:, 1:961], at_ms=33))
    assert still.good
    moved = gate.judge(frame(wide[:, 60:1020], at_ms=66))
    assert moved.refusal == "in motion"
    assert moved.shift_share == pytest.approx(59 / 960, abs=0.01)
    assert moved.reason is not None
    assert moved.reason.startswith("in motion (moved 6.")


def test_another_scene_within_a_moment_is_motion_and_after_a_pause_none(
    film: VirtualFilm,
) -> None:
    gate = FieldGate(live=True)
    one, other = field(film, index=0), field(film, index=3)[::-1]
    gate.judge(frame(one))
    assert gate.judge(frame(np.ascontiguousarray(other), at_ms=40)).refusal == "in motion"
    assert gate.judge(frame(one, at_ms=5000)).good


def test_pictures_of_a_folder_do_not_move(film: VirtualFilm) -> None:
    gate = FieldGate()
    for index in (0, 3):
        assert gate.judge(frame(field(film, index=index), at_ms=index)).shift_share is None


def test_the_way_of_the_film_is_found_between_two_pictures() -> None:
    film = cv2.cvtColor(paint((600, 400)), cv2.COLOR_RGB2GRAY).astype(np.float32)
    before, now = film[100:250, 100:340].copy(), film[112:262, 70:310].copy()
    strange = cv2.cvtColor(paint((600, 400), seed=9), cv2.COLOR_RGB2GRAY).astype(np.float32)
    # Again and again: OpenCV would change the pictures that it is given.
    for _ in range(3):
        # The stage went left and down, so what was seen went right and up.
        assert shift_between(before, now) == pytest.approx((30, -12), abs=0.2)
        assert shift_between(before, strange[100:250, 100:340]) is None


@pytest.mark.parametrize("percent", [1.0, 50.0, 97.0, 98.0])
def test_counted_percentiles_are_those_of_sorting(percent: float) -> None:
    values = np.random.default_rng(3).gamma(2.0, 20.0, (240, 320)).astype(np.float32)
    (level,) = field_measures._levels(values, [percent])
    assert level == pytest.approx(float(np.percentile(values, percent)), abs=0.1)
    slope = field_measures._slope_over(values, percent)
    assert slope == pytest.approx(float(np.percentile(values[::2], percent)), abs=0.15)


def test_levels_beyond_counting_are_the_highest_that_counts() -> None:
    """Where hardly any light falls, what is divided by it grows without bound."""
    values = np.full((20, 20), 1e9, np.float32)
    values[0] = 100
    assert field_measures._levels(values, [1, 97]) == [100, pytest.approx(4096, abs=0.1)]


def test_nothing_at_all_has_no_slope() -> None:
    measured = measure_field(np.full((90, 120, 3), 200, np.uint8), pixel_size_um=0.2)
    assert (measured.edge_slope, measured.stained) == (0.0, 0.0)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_blur_is_told_in_pixels_of_the_frame(film: VirtualFilm, times: int) -> None:
    """However large the camera."""
    small = field(film)
    large = np.asarray(
        cv2.resize(small, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC), np.uint8
    )
    told = measure_field(large, pixel_size_um=0.2).blur_px / times
    assert told == pytest.approx(measure_field(small, pixel_size_um=0.2).blur_px, rel=0.35)


@pytest.mark.parametrize(
    ("width", "height", "times"),
    [(1024, 700, 1), (1025, 700, 2), (1921, 1081, 2), (4056, 3040, 4), (5000, 3, 2), (3000, 1, 1)],
)
def test_large_fields_are_halved(width: int, height: int, times: int) -> None:
    small, told = shrunk_field(np.full((height, width, 3), 90, np.uint8))
    assert told == times
    assert small.shape == (height // times, width // times, 3)
