"""How old a frame is when its result is there, while inference is slower than the camera.

Owns this measurement: the same paced camera read by our reader and film loop, and by a loop as it
is commonly written around ``cv2.VideoCapture``, at the same time. Does not own the reader (see
``edge_runtime.cameras.newest_frame``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import WorkMeter, percentile
from edge_runtime.cameras.device import CameraDevice
from edge_runtime.cameras.paced import DRIVER_BUFFERS, PacedDevice
from edge_runtime.cameras.watchdog import WatchedCamera
from edge_runtime.live_feed import LiveFeed
from edge_runtime.types import CameraSession, Frame, SkippedFrame, UInt8Image

# Fields whose figures are left out: the reader does not know yet how fast its consumer is.
_WARM_UP = 3
# The age of the first and the last tenth tell whether it grows.
_END_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Overload:
    """A camera, and an inference that does not keep up with it.

    Attributes:
        fps: of the camera.
        inference_ms: per frame. It is waited for and not computed, so that it takes the same time
            on every machine and for every reader.
        seconds: of the measurement.
        size: width and height in pixels.
    """

    fps: float = 30.0
    inference_ms: float = 100.0
    seconds: float = 20.0
    size: tuple[int, int] = (1280, 720)


@dataclass(frozen=True, slots=True)
class _Result:
    age_ms: float
    inference_ms: float


def measure_frame_age(
    plan: Overload, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Ages of frames at their result, of three readers in one run.

    Returns:
        ``rows``, one a reader, and ``targets``.
    """
    width, height = plan.size
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (height, width, 3), np.uint8) for _ in range(4)]
    readers: dict[str, Callable[[], Iterator[_Result]]] = {
        "leukoscope": lambda: _ours(pictures, plan),
        "fifo_driver": lambda: _fifo(pictures, plan, DRIVER_BUFFERS),
        "fifo_stream": lambda: _fifo(pictures, plan, None),
    }
    results: dict[str, list[_Result]] = {}

    def run(name: str) -> None:
        results[name] = list(readers[name]())

    before = WorkMeter.read()
    threads = [threading.Thread(target=run, args=(name,), name=name) for name in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    others = WorkMeter.read().others_share_since(before)
    rows = [_row(name, results[name][_WARM_UP:]) for name in readers]
    for row in rows:
        progress(f"{row['reader']}: 99 % below {row['p99_ms']:.0f} ms, last {row['last_ms']:.0f}")
    period_ms = 1000 / plan.fps
    ours, _, stream = rows
    most = 2 * ours["inference_p50_ms"] + period_ms
    return {
        "how": (
            "Three readers of one kind of paced camera, at the same time, each with an inference "
            "of the same length that is waited for. Age: from capture to result. leukoscope: the "
            "reader thread and the film loop of a live camera. fifo_driver: read, infer, read, "
            "over a driver with four buffers that drops what does not fit, as V4L2. fifo_stream: "
            "the same over a source that drops nothing, as a network stream or a pipeline without "
            "drop=true. The camera is synthetic: time in a cable, a driver or a decoder is not in "
            "it."
        ),
        "fps": plan.fps,
        "inference_ms": plan.inference_ms,
        "seconds": plan.seconds,
        "resolution_px": list(plan.size),
        "others_share": others,
        "targets": [
            {
                "name": "p99 of the age at most twice the inference and one frame period",
                "figure": "p99_ms",
                "at_most": round(most, 1),
                "measured": ours["p99_ms"],
                "met": ours["p99_ms"] <= most,
            },
            {
                "name": "a plain loop over a stream grows older without bound",
                "figure": "growth_ms_per_s",
                # Of each second, the loop gets done what the camera makes in less of one.
                "at_least": 100.0,
                "measured": stream["growth_ms_per_s"],
                "met": stream["growth_ms_per_s"] >= 100.0,
            },
        ],
        "rows": rows,
    }


def _ours(pictures: list[UInt8Image], plan: Overload) -> Iterator[_Result]:
    def opened(before: CameraSession | None) -> CameraDevice:
        return PacedDevice(pictures, plan.fps)

    def examine(frame: Frame, waited_s: float) -> tuple[Frame, float]:
        return frame, _infer(plan)

    until = time.monotonic() + plan.seconds
    with WatchedCamera(opened, source="paced", name="paced") as camera:
        feed = LiveFeed(camera, examine, streams=1)
        with closing(feed.results(lambda: time.monotonic() > until)) as results:
            for done in results:
                if done is None or isinstance(done, SkippedFrame):
                    continue
                frame, inference_ms = done.result()
                yield _Result(_age_ms(frame.captured_at_ns), inference_ms)


def _fifo(pictures: list[UInt8Image], plan: Overload, buffers: int | None) -> Iterator[_Result]:
    device = PacedDevice(pictures, plan.fps, buffers=buffers)
    until = time.monotonic() + plan.seconds
    while time.monotonic() < until:
        captured_at_ns = device.grab()
        device.retrieve()
        inference_ms = _infer(plan)
        yield _Result(_age_ms(captured_at_ns), inference_ms)


def _infer(plan: Overload) -> float:
    """Waits as long as inference would take; how long that was, in ms."""
    began = time.monotonic()
    time.sleep(plan.inference_ms / 1000)
    return (time.monotonic() - began) * 1000


def _age_ms(captured_at_ns: int) -> float:
    return (time.monotonic_ns() - captured_at_ns) / 1e6


def _row(name: str, results: list[_Result]) -> dict[str, Any]:
    ages = [each.age_ms for each in results]
    inference = [each.inference_ms for each in results]
    ends = max(1, round(_END_SHARE * len(ages)))
    first, last = percentile(ages[:ends], 50), percentile(ages[-ends:], 50)
    seconds = sum(inference) / 1000 * (1 - _END_SHARE)
    return {
        "reader": name,
        "frames": len(ages),
        "p50_ms": round(percentile(ages, 50), 1),
        "p95_ms": round(percentile(ages, 95), 1),
        "p99_ms": round(percentile(ages, 99), 1),
        "inference_p50_ms": round(percentile(inference, 50), 1),
        "inference_p99_ms": round(percentile(inference, 99), 1),
        "last_ms": round(last, 1),
        "growth_ms_per_s": round((last - first) / seconds, 1) if seconds else 0.0,
    }
