"""``leukoscope run`` against its peers: same float ONNX, images and threads, in one run.

Owns rounds, the clean environment, the comparison with the issue's targets and the result's
fields. Does not own what a contender does (see ``contender``).

Each contender runs in a fresh process; the rounds are interleaved (A B C A B C …), so that a
machine that grows warm or busy slows all of them and not the last one only.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from benchmarks.agreement import SAME_IOU, SAME_SHARE, SURE_SCORE, agreement
from benchmarks.child_process import limited_cores, run_child
from benchmarks.float_model import swap_in_float_model
from benchmarks.machine import WorkMeter, named_without_machine
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import DataError
from edge_runtime.image_file import IMAGE_SUFFIXES

_WARM_UP_FIELDS = 8
_OURS, _PEER = "leukoscope", "ultralytics"

Model = Literal["float", "shipped"]


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the comparison.

    Attributes:
        function: its name in ``contender.CONTENDERS``.
        model: the float model all share, or the shipped bundle's own artifact.
        report: whether a film report is written as well.
        startup: whether memory and time to the first result mean anything for it.
    """

    name: str
    about: str
    function: str
    model: Model = "float"
    backend: str = "onnxruntime"
    report: bool = False
    startup: bool = True


CONTENDERS: tuple[Contender, ...] = (
    Contender(
        "leukoscope",
        "leukoscope run with the float ONNX: reads, decodes, detects; no report written",
        "leukoscope",
    ),
    Contender(
        "ultralytics",
        "Ultralytics YOLO(onnx, task='detect').predict(source=folder, stream=True, batch=1)",
        "ultralytics",
    ),
    Contender(
        "session_run",
        "bare session.run on preloaded tensors, one call on all threads, default spinning",
        "session_run",
        startup=False,
    ),
    Contender(
        "session_run_callers",
        "bare session.run on preloaded tensors, one caller per thread, one thread per call",
        "session_run_callers",
        startup=False,
    ),
    Contender(
        "leukoscope_shipped",
        "leukoscope run with the shipped artifact on ONNX Runtime; no report written",
        "leukoscope",
        model="shipped",
    ),
    Contender(
        "leukoscope_shipped_openvino",
        "leukoscope run with the shipped artifact on OpenVINO; no report written",
        "leukoscope",
        model="shipped",
        backend="openvino",
    ),
    Contender(
        "leukoscope_report",
        "leukoscope run with the float ONNX, film.json, cells.csv and report.html written",
        "leukoscope",
        report=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Target:
    """One thing the comparison must show: a figure of ours against a peer's."""

    name: str
    figure: str
    peer: str
    at_least: float | None = None
    at_most: float | None = None


TARGETS: tuple[Target, ...] = (
    Target("rate against Ultralytics", "fields_per_s", "ultralytics", at_least=1.7),
    Target("memory against Ultralytics", "peak_memory_mb", "ultralytics", at_most=1 / 4),
    Target("first result against Ultralytics", "first_result_s", "ultralytics", at_most=1 / 8),
    Target("rate against bare session.run", "fields_per_s", "session_run", at_least=0.85),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared, and how often.

    Attributes:
        onnx: the float model.
        bundle: bundle folder or file; gives input and thresholds, and the shipped artifact.
        images: folders.
        threads: processor threads for inference, and processor cores for the whole contender.
        fields: at least so many per run; the images are repeated until there are enough.
    """

    onnx: Path
    bundle: Path
    images: Sequence[Path]
    threads: int = 2
    rounds: int = 3
    fields: int = 400
    contenders: Sequence[Contender] = CONTENDERS


def compare(plan: Comparison, progress: Callable[[str], None]) -> dict[str, Any]:
    """Runs all contenders and puts their medians beside each other.

    Raises:
        BundleError: the bundle does not verify.
        DataError: a folder holds no image, or a contender could not use one.
        LeukoscopeError: a contender failed.
    """
    bundle = open_bundle(plan.bundle)
    images = {folder: _images_in(folder) for folder in plan.images}
    every = [image for inside in images.values() for image in inside]
    copies = max(1, -(-plan.fields // len(every)))
    with (
        tempfile.TemporaryDirectory(prefix="leukoscope-bench-") as name,
        limited_cores(plan.threads) as cores,
    ):
        scratch = Path(name)
        film = _film_of(every, copies, scratch / "film")
        short = _film_of(every[:_WARM_UP_FIELDS], 1, scratch / "short")
        runner = _Runner(plan, bundle, scratch)
        able = [each for each in plan.contenders if _unable(each) is None]
        for each in able:
            progress(f"warming up {each.name}")
            runner.run(each, short, fields=min(_WARM_UP_FIELDS, len(every)), distinct=1)
        runs: dict[str, list[dict[str, Any]]] = {each.name: [] for each in able}
        found: dict[str, dict[str, Any]] = {}
        for number in range(1, plan.rounds + 1):
            for each in able:
                figures, seen = runner.run(
                    each, film, fields=copies * len(every), distinct=len(every)
                )
                runs[each.name].append(figures)
                found[each.name] = seen
                progress(
                    f"round {number}/{plan.rounds}  {each.name}: "
                    f"{figures['fields_per_s']:.1f} fields/s"
                )
    rows = {each.name: _row(each, runs[each.name], found[each.name]["ran"]) for each in able}
    content, spec = plan.onnx.read_bytes(), bundle.manifest.detector.input
    return {
        "model": {
            "float_onnx_sha256": hashlib.sha256(content).hexdigest(),
            "float_onnx_bytes": len(content),
            "bundle": bundle.id,
            "bundle_sha256": bundle.sha256,
            "architecture": bundle.manifest.detector.architecture,
            "input_px": [spec.width, spec.height],
        },
        "data": [
            {"folder": named_without_machine(folder), "images": len(inside)}
            for folder, inside in images.items()
        ],
        "fields_per_run": copies * len(every),
        "threads": plan.threads,
        "rounds": plan.rounds,
        "cores_allowed": cores,
        "how": _HOW,
        "targets": [
            _judge(target, rows) for target in TARGETS if {_OURS, target.peer} <= rows.keys()
        ],
        "agreement": _agreement(found),
        "contenders": rows,
        "left_out": {
            each.name: _unable(each) for each in plan.contenders if _unable(each) is not None
        },
    }


_HOW = {
    "fields_per_s": "fields after the first, by the time from the first result to the last",
    "fields_per_s_from_start": "all fields, by the time from process start to the last result",
    "first_result_s": "from just before the process is started to the first field's detections",
    "total_s": "from just before the process is started to its last line of work",
    "peak_memory_mb": "largest resident memory of the process, 10^6 bytes",
    "others_share": "share of the whole machine that other programs used during the run",
    "figures": "median over the rounds; the rounds are interleaved, every run a new process",
    "threads": "leukoscope: so many concurrent calls of one thread; Ultralytics: its ONNX "
    "Runtime session is opened with intra_op_num_threads set to it (else one per core), "
    "torch.set_num_threads and OMP_NUM_THREADS likewise; session_run: intra_op_num_threads",
    "score": "all detectors report from 0.25 on",
}


class _Runner:
    """Starts contenders, each in a clean environment."""

    def __init__(self, plan: Comparison, bundle: Bundle, scratch: Path) -> None:
        self._plan = plan
        self._scratch = scratch
        self._side_px = bundle.manifest.detector.input.width
        self._float_bundle = swap_in_float_model(bundle, plan.onnx, scratch / "float_bundle")

    def run(
        self, contender: Contender, film: Path, *, fields: int, distinct: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Figures of one run, and what the contender found."""
        report = self._scratch / "report"
        job = {
            "contender": contender.function,
            "images": str(film),
            "onnx": str(self._plan.onnx.resolve()),
            "bundle": str(
                self._float_bundle if contender.model == "float" else self._plan.bundle.resolve()
            ),
            "backend": contender.backend,
            "threads": self._plan.threads,
            "side_px": self._side_px,
            "fields": fields,
            "distinct": distinct,
            "report": str(report) if contender.report else None,
            "result": str(self._scratch / "result.json"),
        }
        before, started = WorkMeter.read(), time.monotonic()
        result = run_child("benchmarks.contender", job, self._scratch, name=contender.name)
        after = WorkMeter.read()
        shutil.rmtree(report, ignore_errors=True)
        if result["skipped"] or result["fields"] != fields:
            raise DataError(
                f"contender {contender.name}: {result['fields']} of {fields} fields done, "
                f"{result['skipped']} skipped; remove what is no whole colour image"
            )
        return _figures(result, started, after.others_share_since(before)), result


def _figures(result: Mapping[str, Any], started: float, others_share: float) -> dict[str, Any]:
    first, last, fields = result["first"], result["last"], result["fields"]
    return {
        "fields_per_s": round((fields - 1) / max(last - first, 1e-9), 2),
        "fields_per_s_from_start": round(fields / (last - started), 2),
        "first_result_s": round(first - started, 3),
        "total_s": round(result["ended"] - started, 3),
        "peak_memory_mb": round(result["peak_memory_bytes"] / 1e6, 1),
        "others_share": others_share,
    }


def _row(
    contender: Contender, runs: Sequence[Mapping[str, Any]], ran: Mapping[str, Any]
) -> dict[str, Any]:
    # A bare loop has its tensors ready before its clock starts: it has no such figures.
    meaningless = (
        ()
        if contender.startup
        else ("fields_per_s_from_start", "first_result_s", "total_s", "peak_memory_mb")
    )
    names = [name for name in runs[0] if name not in meaningless]
    return {
        "about": contender.about,
        "ran": dict(ran),
        **{name: round(median(run[name] for run in runs), 3) for name in names},
        "rounds": [{name: run[name] for name in names} for run in runs],
    }


def _judge(target: Target, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    ratio = rows[_OURS][target.figure] / rows[target.peer][target.figure]
    met = (target.at_least is None or ratio >= target.at_least) and (
        target.at_most is None or ratio <= target.at_most
    )
    bound = "at_least" if target.at_least is not None else "at_most"
    return {
        "name": target.name,
        "figure": target.figure,
        "peer": target.peer,
        bound: target.at_least if target.at_least is not None else target.at_most,
        "ratio": round(ratio, 4),
        "met": met,
    }


def _agreement(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Ours against Ultralytics, on the fields that both looked at once and whole."""
    if not {_OURS, _PEER} <= found.keys():
        return None
    ours = [_array(cells) for cells in found[_OURS]["found"]]
    theirs = [_array(cells) for cells in found[_PEER]["found"]]
    windows = found[_OURS]["windows"]
    single = [index for index, count in enumerate(windows) if count == 1]
    compared = agreement([ours[i] for i in single], [theirs[i] for i in single])
    return {
        "same_cells": compared.same,
        "needed_share": SAME_SHARE,
        "score_from": SURE_SCORE,
        "iou_above": SAME_IOU,
        **asdict(compared),
        "fields_with_more_windows": len(windows) - len(single),
        "windows_per_field": round(float(np.mean(windows)), 3),
    }


def _array(cells: Sequence[Sequence[float]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(cells, np.float32).reshape(-1, 5)


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"images {folder}: no such folder; mend --images")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError(f"images {folder}: no image in it; give a folder that holds images itself")
    return found


def _film_of(images: Sequence[Path], copies: int, folder: Path) -> Path:
    """One folder that every contender reads in the same order, images repeated."""
    folder.mkdir()
    for copy in range(copies):
        for index, image in enumerate(images, start=copy * len(images)):
            # Leading zeros: text order and number order must be the same.
            shutil.copyfile(image, folder / f"field_{index:06d}{image.suffix.lower()}")
    return folder


def _unable(contender: Contender) -> str | None:
    if contender.backend != "openvino":
        return None
    from edge_runtime.backends.openvino import unsupported_reason

    return unsupported_reason()
