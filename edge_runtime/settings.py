"""Settings: defaults, then one TOML file, then environment, then flags; one frozen object.

Owns names, types and bounds of every setting. An unknown key is an error, not a silence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from edge_runtime.errors import SettingsError
from edge_runtime.manifest import Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENVIRONMENT_PREFIX = "LEUKOSCOPE_"


class Settings(BaseModel):
    """Everything a person can set about a run. Field names are the TOML keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str = Field(
        default="auto",
        description="auto, onnxruntime, openvino, tensorrt, tensorrt-rtx, onnxruntime-cuda, "
        "onnxruntime-tensorrt or onnxruntime-nv-tensorrt-rtx",
    )
    precision: Precision | None = Field(
        default=None,
        description="int8, float16 or float32, where the bundle has it; unset: its first artifact",
    )
    engines: Path | None = Field(
        default=None,
        description="folder of built TensorRT engines; unset: that of the device root, or the "
        "user's cache",
    )
    threads: int = Field(
        default=0, ge=0, le=256, description="processor threads for inference; 0: one per core"
    )
    score: float | None = Field(
        default=None, gt=0, lt=1, description="operating point; unset: the bundle's own"
    )
    limit: int | None = Field(default=None, gt=0, description="stop after so many fields")
    save_frames: bool = Field(default=False, description="keep every field at full size")
    crop_margin: float = Field(
        default=0.15, ge=0, le=1, description="share of the box kept around each crop"
    )
    crop_side_px: int = Field(default=224, ge=32, le=2048, description="largest side of a crop")
    preview_side_px: int = Field(
        default=900, ge=64, le=4096, description="largest side of a field's preview"
    )
    jpeg_quality: int = Field(default=85, ge=1, le=100, description="of crops and previews")
    trusted_keys: Path | None = Field(
        default=None, description="folder of public keys; set: a bundle must be signed by one"
    )
    device_root: Path | None = Field(
        default=None, description="where `leukoscope device` keeps installed bundles"
    )
    blast_threshold: float = Field(
        default=0.2, gt=0, lt=1, description="share of blasts that screening asks about"
    )
    blast_confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="1 less the chance of either of its errors"
    )
    blast_fewest_cells: int = Field(
        default=100, ge=1, le=500, description="screening settles nothing before"
    )
    blast_most_cells: int = Field(
        default=400, ge=1, le=500, description="screening asks for no more cells"
    )
    blast_figures: str | None = Field(
        default=None,
        description="the classifier's, as counted here: '188/200, 4/600' for 188 of 200 blasts "
        "and 4 of 600 other cells named blasts; unset: the bundle's",
    )

    @field_validator("blast_figures")
    @classmethod
    def _counts(cls, value: str | None) -> str | None:
        if value is not None:
            from edge_runtime.film.confusion import parse_confusion

            parse_confusion(value)
        return value

    @model_validator(mode="after")
    def _fewest_first(self) -> Self:
        if self.blast_fewest_cells > self.blast_most_cells:
            raise ValueError(
                f"blast_fewest_cells {self.blast_fewest_cells} is above blast_most_cells "
                f"{self.blast_most_cells}"
            )
        return self


def load_settings(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Merges the three sources; a later one wins.

    Args:
        file: a TOML file, or None.
        environment: process environment; keys ``LEUKOSCOPE_<NAME>``.
        flags: command-line values; None means not given.

    Raises:
        SettingsError: the file cannot be read, or a key or value is bad.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if file is not None:
        for key, value in _read_toml(file).items():
            merged[key], origin[key] = value, f"settings file {file}"
    for name, text in (os.environ if environment is None else environment).items():
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        # The prefix also serves tests and data paths; only names of settings count here.
        if name.startswith(ENVIRONMENT_PREFIX) and key in Settings.model_fields:
            merged[key], origin[key] = text, f"environment variable {name}"
    for key, value in (flags or {}).items():
        if value is not None:
            merged[key], origin[key] = value, f"--{key.replace('_', '-')}"
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            # Two settings that do not fit each other, each good by itself.
            raise SettingsError(f"settings: {first['msg']}") from error
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = ", ".join(Settings.model_fields)
            raise SettingsError(
                f"{origin.get(key, 'settings')}: unknown key {key!r}; known: {known}"
            ) from error
        raise SettingsError(
            f"{origin.get(key, 'settings')}: {key} = {merged.get(key)!r}: {first['msg']}"
        ) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            return tomllib.load(handle)
    except OSError as error:
        raise SettingsError(f"settings file {file}: {error.strerror}; check --settings") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file}: not TOML: {error}") from error
