"""Frames from disk: a folder of images, one image, or a video file.

Owns the order of fields and the check of every file. Does not own decoding rules
(see ``image_file``).
"""

from __future__ import annotations

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
    path = Path(source).expanduser()
    if path.is_dir():
        images = sorted(
            (p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()),
            key=lambda p: _natural(p.name),
        )
        if not images:
            raise CameraError(_nothing_in(path))
        return FolderCamera(images[:limit])
    if path.is_file():
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

    @property
    def frame_count(self) -> int | None:
        """What the container says, or None when it does not say."""
        declared = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) if self._capture else 0
        if declared <= 0:
            return self._limit
        return declared if self._limit is None else min(declared, self._limit)

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


def _nothing_in(folder: Path) -> str:
    inner = sorted(
        p.name
        for p in folder.iterdir()
        if p.is_dir() and any(q.suffix.lower() in IMAGE_SUFFIXES for q in p.iterdir())
    )
    if inner:
        return f"source {folder}: no image in it, but in its folder {inner[0]!r}; give that one"
    endings = " ".join(sorted(IMAGE_SUFFIXES))
    return f"source {folder}: no image in it; known endings: {endings}"


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
