"""How red cells, platelets and the things that are mistaken for white cells are drawn.

Owns the look of red cells, platelets, platelet clumps, smudge cells and stain debris.
Does not own white cells (``cells``) nor where things lie (``film``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from edge_runtime.types import Float32Array
from edge_runtime.virtual_film.cells import Painter
from edge_runtime.virtual_film.shapes import Canvas, Stamp, Textures
from edge_runtime.virtual_film.stain import Stain, optical_density

# Optical density of what no dye has coloured: fibres, dirt.
_GREY: Float32Array = np.array([0.5, 0.55, 0.5], np.float32)
_BROWN: Float32Array = np.array([1.3, 1.5, 1.7], np.float32)


def red_cell(
    rng: np.random.Generator,
    stain: Stain,
    textures: Textures,
    *,
    poikilocytosis: float = 0.3,
    diameter_um: float = 7.4,
) -> Stamp:
    """One red cell: a disc with a pale middle.

    ``poikilocytosis`` (0 to 1) is how often and how far cells leave the round form.
    """
    diameter = float(np.clip(rng.normal(diameter_um, 0.45 + 0.4 * poikilocytosis), 5.2, 9.8))
    canvas = Canvas(rng, textures, diameter * 1.5 + 1.5)
    odd = rng.random() < 0.15 + 0.6 * poikilocytosis
    squeeze = float(np.exp(abs(rng.normal(0, 0.05 + (0.16 * poikilocytosis if odd else 0)))))
    turn = float(rng.uniform(0, np.pi))
    radius = diameter / 2
    half = (canvas.size - 1) / 2
    rows, columns = np.indices((canvas.size, canvas.size), dtype=np.float32)
    x, y = (columns - half) * canvas.pixel_size_um, (rows - half) * canvas.pixel_size_um
    along = (x * math.cos(turn) + y * math.sin(turn)) / squeeze
    across = (-x * math.sin(turn) + y * math.cos(turn)) * squeeze
    theta = np.arctan2(across, along)
    bumps = np.ones_like(theta)
    wobble = 0.012 + (0.05 * poikilocytosis if odd else 0)
    for k in range(2, 6):
        bumps += rng.normal(0, wobble / (k - 1) ** 0.5) * np.cos(k * theta + rng.uniform(0, 6.28))
    if rng.random() < 0.08 * poikilocytosis:  # crenated
        bumps += 0.035 * np.cos(rng.integers(9, 15) * theta)
    rho = np.hypot(along, across) / (radius * bumps)
    body = np.clip((1 - rho) * radius / 0.45 + 0.5, 0, 1)
    disc = np.asarray(body * body * (3 - 2 * body), np.float32)
    pallor = stain.central_pallor * float(np.clip(rng.normal(1, 0.25), 0, 1.25))
    if rng.random() < 0.06:
        pallor = 0.05  # a spherocyte
    width = float(rng.uniform(0.30, 0.56))
    shift = rng.normal(0, 0.10, 2)
    middle = np.hypot(along / radius - shift[0], across / radius - shift[1])
    dip = np.exp(-((middle / width) ** float(rng.uniform(2.0, 4.5))))
    profile = 0.9 + 0.18 * rho**4 - min(pallor, 0.95) * dip
    if rng.random() < 0.04:  # a target cell
        profile += 0.55 * pallor * np.exp(-((middle / (0.45 * width)) ** 2))
    profile *= 1 + 0.04 * canvas.noise(1.6) + 0.02 * canvas.noise(0.4)
    young = rng.random() < 0.05
    colour = stain.polychromatic if young else stain.red_cell
    strength = float(np.clip(rng.normal(1, 0.08), 0.7, 1.3))
    canvas.lay(disc, optical_density(colour) * strength, profile.astype(np.float32))
    return canvas.stamp(disc)


def _platelet_on(canvas: Canvas, stain: Stain, at: tuple[float, float], diameter: float) -> None:
    rng = canvas.rng
    stretch = float(np.exp(abs(rng.normal(0, 0.18))))
    radii = (diameter / 2 * stretch, diameter / 2 / stretch)
    outline = canvas.outline(at, radii, rng.uniform(0, np.pi), 0.12, 6)
    body = canvas.soften(canvas.fill([outline]), 0.2, 1.6)
    density = optical_density(stain.platelet)
    mottle = np.clip(0.34 + 0.12 * canvas.noise(0.5), 0.08, 1).astype(np.float32)
    canvas.add(body * mottle, density * rng.uniform(0.6, 1.1))
    core = canvas.dots(canvas.blur(body, 0.25), int(6 * diameter**2), (0.1, 0.24), 0.12, 0.3)
    canvas.add(core * body, density * rng.uniform(0.4, 0.85))


def platelet(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """Small, purple and granular; one in twelve is a giant."""
    giant = rng.random() < 0.08
    diameter = float(rng.uniform(4.0, 6.5) if giant else rng.uniform(1.6, 3.4))
    canvas = Canvas(rng, textures, diameter * 2 + 2)
    _platelet_on(canvas, stain, (0.0, 0.0), diameter)
    return canvas.stamp(_stained(canvas))


def _stained(canvas: Canvas) -> Float32Array:
    """Where anything visible was drawn, 0 to 1."""
    strongest = canvas.density.max(axis=0)
    share = strongest / max(1e-3, 0.4 * float(strongest.max()))
    return np.asarray(np.clip(share, 0, 1), np.float32)


def platelet_clump(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """Platelets stuck together, up to the size of a white cell."""
    count = int(rng.integers(5, 32))
    spread = 0.95 * math.sqrt(count)
    canvas = Canvas(rng, textures, 4.4 * spread + 6)
    limit = 2.0 * spread
    for at in rng.normal(0, 0.85 * spread, (count, 2)).clip(-limit, limit):
        _platelet_on(canvas, stain, (float(at[0]), float(at[1])), float(rng.uniform(1.6, 3.4)))
    # Overlapping platelets would otherwise grow as dark as a nucleus.
    strongest = canvas.density.max(axis=0)
    most = 1.5 * float(optical_density(stain.platelet).max())
    canvas.density *= np.minimum(1, most / np.maximum(strongest, 1e-3))
    return canvas.stamp(_stained(canvas))


def smudge_cell(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """A crushed nucleus: pale, streaky, frayed, without cytoplasm."""
    diameter = float(rng.uniform(9, 19))
    stretch = float(np.exp(min(abs(rng.normal(0, 0.25)), 0.55)))
    canvas = Canvas(rng, textures, diameter * stretch * 1.5 + 9)
    outline = canvas.outline(
        (0, 0), (diameter / 2 * stretch, diameter / 2 / stretch), rng.uniform(0, 3.14), 0.16, 9
    )
    torn = canvas.bend(canvas.bend(canvas.fill([outline]), 5.0, 1.2), 1.4, 0.7)
    body = canvas.soften(torn, 0.8, 1.3)
    streaks = canvas.turned(canvas.noise(0.8, stretch=6.0), float(rng.uniform(0, 180)))
    streaks = canvas.bend(canvas.bend(streaks, 5.0, 1.0), 1.3, 0.35)
    texture = 0.42 + 0.13 * streaks + 0.12 * canvas.noise(2.5) + 0.05 * canvas.noise(0.5)
    holes = np.clip(canvas.noise(1.8) - 1.1, 0, 1)
    texture = np.clip(texture * rng.uniform(0.6, 1.25) * (1 - 0.8 * holes), 0.03, 1.5)
    density = optical_density(stain.nucleus) * np.array([0.85, 1.0, 0.9], np.float32)
    canvas.lay(body, density, texture.astype(np.float32))
    return canvas.stamp(body)


def stain_debris(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """Precipitated stain, a speck of dirt, or a fibre."""
    kind = rng.choice(["precipitate", "dirt", "fibre", "blot"], p=[0.45, 0.2, 0.1, 0.25])
    nucleus = optical_density(stain.nucleus)
    if kind == "precipitate":
        reach = float(rng.uniform(1.5, 7.0))
        canvas = Canvas(rng, textures, 2 * reach + 4)
        drop = canvas.fill([canvas.outline((0, 0), (reach, 0.7 * reach), 1.0, 0.2, 7)])
        grains = canvas.dots(
            canvas.soften(drop, 0.2), int(reach**2 * rng.uniform(1, 5)) + 4, (0.12, 0.42)
        )
        canvas.add(grains, nucleus * 1.2)
        return canvas.stamp(_stained(canvas))
    if kind == "fibre":
        canvas = Canvas(rng, textures, 30.0)
        steps = np.cumsum(rng.normal(0, 0.25, 20)) + rng.uniform(0, 6.28)
        path = np.cumsum(np.stack([np.cos(steps), np.sin(steps)], axis=1), axis=0)
        path = np.clip(path - path.mean(axis=0), -13, 13)
        mask = np.zeros((canvas.size, canvas.size), np.uint8)
        canvas.line(mask, path, float(rng.uniform(0.4, 0.9)))
        canvas.add(canvas.soften(mask, 0.15), _GREY * rng.uniform(0.5, 1.6))
        return canvas.stamp(_stained(canvas))
    size = float(rng.uniform(1.5, 4.0) if kind == "dirt" else rng.uniform(3.0, 9.0))
    canvas = Canvas(rng, textures, size * 2.4 + 3)
    outline = canvas.outline((0, 0), (size / 2, size / 2.6), rng.uniform(0, 3.14), 0.22, 8)
    if kind == "dirt":
        body = canvas.soften(canvas.bend(canvas.fill([outline]), 0.9, 0.3), 0.15)
        canvas.lay(body, _BROWN * rng.uniform(0.4, 1.2))
    else:  # a drop of dried stain: even, without inner structure
        body = canvas.soften(canvas.bend(canvas.fill([outline]), 2.0, 0.4), 0.5, 1.4)
        cloud = 1 + 0.12 * canvas.noise(1.5)
        canvas.lay(body, nucleus * rng.uniform(0.35, 1.0), cloud.astype(np.float32))
    return canvas.stamp(body)


ARTEFACT_PAINTERS: Mapping[str, Painter] = MappingProxyType(
    {
        "platelet": platelet,
        "platelet_clump": platelet_clump,
        "smudge_cell": smudge_cell,
        "stain_debris": stain_debris,
    }
)
