"""One film at a time, a picture before and while it runs, and faults that are told and survived."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import cv2
import numpy as np
import pytest

from edge_runtime.clinic.live.session import LiveSession
from edge_runtime.clinic.live.view import LiveView
from edge_runtime.clinic.live.viewfinder import LivePicture, Viewfinder
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.errors import AccessError, BackendError, CameraError, RecordError, StoreError
from edge_runtime.film.gate import FieldGate
from edge_runtime.film_run import LoadedBundle
from edge_runtime.types import CellFinding, FieldResult, Frame, UInt8Image
from tests.clinic_browser import Seconds
from tests.clinic_films import Disk, People
from tests.edge_runtime.clinic_live.conftest import QUICK, SETTINGS
from tests.edge_runtime.film.painted_film import HIGH, WIDE
from tests.fake_cameras import camera_threads
from tests.painted_stage import Stage
from tests.support import paint_field

SLIDE = NewFilm("S-1")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    left = [each.name for each in threading.enumerate() if each.name in ("microscope", "reader")]
    assert not left
    assert not camera_threads()


def wait_for(
    session: LiveSession, done: Callable[[LiveView], bool], *, look: bool = False, s: float = 8.0
) -> LiveView:
    until = time.monotonic() + s
    while time.monotonic() < until:
        view = session.view()
        if done(view):
            return view
        if look:
            session.picture()
        time.sleep(0.02)
    raise AssertionError(f"not within {s} s: {session.view()}")


def has_fields(view: LiveView, at_least: int) -> bool:
    return view.status is not None and view.status.fields_done >= at_least


def cells(view: LiveView) -> int:
    return 0 if view.guidance is None else view.guidance.cells_counted


def test_who_looks_sees_the_field_before_a_film_begins(session: LiveSession, stage: Stage) -> None:
    assert session.view().phase == "idle"
    assert session.picture() is None
    assert stage.opened == 0 or stage.opened == 1
    view = wait_for(session, lambda view: view.sight is not None, look=True)
    assert view.headline.id == "live.say.ready"
    picture = wait_for_picture(session)
    assert (picture.width, picture.height) == (WIDE, HIGH)
    decoded = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    shown = decoded[:, :, ::-1].astype(float)
    assert np.abs(shown - stage.field()).mean() < 8
    assert picture.boxes is None
    assert view.focus is not None
    sharp = view.focus
    stage.blur_px = 5.0
    view = wait_for(session, lambda view: view.headline.id == "live.say.out_of_focus", look=True)
    assert view.focus is not None
    assert view.focus < 0.5 < sharp


def wait_for_picture(session: LiveSession) -> LivePicture:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        picture = session.picture()
        if picture is not None:
            return picture
        time.sleep(0.02)
    raise AssertionError("no picture")


def test_the_camera_is_closed_when_nobody_looks(session: LiveSession, stage: Stage) -> None:
    wait_for(session, lambda view: view.sight is not None, look=True)
    assert camera_threads()
    until = time.monotonic() + 5
    while camera_threads() and time.monotonic() < until:
        time.sleep(0.05)
    assert not camera_threads()
    assert session.view().sight is None
    wait_for(session, lambda view: view.sight is not None, look=True)
    assert stage.opened == 2


def test_a_film_from_start_to_stop(
    session: LiveSession, stage: Stage, store: ClinicStore, people: People
) -> None:
    wait_for(session, lambda view: view.sight is not None, look=True)
    film = session.start(NewFilm("S-7", "4711"), by=people.operator)
    view = session.view()
    assert (view.phase, view.film) == ("running", film)
    # The camera that showed the preview goes on; opening it anew would settle its light anew.
    assert stage.opened == 1
    wait_for(session, lambda view: cells(view) == 1)
    with pytest.raises(RecordError, match="already"):
        session.start(SLIDE, by=people.operator)
    for at in ((100, 40), (150, 40), (200, 40), (250, 40), (300, 40)):
        stage.at = at
        before = session.view().status
        assert before is not None
        fields = before.fields_done
        wait_for(session, partial(has_fields, at_least=fields + 3))
    view = wait_for(session, lambda view: cells(view) == 3)
    assert view.guidance is not None
    assert view.guidance.tally is not None
    assert view.guidance.tally.differential.total == 3
    assert view.headline.id == "live.say.counting"
    session.picture()
    session.stop(people.operator)
    assert session.wait(10)
    view = session.view()
    assert (view.phase, view.film, view.last_film) == ("idle", None, film)
    kept = store.films.get(film)
    assert (kept.state, kept.slide, kept.patient, kept.operator) == (
        "complete", "S-7", "4711", "Otto Operator",
    )  # fmt: skip
    assert view.status is not None
    assert kept.fields == view.status.fields_done
    # Another one, with the same camera.
    assert session.start(SLIDE, by=people.reviewer) == film + 1
    assert stage.opened == 1


def test_boxes_go_with_the_film(session: LiveSession, stage: Stage, people: People) -> None:
    stage.at = (120, 30)
    session.picture()
    session.start(SLIDE, by=people.operator)

    def box_middle(near: tuple[float, float]) -> None:
        until = time.monotonic() + 5
        seen = []
        while time.monotonic() < until:
            picture = session.picture()
            for each in [] if picture is None else picture.boxes or ():
                x = (each.box_xyxy[0] + each.box_xyxy[2]) / 2
                y = (each.box_xyxy[1] + each.box_xyxy[3]) / 2
                seen.append((x, y, each.class_name))
                if abs(x - near[0]) < 3 and abs(y - near[1]) < 3:
                    assert each.class_name == "violet"
                    return
            time.sleep(0.02)
        raise AssertionError(f"no box near {near}: {seen[-3:]}")

    box_middle((200 - 120, 120 - 30))
    # Out of focus nothing is examined; the boxes of the last examined field follow all the same.
    stage.blur_px = 4.0
    wait_for(
        session,
        lambda view: view.headline.id == "live.say.out_of_focus",
        look=True,
    )
    stage.at = (120 + 40, 30 + 12)
    box_middle((200 - 160, 120 - 42))
    # And still, however often they were looked for since.
    for _ in range(10):
        time.sleep(0.13)
        session.picture()
    stage.at = (120 - 30, 30 + 4)
    box_middle((200 - 90, 120 - 34))
    # A quite different place: nothing may be pointed at.
    stage.at = (560, 190)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        picture = session.picture()
        if picture is not None and not picture.boxes:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("boxes of a field that is no longer in view")


def test_who_may_not_examine_starts_and_stops_nothing(
    session: LiveSession, people: People, store: ClinicStore
) -> None:
    with pytest.raises(AccessError):
        session.start(SLIDE, by=people.admin)
    with pytest.raises(AccessError):
        session.stop(people.admin)
    with pytest.raises(RecordError, match="slide"):
        session.start(NewFilm(" "), by=people.operator)
    assert store.films.search() == []
    assert session.view().phase == "failed"
    assert session.start(SLIDE, by=people.operator) == 1


def test_a_camera_that_is_not_there_is_told_and_found_when_it_comes(
    session: LiveSession, stage: Stage, people: People, store: ClinicStore
) -> None:
    stage.plugged = False
    view = wait_for(session, lambda view: view.phase == "failed", look=True)
    assert view.error is not None
    assert "plug it in" in view.error
    assert view.headline.detail == view.error
    with pytest.raises(CameraError, match="plug it in"):
        session.start(SLIDE, by=people.operator)
    assert store.films.search() == []
    stage.plugged = True
    view = wait_for(session, lambda view: view.phase == "idle", look=True)
    assert view.error is None


def test_an_unplugged_camera_is_told_and_the_film_goes_on(
    session: LiveSession, stage: Stage, people: People, store: ClinicStore
) -> None:
    film = session.start(SLIDE, by=people.operator)
    wait_for(session, lambda view: cells(view) == 1)
    stage.plugged = False
    view = wait_for(session, lambda view: view.gap is not None)
    assert view.headline.id == "live.say.unplugged"
    assert view.headline.tone == "bad"
    assert view.headline.detail == "the cable was pulled"
    stage.plugged = True
    wait_for(session, lambda view: view.gap is None)
    status = session.view().status
    assert status is not None
    fields = status.fields_done
    wait_for(session, lambda view: view.status is not None and view.status.fields_done > fields)
    session.stop(people.operator)
    assert session.wait(5)
    report = store.films.header(film)
    assert report.live is not None
    (gap,) = report.live.gaps
    assert gap.reason == "the cable was pulled"


def test_stop_and_start_while_the_camera_is_gone(
    session: LiveSession, stage: Stage, people: People, store: ClinicStore
) -> None:
    film = session.start(SLIDE, by=people.operator)
    wait_for(session, lambda view: cells(view) == 1)
    stage.plugged = False
    wait_for(session, lambda view: view.gap is not None)
    session.stop(people.operator)
    assert session.wait(5)
    assert store.films.get(film).state == "complete"
    with pytest.raises(CameraError):
        session.start(SLIDE, by=people.operator)
    stage.plugged = True
    session.start(SLIDE, by=people.operator)


def test_a_camera_that_hangs_does_not_hold_up_the_end(
    session: LiveSession, stage: Stage, people: People, store: ClinicStore
) -> None:
    film = session.start(SLIDE, by=people.operator)
    wait_for(session, lambda view: cells(view) == 1)
    stage.hanging.clear()
    time.sleep(0.2)
    assert session.view().gap is None
    session.stop(people.operator)
    assert session.view().phase == "ending"
    assert session.wait(5)
    stage.hanging.set()
    assert store.films.get(film).state == "complete"


def test_a_preview_whose_camera_is_pulled_does_not_hold_up_a_film(
    session: LiveSession, stage: Stage, people: People
) -> None:
    wait_for(session, lambda view: view.sight is not None, look=True)
    stage.plugged = False
    view = wait_for(session, lambda view: view.gap is not None, look=True)
    assert view.headline.id == "live.say.unplugged"
    began = time.monotonic()
    with pytest.raises(CameraError):
        session.start(SLIDE, by=people.operator)
    assert time.monotonic() - began < 3


def test_a_full_disk_ends_the_film_and_not_the_session(
    session: LiveSession, disk: Disk, people: People, store: ClinicStore
) -> None:
    film = session.start(SLIDE, by=people.operator)
    wait_for(session, lambda view: cells(view) == 1)
    disk.bytes = 1_000_000
    view = wait_for(session, lambda view: view.phase == "failed")
    assert view.error is not None
    assert "free" in view.error
    assert view.last_film == film
    assert store.films.get(film).state == "interrupted"
    with pytest.raises(StoreError):
        session.start(SLIDE, by=people.operator)
    disk.bytes = 10**12
    assert session.start(SLIDE, by=people.operator) > film


def test_a_backend_that_fails_ends_the_film_and_not_the_session(
    session: LiveSession, people: People, store: ClinicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.stages import Detector

    film = session.start(SLIDE, by=people.operator)
    wait_for(session, lambda view: cells(view) == 1)

    def refuses(*_: object) -> None:
        raise BackendError("out of memory on the device; close other programs")

    with monkeypatch.context() as patched:
        patched.setattr(Detector, "examine", refuses)
        view = wait_for(session, lambda view: view.phase == "failed")
    assert view.error == "out of memory on the device; close other programs"
    assert store.films.get(film).state == "interrupted"
    assert session.start(SLIDE, by=people.operator) == film + 1


def test_a_fault_of_the_program_is_told_and_survived(
    session: LiveSession, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.stages import Detector

    session.start(SLIDE, by=people.operator)

    def breaks(*_: object) -> None:
        raise ZeroDivisionError("oh")

    with monkeypatch.context() as patched:
        patched.setattr(Detector, "examine", breaks)
        view = wait_for(session, lambda view: view.phase == "failed")
    assert view.error == "ZeroDivisionError: oh"
    session.start(SLIDE, by=people.operator)


def test_closing_ends_the_film_and_loses_nothing(
    session: LiveSession, people: People, store: ClinicStore
) -> None:
    film = session.start(SLIDE, by=people.operator)
    wait_for(session, lambda view: cells(view) == 1)
    session.close()
    kept = store.films.get(film)
    status = session.view().status
    assert status is not None
    assert (kept.state, kept.fields) == ("interrupted", status.fields_done)
    with pytest.raises(RecordError, match="ended"):
        session.start(SLIDE, by=people.operator)


def test_many_who_look_have_one_picture_made(stage: Stage) -> None:
    made: list[int] = []
    seconds = Seconds()

    def draw(frame: Frame) -> tuple[UInt8Image, bytes]:
        made.append(frame.index)
        return frame.pixels, b"jpeg"

    finder = Viewfinder(clock=seconds, draw=draw)
    assert finder.picture() is None
    finder.see(Frame(0, 0, stage.field(), "a"), None)
    numbers = {picture.number for _ in range(8) if (picture := finder.picture()) is not None}
    assert (numbers, made) == ({1}, [0])
    # However fast frames come, and however many look.
    finder.see(Frame(1, 1, stage.field(), "b"), None)
    finder.picture()
    assert made == [0]
    seconds.at += 1
    finder.picture()
    finder.picture()
    assert made == [0, 1]
    # For nobody nothing is made nor held.
    seconds.at += 10
    finder.see(Frame(2, 2, stage.field(), "c"), None)
    seconds.at += 1
    before = finder.picture()
    assert before is not None
    assert (before.number, made) == (2, [0, 1])
    finder.see(Frame(3, 3, stage.field(), "d"), None)
    finder.picture()
    assert made == [0, 1, 3]
    finder.clear()
    assert finder.picture() is None


def test_stored_pictures_are_opened_once_and_examined_from_the_first(
    store: ClinicStore, loaded: LoadedBundle, stage: Stage, people: People
) -> None:
    opened: list[str] = []

    class Stored:
        frame_count = 3

        def __enter__(self) -> Stored:
            return self

        def __exit__(self, *exc: object) -> None:
            """Nothing is held."""

        def __iter__(self) -> Iterator[Frame]:
            return (Frame(each, 0, stage.field(), f"f_{each}") for each in range(3))

    def open_source(source: str, *, limit: int | None = None) -> Stored:
        opened.append(source)
        return Stored()

    with LiveSession(
        store, loaded, SETTINGS, source="stored", pace=QUICK, open_source=open_source
    ) as session:
        view = wait_for(session, lambda view: not view.preview, look=True)
        assert view.headline.id == "live.say.no_preview"
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            session.picture()
            time.sleep(0.05)
        assert opened == ["stored"]
        film = session.start(SLIDE, by=people.operator)
        assert session.wait(10)
        # Separate pictures: each find counts, and the film is complete by itself.
        kept = store.films.get(film)
        assert (kept.state, kept.fields, kept.cells) == ("complete", 3, 3)
        assert session.view().preview is False


def test_a_preview_that_breaks_does_not_end_the_session(
    session: LiveSession, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.film.gate import FieldGate

    def breaks(*_: object) -> None:
        raise ZeroDivisionError("oh")

    with monkeypatch.context() as patched:
        patched.setattr(FieldGate, "judge", breaks)
        view = wait_for(session, lambda view: view.phase == "failed", look=True)
    assert view.error == "ZeroDivisionError: oh"
    wait_for(session, lambda view: view.phase == "idle" and view.sight is not None, look=True)
    session.start(SLIDE, by=people.operator)


def test_a_camera_that_cannot_be_closed_does_not_end_the_session(
    session: LiveSession, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.clinic.live.shared_camera import SharedCamera

    close = SharedCamera.close

    def breaks(camera: SharedCamera) -> None:
        close(camera)
        raise OSError("driver")

    monkeypatch.setattr(SharedCamera, "close", breaks)
    session.start(SLIDE, by=people.operator)
    session.stop(people.operator)
    assert session.wait(5)
    # Nobody looks, so the camera is closed after a while.
    time.sleep(1.5)
    session.start(SLIDE, by=people.operator)


def test_the_trail_tells_who_ended_a_film(
    session: LiveSession, people: People, store: ClinicStore
) -> None:
    film = session.start(SLIDE, by=people.operator)
    session.stop(people.reviewer)
    session.stop(people.reviewer)
    assert session.wait(5)
    told = [(x.action, x.user) for x in store.trail.of_film(film)]
    assert told.count(("film_stopped", people.reviewer.name)) == 1
    assert ("film_finished", None) in told


def test_a_loss_of_track_is_said_longer_than_one_field(
    session: LiveSession, stage: Stage, people: People
) -> None:
    session.start(SLIDE, by=people.operator)
    wait_for(session, lambda view: cells(view) == 1)
    stage.at = (560, 190)
    # The next field is the first of another part, and has its place there.
    wait_for(session, lambda view: view.guidance is not None and parts(view) == 2)
    time.sleep(0.5)
    view = session.view()
    assert view.guidance is not None
    assert view.guidance.lost is None
    assert view.headline.id == "live.say.lost"


def parts(view: LiveView) -> int:
    mosaic = None if view.guidance is None else view.guidance.mosaic
    return 0 if mosaic is None else mosaic.fragments


def test_boxes_follow_the_film_by_what_the_gate_saw() -> None:
    """Also those of a field of which no picture was made."""
    film = paint_field(400, 300, [(80, 90, 20), (210, 150, 24), (300, 90, 18)], seed=8)
    before, now = film[20:260, 20:340].copy(), film[26:266, 30:350].copy()
    gate = FieldGate(live=True)
    seconds = Seconds()
    finder = Viewfinder(clock=seconds, draw=lambda frame: (frame.pixels, b"jpeg"))
    finder.look()
    frames = [Frame(index, index, pixels, "f") for index, pixels in enumerate((before, now))]
    for frame in frames:
        finder.see(frame, gate.judge(frame))
    cell = CellFinding((50.0, 50.0, 90.0, 90.0), 0.9, "neutrophil", b"")
    finder.take(FieldResult(0, "f", 320, 240, (cell,), b"", 1.0, 1))
    picture = finder.picture()
    assert picture is not None
    assert picture.boxes is not None
    (box,) = picture.boxes
    assert box.box_xyxy == pytest.approx((40, 44, 80, 84), abs=1.0)
    # Nothing was seen of this one.
    finder.take(FieldResult(7, "f", 320, 240, (cell,), b"", 1.0, 1))
    finder.see(Frame(2, 2, now, "f"), gate.judge(frames[1]))
    seconds.at += 1
    lost = finder.picture()
    assert lost is not None
    assert lost.boxes is None
