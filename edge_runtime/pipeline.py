"""The one loop: camera, stages, sinks.

Owns overlap and order. Frames are read by a thread of their own,
examined by as many threads as the backend has streams, and handed on in their order to
the calling thread, which cuts and encodes crops and feeds the sinks. Does not own what
happens inside a stage (see ``examiner``), what the film's record counts (see ``film_record``), how
frames of a live camera stay young (see ``live_feed``), nor how anything is written.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from edge_runtime.attribute_head import AttributeHead
from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.cameras import Camera, LiveCamera, is_live
from edge_runtime.cameras.device import shrink
from edge_runtime.classifier import Classifier
from edge_runtime.domain_score import DomainScorer
from edge_runtime.errors import LeukoscopeError
from edge_runtime.examiner import Examination, Examiner
from edge_runtime.film_record import FilmRecord, FilmSetup
from edge_runtime.film_report import FilmReport, FilmState
from edge_runtime.live_feed import LiveFeed
from edge_runtime.live_record import live_record
from edge_runtime.postprocess import cut_crop, encode_jpeg
from edge_runtime.refused import RefusedFrames
from edge_runtime.sinks import Sink, settles
from edge_runtime.stages import Detector
from edge_runtime.types import (
    CellFinding,
    Detections,
    FieldResult,
    Float32Array,
    Frame,
    JudgedAttribute,
    RunState,
    RunStatus,
    SkippedFrame,
)

if TYPE_CHECKING:
    from edge_runtime.film.gate import GateVerdict
    from edge_runtime.film.guide import FilmGuide
    from edge_runtime.film.mosaic import MosaicUpdate

# Frames decoded ahead of the detector: enough to hide a slow file, few enough that a
# dozen megapixels each do not fill a small device's memory.
_READ_AHEAD = 2
_POLL_S = 0.1
_PROBABILITY_DECIMALS = 6  # float32 holds no more


@dataclass(frozen=True, slots=True)
class _Examined:
    frame: Frame
    examination: Examination
    read_s: float


class FilmRunner:
    """Runs one film from a camera to its sinks. Use an instance once.

    With a ``guide``, frames that its gate refuses are skipped with the reason, and where it puts
    fields together each cell of the film counts once. ``on_frame`` gets every frame of the camera,
    refused ones too, before it is examined; it is called by the thread that reads the camera, must
    be quick, and ends the film when it raises. Where fields are put together, ``every_frame`` says
    whether pictures are made of those that show nothing new as well.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        detector: Detector,
        attribute_head: AttributeHead | None = None,
        classifier: Classifier | None = None,
        domain: DomainScorer | None = None,
        streams: int,
        sinks: Sequence[Sink],
        setup: FilmSetup,
        on_status: Callable[[RunStatus], None] = lambda status: None,
        guide: FilmGuide | None = None,
        on_frame: Callable[[Frame, GateVerdict | None], None] | None = None,
        every_frame: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._camera = camera
        # Frames of other cameras wait on a disk; how long says nothing.
        self._live: LiveCamera | None = camera if is_live(camera) else None
        self._clock_ns = clock_ns
        self._started_ns = 0
        self._last_age_ms: float | None = None
        self._examiner = Examiner(
            detector,
            attribute_head=attribute_head,
            classifier=classifier,
            domain=domain,
            clock=clock,
        )
        self._streams = streams
        self._sinks = sinks
        self._setup = setup
        self._on_status = on_status
        self._guide = guide
        self._on_frame = on_frame
        self._every_frame = every_frame
        self._clock = clock
        self._now = now
        self._stop = threading.Event()
        # Apart from ``_stop``, which is a person's wish and must not be lost or invented.
        self._over = threading.Event()
        self._record = FilmRecord(setup)
        self._refused = RefusedFrames(clock)

    def stop(self) -> None:
        """Ends the film after the fields in hand; safe from a signal handler or thread."""
        self._stop.set()

    @property
    def stage_seconds(self) -> dict[str, list[float]]:
        """Time of every stage in every examined field so far, for those who measure."""
        return {stage: list(each) for stage, each in self._record.stage_seconds.items()}

    def run(self) -> FilmReport:
        """Runs until the camera ends or ``stop`` is called; returns the written report.

        Whatever goes wrong on the way, the sinks get a report of what was examined,
        marked interrupted, before the error goes on to the caller.

        Raises:
            LeukoscopeError: the camera or a sink failed.
        """
        started_at, started, self._started_ns = self._now(), self._clock(), self._clock_ns()
        for sink in self._sinks:
            sink.start()
        self._tell("starting", started)
        try:
            if self._live is None:
                self._loop(started)
            else:
                self._loop_live(self._live, started)
        except BaseException:
            self._finish("interrupted", started_at, started)
            self._tell("failed", started)
            raise
        state: FilmState = "interrupted" if self._stop.is_set() else "complete"
        report = self._finish(state, started_at, started)
        self._tell("interrupted" if state == "interrupted" else "finished", started)
        return report

    def _loop(self, started: float) -> None:
        frames: queue.Queue[tuple[Frame | SkippedFrame, float] | BaseException | None]
        frames = queue.Queue(maxsize=_READ_AHEAD)
        reader = threading.Thread(target=self._read, args=(frames,), name="reader", daemon=True)
        pending: deque[Future[_Examined] | SkippedFrame] = deque()
        failure: BaseException | None = None
        with ThreadPoolExecutor(self._streams, thread_name_prefix="detect") as pool:
            reader.start()
            try:
                open_end = True
                while open_end or pending:
                    while open_end and len(pending) <= self._streams:
                        item = frames.get()
                        if item is None:
                            open_end = False
                        elif isinstance(item, BaseException):
                            # Fields that were read before still belong to the film.
                            failure, open_end = item, False
                        elif isinstance(item[0], SkippedFrame):
                            pending.append(item[0])
                        else:
                            pending.append(pool.submit(self._examine, item[0], item[1]))
                    if pending:
                        self._take(pending.popleft())
                        self._tell("running", started)
                if failure is not None:
                    raise failure
            finally:
                for left in pending:
                    if isinstance(left, Future):
                        left.cancel()
                self._drain(frames, reader)

    def _loop_live(self, camera: LiveCamera, started: float) -> None:
        """The same for a camera that does not wait."""
        feed = LiveFeed(
            camera, self._examine, streams=self._streams, clock=self._clock, admit=self._admit
        )
        told_s: int | None = None
        with closing(feed.results(self._stop.is_set)) as results:
            for done in results:
                gap = camera.open_gap
                gap_s = None if gap is None else int(gap.seconds)
                self._skip(self._refused.due())
                if isinstance(done, SkippedFrame) and done.refusal is not None:
                    self._refused.add(done)
                elif done is not None:
                    self._skip(self._refused.all())
                    self._take(done)
                elif gap_s == told_s:
                    continue
                told_s = gap_s
                self._tell("running", started)

    def _read(self, frames: queue.Queue[Any]) -> None:
        """Reader thread: everything the camera gives, then None, or the camera's error."""
        try:
            iterator = iter(self._camera)
            while not self._ends():
                before = self._clock()
                item = next(iterator, None)
                if item is None:
                    break
                read_s = self._clock() - before
                if isinstance(item, Frame):
                    item = self._admit(item)
                self._put(frames, (item, read_s))
            self._put(frames, None, even_when_stopped=True)
        except BaseException as error:  # noqa: BLE001  it is raised again by the loop
            self._put(frames, error, even_when_stopped=True)

    def _admit(self, frame: Frame) -> Frame | SkippedFrame:
        """The frame, or why it is not worth examining; in the thread that reads the camera."""
        guide, verdict = self._guide, None
        if guide is not None:
            frame = guide.scaled(frame)
            verdict = guide.judge(frame)
        if self._on_frame is not None:
            self._on_frame(frame, verdict)
        if verdict is None or verdict.reason is None:
            return frame
        return SkippedFrame(frame.index, frame.name, verdict.reason, verdict.refusal)

    def _put(self, frames: queue.Queue[Any], item: Any, even_when_stopped: bool = False) -> None:
        while even_when_stopped or not self._ends():
            try:
                frames.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def _ends(self) -> bool:
        return self._stop.is_set() or self._over.is_set()

    def _drain(self, frames: queue.Queue[Any], reader: threading.Thread) -> None:
        """Lets a reader that waits for room go, so that no thread is left behind."""
        self._over.set()
        while reader.is_alive():
            try:
                frames.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def _examine(self, frame: Frame, read_s: float) -> _Examined:
        return _Examined(frame, self._examiner.examine(frame), read_s)

    def _take(self, done: Future[_Examined] | SkippedFrame) -> None:
        if isinstance(done, SkippedFrame):
            self._skip([done])
            return
        examined = done.result()
        frame, examination = examined.frame, examined.examination
        before = self._clock()
        cells = [self._finding(examination, row) for row in range(len(examination.detections))]
        cells, update = self._on_film(frame, examination, cells)
        placed = self._clock()
        result = self._show(frame, examination, cells, update)
        shown = self._clock()
        for sink in self._sinks:
            sink.append(result)
        seconds = {
            "read": examined.read_s,
            **examination.seconds,
            **({} if update is None else {"mosaic": placed - before}),
            "crop": shown - (before if update is None else placed),
            "write": self._clock() - shown,
        }
        self._last_age_ms = result.age_ms
        self._record.add(result, examination, seconds)
        if self._guide is not None:
            self._guide.note_domain(self._record.outside_domain)

    def _skip(self, entries: Sequence[SkippedFrame]) -> None:
        # All of them first: a sink that fails must not take the others' number from the report.
        for each in entries:
            self._record.skip(each)
        for each in entries:
            for sink in self._sinks:
                sink.skip(each)

    def _on_film(
        self, frame: Frame, examination: Examination, cells: list[CellFinding]
    ) -> tuple[list[CellFinding], MosaicUpdate | None]:
        """The cells with their places on the film, and what they changed there."""
        guide = self._guide
        if guide is None:
            return cells, None
        names = [cell.class_name for cell in cells]
        update = guide.take(frame, examination.detections, names)
        if update is None:
            return cells, None
        place = guide.place(frame.index)
        return [
            replace(
                cell,
                film_cell=guide.film_cell(frame.index, row),
                film_xy=None if place is None else _middle_on_film(cell, place),
                counts=guide.counts(frame.index, row),
            )
            for row, cell in enumerate(cells)
        ], update

    def _show(
        self,
        frame: Frame,
        examination: Examination,
        cells: list[CellFinding],
        update: MosaicUpdate | None,
    ) -> FieldResult:
        """Crops and preview, each cut once from the decoded frame."""
        settings = self._setup.settings
        preview, scale = b"", 1.0
        # A run without sinks measures or evaluates; nobody would see the pictures.
        if self._sinks:
            boxes = examination.detections.boxes_xyxy
            cells = [
                # A repeat that is no better than the look before it is not looked at.
                cell if cell.repeats else replace(cell, crop_jpeg=self._crop(frame, box))
                for cell, box in zip(cells, boxes, strict=True)
            ]
        shown = self._every_frame or _shows_something(cells, update)
        if self._sinks and shown:
            scale = min(1.0, settings.preview_side_px / max(frame.width, frame.height))
            small = shrink(frame.pixels, settings.preview_side_px, frame.half)
            preview = encode_jpeg(small, quality=settings.jpeg_quality)
        full = encode_jpeg(frame.pixels, quality=95) if settings.save_frames and shown else None
        age_ms = None
        if self._live is not None:
            age_ms = round((self._clock_ns() - frame.captured_at_ns) / 1e6, 3)
        return FieldResult(
            frame.index,
            frame.name,
            frame.width,
            frame.height,
            tuple(cells),
            preview,
            scale,
            examination.windows,
            full,
            age_ms,
            update,
            frame.pixel_size_um,
        )

    def _crop(self, frame: Frame, box: Float32Array) -> bytes:
        settings = self._setup.settings
        crop = cut_crop(
            frame.pixels, box, margin=settings.crop_margin, largest_side=settings.crop_side_px
        )
        return encode_jpeg(crop, quality=settings.jpeg_quality)

    def _finding(self, examination: Examination, row: int) -> CellFinding:
        """One cell in the words of the bundle, without its picture."""
        found, classes, setup = examination.detections, examination.classes, self._setup
        x1, y1, x2, y2 = (round(float(side), 2) for side in found.boxes_xyxy[row])
        name = setup.class_names[int(found.class_ids[row])]
        best = shares = attributes = None
        if classes is not None and setup.classifier is not None:
            best = setup.classifier.classes[int(classes.class_ids[row])]
            name = UNCLASSIFIED if classes.unclassified[row] else best
            shares = {
                each: round(float(share), _PROBABILITY_DECIMALS)
                for each, share in zip(
                    setup.classifier.classes, classes.probabilities[row], strict=True
                )
            }
        if setup.attribute_schema is not None:
            attributes = _judged(setup.attribute_schema, examination.detections, row)
        return CellFinding(
            (x1, y1, x2, y2),
            round(float(found.scores[row]), 4),
            name,
            b"",
            best_class=best,
            class_probability=None if best is None or shares is None else shares[best],
            class_probabilities=shares,
            attributes=attributes,
        )

    def _finish(self, state: FilmState, started_at: datetime, started: float) -> FilmReport:
        live = None
        if self._live is not None:
            live = live_record(self._live, self._record.ages_ms, started_ns=self._started_ns)
        failure: LeukoscopeError | None = None
        try:
            self._skip(self._refused.all())
        except LeukoscopeError as error:
            failure = error
        update = None if self._guide is None else self._guide.finish()
        guided = None if self._guide is None else self._guide.guided()
        report = self._record.report(state, started_at, self._clock() - started, live, guided)
        for sink in self._sinks:
            try:
                if update is not None and settles(sink):
                    sink.settle(update)
            except LeukoscopeError as error:
                failure = failure or error
            try:
                sink.finish(report)
            except LeukoscopeError as error:
                # The others may still save their part of the film.
                failure = failure or error
        if failure is not None:
            raise failure
        return report

    def _tell(self, state: RunState, started: float) -> None:
        record, live = self._record, self._live
        guidance = None if self._guide is None else self._guide.guidance()
        self._on_status(
            RunStatus(
                state=state,
                fields_done=record.fields_done,
                fields_skipped=record.fields_skipped + self._refused.frames,
                cells_found=record.cells_found if guidance is None else guidance.cells_counted,
                elapsed_s=self._clock() - started,
                fields_total=self._camera.frame_count,
                frame_age_ms=self._last_age_ms,
                frames_passed_over=0 if live is None else live.frames_passed_over,
                camera_gap=None if live is None else live.open_gap,
                guidance=guidance,
            )
        )


def _shows_something(cells: Sequence[CellFinding], update: MosaicUpdate | None) -> bool:
    """Whether a field has the best look at a cell, or shows what no other field shows."""
    return update is None or update.shows_new or any(cell.counts for cell in cells)


def _middle_on_film(cell: CellFinding, place: tuple[int, float, float]) -> tuple[float, float]:
    x1, y1, x2, y2 = cell.box_xyxy
    return round(place[1] + (x1 + x2) / 2, 2), round(place[2] + (y1 + y2) / 2, 2)


def _judged(
    schema: AttributeSchema, found: Detections, row: int
) -> dict[str, JudgedAttribute | None]:
    values, shares = found.attribute_values, found.attribute_probabilities
    judged: dict[str, JudgedAttribute | None] = {}
    for column, attribute in enumerate(schema.attributes):
        judged[attribute.name] = None
        if values is not None and shares is not None and values[row, column] != MISSING:
            judged[attribute.name] = JudgedAttribute(
                attribute.values[int(values[row, column])],
                round(float(shares[row, column]), _PROBABILITY_DECIMALS),
            )
    return judged
