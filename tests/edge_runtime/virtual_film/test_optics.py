"""The optical chain: profiles, truth in a window, and what each fault does to a frame."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_runtime.virtual_film import (
    PROFILES,
    OpticalProfile,
    Optics,
    VirtualFilm,
    truth_in_window,
)

PLAIN = OpticalProfile(
    "plain", pixel_size_um=0.12, resolution=(320, 240), frame_rate_hz=1.0, blur_sigma_um=0.12
)


def _rng() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(1))


def _middle(film: VirtualFilm) -> tuple[float, float]:
    return (film.size_um[0] / 2, film.size_um[1] / 2)


def test_the_table_holds_the_microscopes_of_the_papers() -> None:
    assert set(PROFILES) == {"hcm_100x_c2", "hcm_40x_c2", "lcm_100x_c2", "lcm_40x_c2", "phone"}
    for name, profile in PROFILES.items():
        assert profile.name == name
        share = 14.0 / profile.field_um[0]
        low, high = (0.03, 0.06) if "40x" in name else (0.08, 0.15)
        assert low < share < high, name
    for power in ("100x", "40x"):
        hcm, lcm = PROFILES[f"hcm_{power}_c2"], PROFILES[f"lcm_{power}_c2"]
        assert lcm.blur_sigma_um > hcm.blur_sigma_um
        assert lcm.chromatic_aberration_px > hcm.chromatic_aberration_px
        assert lcm.sensor_noise_sigma > hcm.sensor_noise_sigma


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_frames_have_the_profile_s_shape_and_repeat(film: VirtualFilm, name: str) -> None:
    optics = Optics(PROFILES[name])
    frame = optics.capture(film, _middle(film), _rng())
    width, height = PROFILES[name].resolution
    assert frame.shape == (height, width, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    assert np.array_equal(frame, Optics(PROFILES[name]).capture(film, _middle(film), _rng()))


@pytest.mark.parametrize("pixel_size_um", [0.05, 0.12, 0.31, 0.9])
def test_truth_lies_on_the_stain_at_every_scale(film: VirtualFilm, pixel_size_um: float) -> None:
    profile = replace(PLAIN, pixel_size_um=pixel_size_um, chromatic_aberration_px=2.0)
    seen = 0
    optics = Optics(profile)
    for cell in (c for c in film.cells if c.class_name in ("blast", "lymphocyte")):
        frame = optics.capture(film, cell.centre_um, _rng())
        truth = {t.film_id: t for t in truth_in_window(film, profile, cell.centre_um, 0.9)}
        if cell.id not in truth:
            continue  # larger than the field
        seen += 1
        x1, y1, x2, y2 = truth[cell.id].box_xyxy
        assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((160.0, 120.0), abs=1e-3)
        core = frame[
            round(y1 + 0.3 * (y2 - y1)) : round(y1 + 0.7 * (y2 - y1)),
            round(x1 + 0.3 * (x2 - x1)) : round(x1 + 0.7 * (x2 - x1)),
            1,
        ]
        assert core.mean() < 0.7 * film.stain.background_rgb[1]
    assert seen >= 5


def test_a_cell_lies_within_a_pixel_of_its_box(film: VirtualFilm) -> None:
    """The dark area of a lone dot on an otherwise clear film has its middle in the frame's."""
    planes = [np.full_like(p, 230) for p in film.pyramid]
    at_um = (101.3, 77.7)
    x, y = (v / film.pixel_size_um for v in at_um)
    rows, columns = np.indices(planes[0].shape[1:])
    planes[0][:, (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < 25**2] = 40
    for level in range(1, len(planes)):
        planes[level] = np.stack([cv2.pyrDown(p) for p in planes[level - 1]])
    lone = replace(film, pyramid=tuple(planes))
    for pixel_size_um in (0.06, 0.12, 0.2, 0.33, 0.6):
        for nudge in (0.0, 0.037, 0.081, 0.113):
            centre = (at_um[0] + nudge, at_um[1] - nudge)
            profile = replace(PLAIN, pixel_size_um=pixel_size_um, resolution=(200, 150))
            frame = Optics(profile).capture(lone, centre, _rng())[:, :, 1].astype(float)
            weight = np.clip(220 - frame, 0, None)
            row, column = (
                float((weight.sum(axis=axis) * (np.arange(n) + 0.5)).sum() / weight.sum())
                for axis, n in ((1, 150), (0, 200))
            )
            assert column == pytest.approx(100 - nudge / pixel_size_um, abs=1.0)
            assert row == pytest.approx(75 + nudge / pixel_size_um, abs=1.0)


def test_no_box_leaves_the_frame_and_cut_cells_know_it(film: VirtualFilm) -> None:
    width, height = PLAIN.resolution
    cut = 0
    for x in np.arange(10, 240, 17.0):
        for y in np.arange(10, 180, 13.0):
            for cell in truth_in_window(film, PLAIN, (x, y), min_visible=0.2):
                x1, y1, x2, y2 = cell.box_xyxy
                assert 0 <= x1 < x2 <= width
                assert 0 <= y1 < y2 <= height
                assert 0.2 <= cell.visible <= 1.0
                whole = film.cells[cell.film_id].box_um_xyxy
                area = (whole[2] - whole[0]) * (whole[3] - whole[1]) / 0.12**2
                assert (x2 - x1) * (y2 - y1) == pytest.approx(cell.visible * area, rel=1e-3)
                cut += cell.visible < 0.99
    assert cut > 20


def test_min_visible_decides_what_counts(film: VirtualFilm) -> None:
    cell = next(c for c in film.cells if c.is_white_cell)
    x1, _, x2, _ = cell.box_um_xyxy
    # The frame's left edge passes through the cell so that 40 % of it are shown.
    centre = (x1 + 0.6 * (x2 - x1) + PLAIN.field_um[0] / 2, cell.centre_um[1])
    half = {c.film_id: c for c in truth_in_window(film, PLAIN, centre, 0.5)}
    third = {c.film_id: c for c in truth_in_window(film, PLAIN, centre, 0.3)}
    assert cell.id not in half
    assert third[cell.id].visible == pytest.approx(0.4, abs=0.01)
    assert third[cell.id].box_xyxy[0] == 0


def test_beyond_the_film_there_is_clear_film(film: VirtualFilm) -> None:
    frame = Optics(PLAIN).capture(film, (-500.0, -500.0), _rng())
    assert np.ptp(frame.reshape(-1, 3), axis=0).max() == 0
    assert frame[0, 0] == pytest.approx(film.stain.background_rgb, abs=1)
    assert truth_in_window(film, PLAIN, (-500.0, -500.0)) == []
    corner = Optics(PLAIN).capture(film, (0.0, 0.0), _rng())
    assert np.ptp(corner[:115, :155].reshape(-1, 3), axis=0).max() <= 1
    assert corner[125:, 165:].std(axis=(0, 1)).min() > 5.0


def test_blur_takes_detail_away(film: VirtualFilm) -> None:
    def detail(blur_sigma_um: float) -> float:
        optics = Optics(replace(PLAIN, blur_sigma_um=blur_sigma_um))
        green = optics.capture(film, _middle(film), _rng())[:, :, 1].astype(float)
        return float((green[:, 3:] - green[:, :-3]).var())

    assert detail(0.12) > 1.3 * detail(0.3) > 2 * detail(0.8)


def test_noise_has_the_strength_asked_for(film: VirtualFilm) -> None:
    clear = Optics(replace(PLAIN, sensor_noise_sigma=4.0)).capture(film, (-500.0, 0.0), _rng())
    assert clear.std(axis=(0, 1)) == pytest.approx([4.0] * 3, rel=0.15)
    rng = _rng()
    optics = Optics(replace(PLAIN, sensor_noise_sigma=4.0))
    one, two = (optics.capture(film, _middle(film), rng) for _ in range(2))
    assert not np.array_equal(one, two)


def test_vignetting_and_white_balance_show_on_clear_film(film: VirtualFilm) -> None:
    profile = replace(PLAIN, vignetting=0.5, white_balance=(1.0, 0.9, 0.7))
    frame = Optics(profile).capture(film, (-500.0, -500.0), _rng()).astype(float)
    frame /= np.asarray(film.stain.background_rgb)
    middle, corner = frame[115:125, 155:165].mean(axis=(0, 1)), frame[:5, :5].mean(axis=(0, 1))
    assert middle == pytest.approx([1.0, 0.9, 0.7], abs=0.03)
    assert corner[1] < 0.65 * middle[1]


def test_chromatic_aberration_shifts_red_against_blue(film: VirtualFilm) -> None:
    """Near the right edge, red lies farther from the middle than blue."""
    centre = _middle(film)
    profile = replace(PLAIN, chromatic_aberration_px=8.0, blur_sigma_um=0.3)
    frame = Optics(profile).capture(film, centre, _rng()).astype(np.float32)
    plain = Optics(replace(profile, chromatic_aberration_px=0.0, blur_sigma_um=0.5))
    reference = plain.capture(film, centre, _rng()).astype(np.float32)
    shifts = []
    for channel in (0, 2):
        window = np.outer(np.hanning(200), np.hanning(96)).astype(np.float32)
        one, two = (image[20:220, 220:316, channel].copy() for image in (reference, frame))
        (dx, _), _ = cv2.phaseCorrelate(one, two, window)
        shifts.append(dx)
    red, blue = shifts
    assert red - blue == pytest.approx(8.0 * 108 / 200, abs=1.3)


def test_jpeg_changes_little(film: VirtualFilm) -> None:
    raw = Optics(PLAIN).capture(film, _middle(film), _rng()).astype(int)
    packed = Optics(replace(PLAIN, jpeg_quality=85)).capture(film, _middle(film), _rng())
    difference = np.abs(raw - packed)
    assert 0 < difference.mean() < 4
