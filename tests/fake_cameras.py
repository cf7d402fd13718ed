"""Cameras that are not here, as far as their documentation and sources tell how they behave.

Each fake stands where the library stands (``cv2.VideoCapture``, the module ``picamera2``), so the
code under test is all of ours. What they reproduce:

- V4L2 through OpenCV: opens at 640 x 480 uncompressed; a size that the pixel format does not
  have becomes another one without an error; width and height take effect together and restart the
  stream; four buffers, handed on in order; ``grab`` fails at once when the device is gone, and
  after the driver's time-out when it hangs; a device is opened once; controls of an automatic
  cannot be set while it is on; unknown ones read as -1; times are monotonic.
- GStreamer through OpenCV: whether old pictures wait is up to the appsink; the stream's time
  starts at 0.
- Picamera2: buffers come back only when requests are released, and without any the camera stops;
  a request that hangs keeps jobs open, which keep the camera from being closed; controls take some
  pictures to act; one object at a time may have the camera; rows of YUV are padded.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from edge_runtime.cameras.paced import PacedDevice
from edge_runtime.types import UInt8Image
from tests.support import paint_field

PERIOD_S = 0.005
# OpenCV waits 10 s in select, and 30 s for GStreamer; nobody waits so long here.
DRIVER_TIMEOUT_S = 3.0
V4L2_MODES = {
    "YUYV": [(640, 480), (320, 240)],
    "MJPG": [(800, 600), (320, 240), (640, 480)],
}
BY_HAND, AUTOMATIC = 1, 3


class Hardware:
    """A camera on its cable: what a person, or bad luck, does to it.

    Attributes:
        light: exposure as the automatic would choose it now, ms; whoever looks at a new scene
            changes it.
        opened: how often.
    """

    def __init__(self) -> None:
        self.plugged = True
        self.hanging = False
        self.in_use = False
        self.opened = 0
        self.light = 12.5
        self.without: set[int] = set()
        self.log: list[tuple[str, Any]] = []
        self._lock = threading.Lock()
        self._broken = 0

    def break_next(self, count: int) -> None:
        """The next pictures to be decoded come broken; 0: the cable holds again."""
        with self._lock:
            self._broken = count

    def breaks_one(self) -> bool:
        """Whether this picture comes broken."""
        with self._lock:
            broken = self._broken > 0
            self._broken -= broken
            return broken

    def acquire(self) -> bool:
        """Opens the device file."""
        with self._lock:
            if not self.plugged or self.in_use:
                return False
            self.in_use = True
            self.opened += 1
            return True

    def give_back(self) -> None:
        """Closes it."""
        self.in_use = False

    def answers(self, timeout_s: float = DRIVER_TIMEOUT_S) -> bool:
        """Waits while it hangs, as the driver does; False when no picture will come."""
        until = time.monotonic() + timeout_s
        while self.hanging and self.plugged and time.monotonic() < until:
            time.sleep(0.002)
        return self.plugged and not self.hanging


@functools.cache
def scene(size: tuple[int, int]) -> UInt8Image:
    """What lies under the microscope, RGB, the same at every size but for scale."""
    width, height = size
    return paint_field(width, height, [(width * 0.4, height * 0.5, height * 0.3)])


class FakeV4l2Capture:
    """``cv2.VideoCapture(number, CAP_V4L2)``."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._open = hardware.acquire()
        self._format, self._size = "YUYV", (640, 480)
        self._width: int | None = None
        self._captured_ns = 0
        self._controls: dict[int, float] = {
            cv2.CAP_PROP_AUTO_EXPOSURE: AUTOMATIC,
            cv2.CAP_PROP_EXPOSURE: 0,
            cv2.CAP_PROP_GAIN: 4,
            cv2.CAP_PROP_AUTO_WB: 1,
            cv2.CAP_PROP_WB_TEMPERATURE: 4600,
        }
        self._restart()

    def isOpened(self) -> bool:  # noqa: N802
        return self._open

    def release(self) -> None:
        if self._open:
            self._open = False
            self._hardware.give_back()

    def set(self, prop: int, value: float) -> bool:
        self._hardware.log.append(("set", (prop, value)))
        if prop == cv2.CAP_PROP_FOURCC:
            name = int(value).to_bytes(4, "little").decode()
            if name not in V4L2_MODES:
                return False
            self._format = name
            self._size = self._nearest(self._size)
            self._restart()
        elif prop == cv2.CAP_PROP_FRAME_WIDTH:
            self._width = int(value)
        elif prop == cv2.CAP_PROP_FRAME_HEIGHT:
            if self._width is not None:
                self._size = self._nearest((self._width, int(value)))
                self._width = None
                self._restart()
        elif prop in self._controls and prop not in self._hardware.without:
            return self._set_control(prop, value)
        else:
            return prop in (cv2.CAP_PROP_MODE, cv2.CAP_PROP_FPS)
        return True

    def _set_control(self, prop: int, value: float) -> bool:
        switch = {
            cv2.CAP_PROP_EXPOSURE: (cv2.CAP_PROP_AUTO_EXPOSURE, AUTOMATIC),
            cv2.CAP_PROP_WB_TEMPERATURE: (cv2.CAP_PROP_AUTO_WB, 1),
        }.get(prop)
        if switch is not None and self._controls[switch[0]] == switch[1]:
            return False
        self._controls[prop] = round(value)
        return True

    def get(self, prop: int) -> float:
        if prop in self._hardware.without:
            return -1.0
        if prop == cv2.CAP_PROP_EXPOSURE:
            if self._controls[cv2.CAP_PROP_AUTO_EXPOSURE] == AUTOMATIC:
                self._controls[prop] = round(self._hardware.light * 10)
            return self._controls[prop]
        known = {
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*self._format)),
            cv2.CAP_PROP_FRAME_WIDTH: float(self._size[0]),
            cv2.CAP_PROP_FRAME_HEIGHT: float(self._size[1]),
            cv2.CAP_PROP_FPS: 1 / PERIOD_S,
            cv2.CAP_PROP_POS_MSEC: self._captured_ns / 1e6,
        }
        return known.get(prop, self._controls.get(prop, -1.0))

    def grab(self) -> bool:
        if not self._open or not self._hardware.answers():
            return False
        self._captured_ns = self._pace.grab()
        return self._hardware.plugged

    def retrieve(self) -> tuple[bool, UInt8Image | None]:
        if self._hardware.breaks_one():
            return False, None
        return True, self._picture.copy()

    def _nearest(self, size: tuple[int, int]) -> tuple[int, int]:
        return min(V4L2_MODES[self._format], key=lambda each: abs(each[0] - size[0]))

    def _restart(self) -> None:
        self._picture = np.ascontiguousarray(scene(self._size)[:, :, ::-1])
        self._pace = PacedDevice([self._picture], 1 / PERIOD_S)


class FakeGstreamerCapture:
    """``cv2.VideoCapture(pipeline, CAP_GSTREAMER)``."""

    def __init__(self, hardware: Hardware, pipeline: str) -> None:
        self._hardware = hardware
        self._open = hardware.acquire()
        caps = re.search(r"width=\(int\)(\d+), height=\(int\)(\d+)", pipeline)
        self._size = (int(caps[1]), int(caps[2])) if caps else (640, 480)
        self._picture = np.ascontiguousarray(scene(self._size)[:, :, ::-1])
        newest_only = "drop=true" in pipeline and "max-buffers=1" in pipeline
        self._pace = PacedDevice([self._picture], 1 / PERIOD_S, buffers=1 if newest_only else None)
        hardware.log.append(("pipeline", pipeline))

    def isOpened(self) -> bool:  # noqa: N802
        return self._open

    def release(self) -> None:
        if self._open:
            self._open = False
            self._hardware.give_back()

    def get(self, prop: int) -> float:
        return {
            cv2.CAP_PROP_FRAME_WIDTH: float(self._size[0]),
            cv2.CAP_PROP_FRAME_HEIGHT: float(self._size[1]),
            cv2.CAP_PROP_FPS: 1 / PERIOD_S,
            cv2.CAP_PROP_POS_MSEC: 40.0,
        }.get(prop, -1.0)

    def grab(self) -> bool:
        if not self._open or not self._hardware.answers():
            return False
        self._pace.grab()
        return self._hardware.plugged

    def retrieve(self) -> tuple[bool, UInt8Image | None]:
        if self._hardware.breaks_one():
            return False, None
        return True, self._picture.copy()


def fake_video_capture(hardware: Hardware) -> Any:
    """What stands where ``cv2.VideoCapture`` stood."""

    def opened(place: int | str, api: int) -> FakeV4l2Capture | FakeGstreamerCapture:
        if api == cv2.CAP_V4L2:
            assert place == 0
            return FakeV4l2Capture(hardware)
        assert api == cv2.CAP_GSTREAMER
        assert isinstance(place, str)
        return FakeGstreamerCapture(hardware, place)

    return opened


class _Request:
    def __init__(self, camera: FakePicamera2, metadata: dict[str, Any]) -> None:
        self._camera, self._metadata, self._held = camera, metadata, True

    def get_metadata(self) -> dict[str, Any]:
        assert self._held, "a released request was looked at"
        return dict(self._metadata)

    def make_array(self, name: str) -> UInt8Image:
        assert self._held, "a released request was looked at"
        stream = self._camera.configured[name]
        rgb = scene(stream["size"])
        if stream["format"] == "BGR888":
            if self._camera.hardware.breaks_one():
                return np.array(rgb[:, :, 0])
            return np.array(rgb)
        assert stream["format"] == "YUV420"
        width, height = stream["size"]
        padded = np.zeros((height, stream["stride"], 3), np.uint8)
        padded[:, :width] = rgb
        return np.asarray(cv2.cvtColor(padded, cv2.COLOR_RGB2YUV_I420), np.uint8)

    def release(self) -> None:
        assert self._held, "a request was released twice"
        self._held = False
        self._camera.held -= 1


class _Job:
    def __init__(self, camera: FakePicamera2) -> None:
        self._camera = camera

    def get_result(self, timeout: float | None = None) -> _Request:
        assert timeout is not None, "a request that hangs would be waited for without end"
        until = time.monotonic() + timeout
        camera = self._camera
        while time.monotonic() < until:
            if camera.hardware.plugged and not camera.hardware.hanging and camera.free():
                return camera.complete()
            time.sleep(0.002)
        raise FutureTimeout


class FakePicamera2:
    """``picamera2.Picamera2``."""

    hardware: Hardware

    def __init__(self, number: int = 0) -> None:
        if not self.hardware.plugged:
            raise IndexError("list index out of range")
        if number != 0 or not self.hardware.acquire():
            raise RuntimeError("Camera __init__ sequence did not complete.")
        self.configured: dict[str, Any] = {}
        self.held = 0
        self._jobs = 0
        self._buffers = 0
        self._coming: list[tuple[int, dict[str, Any]]] = []
        self._controls: dict[str, Any] = {"AeEnable": True, "AwbEnable": True}
        self._pictures = 0
        self._pace: PacedDevice | None = None

    @classmethod
    def global_camera_info(cls) -> list[dict[str, Any]]:
        return [{"Num": 0, "Model": "imx477", "Location": 2}] if cls.hardware.plugged else []

    def create_video_configuration(
        self,
        main: dict[str, Any],
        lores: dict[str, Any],
        buffer_count: int,
        controls: dict[str, Any],
    ) -> dict[str, Any]:
        # The width of YUV420 is padded to 64 bytes.
        stride = -(-lores["size"][0] // 64) * 64
        return {
            "main": {**main, "stride": main["size"][0] * 3},
            "lores": {**lores, "stride": stride},
            "buffer_count": buffer_count,
        }

    def configure(self, configuration: dict[str, Any]) -> None:
        if configuration["main"]["size"][0] > 4056:
            raise RuntimeError("Sensor mode cannot give this size")
        self.configured, self._buffers = configuration, configuration["buffer_count"]

    def camera_configuration(self) -> dict[str, Any]:
        return self.configured

    def start(self) -> None:
        assert self.configured
        self._pace = PacedDevice([np.zeros((1, 1, 3), np.uint8)], 1 / PERIOD_S, buffers=1)

    def set_controls(self, controls: dict[str, Any]) -> None:
        # They ride with a request that is yet to be queued.
        self._coming.append((self._pictures + 3, dict(controls)))

    def capture_request(self, wait: Any = None) -> _Job:
        assert wait is False, "waiting here cannot be ended"
        self._jobs += 1
        return _Job(self)

    def free(self) -> bool:
        """Whether the camera has a buffer to write into."""
        return self.held < self._buffers

    def complete(self) -> _Request:
        """The next picture."""
        assert self._pace is not None
        captured_ns = self._pace.grab()
        self._pictures += 1
        self._jobs -= 1
        self.held += 1
        for at, controls in self._coming:
            if at <= self._pictures:
                self._controls.update(controls)
        if self._controls["AeEnable"]:
            self._controls["ExposureTime"] = round(self.hardware.light * 1000)
            self._controls["AnalogueGain"] = 2.0
        if self._controls["AwbEnable"]:
            self._controls["ColourGains"] = (2.1 + self.hardware.light / 100, 1.6)
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        names = ("ExposureTime", "AnalogueGain", "ColourGains")
        metadata = {name: self._controls[name] for name in names}
        metadata |= {"SensorTimestamp": captured_ns + boot_ns, "FrameDuration": PERIOD_S * 1e6}
        return _Request(self, metadata)

    def cancel_all_and_flush(self) -> None:
        self._jobs = 0

    def close(self) -> None:
        assert self._jobs == 0, "closing waits for jobs that never end"
        assert self.held == 0, "a request was kept"
        self.hardware.give_back()


def fake_picamera2(hardware: Hardware) -> ModuleType:
    """What stands where the module ``picamera2`` stands on a Raspberry Pi."""
    module = ModuleType("picamera2")
    module.__spec__ = ModuleSpec("picamera2", None)
    module.Picamera2 = type(  # type: ignore[attr-defined]
        "Picamera2", (FakePicamera2,), {"hardware": hardware}
    )
    return module


def camera_threads() -> Sequence[threading.Thread]:
    """Reader threads that are alive."""
    return [each for each in threading.enumerate() if each.name == "camera"]
