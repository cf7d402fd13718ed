from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.types import UInt8Image
from train.datasets.appearance import background_colour, eyepiece_stop, light_and_lens, restain


def stained_field() -> UInt8Image:
    """Paper, a pale red cell and a dark nucleus."""
    pixels = np.full((96, 96, 3), (240, 225, 205), np.uint8)
    pixels[20:50, 10:40] = (215, 170, 165)
    pixels[50:80, 50:80] = (90, 45, 130)
    return pixels


def test_background_is_the_bright_paper() -> None:
    assert background_colour(stained_field()) == pytest.approx([240, 225, 205], abs=3)


@pytest.mark.parametrize("seed", range(30))
def test_a_nucleus_stays_darker_than_red_cells_in_every_stain(seed: int) -> None:
    pixels = restain(stained_field(), np.random.default_rng(seed), 1.0).astype(int)
    paper, red, nucleus = (
        pixels[5, 5].sum(),
        pixels[35, 25].sum(),
        pixels[65, 65].sum(),
    )
    assert nucleus < red < paper + 2


def test_strength_decides_how_far_a_stain_goes() -> None:
    field = stained_field()

    def change(strength: float) -> float:
        return float(
            np.mean(
                [
                    np.abs(
                        restain(field, np.random.default_rng(seed), strength).astype(int)
                        - field.astype(int)
                    ).mean()
                    for seed in range(12)
                ]
            )
        )

    assert change(0.0) < 3 < change(1.0)


def test_the_same_seed_gives_the_same_pixels() -> None:
    first = light_and_lens(stained_field(), np.random.default_rng(4), 1.0)
    again = light_and_lens(stained_field(), np.random.default_rng(4), 1.0)
    other = light_and_lens(stained_field(), np.random.default_rng(5), 1.0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8


def test_the_round_stop_says_what_it_hid() -> None:
    pixels, lit = eyepiece_stop(stained_field(), np.random.default_rng(0))
    assert lit.shape == pixels.shape[:2]
    hidden = lit < 0.1
    assert hidden.any()
    assert pixels[hidden].max() < 30
    assert np.array_equal(pixels[lit == 1], stained_field()[lit == 1])
