"""Settings: which source wins, and how a bad key or value is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pydantic
import pytest

from edge_runtime.errors import SettingsError
from edge_runtime.settings import Settings, load_settings


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(**sources: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(**{"environment": {}, **sources})
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_without_any_source_the_defaults_hold() -> None:
    assert load_settings(environment={}) == Settings()


def test_the_defaults_are_themselves_in_bounds() -> None:
    assert Settings.model_validate(Settings().model_dump()) == Settings()


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load_settings(environment={}).threads = 3  # type: ignore[misc]


def test_file_then_environment_then_flag(tmp_path: Path) -> None:
    file = toml(tmp_path, "threads = 2\njpeg_quality = 50\npreview_side_px = 400\nlimit = 9\n")
    environment = {"LEUKOSCOPE_THREADS": "3", "LEUKOSCOPE_JPEG_QUALITY": "60", "OTHER": "1"}
    merged = load_settings(
        file, environment=environment, flags={"threads": 4, "limit": None, "score": 0.3}
    )
    assert (merged.threads, merged.jpeg_quality, merged.preview_side_px) == (4, 60, 400)
    # A flag that was not given hides nothing.
    assert (merged.limit, merged.score) == (9, 0.3)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEUKOSCOPE_CROP_MARGIN", "0.4")
    assert load_settings().crop_margin == 0.4


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)]
)
def test_the_environment_spells_truth_in_words(text: str, value: bool) -> None:
    assert load_settings(environment={"LEUKOSCOPE_SAVE_FRAMES": text}).save_frames is value


def test_other_variables_with_the_prefix_are_left_alone() -> None:
    environment = {"LEUKOSCOPE_DATA": "/data", "LEUKOSCOPE_": "x", "LEUKOSCOPEX": "y"}
    assert load_settings(environment=environment) == Settings()


@pytest.mark.parametrize("key", ["scroe", "Score", "model_config", "save-frames", "detector"])
def test_an_unknown_key_lists_the_known_ones(tmp_path: Path, key: str) -> None:
    message = refusal(file=toml(tmp_path, f'"{key}" = 1\n'))
    assert f"unknown key {key!r}" in message
    assert "settings.toml" in message
    assert all(name in message for name in Settings.model_fields)


def test_a_table_is_an_unknown_key(tmp_path: Path) -> None:
    assert "unknown key 'run'" in refusal(file=toml(tmp_path, "[run]\nthreads = 2\n"))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('threads = "many"', "threads"),
        ("threads = -1", "threads"),
        ("threads = 1.5", "threads"),
        ("threads = 257", "threads"),
        ("threads = [1]", "threads"),
        ("score = 0", "score"),
        ("score = 1.0", "score"),
        ("score = nan", "score"),
        ("score = inf", "score"),
        ("limit = 0", "limit"),
        ("backend = 3", "backend"),
        ("backend = {}", "backend"),
        ("crop_margin = -0.1", "crop_margin"),
        ("crop_margin = nan", "crop_margin"),
        ("crop_side_px = 31", "crop_side_px"),
        ("jpeg_quality = 101", "jpeg_quality"),
        ("save_frames = 2", "save_frames"),
        ("save_frames = 2020-01-01", "save_frames"),
    ],
)
def test_a_bad_value_names_file_key_and_value(tmp_path: Path, line: str, key: str) -> None:
    message = refusal(file=toml(tmp_path, line))
    assert "settings.toml" in message
    assert f"{key} = " in message


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        ({"environment": {"LEUKOSCOPE_THREADS": "two"}}, "environment variable LEUKOSCOPE_THREADS"),
        ({"environment": {"LEUKOSCOPE_LIMIT": ""}}, "environment variable LEUKOSCOPE_LIMIT"),
        ({"flags": {"limit": 0}}, "--limit"),
        ({"flags": {"save_frames": "perhaps"}}, "--save-frames"),
    ],
)
def test_the_source_of_a_bad_value_is_named(sources: dict[str, Any], named: str) -> None:
    assert refusal(**sources).startswith(named)


def test_a_good_flag_covers_a_bad_value_below_it(tmp_path: Path) -> None:
    file = toml(tmp_path, "threads = -5\n")
    assert load_settings(file, environment={}, flags={"threads": 1}).threads == 1


@pytest.mark.parametrize(
    "content", [b"threads 2", b"threads = ", b"\xff\xfe", b"a = 1\na = 2\n", b"[" * 3000]
)
def test_what_is_no_toml_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    assert "not TOML" in refusal(file=path)


@pytest.mark.parametrize("name", ["absent.toml", "", "x" * 300])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    assert "check --settings" in refusal(file=tmp_path / name)


def test_settings_say_what_each_is_for() -> None:
    assert not dataclasses.is_dataclass(Settings)
    for name, field in Settings.model_fields.items():
        assert field.description, name
