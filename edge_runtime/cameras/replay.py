"""Frames from disk: a folder of images, one image, or a video file.

Owns the order of fields and the check of every file. Does not own decoding rules
(see ``image_file``).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from typing_extensions import Self

from edge_runtime.cameras import Camera
from edge_runtime.errors import CameraError, FrameError
from edge_runtime.image_file import IMAGE_SUFFIXES, read_image
from edge_runtime.types import Frame, SkippedFrame

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mjpg", ".mpg"})


def open_camera(source: str, *, limit: int | None = None) -> Camera:
    """A camera for a folder, an image or a video file.

    Raises:
        CameraError: the path does not exist or holds nothing to look at.
    """
    if not source:
        # Path("") is the working folder, which nobody named.
        raise CameraError("source '': empty; give a folder of images, a video, or virtual")
    path = Path(source)
    if limit is not None and limit < 1:
        raise CameraError(f"source {source}: limit {limit} leaves no field; give 1 or more")
    try:
        # A ~ that the shell left; RuntimeError: no such user.
        path = path.expanduser()
        images = _images_in(path) if path.is_dir() else None
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CameraError(
            f"source {source}: {reason}; give a folder or file you may read"
        ) from error
    if images is not None:
        if not images:
            raise CameraError(_nothing_in(path))
        return FolderCamera(images[:limit])
    if is_file:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return VideoCamera(path, limit=limit)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return FolderCamera([path])
        known = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise CameraError(f"source {source}: neither image nor video; known endings: {known}")
    raise CameraError(
        f"source {source}: no such file or folder; give a folder of images, a video, or virtual"
    )


class FolderCamera:
    """Image files in natural order (field_2 before field_10)."""

    def __init__(
        self, images: list[Path], *, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._images = images
        self._clock_ns = clock_ns

    @property
    def frame_count(self) -> int | None:
        """How many files there are."""
        return len(self._images)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is held open."""

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        for index, path in enumerate(self._images):
            try:
                pixels = read_image(path)
            except FrameError as error:
                yield SkippedFrame(index, path.name, str(error))
            else:
                yield Frame(index, self._clock_ns(), pixels, path.name)


class VideoCamera:
    """Every frame of a video file, in order."""

    def __init__(
        self,
        path: Path,
        *,
        limit: int | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._path = path
        self._limit = limit
        self._clock_ns = clock_ns
        self._capture: Any = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise CameraError(f"source {path}: not a readable video; try another file or format")
        # Asked once: the capture must not be asked while another thread reads from it.
        self._declared = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))

    @property
    def frame_count(self) -> int | None:
        """What the container says, or None when it does not say."""
        if self._declared <= 0:
            return None
        return self._declared if self._limit is None else min(self._declared, self._limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        declared = self.frame_count
        index = 0
        while self._limit is None or index < self._limit:
            done, picture = self._capture.read()
            if not done:
                break
            pixels = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
            yield Frame(index, self._clock_ns(), pixels, f"{self._path.name}#{index:06d}")
            index += 1
        if index == 0:
            raise CameraError(f"source {self._path}: no frame can be decoded; is it a whole video?")
        if declared is not None and index < declared:
            yield SkippedFrame(
                index,
                f"{self._path.name}#{index:06d}",
                f"the video ends after {index} of {declared} declared frames",
            )


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()),
        # The plain name last: a1 and a01 are the same number.
        key=lambda p: (_natural(p.name), p.name),
    )


def _nothing_in(folder: Path) -> str:
    inner = []
    # A folder that may not be entered is no hint.
    with contextlib.suppress(OSError):
        inner = sorted(p.name for p in folder.iterdir() if p.is_dir() and _images_in(p))
    if inner:
        return f"source {folder}: no image in it, but in its folder {inner[0]!r}; give that one"
    endings = " ".join(sorted(IMAGE_SUFFIXES))
    return f"source {folder}: no image in it; known endings: {endings}"


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name.lower())
    # isdecimal, as the pattern: superscript digits are digits that int() refuses.
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]
