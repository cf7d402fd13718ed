"""Training views of cells: what the device would cut, and where a dot goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import CropInputSpec
from edge_runtime.preprocess import crop_tensor
from tests.support import paint_field
from train.datasets.cell_views import Surroundings, ViewSpec, draw_view, surroundings

PLAIN = ViewSpec(smallest=1, largest=1, shift=0, restained=0, lens=0)


def crop_spec(side: int = 48, **changes: Any) -> CropInputSpec:
    return CropInputSpec(
        **{
            "name": "crops", "width": side, "height": side, "scale": 1 / 255, "pad_value": 114,
            "margin": 0.0, **changes,
        }
    )  # fmt: skip


class Chosen:
    """In the place of a generator: turn, mirror and shift as told."""

    def __init__(self, turn: float = 0.0, mirror: bool = False, shift: float = 0.0) -> None:
        self._turn, self._mirror, self._shift, self._asked = turn, mirror, shift, 0

    def uniform(self, low: float, high: float, size: int | None = None) -> Any:
        if size is not None:
            return np.array([self._shift, 0.0])
        self._asked += 1
        return low if self._asked == 1 else self._turn

    def random(self) -> float:
        self._asked += 1
        return 0.0 if self._mirror and self._asked == 3 else 0.99


def view_of(cell: Surroundings, spec: CropInputSpec, how: Chosen) -> Any:
    chosen: Any = how
    return draw_view(cell, chosen, spec, PLAIN)


@pytest.mark.parametrize(
    ("box", "spec"),
    [
        ((40, 30, 88, 78), crop_spec(48)),  # its own pixels
        ((40, 30, 80, 70), crop_spec(48, margin=0.1)),
        ((2, 4, 50, 52), crop_spec(48)),  # reaches beyond the picture when widened
        ((40, 30, 60, 50), crop_spec(48, margin_px=14.0)),
    ],
)
def test_an_unaugmented_view_is_the_devices_crop(box: Any, spec: CropInputSpec) -> None:
    pixels = paint_field(160, 120, [(64, 54, 30), (20, 20, 20)], seed=1)
    corners = np.array(box, np.float32)
    device = (crop_tensor(pixels, corners[None], spec)[0] * 255).round().transpose(1, 2, 0)
    view = view_of(surroundings(pixels, corners, spec), spec, Chosen()).astype(float)
    assert np.abs(view - device).max() <= 1


def test_an_unaugmented_view_is_near_the_devices_resized_crop() -> None:
    pixels, spec = paint_field(160, 120, [(64, 54, 30)], seed=1), crop_spec(40)
    corners = np.array((35, 26, 92, 83), np.float32)
    device = (crop_tensor(pixels, corners[None], spec)[0] * 255).transpose(1, 2, 0)
    view = view_of(surroundings(pixels, corners, spec), spec, Chosen()).astype(float)
    assert np.abs(view - device).mean() < 2.5
    rows, columns = np.mgrid[0:40, 0:40]
    for axis in (rows, columns):
        middles = [(axis * (each < 160)[:, :, 1]).sum() for each in (view, device)]
        counts = [(each < 160)[:, :, 1].sum() for each in (view, device)]
        # Squares are rounded to whole pixels of the picture, so one of these may differ.
        assert abs(middles[0] / counts[0] - middles[1] / counts[1]) < 40 / 57


def dotted() -> tuple[Surroundings, CropInputSpec]:
    """A dot in the middle of the pixel 10 right of and 5 above the crop's centre."""
    spec, pixels = crop_spec(49), np.full((150, 150, 3), 90, np.uint8)
    pixels[75 - 5 - 1 : 75 - 5 + 2, 75 + 10 - 1 : 75 + 10 + 2] = 255
    box = np.array((51, 51, 100, 100), np.float32)  # its centre is the pixel (75, 75)'s
    return surroundings(pixels, box, spec), spec


def dot_at(view: Any) -> tuple[float, float]:
    weight = view[:, :, 0].astype(float) - 90
    weight[weight < 20] = 0
    rows, columns = np.mgrid[0 : len(view), 0 : len(view)]
    middle = (len(view) - 1) / 2
    return (
        float((columns * weight).sum() / weight.sum() - middle),
        float((rows * weight).sum() / weight.sum() - middle),
    )


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (Chosen(), (10, -5)),
        (Chosen(turn=np.pi / 2), (5, 10)),
        (Chosen(turn=np.pi), (-10, 5)),
        (Chosen(mirror=True), (-10, -5)),
        (Chosen(shift=5 / 49), (5, -5)),
    ],
)
def test_a_painted_dot_goes_where_it_should(how: Chosen, wanted: tuple[float, float]) -> None:
    assert dot_at(view_of(*dotted(), how)) == pytest.approx(wanted, abs=0.75)


def test_views_hang_on_the_seed_alone() -> None:
    cell, spec = dotted()

    def draw(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return np.stack([draw_view(cell, rng, spec, ViewSpec()) for _ in range(4)])

    assert (draw(3) == draw(3)).all()
    assert not (draw(3) == draw(4)).all()
    first = draw(3)
    assert not (first[0] == first[1]).all()
