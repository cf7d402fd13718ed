"""Setting up one camera on one microscope: its light, colour, scale and limits.

Owns the measuring, from an empty field, a picture of a stage micrometer or fields of a film.
Does not own the profile and its file (see ``camera_profile``) nor the command's flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import SettingsError
from edge_runtime.film.camera_profile import CameraProfile, GateLimits
from edge_runtime.film.field_measures import FieldMeasures, measure_field
from edge_runtime.scale import cell_size_from_red_cells
from edge_runtime.types import UInt8Image

# Light falls off smoothly: a few knots hold it, and dust between them goes.
LIGHT_ROWS, LIGHT_COLUMNS = 9, 13
_DARKEST_LIGHT, _BRIGHTEST_LIGHT = 30.0, 250.0
# A cell in the field shows as a slope that dust and noise have not.
_EMPTY_SLOPE = 2.0
RED_CELL_UM = 7.5
_WHITE_PER_RED = 13.0 / 7.5
_FEWEST_FIELDS = 5
# So much worse than nearly all good fields: 1.3 times the blur is a quarter turn of a cheap
# fine focus, and no two fields of one film differ as much.
_BLUR_ROOM, _SMEAR_ROOM = 1.3, 1.3
_LEAST_SMEAR = 1.5
_LIGHT_ROOM = (0.6, 1.2)
_MOST_DIFFERENT = 0.25


@dataclass(frozen=True, slots=True)
class PixelSize:
    """µm per pixel, and how well it was found.

    Attributes:
        um: µm per pixel.
        spread: standard deviation of the single findings over their mean.
        found: lines of the micrometer, or fields with red cells, that it rests on.
    """

    um: float
    spread: float
    found: int


def light_of(empty: UInt8Image) -> tuple[tuple[tuple[float, float, float], ...], ...]:
    """The light of an empty field, as ``CameraProfile.light``.

    Args:
        empty: a field without cells, RGB uint8 ``(H, W, 3)``.

    Raises:
        SettingsError: it is too dark, clipped, or not empty.
    """
    level = float(empty.mean())
    if level < _DARKEST_LIGHT or float((empty >= 254).any(axis=2).mean()) > 0.01:
        fault = "too dark" if level < _DARKEST_LIGHT else "overexposed"
        raise SettingsError(
            f"empty field: {fault} (mean {level:.0f}); set lamp and exposure so that clear glass "
            "is bright and nowhere white, and take it again"
        )
    slope = measure_field(empty, pixel_size_um=1.0).edge_slope
    if slope > _EMPTY_SLOPE:
        raise SettingsError(
            f"empty field: something lies in it (edges of {slope:.1f} grey levels a pixel); move "
            "to clear glass, or turn far out of focus, and take it again"
        )
    height, width = empty.shape[:2]
    grid = np.empty((LIGHT_ROWS, LIGHT_COLUMNS, 3))
    rows = np.linspace(0, height, LIGHT_ROWS + 1).astype(int)
    columns = np.linspace(0, width, LIGHT_COLUMNS + 1).astype(int)
    for i in range(LIGHT_ROWS):
        for j in range(LIGHT_COLUMNS):
            part = empty[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
            # The median leaves dust out.
            grid[i, j] = np.median(part.reshape(-1, 3), axis=0)
    grid = np.round(grid / grid.max(axis=(0, 1)), 4)
    return tuple(tuple((float(r), float(g), float(b)) for r, g, b in row) for row in grid)


def white_balance_of(empty: UInt8Image) -> tuple[float, float, float]:
    """Gains of red, green and blue, the largest channel's 1, that make an empty field grey."""
    levels = np.median(empty.reshape(-1, 3).astype(np.float64), axis=0)
    if levels.min() < 1:
        raise SettingsError(
            f"empty field: a colour is missing (red, green, blue {levels.round()}); check the "
            "camera's cable and white balance"
        )
    red, green, blue = (round(float(gain), 4) for gain in levels.max() / levels)
    return red, green, blue


def pixel_size_of_micrometer(picture: UInt8Image, division_um: float) -> PixelSize:
    """µm per pixel from a picture of a stage micrometer, its lines in any direction.

    The period of the lines is the first strong peak of the picture's spectrum, in whatever
    direction, refined on the projection across the lines.

    Args:
        picture: RGB uint8 ``(H, W, 3)`` with at least five lines.
        division_um: distance of two lines, often 10 µm.

    Raises:
        SettingsError: no evenly spaced lines are found.
    """
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)
    dark = np.asarray(cv2.GaussianBlur(grey, (0, 0), 25), np.float32) - grey
    angle = _line_angle(dark)
    profile = _across(dark, angle)
    places = _line_places(profile)
    if len(places) < 5:
        raise SettingsError(
            f"micrometer: {len(places)} lines found, at least 5 are needed; focus on the scale and "
            "let its lines fill the picture"
        )
    gaps = np.diff(places)
    middle = float(np.median(gaps))
    # A line that dust hides leaves a double gap; it counts as two.
    steps = np.round(gaps / middle)
    if (steps < 1).any() or float(np.abs(gaps / middle - steps).max()) > 0.2:
        raise SettingsError(
            "micrometer: the lines are not evenly spaced; show one part of the scale, straight "
            "and in focus"
        )
    numbers = np.concatenate([[0.0], np.cumsum(steps)])
    period, offset = np.polyfit(numbers, places, 1)
    left = places - (period * numbers + offset)
    return PixelSize(division_um / float(period), float(left.std() / period), len(places))


def pixel_size_of_red_cells(
    fields: Sequence[UInt8Image], diameter_um: float = RED_CELL_UM
) -> PixelSize:
    """µm per pixel from lone red cells, whose mean diameter hardly differs between healthy people.

    A patient's cells may be 10 % smaller or larger; a micrometer is better.

    Raises:
        SettingsError: too few fields have round, lone red cells.
    """
    sizes = []
    for field in fields:
        cell = cell_size_from_red_cells(field)
        if cell is not None:
            across = float(np.sqrt(cell.width * cell.height)) / _WHITE_PER_RED
            sizes.append(diameter_um / across)
    if len(sizes) < 3:
        raise SettingsError(
            f"red cells: lone round ones in {len(sizes)} of {len(fields)} fields, at least 3 are "
            "needed; show thinner parts of the film, or give a picture of a stage micrometer"
        )
    found = np.array(sizes)
    middle = float(np.median(found))
    return PixelSize(middle, float(found.std() / middle), len(found))


def limits_of(measures: Sequence[FieldMeasures], longer_side: int) -> GateLimits:
    """Limits of the gate, from good fields of this camera.

    Args:
        measures: of fields in focus, well lit, at rest.
        longer_side: of the fields, pixels.

    Raises:
        SettingsError: too few fields.
    """
    if len(measures) < _FEWEST_FIELDS:
        raise SettingsError(
            f"limits: {len(measures)} fields, at least {_FEWEST_FIELDS} are needed; show different "
            "places of a good film, in focus"
        )

    def high(values: list[float]) -> float:
        return float(np.percentile(values, 90))

    base = GateLimits()
    light = float(np.median([each.light for each in measures]))
    scaled = [each.blur_um for each in measures if each.blur_um is not None]
    return base.model_copy(
        update={
            "blur_um": round(_BLUR_ROOM * high(scaled), 4) if scaled else base.blur_um,
            "blur_share": round(
                _BLUR_ROOM * high([each.blur_px for each in measures]) / longer_side, 6
            ),
            "smear": round(
                max(_LEAST_SMEAR, _SMEAR_ROOM * high([each.smear for each in measures])), 3
            ),
            "dark": round(_LIGHT_ROOM[0] * light, 1),
            "bright": round(min(_LIGHT_ROOM[1] * light, base.bright), 1),
        }
    )


def build_profile(
    *,
    name: str,
    source: str,
    now: datetime,
    fields: Sequence[UInt8Image],
    empty: UInt8Image | None = None,
    micrometer: UInt8Image | None = None,
    division_um: float = 10.0,
    pixel_size_um: float | None = None,
) -> CameraProfile:
    """A profile from what a person has shown.

    Args:
        name: of the profile.
        source: where the fields came from.
        now: time of the set-up.
        fields: good fields of a film, all of one size, RGB uint8 ``(H, W, 3)``.
        empty: a field without cells, for light and white balance.
        micrometer: a picture of a stage micrometer at the same settings.
        division_um: distance of its lines.
        pixel_size_um: when it is known; otherwise from the micrometer, else from red cells.

    Raises:
        SettingsError: a picture does not show what it should, or sizes differ.
    """
    shapes = {field.shape[:2] for field in fields}
    if len(shapes) != 1:
        raise SettingsError(f"camera {name}: fields of {len(shapes)} sizes; show those of one")
    height, width = shapes.pop()
    for what, picture in (("empty field", empty), ("micrometer", micrometer)):
        if picture is not None and picture.shape[:2] != (height, width):
            raise SettingsError(
                f"{what}: {picture.shape[1]} x {picture.shape[0]} pixels, the fields have "
                f"{width} x {height}; take it with the same camera settings"
            )
    given: str | None = None if pixel_size_um is None else "given"
    if pixel_size_um is None and micrometer is not None:
        pixel_size_um, given = pixel_size_of_micrometer(micrometer, division_um).um, "micrometer"
    elif pixel_size_um is None:
        pixel_size_um, given = pixel_size_of_red_cells(fields).um, "red cells"
    light = () if empty is None else light_of(empty)
    map_ = np.array(light, np.float32) if light else None
    measures = [measure_field(each, pixel_size_um=pixel_size_um, light=map_) for each in fields]
    return CameraProfile(
        name=name,
        source=source,
        made_at=now.astimezone().isoformat(timespec="seconds"),
        width=width,
        height=height,
        pixel_size_um=round(pixel_size_um, 5),
        pixel_size_from=given,
        white_balance=(1.0, 1.0, 1.0) if empty is None else white_balance_of(empty),
        light=light,
        limits=limits_of(measures, max(width, height)),
    )


def _line_angle(dark: NDArray[np.float32]) -> float:
    """Direction across the lines in radians, from the picture's structure tensor."""
    x = cv2.Scharr(dark, cv2.CV_32F, 1, 0)
    y = cv2.Scharr(dark, cv2.CV_32F, 0, 1)
    return 0.5 * float(
        np.arctan2(2 * float((x * y).mean()), float((x * x).mean() - (y * y).mean()))
    )


def _across(dark: NDArray[np.float32], angle: float) -> NDArray[np.float64]:
    """Mean darkness by the distance across the lines, one value per pixel."""
    height, width = dark.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), np.degrees(angle), 1.0)
    # Within the largest disc of the picture, so that every value has pixels and no border shows.
    turned = cv2.warpAffine(dark, turn, (width, height), flags=cv2.INTER_LINEAR)
    radius = min(width, height) / 2 - 2
    half = int(radius * 0.7)
    reach = int(np.sqrt(max(1.0, (max(width, height) / 2) ** 2 if abs(np.sin(angle)) < 0.02
                            else radius**2 - half**2)))  # fmt: skip
    left, right = max(0, width // 2 - reach), min(width, width // 2 + reach)
    top, bottom = height // 2 - half, height // 2 + half
    return np.asarray(turned[top:bottom, left:right].mean(axis=0), np.float64)


def _line_places(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centres of the lines in pixels: peaks over half of the highest, by their mass."""
    level = (float(np.percentile(profile, 98)) + float(np.median(profile))) / 2
    over = np.concatenate([[False], profile > level, [False]])
    starts = np.flatnonzero(~over[:-1] & over[1:])
    ends = np.flatnonzero(over[:-1] & ~over[1:])
    places = []
    for start, end in zip(starts, ends, strict=True):
        if start == 0 or end == len(profile):
            continue  # cut by the border
        weight = profile[start:end] - level
        places.append(float((np.arange(start, end) * weight).sum() / weight.sum()))
    return np.array(places)
