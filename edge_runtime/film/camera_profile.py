"""What is known of one camera on one microscope: light, colour, scale, limits of its fields.

Owns the profile's fields and its TOML file. Does not own measuring it (see ``camera_setup``) nor
judging fields by it (see ``gate``).
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from edge_runtime.clinic.atomic_file import prepare_folder, replacing
from edge_runtime.errors import SettingsError
from edge_runtime.film_report import RESEARCH_USE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUFFIX = ".toml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GateLimits(_Part):
    """Where a field is refused. The defaults suit no camera well: set yours up."""

    blur_um: float = Field(default=1.0, gt=0, description="edges wider than this are blurred")
    blur_share: float = Field(
        default=0.010, gt=0, description="the same where no scale is known, of the longer side"
    )
    smear: float = Field(default=2.2, gt=1, description="edges so much wider along one direction")
    shift_share: float = Field(
        default=0.01, gt=0, description="moved so far since the last frame, of the longer side"
    )
    dark: float = Field(default=90.0, ge=0, le=255, description="light of clear film below this")
    bright: float = Field(default=252.0, ge=0, le=255, description="light of clear film above this")
    clipped: float = Field(default=0.10, ge=0, le=1, description="share of pixels at their end")
    stained_least: float = Field(default=0.02, ge=0, le=1, description="less stain is empty")
    slope_least: float = Field(default=1.0, ge=0, description="flatter edges are none: empty")
    stained_most: float = Field(default=0.85, ge=0, le=1, description="more stain is too thick")


class CameraProfile(_Part):
    """One camera on one microscope with one objective."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="also its file's name")
    source: str = Field(description="as given to --source when it was set up")
    made_at: str = Field(description="ISO 8601 with offset")
    width: int = Field(gt=0, description="pixels of its fields")
    height: int = Field(gt=0)
    pixel_size_um: float | None = Field(default=None, gt=0, description="µm per pixel")
    pixel_size_from: str | None = Field(default=None, description="micrometer, red cells or given")
    white_balance: tuple[float, float, float] = Field(
        default=(1.0, 1.0, 1.0), description="gains of red, green, blue that make clear film grey"
    )
    light: tuple[tuple[tuple[float, float, float], ...], ...] = Field(
        default=(), description="light of an empty field, rows of columns of RGB, brightest is 1"
    )
    limits: GateLimits = GateLimits()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if min(self.white_balance) <= 0:
            raise ValueError("white_balance: a gain is not above 0")
        if len({len(row) for row in self.light}) > 1:
            raise ValueError("light: its rows are not equally long")
        if any(value <= 0 or value > 1 for row in self.light for cell in row for value in cell):
            raise ValueError("light: a value outside 0..1")
        return self

    def light_map(self) -> NDArray[np.float32] | None:
        """Float32 ``(rows, columns, 3)``; None when no empty field was shown."""
        return np.array(self.light, np.float32) if self.light else None


def profile_path(folder: Path, name: str) -> Path:
    """Where the profile of a camera is kept."""
    return folder / f"{name}{SUFFIX}"


def save_profile(profile: CameraProfile, folder: Path) -> Path:
    """Writes the profile as TOML; an older one of the same name is replaced whole or not.

    Raises:
        StoreError: it cannot be written.
    """
    path = profile_path(folder, profile.name)
    prepare_folder(folder, (path.name,), flag="--out")
    with replacing(path) as file:
        file.write(_toml(profile).encode("utf-8"))
    return path


def load_profile(path: Path) -> CameraProfile:
    """Reads a profile.

    Raises:
        SettingsError: it cannot be read, or is no profile.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"camera profile {path}: {error.strerror}; make it with `leukoscope setup camera`"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"camera profile {path}: not TOML: {error}") from error
    try:
        return CameraProfile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "profile"
        raise SettingsError(
            f"camera profile {path}: {where}: {first['msg']}; make it anew with "
            "`leukoscope setup camera`"
        ) from error


def profile_folder() -> Path:
    """Where this user's camera profiles are: ``leukoscope/cameras`` in the configuration folder."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "leukoscope" / "cameras"


def profile_of(source: str, folder: Path | None = None) -> CameraProfile | None:
    """The profile of the camera that a source names, the newest should there be several.

    One that was set up under the very same source comes first; else one of the same device with
    other options, such as another size of its pictures.

    Args:
        source: as given to ``--source``.
        folder: of profiles; None takes the user's.

    Returns:
        None when nobody has set the camera up.

    Raises:
        SettingsError: a file there cannot be read, or is no profile.
    """
    folder = profile_folder() if folder is None else folder
    profiles = [load_profile(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    device = source.split("?", 1)[0]
    ranked = sorted(
        (each for each in profiles if each.source.split("?", 1)[0] == device),
        key=lambda each: (each.source == source, datetime.fromisoformat(each.made_at)),
    )
    return ranked[-1] if ranked else None


def _toml(profile: CameraProfile) -> str:
    content = profile.model_dump(mode="json", exclude_none=True)
    limits = content.pop("limits")
    rows = content.pop("light")
    lines = [f"# {RESEARCH_USE}", *(f"{key} = {_value(value)}" for key, value in content.items())]
    if rows:
        lines += ["light = [", *(f"  {_value(row)}," for row in rows), "]"]
    lines += ["", "[limits]", *(f"{key} = {_value(value)}" for key, value in limits.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    # Strings, numbers and arrays are written in TOML as in JSON, but for DEL, which JSON lets by.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
