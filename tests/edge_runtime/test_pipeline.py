"""The runner: order, partial films, errors from every side, and nothing left behind."""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from typing_extensions import Self

from edge_runtime.bundle import Bundle
from edge_runtime.cameras import Camera
from edge_runtime.errors import BackendError, CameraError, StoreError
from edge_runtime.film_record import FilmSetup
from edge_runtime.film_report import BackendRecord, BundleRecord, FilmReport, ModelCardSummary
from edge_runtime.film_run import film_runner, load_bundle
from edge_runtime.pipeline import FilmRunner
from edge_runtime.settings import Settings
from edge_runtime.stages import Detector, Examined
from edge_runtime.types import Detections, FieldResult, Frame, RunStatus, SkippedFrame
from tests.support import paint_field

FIELD = paint_field(80, 64, [(30, 30, 20)])
SETUP = FilmSetup(
    source="fake",
    bundle=BundleRecord(id="toy-0.1.0", sha256="0" * 64),
    backend=BackendRecord(
        name="fake", version="0", device="CPU", precision="float32", artifact="a", threads=1
    ),
    model_card=ModelCardSummary(title="t", summary="s", limits=[], licence="l", metrics={}),
    class_names=("wbc", "blast"),
    settings=Settings(),
    version="0",
)

Step = Callable[[int], Any]


class FakeCamera:
    """Gives ``frames`` frames; ``at`` maps an index to what happens instead or before it."""

    def __init__(
        self, frames: int | None, at: dict[int, Step] | None = None, *, delay_s: float = 0.0
    ) -> None:
        self.frames, self.at, self.delay_s = frames, at or {}, delay_s
        self.given = 0

    @property
    def frame_count(self) -> int | None:
        return self.frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        for index in itertools.count():
            if self.frames is not None and index >= self.frames:
                return
            time.sleep(self.delay_s)
            item = self.at[index](index) if index in self.at else None
            self.given = index + 1
            yield item or Frame(index, time.monotonic_ns(), FIELD.copy(), f"field_{index}")


class FakeDetector:
    """One cell per field whose box tells the field's index; takes random time."""

    def __init__(self, at: dict[int, Step] | None = None, *, slowest_s: float = 0.0) -> None:
        self.at, self.slowest_s = at or {}, slowest_s
        self.random = random.Random(1)
        self.seen: list[int] = []

    def examine(self, frame: Frame, describe: object = None, watch: object = None) -> Examined:
        self.seen.append(frame.index)
        time.sleep(self.random.uniform(0, self.slowest_s))
        if frame.index in self.at:
            self.at[frame.index](frame.index)
        box = np.array([[frame.index % 50, 2, frame.index % 50 + 10, 12]], np.float32)
        found = Detections(box, np.array([0.9], np.float32), np.array([frame.index % 2]))
        return Examined(found, 1)


@dataclass
class RecordingSink:
    """Keeps what it is told, and raises where it is told to."""

    at: dict[str, Callable[[], None]] = field(default_factory=dict)
    started: int = 0
    results: list[FieldResult] = field(default_factory=list)
    skipped: list[SkippedFrame] = field(default_factory=list)
    reports: list[FilmReport] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def _called(self, name: str) -> None:
        self.threads.add(threading.current_thread().name)
        self.at.get(name, lambda: None)()

    def start(self) -> None:
        self.started += 1
        self._called("start")

    def append(self, result: FieldResult) -> None:
        self._called("append")
        self.results.append(result)

    def skip(self, skipped: SkippedFrame) -> None:
        self._called("skip")
        self.skipped.append(skipped)

    def finish(self, report: FilmReport) -> None:
        self.reports.append(report)
        self._called("finish")


def raiser(error: BaseException) -> Callable[..., None]:
    def raise_it(*_: object) -> None:
        raise error

    return raise_it


def runner_of(
    camera: FakeCamera,
    detector: FakeDetector | None = None,
    *sinks: RecordingSink,
    streams: int = 2,
    setup: FilmSetup = SETUP,
    on_status: Callable[[RunStatus], None] = lambda status: None,
) -> FilmRunner:
    return FilmRunner(
        camera=cast(Camera, camera),
        detector=cast(Detector, detector or FakeDetector()),
        streams=streams,
        sinks=sinks,
        setup=setup,
        on_status=on_status,
    )


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Holds for every test here: after a run, however it ended, its threads are gone."""
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not left


def consistent(report: FilmReport) -> None:
    """Totals, fields and cells of a report tell the same."""
    examined = [record for record in report.fields if not record.skipped]
    assert report.totals.fields == len(examined)
    assert report.totals.fields_skipped == len(report.fields) - len(examined)
    assert report.totals.cells == len(report.cells) == sum(r.cells for r in report.fields)
    assert sum(report.totals.cells_by_class.values()) == report.totals.cells
    assert {cell.field for cell in report.cells} <= {record.index for record in examined}
    for stage in report.timings:
        assert stage.count == len(examined)
        assert 0 <= stage.p50_ms <= stage.p95_ms <= stage.p99_ms


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_fields_keep_their_order_whatever_each_one_takes(streams: int) -> None:
    sinks = [RecordingSink(), RecordingSink()]
    detector = FakeDetector(slowest_s=0.004)
    report = runner_of(FakeCamera(40), detector, *sinks, streams=streams).run()
    assert report.state == "complete"
    consistent(report)
    assert [record.index for record in report.fields] == list(range(40))
    assert [cell.field for cell in report.cells] == list(range(40))
    assert sorted(detector.seen) == list(range(40))
    for sink in sinks:
        assert [result.index for result in sink.results] == list(range(40))
        assert sink.reports == [report]
        assert sink.started == 1
        # Sinks need no lock: one thread speaks to them, and it is the caller's.
        assert sink.threads == {threading.current_thread().name}
    # Each field carries its own cell, not a neighbour's.
    for result in sinks[0].results:
        (cell,) = result.cells
        assert cell.box_xyxy[0] == result.index % 50
        assert cell.class_name == ("wbc", "blast")[result.index % 2]
        assert cell.crop_jpeg.startswith(b"\xff\xd8")
        assert result.preview_jpeg.startswith(b"\xff\xd8")
        assert result.frame_jpeg is None


def test_several_fields_are_examined_at_once() -> None:
    """Two streams must meet inside the detector, or the barrier breaks."""
    barrier = threading.Barrier(2, timeout=5)
    meet = {index: lambda _: barrier.wait() for index in range(6)}
    assert runner_of(FakeCamera(6), FakeDetector(meet)).run().totals.fields == 6


def test_reading_goes_on_while_a_field_is_examined() -> None:
    camera = FakeCamera(4)

    def wait_for_the_next(index: int) -> None:
        deadline = time.monotonic() + 5
        while camera.given < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert camera.given >= 2

    report = runner_of(camera, FakeDetector({0: wait_for_the_next}), streams=1).run()
    assert report.totals.fields == 4


@pytest.mark.parametrize("streams", [1, 3])
def test_few_fields_are_in_memory_at_once(streams: int) -> None:
    """A slow sink behind a fast camera: the camera has to wait."""
    camera = FakeCamera(60)
    most = 0

    class SlowSink(RecordingSink):
        def append(self, result: FieldResult) -> None:
            nonlocal most
            time.sleep(0.002)
            most = max(most, camera.given - result.index)
            super().append(result)

    runner_of(camera, None, SlowSink(), streams=streams).run()
    # Two read ahead, one in the reader's hand, one per stream, one being written.
    assert most <= 2 + 1 + (streams + 1) + 1


def test_skipped_fields_stand_in_their_place() -> None:
    at: dict[int, Step] = {
        index: lambda i: SkippedFrame(i, f"field_{i}", f"reason {i}") for index in (0, 3, 4, 9)
    }
    sink = RecordingSink()
    report = runner_of(FakeCamera(10, at), FakeDetector(slowest_s=0.003), sink).run()
    consistent(report)
    assert [record.index for record in report.fields] == list(range(10))
    skipped = {record.index: record for record in report.fields if record.skipped}
    assert sorted(skipped) == [0, 3, 4, 9]
    for index, record in skipped.items():
        assert record.reason == f"reason {index}"
        assert (record.width, record.height, record.cells, record.tiles) == (None, None, 0, 0)
    assert [item.index for item in sink.skipped] == [0, 3, 4, 9]
    assert [result.index for result in sink.results] == [1, 2, 5, 6, 7, 8]
    assert report.totals.fields_skipped == 4


def test_a_film_of_skipped_fields_only_is_a_film() -> None:
    at: dict[int, Step] = {i: lambda i: SkippedFrame(i, "f", "r") for i in range(5)}
    report = runner_of(FakeCamera(5, at), None, RecordingSink()).run()
    assert (report.state, report.totals.fields, report.timings) == ("complete", 0, [])


@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_camera_that_fails_leaves_a_partial_report(place: int) -> None:
    """Every field read before the failure is in it, though others were still being examined."""
    error = CameraError("camera fake: cable out; plug it in")
    sink, states = RecordingSink(), list[str]()
    runner = runner_of(
        FakeCamera(20, {place: raiser(error)}),
        FakeDetector(slowest_s=0.01),
        sink,
        streams=3,
        on_status=lambda status: states.append(status.state),
    )
    with pytest.raises(CameraError, match="cable out"):
        runner.run()
    (report,) = sink.reports
    consistent(report)
    assert report.state == "interrupted"
    assert [record.index for record in report.fields] == list(range(place))
    assert [result.index for result in sink.results] == list(range(place))
    assert states[-1] == "failed"


def test_a_camera_that_cannot_even_start_leaves_an_empty_report() -> None:
    class Broken(FakeCamera):
        def __iter__(self) -> Iterator[Frame | SkippedFrame]:
            raise CameraError("camera fake: gone")

    sink = RecordingSink()
    with pytest.raises(CameraError, match="gone"):
        runner_of(Broken(3), None, sink).run()
    assert sink.reports[0].fields == []


def test_a_backend_that_fails_leaves_a_partial_report() -> None:
    sink = RecordingSink()
    detector = FakeDetector({4: raiser(BackendError("toy fails"))}, slowest_s=0.003)
    with pytest.raises(BackendError, match="toy fails"):
        runner_of(FakeCamera(None), detector, sink).run()
    (report,) = sink.reports
    consistent(report)
    assert report.state == "interrupted"
    assert [record.index for record in report.fields] == [0, 1, 2, 3]


def test_a_sink_that_cannot_start_ends_the_film_before_its_first_field() -> None:
    camera, detector = FakeCamera(5), FakeDetector()
    sink = RecordingSink({"start": raiser(StoreError("no room"))})
    with pytest.raises(StoreError, match="no room"):
        runner_of(camera, detector, sink).run()
    assert camera.given == 0
    assert not detector.seen
    assert not sink.reports


def test_a_sink_that_fails_on_the_way_leaves_a_partial_report_to_the_others() -> None:
    good = RecordingSink()
    calls = itertools.count()

    def fail_at_the_third() -> None:
        if next(calls) == 2:
            raise StoreError("disk full")

    bad = RecordingSink({"append": fail_at_the_third})
    with pytest.raises(StoreError, match="disk full"):
        runner_of(FakeCamera(None), None, good, bad).run()
    assert len(good.reports) == 1
    assert good.reports[0].state == "interrupted"
    consistent(good.reports[0])
    assert [record.index for record in good.reports[0].fields] == [0, 1]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_sink_that_cannot_finish_does_not_keep_the_others_from_it(position: int) -> None:
    sinks = [RecordingSink() for _ in range(3)]
    sinks[position].at["finish"] = raiser(StoreError("disk full"))
    with pytest.raises(StoreError, match="disk full"):
        runner_of(FakeCamera(3), None, *sinks).run()
    assert all(len(sink.reports) == 1 for sink in sinks)


def test_stop_ends_the_film_with_the_fields_in_hand() -> None:
    sink = RecordingSink()
    camera = FakeCamera(None)
    states: list[RunStatus] = []

    def stop_after_seven(status: RunStatus) -> None:
        states.append(status)
        if status.fields_done == 7:
            runner.stop()

    runner = runner_of(camera, FakeDetector(slowest_s=0.003), sink, on_status=stop_after_seven)
    report = runner.run()
    consistent(report)
    assert report.state == "interrupted"
    assert sink.reports == [report]
    done = [record.index for record in report.fields]
    assert done == list(range(len(done)))
    # Those read ahead may still come; the camera is not asked for more.
    assert 7 <= len(done) <= 7 + 2 + 3
    assert [result.index for result in sink.results] == done
    assert states[-1].state == "interrupted"


def test_stop_from_another_thread_while_the_camera_is_slow() -> None:
    runner = runner_of(FakeCamera(None, delay_s=0.02), None, RecordingSink())
    timer = threading.Timer(0.15, runner.stop)
    timer.start()
    report = runner.run()
    timer.join()
    assert report.state == "interrupted"
    assert report.totals.fields >= 1


def test_stop_before_the_start_gives_an_empty_partial_report() -> None:
    sink = RecordingSink()
    runner = runner_of(FakeCamera(None), None, sink)
    runner.stop()
    assert runner.run().state == "interrupted"
    assert len(sink.reports) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_even_what_no_one_expects_leaves_a_partial_report(error: BaseException) -> None:
    sink = RecordingSink()
    with pytest.raises(type(error)):
        runner_of(FakeCamera(None), FakeDetector({3: raiser(error)}), sink).run()
    assert sink.reports[0].state == "interrupted"
    assert len(sink.reports[0].fields) == 3


@pytest.mark.parametrize("total", [12, None])
def test_status_only_moves_forward(total: int | None) -> None:
    statuses: list[RunStatus] = []
    camera = FakeCamera(12, {5: lambda i: SkippedFrame(i, "f", "r")})
    if total is None:
        camera.frames = None
        camera.at[12] = raiser(CameraError("end"))
    runner = runner_of(camera, None, RecordingSink(), on_status=statuses.append)
    if total is None:
        with pytest.raises(CameraError):
            runner.run()
    else:
        runner.run()
    assert statuses[0].state == "starting"
    assert {status.state for status in statuses[1:-1]} == {"running"}
    assert statuses[-1].state == ("failed" if total is None else "finished")
    for before, after in itertools.pairwise(statuses):
        assert after.fields_done >= before.fields_done
        assert after.fields_skipped >= before.fields_skipped
        assert after.cells_found >= before.cells_found
        assert after.elapsed_s >= before.elapsed_s
    # One after every field, plus the first and the last.
    assert len(statuses) == 12 + 2
    assert (statuses[-1].fields_done, statuses[-1].fields_skipped) == (11, 1)
    assert {status.fields_total for status in statuses} == {total}


def test_timings_tell_every_stage() -> None:
    def slow(_: int) -> None:
        time.sleep(0.012)

    report = runner_of(
        FakeCamera(6, delay_s=0.01), FakeDetector(dict.fromkeys(range(6), slow)), RecordingSink()
    ).run()
    timings = {stage.stage: stage for stage in report.timings}
    assert list(timings) == ["read", "detect", "crop", "write"]
    assert timings["read"].p50_ms >= 10
    assert timings["detect"].p50_ms >= 12
    assert timings["crop"].p50_ms > 0
    assert report.duration_s >= 0.06


def test_saved_frames_are_the_whole_field() -> None:
    setup = dataclasses.replace(SETUP, settings=Settings(save_frames=True, preview_side_px=64))
    sink = RecordingSink()
    runner_of(FakeCamera(1), None, sink, setup=setup).run()
    (result,) = sink.results
    assert result.frame_jpeg is not None
    assert result.preview_scale == 64 / 80
    assert (result.width, result.height) == (80, 64)


def test_a_real_model_over_a_film(toy_bundle: Bundle) -> None:
    """Through the wiring that the command line uses, with a real backend."""
    places = [(40.0 + 9 * i, 50.0) for i in range(5)]

    class Painted(FakeCamera):
        def __iter__(self) -> Iterator[Frame | SkippedFrame]:
            for index, (x, y) in enumerate(places):
                yield Frame(index, 0, paint_field(160, 120, [(x, y, 24)]), f"f{index}")

    settings = Settings(threads=2, score=0.45)
    sink = RecordingSink()
    with load_bundle(toy_bundle, settings) as loaded:
        camera = cast(Camera, Painted(5))
        report = film_runner(
            loaded, camera, source="painted", settings=settings, sinks=[sink]
        ).run()
    consistent(report)
    assert report.totals.cells == 5
    for cell, (x, y) in zip(report.cells, places, strict=True):
        x1, y1, x2, y2 = cell.box_xyxy
        assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((x, y), abs=2)
    # What was in force, not what was left open.
    assert report.settings["score"] == 0.45
    assert report.settings["threads"] == 2
    assert (report.backend.name, report.backend.precision) == ("onnxruntime", "float32")
    assert report.bundle.sha256 == toy_bundle.sha256
