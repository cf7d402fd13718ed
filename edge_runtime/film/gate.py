"""Which fields are worth looking at, and what to tell the operator of the others.

Owns the verdict and its words. Does not own the measures (see ``field_measures``) nor the limits
(see ``camera_profile``), and changes no picture. A refused field is a ``SkippedFrame`` with this
reason, never dropped in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.film.camera_profile import CameraProfile, GateLimits
from edge_runtime.film.field_measures import FieldMeasures, measure_field, shrunk_field
from edge_runtime.shrinking import resized
from edge_runtime.types import Frame

Refusal = Literal["too dark", "too bright", "empty field", "too thick", "in motion", "out of focus"]

_ADVICE: dict[Refusal, str] = {
    "too dark": "turn up the lamp or the exposure time",
    "too bright": "turn down the lamp or the exposure time",
    "empty field": "move on to the film",
    "too thick": "move to where red cells lie apart",
    "in motion": "hold the stage still",
    "out of focus": "turn the fine focus",
}
# Frames of a stage that is moved by hand come closer together than pictures of a folder.
_SAME_SCENE_NS = 500_000_000
_THUMBNAIL_WIDTH = 240
# Weaker peaks are those of two unrelated pictures.
_FOUND_AGAIN = 0.10


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Whether a field is good enough.

    Attributes:
        refusal: what is wrong with it; None when it is good.
        reason: the same with its number and what to do, for the operator; None when good.
        measures: what it was judged by.
        shift_share: how far the film moved since the frame before, of the longer side; None
            where that cannot be told.
        thumbnail: of the field, for ``shift_between``; None where nobody made one.
    """

    refusal: Refusal | None
    reason: str | None
    measures: FieldMeasures
    shift_share: float | None
    thumbnail: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    @property
    def good(self) -> bool:
        """Whether the field may be examined."""
        return self.refusal is None


class FieldGate:
    """Judges the frames of one camera, in their order; one instance per film.

    Args:
        profile: of the camera; None takes limits that suit no camera well.
        live: whether frames follow each other in time, so that motion between them tells
            something. Pictures of a folder do not.
    """

    def __init__(self, profile: CameraProfile | None = None, *, live: bool = False) -> None:
        self.limits = GateLimits() if profile is None else profile.limits
        self._pixel_size_um = None if profile is None else profile.pixel_size_um
        self._light = None if profile is None else profile.light_map()
        self._live = live
        self._before: tuple[int, NDArray[np.float32]] | None = None

    def judge(self, frame: Frame) -> GateVerdict:
        """The verdict on one frame."""
        shrunk = shrunk_field(frame.pixels, frame.half)
        measures = measure_field(
            frame.pixels,
            pixel_size_um=frame.pixel_size_um or self._pixel_size_um,
            light=self._light,
            shrunk=shrunk,
        )
        now = thumbnail(shrunk[0])
        shift = self._shift(now, frame.captured_at_ns) if self._live else None
        refusal, seen = judge_measures(
            measures, self.limits, max(frame.width, frame.height), shift_share=shift
        )
        reason = None if refusal is None else f"{refusal} ({seen}): {_ADVICE[refusal]}"
        return GateVerdict(refusal, reason, measures, shift, now)

    def _shift(self, now: NDArray[np.float32], captured_at_ns: int) -> float | None:
        """How far the film moved since the frame before, by phase correlation."""
        before, self._before = self._before, (captured_at_ns, now)
        if before is None or before[1].shape != now.shape:
            return None
        if not 0 <= captured_at_ns - before[0] <= _SAME_SCENE_NS:
            return None
        moved = shift_between(before[1], now)
        # Nothing found again within so short a time: moved farther than can be seen.
        return 1.0 if moved is None else float(np.hypot(*moved)) / max(now.shape)


def thumbnail(
    pixels: NDArray[np.uint8], like: tuple[int, ...] | None = None
) -> NDArray[np.float32]:
    """A picture as ``shift_between`` compares it: small, its green alone.

    Wide enough to find the film again after a move by half a field, for a millisecond or two.

    Args:
        pixels: uint8 ``(h, w, 3)``, or ``(h, w)``.
        like: shape of the picture whose proportions it takes; None for its own.

    Returns:
        float32 ``(at least 16, 240)``.
    """
    height, width = (pixels.shape if like is None else like)[:2]
    size = (_THUMBNAIL_WIDTH, max(16, round(_THUMBNAIL_WIDTH * height / width)))
    green = pixels if pixels.ndim == 2 else cv2.extractChannel(pixels, 1)
    return resized(np.asarray(green, np.uint8), *size).astype(np.float32)


def shift_between(
    before: NDArray[np.float32], now: NDArray[np.float32]
) -> tuple[float, float] | None:
    """How far a picture moved, right and down, in its pixels, by phase correlation.

    Args:
        before: float32 ``(h, w)``.
        now: the same, later.

    Returns:
        None when nothing of ``before`` is found again.
    """
    window = _faded((now.shape[1], now.shape[0]))
    # Copies, for OpenCV 5 multiplies its window into what it is given.
    (x, y), response = cv2.phaseCorrelate(before.copy(), now.copy(), window)
    return (float(x), float(y)) if response >= _FOUND_AGAIN else None


@lru_cache(maxsize=4)
def _faded(size: tuple[int, int]) -> NDArray[np.float32]:
    """A window that fades to the edges."""
    return np.asarray(cv2.createHanningWindow(size, cv2.CV_32F), np.float32)


def judge_measures(
    seen: FieldMeasures,
    limits: GateLimits,
    longer_side: int,
    *,
    shift_share: float | None = None,
) -> tuple[Refusal | None, str]:
    """The first thing that is wrong, and its number; None and nothing when all is well.

    Light comes first, since nothing else can be told without it.

    Args:
        seen: of the field.
        limits: of the camera.
        longer_side: of the field, pixels.
        shift_share: how far the film moved since the frame before, of the longer side.
    """
    if seen.light < limits.dark:
        return "too dark", f"light {seen.light:.0f}, at least {limits.dark:.0f}"
    if seen.light > limits.bright:
        return "too bright", f"light {seen.light:.0f}, at most {limits.bright:.0f}"
    if seen.clipped > limits.clipped:
        return "too bright", f"{seen.clipped:.0%} of it white, at most {limits.clipped:.0%}"
    if seen.stained < limits.stained_least:
        return "empty field", f"{seen.stained:.1%} stained, at least {limits.stained_least:.1%}"
    if seen.edge_slope < limits.slope_least:
        return "empty field", "no edges in it"
    if seen.stained > limits.stained_most:
        return "too thick", f"{seen.stained:.0%} stained, at most {limits.stained_most:.0%}"
    if shift_share is not None and shift_share > limits.shift_share:
        return (
            "in motion",
            f"moved {shift_share:.1%} of the field, at most {limits.shift_share:.1%}",
        )
    if seen.smear > limits.smear:
        return "in motion", f"smeared {seen.smear:.1f} to 1, at most {limits.smear:.1f}"
    if seen.blur_um is not None:
        if seen.blur_um > limits.blur_um:
            return "out of focus", f"edges {seen.blur_um:.2f} µm, at most {limits.blur_um:.2f}"
    elif seen.blur_px > limits.blur_share * longer_side:
        most = limits.blur_share * longer_side
        return "out of focus", f"edges {seen.blur_px:.1f} pixels, at most {most:.1f}"
    return None, ""
