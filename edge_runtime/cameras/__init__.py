"""Where frames come from: the Camera protocols and the table of cameras.

A new camera is one module with the functions of ``CameraModule`` and one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Literal, Protocol, TypeGuard, cast

from typing_extensions import Self

from edge_runtime.errors import CameraError
from edge_runtime.types import CameraGap, CameraSession, Frame, SkippedFrame, UInt8Image


class Camera(Protocol):
    """A context manager that iterates frames.

    A field that cannot be read comes as a ``SkippedFrame`` with its reason, in its
    place in the order; iteration goes on. A live camera yields only the newest frame.
    """

    @property
    def frame_count(self) -> int | None:
        """How many items will come, or None when nobody knows."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def __iter__(self) -> Iterator[Frame | SkippedFrame]: ...


class LiveCamera(Camera, Protocol):
    """A camera that goes on by itself: what is not looked at in time is gone.

    It yields the newest picture whenever it is asked for the next one. A device that hangs or is
    unplugged is opened again; iteration then waits, and the gap is in ``gaps``. All but the
    iteration may be called from any thread.
    """

    @property
    def live(self) -> Literal[True]:
        """By this a runner knows it."""

    @property
    def frames_passed_over(self) -> int:
        """Pictures that came and were not yielded."""

    @property
    def gaps(self) -> tuple[CameraGap, ...]:
        """All gaps so far, in order, with the one that lasts."""

    @property
    def open_gap(self) -> CameraGap | None:
        """The gap that lasts; None while pictures come."""

    @property
    def sessions(self) -> tuple[CameraSession, ...]:
        """What the device was set to, one for each time this changed; not empty once open."""

    def stop(self) -> None:
        """Ends the iteration, also one that waits."""

    def still(self) -> Frame:
        """A picture at the device's full resolution; the iteration goes on.

        Raises:
            CameraError: the device gives none now.
        """

    def preview(self) -> UInt8Image:
        """The next picture, small, RGB ``(h, w, 3)``, to be looked at by a person.

        Raises:
            CameraError: the device gives none now.
        """


def is_live(camera: Camera) -> TypeGuard[LiveCamera]:
    """Whether a camera goes on by itself."""
    return getattr(camera, "live", False) is True


def is_moved(camera: Camera) -> bool:
    """Whether its fields overlap, as those of a live camera or of a stage moved by hand."""
    return getattr(camera, "by_hand", False) is True


def shows_motion(camera: Camera) -> bool:
    """Whether what lies between two frames tells that the film moves under the camera.

    Pictures of a folder do not, and those of a stage that stands still for each do not either.
    """
    return is_live(camera) and getattr(camera, "stepwise", False) is not True


@dataclass(frozen=True, slots=True)
class FoundCamera:
    """A camera that is here: the source that opens it, and its name for a person."""

    source: str
    name: str


class CameraModule(Protocol):
    """What the module of a row has; those of live cameras have all of it."""

    def open_camera(self, source: str, *, limit: int | None = None) -> Camera:
        """See ``open_camera``."""

    def unsupported_reason(self) -> str | None:
        """Why this kind of camera cannot work here, with the remedy; None when it can."""

    def find_cameras(self) -> list[FoundCamera]:
        """Those that are here."""


@dataclass(frozen=True, slots=True)
class CameraRow:
    """One line of the table: which sources a camera takes and where its code is."""

    name: str
    module: str
    handles: Callable[[str], bool]
    help: str
    live: bool = False

    def load(self) -> CameraModule:
        """Its module."""
        return cast("CameraModule", import_module(self.module))


def _starts(name: str) -> Callable[[str], bool]:
    return lambda source: source == name or source.startswith((f"{name}:", f"{name}?"))


CAMERAS: tuple[CameraRow, ...] = (
    CameraRow(
        "virtual",
        "edge_runtime.cameras.virtual",
        _starts("virtual"),
        "virtual[:profile[:seed[:hand]]]: a rendered blood film seen through an optical profile",
    ),
    CameraRow(
        "v4l2",
        "edge_runtime.cameras.v4l2",
        _starts("v4l2"),
        "v4l2:/dev/video0[?width=1280&height=720&still=4000x3000]: a USB microscope camera",
        live=True,
    ),
    CameraRow(
        "picamera",
        "edge_runtime.cameras.picamera",
        _starts("picamera"),
        "picamera[:0][?width=1456&height=1088]: a camera module of a Raspberry Pi",
        live=True,
    ),
    CameraRow(
        "gstreamer",
        "edge_runtime.cameras.gstreamer",
        _starts("gstreamer"),
        "gstreamer:csi[?sensor=0&width=1920&height=1080&fps=30] (Jetson), or a whole pipeline",
        live=True,
    ),
    CameraRow(
        "paced",
        "edge_runtime.cameras.paced",
        _starts("paced"),
        "paced:FPS[xHELD]:[hand:]SOURCE: the fields of another source, again and again, as a live "
        "camera",
        live=True,
    ),
    CameraRow(
        "replay",
        "edge_runtime.cameras.replay",
        lambda source: True,
        "a folder of images, one image, or a video file",
    ),
)


def open_camera(source: str, *, limit: int | None = None) -> Camera:
    """The camera that handles ``source``; at most ``limit`` frames when given.

    Raises:
        CameraError: the source does not exist, holds no frame, names no known profile, or its
            kind of camera cannot work here. A live camera is opened on entering it, so that is
            when it may be refused.
    """
    for row in CAMERAS:
        if row.handles(source):
            module = row.load()
            if row.live and (reason := module.unsupported_reason()) is not None:
                raise CameraError(f"source {source!r}: {reason}")
            return module.open_camera(source, limit=limit)
    raise CameraError(f"source {source!r}: no camera handles it; {CAMERAS[-1].help}")
