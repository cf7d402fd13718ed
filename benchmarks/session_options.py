"""How ONNX Runtime should use several cores, idle and beside other work.

Owns the matrix of session options that ``edge_runtime.backends.onnxruntime`` was chosen
from. Does not own that choice.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.call_rate import call_rate
from benchmarks.machine import WorkMeter, percentile
from edge_runtime.bundle import InputSpec
from edge_runtime.types import Float32Array


@dataclass(frozen=True, slots=True)
class Options:
    """One way of using ``threads`` processor threads."""

    name: str
    one_call: bool
    spinning: bool


OPTIONS: tuple[Options, ...] = (
    Options("one call on all threads, spinning", one_call=True, spinning=True),
    Options("one call on all threads, no spinning", one_call=True, spinning=False),
    Options("one call per thread, no spinning", one_call=False, spinning=False),
)
SURROUNDINGS = ("idle", "one core busy")


def measure_session_options(
    models: Mapping[str, bytes],
    spec: InputSpec,
    *,
    threads: int,
    seconds: float,
    rounds: int,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Latency and rate of every model with every option, idle and beside a busy core.

    Args:
        models: ONNX bytes by a name for people.
        spec: the input they share.
        threads: processor threads, for one call or as many calls.
        seconds: how long each cell of the matrix runs per round.
        rounds: how often the whole matrix is walked.
        progress: takes a line after every cell.
    """
    tensor = np.random.default_rng(1).random((1, 3, spec.height, spec.width), np.float32)
    calls: dict[tuple[str, str, str], list[float]] = {}
    rates: dict[tuple[str, str, str], list[float]] = {}
    others: dict[tuple[str, str, str], list[float]] = {}
    for number in range(1, rounds + 1):
        for name, content in models.items():
            for options in OPTIONS:
                for surroundings in SURROUNDINGS:
                    key = (name, options.name, surroundings)
                    before = WorkMeter.read()
                    with _surroundings(surroundings):
                        latencies, rate = _run(
                            content, options, threads, seconds, {spec.name: tensor}
                        )
                    others.setdefault(key, []).append(WorkMeter.read().others_share_since(before))
                    calls.setdefault(key, []).extend(latencies)
                    rates.setdefault(key, []).append(rate)
                    progress(f"round {number}/{rounds}  {' / '.join(key)}: {rate:.1f} fields/s")
    return {
        "threads": threads,
        "rounds": rounds,
        "seconds_per_round": seconds,
        "rows": [
            {
                "model": key[0],
                "options": key[1],
                "surroundings": key[2],
                "calls": len(latencies),
                "p50_ms": round(percentile(latencies, 50) * 1000, 2),
                "p95_ms": round(percentile(latencies, 95) * 1000, 2),
                "fields_per_s": round(percentile(rates[key], 50), 1),
                "others_share": round(percentile(others[key], 50), 3),
            }
            for key, latencies in calls.items()
        ],
    }


def _run(
    content: bytes,
    options: Options,
    threads: int,
    seconds: float,
    arrays: dict[str, Float32Array],
) -> tuple[list[float], float]:
    """Latencies of all calls in s, and calls per second."""
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads if options.one_call else 1
    chosen.inter_op_num_threads = 1
    chosen.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if options.spinning else "0"
    )
    chosen.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, chosen, providers=["CPUExecutionProvider"])
    return call_rate(
        lambda: session.run(None, arrays),
        callers=1 if options.one_call else threads,
        seconds=seconds,
    )


@contextmanager
def _surroundings(name: str) -> Iterator[None]:
    """Nothing, or one process that keeps a core busy as decoding and a web page do."""
    if name == "idle":
        yield
        return
    busy = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        time.sleep(0.1)  # until it really turns
        yield
    finally:
        busy.kill()
        busy.wait()
