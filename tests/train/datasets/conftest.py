"""Small data sets in the layouts of the published ones, drawn in code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import paint_field, write_image

WriteField = Callable[..., Path]


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
