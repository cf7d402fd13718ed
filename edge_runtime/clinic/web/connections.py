"""Connections to the page, of which nobody may hold all.

Owns how long a connection may take to ask, and how many one address may hold: the server counts
connections that never ask as well, and would turn everybody else away. Does not own what is asked
(see ``gate``) nor serving (see ``serve_cli``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

# From its opening, or from the first sign of a further request, to the end of the request's head.
ASK_S = 10.0
# A browser opens six; a tablet may have two.
MOST_OF_AN_ADDRESS = 16


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, with those two limits."""

    _held: ClassVar[Counter[str]] = Counter()
    _counted: str | None = None
    _asking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts it; one too many of an address ends at once."""
        super().connection_made(transport)
        self._counted = self.client[0] if self.client else ""
        self._held[self._counted] += 1
        if self._held[self._counted] > MOST_OF_AN_ADDRESS:
            transport.abort()
            return
        self._wait_for_asking()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it out."""
        if self._counted is not None:
            self._held[self._counted] -= 1
            if self._held[self._counted] <= 0:
                del self._held[self._counted]
            self._counted = None
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes it; what is no whole head yet keeps the time running."""
        super().data_received(data)
        if self._is_answering():
            self._stop_waiting()
        elif self._asking is None:
            self._wait_for_asking()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait_for_asking(self) -> None:
        self._asking = self.loop.call_later(ASK_S, self._end_unless_asked)

    def _stop_waiting(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _end_unless_asked(self) -> None:
        self._asking = None
        if not self._is_answering() and not self.transport.is_closing():
            self.transport.abort()
