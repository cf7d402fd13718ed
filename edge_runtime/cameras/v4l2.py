"""USB (UVC) microscope cameras under Linux, through OpenCV's V4L2 backend.

Owns the order in which a device is set up, the lock of its light, and its stills. Does not own
threads or reopening (see ``watchdog``).

The pixel format is set before the resolution: over USB 2, uncompressed pictures are offered only
in small sizes, and a driver asked for a large one in YUYV quietly gives another size.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2

from edge_runtime.cameras import FoundCamera
from edge_runtime.cameras.capture import Captured
from edge_runtime.cameras.device import CameraDevice, SourceOptions, WishedLight, shrink
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import CameraError, FrameError
from edge_runtime.types import CameraSession, UInt8Image

# V4L2_CID_EXPOSURE_AUTO: 1 is manual, 3 is automatic at a fixed aperture.
_MANUAL, _AUTOMATIC = 1, 3
# V4L2_CID_EXPOSURE_ABSOLUTE counts in 100 µs.
_EXPOSURE_UNITS_PER_MS = 10
_FORMATS = ("MJPG", "YUYV")
_DEFAULT_SIZE = (1280, 720)
# Pictures after opening within which the automatic settles; the rate of slow cameras is about 10.
_SETTLING_PICTURES = 15
# Pictures after a change of resolution that still belong to the time before, or came broken.
_PICTURES_BEFORE_STILL = 2


@dataclass(frozen=True, slots=True)
class V4l2Wish:
    """What a source asks for.

    Attributes:
        path: device file, or a link to one (``/dev/v4l/by-id/...`` stays when a camera is plugged
            in elsewhere).
        size: width and height; None takes what comes nearest to 1280 x 720.
        still: full resolution; None when the stream has it.
        pixel_format: ``MJPG`` or ``YUYV``; None tries them in this order.
    """

    path: str
    size: tuple[int, int] | None = None
    fps: float | None = None
    still: tuple[int, int] | None = None
    pixel_format: str | None = None
    light: WishedLight = field(default_factory=WishedLight)


def parse_source(source: str) -> V4l2Wish:
    """``v4l2:/dev/video0[?width=..&height=..&...]``.

    Raises:
        CameraError: it is malformed.
    """
    options = SourceOptions.parse(source)
    width, height = options.side("width"), options.side("height")
    if (width is None) != (height is None):
        raise CameraError(f"source {source!r}: give both width and height, or neither")
    wish = V4l2Wish(
        path=options.place or "/dev/video0",
        size=None if width is None or height is None else (width, height),
        fps=options.number("fps", 0, 1000),
        still=options.size("still"),
        pixel_format=options.word("format", dict.fromkeys(_FORMATS)),
        light=WishedLight(
            options.number("exposure_ms", 0, 10_000),
            options.number("gain", -1, 1e6),
            options.number("white_balance_k", 0, 20_000),
        ),
    )
    options.finish()
    return wish


class V4l2Device:
    """One open UVC camera."""

    def __init__(self, wish: V4l2Wish, capture: Any, clock_ns: Callable[[], int]) -> None:
        self._wish = wish
        self._capture = capture
        self._pictures = Captured(capture, clock_ns, driver_clock=True)
        self._locked: list[str] = []
        self._not_locked: dict[str, str] = {}
        # Ranges of OpenCV's own would hide the driver's units.
        capture.set(cv2.CAP_PROP_MODE, 0)
        self._format = self._set_format()
        self._size = self._set_size(wish.size or _DEFAULT_SIZE)
        if wish.size is not None and self._size != wish.size:
            raise CameraError(
                f"camera {wish.path}: gives {_x(self._size)}, not {_x(wish.size)}, in "
                f"{self._format}; ask for a size that `v4l2-ctl --list-formats-ext` shows"
            )
        if wish.fps is not None:
            capture.set(cv2.CAP_PROP_FPS, wish.fps)
        # Open is what gives a picture; only then it is known whose clock stamps it.
        self._pictures.grab()
        self._light = self._lock_light(wish.light)

    @property
    def session(self) -> CameraSession:
        """What the camera says it is set to."""
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return CameraSession(
            driver="v4l2",
            device=self._wish.path,
            width=self._size[0],
            height=self._size[1],
            pixel_format=self._format,
            fps=fps if fps > 0 else None,
            exposure_ms=self._light.exposure_ms,
            gain=self._light.gain,
            white_balance_k=self._light.white_balance_k,
            colour_gains=None,
            locked=tuple(self._locked),
            not_locked=dict(self._not_locked),
            clock=self._pictures.clock,
        )

    def grab(self) -> int:
        """See ``CameraDevice``."""
        return self._pictures.grab()

    def retrieve(self) -> UInt8Image:
        """See ``CameraDevice``."""
        return self._pictures.retrieve()

    def preview(self) -> UInt8Image:
        """See ``CameraDevice``."""
        return shrink(self._pictures.retrieve())

    def still(self) -> tuple[int, UInt8Image]:
        """One picture in the still resolution; the stream stops for it and goes on after it."""
        wanted = self._wish.still
        if wanted is None or wanted == self._size:
            return self._pictures.grab(), self._pictures.retrieve()
        given = self._set_size(wanted)
        try:
            if given != wanted:
                raise FrameError(f"the camera gives stills of {_x(given)}, not {_x(wanted)}")
            for _ in range(_PICTURES_BEFORE_STILL):
                self._pictures.grab()
            return self._pictures.grab(), self._pictures.retrieve()
        finally:
            self._set_size(self._size)
            # Some cameras fall back to their automatic when the stream starts again.
            self._set_light(self._light)

    def close(self) -> None:
        """See ``CameraDevice``."""
        self._pictures.close()

    def _set_format(self) -> str:
        asked = self._wish.pixel_format
        for name in _FORMATS if asked is None else (asked,):
            code = cv2.VideoWriter.fourcc(*name)
            if self._capture.set(cv2.CAP_PROP_FOURCC, code) and self._fourcc() == name:
                return name
        if asked is not None:
            raise CameraError(
                f"camera {self._wish.path}: has no {asked}; leave format= out to take "
                f"{self._fourcc()}"
            )
        return self._fourcc()

    def _fourcc(self) -> str:
        code = int(self._capture.get(cv2.CAP_PROP_FOURCC))
        return code.to_bytes(4, "little", signed=code < 0).decode("latin-1").strip("\0 ")

    def _set_size(self, size: tuple[int, int]) -> tuple[int, int]:
        # The backend keeps the first and sets both with the second.
        self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        return (
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )

    def _lock_light(self, wish: WishedLight) -> WishedLight:
        """Locks what is wished for, and else what the automatic has settled on."""
        if None in (wish.exposure_ms, wish.gain, wish.white_balance_k):
            if wish.exposure_ms is None:
                self._capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, _AUTOMATIC)
            if wish.white_balance_k is None:
                self._capture.set(cv2.CAP_PROP_AUTO_WB, 1)
            for _ in range(_SETTLING_PICTURES):
                self._pictures.grab()
        if wish.exposure_ms is None:
            units = self._capture.get(cv2.CAP_PROP_EXPOSURE)
            wish = replace(wish, exposure_ms=units / _EXPOSURE_UNITS_PER_MS if units > 0 else None)
        if wish.gain is None:
            gain = self._capture.get(cv2.CAP_PROP_GAIN)
            wish = replace(wish, gain=gain if gain >= 0 else None)
        if wish.white_balance_k is None:
            kelvin = self._capture.get(cv2.CAP_PROP_WB_TEMPERATURE)
            wish = replace(wish, white_balance_k=kelvin if kelvin > 0 else None)
        return self._set_light(wish)

    def _set_light(self, wish: WishedLight) -> WishedLight:
        """Sets everything by hand and reads it back."""
        self._locked, self._not_locked = [], {}
        capture = self._capture
        by_hand = bool(capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, _MANUAL))
        by_hand = by_hand and capture.get(cv2.CAP_PROP_AUTO_EXPOSURE) == _MANUAL
        units = None if wish.exposure_ms is None else wish.exposure_ms * _EXPOSURE_UNITS_PER_MS
        exposure = self._set_one("exposure", cv2.CAP_PROP_EXPOSURE, units, by_hand=by_hand)
        gain = self._set_one("gain", cv2.CAP_PROP_GAIN, wish.gain, by_hand=by_hand)
        by_hand = bool(capture.set(cv2.CAP_PROP_AUTO_WB, 0))
        by_hand = by_hand and capture.get(cv2.CAP_PROP_AUTO_WB) == 0
        kelvin = self._set_one(
            "white_balance", cv2.CAP_PROP_WB_TEMPERATURE, wish.white_balance_k, by_hand=by_hand
        )
        # Microscopes are focused by hand; a lens that hunts by itself would blur every field.
        if capture.set(cv2.CAP_PROP_AUTOFOCUS, 0) and capture.get(cv2.CAP_PROP_AUTOFOCUS) == 0:
            self._locked.append("focus")
        exposure_ms = None if exposure is None else exposure / _EXPOSURE_UNITS_PER_MS
        return WishedLight(exposure_ms, gain, kelvin)

    def _set_one(self, name: str, prop: int, value: float | None, *, by_hand: bool) -> float | None:
        """Sets one control; what it then is, or None when the camera does not say."""
        done = value is not None and by_hand and bool(self._capture.set(prop, value))
        now = float(self._capture.get(prop))
        known = now if now >= 0 else None
        if done and value is not None and known is not None and abs(known - value) <= 1:
            self._locked.append(name)
        elif value is None:
            self._not_locked[name] = "the camera does not tell it"
        elif not by_hand:
            self._not_locked[name] = "the camera's automatic cannot be switched off"
        else:
            self._not_locked[name] = f"set to {value:g}, the camera says {now:g}"
        return known


def open_device(
    wish: V4l2Wish, before: CameraSession | None = None, *, clock_ns: Callable[[], int]
) -> CameraDevice:
    """Opens and sets up the camera.

    Raises:
        CameraError: it is not there, not ours to use, in use, or refuses what is asked for.
        DeviceLost: it went away meanwhile.
    """
    path = os.path.realpath(wish.path)
    number = re.fullmatch(r"video(\d+)", os.path.basename(path))
    if not os.path.exists(path):
        raise CameraError(
            f"camera {wish.path}: not there; plug it in, `leukoscope cameras` lists those that are"
        )
    if number is None:
        raise CameraError(f"camera {wish.path}: no video device; give one such as /dev/video0")
    if not os.access(path, os.R_OK | os.W_OK):
        raise CameraError(
            f"camera {wish.path}: may not be used; add the user to the group `video`, log in again"
        )
    # By number: not every build of OpenCV opens V4L2 devices by name.
    capture = cv2.VideoCapture(int(number[1]), cv2.CAP_V4L2)
    if not capture.isOpened():
        capture.release()
        raise CameraError(
            f"camera {wish.path}: cannot be opened; is another program using it? `fuser {path}`"
        )
    try:
        return V4l2Device(replace(wish, light=wish.light.or_as(before)), capture, clock_ns)
    except BaseException:
        capture.release()
        raise


def open_camera(
    source: str,
    *,
    limit: int | None = None,
    patience: Patience | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> WatchedCamera:
    """The live camera for ``v4l2:...``; see ``V4l2Wish`` for the options.

    Raises:
        CameraError: the source is malformed.
    """
    wish = parse_source(source)
    return WatchedCamera(
        lambda before: open_device(wish, before, clock_ns=clock_ns),
        source=source,
        name="v4l2",
        limit=limit,
        patience=patience,
        clock_ns=clock_ns,
    )


def unsupported_reason() -> str | None:
    """Why no such camera can be used here; None when it can."""
    if not sys.platform.startswith("linux"):
        return f"V4L2 is Linux's; this is {sys.platform}"
    if not cv2.videoio_registry.hasBackend(cv2.CAP_V4L2):
        return "this OpenCV was built without V4L2; pip install opencv-python-headless"
    return None


def find_cameras(
    classes: Path = Path("/sys/class/video4linux"), links: Path = Path("/dev/v4l/by-id")
) -> list[FoundCamera]:
    """Video devices that give pictures, by the name that stays when there is one."""
    stays = {os.path.realpath(link): str(link) for link in sorted(links.glob("*"))}
    found = []
    for entry in sorted(classes.glob("video*"), key=lambda each: (len(each.name), each.name)):
        # A UVC camera has a second device, for metadata; its index is 1.
        if _read(entry / "index") not in ("0", ""):
            continue
        device = f"/dev/{entry.name}"
        found.append(FoundCamera(f"v4l2:{stays.get(device, device)}", _read(entry / "name")))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _x(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
