"""Pictures of an OpenCV capture, for the devices that are read through one.

Owns grabbing, decoding and their errors. Does not own what is set before (see ``v4l2`` and
``gstreamer``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np

from edge_runtime.cameras.device import DeviceLost
from edge_runtime.errors import FrameError
from edge_runtime.types import UInt8Image

# A driver's time that is older than this, or in the future, is of another clock.
_OLDEST_NS = 10_000_000_000


class Captured:
    """A ``cv2.VideoCapture`` that hands out RGB pictures and the time of their capture.

    Attributes:
        clock: ``driver`` while the capture's own times agree with the monotonic clock.
    """

    def __init__(
        self, capture: Any, clock_ns: Callable[[], int], *, driver_clock: bool = False
    ) -> None:
        self._capture = capture
        self._clock_ns = clock_ns
        self.clock: Literal["driver", "arrival"] = "driver" if driver_clock else "arrival"

    def grab(self) -> int:
        """Waits for the next picture; monotonic ns of its capture.

        Raises:
            DeviceLost: the capture gave up.
        """
        if not self._capture.grab():
            # The driver's own message went to stderr; a call says no more than yes or no.
            raise DeviceLost("the camera gives no picture: unplugged, or its driver timed out")
        now = self._clock_ns()
        if self.clock == "driver":
            at = round(float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) * 1e6)
            if 0 <= now - at < _OLDEST_NS:
                return at
            self.clock = "arrival"
        return now

    def retrieve(self) -> UInt8Image:
        """The grabbed picture, RGB.

        Raises:
            FrameError: it cannot be decoded.
        """
        try:
            done, picture = self._capture.retrieve()
        except cv2.error as error:
            raise FrameError(f"the picture cannot be decoded: {error.err}") from error
        if not done or picture is None or picture.size == 0:
            raise FrameError("the picture came broken and cannot be decoded; check cable and hub")
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise FrameError(f"the picture is no colour picture but {picture.shape}")
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        """Gives the device back."""
        self._capture.release()
