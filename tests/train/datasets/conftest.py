"""Small data sets in the layouts of the published ones, drawn in code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.fields import xyxy_to_xywhn
from edge_runtime.types import Float32Array, UInt8Image
from edge_runtime.virtual_film import (
    FilmSpec,
    OpticalProfile,
    Optics,
    VirtualFilm,
    truth_in_window,
)
from tests.support import paint_field, write_image

WriteField = Callable[..., Path]
# Pixels, white cells' boxes (fractions) and their numbers on the film.
Seen = tuple[UInt8Image, Float32Array, list[int]]
See = Callable[..., Seen]


@pytest.fixture(scope="session")
def film() -> VirtualFilm:
    """A crowded film, small enough to be drawn in a second."""
    spec = FilmSpec(size_um=(130.0, 110.0), white_cells_per_mm2=3000.0, red_cell_coverage=0.3)
    return VirtualFilm.build(3, spec)


@pytest.fixture(scope="session")
def see(film: VirtualFilm) -> See:
    """Looks at the film: field in pixels, µm per pixel, what else differs from microscope."""

    def look(
        size: tuple[int, int],
        pixel_size_um: float,
        centre_um: tuple[float, float] = (65.0, 55.0),
        *,
        seed: int = 0,
        blur_um: float = 0.12,
        visible: float = 0.95,
        **profile: Any,
    ) -> Seen:
        seen_by = OpticalProfile(
            "test", pixel_size_um, size, 30.0, blur_um, sensor_noise_sigma=2.0, **profile
        )
        pixels = Optics(seen_by).capture(film, centre_um, np.random.default_rng(seed))
        cells = [
            each
            for each in truth_in_window(film, seen_by, centre_um, visible)
            if each.is_white_cell
        ]
        boxes = np.array([each.box_xyxy for each in cells], np.float32).reshape(-1, 4)
        return pixels, xyxy_to_xywhn(boxes, *size), [each.film_id for each in cells]

    return look


@pytest.fixture
def write_field() -> WriteField:
    """Writes one picture below ``images/<split>`` and its rows below ``labels/<split>``."""

    def write(root: Path, split: str, name: str, rows: str | None = "", *, seed: int = 0) -> Path:
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        # Every seed has its discs elsewhere, so that no two pictures look alike.
        cells = [
            (20 + (seed * 37 + i * 53) % 90, 15 + (seed * 29 + i * 31) % 60, 18) for i in (0, 1)
        ]
        red = [((seed * 17 + i * 41) % 128, (seed * 23 + i * 19) % 96, 14) for i in range(5)]
        if rows is not None:
            (labels / f"{name}.txt").write_text(rows, encoding="utf-8")
        picture = paint_field(128, 96, cells, red_cells=red, seed=seed)
        return write_image(images / f"{name}.png", picture)

    return write
