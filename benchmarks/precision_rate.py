"""What int8 gains on a processor: the detector's artifact against its float32 model.

Owns the contenders and the ratio. Does not own accuracy (see ``export.parity``) nor whole
films (see ``peers``): only calls of the model are counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.call_rate import call_rate
from benchmarks.machine import WorkMeter, percentile
from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError
from export.graph import load_graph

# What a person gets who opens a session and sets nothing but the number of threads.
PLAIN = "onnxruntime, one call on all threads"
FLOAT, INT8 = "float32", "int8"
WANTED_RATIO = 1.7


@dataclass(frozen=True, slots=True)
class Contender:
    """One model on one runtime.

    Attributes:
        runtime: a backend's name, or ``PLAIN``.
    """

    precision: str
    runtime: str


CONTENDERS = (
    Contender(FLOAT, PLAIN),
    Contender(FLOAT, "onnxruntime"),
    Contender(FLOAT, "openvino"),
    Contender(INT8, "onnxruntime"),
    Contender(INT8, "openvino"),
)


def measure_precisions(
    models: dict[str, bytes],
    spec: InputSpec,
    *,
    threads: int,
    seconds: float,
    rounds: int,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Rates of all contenders on the same threads, their rounds interleaved.

    Args:
        models: ONNX bytes of ``FLOAT`` and ``INT8``, with the same input.
        spec: the input.
        threads: processor threads of every contender.
        seconds: of a contender per round.
        rounds: how often all are walked through.
        progress: takes a line after every contender.

    Returns:
        Rows of the table and the target: int8 through OpenVINO against the faster of the two
        ways of running float32 through ONNX Runtime.

    Raises:
        BackendError: a runtime is not installed, or refuses a model.
    """
    tensor = np.random.default_rng(1).random((1, 3, spec.height, spec.width), np.float32)
    latencies: dict[Contender, list[float]] = {}
    rates: dict[Contender, list[float]] = {}
    others: dict[Contender, list[float]] = {}
    for number in range(1, rounds + 1):
        for each in CONTENDERS:
            before = WorkMeter.read()
            with _opened(each, models[each.precision], threads) as (infer, callers):
                found, rate = call_rate(
                    lambda infer=infer: infer({spec.name: tensor}),  # type: ignore[misc]
                    callers=callers,
                    seconds=seconds,
                )
            others.setdefault(each, []).append(WorkMeter.read().others_share_since(before))
            latencies.setdefault(each, []).extend(found)
            rates.setdefault(each, []).append(rate)
            progress(f"round {number}/{rounds}  {each.precision} / {each.runtime}: {rate:.1f}/s")
    medians = {each: percentile(values, 50) for each, values in rates.items()}
    peer = max(medians[each] for each in CONTENDERS[:2])
    ratio = medians[CONTENDERS[-1]] / peer
    return {
        "threads": threads,
        "rounds": rounds,
        "seconds_per_round": seconds,
        "rows": [
            {
                "precision": each.precision,
                "runtime": each.runtime,
                "p50_ms": round(percentile(latencies[each], 50) * 1000, 2),
                "fields_per_s": round(medians[each], 1),
                "against_float32": round(medians[each] / peer, 3),
                "others_share": round(percentile(others[each], 50), 3),
            }
            for each in CONTENDERS
        ],
        "targets": [
            {
                "name": "int8 through OpenVINO against float32 through ONNX Runtime",
                "figure": "fields_per_s",
                "at_least": WANTED_RATIO,
                "ratio": round(ratio, 4),
                "met": ratio >= WANTED_RATIO,
            }
        ],
    }


def finds_only(model: bytes, output: str) -> bytes:
    """The model with one output: feature maps that a head reads cost time to hand over.

    Raises:
        DataError: it is no ONNX model, or has no such output.
    """
    import onnx

    graph = load_graph(model)
    kept = [each for each in graph.graph.output if each.name == output]
    if not kept:
        raise DataError(f"model: no output {output!r}; give the bundle's own checkpoint")
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


@contextmanager
def _opened(
    contender: Contender, model: bytes, threads: int
) -> Iterator[tuple[Callable[[dict[str, Any]], object], int]]:
    """How to call the model, and from how many threads at once."""
    if contender.runtime == PLAIN:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        yield lambda arrays: session.run(None, arrays), 1
        return
    with open_backend(backend_row(contender.runtime), model, threads=threads) as backend:
        yield backend.infer, backend.streams
