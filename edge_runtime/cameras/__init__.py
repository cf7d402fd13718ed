"""Where frames come from: the Camera protocol and the table of cameras.

A new camera is one module with an ``open_camera`` function and one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from edge_runtime.errors import CameraError
from edge_runtime.types import Frame, SkippedFrame


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


@dataclass(frozen=True, slots=True)
class CameraRow:
    """One line of the table: which sources a camera takes and where its code is."""

    name: str
    module: str
    handles: Callable[[str], bool]
    help: str


def _is_virtual(source: str) -> bool:
    return source == "virtual" or source.startswith("virtual:")


CAMERAS: tuple[CameraRow, ...] = (
    CameraRow(
        "virtual",
        "edge_runtime.cameras.virtual",
        _is_virtual,
        "virtual[:profile[:seed]]: a rendered blood film seen through an optical profile",
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
        CameraError: the source does not exist, holds no frame, or names no known profile.
    """
    for row in CAMERAS:
        if row.handles(source):
            camera: Camera = import_module(row.module).open_camera(source, limit=limit)
            return camera
    raise CameraError(f"source {source!r}: no camera handles it; {CAMERAS[-1].help}")
