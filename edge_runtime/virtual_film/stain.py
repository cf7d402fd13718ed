"""How one film was stained: the colour of everything on it, drawn from a seed.

Owns the colours (light transmitted per RGB channel, relative to the clear background) and
the way one film's stain is drawn between known stains. Does not own shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[float, float, float]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stain:
    """Colours of one film.

    Attributes:
        background_rgb: colour of clear film, 0 to 255.
        nucleus: transmitted light of a full-strength nucleus; like all that follow, per
            channel and relative to the background, slightly above 1 where a camera's white
            balance makes the stain brighter than the background.
        basophilic: cytoplasm that took the blue dye (lymphocytes, blasts, monocytes).
        acidophilic: pale pink cytoplasm of granulocytes.
        neutrophil_granule: fine lilac granules.
        eosinophil_granule: coarse red granules.
        basophil_granule: dark violet granules.
        red_cell: the rim of a red cell.
        polychromatic: young, blue-grey red cells.
        platelet: platelets and their granules.
        central_pallor: how much of its colour a red cell loses in the middle, 0 to 1.
    """

    background_rgb: Rgb
    nucleus: Rgb
    basophilic: Rgb
    acidophilic: Rgb
    neutrophil_granule: Rgb
    eosinophil_granule: Rgb
    basophil_granule: Rgb
    red_cell: Rgb
    polychromatic: Rgb
    platelet: Rgb
    central_pallor: float


# Nucleus, basophilic, acidophilic, eosinophil granule: rough medians over stained cells on
# slides of different laboratories, from crisp May-Gruenwald-Giemsa to washed-out Wright.
_WHITE_CELL_STAINS: tuple[tuple[Rgb, Rgb, Rgb, Rgb], ...] = (
    ((0.27, 0.13, 0.62), (0.55, 0.60, 0.85), (0.87, 0.80, 0.90), (0.74, 0.44, 0.56)),
    ((0.62, 0.42, 1.04), (0.74, 0.74, 1.01), (0.90, 0.82, 0.97), (0.80, 0.55, 0.68)),
    ((0.52, 0.15, 0.62), (0.72, 0.60, 0.82), (0.91, 0.82, 0.89), (0.80, 0.56, 0.62)),
    ((0.29, 0.07, 0.53), (0.62, 0.52, 0.78), (0.87, 0.76, 0.86), (0.72, 0.45, 0.55)),
    ((0.48, 0.15, 0.54), (0.60, 0.55, 0.72), (0.78, 0.66, 0.78), (0.76, 0.42, 0.46)),
    ((0.42, 0.30, 0.74), (0.62, 0.68, 0.88), (0.86, 0.84, 0.92), (0.78, 0.56, 0.62)),
)
# From salmon through pink and brown to blue-grey.
_RED_CELLS: tuple[Rgb, ...] = (
    (0.88, 0.71, 0.70),
    (0.80, 0.71, 0.82),
    (0.87, 0.77, 0.83),
    (0.67, 0.57, 0.75),
    (0.62, 0.62, 0.78),
    (0.68, 0.70, 0.76),
    (0.84, 0.74, 0.60),
    (0.76, 0.66, 0.68),
)
# White, beige, pinkish, yellow, lilac, grey-green, grey.
_BACKGROUNDS: tuple[Rgb, ...] = (
    (243, 242, 240),
    (252, 229, 203),
    (222, 188, 176),
    (246, 238, 160),
    (222, 212, 236),
    (204, 210, 198),
    (206, 207, 203),
    (232, 222, 226),
)


def optical_density(transmitted: Rgb) -> Float32Array:
    """Natural-log density per channel, float32 ``(3,)``; densities of layers add up."""
    return (-np.log(np.asarray(transmitted, np.float64))).astype(np.float32)


def _between(rng: np.random.Generator, table: tuple[Rgb, ...]) -> NDArray[np.float64]:
    """A colour near one row of ``table``, drawn towards another row."""
    first, second = rng.integers(len(table), size=2)
    share = 0.4 * rng.random()
    return np.asarray(table[first]) * (1 - share) + np.asarray(table[second]) * share


def _stronger(colour: NDArray[np.float64], strength: float, tint: NDArray[np.float64]) -> Rgb:
    density = -np.log(np.clip(colour, 0.04, 1.1)) * strength + tint
    red, green, blue = np.clip(np.exp(-density), 0.04, 1.1)
    return (float(red), float(green), float(blue))


def draw_stain(rng: np.random.Generator) -> Stain:
    """A stain as another laboratory might have made it."""
    share = 0.45 * rng.random()
    one, other = (np.asarray(_WHITE_CELL_STAINS[i]) for i in rng.integers(6, size=2))
    nucleus, basophilic, acidophilic, eosin = one * (1 - share) + other * share
    strength = float(rng.uniform(0.78, 1.25))
    # One tint for the whole film: the pH of the buffer shifts every dye the same way.
    tint = rng.normal(0.0, 0.035, 3)
    red = _between(rng, _RED_CELLS)
    red_strength = float(rng.uniform(0.75, 1.3))
    background = np.clip(_between(rng, _BACKGROUNDS) * rng.uniform(0.93, 1.0), 0, 253)
    background = np.clip(background + rng.normal(0.0, 4.0, 3), 90, 253)
    granule = 0.35 * nucleus + 0.65 * acidophilic
    return Stain(
        background_rgb=(float(background[0]), float(background[1]), float(background[2])),
        nucleus=_stronger(nucleus, strength, tint),
        basophilic=_stronger(basophilic, strength * float(rng.uniform(0.75, 1.2)), tint),
        acidophilic=_stronger(acidophilic, strength * float(rng.uniform(0.7, 1.3)), tint),
        neutrophil_granule=_stronger(granule, strength, tint),
        eosinophil_granule=_stronger(eosin, strength, tint * 0.5),
        basophil_granule=_stronger(nucleus, strength * 1.12, tint),
        red_cell=_stronger(red, red_strength, tint * 0.4),
        polychromatic=_stronger(0.5 * red + 0.5 * basophilic, red_strength, tint),
        platelet=_stronger(0.55 * nucleus + 0.45 * acidophilic, strength, tint),
        central_pallor=float(rng.uniform(0.35, 0.9)),
    )
