"""How often the field gate refuses good fields, and how many bad ones it catches.

Owns the good fields and what is done to them: blur, exposure and motion of known size, empty
and thick film. Does not own the gate (``edge_runtime.film.gate``). Limits are set on some fields
of each set and judged on others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_runtime.cameras.virtual import VirtualCamera
from edge_runtime.errors import DataError
from edge_runtime.film.camera_profile import GateLimits
from edge_runtime.film.camera_setup import limits_of
from edge_runtime.film.field_measures import measure_field
from edge_runtime.film.gate import Refusal, judge_measures
from edge_runtime.image_file import read_image
from edge_runtime.types import UInt8Image
from edge_runtime.virtual_film import PROFILES, FilmSpec, OpticalProfile, VirtualFilm

REAL_SETS = ("hcm_pbc", "lcm_raabin", "bccd")
# µm, on top of the profile's own: at 0.5 nuclei blur, at 1.0 chromatin is gone.
_DEFOCUS_UM = (0.5, 1.0, 1.5)
_MOTION_UM = (2.0, 4.0)
# A real picture's own blur times so much is added to it.
_BLUR_TIMES = (1.0, 2.0, 3.0)
_MOTION_SHARES = (0.02, 0.04)
_FILM_UM = (400.0, 300.0)


@dataclass(frozen=True, slots=True)
class GateCase:
    """Fields of one kind.

    Attributes:
        kind: what they are.
        expected: the refusals that name the fault rightly; empty for good fields.
        fields: RGB uint8 ``(H, W, 3)``.
    """

    kind: str
    expected: tuple[Refusal, ...]
    fields: Sequence[UInt8Image]


def measure_field_gate(
    data: Path, *, fields: int, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """The gate with default limits and with limits set up, on virtual and real fields.

    Args:
        data: root with ``wbc-domains``.
        fields: virtual ones for each profile and film.
        progress: takes a line after every set.

    Raises:
        DataError: a set has no pictures.
    """
    rows: list[dict[str, Any]] = []
    for profile in PROFILES.values():
        size = profile.pixel_size_um
        setting = list(_virtual(profile, 41, fields))
        cases = _virtual_cases(profile, fields)
        rows += _judge_set(profile.name, setting, cases, size)
        progress(f"{profile.name}: done")
    for name in REAL_SETS:
        folder = data / "wbc-domains" / name / "images"
        setting = _pictures(folder / "val")
        rows += _judge_set(name, setting, _real_cases(_pictures(folder / "test")), None)
        progress(f"{name}: done")
    return {"virtual_fields_per_film": fields, "rows": rows}


def _judge_set(
    name: str, setting: Sequence[UInt8Image], cases: Sequence[GateCase], size: float | None
) -> list[dict[str, Any]]:
    longer = max(setting[0].shape)
    set_up = limits_of([measure_field(each, pixel_size_um=size) for each in setting], longer)
    rows = []
    for case in cases:
        seen = [measure_field(each, pixel_size_um=size) for each in case.fields]
        for label, limits in (("set up", set_up), ("defaults", GateLimits())):
            found = [judge_measures(each, limits, longer)[0] for each in seen]
            refused = [each for each in found if each is not None]
            right = [each for each in refused if each in case.expected]
            rows.append(
                {
                    "set": name,
                    "limits": label,
                    "kind": case.kind,
                    "fields": len(found),
                    "refused": round(len(refused) / len(found), 4),
                    "named_rightly": round(len(right) / len(found), 4),
                    "refusals": {each: refused.count(each) for each in sorted(set(refused))},
                }
            )
    return rows


def _virtual_cases(profile: OpticalProfile, fields: int) -> list[GateCase]:
    good = list(_virtual(profile, 42, fields))
    pixel = profile.pixel_size_um
    cases = [GateCase("good", (), good)]
    for um in _DEFOCUS_UM:
        blurred = replace(
            profile, blur_sigma_um=float(np.hypot(profile.blur_sigma_um, um)), focus_spread=0.0
        )
        cases.append(
            GateCase(f"defocus {um:g} um", ("out of focus",), list(_virtual(blurred, 42, fields)))
        )
    for um in _MOTION_UM:
        moved = [smeared(each, um / pixel, 0.4 * k) for k, each in enumerate(good)]
        cases.append(GateCase(f"motion {um:g} um", ("in motion", "out of focus"), moved))
    empty = FilmSpec(
        size_um=_FILM_UM, red_cell_coverage=0, white_cells_per_mm2=0, artefacts_per_mm2=0
    )
    cases.append(
        GateCase("empty", ("empty field",), list(_virtual(profile, 43, fields, spec=empty)))
    )
    layers = [list(_virtual(profile, seed, fields, coverage=0.6)) for seed in (44, 45, 46, 47)]
    thick = [stacked(parts) for parts in zip(*layers, strict=True)]
    cases.append(GateCase("thick, four layers", ("too thick", "too dark"), thick))
    return cases + _exposures(good)


def _real_cases(good: Sequence[UInt8Image]) -> list[GateCase]:
    cases = [GateCase("good", (), good)]
    own = [measure_field(each).blur_px for each in good]
    for times in _BLUR_TIMES:
        blurred = [
            np.asarray(cv2.GaussianBlur(each, (0, 0), times * float(np.median(own))), np.uint8)
            for each in good
        ]
        cases.append(GateCase(f"own blur {times:g} times more", ("out of focus",), blurred))
    for share in _MOTION_SHARES:
        moved = [smeared(each, share * max(each.shape), 0.4 * k) for k, each in enumerate(good)]
        cases.append(GateCase(f"motion {share:.0%} of field", ("in motion", "out of focus"), moved))
    return cases + _exposures(good)


def _exposures(good: Sequence[UInt8Image]) -> list[GateCase]:
    bright = [np.clip(each * np.float32(1.6), 0, 255).astype(np.uint8) for each in good]
    dark = [(each * np.float32(0.35)).astype(np.uint8) for each in good]
    return [
        GateCase("exposure 1.6 times", ("too bright",), bright),
        GateCase("exposure 0.35 times", ("too dark",), dark),
    ]


def smeared(pixels: UInt8Image, length_px: float, angle: float) -> UInt8Image:
    """A field that moved ``length_px`` along ``angle`` (radians) while it was taken."""
    side = 2 * int(np.ceil(length_px / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    steps = np.linspace(-length_px / 2, length_px / 2, 8 * side)
    rows = np.rint(side // 2 + steps * np.sin(angle)).astype(int)
    columns = np.rint(side // 2 + steps * np.cos(angle)).astype(int)
    np.add.at(kernel, (rows.clip(0, side - 1), columns.clip(0, side - 1)), 1.0)
    return np.asarray(cv2.filter2D(pixels, -1, kernel / kernel.sum()), np.uint8)


def stacked(layers: Sequence[UInt8Image]) -> UInt8Image:
    """Films over one another: their absorbances add, clear film stays as bright as it was."""
    light = np.ones(layers[0].shape, np.float32)
    clear = np.percentile(layers[0].reshape(-1, 3), 97, axis=0).astype(np.float32)
    for layer in layers:
        light *= np.minimum(layer / clear, 1.0)
    return np.asarray(np.clip(light * clear, 0, 255), np.uint8)


def _virtual(
    profile: OpticalProfile,
    seed: int,
    fields: int,
    *,
    coverage: float | None = None,
    spec: FilmSpec | None = None,
) -> Iterator[UInt8Image]:
    spec = spec or FilmSpec(size_um=_FILM_UM, red_cell_coverage=coverage)
    camera = VirtualCamera(_film(seed, spec), profile, fields)
    for index in range(fields):
        yield camera.frame(index).pixels


# Every profile looks at the same films, which take seconds each.
@lru_cache(maxsize=8)
def _film(seed: int, spec: FilmSpec) -> VirtualFilm:
    return VirtualFilm.build(seed, spec)


def _pictures(folder: Path) -> list[UInt8Image]:
    files = sorted(folder.glob("*.jpg")) + sorted(folder.glob("*.png"))
    if not files:
        raise DataError(f"{folder}: no pictures; give the data root with --data")
    return [read_image(file) for file in files]
