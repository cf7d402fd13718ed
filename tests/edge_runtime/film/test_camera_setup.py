"""Setting a camera up: light, colour, scale, limits, and the profile's file."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_runtime.errors import SettingsError
from edge_runtime.film.camera_profile import CameraProfile, GateLimits, load_profile, save_profile
from edge_runtime.film.camera_setup import (
    build_profile,
    light_of,
    limits_of,
    pixel_size_of_micrometer,
    pixel_size_of_red_cells,
    white_balance_of,
)
from edge_runtime.film.field_measures import measure_field
from edge_runtime.setup_cli import app
from edge_runtime.types import UInt8Image

WIDTH, HEIGHT = 480, 360


def glass(colour: tuple[int, int, int] = (210, 200, 180), fall: float = 0.3) -> UInt8Image:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    radius = ((x - WIDTH / 2) ** 2 + (y - HEIGHT / 2) ** 2) / (WIDTH**2 + HEIGHT**2) * 4
    lit = np.array(colour) * (1 - fall * radius)[:, :, None]
    noise = np.random.default_rng(1).normal(0, 2, lit.shape)
    return np.asarray(np.clip(lit + noise, 0, 255), np.uint8)


def scale(period: float, degrees: float, *, missing: int | None = None) -> UInt8Image:
    """Dark lines ``period`` pixels apart, turned, on bright ground."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    turn = np.radians(degrees)
    across = (x - WIDTH / 2) * np.cos(turn) + (y - HEIGHT / 2) * np.sin(turn)
    off = np.abs((across + period / 2) % period - period / 2)
    number = np.round(across / period)
    ink = np.exp(-((off / 1.6) ** 2))
    if missing is not None:
        ink[number == missing] = 0
    grey = 215 - 150 * ink + np.random.default_rng(2).normal(0, 3, ink.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def film(seed: int, diameter: float = 30.0) -> UInt8Image:
    """Round red cells apart from each other."""
    rng = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), (228, 222, 214), np.uint8)
    for x in range(40, WIDTH - 30, 55):
        for y in range(40, HEIGHT - 30, 55):
            centre = (x + int(rng.integers(-6, 7)), y + int(rng.integers(-6, 7)))
            cv2.circle(pixels, centre, round(diameter / 2), (200, 140, 140), -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(pixels, (0, 0), 1.0)
    return np.asarray(np.clip(soft + rng.normal(0, 2, soft.shape), 0, 255), np.uint8)


@pytest.mark.parametrize("degrees", [0, 90, 7, -33, 60])
@pytest.mark.parametrize("period", [14.5, 31.25])
def test_a_micrometer_gives_the_scale_in_any_direction(period: float, degrees: float) -> None:
    found = pixel_size_of_micrometer(scale(period, degrees), 10.0)
    assert found.um == pytest.approx(10 / period, rel=0.005)
    assert found.found >= 5
    assert found.spread < 0.05


def test_a_line_that_dust_hides_is_counted() -> None:
    found = pixel_size_of_micrometer(scale(25.0, 5, missing=2), 10.0)
    assert found.um == pytest.approx(0.4, rel=0.005)


def test_what_is_no_scale_is_told() -> None:
    with pytest.raises(SettingsError, match="micrometer"):
        pixel_size_of_micrometer(glass(), 10.0)
    with pytest.raises(SettingsError, match="micrometer"):
        pixel_size_of_micrometer(film(3), 10.0)
    with pytest.raises(SettingsError, match="at least 5"):
        pixel_size_of_micrometer(scale(190.0, 0), 10.0)


def test_red_cells_give_the_scale() -> None:
    found = pixel_size_of_red_cells([film(seed, 30.0) for seed in range(4)])
    assert found.um == pytest.approx(7.5 / 30, rel=0.08)
    with pytest.raises(SettingsError, match="in 0 of 4 fields"):
        pixel_size_of_red_cells([glass()] * 4)


def test_light_and_white_balance_of_clear_glass() -> None:
    light = np.array(light_of(glass(fall=0.4)))
    assert light.shape == (9, 13, 3)
    assert light.max() == 1
    assert light[4, 6].min() > 0.98
    assert light[0, 0].max() == pytest.approx(0.68, abs=0.06)
    gains = white_balance_of(glass((200, 180, 150), fall=0.0))
    np.testing.assert_allclose(gains, (1.0, 200 / 180, 4 / 3), atol=0.02)


def test_dust_does_not_enter_the_light() -> None:
    dusty = glass(fall=0.0)
    cv2.circle(dusty, (100, 100), 4, (180, 172, 160), -1)
    assert np.array(light_of(dusty)).min() > 0.98


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (np.full((HEIGHT, WIDTH, 3), 12, np.uint8), "too dark"),
        (np.full((HEIGHT, WIDTH, 3), 255, np.uint8), "overexposed"),
        (film(1), "something lies in it"),
    ],
)
def test_what_is_no_empty_field_is_told(picture: UInt8Image, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        light_of(picture)


def test_limits_leave_room_above_good_fields() -> None:
    measures = [measure_field(film(seed), pixel_size_um=0.25) for seed in range(6)]
    limits = limits_of(measures, WIDTH)
    for each in measures:
        assert each.blur_um is not None
        assert limits.blur_um / 1.6 < each.blur_um < limits.blur_um
        assert limits.dark < each.light < limits.bright
        assert each.smear < limits.smear
    with pytest.raises(SettingsError, match="at least 5"):
        limits_of(measures[:4], WIDTH)


def test_sizes_must_agree() -> None:
    good = [film(seed) for seed in range(5)]
    now = datetime(2026, 1, 2, tzinfo=timezone.utc)
    with pytest.raises(SettingsError, match="480 x 359 pixels, the fields have 480 x 360"):
        build_profile(name="a", source="s", now=now, fields=good, empty=glass()[1:])
    with pytest.raises(SettingsError, match="fields of 2 sizes"):
        build_profile(name="a", source="s", now=now, fields=[*good, good[0][1:]])


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, tzinfo=timezone.utc)
    made = build_profile(
        name="bench-1",
        source='folder "a\\b"\x7f',
        now=now,
        fields=[film(seed) for seed in range(5)],
        empty=glass(),
        micrometer=scale(40.0, 3),
    )
    assert made.pixel_size_from == "micrometer"
    assert made.pixel_size_um == pytest.approx(0.25, rel=0.005)
    assert load_profile(save_profile(made, tmp_path)) == made
    assert "For research use only" in (tmp_path / "bench-1.toml").read_text(encoding="utf-8")


def test_a_bad_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with pytest.raises(SettingsError, match="leukoscope setup camera"):
        load_profile(path)
    path.write_text("a = ", encoding="utf-8")
    with pytest.raises(SettingsError, match="not TOML"):
        load_profile(path)
    good = CameraProfile(name="x", source="s", made_at="", width=4, height=4, limits=GateLimits())
    text = save_profile(good, tmp_path).read_text(encoding="utf-8")
    path.write_text(text.replace("smear = 2.2", "smear = 0.2"), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"limits\.smear"):
        load_profile(path)


def test_the_command_writes_a_profile(tmp_path: Path) -> None:
    folder = tmp_path / "fields"
    folder.mkdir()
    for seed in range(5):
        cv2.imwrite(str(folder / f"{seed}.png"), film(seed)[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "glass.png"), glass()[:, :, ::-1])
    arguments = ["camera", "--source", str(folder), "--name", "bench-1", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*arguments, "--empty", str(tmp_path / "glass.png")])
    assert done.exit_code == 0, done.output
    made = load_profile(tmp_path / "bench-1.toml")
    assert (made.width, made.height, made.pixel_size_from) == (WIDTH, HEIGHT, "red cells")
    assert made.light
    assert "For research use only" in done.output
    bad = CliRunner().invoke(app, [*arguments[:4], "a/b", *arguments[5:]])
    assert isinstance(bad.exception, SettingsError)
    absent = CliRunner().invoke(app, [*arguments, "--micrometer", str(tmp_path / "no.png")])
    assert isinstance(absent.exception, SettingsError)
