"""The picture that a person at the microscope looks at, with the cells that were found in it.

Owns the newest frame as a small JPEG, made when somebody asks for it, and carrying the boxes of
the last examined field along with the film. Does not own frames (see ``shared_camera``), verdicts
(see ``film.gate``) nor who looks (see ``clinic.web``).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.cameras.device import shrink
from edge_runtime.film.gate import GateVerdict, shift_between, thumbnail
from edge_runtime.postprocess import encode_jpeg
from edge_runtime.types import FieldResult, Frame

Grey = NDArray[np.float32]

# Nobody has asked for so long: frames are not held for anyone.
_LOOKED_S = 3.0
# Frames between an examined one and its result, and some more.
_SEEN = 12
# Pictures are made at most so often, however many people look.
_LEAST_INTERVAL_S = 0.18
_QUALITY = 75


@dataclass(frozen=True, slots=True)
class PictureBox:
    """One found cell in a picture: corners in pixels of that picture."""

    box_xyxy: tuple[float, float, float, float]
    class_name: str
    score: float


@dataclass(frozen=True, slots=True)
class LivePicture:
    """The newest frame, small.

    Attributes:
        number: counts up; the same number is the same picture with the same boxes.
        jpeg: of ``width`` x ``height`` pixels.
        captured_at_ns: monotonic.
        boxes: of the last examined field, moved as the film has moved since; None while there is
            no such field, or it is no longer in view.
        field: index of that field.
    """

    number: int
    jpeg: bytes = field(repr=False)
    width: int
    height: int
    captured_at_ns: int
    boxes: tuple[PictureBox, ...] | None
    field: int | None


@dataclass(frozen=True, slots=True)
class Sight:
    """What the gate says of what is under the microscope.

    Attributes:
        verdict: on the newest frame; None without a gate.
        captured_at_ns: of that frame, monotonic.
        refused_s: for how long no frame has been good; 0 when the newest one is.
        frames: how many were seen.
        longer_side: of the frame, pixels.
    """

    verdict: GateVerdict | None
    captured_at_ns: int
    refused_s: float
    frames: int
    longer_side: int


class Viewfinder:
    """Takes every frame and every result; may be used from any thread."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[Frame], tuple[NDArray[np.uint8], bytes]] | None = None,
    ) -> None:
        self._clock = clock
        self._draw = draw or _drawn
        self._lock = threading.Lock()
        # Held while a picture is made, so that two who ask at once have it made once.
        self._drawing = threading.Lock()
        self._looked_at = float("-inf")
        self._numbers = 0
        self.clear()

    def clear(self) -> None:
        """Forgets everything that was seen: another film, or another camera."""
        with self._lock:
            self._frame: Frame | None = None
            self._sight: Sight | None = None
            self._good_ns: int | None = None
            self._result: FieldResult | None = None
            self._thumbnail: tuple[int, Grey] | None = None
            # Of the frames of late, by index, where the gate made them.
            self._seen: OrderedDict[int, Grey] = OrderedDict()
            self._picture: LivePicture | None = None
            self._key: tuple[int, int | None] | None = None
            self._made_at = float("-inf")

    @property
    def looked_at(self) -> float:
        """When somebody last asked for a picture, by the clock; minus infinity for never."""
        return self._looked_at

    def look(self) -> None:
        """Somebody looks."""
        self._looked_at = self._clock()

    def see(self, frame: Frame, verdict: GateVerdict | None) -> None:
        """Takes a frame of the camera; cheap, for it is called for every one."""
        with self._lock:
            seen = 0 if self._sight is None else self._sight.frames
            if verdict is None or verdict.good or self._good_ns is None:
                self._good_ns = frame.captured_at_ns
            refused_s = max(0.0, (frame.captured_at_ns - self._good_ns) / 1e9)
            longer = max(frame.width, frame.height)
            self._sight = Sight(verdict, frame.captured_at_ns, refused_s, seen + 1, longer)
            # A frame of a dozen megapixels is not kept for nobody.
            looked = self._clock() - self._looked_at <= _LOOKED_S
            self._frame = frame if looked else None
            if verdict is not None and verdict.thumbnail is not None:
                self._seen[frame.index] = verdict.thumbnail
                while len(self._seen) > _SEEN:
                    self._seen.popitem(last=False)

    def take(self, result: FieldResult) -> None:
        """Takes an examined field."""
        with self._lock:
            # Its crops and its full size are not looked at here.
            cells = tuple(replace(cell, crop_jpeg=b"") for cell in result.cells)
            self._result = replace(result, cells=cells, frame_jpeg=None)
            known = self._seen.get(result.index)
            if known is not None:
                self._thumbnail = (result.index, known)

    @property
    def sight(self) -> Sight | None:
        """What the gate said last; None before the first frame."""
        return self._sight

    def picture(self) -> LivePicture | None:
        """The newest frame as a picture; None before one was seen."""
        self.look()
        with self._drawing:
            with self._lock:
                frame, result, known = self._frame, self._result, self._picture
                now = None if frame is None else self._seen.get(frame.index)
                seen = 0 if self._sight is None else self._sight.frames
                key = (seen, None if result is None else result.index)
                late = self._clock() - self._made_at >= _LEAST_INTERVAL_S
            if frame is None or (known is not None and (key == self._key or not late)):
                return known
            small, jpeg = self._draw(frame)
            boxes = None if result is None else self._boxes(small, frame, now, result)
            with self._lock:
                if self._frame is None and self._sight is None:
                    # Cleared meanwhile: this picture is of another film.
                    return None
                self._numbers += 1
                self._picture = LivePicture(
                    self._numbers,
                    jpeg,
                    small.shape[1],
                    small.shape[0],
                    frame.captured_at_ns,
                    boxes,
                    None if result is None or boxes is None else result.index,
                )
                self._key, self._made_at = key, self._clock()
                return self._picture

    def _boxes(
        self, small: NDArray[np.uint8], frame: Frame, now: Grey | None, result: FieldResult
    ) -> tuple[PictureBox, ...] | None:
        """The field's boxes where its cells are in the newest frame; None when that is unknown."""
        scale = small.shape[1] / frame.width
        moved = (0.0, 0.0)
        if (result.width, result.height) != (frame.width, frame.height):
            return None
        if result.index != frame.index:
            known = self._thumbnail
            if known is None or known[0] != result.index:
                known = (result.index, _thumbnail_of_jpeg(result.preview_jpeg, small.shape))
                self._thumbnail = known
            if now is None or now.shape != known[1].shape:
                now = thumbnail(small)
            found = shift_between(known[1], now) if known[1].shape == now.shape else None
            if found is None:
                return None
            moved = (
                found[0] * small.shape[1] / now.shape[1],
                found[1] * small.shape[0] / now.shape[0],
            )
        return tuple(
            PictureBox(box, cell.class_name, cell.score)
            for cell in result.cells
            if _inside(box := _moved(cell.box_xyxy, scale, moved), small.shape)
        )


def _drawn(frame: Frame) -> tuple[NDArray[np.uint8], bytes]:
    small = shrink(frame.pixels, half=frame.half)
    return small, encode_jpeg(small, quality=_QUALITY)


def _thumbnail_of_jpeg(jpeg: bytes, like: tuple[int, ...]) -> Grey:
    # Half the size is read for a quarter of the work. OpenCV takes no empty buffer.
    content = np.frombuffer(jpeg or b"-", np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_REDUCED_COLOR_2)
    if picture is None:
        # Of no picture's shape, so that nothing is found again in it.
        return np.zeros((1, 1), np.float32)
    return thumbnail(np.asarray(picture, np.uint8), like)


def _moved(
    box: tuple[float, float, float, float], scale: float, by: tuple[float, float]
) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return (
        round(x1 * scale + by[0], 1),
        round(y1 * scale + by[1], 1),
        round(x2 * scale + by[0], 1),
        round(y2 * scale + by[1], 1),
    )


def _inside(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> bool:
    """Whether the middle of a box is in the picture."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return 0 <= x < shape[1] and 0 <= y < shape[0]
