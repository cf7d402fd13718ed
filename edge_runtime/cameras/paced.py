"""A live camera without hardware: the fields of another source, at a fixed rate, again and again.

Owns the pace and the queue of a driver. Does not own the fields (see ``virtual``, ``replay``).
For trying the live side out, for tests, and for measuring the age of frames.
"""

from __future__ import annotations

import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from edge_runtime.cameras import FoundCamera
from edge_runtime.cameras.device import CameraDevice, shrink
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import CameraError
from edge_runtime.types import CameraSession, Frame, UInt8Image

# As many as OpenCV asks V4L2 drivers for.
DRIVER_BUFFERS = 4
# Fields are held decoded, so that the pace does not depend on how long one takes to make.
_MOST_FIELDS = 16
_MOST_BYTES = 128 * 2**20
_SPELLING = "paced:FPS[xHELD]:[hand:]SOURCE"
_SOURCE = re.compile(
    r"paced:(?P<fps>[0-9]{1,4}(?:\.[0-9]{1,3})?)(?:x(?P<held>[1-9][0-9]{0,3}))?:"
    r"(?P<hand>hand:)?(?P<inner>.+)",
    re.DOTALL,
)


class PacedDevice:
    """Pictures captured at a fixed rate and handed on in order, as a driver does.

    Args:
        pictures: RGB; after the last comes the first again.
        fps: of capture, whether or not anybody grabs.
        buffers: pictures that may wait to be grabbed. While all wait, new ones are lost, as with a
            V4L2 driver; None never loses any, as a network stream.
        device: its name.
    """

    def __init__(
        self,
        pictures: Sequence[UInt8Image],
        fps: float,
        *,
        buffers: int | None = DRIVER_BUFFERS,
        device: str = "paced",
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pictures = pictures
        self._period_ns = round(1e9 / fps)
        self._buffers = buffers
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._started_ns = clock_ns()
        self._next = 1
        self._queue: deque[int] = deque()
        self._grabbed = 0
        height, width = pictures[0].shape[:2]
        self._session = CameraSession(
            driver="paced",
            device=device,
            width=width,
            height=height,
            pixel_format="RGB",
            fps=round(fps, 3),
            exposure_ms=None,
            gain=None,
            white_balance_k=None,
            colour_gains=None,
            locked=("exposure", "gain", "white_balance"),
            not_locked={},
            clock="driver",
        )

    @property
    def session(self) -> CameraSession:
        """Nothing can change in it."""
        return self._session

    def grab(self) -> int:
        """See ``CameraDevice``."""
        self._fill()
        if not self._queue:
            wait_ns = self._captured_at_ns(self._next) - self._clock_ns()
            while wait_ns > 0:
                self._sleep(wait_ns / 1e9)
                wait_ns = self._captured_at_ns(self._next) - self._clock_ns()
            self._fill()
        self._grabbed = self._queue.popleft()
        return self._captured_at_ns(self._grabbed)

    def retrieve(self) -> UInt8Image:
        """See ``CameraDevice``."""
        return np.array(self._pictures[self._grabbed % len(self._pictures)])

    def preview(self) -> UInt8Image:
        """See ``CameraDevice``."""
        return shrink(self.retrieve())

    def still(self) -> tuple[int, UInt8Image]:
        """See ``CameraDevice``."""
        return self.grab(), self.retrieve()

    def close(self) -> None:
        """Nothing is held."""

    def _captured_at_ns(self, number: int) -> int:
        return self._started_ns + number * self._period_ns

    def _fill(self) -> None:
        """What the driver did since it was last looked at."""
        now = self._clock_ns()
        while self._captured_at_ns(self._next) <= now:
            if self._buffers is None or len(self._queue) < self._buffers:
                self._queue.append(self._next)
            self._next += 1


def shown(fields: Sequence[UInt8Image], held: int, *, there_and_back: bool) -> list[UInt8Image]:
    """A device's pictures: each field so many times, and then back where they overlap."""
    way = [*fields, *fields[-2:0:-1]] if there_and_back else fields
    return [field for field in way for _ in range(held)]


def open_camera(
    source: str,
    *,
    limit: int | None = None,
    patience: Patience | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> WatchedCamera:
    """The live camera for ``paced:FPS[xHELD]:[hand:]SOURCE``.

    Each field is shown for ``HELD`` pictures, as under a stage that is moved and rests. ``hand``
    says that the fields of a folder overlap in their order; fields that do are shown there and
    back, so that neighbours always overlap.

    Raises:
        CameraError: the source is malformed, is itself a live one, or holds no field.
    """
    from edge_runtime.cameras import is_live, is_moved
    from edge_runtime.cameras import open_camera as open_inner

    words = _SOURCE.fullmatch(source)
    if words is None or not float(words["fps"]) > 0:
        raise CameraError(f"source {source!r}: write {_SPELLING}, such as paced:10:virtual")
    fps, held, inner = float(words["fps"]), int(words["held"] or 1), words["inner"]
    fields: list[UInt8Image] = []
    # Nobody asks for its own number of frames, and a film may hold thousands.
    with open_inner(inner) as camera:
        by_hand = words["hand"] is not None or is_moved(camera)
        if is_live(camera):
            raise CameraError(f"source {source!r}: {inner!r} is a live camera already")
        for item in itertools.islice(camera, _MOST_FIELDS):
            if isinstance(item, Frame) and (not fields or item.pixels.shape == fields[0].shape):
                fields.append(item.pixels)
                if sum(each.nbytes for each in fields) > _MOST_BYTES:
                    break
    if not fields:
        raise CameraError(f"source {source!r}: {inner!r} holds no field that can be read")
    pictures = shown(fields, held, there_and_back=by_hand)

    def opened(before: CameraSession | None) -> CameraDevice:
        return PacedDevice(pictures, fps, device=inner, clock_ns=clock_ns)

    return WatchedCamera(
        opened,
        source=source,
        name="paced",
        limit=limit,
        patience=patience,
        by_hand=by_hand,
        # Held fields follow each other in time, others are jumps.
        stepwise=held == 1,
        clock_ns=clock_ns,
    )


def unsupported_reason() -> str | None:
    """It works everywhere."""
    return None


def find_cameras() -> list[FoundCamera]:
    """One that is always there."""
    return [FoundCamera("paced:10:virtual", "the virtual microscope at 10 frames a second")]
