"""A microscope whose stage, focus and cable a test moves, as a live camera without hardware."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import cv2
import numpy as np

from edge_runtime.cameras.device import CameraDevice, DeviceLost
from edge_runtime.cameras.paced import PacedDevice
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import CameraError
from edge_runtime.types import CameraSession, UInt8Image
from tests.edge_runtime.film.painted_film import HIGH, WIDE, paint, white_cell

FPS = 60.0
QUICK = Patience(hang_s=1.0, first_wait_s=0.05, longest_wait_s=0.05, poll_s=0.01)
# One white cell in each of three fields that overlap.
CELLS = [(200, 120), (420, 100), (560, 130)]


@dataclass
class Stage:
    """What a hand does.

    Attributes:
        at: upper left corner of the field on the film.
        blur_px: of the focus.
        plugged: whether the cable is.
        opened: how often the camera was.
        hanging: while it is clear, the camera gives nothing.
    """

    at: tuple[int, int] = (60, 40)
    blur_px: float = 0.0
    plugged: bool = True
    opened: int = 0
    hanging: threading.Event = field(default_factory=threading.Event)
    film: UInt8Image = field(init=False)

    def __post_init__(self) -> None:
        self.hanging.set()
        self.film = paint((900, 400), red_cells=500)
        for x, y in CELLS:
            white_cell(self.film, x, y)

    def field(self) -> UInt8Image:
        """What the camera sees now."""
        x, y = self.at
        pixels = self.film[y : y + HIGH, x : x + WIDE].copy()
        if self.blur_px:
            pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), self.blur_px), np.uint8)
        noise = np.random.default_rng().integers(-2, 3, pixels.shape, np.int16)
        return np.asarray(np.clip(pixels + noise, 0, 255), np.uint8)

    def open_source(self, source: str, *, limit: int | None = None) -> WatchedCamera:
        """As ``cameras.open_camera``, whatever the source."""

        def opened(before: CameraSession | None) -> CameraDevice:
            if not self.plugged:
                raise CameraError("stage: no camera; plug it in")
            self.opened += 1
            return _Device(self)

        return WatchedCamera(opened, source=source, name="stage", limit=limit, patience=QUICK)


class _Device(PacedDevice):
    def __init__(self, stage: Stage) -> None:
        super().__init__([stage.field()], FPS)
        self._stage = stage

    def grab(self) -> int:
        if not self._stage.plugged:
            raise DeviceLost("the cable was pulled")
        self._stage.hanging.wait(20)
        return super().grab()

    def retrieve(self) -> UInt8Image:
        return self._stage.field()
