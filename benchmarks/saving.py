"""What cropping and saving take of a film's time on fields of twelve megapixels.

Owns this measurement: films of a virtual microscope with a large camera, as fast as they can be
examined and as a person's session, kept in several ways. Does not own the film loop nor any sink.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
from typing_extensions import Self

from benchmarks.clinic import all_pass
from benchmarks.machine import WorkMeter
from edge_runtime.bundle import Bundle
from edge_runtime.cameras.paced import PacedDevice, shown
from edge_runtime.cameras.virtual import VirtualCamera
from edge_runtime.cameras.watchdog import WatchedCamera
from edge_runtime.errors import DataError
from edge_runtime.film_report import FilmReport
from edge_runtime.film_run import LoadedBundle, film_guide, film_runner, film_setup, load_bundle
from edge_runtime.pipeline import FilmRunner
from edge_runtime.settings import Settings
from edge_runtime.sinks import Sink
from edge_runtime.types import Frame
from edge_runtime.virtual_film import PROFILES, VirtualFilm
from edge_runtime.virtual_film.hand_path import hand_path

# A 12-megapixel microscope camera behind a 100x objective; the rest is the laboratory profile's.
_SIDES_PX = (4000, 3000)
_PIXEL_SIZE_UM = 0.045
AT_MOST_SHARE = 0.05
_NOTHING = "nothing"
_SESSION = "session"
_NOTHING_OF_SESSION = f"{_SESSION}, {_NOTHING}"
# Of the best published add-on for counting on such cameras.
PUBLISHED_SHARE = 0.52
HOW = (
    "Films of a virtual 12-megapixel microscope, fields made beforehand and held in memory, "
    "examined one after the other as fast as possible. Session: overlapping fields from a live "
    "camera of 30 pictures a second, each for a second as under a stage moved by hand, with gate "
    "and mosaic; kept is what `leukoscope serve` keeps. Share: processor time that cropping, "
    "encoding and writing took (what the thread that does it used, less what it uses in the same "
    "film of which nothing is kept), of the processor time of the whole film; both cores are busy "
    "all the time, so that it is what they take of the time, and a slow machine slows both. Added: "
    "what the film's time grew by, in the quickest round of either. Busy: seconds that they took "
    "on their thread, beside the next field's inference and waiting for disk and core, of the "
    "film's seconds. Medians of the rounds, which alternate between the ways of keeping."
)
# A person looks at a field for about so long, and the camera gives so many pictures a second.
_REST_S, _FPS = 1.0, 30.0
# Pictures of 36 MB each, so that a film shows them more than once.
_PICTURES = 8
# Overlapping fields of 36 MB each: a new one for every second of the session.
_PLACES = 12


@dataclass(frozen=True, slots=True)
class SavingPlan:
    """What is measured.

    Attributes:
        fields: of each film; as many as the published add-on's session has.
        rounds: films in each way.
        threads: processor threads for inference.
        session_s: of each session.
    """

    fields: int = 104
    rounds: int = 3
    threads: int = 2
    session_s: float = 12.0


class _Held:
    """Fields in memory as a camera, again and again; reading a disk is not the matter here."""

    def __init__(self, frames: list[Frame], count: int) -> None:
        self._frames = frames
        self._count = count

    @property
    def frame_count(self) -> int | None:
        return self._count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            frame = self._frames[index % len(self._frames)]
            yield replace(frame, index=index, captured_at_ns=time.monotonic_ns())


def measure_saving(
    bundle: Bundle, plan: SavingPlan, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Films kept as a report, in the store, and in the store with fields at full size.

    Raises:
        LeukoscopeError: a film cannot be run or kept.
    """
    profile = replace(
        PROFILES["hcm_100x_c2"],
        name="hcm_100x_12mp",
        resolution=_SIDES_PX,
        pixel_size_um=_PIXEL_SIZE_UM,
    )
    progress(f"{plan.fields} fields of {_SIDES_PX[0]} x {_SIDES_PX[1]} px")
    film = VirtualFilm.build(7)
    frames = list(VirtualCamera(film, profile, min(_PICTURES, plan.fields)))
    path = hand_path(film.size_um, profile.field_um, _PLACES, 7)
    moved = list(VirtualCamera(film, profile, centres_um=[each.centre_um for each in path]))
    ways = {
        _NOTHING: False,
        "report": False,
        "store": False,
        "store, full size": True,
        _NOTHING_OF_SESSION: False,
        "session, store": False,
        "session, store, full size": True,
    }
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    before = WorkMeter.read()
    for number in range(plan.rounds):
        for way, full in ways.items():
            settings = Settings(threads=plan.threads, save_frames=full)
            with load_bundle(bundle, settings) as loaded, tempfile.TemporaryDirectory() as place:
                if way.startswith(_SESSION):
                    run = _session(loaded, moved, settings, plan.session_s, way, Path(place))
                else:
                    run = _film(loaded, frames, plan.fields, settings, way, Path(place))
            runs[way].append(run)
            progress(
                f"round {number + 1}, {way}: {1000 * run['own_cpu']:.1f} ms of processor a field"
            )
    bare = {
        way: runs[_NOTHING_OF_SESSION if way.startswith(_SESSION) else _NOTHING] for way in ways
    }
    rows = [_row(way, found, bare[way]) for way, found in runs.items() if found is not bare[way]]
    return {
        "how": HOW,
        "threads": plan.threads,
        "fields": plan.fields,
        "rounds": plan.rounds,
        "resolution_px": list(_SIDES_PX),
        "opencv_threads": cv2.getNumThreads(),
        "others_share": WorkMeter.read().others_share_since(before),
        "published_share": PUBLISHED_SHARE,
        "rows": rows,
        "nothing_kept": {
            way: {
                "seconds_of_rounds": [round(each["seconds"], 4) for each in runs[way]],
                "own_cpu_ms_of_rounds": [round(1000 * each["own_cpu"], 2) for each in runs[way]],
            }
            for way in (_NOTHING, _NOTHING_OF_SESSION)
        },
    }


def _row(way: str, found: list[dict[str, Any]], bare: list[dict[str, Any]]) -> dict[str, Any]:
    without = statistics.median(each["own_cpu"] for each in bare)
    shares = [(each["own_cpu"] - without) / each["cpu"] for each in found]
    share = statistics.median(shares)
    # What slows a shared machine only ever adds: the quickest round tells most.
    quickest = [min(each["seconds"] for each in runs) for runs in (bare, found)]
    return {
        "kept_as": way,
        "share": round(share, 4),
        "shares": [round(each, 4) for each in shares],
        "added": round(1 - quickest[0] / quickest[1], 4),
        "busy": round(statistics.median(each["busy"] for each in found), 4),
        "ms_per_field": round(statistics.median(each["ms"] for each in found), 1),
        "cpu_ms_per_field": round(
            1000 * statistics.median(each["own_cpu"] - without for each in found), 1
        ),
        "seconds_per_field": round(statistics.median(each["seconds"] for each in found), 3),
        "seconds_of_rounds": [round(each["seconds"], 4) for each in found],
        "fields": found[0]["fields"],
        "fields_with_pictures": found[0]["pictures"],
        "cells_per_field": round(found[0]["cells"] / found[0]["fields"], 3),
        "looks_per_field": round(found[0]["looks"] / found[0]["fields"], 3),
        "at_most": AT_MOST_SHARE,
        "met": share <= AT_MOST_SHARE,
    }


def _film(
    loaded: LoadedBundle,
    frames: list[Frame],
    count: int,
    settings: Settings,
    way: str,
    place: Path,
) -> dict[str, Any]:
    from edge_runtime.clinic.report_files import report_sinks
    from edge_runtime.clinic.store.records import NewFilm
    from edge_runtime.clinic.store.sink import StoreSink
    from edge_runtime.clinic.store.store import open_store

    def run(sinks: list[Sink]) -> dict[str, Any]:
        camera = _Held(frames, count)
        runner = film_runner(loaded, camera, source="12 MP", settings=settings, sinks=sinks)
        cpu = _Cpu()
        report = runner.run()
        cpu.stop()
        return _figures(runner, report, count, cpu)

    if way == _NOTHING:
        return run([])
    if way == "report":
        return run(list(report_sinks(place, save_frames=False)))
    with open_store(place / "store") as store:
        setup = film_setup(loaded, source="12 MP", settings=settings)
        return run([StoreSink(store, NewFilm("12 MP"), setup)])


def _session(
    loaded: LoadedBundle,
    moved: list[Frame],
    settings: Settings,
    seconds: float,
    way: str,
    place: Path,
) -> dict[str, Any]:
    """A person moves the stage from field to field and back."""
    from edge_runtime.clinic.store.records import NewFilm
    from edge_runtime.clinic.store.sink import StoreSink
    from edge_runtime.clinic.store.store import open_store

    pictures = shown([each.pixels for each in moved], round(_FPS * _REST_S), there_and_back=True)
    camera = WatchedCamera(
        lambda before: PacedDevice(pictures, _FPS), source="12 MP", name="paced", by_hand=True
    )
    setup = film_setup(loaded, source="12 MP", settings=settings)
    with open_store(place / "store") as store, camera:
        kept = [] if way == _NOTHING_OF_SESSION else [StoreSink(store, NewFilm("12 MP"), setup)]
        runner = film_runner(
            loaded,
            camera,
            source="12 MP",
            settings=settings,
            sinks=kept,
            guide=film_guide(loaded, settings, live=True, profile=all_pass(moved[0], "12 MP")),
            every_frame=False,
        )
        timer = threading.Timer(seconds, runner.stop)
        timer.start()
        cpu = _Cpu()
        try:
            report = runner.run()
        finally:
            timer.cancel()
        cpu.stop()
        shown_fields = sum(each.shown for sink in kept for each in store.films.fields(sink.film))
    return _figures(runner, report, shown_fields, cpu)


class _Cpu:
    """Processor time of this process and of the thread that runs the film, from now on."""

    def __init__(self) -> None:
        self._began = (time.process_time(), time.thread_time())
        self.seconds = (0.0, 0.0)

    def stop(self) -> None:
        now = (time.process_time(), time.thread_time())
        self.seconds = (now[0] - self._began[0], now[1] - self._began[1])


def _figures(runner: FilmRunner, report: FilmReport, pictures: int, cpu: _Cpu) -> dict[str, Any]:
    spent = sum(runner.stage_seconds["crop"]) + sum(runner.stage_seconds["write"])
    fields = report.totals.fields
    if fields == 0:
        raise DataError("12 megapixels: no field was examined; give it more time")
    return {
        "busy": spent / report.duration_s,
        "ms": 1000 * spent / fields,
        "seconds": report.duration_s / fields,
        "cpu": cpu.seconds[0] / fields,
        "own_cpu": cpu.seconds[1] / fields,
        "fields": fields,
        "pictures": pictures,
        "cells": report.totals.cells,
        "looks": sum(each.tiles for each in report.fields),
    }
