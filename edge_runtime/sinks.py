"""What a film run hands its results to: the Sink protocol.

Owns the protocol only. A sink is one class; the runner calls every sink from one
thread, in field order, and never from the inference threads.
"""

from __future__ import annotations

from typing import Protocol

from edge_runtime.film_report import FilmReport
from edge_runtime.types import FieldResult, SkippedFrame


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
