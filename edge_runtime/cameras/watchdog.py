"""The live camera: a device that is read, watched, and opened again when it is lost.

Owns gaps, back-off and the numbering of frames; every live row of the table is this class around
a device of its own. Does not own the device (see ``device``) nor its thread (``newest_frame``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, TypeVar

from typing_extensions import Self

from edge_runtime.cameras.device import CameraDevice, DeviceLost, OpenDevice
from edge_runtime.cameras.newest_frame import NewestFrame, Picture
from edge_runtime.errors import CameraError, FrameError
from edge_runtime.types import CameraGap, CameraSession, Frame, SkippedFrame, UInt8Image

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a device is waited for.

    Attributes:
        hang_s: without a picture, before the device counts as hung; three periods of a very slow
            one. A full-resolution still comes within it.
        open_s: for opening; the automatic exposure settles within it.
        first_wait_s: before the first attempt to reopen; doubled by each that fails.
        longest_wait_s: between attempts. A camera that is plugged in again is seen after so long.
        steady_s: pictures must come for so long before waiting starts short again.
        poll_s: how soon ``stop`` is noticed.
        still_s: for a still or a preview.
    """

    hang_s: float = 5.0
    open_s: float = 20.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0
    steady_s: float = 10.0
    poll_s: float = 0.1
    still_s: float = 10.0


# So many pictures in a row that cannot be decoded are a broken link, not broken pictures.
_MOST_BROKEN = 10


class WatchedCamera:
    """A live camera around a device. Iterate it once, from one thread.

    Attributes:
        by_hand: a person moves the stage, so that fields overlap.
        stepwise: the stage stands still for every picture, however far it went since the last.
    """

    def __init__(
        self,
        open_device: OpenDevice,
        *,
        source: str,
        name: str,
        limit: int | None = None,
        pixel_size_um: float | None = None,
        patience: Patience | None = None,
        by_hand: bool = True,
        stepwise: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.by_hand, self.stepwise = by_hand, stepwise
        if limit is not None and limit < 1:
            raise CameraError(f"source {source!r}: limit {limit} leaves no field; give 1 or more")
        self._open_device = open_device
        self._source = source
        self._name = name
        self._limit = limit
        self._pixel_size_um = pixel_size_um
        self._patience = patience or Patience()
        self._clock_ns = clock_ns
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._reader: NewestFrame | None = None
        self._given_up: list[NewestFrame] = []
        self._passed_over = 0
        self._sessions: list[CameraSession] = []
        self._gaps: list[CameraGap] = []
        self._gap: CameraGap | None = None
        self._wait_s = self._patience.first_wait_s
        self._try_at_ns = self._steady_since_ns = 0
        self._hang_s = self._patience.hang_s
        self._broken_in_row = 0
        self._stills = 0

    @property
    def live(self) -> Literal[True]:
        """A live camera."""
        return True

    @property
    def frame_count(self) -> int | None:
        """The limit; otherwise nobody knows."""
        return self._limit

    @property
    def frames_passed_over(self) -> int:
        """Pictures that came and were not yielded."""
        with self._lock:
            reader = self._reader
            return self._passed_over + (0 if reader is None else reader.passed_over)

    @property
    def gaps(self) -> tuple[CameraGap, ...]:
        """All gaps so far, with the one that lasts."""
        with self._lock:
            closed = tuple(self._gaps)
        lasting = self.open_gap
        return closed if lasting is None else (*closed, lasting)

    @property
    def open_gap(self) -> CameraGap | None:
        """The gap that lasts."""
        gap = self._gap
        return None if gap is None else replace(gap, seconds=self._seconds_since(gap.at_ns))

    @property
    def sessions(self) -> tuple[CameraSession, ...]:
        """What the device was set to, one for each time this changed."""
        with self._lock:
            return tuple(self._sessions)

    def __enter__(self) -> Self:
        reader = self._start()
        try:
            session = self._wait_for_session(reader)
        except DeviceLost as error:
            self._give_up(reader)
            raise CameraError(f"source {self._source!r}: {error}") from error
        except BaseException:
            self._give_up(reader)
            raise
        self._take_up(reader, session)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._reader is not None:
            self._give_up(self._reader)
        for reader in self._given_up:
            if not reader.join(2 * self._patience.poll_s + 1.0):
                # Nothing can end a thread that a driver holds; it closes the device when it can.
                _LOG.warning("%s: the device did not answer; it is left alone", self._source)
        self._given_up.clear()

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        index = 0
        while self._limit is None or index < self._limit:
            picture = self._next_picture()
            if picture is None:
                return
            name = f"{self._name}_{index:06d}"
            if picture.pixels is None:
                yield SkippedFrame(index, name, picture.reason)
            else:
                yield Frame(
                    index, picture.captured_at_ns, picture.pixels, name, self._pixel_size_um
                )
            index += 1

    def stop(self) -> None:
        """Ends the iteration."""
        self._stopped.set()

    def still(self) -> Frame:
        """A picture at the device's full resolution.

        Raises:
            CameraError: the device gives none now.
        """
        captured_at_ns, pixels = self._ask(lambda device: device.still(), "still")
        with self._lock:
            index, self._stills = self._stills, self._stills + 1
        return Frame(index, captured_at_ns, pixels, f"{self._name}_still_{index:04d}")

    def preview(self) -> UInt8Image:
        """The next picture, small.

        Raises:
            CameraError: the device gives none now.
        """
        return self._ask(lambda device: device.preview(), "preview")

    def _ask(self, job: Callable[[CameraDevice], T], what: str) -> T:
        reader = self._reader
        if reader is None:
            raise CameraError(f"source {self._source!r}: no {what}, the camera is not there")
        answer: Future[T] = reader.ask(job)
        try:
            return answer.result(self._patience.still_s)
        except (FutureTimeout, FrameError, DeviceLost) as error:
            why = str(error) or f"not within {self._patience.still_s:g} s"
            raise CameraError(f"source {self._source!r}: no {what}: {why}") from error

    def _next_picture(self) -> Picture | None:
        """The next good or broken picture, however long the device is gone; None once stopped."""
        while not self._stopped.is_set():
            reader = self._reader
            if reader is None:
                self._try_again()
                continue
            try:
                picture = reader.take(self._patience.poll_s)
            except DeviceLost as lost:
                self._lose(reader, str(lost))
                continue
            if picture is None:
                silent_s = self._seconds_since(reader.last_sign_of_life_ns)
                if silent_s > self._hang_s:
                    self._lose(reader, f"no picture for {silent_s:.1f} s: the camera hangs")
                continue
            if picture.pixels is None:
                self._broken_in_row += 1
                if self._broken_in_row >= _MOST_BROKEN:
                    reason = f"{_MOST_BROKEN} broken pictures in a row: {picture.reason}"
                    self._broken_in_row = 0
                    self._lose(reader, reason)
                    continue
            else:
                self._broken_in_row = 0
                self._end_gap(picture.captured_at_ns)
            return picture
        return None

    def _lose(self, reader: NewestFrame, reason: str) -> None:
        now = self._clock_ns()
        if self._gap is None:
            if now - self._steady_since_ns > self._patience.steady_s * 1e9:
                self._wait_s = self._patience.first_wait_s
            self._gap = CameraGap(reader.last_sign_of_life_ns, 0.0, " ".join(reason.split()))
            _LOG.warning("%s: camera lost: %s", self._source, reason)
        self._give_up(reader)
        self._back_off(now)

    def _back_off(self, now_ns: int) -> None:
        self._try_at_ns = now_ns + round(self._wait_s * 1e9)
        self._wait_s = min(2 * self._wait_s, self._patience.longest_wait_s)

    def _try_again(self) -> None:
        """Waits a little, or opens the device when it is time."""
        wait_s = (self._try_at_ns - self._clock_ns()) / 1e9
        if wait_s > 0:
            self._stopped.wait(min(wait_s, self._patience.poll_s))
            return
        reader = self._start()
        try:
            session = self._wait_for_session(reader)
        except (CameraError, DeviceLost) as error:
            _LOG.info("%s: not back yet: %s", self._source, error)
            self._give_up(reader)
            self._back_off(self._clock_ns())
        else:
            self._take_up(reader, session)

    def _start(self) -> NewestFrame:
        before = self._sessions[0] if self._sessions else None
        reader = NewestFrame(lambda: self._open_device(before), clock_ns=self._clock_ns)
        reader.start()
        return reader

    def _wait_for_session(self, reader: NewestFrame) -> CameraSession:
        until = self._clock_ns() + round(self._patience.open_s * 1e9)
        while not self._stopped.is_set():
            try:
                return reader.opened.result(self._patience.poll_s)
            except FutureTimeout:
                if self._clock_ns() > until:
                    raise DeviceLost(
                        f"the camera does not open within {self._patience.open_s:g} s; "
                        "unplug it and plug it in again"
                    ) from None
        raise DeviceLost("stopped")

    def _take_up(self, reader: NewestFrame, session: CameraSession) -> None:
        if session.fps:
            self._hang_s = max(self._patience.hang_s, 3 / session.fps)
        with self._lock:
            self._reader = reader
            if not self._sessions or self._sessions[-1] != session:
                self._sessions.append(session)

    def _give_up(self, reader: NewestFrame) -> None:
        reader.close()
        with self._lock:
            if self._reader is reader:
                self._reader = None
                self._passed_over += reader.passed_over
        # Those that have ended are forgotten: a camera may be lost a thousand times.
        self._given_up = [each for each in (*self._given_up, reader) if not each.join(0)]

    def _end_gap(self, captured_at_ns: int) -> None:
        gap = self._gap
        if gap is None:
            return
        seconds = max(0.0, (captured_at_ns - gap.at_ns) / 1e9)
        with self._lock:
            self._gaps.append(replace(gap, seconds=round(seconds, 3)))
            self._gap = None
        self._steady_since_ns = self._clock_ns()
        _LOG.warning("%s: camera back after %.1f s", self._source, seconds)

    def _seconds_since(self, at_ns: int) -> float:
        return max(0.0, (self._clock_ns() - at_ns) / 1e9)
