"""Back-off, devices that never answer, and what is told of a gap."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime.cameras.device import CameraDevice, DeviceLost
from edge_runtime.cameras.paced import PacedDevice
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import CameraError
from edge_runtime.types import CameraSession
from tests.fake_cameras import camera_threads

FIELD = np.zeros((8, 8, 3), np.uint8)
QUICK = Patience(
    hang_s=0.3, open_s=0.4, first_wait_s=0.04, longest_wait_s=0.16, steady_s=0.3, poll_s=0.01
)


class Mortal(PacedDevice):
    """Ends after so many pictures; ``stuck`` holds it instead."""

    def __init__(self, lives: int | None, stuck: threading.Event | None = None) -> None:
        super().__init__([FIELD], 200)
        self.lives, self.stuck, self.closed = lives, stuck, False

    def grab(self) -> int:
        if self.lives == 0:
            if self.stuck is None:
                raise DeviceLost("died")
            self.stuck.wait(20)
        if self.lives:
            self.lives -= 1
        return super().grab()

    def close(self) -> None:
        self.closed = True


def watched(
    open_device: Callable[[CameraSession | None], CameraDevice], **changed: Any
) -> WatchedCamera:
    return WatchedCamera(
        open_device, source="mortal", name="mortal", patience=replace(QUICK, **changed)
    )


def test_attempts_come_at_longer_and_longer_intervals() -> None:
    times: list[float] = []

    def opened(before: CameraSession | None) -> CameraDevice:
        if before is None:
            return Mortal(3)
        times.append(time.monotonic())
        if len(times) < 6:
            raise CameraError("not there")
        return Mortal(None)

    with watched(opened) as camera:
        assert len(list(itertools.islice(camera, 6))) == 6
        (gap,) = camera.gaps
    between = [later - earlier for earlier, later in itertools.pairwise(times)]
    for waited, least in zip(between, (0.08, 0.16, 0.16, 0.16, 0.16), strict=True):
        assert waited >= least * 0.95
    assert gap.reason == "died"
    assert gap.seconds >= sum(between)


def test_waiting_starts_short_again_after_a_steady_time() -> None:
    devices: list[Mortal] = []

    def opened(before: CameraSession | None) -> CameraDevice:
        devices.append(Mortal(None))
        return devices[-1]

    with watched(opened, first_wait_s=0.1, longest_wait_s=2.0) as camera:
        killed = 0
        for _ in camera:
            if len(camera.gaps) < killed:
                # A picture that came before it died.
                continue
            if killed == 4:
                break
            if killed == 3:
                time.sleep(0.4)
            killed += 1
            devices[-1].lives = 0
        seconds = [gap.seconds for gap in camera.gaps]
    assert len(seconds) == 4
    assert all(is_ >= least for is_, least in zip(seconds, (0.1, 0.2, 0.4, 0.1), strict=True))
    # Without the steady time it would have been doubled once more.
    assert seconds[3] < 0.8


def test_a_thread_that_a_driver_holds_is_left_and_closes_the_device_later() -> None:
    stuck = threading.Event()
    first = Mortal(3, stuck)

    def opened(before: CameraSession | None) -> CameraDevice:
        return first if before is None else Mortal(None)

    with watched(opened) as camera:
        assert len(list(itertools.islice(camera, 8))) == 8
        (gap,) = camera.gaps
        assert "hangs" in gap.reason
        assert not first.closed
        before = time.monotonic()
    assert time.monotonic() - before < 4
    stuck.set()
    for thread in camera_threads():
        thread.join(5)
    assert first.closed


def test_a_device_that_does_not_open_is_not_waited_for_without_end() -> None:
    held = threading.Event()

    def opened(before: CameraSession | None) -> CameraDevice:
        held.wait(20)
        return Mortal(None)

    with pytest.raises(CameraError, match=r"does not open within 0\.4 s"), watched(opened):
        pass
    held.set()
    for thread in camera_threads():
        thread.join(5)


def test_what_changes_when_it_is_opened_again_is_a_session_of_its_own() -> None:
    class Darker(Mortal):
        @property
        def session(self) -> CameraSession:
            return replace(super().session, not_locked={"exposure": "the lamp was changed"})

    def opened(before: CameraSession | None) -> CameraDevice:
        return Mortal(2) if before is None else Darker(None)

    with watched(opened) as camera:
        list(itertools.islice(camera, 4))
        first, second = camera.sessions
    assert not first.not_locked
    assert second.not_locked


def test_a_slow_camera_does_not_hang() -> None:
    class Slow(Mortal):
        @property
        def session(self) -> CameraSession:
            return replace(super().session, fps=2.0)

        def grab(self) -> int:
            time.sleep(0.4)
            return super().grab()

    with watched(lambda before: Slow(None), hang_s=0.2) as camera:
        assert len(list(itertools.islice(camera, 2))) == 2
        assert camera.gaps == ()


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(CameraError, match="limit 0"):
        WatchedCamera(lambda before: Mortal(None), source="m", name="m", limit=0)
