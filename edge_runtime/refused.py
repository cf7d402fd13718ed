"""Frames that the gate refuses one after the other, gathered into few entries of a film's record.

Owns which refused frames one entry stands for, and when it is handed on. Does not own the gate (see
``film.gate``) nor what is done with entries (see ``pipeline``). For use by one thread.

A slide that lies out of focus for an hour refuses a hundred thousand frames, and each entry is a
row that the disk must confirm. Their number is kept by what was wrong with them; measures are those
of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edge_runtime.types import SkippedFrame

# An entry waits for more of its kind this long, twice as long each time nothing good came between.
# What a power cut takes with it are so many seconds of refused frames, never an examined field.
_FIRST_HOLD_S, _LONGEST_HOLD_S = 1.0, 30.0


class RefusedFrames:
    """The refused frames that are not handed on yet.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[str, SkippedFrame] = {}
        self._hold_s = _FIRST_HOLD_S
        self._since = 0.0

    @property
    def frames(self) -> int:
        """How many are held."""
        return sum(each.frames for each in self._held.values())

    def add(self, skipped: SkippedFrame) -> None:
        """Takes a frame that the gate refused."""
        if not self._held:
            self._since = self._clock()
        kind = skipped.refusal or skipped.reason
        first = self._held.get(kind)
        if first is None:
            self._held[kind] = skipped
        else:
            self._held[kind] = replace(first, frames=first.frames + skipped.frames)

    def due(self) -> list[SkippedFrame]:
        """The entries, once they have waited long enough; in the order of their first frames."""
        if not self._held or self._clock() - self._since < self._hold_s:
            return []
        self._hold_s = min(2 * self._hold_s, _LONGEST_HOLD_S)
        return self._taken()

    def all(self) -> list[SkippedFrame]:
        """The entries at once: a field was examined, or the film ends."""
        self._hold_s = _FIRST_HOLD_S
        return self._taken()

    def _taken(self) -> list[SkippedFrame]:
        taken = sorted(self._held.values(), key=lambda each: each.index)
        self._held = {}
        return taken
