"""Stamps keep their boxes right when they are turned, and clear pixels change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.virtual_film.background_cells import ARTEFACT_PAINTERS
from edge_runtime.virtual_film.cells import WHITE_CELL_PAINTERS
from edge_runtime.virtual_film.shapes import CLEAR, Stamp, Textures
from edge_runtime.virtual_film.stain import draw_stain


@pytest.mark.parametrize("which", range(8))
def test_a_turned_stamp_has_a_turned_box(which: int) -> None:
    image = np.full((3, 20, 20), CLEAR, np.uint8)
    image[:, 3:9, 5:17] = 90
    stamp = Stamp(image, (5, 3, 17, 9)).view(which)
    rows, columns = np.nonzero(stamp.transmitted[0] < CLEAR)
    dark = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert stamp.box_px == dark


@pytest.mark.parametrize("name", [*WHITE_CELL_PAINTERS, *ARTEFACT_PAINTERS])
def test_nothing_is_cut_off_at_the_stamp_s_edge(name: str) -> None:
    paint = {**WHITE_CELL_PAINTERS, **ARTEFACT_PAINTERS}[name]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        stamp = paint(rng, draw_stain(rng), Textures(rng, 0.2))
        light = stamp.transmitted.astype(int)
        border = np.concatenate([light[:, 0], light[:, -1], light[:, :, 0], light[:, :, -1]], 1)
        assert np.abs(border - CLEAR).max() <= 6, seed
        x1, y1, x2, y2 = stamp.box_px
        assert 0 <= x1 < x2 <= light.shape[2]
        assert 0 <= y1 < y2 <= light.shape[1]
        assert light.min() < 0.95 * CLEAR
