"""A film from a live camera: young frames, told gaps, and an end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_runtime.cameras.device import CameraDevice, DeviceLost
from edge_runtime.cameras.paced import PacedDevice
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import StoreError
from edge_runtime.film.camera_profile import GateLimits
from edge_runtime.film.field_measures import FieldMeasures
from edge_runtime.film.gate import GateVerdict
from edge_runtime.film.guide import FilmGuide
from edge_runtime.film_report import FilmReport
from edge_runtime.live_feed import LiveFeed
from edge_runtime.pipeline import FilmRunner
from edge_runtime.types import CameraSession, Frame, RunStatus, SkippedFrame
from tests.edge_runtime.test_pipeline import FIELD, SETUP, FakeDetector, RecordingSink, raiser
from tests.fake_cameras import camera_threads

PERIOD_S = 0.005
QUICK = Patience(first_wait_s=0.05, longest_wait_s=0.05, poll_s=0.01)


class Cable(PacedDevice):
    """A paced device that may be pulled."""

    pulled = threading.Event()

    def grab(self) -> int:
        if self.pulled.is_set():
            raise DeviceLost("pulled")
        return super().grab()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    Cable.pulled.clear()
    yield
    assert not camera_threads()
    assert not [each for each in threading.enumerate() if each.name == "reader"]


def camera_of(limit: int | None = None) -> WatchedCamera:
    def opened(before: CameraSession | None) -> CameraDevice:
        if Cable.pulled.is_set():
            raise DeviceLost("pulled")
        return Cable([FIELD], 1 / PERIOD_S)

    return WatchedCamera(opened, source="cable", name="cable", limit=limit, patience=QUICK)


def runner_of(
    camera: WatchedCamera,
    *sinks: RecordingSink,
    detector: FakeDetector | None = None,
    streams: int = 1,
    on_status: Callable[[RunStatus], None] = lambda status: None,
) -> FilmRunner:
    return FilmRunner(
        camera=camera,
        detector=detector or FakeDetector(slowest_s=0.08),  # type: ignore[arg-type]
        streams=streams,
        sinks=sinks,
        setup=SETUP,
        on_status=on_status,
    )


@pytest.mark.parametrize("streams", [1, 3])
def test_fields_are_young_and_their_age_is_told_everywhere(streams: int) -> None:
    sink, statuses = RecordingSink(), list[RunStatus]()
    with camera_of(limit=12) as camera:
        report = runner_of(camera, sink, streams=streams, on_status=statuses.append).run()
    assert report.state == "complete"
    assert [result.index for result in sink.results] == list(range(12))
    ages = [result.age_ms for result in sink.results]
    assert [field.age_ms for field in report.fields] == ages
    told = [status.frame_age_ms for status in statuses if status.state == "running"]
    assert told == ages
    assert statuses[0].frame_age_ms is None
    live = report.live
    assert live is not None
    assert live.frame_age is not None
    known = [age for age in ages if age is not None]
    assert live.frame_age.p50_ms == pytest.approx(float(np.median(known)), abs=0.01)
    assert live.frame_age.most_ms == max(known)
    assert min(known) > 0
    # Forty periods or so pass while one field is examined.
    assert 12 < live.frames_passed_over <= statuses[-1].frames_passed_over
    assert live.gaps == []
    assert live.sessions[0].driver == "paced"
    assert FilmReport.model_validate(json.loads(report.model_dump_json())) == report


def test_the_film_goes_on_over_a_gap_and_tells_it() -> None:
    statuses: list[RunStatus] = []
    shown = threading.Event()

    def watch(status: RunStatus) -> None:
        statuses.append(status)
        if status.fields_done == 3 and status.camera_gap is None and not shown.is_set():
            shown.set()
            Cable.pulled.set()
            threading.Timer(0.4, Cable.pulled.clear).start()

    with camera_of(limit=8) as camera:
        report = runner_of(camera, RecordingSink(), on_status=watch).run()
    assert report.state == "complete"
    assert report.totals.fields == 8
    assert report.live is not None
    (gap,) = report.live.gaps
    assert gap.reason == "pulled"
    assert 0.3 < gap.seconds < 5
    assert 0 <= gap.at_s <= report.duration_s
    during = [status.camera_gap for status in statuses if status.camera_gap is not None]
    assert during
    assert during[0].reason == "pulled"
    assert statuses[-1].camera_gap is None


class _Gate:
    """Lets every fiftieth frame pass."""

    limits = GateLimits()

    def judge(self, frame: Frame) -> GateVerdict:
        measures = FieldMeasures(9.0, None, 1.0, 200.0, 0.0, 0.1, 90.0, 9.0)
        if frame.index % 50 == 0:
            return GateVerdict(None, None, measures, None)
        reason = f"out of focus (edges {frame.index} px): turn the fine focus"
        return GateVerdict("out of focus", reason, measures, None)


def test_refused_frames_in_a_row_are_one_entry_and_all_of_them_are_counted() -> None:
    sink, statuses = RecordingSink(), list[RunStatus]()
    with camera_of(limit=175) as camera:
        runner = FilmRunner(
            camera=camera,
            detector=FakeDetector(),  # type: ignore[arg-type]
            streams=1,
            sinks=[sink],
            setup=SETUP,
            on_status=statuses.append,
            guide=FilmGuide(gate=_Gate()),  # type: ignore[arg-type]
        )
        report = runner.run()
    assert report.gate is not None
    assert (report.totals.fields, report.totals.fields_skipped) == (4, 171)
    assert report.gate.refused == {"out of focus": 171}
    assert sum(each.frames for each in sink.skipped) == 171
    assert len(sink.skipped) < 12
    assert sum(each.frames for each in report.fields if each.skipped) == 171
    assert [each.index for each in report.fields] == sorted(each.index for each in report.fields)
    told = [each.fields_skipped for each in statuses]
    assert told == sorted(told)
    assert len(set(told)) > 50, "the page tells each at once"
    assert sink.reports == [report]


def test_stop_ends_a_film_whose_camera_is_gone() -> None:
    sink = RecordingSink()
    with camera_of() as camera:
        runner = runner_of(camera, sink)

        def pull_then_stop() -> None:
            while not sink.results:
                time.sleep(0.01)
            Cable.pulled.set()
            while camera.open_gap is None:
                time.sleep(0.01)
            runner.stop()

        threading.Thread(target=pull_then_stop).start()
        report = runner.run()
    assert report.state == "interrupted"
    assert report.totals.fields == len(sink.results) >= 1
    assert report.live is not None
    assert len(report.live.gaps) == 1


def test_a_sink_that_fails_ends_the_film_and_the_camera() -> None:
    sink = RecordingSink({"append": raiser(StoreError("full"))})
    with camera_of() as camera, pytest.raises(StoreError, match="full"):
        runner_of(camera, sink).run()
    (report,) = sink.reports
    assert report.state == "interrupted"


class AskedCamera:
    """A live camera that writes down when it is asked, and always has a frame."""

    live = True

    def __init__(self, frames: int) -> None:
        self.frames, self.asked = frames, 0

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        for index in range(self.frames):
            self.asked += 1
            yield SkippedFrame(0, "s", "torn") if index == 1 else Frame(index, 0, FIELD, str(index))

    def stop(self) -> None:
        """Ends by itself."""


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_no_frame_is_asked_for_that_would_have_to_wait(streams: int) -> None:
    camera, let_go = AskedCamera(20), threading.Semaphore(0)

    def examine(frame: Frame, waited_s: float) -> int:
        assert let_go.acquire(timeout=20)
        return frame.index

    feed = LiveFeed(camera, examine, streams=streams)  # type: ignore[arg-type]
    results = feed.results(lambda: False)

    def asked_settles_at(count: int) -> None:
        time.sleep(0.1)
        assert camera.asked == count

    first = next(each for each in results if each is not None)
    # The broken one beside those in work takes no worker.
    asked_settles_at(streams + (streams > 1))
    let_go.release()
    assert not isinstance(first, SkippedFrame)
    assert first.result(5) == 0
    # One more may be examined while the first result is in use, and no more.
    for _ in range(10):
        let_go.release()
    asked_settles_at(streams + 1)
    for _ in range(20):
        let_go.release()
    rest = [each for each in results if each is not None]
    assert len(rest) == 19
    assert camera.asked == 20
