"""One film of a soak: run while things go wrong, then held against its record.

Owns what "recorded" means for every kind of fault. Does not own when faults come (see
``soak_faults``) nor how many films there are (see ``soak``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.soak_faults import CAMERA, DISK, Cable, Disk, Fault, WallClock
from benchmarks.soak_scene import Scene
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.errors import LeukoscopeError, StoreError
from edge_runtime.film.gate import GateVerdict
from edge_runtime.film_report import FilmReport
from edge_runtime.pipeline import FilmRunner
from edge_runtime.settings import Settings
from edge_runtime.types import CameraGap, FieldResult, Frame, RunStatus, SkippedFrame

# A driver is waited for as on the device, only less long, or 500 films would take days. A busy
# machine may well sleep for half a second.
PATIENCE = Patience(
    hang_s=1.0, open_s=5.0, first_wait_s=0.02, longest_wait_s=0.1, steady_s=0.2, poll_s=0.02
)
# Of the wall clock against the film's own length: beyond this it was moved.
_MOVED_S = 60.0
_LOOKS_PER_POSITION = 2
_BROKEN = "came broken"
_GAP_SAYS = {"unplug": "unplugged", "hang": "hangs", "corrupt burst": "broken pictures in a row"}


@dataclass(frozen=True, slots=True)
class Rig:
    """What every film is run with."""

    scene: Scene
    store: ClinicStore
    cable: Cable
    disk: Disk
    clock: WallClock


@dataclass(slots=True)
class Outcome:
    """How a film went.

    Attributes:
        film: its number in the store; None when it was refused at once.
        frames: that came out of the camera: examined, refused by the gate, or broken.
        begun: faults that began.
        missed: faults, and what else should be on record, that is not; one line each.
        unasked: gaps that no fault made; a machine that stood still makes them.
        told: gaps that the status told while they lasted.
        error: that ended the film.
    """

    film: int | None = None
    frames: int = 0
    examined: int = 0
    passed_over: int = 0
    cells: int = 0
    begun: list[Fault] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    told: int = 0
    error: LeukoscopeError | None = None


class _Script:
    """Lets faults begin when the film has come to their frame; a sink, to see what was kept."""

    def __init__(self, rig: Rig, faults: Sequence[Fault]) -> None:
        self._rig = rig
        self._left = list(faults)
        self._database: Fault | None = None
        self._corrupt = 0
        self.begun: list[Fault] = []
        self.examined = self.skipped = self.broken = self.cells = 0
        self.gaps: set[int] = set()

    def on_frame(self, frame: Frame, verdict: GateVerdict | None) -> None:
        """From the thread that reads the camera."""
        # The stage is moved after so many looks; the first after that is one in motion.
        self._rig.cable.position += frame.index % _LOOKS_PER_POSITION == 0
        while self._left and frame.index >= self._left[0].at:
            fault = self._left.pop(0)
            self.begun.append(fault)
            self._begin(fault)

    def on_status(self, status: RunStatus) -> None:
        """What the page would show."""
        gap: CameraGap | None = status.camera_gap
        if gap is not None:
            self.gaps.add(gap.at_ns)

    def start(self) -> None:
        """See ``Sink``."""

    def append(self, result: FieldResult) -> None:
        """See ``Sink``; the store has it already."""
        self.examined += 1
        self.cells += len(result.cells)
        self._hold_database()

    def skip(self, skipped: SkippedFrame) -> None:
        """See ``Sink``; the store has it already."""
        self.skipped += skipped.frames
        if _BROKEN in skipped.reason:
            self.broken += 1
            self._corrupt -= 1
            if self._corrupt == 0:
                self._rig.cable.break_pictures("not")
        self._hold_database()

    def finish(self, report: FilmReport) -> None:
        """See ``Sink``."""

    def _begin(self, fault: Fault) -> None:
        cable, disk = self._rig.cable, self._rig.disk
        if fault.kind == "unplug":
            cable.unplug()
        elif fault.kind == "hang":
            cable.hang()
        elif fault.kind == "corrupt burst":
            cable.break_pictures("until opened")
        elif fault.kind == "corrupt frame":
            self._corrupt += round(fault.amount)
            cable.break_pictures("for now")
        elif fault.kind == "clock jump":
            self._rig.clock.jump(fault.amount)
        elif fault.kind == "disk low":
            disk.low = True
        elif fault.kind == "disk full":
            disk.full = -1 if fault.amount else 1
        else:
            self._database = fault

    def _hold_database(self) -> None:
        # By the thread that writes: what is set holds for one connection.
        if self._database is not None:
            self._database = None
            refuse_writing(self._rig.store, True)


def refuse_writing(store: ClinicStore, refused: bool) -> None:
    """The database as on a disk that turned read-only, for the thread that calls."""
    with store.database.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if refused else 'OFF'}")


def run_film(rig: Rig, number: int, frames: int, faults: Sequence[Fault]) -> Outcome:
    """One film of at most so many frames.

    A fault of the disk ends it, which is as it should be; it is mended afterwards.
    """
    settings = Settings()
    setup = rig.scene.setup(settings)
    sink = StoreSink(rig.store, NewFilm(f"soak-{number}"), setup)
    script = _Script(rig, faults)
    outcome = Outcome()
    camera = WatchedCamera(
        rig.cable.open,
        source="soak",
        name="soak",
        limit=frames,
        pixel_size_um=rig.scene.pixel_size_um,
        patience=PATIENCE,
    )
    report: FilmReport | None = None
    broken_before = rig.cable.broken
    with camera:
        runner = FilmRunner(
            camera=camera,
            detector=rig.scene.detector,
            classifier=rig.scene.classifier,
            streams=1,
            sinks=[sink, script],
            setup=setup,
            on_status=script.on_status,
            guide=rig.scene.guide(),
            on_frame=script.on_frame,
            now=rig.clock,
        )
        try:
            report = runner.run()
        except LeukoscopeError as error:
            outcome.error = error
        finally:
            rig.cable.let_go()
            rig.cable.break_pictures("not")
        gaps = camera.gaps
        outcome.passed_over = camera.frames_passed_over
    outcome.film, outcome.begun = sink.film, script.begun
    outcome.frames, outcome.examined = script.examined + script.skipped, script.examined
    outcome.cells, outcome.told = script.cells, len(script.gaps)
    _judge_camera(outcome, gaps, script, rig.cable.broken - broken_before)
    _judge_film(outcome, rig.store, script, report, frames)
    rig.disk.mend()
    refuse_writing(rig.store, False)
    _judge_clock(outcome, rig.store)
    return outcome


def _judge_camera(
    outcome: Outcome, gaps: Sequence[CameraGap], script: _Script, broken: int
) -> None:
    left = [gap.reason for gap in gaps]
    for fault in outcome.begun:
        if fault.kind not in CAMERA:
            continue
        says = _GAP_SAYS[fault.kind]
        found = next((reason for reason in left if says in reason), None)
        if found is None:
            outcome.missed.append(f"{fault.kind} at frame {fault.at}: no gap says {says!r}")
        else:
            left.remove(found)
    outcome.unasked = left
    corrupt = sum(round(x.amount) for x in outcome.begun if x.kind == "corrupt frame")
    # More are broken than skipped: a picture that a newer one replaces before anybody asks for it
    # is passed over, broken or not.
    if not corrupt <= script.broken <= broken:
        outcome.missed.append(
            f"corrupt frames: {script.broken} skipped of {broken} broken, {corrupt} wanted"
        )


def _judge_film(
    outcome: Outcome, store: ClinicStore, script: _Script, report: FilmReport | None, frames: int
) -> None:
    film = outcome.film
    if film is None:
        return
    kept = store.films.get(film)
    if (kept.fields, kept.skipped) != (script.examined, script.skipped):
        outcome.missed.append(
            f"film {film}: {kept.fields} + {kept.skipped} fields stored of "
            f"{script.examined} + {script.skipped}"
        )
    if report is not None and report.live is not None:
        told = len(report.live.gaps)
        known = sum(x.kind in CAMERA for x in outcome.begun) + len(outcome.unasked)
        if told != known:
            outcome.missed.append(f"film {film}: its report has {told} gaps of {known}")
    disk = [fault for fault in outcome.begun if fault.kind in DISK]
    if not disk and outcome.error is not None:
        outcome.missed.append(f"film {film}: ended without a fault: {outcome.error}")
    for fault in disk:
        error = outcome.error
        if not isinstance(error, StoreError) or "\n" in str(error):
            outcome.missed.append(f"{fault.kind} at frame {fault.at}: no error of one line")
        # A disk that fills when every frame is kept costs the report's file, which is made anew of
        # the rows; the error says so, and the film is complete all the same.
        if kept.state == "complete" and outcome.frames < frames:
            outcome.missed.append(f"{fault.kind}: film {film} is called complete")


def _judge_clock(outcome: Outcome, store: ClinicStore) -> None:
    """After the disk was mended: the film must have ended, and say that the clock was moved."""
    film = outcome.film
    if film is None:
        return
    # As the next film's start would do.
    store.films.end_left_over()
    if store.films.get(film).state == "running":
        outcome.missed.append(f"film {film}: left running")
        return
    for fault in outcome.begun:
        if fault.kind != "clock jump" or abs(fault.amount) < _MOVED_S:
            continue
        moved = [
            each.after["clock_moved_s"]
            for each in store.trail.of_film(film)
            if each.after is not None and "clock_moved_s" in each.after
        ]
        if not any(abs(each - fault.amount) < _MOVED_S for each in moved):
            outcome.missed.append(f"clock jump of {fault.amount:g} s: the trail says {moved}")
