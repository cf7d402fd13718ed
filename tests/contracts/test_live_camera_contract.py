"""What every live camera must keep, whatever stands behind it: youth, gaps, and an end.

The common contract (``test_camera_contract``) holds for them too and runs there.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.cameras import CAMERAS, LiveCamera, is_live
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import CameraError
from edge_runtime.types import Frame, SkippedFrame
from tests.contracts.live_sources import LIVE_SOURCES, LiveSource, written
from tests.fake_cameras import PERIOD_S, Hardware, camera_threads

QUICK = Patience(
    hang_s=0.4,
    open_s=5.0,
    first_wait_s=0.02,
    longest_wait_s=0.1,
    steady_s=0.5,
    poll_s=0.02,
    still_s=5.0,
)
# The machine may do something else for so long; a queue of pictures would grow far beyond.
HICCUP_S = 0.15


@pytest.fixture(params=LIVE_SOURCES, ids=lambda made: made.name)
def made(request: pytest.FixtureRequest) -> LiveSource:
    source: LiveSource = request.param
    return source


@pytest.fixture
def hardware(made: LiveSource, plug_in: Callable[[LiveSource], Hardware]) -> Hardware:
    return plug_in(made)


@pytest.fixture
def camera(made: LiveSource, hardware: Hardware, tmp_path: Path) -> Iterator[WatchedCamera]:
    module = next(row for row in CAMERAS if row.name == made.name).load()
    camera = module.open_camera(written(made, tmp_path), patience=QUICK)  # type: ignore[call-arg]
    assert isinstance(camera, WatchedCamera)
    yield camera
    assert _soon(lambda: not camera_threads()), "a thread was left behind"


def _soon(what: Callable[[], bool], within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def _frames(items: Iterator[Frame | SkippedFrame], count: int) -> list[Frame]:
    taken = itertools.islice(items, count)
    return [item for item in taken if isinstance(item, Frame)]


def _needs_cable(made: LiveSource) -> None:
    if not made.has_cable:
        pytest.skip("it has no cable to pull")


def test_every_live_row_is_here() -> None:
    assert {made.name for made in LIVE_SOURCES} == {row.name for row in CAMERAS if row.live}


def test_it_says_what_it_is_and_what_it_is_set_to(camera: WatchedCamera, made: LiveSource) -> None:
    assert is_live(camera)
    assert camera.frame_count is None
    with camera:
        (session,) = camera.sessions
        (frame,) = _frames(iter(camera), 1)
    assert session.driver == made.name
    assert (frame.width, frame.height) == (session.width, session.height)
    assert set(session.locked).isdisjoint(session.not_locked)
    assert {"exposure", "gain", "white_balance"} <= {*session.locked, *session.not_locked}
    assert camera.gaps == ()


def test_a_slow_reader_gets_new_pictures(camera: WatchedCamera) -> None:
    with camera:
        ages = _slowly(camera, 9, pause_s=12 * PERIOD_S)
        passed_over = camera.frames_passed_over
    assert len(ages) == 9
    # The first ones teach the reader when to expect the next demand.
    assert statistics.median(ages) < 4 * PERIOD_S + 0.02
    assert max(ages) < HICCUP_S
    assert passed_over > 8


def _slowly(camera: LiveCamera, count: int, pause_s: float) -> list[float]:
    """Ages in seconds of frames at the moment in which they are handed over."""
    ages = []
    for frame in itertools.islice(camera, count):
        assert isinstance(frame, Frame)
        ages.append((time.monotonic_ns() - frame.captured_at_ns) / 1e9)
        time.sleep(pause_s)
    return ages


def test_stop_ends_an_iteration_that_waits(camera: WatchedCamera, hardware: Hardware) -> None:
    with camera:
        items = iter(camera)
        assert next(items) is not None
        hardware.hanging = True
        threading.Timer(0.1, camera.stop).start()
        before = time.monotonic()
        assert all(isinstance(item, Frame) for item in items)
        assert time.monotonic() - before < 2
        hardware.hanging = False


def _once_missed(camera: WatchedCamera, mend: Callable[[], object]) -> None:
    """Mends the hardware some time after the camera was missed, however busy the machine is."""

    def wait() -> None:
        _soon(lambda: camera.open_gap is not None)
        time.sleep(0.3)
        mend()

    threading.Thread(target=wait, daemon=True).start()


def test_unplugged_and_plugged_in_again(
    camera: WatchedCamera, hardware: Hardware, made: LiveSource
) -> None:
    _needs_cable(made)
    with camera:
        items = iter(camera)
        before = _frames(items, 3)
        hardware.plugged = False
        pulled_ns = time.monotonic_ns()
        _once_missed(camera, lambda: setattr(hardware, "plugged", True))
        after = _frames(items, 6)
        (gap,) = camera.gaps
        assert camera.open_gap is None
    assert [frame.index for frame in before + after] == list(range(9))
    # One picture may have been on its way, and a busy machine may look late.
    assert -HICCUP_S < (gap.at_ns - pulled_ns) / 1e9 < 2
    assert 0.25 < gap.seconds < 10
    assert gap.reason
    assert "\n" not in gap.reason
    assert hardware.opened == 2
    times = [frame.captured_at_ns for frame in before + after]
    assert times == sorted(times)


def test_a_gap_that_lasts_is_told(
    camera: WatchedCamera, hardware: Hardware, made: LiveSource
) -> None:
    _needs_cable(made)
    with camera:
        items = iter(camera)
        next(items)
        hardware.plugged = False
        waiting = threading.Thread(target=lambda: list(items))
        waiting.start()
        assert _soon(lambda: camera.open_gap is not None)
        first = camera.open_gap
        assert _soon(lambda: camera.open_gap is not None and camera.open_gap.seconds > 0.1)
        assert first is not None
        assert camera.gaps[0].at_ns == first.at_ns
        with pytest.raises(CameraError):
            camera.preview()
        camera.stop()
        waiting.join(2)
        assert not waiting.is_alive()
        assert len(camera.gaps) == 1


def test_a_camera_that_hangs_is_opened_again(
    camera: WatchedCamera, hardware: Hardware, made: LiveSource
) -> None:
    _needs_cable(made)
    with camera:
        items = iter(camera)
        _frames(items, 2)
        hardware.hanging = True
        _once_missed(camera, lambda: setattr(hardware, "hanging", False))
        after = _frames(items, 4)
        (gap,) = camera.gaps
    assert len(after) == 4
    assert gap.seconds > 0.25
    # Opened while it still hangs, it may be lost again within the same gap.
    assert hardware.opened >= 2


def test_broken_pictures_are_skipped_with_a_reason(
    camera: WatchedCamera, hardware: Hardware, made: LiveSource
) -> None:
    _needs_cable(made)
    with camera:
        items = iter(camera)
        _frames(items, 1)
        hardware.break_next(3)
        # Some of the broken ones may never be decoded.
        later = list(itertools.islice(items, 8))
        assert camera.gaps == ()
    skipped = [item for item in later if isinstance(item, SkippedFrame)]
    assert 1 <= len(skipped) <= 3
    assert all(item.reason and "\n" not in item.reason for item in skipped)
    assert [item.index for item in later] == list(range(1, 9))


def test_pictures_that_stay_broken_are_a_lost_camera(
    camera: WatchedCamera, hardware: Hardware, made: LiveSource
) -> None:
    _needs_cable(made)
    with camera:
        items = iter(camera)
        _frames(items, 1)
        hardware.break_next(10**6)
        threading.Timer(0.5, hardware.break_next, (0,)).start()
        for item in items:
            if isinstance(item, Frame) and camera.gaps:
                break
        (gap,) = camera.gaps
    assert "broken" in gap.reason
    assert hardware.opened >= 2


def test_a_camera_that_is_not_there_is_refused_in_one_line(
    camera: WatchedCamera, hardware: Hardware, made: LiveSource
) -> None:
    _needs_cable(made)
    hardware.plugged = False
    with pytest.raises(CameraError) as told, camera:
        pass
    assert "\n" not in str(told.value)


def test_the_light_stays_when_it_is_opened_again(
    camera: WatchedCamera, hardware: Hardware, made: LiveSource
) -> None:
    if not made.settles:
        pytest.skip("its light is set by the source, or not at all")
    with camera:
        items = iter(camera)
        _frames(items, 2)
        # The technician has moved to a darker place; the automatic would choose another.
        hardware.light = 30.0
        hardware.plugged = False
        threading.Timer(0.1, setattr, (hardware, "plugged", True)).start()
        _frames(items, 3)
        sessions = camera.sessions
    assert len(sessions) == 1
    assert sessions[0].exposure_ms == pytest.approx(12.5)
    assert {"exposure", "gain", "white_balance"} <= set(sessions[0].locked)


def test_still_and_preview_beside_the_stream(camera: WatchedCamera, made: LiveSource) -> None:
    with camera:
        items = iter(camera)
        _frames(items, 1)
        still = camera.still()
        preview = camera.preview()
        (session,) = camera.sessions
        after = _frames(items, 3)
    assert (still.width, still.height) == (made.still or (session.width, session.height))
    assert max(preview.shape) <= 800
    assert preview.shape[2] == 3
    # Without the padding that some hardware puts beside it.
    assert preview.shape[1] / preview.shape[0] == pytest.approx(
        session.width / session.height, rel=0.02
    )
    for pixels in (still.pixels, preview):
        red, _, blue = pixels.reshape(-1, 3).mean(axis=0)
        assert red > blue
    assert {(frame.width, frame.height) for frame in after} == {(session.width, session.height)}
    assert len(after) == 3
