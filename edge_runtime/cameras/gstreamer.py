"""Cameras behind a GStreamer pipeline: CSI cameras of a Jetson above all.

Owns the pipelines' text: building it from a profile, and refusing one that would hand over old
pictures. Does not own threads or reopening (see ``watchdog``).

Needs an OpenCV built with GStreamer, as JetPack's is; the wheels of PyPI are not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2

from edge_runtime.cameras import FoundCamera
from edge_runtime.cameras.capture import Captured
from edge_runtime.cameras.device import CameraDevice, SourceOptions, shrink
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import CameraError
from edge_runtime.types import CameraSession, UInt8Image

# What makes the sink keep the newest picture only and hand it over at once.
SINK = "appsink drop=true max-buffers=1 sync=false"
_SINK_NEEDS = {"drop": {"true", "1"}, "max-buffers": {"1"}, "sync": {"false", "0"}}
_TO_BGR = "videoconvert ! video/x-raw, format=(string)BGR"
# Argus' modes that do not follow the picture. 0 is off, 1 automatic, 9 needs gains of its own.
_WHITE_BALANCE = {
    "off": 0,
    "incandescent": 2,
    "fluorescent": 3,
    "warm-fluorescent": 4,
    "daylight": 5,
    "cloudy-daylight": 6,
    "twilight": 7,
    "shade": 8,
}
_PROFILES = ("csi", "uvc")


@dataclass(frozen=True, slots=True)
class PipelineWish:
    """A pipeline and what is known of it.

    Attributes:
        device: how a person names the camera.
        pipeline: GStreamer text that ends in ``SINK``.
        locked, not_locked: see ``CameraSession``.
    """

    device: str
    pipeline: str
    pixel_format: str = ""
    exposure_ms: float | None = None
    gain: float | None = None
    locked: tuple[str, ...] = ()
    not_locked: dict[str, str] = field(default_factory=dict)


def parse_source(source: str) -> PipelineWish:
    """``gstreamer:csi[?...]``, ``gstreamer:uvc[?...]``, or ``gstreamer:`` and a whole pipeline.

    Raises:
        CameraError: it is malformed, or the pipeline could hand over old pictures.
    """
    _, _, text = source.partition(":")
    if "!" in text:
        check_pipeline(text)
        reason = "the pipeline is the user's; lock it there"
        unknown = dict.fromkeys(("exposure", "gain", "white_balance"), reason)
        return PipelineWish(text.strip(), text.strip(), not_locked=unknown)
    options = SourceOptions.parse(source)
    if options.place == "csi":
        wish = _csi(options)
    elif options.place == "uvc":
        wish = _uvc(options)
    else:
        raise CameraError(
            f"source {source!r}: no profile {options.place!r}; give one of {', '.join(_PROFILES)}, "
            f"or a whole pipeline that ends in {SINK!r}"
        )
    options.finish()
    check_pipeline(wish.pipeline)
    return wish


def check_pipeline(pipeline: str) -> None:
    """Refuses a pipeline that would hand over old pictures, or none.

    Raises:
        CameraError: it does not end in an appsink that keeps only the newest picture as BGR.
    """
    elements = [element.strip() for element in _split(pipeline)]
    if len(elements) < 2 or not all(elements):
        raise CameraError(f"pipeline {pipeline!r}: give source ! ... ! {SINK}")
    name, *words = elements[-1].split()
    if name != "appsink":
        raise CameraError(f"pipeline {pipeline!r}: ends in {name}; end it in {SINK!r}")
    given = {
        key.strip(): value.strip().strip("\"'").lower()
        for key, _, value in (word.partition("=") for word in words)
    }
    for key, good in _SINK_NEEDS.items():
        if given.get(key) not in good:
            raise CameraError(
                f"pipeline {pipeline!r}: its appsink has {key}={given.get(key, 'its default')}, so "
                f"pictures would wait in a queue; write {SINK!r}"
            )
    if not re.search(r"format\s*=\s*(\(string\))?\s*BGR\b", elements[-2]):
        raise CameraError(f"pipeline {pipeline!r}: put '{_TO_BGR}' before the appsink")


def _split(pipeline: str) -> list[str]:
    """The elements; an exclamation mark inside quotes is none."""
    return re.split(r"!(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", pipeline)


def _csi(options: SourceOptions) -> PipelineWish:
    sensor = options.whole("sensor", 0, 15) or 0
    width, height = options.side("width") or 1920, options.side("height") or 1080
    fps = options.whole("fps", 1, 240) or 30
    flip = options.whole("flip", 0, 7) or 0
    exposure_ms, gain = options.number("exposure_ms", 0, 10_000), options.number("gain", 0, 1000)
    balance = options.word("white_balance", _WHITE_BALANCE)
    source = [f"nvarguscamerasrc sensor-id={sensor}"]
    locked: list[str] = []
    not_locked: dict[str, str] = {}
    if exposure_ms is not None:
        nanoseconds = round(exposure_ms * 1e6)
        # A range of one value: the automatic has nothing to choose.
        source.append(f'exposuretimerange="{nanoseconds} {nanoseconds}"')
        locked.append("exposure")
    else:
        not_locked["exposure"] = "give exposure_ms: Argus would lock at whatever it starts with"
    if gain is not None:
        source.append(f'gainrange="{gain:g} {gain:g}" ispdigitalgainrange="1 1"')
        locked.append("gain")
    else:
        not_locked["gain"] = "give gain: Argus would lock at whatever it starts with"
    if exposure_ms is not None and gain is not None:
        source.append("aelock=true")
    if balance is not None:
        source.append(f"wbmode={_WHITE_BALANCE[balance]} awblock=true")
        locked.append("white_balance")
    else:
        not_locked["white_balance"] = "give white_balance, one of Argus' fixed modes"
    caps = (
        f"video/x-raw(memory:NVMM), width=(int){width}, height=(int){height}, "
        f"format=(string)NV12, framerate=(fraction){fps}/1"
    )
    # The converter copies out of the camera's memory; it knows BGRx, not BGR.
    convert = f"nvvidconv flip-method={flip} ! video/x-raw, format=(string)BGRx"
    pipeline = f"{' '.join(source)} ! {caps} ! {convert} ! {_TO_BGR} ! {SINK}"
    return PipelineWish(
        f"csi {sensor}", pipeline, "NV12", exposure_ms, gain, tuple(locked), not_locked
    )


def _uvc(options: SourceOptions) -> PipelineWish:
    number = options.whole("device", 0, 255) or 0
    width, height = options.side("width") or 1280, options.side("height") or 720
    fps = options.whole("fps", 1, 240) or 30
    caps = f"image/jpeg, width=(int){width}, height=(int){height}, framerate=(fraction){fps}/1"
    pipeline = f"v4l2src device=/dev/video{number} ! {caps} ! jpegdec ! {_TO_BGR} ! {SINK}"
    reason = "the uvc profile leaves it to the camera; the v4l2 source locks it"
    unknown = dict.fromkeys(("exposure", "gain", "white_balance"), reason)
    return PipelineWish(f"/dev/video{number}", pipeline, "MJPG", not_locked=unknown)


class GstreamerDevice:
    """One running pipeline."""

    def __init__(self, wish: PipelineWish, clock_ns: Callable[[], int]) -> None:
        capture = cv2.VideoCapture(wish.pipeline, cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            capture.release()
            raise CameraError(
                f"camera {wish.device}: the pipeline does not start; try it in gst-launch-1.0, or "
                f"restart the service nvargus-daemon: {wish.pipeline}"
            )
        self._wish = wish
        # The stream's own clock starts with the stream and says nothing of now.
        self._pictures = Captured(capture, clock_ns)
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self._session = CameraSession(
            driver="gstreamer",
            device=wish.device,
            width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            pixel_format=wish.pixel_format,
            fps=fps if fps > 0 else None,
            exposure_ms=wish.exposure_ms,
            gain=wish.gain,
            white_balance_k=None,
            colour_gains=None,
            locked=wish.locked,
            not_locked=wish.not_locked,
            clock="arrival",
        )

    @property
    def session(self) -> CameraSession:
        """What the pipeline was built with."""
        return self._session

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
        """A picture of the stream: a pipeline has one resolution."""
        return self._pictures.grab(), self._pictures.retrieve()

    def close(self) -> None:
        """See ``CameraDevice``."""
        self._pictures.close()


def open_camera(
    source: str,
    *,
    limit: int | None = None,
    patience: Patience | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> WatchedCamera:
    """The live camera for ``gstreamer:...``.

    Raises:
        CameraError: the source is malformed, or its pipeline would hand over old pictures.
    """
    wish = parse_source(source)

    def opened(before: CameraSession | None) -> CameraDevice:
        return GstreamerDevice(wish, clock_ns)

    return WatchedCamera(
        opened,
        source=source,
        name="gstreamer",
        limit=limit,
        patience=patience,
        clock_ns=clock_ns,
    )


def unsupported_reason() -> str | None:
    """Why no pipeline can run here; None when one can."""
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        return (
            "this OpenCV was built without GStreamer; on a Jetson use JetPack's own "
            "(a virtual environment with --system-site-packages, without opencv-python-headless)"
        )
    return None


def find_cameras() -> list[FoundCamera]:
    """None are looked for: Argus tells of its sensors only by starting them."""
    return []
