"""A thread that empties a camera device and keeps only its newest picture.

OpenCV's captures and drivers hand pictures on in the order in which they came, so a slow reader
gets old ones. Here every picture is grabbed as it comes; decoded are only those that will be
wanted. Owns the thread of one opened device. Does not own reopening (see ``watchdog``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from edge_runtime.cameras.device import CameraDevice, DeviceLost
from edge_runtime.errors import FrameError, LeukoscopeError
from edge_runtime.types import CameraSession, UInt8Image

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

# A picture that is there sooner than this after it was asked for lay ready in a queue: the larger
# of a millisecond and a share of the camera's period.
_LAY_READY_NS = 1_000_000
_LAY_READY_SHARE = 0.1
# No driver queues more; a device that always has one ready must not be skipped for ever.
_LONGEST_QUEUE = 10
# Weight of the newest value in running means.
_NEW_WEIGHT = 0.25
# The consumer is expected this much earlier than usual: better one picture decoded in vain
# than a consumer that waits.
_EARLY = 0.8


@dataclass(frozen=True, slots=True)
class Picture:
    """A grabbed picture: decoded, or the reason why it could not be."""

    captured_at_ns: int
    pixels: UInt8Image | None
    reason: str = ""


class NewestFrame:
    """Reads one device in a thread of its own, from opening to closing it.

    Attributes:
        opened: the session once the device is open, or why it could not be opened.
    """

    def __init__(
        self,
        open_device: Callable[[], CameraDevice],
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.opened: Future[CameraSession] = Future()
        self._open_device = open_device
        self._clock_ns = clock_ns
        self._changed = threading.Condition()
        self._slot: Picture | None = None
        self._lost: str | None = None
        self._closing = False
        self._jobs: deque[tuple[Callable[[CameraDevice], Any], Future[Any]]] = deque()
        self._grabbed = self._taken = 0
        self._beat_ns = clock_ns()
        self._waiting = False
        self._asked_ns: int | None = None
        self._interval_ns = self._period_ns = self._decode_ns = 0.0
        self._grabbed_ns: int | None = None
        self._ready_in_row = 0
        self._lay_ready_ns = _LAY_READY_NS
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def start(self) -> None:
        """Opens the device, in the thread."""
        self._thread.start()

    @property
    def last_sign_of_life_ns(self) -> int:
        """When the device last gave a picture, or was opened; monotonic."""
        return self._beat_ns

    @property
    def passed_over(self) -> int:
        """Pictures that were grabbed and not taken."""
        with self._changed:
            return self._grabbed - self._taken - (self._slot is not None)

    def take(self, timeout_s: float) -> Picture | None:
        """The newest picture, each at most once; None when none came in time.

        Raises:
            DeviceLost: none will come.
        """
        with self._changed:
            if not self._waiting:
                self._note_demand()
            self._waiting = True
            self._changed.wait_for(
                lambda: self._slot is not None or self._lost is not None, timeout_s
            )
            picture, self._slot = self._slot, None
            if picture is not None:
                self._waiting = False
                self._taken += 1
            elif self._lost is not None:
                raise DeviceLost(self._lost)
            return picture

    def ask(self, job: Callable[[CameraDevice], T]) -> Future[T]:
        """Runs ``job`` on the device, in its thread, after the next picture was grabbed."""
        answer: Future[T] = Future()
        with self._changed:
            if self._lost is not None:
                answer.set_exception(DeviceLost(self._lost))
            else:
                self._jobs.append((job, answer))
        return answer

    def close(self) -> None:
        """Asks the thread to give the device back, and waits for nothing."""
        self._closing = True
        self._end("closed")

    def join(self, timeout_s: float) -> bool:
        """Waits for the thread to end; False when the device holds it."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            device = self._open_device()
        except LeukoscopeError as error:
            self._end(str(error))
            self.opened.set_exception(error)
            return
        except Exception as error:  # noqa: BLE001  drivers raise what they like
            reason = _one_line(error)
            self._end(reason)
            self.opened.set_exception(DeviceLost(reason))
            return
        reason = "closed"
        try:
            self._beat_ns = self._clock_ns()
            session = device.session
            if session.fps:
                share = round(_LAY_READY_SHARE * 1e9 / session.fps)
                self._lay_ready_ns = max(_LAY_READY_NS, share)
            self.opened.set_result(session)
            while not self._closing:
                self._step(device)
        except DeviceLost as lost:
            reason = str(lost)
        except Exception as error:  # noqa: BLE001  as above; the watchdog records it
            reason = _one_line(error)
        finally:
            self._end(reason)
            try:
                device.close()
            except Exception as error:  # noqa: BLE001  it is given up anyway
                _LOG.warning("camera: closing failed: %s", _one_line(error))

    def _step(self, device: CameraDevice) -> None:
        began = self._clock_ns()
        captured_at = device.grab()
        now = self._clock_ns()
        self._beat_ns = now
        with self._changed:
            self._grabbed += 1
            # There is a newer one now, whether or not it will be decoded.
            self._slot = None
        if self._grabbed_ns is not None:
            self._period_ns = _mean(self._period_ns, now - self._grabbed_ns)
        self._grabbed_ns = now
        if now - began < self._lay_ready_ns and self._ready_in_row < _LONGEST_QUEUE:
            # It waited in a queue while something else was done: behind it come newer ones.
            self._ready_in_row += 1
            return
        self._ready_in_row = 0
        if self._will_be_wanted():
            self._decode(device, captured_at)
        # After decoding: a still leaves another picture in the device.
        if self._jobs:
            self._do_jobs(device)
            self._grabbed_ns = None

    def _decode(self, device: CameraDevice, captured_at_ns: int) -> None:
        began = self._clock_ns()
        try:
            picture = Picture(captured_at_ns, device.retrieve())
        except FrameError as error:
            picture = Picture(captured_at_ns, None, str(error))
        self._decode_ns = _mean(self._decode_ns, self._clock_ns() - began)
        with self._changed:
            if not self._closing:
                self._slot = picture
            self._changed.notify_all()

    def _do_jobs(self, device: CameraDevice) -> None:
        while self._jobs:
            job, answer = self._jobs.popleft()
            try:
                answer.set_result(job(device))
            except DeviceLost as lost:
                answer.set_exception(lost)
                raise
            except Exception as error:  # noqa: BLE001  belongs to who asked
                answer.set_exception(error)
            self._beat_ns = self._clock_ns()

    def _will_be_wanted(self) -> bool:
        """Whether this picture could be the newest one when the next is asked for.

        Decoding a dozen megapixels takes as long as a small device needs to look at them, so
        pictures that a newer one will have replaced by then are left alone.
        """
        with self._changed:
            if self._waiting or self._asked_ns is None or self._interval_ns == 0:
                return True
            due = self._asked_ns + _EARLY * self._interval_ns
        return self._clock_ns() + self._period_ns + self._decode_ns >= due

    def _note_demand(self) -> None:
        now = self._clock_ns()
        if self._asked_ns is not None:
            self._interval_ns = _mean(self._interval_ns, now - self._asked_ns)
        self._asked_ns = now

    def _end(self, reason: str) -> None:
        with self._changed:
            self._lost = self._lost or reason
            jobs = [answer for _, answer in self._jobs]
            self._jobs.clear()
            self._changed.notify_all()
        for answer in jobs:
            answer.set_exception(DeviceLost(reason))


def _mean(mean: float, value: float) -> float:
    return value if mean == 0 else mean + _NEW_WEIGHT * (value - mean)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
