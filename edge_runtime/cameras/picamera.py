"""Camera modules of a Raspberry Pi, through Picamera2.

Owns the set-up of its two streams, the lock of its light, and the care for its requests. Does not
own threads or reopening (see ``watchdog``).

Pictures are taken as requests: a request holds one picture of both streams (``main`` at full size,
``lores`` for looking at) and must be given back, or the camera runs out of buffers and stops.
Nothing is copied but what is asked for. Picamera2 comes with Raspberry Pi OS only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np

from edge_runtime.cameras import FoundCamera
from edge_runtime.cameras.device import (
    PREVIEW_SIDE_PX,
    CameraDevice,
    DeviceLost,
    SourceOptions,
    WishedLight,
)
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import CameraError, FrameError
from edge_runtime.types import CameraSession, UInt8Image

# libcamera names formats by the order in memory of a little-endian word: this one is R, G, B in
# an array.
_RGB = "BGR888"
# One held by the reader, one being written, and some between: fewer and pictures are dropped.
_BUFFERS = 4
# Pictures within which the automatic settles, and within which set controls take effect.
_SETTLING_PICTURES = 30
_CONTROL_PICTURES = 15
_DEFAULT_SIZE = (1456, 1088)
# A picture that is late by this is not coming: libcamera itself gives a sensor 1 s.
_LATE_S = 3.0


@dataclass(frozen=True, slots=True)
class PicameraWish:
    """What a source asks for.

    Attributes:
        number: of the camera, from 0.
        size: of the pictures to be examined.
        colour_gains: of red and blue; None leaves them to the automatic, once.
    """

    number: int = 0
    size: tuple[int, int] = _DEFAULT_SIZE
    fps: float | None = None
    light: WishedLight = field(default_factory=WishedLight)
    colour_gains: tuple[float, float] | None = None


def parse_source(source: str) -> PicameraWish:
    """``picamera[:0][?width=..&height=..&...]``.

    Raises:
        CameraError: it is malformed.
    """
    options = SourceOptions.parse(source)
    place = options.place or "0"
    if not (place.isascii() and place.isdigit() and len(place) < 3):
        raise CameraError(f"source {source!r}: camera {place!r} is not a number from 0 up")
    red, blue = options.number("red_gain", 0, 64), options.number("blue_gain", 0, 64)
    if (red is None) != (blue is None):
        raise CameraError(f"source {source!r}: give both red_gain and blue_gain, or neither")
    width, height = options.side("width"), options.side("height")
    if (width is None) != (height is None):
        raise CameraError(f"source {source!r}: give both width and height, or neither")
    wish = PicameraWish(
        number=int(place),
        size=_DEFAULT_SIZE if width is None or height is None else (width, height),
        fps=options.number("fps", 0, 1000),
        light=WishedLight(
            options.number("exposure_ms", 0, 10_000), options.number("gain", 0, 1000)
        ),
        colour_gains=None if red is None or blue is None else (red, blue),
    )
    options.finish()
    return wish


class PicameraDevice:
    """One running camera module."""

    def __init__(self, wish: PicameraWish, camera: Any, clock_ns: Callable[[], int]) -> None:
        self._wish = wish
        self._camera = camera
        self._clock_ns = clock_ns
        self._request: Any = None
        self._hangs = False
        width, height = wish.size
        scale = min(1.0, PREVIEW_SIDE_PX / max(width, height))
        # YUV420 has half as many colour samples each way.
        small = tuple(max(2, round(side * scale) // 2 * 2) for side in (width, height))
        controls = {} if wish.fps is None else {"FrameRate": wish.fps}
        configuration = camera.create_video_configuration(
            main={"size": wish.size, "format": _RGB},
            # YUV420: up to the Pi 4 this stream can be nothing else.
            lores={"size": small, "format": "YUV420"},
            buffer_count=_BUFFERS,
            controls=controls,
        )
        camera.configure(configuration)
        self._streams = camera.camera_configuration()
        camera.start()
        self._session = self._lock_light()

    @property
    def session(self) -> CameraSession:
        """What the camera says it is set to."""
        return self._session

    def grab(self) -> int:
        """See ``CameraDevice``."""
        self._give_back()
        job = self._camera.capture_request(wait=False)
        try:
            self._request = job.get_result(timeout=_LATE_S)
        except (FutureTimeout, TimeoutError) as error:
            self._hangs = True
            raise DeviceLost(f"no picture for {_LATE_S:g} s: the camera's request hangs") from error
        return self._captured_at_ns(self._request.get_metadata())

    def retrieve(self) -> UInt8Image:
        """See ``CameraDevice``."""
        pixels = np.asarray(self._held().make_array("main"), np.uint8)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise FrameError(f"the picture is no colour picture but {pixels.shape}")
        return pixels if pixels.flags.c_contiguous else np.ascontiguousarray(pixels)

    def preview(self) -> UInt8Image:
        """See ``CameraDevice``."""
        planes = np.asarray(self._held().make_array("lores"), np.uint8)
        rgb = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
        # Rows are padded to the hardware's alignment.
        return np.ascontiguousarray(rgb[:, : self._streams["lores"]["size"][0]], np.uint8)

    def still(self) -> tuple[int, UInt8Image]:
        """The main stream has the full size already."""
        return self.grab(), self.retrieve()

    def close(self) -> None:
        """See ``CameraDevice``."""
        self._give_back()
        if self._hangs:
            # Jobs that will never end would keep the camera from being closed.
            self._camera.cancel_all_and_flush()
        self._camera.close()

    def _held(self) -> Any:
        if self._request is None:
            raise FrameError("no picture was grabbed yet")
        return self._request

    def _give_back(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.release()

    def _captured_at_ns(self, metadata: Mapping[str, Any]) -> int:
        now = self._clock_ns()
        stamp = metadata.get("SensorTimestamp")
        if stamp is None:
            return now
        # The sensor's time counts while the machine sleeps, the monotonic clock does not.
        return min(now, int(stamp) - (_boot_ns() - now))

    def _lock_light(self) -> CameraSession:
        wish = self._wish
        metadata: Mapping[str, Any] = {}
        if None in (wish.light.exposure_ms, wish.light.gain, wish.colour_gains):
            for _ in range(_SETTLING_PICTURES):
                self.grab()
            metadata = self._held().get_metadata()
        exposure_us = (
            metadata.get("ExposureTime")
            if wish.light.exposure_ms is None
            else round(wish.light.exposure_ms * 1000)
        )
        gain = metadata.get("AnalogueGain") if wish.light.gain is None else wish.light.gain
        colours = wish.colour_gains or metadata.get("ColourGains")
        wanted = {"ExposureTime": exposure_us, "AnalogueGain": gain, "ColourGains": colours}
        controls: dict[str, Any] = {
            "AeEnable": False,
            "AwbEnable": False,
            **{name: value for name, value in wanted.items() if value is not None},
        }
        self._camera.set_controls(controls)
        for _ in range(_CONTROL_PICTURES):
            self.grab()
            metadata = self._held().get_metadata()
            if not _differing(controls, metadata):
                break
        differing = _differing(controls, metadata)
        names = {
            "exposure": "ExposureTime",
            "gain": "AnalogueGain",
            "white_balance": "ColourGains",
        }
        not_locked = {
            name: f"set to {controls.get(control)}, the camera says {metadata.get(control)}"
            for name, control in names.items()
            if control not in controls or control in differing
        }
        now_us, red_blue = metadata.get("ExposureTime"), metadata.get("ColourGains")
        now_gain, kelvin = metadata.get("AnalogueGain"), metadata.get("ColourTemperature")
        duration_us = metadata.get("FrameDuration")
        width, height = self._streams["main"]["size"]
        return CameraSession(
            driver="picamera",
            device=f"camera {wish.number}",
            width=int(width),
            height=int(height),
            pixel_format=str(self._streams["main"]["format"]),
            fps=None if not duration_us else round(1e6 / duration_us, 3),
            exposure_ms=None if now_us is None else now_us / 1000,
            gain=None if now_gain is None else round(float(now_gain), 3),
            white_balance_k=None if kelvin is None else float(kelvin),
            colour_gains=None
            if red_blue is None
            else (round(float(red_blue[0]), 4), round(float(red_blue[1]), 4)),
            locked=tuple(name for name in names if name not in not_locked),
            not_locked=not_locked,
            clock="sensor" if "SensorTimestamp" in metadata else "arrival",
        )


def _differing(controls: Mapping[str, Any], metadata: Mapping[str, Any]) -> set[str]:
    """Names of controls that did not take effect; sensors step exposure and gain coarsely."""
    return {
        name
        for name in ("ExposureTime", "AnalogueGain", "ColourGains")
        if name in controls
        and (
            name not in metadata
            or not np.allclose(
                np.asarray(metadata[name], float), np.asarray(controls[name], float), rtol=0.03
            )
        )
    }


def _boot_ns() -> int:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)


def open_device(
    wish: PicameraWish, before: CameraSession | None = None, *, clock_ns: Callable[[], int]
) -> CameraDevice:
    """Opens and sets up the camera.

    Raises:
        CameraError: it is not there, in use, or refuses what is asked for.
        DeviceLost: it went away meanwhile.
    """
    kept = wish.colour_gains
    if kept is None and before is not None and "white_balance" in before.locked:
        kept = before.colour_gains
    wish = replace(wish, light=wish.light.or_as(before), colour_gains=kept)
    try:
        camera = import_module("picamera2").Picamera2(wish.number)
    except (RuntimeError, IndexError, OSError) as error:
        raise CameraError(
            f"camera {wish.number}: cannot be opened: {error}; check its ribbon cable with "
            "`rpicam-hello --list-cameras`, and that no other program uses it"
        ) from error
    try:
        return PicameraDevice(wish, camera, clock_ns)
    except BaseException as error:
        camera.cancel_all_and_flush()
        camera.close()
        if isinstance(error, (RuntimeError, ValueError)):
            raise CameraError(f"camera {wish.number}: refuses its set-up: {error}") from error
        raise


def open_camera(
    source: str,
    *,
    limit: int | None = None,
    patience: Patience | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> WatchedCamera:
    """The live camera for ``picamera...``.

    Raises:
        CameraError: the source is malformed.
    """
    wish = parse_source(source)
    return WatchedCamera(
        lambda before: open_device(wish, before, clock_ns=clock_ns),
        source=source,
        name="picamera",
        limit=limit,
        patience=patience,
        clock_ns=clock_ns,
    )


def unsupported_reason() -> str | None:
    """Why no such camera can be used here; None when it can."""
    if find_spec("picamera2") is None:
        return (
            "Picamera2 is not here; on Raspberry Pi OS: sudo apt install python3-picamera2, and a "
            "virtual environment with --system-site-packages"
        )
    return None


def find_cameras() -> list[FoundCamera]:
    """Camera modules that libcamera sees."""
    if unsupported_reason() is not None:
        return []
    told = import_module("picamera2").Picamera2.global_camera_info()
    return [FoundCamera(f"picamera:{each['Num']}", str(each["Model"])) for each in told]
