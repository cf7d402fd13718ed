"""The session at the microscope: the preview, and one film at a time.

Owns the thread that has the camera, when the camera is open, and what becomes of faults. Does not
own the film's loop (see ``edge_runtime.pipeline``), the store (see ``clinic.store``) nor the page.

The camera is opened when somebody looks or a film starts, stays open over the films that follow,
and is closed when nobody has looked for a while: a microscope that stands unused costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from types import TracebackType

from typing_extensions import Self

from edge_runtime.cameras import Camera, open_camera
from edge_runtime.clinic.live.shared_camera import FilmFeed, OpenSource, SharedCamera
from edge_runtime.clinic.live.view import LiveView, Phase
from edge_runtime.clinic.live.viewfinder import LivePicture, Viewfinder
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User
from edge_runtime.errors import CameraError, LeukoscopeError, RecordError
from edge_runtime.film.camera_profile import CameraProfile, GateLimits
from edge_runtime.film.gate import FieldGate
from edge_runtime.film_report import FilmReport
from edge_runtime.film_run import LoadedBundle, film_guide, film_runner, film_setup
from edge_runtime.pipeline import FilmRunner
from edge_runtime.settings import Settings
from edge_runtime.types import FieldResult, Frame, RunStatus, SkippedFrame

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is done for those who look, and for how long.

    Attributes:
        preview_fps: pictures a second while no film runs: enough to focus by.
        looks_s: who asked for a picture within this is still looking.
        close_s: without a look, before the camera is closed.
        retry_s: before a camera that could not be opened is tried again.
        poll_s: how soon a film that is to start gets hold of a camera that is gone.
        lost_s: for how long a loss of track is said at least.
    """

    preview_fps: float = 6.0
    looks_s: float = 3.0
    close_s: float = 20.0
    retry_s: float = 3.0
    poll_s: float = 0.1
    lost_s: float = 3.0


@dataclass
class _Order:
    """A film that a person wants."""

    film: NewFilm
    source: str
    by: User
    number: Future[int] = field(default_factory=Future)


class LiveSession:
    """One microscope. A context manager: leaving it ends a film as interrupted.

    All methods may be called from any thread.

    Args:
        store: open as long as the session is.
        loaded: what examines; open as long as the session is.
        settings: of a run. Threshold and confidence of the screening, and whether fields are kept
            at full size, are the store's.
        source: of the pictures.
        profile: of the camera; None takes limits that suit no camera well.
        open_source: opens a source.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        store: ClinicStore,
        loaded: LoadedBundle,
        settings: Settings,
        *,
        source: str,
        profile: CameraProfile | None = None,
        pace: Pace | None = None,
        open_source: OpenSource = open_camera,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self._store = store
        self._loaded = loaded
        self._settings = settings
        self._profile = profile
        self._limits = GateLimits() if profile is None else profile.limits
        self._pace = pace or Pace()
        self._open_source = open_source
        self._clock = clock
        self._viewfinder = Viewfinder(clock=clock)
        self._changed = threading.Condition()
        self._closing = False
        self._phase: Phase = "idle"
        self._error: str | None = None
        self._order: _Order | None = None
        self._runner: FilmRunner | None = None
        self._feed: Camera | None = None
        self._film: int | None = None
        self._last_film: int | None = None
        self._status: RunStatus | None = None
        self._lost: tuple[str, float] | None = None
        self._camera: SharedCamera | None = None
        self._gate: FieldGate | None = None
        self._shows_preview = True
        self._camera_failed = False
        self._retry_at = float("-inf")
        self._threshold_percent = 100 * settings.blast_threshold
        self._thread = threading.Thread(target=self._run, name="microscope", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, film: NewFilm, *, by: User, source: str | None = None) -> int:
        """Begins a film; gives its number once the store has it.

        Args:
            film: what a person says of it.
            by: who examines.
            source: other pictures than the session's.

        Raises:
            AccessError: ``by`` may not examine.
            RecordError: a film runs already, or the slide is not named.
            CameraError: the camera is not there.
            StoreError: the film cannot be written.
        """
        require(by, "examine")
        order = _Order(film, source or self.source, by)
        with self._changed:
            if self._closing:
                raise RecordError("the live session has ended; start `leukoscope serve` again")
            if self._order is not None:
                raise RecordError("a film is being examined already; end it first")
            self._order, self._phase, self._error = order, "starting", None
            self._film, self._status, self._camera_failed = None, None, False
            self._lost = None
            self._changed.notify_all()
        while True:
            try:
                return order.number.result(self._pace.poll_s)
            except FutureTimeout:
                if order.number.done():
                    raise
                self._let_go_of_a_lost_camera()

    def stop(self, by: User) -> None:
        """Ends the film that runs, after the fields in hand; harmless when none runs.

        With a live camera, which has no end of its own, the film is then complete. Of other
        sources there is more to see, so it is interrupted.

        Raises:
            AccessError: ``by`` may not examine.
            StoreError: it ends, but the audit trail cannot be written.
        """
        require(by, "examine")
        with self._changed:
            film = self._film if self._phase == "running" else None
        self._end_film(complete=True)
        if film is not None:
            # Afterwards: a store that cannot be written must not keep the film from ending.
            self._store.films.note_stop(film, by)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until no film runs; False when it still does."""
        with self._changed:
            return self._changed.wait_for(lambda: self._order is None, timeout_s)

    def close(self) -> None:
        """Ends the film that runs as interrupted, and gives the camera back."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._end_film(complete=False)
        while self._thread.is_alive():
            self._let_go_of_a_lost_camera()
            self._thread.join(self._pace.poll_s)

    def view(self) -> LiveView:
        """Where it stands."""
        with self._changed:
            camera = self._camera
            return LiveView(
                phase=self._phase,
                source=self.source,
                film=self._film,
                last_film=self._last_film,
                status=self._status,
                sight=None if camera is None else self._viewfinder.sight,
                limits=self._limits,
                gap=None if camera is None else camera.open_gap,
                error=self._error,
                preview=self._shows_preview,
                threshold_percent=self._threshold_percent,
                lost=self._lost_lately(),
            )

    def picture(self) -> LivePicture | None:
        """The newest frame as a picture, with the cells of the last examined field in it.

        Asking is looking: the camera is opened for whoever looks. None before the first frame.
        """
        looked_before = self._viewfinder.looked_at
        picture = self._viewfinder.picture()
        if self._clock() - looked_before > self._pace.looks_s:
            with self._changed:
                self._changed.notify_all()
        return picture

    def _let_go_of_a_lost_camera(self) -> None:
        """The preview waits for a camera that is gone, and would wait on; a film's feed may."""
        camera = self._camera
        if camera is not None and self._runner is None:
            camera.let_go()

    def _end_film(self, *, complete: bool) -> None:
        with self._changed:
            if self._order is not None and self._phase == "running":
                self._phase = "ending"
            runner, feed = self._runner, self._feed
        if complete and isinstance(feed, FilmFeed):
            feed.stop()
        elif runner is not None:
            runner.stop()

    # The rest runs in the session's own thread.

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    order = self._order
                    if self._closing and order is None:
                        return
                if order is not None:
                    self._examine(order)
                elif self._is_looked_at():
                    self._preview_or_fail()
                else:
                    self._rest()
        finally:
            self._close_camera()

    def _examine(self, order: _Order) -> None:
        """One film, from its camera to its end."""
        failure: BaseException | None = None
        try:
            self._film_of(order)
        except LeukoscopeError as error:
            failure = error
            _LOG.warning("film: %s", error)
        except Exception as error:  # noqa: BLE001  logged, and shown as a failure
            # A fault of the program: the page stays up, and the next film may be of use.
            failure = error
            _LOG.exception("film: a fault of the program")
        camera = self._camera
        if camera is not None and (failure is not None or not camera.live):
            self._close_camera()
        begun = order.number.done()
        with self._changed:
            self._order = self._runner = self._feed = None
            self._last_film = self._film or self._last_film
            self._film = None
            self._phase, self._error = "idle", None
            if failure is not None:
                self._phase, self._error = "failed", _one_line(failure)
                self._camera_failed = isinstance(failure, CameraError) and not begun
            self._changed.notify_all()
        if failure is not None and not begun:
            order.number.set_exception(failure)

    def _film_of(self, order: _Order) -> None:
        camera = self._opened(order.source)
        settings = self._film_settings()
        self._threshold_percent = round(100 * settings.blast_threshold, 3)
        self._viewfinder.clear()
        setup = film_setup(self._loaded, source=order.source, settings=settings)
        sink = StoreSink(self._store, order.film, setup, order.by)
        guide = film_guide(
            self._loaded,
            settings,
            live=camera.shows_motion,
            profile=self._profile,
            gate=camera.moved_by_hand,
            mosaic=camera.moved_by_hand,
        )
        with camera.for_film() as feed:
            runner = film_runner(
                self._loaded,
                feed,
                source=order.source,
                settings=settings,
                sinks=[sink, _Shown(self._viewfinder, lambda: self._begun(order, sink.film))],
                on_status=self._take_status,
                guide=guide,
                on_frame=self._viewfinder.see,
                # Of a hand-moved film most frames show what others show.
                every_frame=False,
            )
            with self._changed:
                self._runner, self._feed = runner, feed
                if self._closing:
                    runner.stop()
            runner.run()

    def _film_settings(self) -> Settings:
        clinic = self._store.settings.current()
        return self._settings.model_copy(
            update={
                "save_frames": clinic.keep_frames,
                "blast_threshold": clinic.blast_threshold_percent / 100,
                "blast_confidence": clinic.confidence,
            }
        )

    def _begun(self, order: _Order, number: int) -> None:
        with self._changed:
            self._film = number
            if self._phase == "starting":
                self._phase = "running"
        order.number.set_result(number)

    def _take_status(self, status: RunStatus) -> None:
        self._status = status
        if status.guidance is not None and status.guidance.lost is not None:
            self._lost = (status.guidance.lost, self._clock())

    def _lost_lately(self) -> str | None:
        lost = self._lost
        return None if lost is None or self._clock() - lost[1] > self._pace.lost_s else lost[0]

    def _is_looked_at(self) -> bool:
        return self._clock() - self._viewfinder.looked_at <= self._pace.looks_s

    def _preview_or_fail(self) -> None:
        """The preview, whose faults must not end this thread: nobody could begin a film then."""
        try:
            self._preview()
        except Exception as error:  # noqa: BLE001  shown as a failure, and logged unless told
            if not isinstance(error, LeukoscopeError):
                _LOG.exception("preview: a fault of the program")
            self._close_camera()
            self._preview_failed(error)

    def _preview_failed(self, error: Exception) -> None:
        self._retry_at = self._clock() + self._pace.retry_s
        with self._changed:
            if self._order is None:
                self._phase, self._error = "failed", _one_line(error)
                self._camera_failed = True

    def _preview(self) -> None:
        """One picture for those who look."""
        began = self._clock()
        if not self._shows_preview:
            # Nothing moves before a film begins. Opened once, to tell whether it is there.
            self._wait(self._pace.close_s)
            return
        if self._camera is None and began < self._retry_at:
            self._wait(min(self._retry_at - began, self._pace.looks_s))
            return
        camera = self._opened(self.source)
        if not camera.live:
            self._shows_preview = False
            self._close_camera()
            self._camera_is_there()
            return
        item = camera.next_picture()
        if item is None:
            self._close_camera()
            return
        if isinstance(item, Frame) and self._gate is not None:
            self._viewfinder.see(item, self._gate.judge(item))
            self._camera_is_there()
        self._wait(1 / self._pace.preview_fps - (self._clock() - began))

    def _camera_is_there(self) -> None:
        with self._changed:
            if self._camera_failed and self._order is None:
                # Only this is over; what ended a film stays to be read.
                self._phase, self._error, self._camera_failed = "idle", None, False

    def _rest(self) -> None:
        """Nobody looks: waits, and closes the camera after a while."""
        if self._camera is None:
            self._wait(None)
            return
        left = self._viewfinder.looked_at + self._pace.close_s - self._clock()
        if left > 0:
            self._wait(left)
        else:
            self._close_camera()

    def _wait(self, seconds: float | None) -> None:
        """Until so many seconds have passed, or something has changed."""
        if seconds is None or seconds > 0:
            with self._changed:
                if self._order is None and not self._closing:
                    self._changed.wait(seconds)

    def _opened(self, source: str) -> SharedCamera:
        camera = self._camera
        if camera is not None and camera.source == source:
            return camera
        self._close_camera()
        self._viewfinder.clear()
        camera = SharedCamera(source, self._open_source, limit=self._settings.limit)
        self._gate = FieldGate(self._profile, live=camera.shows_motion)
        with self._changed:
            self._camera = camera
        return camera

    def _close_camera(self) -> None:
        with self._changed:
            camera, self._camera = self._camera, None
        if camera is not None:
            try:
                camera.close()
            except Exception:  # noqa: BLE001  as below
                # Drivers raise what they like; it is given up anyway, and this thread goes on.
                _LOG.exception("camera: closing failed")


class _Shown:
    """The sink that shows a film to those who look, and tells that it has begun."""

    def __init__(self, viewfinder: Viewfinder, began: Callable[[], None]) -> None:
        self._viewfinder = viewfinder
        self._began = began

    def start(self) -> None:
        """The sinks before this one have begun."""
        self._began()

    def append(self, result: FieldResult) -> None:
        """Shows its cells."""
        self._viewfinder.take(result)

    def skip(self, skipped: SkippedFrame) -> None:
        """The gate's verdict came with the frame."""

    def finish(self, report: FilmReport) -> None:
        """Nothing is kept."""


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split())
    return line if isinstance(error, LeukoscopeError) else f"{type(error).__name__}: {line}"
