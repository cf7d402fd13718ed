"""What the clinic's page costs: rate beside bare inference, memory, and time to the first result.

Owns this measurement: one `leukoscope serve` as a process, with people who look at it, and in turns
with it bare `session.run` on the tensors of the same fields. Does not own the page nor the
microscope (see ``edge_runtime.clinic``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import cv2

from benchmarks.machine import WorkMeter
from edge_runtime.backends import Tensor
from edge_runtime.errors import DataError
from edge_runtime.types import Frame

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from edge_runtime.film.camera_profile import CameraProfile
    from edge_runtime.settings import Settings

# As many people look as a clinic has screens: the microscope's own and a reviewer's.
_LOOKERS = 2
# As the page's script asks.
_PICTURE_S, _STATE_S = 0.2, 0.5
_WARM_UP_S = 3.0
_START_LIMIT_S = 120.0
_SECRET = "correct horse"
_DETECTOR = "detector"
_TARGETS = (
    ("first live result after the start of a film, s", "first_result_s", "at_most", 3.0),
    (
        "memory of the process with a film running, less the stand-in's pictures, MB",
        "memory_without_pictures_mb",
        "at_most",
        350.0,
    ),
    ("rate against bare session.run, one call on all threads", "rate_of_bare", "at_least", 0.80),
    (
        "rate against bare session.run, one caller a thread, as the page calls it",
        "rate_of_callers",
        "at_least",
        0.80,
    ),
)


@dataclass(frozen=True, slots=True)
class ClinicPlan:
    """What is measured.

    Attributes:
        profile: optical profile of the virtual microscope, moved by hand.
        fields: pictures that overlap, there and back; the stand-in camera holds them in memory.
        fps: of the camera.
        rest_s: for which the stage rests in each field.
        seconds: of each turn.
        rounds: turns of either.
        threads: processor threads for inference.
        backend: what the page examines with; bare is ONNX Runtime on the processor always.
        bundle: None for the shipped one.
    """

    profile: str = "lcm_100x_c2"
    fields: int = 8
    fps: float = 30.0
    rest_s: float = 1.0
    seconds: float = 15.0
    rounds: int = 3
    threads: int = 2
    backend: str = "onnxruntime"
    bundle: Path | None = None


@dataclass(slots=True)
class _Turn:
    """One turn: what was done, and the processor time that it took."""

    fields: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.fields / self.seconds

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu_s / max(1, self.fields)


@dataclass(slots=True)
class _Served:
    """A page that runs."""

    process: subprocess.Popen[str]
    address: str
    page_s: float
    looks: list[float] = field(default_factory=list)


def measure_clinic(
    plan: ClinicPlan, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Rate, memory and times of one profile.

    Returns:
        ``row`` and ``targets``.
    """
    with tempfile.TemporaryDirectory(prefix="leukoscope-clinic-") as name:
        scratch = Path(name)
        frames = _frames(plan)
        source, profile_file = _put(frames, plan, scratch)
        with _bare_calls(plan, frames) as (calls, looks):
            on_all_threads = _run_by(_one_call_on_all(plan), calls)
            progress(
                f"{plan.profile}, {plan.backend}: {sum(map(len, calls)) / len(calls):.1f} calls "
                "a field"
            )
            _people(scratch / "store")
            before = WorkMeter.read()
            began = time.perf_counter()
            with _serving(plan, scratch / "store", source, profile_file) as served:
                page = _Page(served.address)
                first_s = page.first_result()
                from_start_s = time.perf_counter() - began
                time.sleep(1.0)
                page.stop()
                ours, bare, callers, memory = [], [], [], []
                for turn in range(plan.rounds):
                    done, resident = _film_turn(plan, served, page)
                    ours.append(done)
                    memory.append(resident)
                    callers.append(_bare_turn(plan, calls, plan.threads))
                    bare.append(_bare_turn(plan, on_all_threads, 1))
                    progress(
                        f"{plan.profile} {turn + 1}: {done.rate:.2f} fields/s, bare "
                        f"{bare[-1].rate:.2f}, with {plan.threads} callers {callers[-1].rate:.2f}; "
                        f"{done.cpu_ms:.0f} and {callers[-1].cpu_ms:.0f} ms of processor a field; "
                        f"{resident:.0f} MB"
                    )
                page.close()
            # The page has ended and is a child of this process: its time counts as our own.
            others = WorkMeter.read().others_share_since(before)
            kept = _kept(scratch / "store")
    pictures_mb = len(frames) * frames[0].pixels.nbytes / 1e6
    row = {
        "profile": plan.profile,
        "backend": plan.backend,
        "resolution_px": [frames[0].width, frames[0].height],
        "looks_per_field": round(looks, 2),
        "calls_per_field": round(sum(map(len, calls)) / len(calls), 2),
        "page_s": round(served.page_s, 2),
        "first_result_s": round(first_s, 2),
        "first_result_from_process_start_s": round(from_start_s, 2),
        "memory_mb": round(max(memory), 1),
        "of_it_pictures_of_the_camera_mb": round(pictures_mb, 1),
        "memory_without_pictures_mb": round(max(memory) - pictures_mb, 1),
        "fields_per_s": round(median(each.rate for each in ours), 3),
        "bare_fields_per_s": round(median(each.rate for each in bare), 3),
        "callers_fields_per_s": round(median(each.rate for each in callers), 3),
        # Turns lie side by side, so that what slows the machine slows all.
        "rate_of_bare": round(median(a.rate / b.rate for a, b in zip(ours, bare, strict=True)), 3),
        "rate_of_callers": round(
            median(a.rate / b.rate for a, b in zip(ours, callers, strict=True)), 3
        ),
        "cpu_ms_per_field": round(median(each.cpu_ms for each in ours), 1),
        "callers_cpu_ms_per_field": round(median(each.cpu_ms for each in callers), 1),
        "cpu_of_callers": round(
            median(b.cpu_ms / a.cpu_ms for a, b in zip(ours, callers, strict=True)), 3
        ),
        "picture_p50_ms": round(1000 * median(served.looks), 1) if served.looks else None,
        "others_share": others,
        "last_film": kept,
        "turns": [
            {
                "fields_per_s": round(a.rate, 3),
                "bare_fields_per_s": round(b.rate, 3),
                "callers_fields_per_s": round(c.rate, 3),
                "cpu_ms_per_field": round(a.cpu_ms, 1),
                "callers_cpu_ms_per_field": round(c.cpu_ms, 1),
            }
            for a, b, c in zip(ours, bare, callers, strict=True)
        ],
    }
    return {"row": row, "targets": _judged(row)}


HOW = (
    "`leukoscope serve` as a process of its own with the shipped bundle and its own store, on "
    "fields of a virtual microscope that overlap, shown as by a live camera of 30 pictures a "
    "second under a stage that is moved by hand and rests for a second in each field; every "
    f"picture passes the gate. {_LOOKERS} people look at it over HTTP as often as the page's "
    "script does. Gate, mosaic, tally, screening, store with previews, crops and full-size fields "
    "are on; the record of the last film is asked whether they were. bare: ONNX Runtime's "
    "session.run alone, on the processor, on the tensors of the same fields made beforehand, every "
    "model of the bundle as often as the fields need it, one call after the other, each on all "
    "threads, as the bare loop of `bench peers` and `bench latency` does, but without busy "
    "waiting, which is faster with several models; nothing is read, shrunk, decoded or kept. "
    "callers: the same with one caller a thread and each call on its own thread, as the page calls "
    "it, which is faster still. Turns alternate; while one runs the others rest. cpu_of_callers: "
    "by processor time, which other programs do not take away. memory_mb: resident; a real camera "
    "does not hold the pictures in it."
)


def _judged(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    judged = []
    for name, figure, kind, bound in _TARGETS:
        measured = row[figure]
        met = measured <= bound if kind == "at_most" else measured >= bound
        judged.append(
            {"name": name, "figure": figure, kind: bound, "measured": measured, "met": met}
        )
    return judged


def _frames(plan: ClinicPlan) -> list[Frame]:
    from edge_runtime.cameras import open_camera

    with open_camera(f"virtual:{plan.profile}:7:hand", limit=plan.fields) as camera:
        return [each for each in camera if isinstance(each, Frame)]


def _put(frames: Sequence[Frame], plan: ClinicPlan, scratch: Path) -> tuple[str, Path]:
    """The fields as a live source, and the camera's profile."""
    from edge_runtime.film.camera_profile import save_profile

    folder = scratch / "fields"
    folder.mkdir()
    for number, frame in enumerate(frames):
        bgr = cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(folder / f"field_{number:03d}.png"), bgr):
            raise DataError(f"{folder}: cannot be written; free some space in it")
    path = save_profile(all_pass(frames[0], plan.profile), scratch / "cameras")
    held = max(1, round(plan.fps * plan.rest_s))
    return f"paced:{plan.fps:g}x{held}:hand:{folder}", path


def all_pass(frame: Frame, source: str) -> CameraProfile:
    """A camera's profile by whose limits every field passes, so that every one is examined."""
    from edge_runtime.film.camera_profile import CameraProfile, GateLimits

    return CameraProfile(
        name="bench",
        source=source,
        made_at=datetime.now(timezone.utc).isoformat(),
        width=frame.width,
        height=frame.height,
        pixel_size_um=frame.pixel_size_um,
        limits=GateLimits(shift_share=2.0, blur_um=3.0, stained_least=0.001),
    )


def _kept(store: Path) -> dict[str, int]:
    """What the last film's record says was done; DataError where gate or mosaic were off."""
    from edge_runtime.clinic.store.store import open_store

    with open_store(store) as opened:
        film = opened.films.search(limit=1)[0].id
        report = opened.reports.examined(film)
        fields = opened.films.fields(film)
    if report.gate is None or report.mosaic is None or report.tally is None:
        raise DataError("leukoscope serve: the film ran without gate, mosaic or tally")
    return {
        "fields": report.mosaic.fields,
        "fields_placed": report.mosaic.fields_placed,
        "fields_at_full_size": sum(each.frame_file is not None for each in fields),
        "frames_judged": report.gate.judged,
        "cells": report.mosaic.cells,
        "repeats": report.mosaic.repeats,
    }


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a model: which stage made it, with what, and how to make it again."""

    stage: str
    arrays: dict[str, Tensor]
    run: Callable[[dict[str, Tensor]], Any]


@contextmanager
def _bare_calls(
    plan: ClinicPlan, frames: Sequence[Frame]
) -> Iterator[tuple[list[list[_Call]], float]]:
    """What each field asks of the models, call by call; looks per field."""
    from edge_runtime.examiner import Examiner
    from edge_runtime.film_run import load_bundle

    bundle, settings = _to_run(plan)
    with load_bundle(bundle, settings) as loaded:
        calls: list[list[_Call]] = []
        stages: dict[str, Any] = {
            _DETECTOR: loaded.detector,
            "attribute_head": loaded.attribute_head,
            "classifier": loaded.classifier,
        }
        for name, stage in stages.items():
            if stage is not None:
                stage._backend = _Noted(name, stage._backend, calls)
        examiner = Examiner(
            loaded.detector,
            attribute_head=loaded.attribute_head,
            classifier=loaded.classifier,
            domain=loaded.domain,
        )
        windows = 0
        for frame in frames:
            calls.append([])
            windows += examiner.examine(frame).windows
        yield calls, windows / len(frames)


def _to_run(plan: ClinicPlan) -> tuple[Bundle, Settings]:
    from edge_runtime.film_run import bundle_to_run
    from edge_runtime.settings import load_settings

    flags = {"threads": plan.threads, "backend": "onnxruntime"}
    settings = load_settings(None, environment={}, flags=flags)
    return bundle_to_run(plan.bundle, settings, say=lambda line: None), settings


def _one_call_on_all(plan: ClinicPlan) -> dict[str, Any]:
    """The bundle's models, each call on all threads; by stage.

    They do not wait busily for work: with a pool of threads for each of several models, those that
    wait would take the cores from the one that runs, and a field take half as long again.
    """
    import onnxruntime

    bundle, settings = _to_run(plan)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    artifacts = {
        head: bundle.artifact_for("cpu", head, settings.precision) for head in bundle.manifest.heads
    }
    return {
        head or _DETECTOR: onnxruntime.InferenceSession(
            bundle.contents[each.path], options, providers=["CPUExecutionProvider"]
        )
        for head, each in artifacts.items()
    }


def _run_by(sessions: Mapping[str, Any], calls: Sequence[Sequence[_Call]]) -> list[list[_Call]]:
    """The same calls, made by sessions of one's own."""

    def run_of(stage: str) -> Callable[[dict[str, Tensor]], Any]:
        session = sessions[stage]
        return lambda arrays: session.run(None, arrays)

    return [[replace(each, run=run_of(each.stage)) for each in field] for field in calls]


class _Noted:
    """A backend whose calls are written down."""

    def __init__(self, stage: str, backend: Any, calls: list[list[_Call]]) -> None:
        self._stage = stage
        self._backend = backend
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def infer(self, arrays: Mapping[str, Tensor]) -> Any:
        self._note(arrays)
        return self._backend.infer(arrays)

    def infer_keeping(self, arrays: Mapping[str, Tensor], keep: Sequence[str]) -> Any:
        self._note(arrays)
        return self._backend.infer_keeping(arrays, keep)

    def _note(self, arrays: Mapping[str, Tensor]) -> None:
        self._calls[-1].append(_Call(self._stage, dict(arrays), self._backend.infer))


def _bare_turn(plan: ClinicPlan, calls: Sequence[Sequence[_Call]], callers: int) -> _Turn:
    done = [0] * callers
    until = time.perf_counter() + plan.seconds

    def caller(number: int) -> None:
        at = number
        while time.perf_counter() < until:
            for each in calls[at % len(calls)]:
                each.run(each.arrays)
            done[number] += 1
            at += 1

    began, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=caller, args=(each,)) for each in range(callers)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return _Turn(sum(done), time.perf_counter() - began, time.process_time() - cpu)


def _film_turn(plan: ClinicPlan, served: _Served, page: _Page) -> tuple[_Turn, float]:
    over = threading.Event()
    page.start()
    lookers = [
        threading.Thread(target=_look, args=(page.copy(), over, served.looks))
        for _ in range(_LOOKERS)
    ]
    for each in lookers:
        each.start()
    time.sleep(_WARM_UP_S)
    before, began, cpu = page.fields(), time.perf_counter(), _cpu_s(served.process.pid)
    time.sleep(plan.seconds)
    turn = _Turn(
        page.fields() - before,
        time.perf_counter() - began,
        _cpu_s(served.process.pid) - cpu,
    )
    resident = _resident_mb(served.process.pid)
    over.set()
    for each in lookers:
        each.join()
    page.stop()
    if turn.fields == 0:
        raise DataError(f"{plan.profile}: no field was examined in {plan.seconds:g} s")
    return turn, resident


def _look(page: _Page, over: threading.Event, took: list[float]) -> None:
    """One person's page."""
    number, state_at = 0, 0.0
    while not over.is_set():
        began = time.perf_counter()
        number = page.picture(number)
        took.append(time.perf_counter() - began)
        if began - state_at >= _STATE_S:
            page.state()
            state_at = began
        over.wait(max(0.0, _PICTURE_S - (time.perf_counter() - began)))
    page.close()


@contextmanager
def _serving(plan: ClinicPlan, store: Path, source: str, profile: Path) -> Iterator[_Served]:
    bundle = [] if plan.bundle is None else ["--bundle", str(plan.bundle)]
    kept = {name: text for name, text in os.environ.items() if not name.startswith("LEUKOSCOPE_")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "edge_runtime.cli", "serve", "--port", "0"),
            *("--store", str(store), "--source", source, "--threads", str(plan.threads)),
            *("--camera-profile", str(profile), "--backend", plan.backend, *bundle),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.match(r"serving (\S+)/", said)
        if found is None:
            _, errors = process.communicate(timeout=20)
            raise DataError(f"leukoscope serve did not start: {said}{errors}")
        yield _Served(process, found[1], time.perf_counter() - began)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


class _Page:
    """A browser of one person."""

    def __init__(self, address: str, *, cookies: Mapping[str, str] | None = None) -> None:
        import httpx2

        self._address = address
        self._client = httpx2.Client(base_url=address, timeout=60, cookies=dict(cookies or {}))
        if cookies is None:
            self._client.post("/sign-in", data={"name": "Operator", "secret": _SECRET})
        html = self._client.get("/live", headers={"accept": "text/html"}).text
        found = re.search(r'name="csrf" content="([^"]+)"', html)
        if found is None:
            raise DataError("the page did not let the benchmark in")
        self._csrf = found[1]

    def copy(self) -> _Page:
        """Another screen of the same person."""
        return _Page(self._address, cookies=dict(self._client.cookies))

    def close(self) -> None:
        """Nobody looks any more."""
        self._client.close()

    def start(self) -> None:
        self._post("/live/start", slide="bench")

    def stop(self) -> None:
        self._post("/live/stop")
        until = time.monotonic() + 30
        while self.state()["phase"] != "idle" and time.monotonic() < until:
            time.sleep(0.05)

    def first_result(self) -> float:
        """Begins a film; seconds to its first examined field on the page."""
        began = time.perf_counter()
        self.start()
        while self.fields() < 1:
            if time.perf_counter() - began > _START_LIMIT_S:
                raise DataError(f"no result in {_START_LIMIT_S:g} s: {self.state()}")
            time.sleep(0.02)
        return time.perf_counter() - began

    def fields(self) -> int:
        return int(self.state()["fields_done"])

    def state(self) -> dict[str, Any]:
        answer = self._client.get("/live/state", headers={"x-leukoscope-poll": "1"})
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def picture(self, after: int) -> int:
        import json

        answer = self._client.get(
            f"/live/picture?after={after}", headers={"x-leukoscope-poll": "1"}
        )
        answer.raise_for_status()
        facts = answer.headers.get("x-leukoscope-picture")
        return after if facts is None else int(json.loads(facts)["number"])

    def _post(self, path: str, **fields: str) -> None:
        answer = self._client.post(path, data={"csrf": self._csrf, **fields})
        if answer.status_code != 200:
            raise DataError(f"{path}: {answer.text}")


def _people(store: Path) -> None:
    from edge_runtime.clinic.store.store import open_store

    with open_store(store) as opened:
        admin = opened.users.add("Admin", "admin", _SECRET, None)
        opened.users.add("Operator", "operator", _SECRET, admin)


def _cpu_s(process: int) -> float:
    import psutil

    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def _resident_mb(process: int) -> float:
    import psutil

    return float(psutil.Process(process).memory_info().rss) / 1e6
