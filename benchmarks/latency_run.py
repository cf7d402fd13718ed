"""One combination of camera profile and contender, run in a process of its own.

Owns how our film loop and a plain loop are timed over stored fields: as fast as they come, at the
camera's own pace, and with a camera that is too fast. Does not own rounds nor the result file (see
``latency``). Called as ``python -m benchmarks.latency_run JOB.json``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from benchmarks.contender import Job, Marks, session_run, ultralytics

if TYPE_CHECKING:
    from edge_runtime.film_report import FilmReport
    from edge_runtime.film_run import LoadedBundle
    from edge_runtime.settings import Settings
    from edge_runtime.types import UInt8Image

OURS, PLAIN_LOOP, SESSION_RUN, ULTRALYTICS = (
    "leukoscope",
    "plain_loop",
    "session_run",
    "ultralytics",
)
# Fields of a live run that are left out: the reader does not know yet how fast its consumer is.
_LIVE_WARM_UP = 3
# A slow contender gets so many times its time until it has as many fields as can tell anything.
_LIVE_LEAST, _LIVE_LONGEST = 8, 8
# The age of the first and of the last tenth tell whether it grows.
_END_SHARE = 0.1


class StoredFields(Sequence["UInt8Image"]):
    """Pictures in files, read again whenever one is asked for, so that memory holds but one."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> UInt8Image: ...

    @overload
    def __getitem__(self, index: slice) -> StoredFields: ...

    def __getitem__(self, index: int | slice) -> UInt8Image | StoredFields:
        if isinstance(index, slice):
            return StoredFields(self._files[index])
        from edge_runtime.image_file import read_image

        return read_image(self._files[index])


class _TimedMarks(Marks):
    """Marks, and the time between each and the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def mark(self) -> None:
        """One more field is done."""
        before = self.last if self.fields else None
        super().mark()
        if before is not None:
            self.seconds.append(self.last - before)


def leukoscope(job: Job) -> dict[str, Any]:
    """``leukoscope run`` with its report, then the same as a live camera at two rates."""
    from edge_runtime.cli import set_environment, spare_threads

    set_environment()
    spare_threads()
    from benchmarks.energy import energy_of_block
    from benchmarks.machine import peak_memory_bytes
    from edge_runtime.bundle import open_bundle
    from edge_runtime.cameras import open_camera
    from edge_runtime.clinic.report_files import report_sinks
    from edge_runtime.film_run import film_runner, load_bundle
    from edge_runtime.settings import load_settings

    settings = load_settings(
        environment={},
        flags={
            "backend": job["backend"],
            "threads": job["threads"],
            "precision": job["precision"],
            "engines": job["engines"],
        },
    )
    with load_bundle(open_bundle(job["bundle"]), settings) as loaded:
        with open_camera(job["images"], limit=job["warm_up"]) as camera:
            film_runner(loaded, camera, source="warm-up", settings=settings).run()
        with open_camera(job["images"]) as camera, energy_of_block() as energy:
            runner = film_runner(
                loaded,
                camera,
                source="film",
                settings=settings,
                sinks=report_sinks(Path(job["report"]), save_frames=False),
            )
            report = runner.run()
        peak = peak_memory_bytes()
        stages = runner.stage_seconds
        done = report.totals.fields
        return {
            "ran": {
                "detector": loaded.record.model_dump(mode="json"),
                **{
                    name: record.model_dump(mode="json")
                    for name, record in loaded.head_records.items()
                },
            },
            "fields": done,
            "skipped": report.totals.fields_skipped,
            "cells_per_field": report.totals.cells / max(done, 1),
            "windows": sum(record.tiles for record in report.fields),
            "seconds": report.duration_s,
            "stage_seconds": stages,
            "peak_memory_bytes": peak,
            "energy": energy.record(done),
            "live": [_live(job, loaded, settings, fps) for fps in job["camera_fps"]],
        }


def _live(job: Job, loaded: LoadedBundle, settings: Settings, fps: float) -> dict[str, Any]:
    """The film loop on a paced camera, for ``job["seconds"]`` or until it tells something."""
    from edge_runtime.cameras.device import CameraDevice
    from edge_runtime.cameras.paced import PacedDevice
    from edge_runtime.cameras.watchdog import WatchedCamera
    from edge_runtime.clinic.report_files import report_sinks
    from edge_runtime.film_run import film_runner
    from edge_runtime.types import CameraSession, RunStatus

    fields = _stored(job)
    until = time.monotonic() + job["seconds"]

    def opened(before: CameraSession | None) -> CameraDevice:
        return PacedDevice(fields, fps)

    def enough(status: RunStatus) -> None:
        if time.monotonic() >= until and status.fields_done >= _LIVE_WARM_UP + _LIVE_LEAST:
            runner.stop()

    with WatchedCamera(opened, source="paced", name="paced") as camera:
        runner = film_runner(
            loaded,
            camera,
            source="live",
            settings=settings,
            sinks=report_sinks(Path(job["report"]), save_frames=False),
            on_status=enough,
        )
        timer = threading.Timer(_LIVE_LONGEST * job["seconds"], runner.stop)
        timer.start()
        try:
            report = runner.run()
        finally:
            timer.cancel()
    return _live_figures(report, runner.stage_seconds, fps)


def _live_figures(report: FilmReport, stages: dict[str, list[float]], fps: float) -> dict[str, Any]:
    ages = [field.age_ms for field in report.fields if field.age_ms is not None]
    examined = [each for name, each in stages.items() if name not in ("read", "crop", "write")]
    inference = [sum(parts) * 1000 for parts in zip(*examined, strict=True)]
    return {
        "camera_fps": fps,
        "ages_ms": ages[_LIVE_WARM_UP:],
        "inference_ms": inference[_LIVE_WARM_UP:],
        "passed_over": None if report.live is None else report.live.frames_passed_over,
        "growth_ms_per_s": growth(ages[_LIVE_WARM_UP:], report.duration_s),
        "seconds": report.duration_s,
    }


def plain_loop(job: Job) -> dict[str, Any]:
    """Read, infer, read: a loop as written around ``cv2.VideoCapture``, over a source that queues.

    One ``session.run`` a field on the whole picture, on all threads; no windows, no heads, nothing
    written.
    """
    import onnxruntime

    from benchmarks.machine import peak_memory_bytes
    from edge_runtime.bundle import open_bundle
    from edge_runtime.cameras.paced import PacedDevice
    from edge_runtime.errors import BundleError
    from edge_runtime.postprocess import decode_xywh_scores, suppress_doubles
    from edge_runtime.preprocess import fit_window, tensor_of

    spec = open_bundle(job["bundle"]).manifest.detector
    if spec.output.decode != "xywh_scores":
        raise BundleError("the plain loop reads heads of one-to-many boxes only; leave --peers out")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = onnxruntime.InferenceSession(job["onnx"], options, providers=["CPUExecutionProvider"])

    def infer(pixels: UInt8Image) -> int:
        height, width = pixels.shape[:2]
        window = fit_window(width, height, spec.input)
        tensor = tensor_of(pixels, window, spec.input)
        (output,) = session.run([spec.output.name], {spec.input.name: tensor})
        found = decode_xywh_scores(output, score_threshold=spec.thresholds.score)
        return len(suppress_doubles(found, iou=spec.thresholds.nms_iou))

    fields = _stored(job)
    for index in range(job["warm_up"]):
        infer(fields[index % len(fields)])
    seconds: dict[str, list[float]] = {"read": [], "infer": []}
    cells = 0
    began = now = time.perf_counter()
    for pixels in fields:
        read = time.perf_counter()
        cells += infer(pixels)
        ended = time.perf_counter()
        seconds["read"].append(read - now)
        seconds["infer"].append(ended - read)
        now = ended
    duration, peak = now - began, peak_memory_bytes()
    live = []
    for fps in job["camera_fps"]:
        device = PacedDevice(fields, fps, buffers=None)
        ages: list[float] = []
        inference: list[float] = []
        started = time.monotonic()
        while time.monotonic() - started < job["seconds"]:
            captured_at_ns = device.grab()
            pixels = device.retrieve()
            before = time.perf_counter()
            infer(pixels)
            inference.append((time.perf_counter() - before) * 1000)
            ages.append((time.monotonic_ns() - captured_at_ns) / 1e6)
        lasted = time.monotonic() - started
        live.append(
            {
                "camera_fps": fps,
                "ages_ms": ages[_LIVE_WARM_UP:],
                "inference_ms": inference[_LIVE_WARM_UP:],
                "passed_over": 0,
                "growth_ms_per_s": growth(ages[_LIVE_WARM_UP:], lasted),
                "seconds": lasted,
            }
        )
    return {
        "ran": {
            "detector": {
                "name": "onnxruntime",
                "version": onnxruntime.__version__,
                "device": session.get_providers()[0],
                "precision": job["onnx_precision"],
                "threads": session.get_session_options().intra_op_num_threads,
            }
        },
        "fields": len(fields),
        "skipped": 0,
        "cells_per_field": cells / len(fields),
        "windows": len(fields),
        "seconds": duration,
        "stage_seconds": seconds,
        "peak_memory_bytes": peak,
        "live": live,
    }


def growth(ages_ms: Sequence[float], seconds: float) -> float | None:
    """By how many ms a second frames get older; None with too few to tell."""
    from benchmarks.machine import percentile

    ends = round(_END_SHARE * len(ages_ms))
    if ends < 1 or seconds <= 0:
        return None
    first, last = percentile(ages_ms[:ends], 50), percentile(ages_ms[-ends:], 50)
    return round((last - first) / (seconds * (1 - _END_SHARE)), 2)


def _peer(run: Callable[[Job, Marks], dict[str, Any]]) -> Callable[[Job], dict[str, Any]]:
    """A contender of the peers benchmark; its fields are timed from result to result."""

    def measured(job: Job) -> dict[str, Any]:
        from benchmarks.machine import peak_memory_bytes

        marks = _TimedMarks()
        result = run(job, marks)
        # The first results pay for what a process does once, as the others' warm-up does.
        steady = marks.seconds[job["warm_up"] :]
        found = result.get("found")
        return {
            "ran": {"detector": {"precision": job["onnx_precision"], **result["ran"]}},
            "fields": len(steady),
            "skipped": result["skipped"],
            "cells_per_field": None if not found else sum(map(len, found)) / len(found),
            "windows": len(steady),
            "seconds": sum(steady),
            "stage_seconds": {"whole": steady},
            "peak_memory_bytes": peak_memory_bytes(),
            "live": [],
        }

    return measured


def _stored(job: Job) -> StoredFields:
    return StoredFields(sorted(Path(job["images"]).iterdir()))


CONTENDERS: dict[str, Callable[[Job], dict[str, Any]]] = {
    OURS: leukoscope,
    PLAIN_LOOP: plain_loop,
    SESSION_RUN: _peer(session_run),
    ULTRALYTICS: _peer(ultralytics),
}


def main(arguments: list[str]) -> None:
    """Runs the contender that the job file names and writes its result file."""
    from edge_runtime.errors import LeukoscopeError

    with open(arguments[0], encoding="utf-8") as handle:
        job: Job = json.load(handle)
    try:
        result = CONTENDERS[job["contender"]](job)
    except LeukoscopeError as error:
        result = {"refused": str(error)}
    with open(job["result"], "w", encoding="utf-8") as handle:
        json.dump(result, handle)


if __name__ == "__main__":
    main(sys.argv[1:])
