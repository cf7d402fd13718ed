"""Where things lie on a film.

Owns positions: white cells and artefacts that keep their distance or touch in clusters,
red cells that fill the room between them. Does not own what is drawn there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

_MAP_PIXEL_UM = 0.5
_TRIES = 40


@dataclass(frozen=True, slots=True)
class Disc:
    """Something that wants a place on the film.

    Attributes:
        radius_um: the room it needs.
        is_cell: a white cell; these may touch one another.
    """

    radius_um: float
    is_cell: bool


class Places:
    """Finds room on the film, one disc after the other.

    ``clustering`` is the share of white cells that lie against another one; two cells may
    overlap by up to a tenth of their distance.
    """

    def __init__(
        self, rng: np.random.Generator, size_um: tuple[float, float], clustering: float
    ) -> None:
        self._rng = rng
        self._size_um = size_um
        self._clustering = clustering
        self._taken = np.zeros((256, 3), np.float64)  # x, y, radius
        self._count = 0
        self._cells: list[int] = []

    def find(self, disc: Disc) -> tuple[float, float] | None:
        """A free place that keeps the whole disc on the film; None where the film is full."""
        rng = self._rng
        margin = disc.radius_um * 1.25 + 0.5
        high_x, high_y = (max(margin + 0.1, side - margin) for side in self._size_um)
        beside = disc.is_cell and bool(self._cells) and rng.random() < self._clustering
        near = self._taken[: self._count]
        for attempt in range(_TRIES):
            gap = 1.12
            if beside and attempt < _TRIES // 2:
                other = near[self._cells[int(rng.integers(len(self._cells)))]]
                turn = float(rng.uniform(0, 2 * np.pi))
                away = (other[2] + disc.radius_um) * float(rng.uniform(0.93, 1.06))
                x, y = other[0] + away * math.cos(turn), other[1] + away * math.sin(turn)
                if not (margin <= x <= high_x and margin <= y <= high_y):
                    continue
                gap = 0.92
            else:
                x, y = float(rng.uniform(margin, high_x)), float(rng.uniform(margin, high_y))
            reach = (near[:, 2] + disc.radius_um) * gap
            if not ((near[:, 0] - x) ** 2 + (near[:, 1] - y) ** 2 < reach**2).any():
                return self._take(float(x), float(y), disc)
        return None

    def _take(self, x: float, y: float, disc: Disc) -> tuple[float, float]:
        if self._count == len(self._taken):
            self._taken = np.concatenate([self._taken, np.zeros_like(self._taken)])
        self._taken[self._count] = (x, y, disc.radius_um)
        if disc.is_cell:
            self._cells.append(self._count)
        self._count += 1
        return (x, y)


class RedCellMap:
    """Where another red cell may still go, at half a micrometre per pixel."""

    def __init__(self, size_um: tuple[float, float], diameter_um: float) -> None:
        self._size_um = size_um
        self._diameter_um = diameter_um
        shape = (math.ceil(size_um[1] / _MAP_PIXEL_UM), math.ceil(size_um[0] / _MAP_PIXEL_UM))
        self._taken = np.zeros(shape, np.uint8)

    def block(self, box_um: tuple[float, float, float, float], firm: bool) -> None:
        """Keep red cells off what lies in this box; a ``firm`` body pushes them away fully."""
        x1, y1, x2, y2 = box_um
        # Centres must stay this far from the body; a little less lets some cells lean on it.
        push = self._diameter_um / 2 * (0.88 if firm else 0.1)
        half = ((x2 - x1) / 2 * 0.96 + push, (y2 - y1) / 2 * 0.96 + push)
        self._draw((x1 + x2) / 2, (y1 + y2) / 2, half)

    def _draw(self, x: float, y: float, half: tuple[float, float]) -> None:
        centre = (round(x / _MAP_PIXEL_UM), round(y / _MAP_PIXEL_UM))
        axes = (max(1, round(half[0] / _MAP_PIXEL_UM)), max(1, round(half[1] / _MAP_PIXEL_UM)))
        cv2.ellipse(self._taken, centre, axes, 0, 0, 360, 1, -1)

    def _is_free(self, x: float, y: float) -> bool:
        row, column = int(y / _MAP_PIXEL_UM), int(x / _MAP_PIXEL_UM)
        rows, columns = self._taken.shape
        return not (0 <= row < rows and 0 <= column < columns) or not self._taken[row, column]

    def scatter(
        self, rng: np.random.Generator, coverage: float, rouleaux: float
    ) -> Iterator[tuple[float, float]]:
        """Centres of red cells in µm, some just outside the film.

        ``coverage`` is the share of the film they cover, more in its thick and less in its
        thin parts; ``rouleaux`` the share that lies in rolls, like stacked coins.
        """
        width, height = self._size_um
        area = math.pi / 4 * self._diameter_um**2
        wanted = int(coverage * (width + 8) * (height + 8) / area)
        thickness = 1 + 0.3 * cv2.resize(
            rng.standard_normal((4, 5), dtype=np.float32), (64, 64), interpolation=cv2.INTER_CUBIC
        )
        thickness = np.clip(thickness, 0.15, 1.6) / 1.6
        placed = tries = 0
        while placed < wanted and tries < 9 * wanted:
            points = rng.uniform((-4, -4), (width + 4, height + 4), (1024, 2))
            chances, rolls, gaps = rng.random(1024), rng.random(1024), rng.uniform(0.55, 1.05, 1024)
            for (x, y), chance, roll, gap in zip(points, chances, rolls, gaps, strict=True):
                tries += 1
                row = min(63, max(0, int(y / height * 64)))
                column = min(63, max(0, int(x / width * 64)))
                if chance > thickness[row, column] or not self._is_free(x, y):
                    continue
                # In rolls cells lie 8 deep on average.
                if roll < rouleaux / 8:
                    for point in self._roll(rng, x, y):
                        placed += 1
                        yield point
                else:
                    self._draw(x, y, (self._diameter_um * gap, self._diameter_um * gap))
                    placed += 1
                    yield (float(x), float(y))
                if placed >= wanted:
                    return

    def _roll(self, rng: np.random.Generator, x: float, y: float) -> list[tuple[float, float]]:
        turn, bend = float(rng.uniform(0, 2 * np.pi)), float(rng.normal(0, 0.08))
        step = float(rng.uniform(2.2, 4.2))
        points: list[tuple[float, float]] = []
        for _ in range(int(rng.integers(4, 13))):
            if not self._is_free(x, y):
                break
            points.append((float(x), float(y)))
            turn += bend
            x, y = x + step * math.cos(turn), y + step * math.sin(turn)
        for px, py in points:
            self._draw(px, py, (self._diameter_um * 0.8, self._diameter_um * 0.8))
        return points
