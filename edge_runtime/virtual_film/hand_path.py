"""How a hand moves the stage: a meander that is never straight, with pauses and ways back.

Owns the path over a film as numbers. Does not own the film nor the camera that follows the path
(``edge_runtime.cameras.virtual``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Motion = Literal["start", "step", "row", "pause", "back", "jump"]

_PAUSE, _BACK = 0.12, 0.07
# Of the field's height: how far a step strays from its line, and a line from the level.
_STRAY, _SLOPE = 0.025, 0.02
_TREMOR_UM = 0.4
# Fields looked at after a jump, before the hand goes back to where it was.
_EXCURSION = 12


@dataclass(frozen=True, slots=True)
class HandStep:
    """One field of the path.

    Attributes:
        centre_um: its middle in film µm.
        motion: how the hand came there.
    """

    centre_um: tuple[float, float]
    motion: Motion


def hand_path(
    film_um: tuple[float, float],
    field_um: tuple[float, float],
    frames: int,
    seed: int,
    *,
    overlap: tuple[float, float] = (0.2, 0.6),
    jumps: int = 0,
) -> tuple[HandStep, ...]:
    """Fields in the order in which a hand comes to them; the same seed, the same path.

    Args:
        film_um: width and height of the film.
        field_um: of a field; the film must hold two side by side and two on top of each other.
        frames: how many fields, 1 or more.
        seed: of the path alone.
        overlap: least and largest share of its area that a field shares with the one before it,
            but for pauses and jumps.
        jumps: how often the stage is knocked or the objective lifted: the path goes on somewhere
            else for a dozen fields, and then from where it was.

    Raises:
        ValueError: the film is too small, or no field is asked for.
    """
    if frames < 1:
        raise ValueError(f"path of {frames} fields: 1 or more")
    if film_um[0] < 2 * field_um[0] or film_um[1] < 2 * field_um[1]:
        raise ValueError(f"film {film_um} µm: at least twice the field's {field_um} µm each way")
    hand = _Hand(film_um, field_um, overlap, np.random.Generator(np.random.PCG64(seed)))
    starts = {round((k + 1) * frames / (jumps + 1)) for k in range(jumps)}
    steps = [HandStep((hand.x, hand.y), "start")]
    before: tuple[float, float, int, int] | None = None
    ends = -1
    for index in range(1, frames):
        if index in starts and before is None:
            before, ends = hand.state, index + _EXCURSION
            hand.jump()
            motion: Motion = "jump"
        elif index == ends and before is not None:
            hand.state, before = before, None
            motion = "jump"
        else:
            motion = hand.move()
        steps.append(HandStep((hand.x, hand.y), motion))
    return tuple(steps)


class _Hand:
    def __init__(
        self,
        film_um: tuple[float, float],
        field_um: tuple[float, float],
        overlap: tuple[float, float],
        rng: np.random.Generator,
    ) -> None:
        self._field = field_um
        self._overlap = overlap
        self._rng = rng
        self._low = (field_um[0] / 2, field_um[1] / 2)
        self._high = (film_um[0] - self._low[0], film_um[1] - self._low[1])
        self.x, self.y = self._low
        self._right = self._down = 1
        self._slope = 0.0

    @property
    def state(self) -> tuple[float, float, int, int]:
        """Place and direction."""
        return (self.x, self.y, self._right, self._down)

    @state.setter
    def state(self, state: tuple[float, float, int, int]) -> None:
        self.x, self.y, self._right, self._down = state

    def move(self) -> Motion:
        """To the next field."""
        draw = self._rng.random()
        if draw < _PAUSE:
            self._go(*self._rng.normal(0, _TREMOR_UM, 2))
            return "pause"
        wide, high = self._field
        stray = (self._slope + self._rng.normal(0, _STRAY)) * high
        kept = self._rng.uniform(*self._overlap)
        # What is lost up and down is not lost to the side.
        along = (1 - kept / max(0.7, 1 - abs(stray) / high)) * wide
        if draw < _PAUSE + _BACK and self._room(-self._right) >= along:
            self._go(-self._right * along, stray)
            return "back"
        if self._room(self._right) >= along:
            self._go(self._right * along, stray)
            return "step"
        aside = self._rng.normal(0, _STRAY) * wide
        down = (1 - kept / max(0.7, 1 - abs(aside) / wide)) * high
        edge = self._high[1] if self._down > 0 else self._low[1]
        if abs(edge - self.y) < down:
            self._down = -self._down
        self._go(aside, self._down * down)
        self._right = -self._right
        self._slope = self._rng.uniform(-_SLOPE, _SLOPE)
        return "row"

    def jump(self) -> None:
        """To a field that shows nothing of the present one."""
        while True:
            x = self._rng.uniform(self._low[0], self._high[0])
            y = self._rng.uniform(self._low[1], self._high[1])
            if abs(x - self.x) > self._field[0] or abs(y - self.y) > self._field[1]:
                self.x, self.y = float(x), float(y)
                return

    def _room(self, right: int) -> float:
        return self._high[0] - self.x if right > 0 else self.x - self._low[0]

    def _go(self, right: float, down: float) -> None:
        self.x = float(np.clip(self.x + right, self._low[0], self._high[0]))
        self.y = float(np.clip(self.y + down, self._low[1], self._high[1]))
