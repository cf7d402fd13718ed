"""The few values that travel between camera, stages, runner and sinks.

Owns frozen in-memory types and their shape checks. Does not own the written report
(see ``film_report``) nor anything a bundle declares (see ``bundle``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edge_runtime.film.guide import Guidance
    from edge_runtime.film.mosaic import MosaicUpdate

UInt8Image = NDArray[np.uint8]
Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

RunState = Literal["starting", "running", "finished", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one field.

    Attributes:
        index: running number within the film, from 0.
        captured_at_ns: monotonic capture time in ns.
        pixels: RGB uint8, shape ``(H, W, 3)``.
        name: file name, or another word by which a person finds the field again.
        pixel_size_um: µm per pixel on the film, or None when unknown.
    """

    index: int
    captured_at_ns: int
    pixels: UInt8Image
    name: str
    pixel_size_um: float | None = None
    _half: list[UInt8Image] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(
                f"frame {self.name!r}: pixels must be RGB uint8 (H, W, 3), "
                f"got {self.pixels.dtype} {self.pixels.shape}"
            )

    @property
    def height(self) -> int:
        """Rows in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns in pixels."""
        return int(self.pixels.shape[1])

    def half(self) -> UInt8Image:
        """The picture at half the size, made once for all who want it smaller."""
        if not self._half:
            from edge_runtime.shrinking import halved

            self._half.append(halved(self.pixels))
        return self._half[0]


@dataclass(frozen=True, slots=True)
class SkippedFrame:
    """A field that could not be looked at, and why.

    Attributes:
        refusal: what was wrong in the gate's own few words; None where no gate refused it.
        frames: how many frames in a row it stands for, the first of which this is.
    """

    index: int
    name: str
    reason: str
    refusal: str | None = None
    frames: int = 1


@dataclass(frozen=True, slots=True)
class CameraGap:
    """A time in which a live camera gave no picture.

    Attributes:
        at_ns: monotonic time of the last sign of life before it, in ns.
        seconds: until the next picture was captured; so far, while there is none yet.
        reason: why, in one line.
    """

    at_ns: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class CameraSession:
    """What a live camera really was set to, once it was opened.

    Attributes:
        driver: row of the table of cameras.
        device: as the system or a person names it.
        width, height: of the pictures, in pixels.
        pixel_format: as it comes from the device, e.g. ``MJPG``.
        fps: as the device states it; None when it does not.
        exposure_ms: None when unknown, as are the next three.
        gain: in the device's own units.
        white_balance_k: colour temperature in K.
        colour_gains: of red and blue.
        locked: of ``exposure``, ``gain``, ``white_balance`` and ``focus``, those that stay as they
            are.
        not_locked: the others, with the reason.
        clock: what tells when a picture was captured: ``driver``, ``sensor``, or ``arrival``
            (it then looks younger than it is, by the time it took to come).
    """

    driver: str
    device: str
    width: int
    height: int
    pixel_format: str
    fps: float | None
    exposure_ms: float | None
    gain: float | None
    white_balance_k: float | None
    colour_gains: tuple[float, float] | None
    locked: tuple[str, ...]
    not_locked: Mapping[str, str]
    clock: Literal["driver", "sensor", "arrival"]


@dataclass(frozen=True, slots=True)
class Detections:
    """N cells found in one frame.

    Attributes:
        boxes_xyxy: float32 ``(N, 4)``, frame pixels, x1 < x2 and y1 < y2.
        scores: float32 ``(N,)`` in [0, 1].
        class_ids: int64 ``(N,)``, index into the detector's class list.
        attribute_values: int64 ``(N, A)``, value indices by the schema, -1 where not judged;
            None when no attribute head looked.
        attribute_probabilities: float32 ``(N, A)``, of those values, 0 where not judged.
    """

    boxes_xyxy: Float32Array
    scores: Float32Array
    class_ids: Int64Array
    attribute_values: Int64Array | None = None
    attribute_probabilities: Float32Array | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes_xyxy.shape != (n, 4) or self.class_ids.shape != (n,):
            raise ValueError(
                f"detections disagree: boxes {self.boxes_xyxy.shape}, "
                f"scores {self.scores.shape}, classes {self.class_ids.shape}"
            )
        values, shares = self.attribute_values, self.attribute_probabilities
        if values is None and shares is None:
            return
        if values is None or shares is None or len(values) != n or values.shape != shares.shape:
            raise ValueError(
                f"detections disagree: {n} scores, attribute values "
                f"{None if values is None else values.shape}, their probabilities "
                f"{None if shares is None else shares.shape}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """No cells."""
        return cls(
            np.zeros((0, 4), np.float32), np.zeros((0,), np.float32), np.zeros((0,), np.int64)
        )

    def select(self, mask: NDArray[np.bool_] | Int64Array) -> Detections:
        """The rows that ``mask`` (boolean or index array) picks, in its order."""
        values, shares = self.attribute_values, self.attribute_probabilities
        return Detections(
            self.boxes_xyxy[mask],
            self.scores[mask],
            self.class_ids[mask],
            None if values is None else values[mask],
            None if shares is None else shares[mask],
        )

    @classmethod
    def joined(cls, parts: Sequence[Detections]) -> Detections:
        """All rows of all parts; what only some parts have judged is not judged in the others."""
        widths = {p.attribute_values.shape[1] for p in parts if p.attribute_values is not None}
        values = shares = None
        if widths:
            (width,) = widths
            values = np.concatenate([_or_filled(p.attribute_values, p, width, -1) for p in parts])
            shares = np.concatenate(
                [_or_filled(p.attribute_probabilities, p, width, np.float32(0)) for p in parts]
            )
        return cls(
            np.concatenate([part.boxes_xyxy for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.class_ids for part in parts]),
            values,
            shares,
        )


def _or_filled(given: NDArray[Any] | None, part: Detections, width: int, fill: Any) -> NDArray[Any]:
    return np.full((len(part), width), fill) if given is None else given


@dataclass(frozen=True, slots=True)
class JudgedAttribute:
    """What the attribute head says of one attribute of one cell."""

    value: str
    probability: float


@dataclass(frozen=True, slots=True)
class CellFinding:
    """One found cell as a person will see it.

    Attributes:
        box_xyxy: corners in frame pixels.
        class_name: the classifier's class, or ``bundle.UNCLASSIFIED`` where it was not sure;
            the detector's class when there is no classifier.
        crop_jpeg: JPEG bytes of the cell with a margin, cut from the original pixels.
        best_class: the most probable class, also of an unclassified cell; None without a
            classifier, as are the next two.
        class_probability: of ``best_class``.
        class_probabilities: by class, in the classifier's order.
        attributes: by name, in the schema's order, None where not judged; None without an
            attribute head.
        film_cell: id of the film's cell that this shows; None where fields are not put together,
            and while the place of its field is not known. Fragments that are tied together later
            may show that it is another one.
        film_xy: middle of the box in film coordinates, frame pixels; None as above.
        counts: it stands for its cell, or nothing is put together; else it is a repeat, or nobody
            knows yet what it is, and only a better look or a later field may make it count.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float
    class_name: str
    crop_jpeg: bytes = field(repr=False)
    best_class: str | None = None
    class_probability: float | None = None
    class_probabilities: Mapping[str, float] | None = None
    attributes: Mapping[str, JudgedAttribute | None] | None = None
    film_cell: int | None = None
    film_xy: tuple[float, float] | None = None
    counts: bool = True

    @property
    def repeats(self) -> bool:
        """It shows a cell of the film again and no better, and will never stand for it."""
        return self.film_cell is not None and not self.counts


@dataclass(frozen=True, slots=True)
class FieldResult:
    """Everything about one examined field that sinks may keep.

    Attributes:
        preview_jpeg: the whole field, shrunk for looking at; empty where nobody looks at it, and
            of one that shows nothing new in a run that makes no pictures of such.
        preview_scale: preview pixels per frame pixel.
        frame_jpeg: the field at full size, only when the run saves frames.
        age_ms: from capture to this result; None when the camera is not live.
        mosaic: what this field changed on the film, also of earlier finds: a row of a sighting is
            a place in ``cells`` of its field; None where fields are not put together.
        pixel_size_um: µm per frame pixel; None when unknown.
    """

    index: int
    name: str
    width: int
    height: int
    cells: tuple[CellFinding, ...]
    preview_jpeg: bytes = field(repr=False)
    preview_scale: float
    tiles: int
    frame_jpeg: bytes | None = field(default=None, repr=False)
    age_ms: float | None = None
    mosaic: MosaicUpdate | None = None
    pixel_size_um: float | None = None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a film stands; emitted by the runner after every field.

    Attributes:
        frame_age_ms: of the last field, from capture to result; None when the camera is not live.
        frames_passed_over: pictures of a live camera that were not examined, because newer ones
            had come.
        camera_gap: the gap that a live camera is in; None while pictures come. It is emitted
            when a gap begins, and about every second while it lasts.
        guidance: for the person at the microscope; None where nobody is guided. ``cells_found``
            then counts each cell once.
    """

    state: RunState
    fields_done: int
    fields_skipped: int
    cells_found: int
    elapsed_s: float
    fields_total: int | None = None
    frame_age_ms: float | None = None
    frames_passed_over: int = 0
    camera_gap: CameraGap | None = None
    guidance: Guidance | None = None

    @property
    def fields_per_s(self) -> float:
        """Examined fields per second since the start."""
        return self.fields_done / self.elapsed_s if self.elapsed_s > 0 else 0.0
