"""What a film run hands its results to: the Sink protocol.

Owns the protocol only. A sink is one class; the runner calls every sink from one
thread, in field order, and never from the inference threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeGuard

from edge_runtime.film_report import FilmReport
from edge_runtime.types import FieldResult, SkippedFrame

if TYPE_CHECKING:
    from edge_runtime.film.mosaic import MosaicUpdate


class Sink(Protocol):
    """Receives a film as it grows; ``finish`` is called once, also after an interruption."""

    def start(self) -> None:
        """Prepare the place results go to; raise StoreError when it cannot be written."""

    def append(self, result: FieldResult) -> None:
        """Take one examined field with its cells."""

    def skip(self, skipped: SkippedFrame) -> None:
        """Take note of a field that could not be looked at."""

    def finish(self, report: FilmReport) -> None:
        """Write what needs the whole film; raise StoreError when it cannot be written."""


class SettlingSink(Sink, Protocol):
    """A sink that keeps cells while the film grows, and must hear which turn out to be one.

    ``append`` tells the same of each field in ``FieldResult.mosaic``; a sink that writes from the
    report alone needs neither.
    """

    def settle(self, update: MosaicUpdate) -> None:
        """Take what only the film's end showed; called before ``finish``, at most once."""


def settles(sink: Sink) -> TypeGuard[SettlingSink]:
    """Whether a sink wants to hear it."""
    return hasattr(sink, "settle")
