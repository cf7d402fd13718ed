"""The reader thread: newest picture, no decoding in vain, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edge_runtime.cameras.device import DeviceLost
from edge_runtime.cameras.newest_frame import NewestFrame, Picture
from edge_runtime.cameras.paced import PacedDevice
from edge_runtime.errors import CameraError, FrameError
from edge_runtime.types import CameraSession, UInt8Image
from tests.fake_cameras import camera_threads

FIELD = np.zeros((8, 8, 3), np.uint8)


class ScriptedDevice:
    """Gives a picture for each step: seconds to wait for it, or an error to raise.

    ``clock_ns`` goes by these seconds alone: a busy machine does not make one wait longer.
    """

    def __init__(self, steps: Iterator[float | Exception]) -> None:
        self.steps = steps
        self.grabbed = 0
        self.decoded: list[int] = []
        self.threads: set[int] = set()
        self.closed = 0
        self.breaks_at: set[int] = set()
        self.now_ns = 0

    def clock_ns(self) -> int:
        return self.now_ns

    @property
    def session(self) -> CameraSession:
        return PacedDevice([FIELD], 20).session

    def grab(self) -> int:
        self.threads.add(threading.get_ident())
        step = next(self.steps)
        if isinstance(step, Exception):
            raise step
        time.sleep(step)
        self.now_ns += round(step * 1e9)
        self.grabbed += 1
        return self.grabbed

    def retrieve(self) -> UInt8Image:
        self.decoded.append(self.grabbed)
        if self.grabbed in self.breaks_at:
            raise FrameError("torn")
        return np.array(FIELD)

    def preview(self) -> UInt8Image:
        self.threads.add(threading.get_ident())
        return np.array(FIELD[:4])

    def still(self) -> tuple[int, UInt8Image]:
        return -1, FIELD

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def read(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], NewestFrame]]:
    """Starts a reader on a device, and ends it after the test."""
    started: list[NewestFrame] = []

    def start(device: Any) -> NewestFrame:
        started.append(NewestFrame(lambda: device, clock_ns=device.clock_ns))
        started[-1].start()
        return started[-1]

    yield start
    for reader in started:
        reader.close()
        assert reader.join(5)
    assert not camera_threads()


def _take(reader: NewestFrame) -> Picture:
    picture = reader.take(5)
    assert picture is not None
    return picture


def test_what_lay_in_the_drivers_queue_is_passed_over(read: Callable[[Any], NewestFrame]) -> None:
    taken = threading.Event()

    def steps() -> Iterator[float]:
        yield 0.05
        taken.wait(5)
        # Four that came while nobody grabbed, then one that is worth waiting for.
        yield from (0.0, 0.0, 0.0, 0.0, 0.05)
        while True:
            yield 0.5

    device = ScriptedDevice(steps())
    reader = read(device)
    first = _take(reader)
    taken.set()
    second = _take(reader)
    assert (first.captured_at_ns, second.captured_at_ns) == (1, 6)
    assert device.decoded == [1, 6]
    assert reader.passed_over == 4


def test_a_device_that_never_makes_one_wait_is_read_too(
    read: Callable[[Any], NewestFrame],
) -> None:
    reader = read(ScriptedDevice(iter(lambda: 0.0, None)))
    times = [_take(reader).captured_at_ns for _ in range(3)]
    assert times == sorted(set(times))


def test_a_slow_consumer_costs_little_decoding(read: Callable[[Any], NewestFrame]) -> None:
    def steps() -> Iterator[float]:
        while True:
            yield 0.006

    device = ScriptedDevice(steps())
    reader = read(device)
    for _ in range(8):
        _take(reader)
        time.sleep(0.12)
    # Some twenty pictures come for each that is taken.
    assert device.grabbed > 40
    assert len(device.decoded) < 0.7 * device.grabbed
    assert reader.passed_over >= device.grabbed - 10


def test_each_picture_is_taken_once(read: Callable[[Any], NewestFrame]) -> None:
    def steps() -> Iterator[float]:
        yield 0.05
        held.wait(5)
        yield 0.05

    held = threading.Event()
    reader = read(ScriptedDevice(steps()))
    assert _take(reader).captured_at_ns == 1
    assert reader.take(0.05) is None
    held.set()
    assert _take(reader).captured_at_ns == 2


def test_a_broken_picture_comes_with_its_reason(read: Callable[[Any], NewestFrame]) -> None:
    device = ScriptedDevice(iter(lambda: 0.02, None))
    device.breaks_at = {1}
    reader = read(device)
    broken = _take(reader)
    assert (broken.pixels, broken.reason) == (None, "torn")
    assert _take(reader).pixels is not None


@pytest.mark.parametrize(
    ("error", "said"),
    [(DeviceLost("pulled"), "pulled"), (OSError(19, "No\nsuch device"), "No such device")],
)
def test_a_lost_device_is_told_to_all_who_wait(
    read: Callable[[Any], NewestFrame], error: Exception, said: str
) -> None:
    held = threading.Event()

    def steps() -> Iterator[float | Exception]:
        yield 0.0
        held.wait(5)
        yield error

    device = ScriptedDevice(steps())
    reader = read(device)
    answer = reader.ask(lambda opened: opened.still())
    held.set()
    assert reader.join(5)
    with pytest.raises(DeviceLost, match=said):
        reader.take(5)
    with pytest.raises(DeviceLost):
        answer.result(5)
    with pytest.raises(DeviceLost):
        reader.ask(lambda opened: opened.still()).result(5)
    assert device.closed == 1


def test_one_thread_does_everything_with_the_device(read: Callable[[Any], NewestFrame]) -> None:
    device = ScriptedDevice(iter(lambda: 0.02, None))
    reader = read(device)
    assert reader.ask(lambda opened: opened.preview()).result(5).shape == (4, 8, 3)
    _take(reader)
    assert len(device.threads) == 1
    assert threading.get_ident() not in device.threads


def test_a_job_that_fails_is_its_askers_business(read: Callable[[Any], NewestFrame]) -> None:
    def fail(device: object) -> None:
        raise FrameError("no still")

    reader = read(ScriptedDevice(iter(lambda: 0.02, None)))
    with pytest.raises(FrameError, match="no still"):
        reader.ask(fail).result(5)
    assert _take(reader).pixels is not None


def test_a_device_that_cannot_be_opened_says_why() -> None:
    def refuse() -> Any:
        raise CameraError("in use")

    reader = NewestFrame(refuse)
    reader.start()
    with pytest.raises(CameraError, match="in use"):
        reader.opened.result(5)
    with pytest.raises(DeviceLost, match="in use"):
        reader.take(5)
    assert reader.join(5)
