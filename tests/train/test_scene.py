from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.cutouts import Cutout
from train.datasets.scene import (
    Scene,
    clip_visible,
    paste_cell,
    place_field,
    place_grid,
    scatter_debris,
    vary_tile,
)

PAPER = (230, 215, 200)
INK = (90, 40, 130)


def field_with_cell(
    width: int = 200, height: int = 120, box: tuple[int, int, int, int] = (40, 30, 80, 70)
) -> tuple[UInt8Image, Float32Array]:
    pixels = np.full((height, width, 3), PAPER, np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = INK
    return pixels, np.array([box], np.float32)


def ink_box(pixels: UInt8Image) -> Float32Array:
    dark = np.abs(pixels.astype(int) - INK).sum(axis=2) < 60
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


@pytest.mark.parametrize("seed", range(40))
def test_boxes_stay_on_their_cell_through_scaling_turning_and_shifting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels, boxes = field_with_cell()
    zoom = (float(rng.uniform(0.4, 1.8)), float(rng.uniform(0.4, 1.8)))
    scene = place_field(pixels, boxes, size=160, zoom=zoom, rng=rng, turn=True)
    assert scene.pixels.shape == (160, 160, 3)
    if len(scene.boxes_xyxy):
        assert scene.boxes_xyxy[0] == pytest.approx(ink_box(scene.pixels), abs=1.6)


@pytest.mark.parametrize("seed", range(20))
def test_a_tile_keeps_the_box_on_its_cell(seed: int) -> None:
    pixels, boxes = vary_tile(*field_with_cell(), rng=np.random.default_rng(seed))
    if len(boxes):
        assert boxes[0] == pytest.approx(ink_box(pixels), abs=1.01)


def test_a_grid_holds_every_field_at_its_place() -> None:
    fields = [field_with_cell() for _ in range(6)]
    scene = place_grid(fields, size=240, rows=2, columns=3)
    assert len(scene.boxes_xyxy) == 6
    for index, box in enumerate(scene.boxes_xyxy):
        row, column = divmod(index, 3)
        x, y = column * 80, row * 120
        tile = scene.pixels[y : y + 120, x : x + 80]
        assert box - np.array([x, y, x, y]) == pytest.approx(ink_box(tile), abs=1.5)


def test_pasting_adds_the_cell_and_its_box_and_keeps_its_density() -> None:
    scene = Scene(np.full((100, 100, 3), 200, np.uint8), np.zeros((0, 4), np.float32))
    cell = np.full((20, 30, 3), 50, np.uint8)
    cutout = Cutout(cell, np.ones((20, 30), np.float32), np.array([100, 100, 100], np.float32))
    assert paste_cell(scene, cutout, width=30, height=20, centre=(50, 40))
    assert scene.boxes_xyxy.tolist() == [[35, 30, 65, 50]]
    # Half as bright as its own background before, half as bright as the new one after.
    assert scene.pixels[40, 50, 0] == pytest.approx(100, abs=2)
    assert scene.pixels[10, 10, 0] == 200


def test_pasting_never_covers_a_labelled_cell() -> None:
    pixels, boxes = field_with_cell()
    scene = Scene(pixels.copy(), boxes)
    cutout = Cutout(
        np.full((20, 20, 3), 50, np.uint8),
        np.ones((20, 20), np.float32),
        np.array([200, 200, 200], np.float32),
    )
    assert not paste_cell(scene, cutout, width=20, height=20, centre=(60, 50))
    assert np.array_equal(scene.pixels, pixels)
    assert paste_cell(scene, cutout, width=20, height=20, centre=(150, 50))


def test_debris_darkens_but_spares_cells() -> None:
    pixels, boxes = field_with_cell()
    canvas = np.full((200, 200, 3), PAPER, np.uint8)
    canvas[:120] = pixels
    scene = Scene(canvas.copy(), boxes)
    scatter_debris(scene, cell_px=40, count=12, rng=np.random.default_rng(3))
    changed = (scene.pixels != canvas).any(axis=2)
    assert changed.sum() > 200
    assert (scene.pixels.astype(int) <= canvas.astype(int) + 1).all()
    assert len(scene.boxes_xyxy) == 1


def test_cells_mostly_outside_lose_their_box() -> None:
    boxes = np.array(
        [[-30, 10, 10, 50], [-10, 10, 30, 50], [20, 20, 60, 60], [200, 200, 240, 240]], np.float32
    )
    kept = clip_visible(boxes, 100, 100)
    assert kept.tolist() == [[0, 10, 30, 50], [20, 20, 60, 60]]
    assert clip_visible(np.zeros((0, 4), np.float32), 10, 10).shape == (0, 4)
