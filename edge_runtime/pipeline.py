"""The one loop: camera, detector, sinks.

Owns overlap, order and the film's record. Frames are read by a thread of their own,
examined by as many threads as the backend has streams, and handed on in their order to
the calling thread, which cuts and encodes crops and feeds the sinks. Does not own what
happens inside a stage, nor how anything is written.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import cv2
import numpy as np

from edge_runtime.cameras import Camera
from edge_runtime.errors import LeukoscopeError
from edge_runtime.film_report import (
    BackendRecord,
    BundleRecord,
    CellRecord,
    FieldRecord,
    FilmReport,
    FilmState,
    ModelCardSummary,
    StageTiming,
    TotalsRecord,
)
from edge_runtime.postprocess import cut_crop, encode_jpeg
from edge_runtime.settings import Settings
from edge_runtime.sinks import Sink
from edge_runtime.stages import Detector, Examined
from edge_runtime.types import CellFinding, FieldResult, Frame, RunState, RunStatus, SkippedFrame

# Frames decoded ahead of the detector: enough to hide a slow file, few enough that a
# dozen megapixels each do not fill a small device's memory.
_READ_AHEAD = 2
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class FilmSetup:
    """What is known of a film before its first field."""

    source: str
    bundle: BundleRecord
    backend: BackendRecord
    model_card: ModelCardSummary
    class_names: tuple[str, ...]
    settings: Settings
    version: str


@dataclass
class _Record:
    fields: list[FieldRecord] = field(default_factory=list)
    cells: list[CellRecord] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    skipped: int = 0

    def time(self, stage: str, seconds: float) -> None:
        self.seconds.setdefault(stage, []).append(seconds)


@dataclass(frozen=True, slots=True)
class _Examination:
    frame: Frame
    examined: Examined
    read_s: float
    detect_s: float


class FilmRunner:
    """Runs one film from a camera to its sinks. Use an instance once."""

    def __init__(
        self,
        *,
        camera: Camera,
        detector: Detector,
        streams: int,
        sinks: Sequence[Sink],
        setup: FilmSetup,
        on_status: Callable[[RunStatus], None] = lambda status: None,
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._camera = camera
        self._detector = detector
        self._streams = streams
        self._sinks = sinks
        self._setup = setup
        self._on_status = on_status
        self._clock = clock
        self._now = now
        self._stop = threading.Event()
        # Apart from ``_stop``, which is a person's wish and must not be lost or invented.
        self._over = threading.Event()
        self._record = _Record()

    def stop(self) -> None:
        """Ends the film after the fields in hand; safe from a signal handler or thread."""
        self._stop.set()

    def run(self) -> FilmReport:
        """Runs until the camera ends or ``stop`` is called; returns the written report.

        Whatever goes wrong on the way, the sinks get a report of what was examined,
        marked interrupted, before the error goes on to the caller.

        Raises:
            LeukoscopeError: the camera or a sink failed.
        """
        started_at, started = self._now(), self._clock()
        for sink in self._sinks:
            sink.start()
        self._tell("starting", started)
        try:
            self._loop(started)
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
        pending: deque[Future[_Examination] | SkippedFrame] = deque()
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

    def _read(self, frames: queue.Queue[Any]) -> None:
        """Reader thread: everything the camera gives, then None, or the camera's error."""
        try:
            iterator = iter(self._camera)
            while not self._ends():
                before = self._clock()
                item = next(iterator, None)
                if item is None:
                    break
                self._put(frames, (item, self._clock() - before))
            self._put(frames, None, even_when_stopped=True)
        except BaseException as error:  # noqa: BLE001  it is raised again by the loop
            self._put(frames, error, even_when_stopped=True)

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

    def _examine(self, frame: Frame, read_s: float) -> _Examination:
        before = self._clock()
        examined = self._detector.examine(frame)
        return _Examination(frame, examined, read_s, self._clock() - before)

    def _take(self, done: Future[_Examination] | SkippedFrame) -> None:
        if isinstance(done, SkippedFrame):
            self._record.skipped += 1
            self._record.fields.append(
                FieldRecord(
                    index=done.index,
                    name=done.name,
                    width=None,
                    height=None,
                    skipped=True,
                    reason=done.reason,
                    cells=0,
                    tiles=0,
                )
            )
            for sink in self._sinks:
                sink.skip(done)
            return
        examination = done.result()
        before = self._clock()
        result = self._show(examination)
        shown = self._clock()
        for sink in self._sinks:
            sink.append(result)
        record = self._record
        record.time("read", examination.read_s)
        record.time("detect", examination.detect_s)
        record.time("crop", shown - before)
        record.time("write", self._clock() - shown)
        record.fields.append(
            FieldRecord(
                index=result.index,
                name=result.name,
                width=result.width,
                height=result.height,
                skipped=False,
                reason=None,
                cells=len(result.cells),
                tiles=result.tiles,
            )
        )
        record.cells += [
            CellRecord(
                field=result.index,
                box_xyxy=cell.box_xyxy,
                score=cell.score,
                class_name=cell.class_name,
            )
            for cell in result.cells
        ]

    def _show(self, examination: _Examination) -> FieldResult:
        """Crops and preview, each cut once from the decoded frame."""
        frame, found = examination.frame, examination.examined.detections
        settings, names = self._setup.settings, self._setup.class_names
        if not self._sinks:
            # A run without sinks measures or evaluates; nobody would see the pictures.
            crops, preview, scale = [b""] * len(found), b"", 1.0
        else:
            crops = [
                encode_jpeg(
                    cut_crop(
                        frame.pixels,
                        box,
                        margin=settings.crop_margin,
                        largest_side=settings.crop_side_px,
                    ),
                    quality=settings.jpeg_quality,
                )
                for box in found.boxes_xyxy
            ]
            scale = min(1.0, settings.preview_side_px / max(frame.width, frame.height))
            small = frame.pixels
            if scale < 1:
                size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
                small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)
            preview = encode_jpeg(small, quality=settings.jpeg_quality)
        cells = tuple(
            CellFinding(
                (
                    round(float(box[0]), 2),
                    round(float(box[1]), 2),
                    round(float(box[2]), 2),
                    round(float(box[3]), 2),
                ),
                round(float(score), 4),
                names[int(class_id)],
                crop,
            )
            for box, score, class_id, crop in zip(
                found.boxes_xyxy, found.scores, found.class_ids, crops, strict=True
            )
        )
        full = encode_jpeg(frame.pixels, quality=95) if settings.save_frames else None
        return FieldResult(
            frame.index,
            frame.name,
            frame.width,
            frame.height,
            cells,
            preview,
            scale,
            examination.examined.windows,
            full,
        )

    def _finish(self, state: FilmState, started_at: datetime, started: float) -> FilmReport:
        record, setup = self._record, self._setup
        by_class = Counter(dict.fromkeys(setup.class_names, 0))
        by_class.update(cell.class_name for cell in record.cells)
        report = FilmReport(
            state=state,
            source=setup.source,
            started_at=started_at.astimezone().isoformat(timespec="seconds"),
            duration_s=round(self._clock() - started, 3),
            leukoscope_version=setup.version,
            bundle=setup.bundle,
            backend=setup.backend,
            model_card=setup.model_card,
            settings=setup.settings.model_dump(mode="json"),
            fields=record.fields,
            cells=record.cells,
            totals=TotalsRecord(
                fields=len(record.fields) - record.skipped,
                fields_skipped=record.skipped,
                cells=len(record.cells),
                cells_by_class=dict(by_class),
            ),
            timings=[_timing(stage, values) for stage, values in record.seconds.items()],
        )
        failure: LeukoscopeError | None = None
        for sink in self._sinks:
            try:
                sink.finish(report)
            except LeukoscopeError as error:
                # The others may still save their part of the film.
                failure = failure or error
        if failure is not None:
            raise failure
        return report

    def _tell(self, state: RunState, started: float) -> None:
        record = self._record
        self._on_status(
            RunStatus(
                state=state,
                fields_done=len(record.fields) - record.skipped,
                fields_skipped=record.skipped,
                cells_found=len(record.cells),
                elapsed_s=self._clock() - started,
                fields_total=self._camera.frame_count,
            )
        )


def _timing(stage: str, seconds: list[float]) -> StageTiming:
    p50, p95, p99 = np.percentile(np.array(seconds) * 1000, [50, 95, 99])
    return StageTiming(
        stage=stage,
        count=len(seconds),
        p50_ms=round(float(p50), 3),
        p95_ms=round(float(p95), 3),
        p99_ms=round(float(p99), 3),
    )
