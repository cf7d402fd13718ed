"""What the virtual microscope costs: setting up a film, and rendering one field.

Owns this measurement. Does not own the film or the optics (``edge_runtime.virtual_film``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.machine import WorkMeter, percentile
from edge_runtime.cameras.virtual import DEFAULT_SEED, VirtualCamera
from edge_runtime.virtual_film import PROFILES, FilmSpec, OpticalProfile, VirtualFilm

# The size the target names, whatever the profile's own is.
COMMON_RESOLUTION = (1280, 720)
TARGET_MS = 10.0


def measure_virtual(
    *,
    frames: int,
    spec: FilmSpec | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Set-up time of the default film and rendering times of every optical profile.

    Args:
        frames: fields rendered per profile and resolution, spread over the film.
        spec: another film than the default one.
        progress: takes a line after every row.
    """
    began = time.perf_counter()
    film = VirtualFilm.build(DEFAULT_SEED, spec)
    setup_s = time.perf_counter() - began
    progress(f"film set up in {setup_s:.2f} s")
    rows = []
    for profile in PROFILES.values():
        for resolution in dict.fromkeys((profile.resolution, COMMON_RESOLUTION)):
            row = _render(film, replace(profile, resolution=resolution), frames)
            rows.append(row)
            progress(f"{profile.name} {resolution[0]} x {resolution[1]}: {row['p50_ms']:.1f} ms")
    common = [row for row in rows if row["resolution_px"] == list(COMMON_RESOLUTION)]
    slowest = max(common, key=lambda row: float(row["p50_ms"]))
    return {
        "film": {
            "seed": film.seed,
            "size_um": [round(value, 1) for value in film.size_um],
            "cells": len(film.cells),
            "setup_s": round(setup_s, 3),
        },
        "frames_per_row": frames,
        "targets": [
            {
                "name": "one 1280 x 720 field after set-up, slowest profile",
                "figure": "p50_ms",
                "at_most": TARGET_MS,
                "profile": slowest["profile"],
                "measured": slowest["p50_ms"],
                "met": slowest["p50_ms"] <= TARGET_MS,
            }
        ],
        "rows": rows,
    }


def _render(film: VirtualFilm, profile: OpticalProfile, frames: int) -> dict[str, Any]:
    began = time.perf_counter()
    # One more than is measured: the first touches memory that the others find ready.
    camera = VirtualCamera(film, profile, frames + 1)
    setup_s = time.perf_counter() - began
    camera.frame(frames)
    seconds = []
    before = WorkMeter.read()
    for index in range(frames):
        began = time.perf_counter()
        camera.frame(index)
        seconds.append(time.perf_counter() - began)
    return {
        "profile": profile.name,
        "resolution_px": list(profile.resolution),
        "optics_setup_ms": round(setup_s * 1000, 2),
        "p50_ms": round(percentile(seconds, 50) * 1000, 2),
        "p95_ms": round(percentile(seconds, 95) * 1000, 2),
        "others_share": WorkMeter.read().others_share_since(before),
    }
