"""One contender of the peers benchmark, run in a process of its own.

Owns how each contender walks a folder of images and when its clock is read. Does not own
rounds, comparison or the result file (see ``peers``). Called as
``python -m benchmarks.contender JOB.json``; heavy imports belong inside the contender that
needs them, because the time to the first result counts them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.film_report import FilmReport
    from edge_runtime.types import Float32Array, RunStatus

# Both detectors report from here on, so that both sort and suppress equally many boxes.
SCORE = 0.25

Job = dict[str, Any]
Found = list[list[list[float]]]


class Marks:
    """When the first and the latest result were there, on the machine's monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.first: float | None = None
        self.last = 0.0
        self.fields = 0

    def mark(self) -> None:
        """One more field is done."""
        self.last = self._clock()
        self.fields += 1
        if self.first is None:
            self.first = self.last

    def show(self, status: RunStatus) -> None:
        """Takes a film runner's status."""
        if status.fields_done + status.fields_skipped > self.fields:
            self.mark()


def leukoscope(job: Job, marks: Marks) -> dict[str, Any]:
    """What ``leukoscope run`` does; its report is written only when the job names a folder."""
    # The command starts with it, so its time counts.
    from edge_runtime.cli import set_environment, spare_threads

    set_environment()
    spare_threads()
    from edge_runtime.bundle import open_bundle
    from edge_runtime.cameras import open_camera
    from edge_runtime.film_run import film_runner, load_bundle
    from edge_runtime.settings import load_settings

    settings = load_settings(
        flags={"backend": job["backend"], "threads": job["threads"], "score": SCORE}
    )
    opened = open_bundle(job["bundle"])
    with load_bundle(opened, settings) as loaded, open_camera(job["images"]) as camera:
        sinks = []
        if job["report"] is not None:
            from pathlib import Path

            from edge_runtime.clinic.report_files import report_sinks

            sinks = report_sinks(Path(job["report"]), save_frames=False)
        runner = film_runner(
            loaded, camera, source="images", settings=settings, sinks=sinks, on_status=marks.show
        )
        report = runner.run()
        ran = loaded.record.model_dump(mode="json")
    examined = [record.tiles for record in report.fields]
    return {
        "ran": ran,
        "skipped": report.totals.fields_skipped,
        "windows": examined[: job["distinct"]],
        "found": _found_of(report, job["distinct"]),
    }


def ultralytics(job: Job, marks: Marks) -> dict[str, Any]:
    """``YOLO(...).predict(stream=True)`` on the same ONNX file."""
    import onnxruntime

    threads = job["threads"]
    original = onnxruntime.InferenceSession

    def with_threads(model: str, options: Any = None, **rest: Any) -> Any:
        # It opens its session with default options, which means one thread per core.
        chosen = onnxruntime.SessionOptions() if options is None else options
        chosen.intra_op_num_threads = threads
        return original(model, chosen, **rest)

    onnxruntime.InferenceSession = with_threads
    import torch
    from ultralytics import YOLO

    model = YOLO(job["onnx"], task="detect")
    # It sets torch's threads itself when it opens the device; this comes after that.
    model.add_callback("on_predict_start", lambda predictor: torch.set_num_threads(threads))
    found: Found = []
    results: Any = model.predict(
        source=job["images"],
        stream=True,
        imgsz=job["side_px"],
        batch=1,
        conf=SCORE,
        device="cpu",
        verbose=False,
    )
    for result in results:
        marks.mark()
        if len(found) < job["distinct"]:
            found.append(result.boxes.data[:, :5].tolist())
    predictor: Any = model.predictor
    options = predictor.model.backend.session.get_session_options()
    return {
        "ran": {
            "name": "onnxruntime",
            "version": onnxruntime.__version__,
            "precision": "float32",
            "threads": options.intra_op_num_threads,
            "torch_threads": torch.get_num_threads(),
        },
        "skipped": 0,
        "found": found,
    }


def session_run(job: Job, marks: Marks) -> dict[str, Any]:
    """``session.run`` on tensors that lie ready in memory, one call on all threads."""
    session, name, tensors = _session_and_tensors(job, job["threads"])
    for index in range(job["fields"]):
        session.run(None, {name: tensors[index % len(tensors)]})
        marks.mark()
    return _bare_facts(session)


def session_run_callers(job: Job, marks: Marks) -> dict[str, Any]:
    """The same with as many callers as there are threads, each call on one thread."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    session, name, tensors = _session_and_tensors(job, 1)
    lock = threading.Lock()

    def call(index: int) -> None:
        session.run(None, {name: tensors[index % len(tensors)]})
        with lock:
            marks.mark()

    with ThreadPoolExecutor(job["threads"]) as pool:
        list(pool.map(call, range(job["fields"])))
    return _bare_facts(session)


CONTENDERS: dict[str, Callable[[Job, Marks], dict[str, Any]]] = {
    "leukoscope": leukoscope,
    "ultralytics": ultralytics,
    "session_run": session_run,
    "session_run_callers": session_run_callers,
}


def _session_and_tensors(job: Job, threads: int) -> tuple[Any, str, list[Float32Array]]:
    import onnxruntime

    from edge_runtime.bundle import open_bundle
    from edge_runtime.cameras import open_camera
    from edge_runtime.preprocess import fit_window, tensor_of
    from edge_runtime.types import Frame

    spec = open_bundle(job["bundle"]).manifest.detector.input
    tensors = []
    with open_camera(job["images"], limit=job["distinct"]) as camera:
        for frame in camera:
            if isinstance(frame, Frame):
                window = fit_window(frame.width, frame.height, spec)
                tensors.append(tensor_of(frame.pixels, window, spec))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(job["onnx"], options, providers=["CPUExecutionProvider"])
    return session, spec.name, tensors


def _bare_facts(session: Any) -> dict[str, Any]:
    import onnxruntime

    return {
        "ran": {
            "name": "onnxruntime",
            "version": onnxruntime.__version__,
            "precision": "float32",
            "threads": session.get_session_options().intra_op_num_threads,
        },
        "skipped": 0,
    }


def _found_of(report: FilmReport, fields: int) -> Found:
    found: Found = [[] for _ in range(fields)]
    for cell in report.cells:
        if cell.field < fields:
            found[cell.field].append([*cell.box_xyxy, cell.score])
    return found


def main(arguments: list[str]) -> None:
    """Runs the contender that the job file names and writes its result file."""
    with open(arguments[0], encoding="utf-8") as handle:
        job: Job = json.load(handle)
    marks = Marks()
    result = CONTENDERS[job["contender"]](job, marks)
    ended = time.monotonic()

    # After the clock has stopped: this module is not part of any contender.
    from benchmarks.machine import peak_memory_bytes

    result |= {
        "first": marks.first,
        "last": marks.last,
        "ended": ended,
        "fields": marks.fields,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    with open(job["result"], "w", encoding="utf-8") as handle:
        json.dump(result, handle)


if __name__ == "__main__":
    main(sys.argv[1:])
