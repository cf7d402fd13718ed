"""How each white cell is drawn.

Owns the look of the five normal white cells and of blasts. Does not own red cells,
platelets and artefacts (``background_cells``) nor where cells lie (``film``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edge_runtime.types import Float32Array, UInt8Image
from edge_runtime.virtual_film.shapes import Canvas, Stamp, Textures
from edge_runtime.virtual_film.stain import Stain, optical_density

Painter = Callable[[np.random.Generator, Stain, Textures], Stamp]


def _body(
    canvas: Canvas, diameter: float, wobble: float, soften: float = 0.25
) -> tuple[Float32Array, float]:
    """The whole cell's mask, slightly drawn out in one direction, and its mean radius."""
    rng = canvas.rng
    squeeze = float(np.exp(rng.normal(0, 0.06)))
    radius = diameter / 2
    outline = canvas.outline(
        (0, 0), (radius * squeeze, radius / squeeze), rng.uniform(0, np.pi), wobble, 7
    )
    return canvas.soften(canvas.fill([outline]), soften), radius


def _cytoplasm(
    canvas: Canvas, body: Float32Array, density: Float32Array, grain: float, edge: float
) -> None:
    """Lay the cell body: cloudy, and denser (``edge`` > 0) or paler towards its border."""
    cloud = 1 + 0.10 * canvas.noise(2.2) + grain * canvas.noise(0.35)
    inner = canvas.blur(body, 1.3)
    rim = np.clip(1 - inner, 0, 1) * 2
    canvas.lay(body, density, np.clip(cloud * (1 + edge * rim), 0.15, 3).astype(np.float32))


def _chromatin(
    canvas: Canvas, nucleus: Float32Array, stain: Stain, clumps: float, fine: float, depth: float
) -> None:
    """Lay the nucleus: ``clumps`` of dense chromatin, ``fine`` threads, a darker membrane."""
    rng = canvas.rng
    blocks = np.tanh(canvas.noise(float(rng.choice((0.8, 1.0, 1.25)))) * 1.4)
    threads = canvas.noise(0.45)
    membrane = np.clip(1 - canvas.blur(nucleus, 0.5), 0, 1) * nucleus
    texture = depth * (1 + clumps * blocks + fine * threads + 0.22 * membrane)
    texture *= 1 + 0.06 * canvas.noise(3.0)
    canvas.lay(
        nucleus, optical_density(stain.nucleus), np.clip(texture, 0.25, 2).astype(np.float32)
    )


def _lobed(
    canvas: Canvas, radius: float, lobes: int, size: tuple[float, float], strand: float
) -> UInt8Image:
    """A nucleus of ``lobes`` lobes along a bent line, joined by strands ``strand`` µm wide."""
    rng = canvas.rng
    sweep = math.radians(float(rng.uniform(68, 98))) * (lobes - 1) * (0.85 if lobes > 4 else 1)
    start = float(rng.uniform(0, 2 * np.pi))
    reach = radius * float(rng.uniform(0.43, 0.58))
    shift = rng.normal(0, 0.07 * radius, 2)
    angles = start + np.linspace(0, sweep, lobes) + rng.normal(0, 0.12, lobes)
    reaches = reach * rng.uniform(0.75, 1.15, lobes)
    outlines: list[NDArray[np.float64]] = []
    centres = np.stack([reaches * np.cos(angles), reaches * np.sin(angles)], axis=1) + shift
    for (x, y), angle in zip(centres, angles, strict=True):
        long, short = radius * rng.uniform(*size), radius * rng.uniform(size[0], size[1]) * 0.82
        tilt = angle + np.pi / 2 + rng.normal(0, 0.5)
        outlines.append(canvas.outline((x, y), (long, short), tilt, 0.08, 5))
    mask = canvas.fill(outlines)
    if lobes > 1:
        between = np.linspace(0, lobes - 1, 8 * lobes)
        index = np.arange(lobes)
        path = np.stack([np.interp(between, index, centres[:, k]) for k in (0, 1)], axis=1)
        canvas.line(mask, path, strand)
    return canvas.bend(mask, 2.5, 0.24)


def _band(canvas: Canvas, radius: float) -> UInt8Image:
    """A horseshoe of even width: the nucleus of a young neutrophil."""
    rng = canvas.rng
    reach = radius * float(rng.uniform(0.42, 0.5))
    sweep = math.radians(float(rng.uniform(170, 260)))
    angles = float(rng.uniform(0, 2 * np.pi)) + np.linspace(0, sweep, 24)
    path = np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)
    mask = canvas.fill([])
    canvas.line(mask, path, radius * float(rng.uniform(0.42, 0.55)))
    return canvas.bend(mask, 2.5, 0.35)


def _vacuoles(canvas: Canvas, inside: Float32Array, count: int) -> None:
    holes = canvas.dots(inside, count, (0.2, 0.65), 0.12, 0.6)
    canvas.bleach(holes, 0.8)


def _free(body: Float32Array, nucleus: Float32Array) -> Float32Array:
    """Cytoplasm: the body without its nucleus."""
    return np.asarray(np.clip(body - nucleus, 0, 1), np.float32)


def neutrophil(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """Pale pink, fine lilac granules, a nucleus of 2 to 5 lobes, sometimes a band."""
    diameter = float(rng.uniform(11.5, 15.5))
    canvas = Canvas(rng, textures, diameter * 1.3 + 2)
    body, radius = _body(canvas, diameter, 0.025)
    _cytoplasm(canvas, body, optical_density(stain.acidophilic), 0.11, 0.15)
    lobes = int(rng.choice([1, 2, 3, 4, 5], p=[0.12, 0.18, 0.38, 0.24, 0.08]))
    mask = (
        _band(canvas, radius)
        if lobes == 1
        else _lobed(canvas, radius, lobes, (0.27, 0.40) if lobes < 3 else (0.21, 0.32), 0.7)
    )
    nucleus = canvas.soften(mask, 0.22, 2.2) * canvas.blur(body, 0.4)
    granules = canvas.dots(body, int(rng.uniform(60, 320)), (0.07, 0.16), 0.1, 0.2)
    canvas.add(granules * body, optical_density(stain.neutrophil_granule) * rng.uniform(0.3, 1.0))
    if rng.random() < 0.12:
        _vacuoles(canvas, _free(body, nucleus), int(rng.integers(2, 8)))
    _chromatin(canvas, nucleus, stain, 0.17, 0.08, rng.uniform(0.9, 1.1))
    return canvas.stamp(body)


def eosinophil(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """Packed with coarse red granules; two lobes, rarely three."""
    diameter = float(rng.uniform(12.0, 16.5))
    canvas = Canvas(rng, textures, diameter * 1.3 + 2)
    body, radius = _body(canvas, diameter, 0.025)
    red = optical_density(stain.eosinophil_granule)
    _cytoplasm(canvas, body, optical_density(stain.acidophilic) * 0.6 + red * 0.3, 0.1, 0.0)
    mask = _lobed(canvas, radius, 3 if rng.random() < 0.2 else 2, (0.34, 0.46), 0.9)
    nucleus = canvas.soften(mask, 0.22, 2.2) * canvas.blur(body, 0.4)
    inside = canvas.blur(body, 0.5)
    granules = canvas.dots(inside, int(rng.uniform(160, 330)), (0.3, 0.5), 0.14, 0.25)
    canvas.add(granules * body, red * rng.uniform(0.6, 1.0))
    if rng.random() < 0.3:
        _vacuoles(canvas, _free(body, nucleus), int(rng.integers(1, 6)))
    _chromatin(canvas, nucleus, stain, 0.17, 0.08, rng.uniform(0.8, 1.02))
    return canvas.stamp(body)


def basophil(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """Dark violet granules over a blurred, lobed nucleus."""
    diameter = float(rng.uniform(10.0, 14.0))
    canvas = Canvas(rng, textures, diameter * 1.3 + 2)
    body, radius = _body(canvas, diameter, 0.04)
    light = 0.6 * optical_density(stain.acidophilic) + 0.4 * optical_density(stain.basophilic)
    _cytoplasm(canvas, body, light, 0.14, 0.1)
    mask = _lobed(canvas, radius, int(rng.integers(2, 4)), (0.4, 0.55), 1.6)
    nucleus = canvas.soften(mask, 0.5, 1.6) * body
    _chromatin(canvas, nucleus, stain, 0.15, 0.08, rng.uniform(0.6, 0.85))
    granules = canvas.dots(body, int(rng.uniform(50, 170)), (0.25, 0.55), 0.13, 0.35)
    canvas.add(granules * body, optical_density(stain.basophil_granule) * rng.uniform(0.35, 0.7))
    return canvas.stamp(body)


def lymphocyte(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """A round, dense, clumped nucleus in a thin blue rim; some are large with more of it."""
    large = rng.random() < 0.25
    diameter = float(rng.uniform(11.5, 15.5) if large else rng.uniform(7.8, 11.5))
    canvas = Canvas(rng, textures, diameter * 1.3 + 2)
    body, radius = _body(canvas, diameter, 0.06 if large else 0.035)
    _cytoplasm(canvas, body, optical_density(stain.basophilic) * rng.uniform(0.5, 1.1), 0.1, 0.4)
    share = float(rng.uniform(0.60, 0.72) if large else rng.uniform(0.78, 0.92))
    off = rng.normal(0, 0.3 * (1 - share) * radius + 0.05, 2)
    across = share * radius
    outline = canvas.outline(
        (off[0], off[1]), (across * 1.04, across * 0.96), rng.uniform(0, np.pi), 0.035, 4
    )
    nucleus = canvas.soften(canvas.bend(canvas.fill([outline]), 3.0, 0.2), 0.28, 2.0) * body
    _chromatin(canvas, nucleus, stain, 0.19, 0.07, rng.uniform(0.85, 1.12))
    if large and rng.random() < 0.5:
        azure = canvas.dots(_free(body, nucleus), int(rng.integers(3, 14)), (0.15, 0.28))
        canvas.add(azure, optical_density(stain.eosinophil_granule) * 0.7)
    return canvas.stamp(body)


def monocyte(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """Large, grey-blue, with vacuoles; an indented or folded nucleus with lacy chromatin."""
    diameter = float(rng.uniform(13.5, 19.0))
    canvas = Canvas(rng, textures, diameter * 1.45 + 2)
    body, radius = _body(canvas, diameter, 0.045, 0.3)
    blue, pink = optical_density(stain.basophilic), optical_density(stain.acidophilic)
    mixed = np.asarray(0.6 * blue + 0.5 * pink, np.float32)
    _cytoplasm(canvas, body, mixed * rng.uniform(0.6, 1.0), 0.14, -0.1)
    dust = canvas.dots(body, int(rng.uniform(60, 220)), (0.06, 0.13), 0.1, 0.2)
    canvas.add(dust * body, optical_density(stain.neutrophil_granule) * 0.5)
    side = float(rng.uniform(0, 2 * np.pi))
    across = radius * float(rng.uniform(0.58, 0.74))
    away = np.array([math.cos(side), math.sin(side)])
    centre = -0.12 * radius * away
    kidney = canvas.outline((centre[0], centre[1]), (across * 0.86, across * 1.12), side, 0.05, 5)
    mask = canvas.fill([kidney])
    notch_at = centre + across * rng.uniform(0.75, 1.15) * away
    notch_size = across * float(rng.uniform(0.25, 0.55))
    notch = canvas.outline((notch_at[0], notch_at[1]), (notch_size * 1.4, notch_size), side, 0.1, 4)
    mask = canvas.bend(np.minimum(mask, 255 - canvas.fill([notch])), 3.5, 0.5)
    nucleus = canvas.soften(mask, 0.35, 2.0) * body
    if rng.random() < 0.6:
        _vacuoles(canvas, _free(body, nucleus), int(rng.integers(2, 14)))
    _chromatin(canvas, nucleus, stain, 0.16, 0.10, rng.uniform(0.68, 0.9))
    return canvas.stamp(body)


def blast(rng: np.random.Generator, stain: Stain, textures: Textures) -> Stamp:
    """Large, little blue cytoplasm, fine even chromatin, pale nucleoli."""
    diameter = float(rng.uniform(11.0, 19.5))
    canvas = Canvas(rng, textures, diameter * 1.45 + 2)
    body, radius = _body(canvas, diameter, float(rng.uniform(0.02, 0.08)))
    if rng.random() < 0.15:  # blebs: small knobs of cytoplasm
        knobs = []
        for _ in range(int(rng.integers(1, 4))):
            around, knob = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.4)
            x, y = 0.98 * radius * math.cos(around), 0.98 * radius * math.sin(around)
            knobs.append(canvas.outline((x, y), (knob, knob)))
        body = np.maximum(body, canvas.soften(canvas.fill(knobs), 0.25))
    _cytoplasm(canvas, body, optical_density(stain.basophilic) * rng.uniform(0.7, 1.5), 0.1, 0.5)
    share = float(rng.uniform(0.78, 0.93))
    off = rng.normal(0, 0.25 * (1 - share) * radius, 2)
    stretch = float(np.exp(rng.normal(0, 0.07)))
    across = share * radius
    outline = canvas.outline(
        (off[0], off[1]), (across * stretch, across / stretch), rng.uniform(0, np.pi), 0.032, 5
    )
    mask = canvas.fill([outline])
    if rng.random() < 0.3:  # a cleft
        turn = float(rng.uniform(0, 2 * np.pi))
        at = off + across * np.array([math.cos(turn), math.sin(turn)])
        size = across * float(rng.uniform(0.12, 0.35))
        mask = np.minimum(
            mask, 255 - canvas.fill([canvas.outline((at[0], at[1]), (size * 1.6, size), turn)])
        )
    nucleus = canvas.soften(canvas.bend(mask, 3.0, 0.25), 0.3, 2.0) * body
    if rng.random() < 0.2:
        azure = canvas.dots(_free(body, nucleus), int(rng.integers(5, 30)), (0.1, 0.25))
        canvas.add(azure, optical_density(stain.neutrophil_granule))
    _chromatin(canvas, nucleus, stain, 0.06, 0.085, rng.uniform(0.6, 0.92))
    inner = canvas.blur(nucleus, 1.0) * 0.62
    nucleoli = canvas.dots(inner, int(rng.integers(0, 4)), (0.6, 1.35), 0.25, 0.7) * nucleus
    canvas.bleach(nucleoli, 0.38)
    canvas.add(nucleoli, optical_density(stain.basophilic) * 0.12)
    if rng.random() < 0.05:  # an Auer rod
        rod = np.zeros((canvas.size, canvas.size), np.uint8)
        turn, along = rng.uniform(0, 2 * np.pi), rng.uniform(0, np.pi)
        middle = 0.88 * radius * np.array([math.cos(turn), math.sin(turn)])
        half = 1.3 * np.array([math.cos(along), math.sin(along)])
        canvas.line(rod, np.stack([middle - half, middle + half]), 0.25)
        canvas.add(canvas.soften(rod, 0.1) * body, optical_density(stain.eosinophil_granule))
    return canvas.stamp(body)


WHITE_CELL_PAINTERS: Mapping[str, Painter] = MappingProxyType(
    {
        "neutrophil": neutrophil,
        "eosinophil": eosinophil,
        "basophil": basophil,
        "lymphocyte": lymphocyte,
        "monocyte": monocyte,
        "blast": blast,
    }
)
