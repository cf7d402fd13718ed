"""Measuring how a head takes to int8: one report, or a sweep over methods and exclusions.

Owns joining the quantiser of ``qdq`` with the measurements of ``calibration``, which cannot
import it. Does not own the heads' data (see ``calibration_subjects``) nor any page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from calibration.histograms import TensorHistogram, observe
from calibration.layer_error import layer_errors
from calibration.ledger import Ledger
from calibration.progress import Progress, counted
from calibration.ranges import METHODS, Method, Range, choose_range
from calibration.report import HeadReport, LayerState, tensor_reports
from calibration.sensitivity import BlockCost, rank_blocks
from calibration.sweep import (
    Candidate,
    SweepResult,
    by_loss,
    by_size,
    candidate_name,
    choose,
    exclusion_sets,
    run_sweep,
)
from edge_runtime.bundle import Runtime
from export.blocks import all_but, blocks_of, last_layers, layer_states
from export.calibration_subjects import Subject
from export.graph import convolution_work, load_graph
from export.qdq import quantise_for_cpu, quantise_for_tensorrt, tensors_to_measure

_MAKERS = {"cpu": quantise_for_cpu, "tensorrt": quantise_for_tensorrt}
# Gives the function that shows a step's progress.
ShowStep = Callable[[str], Any]


class Quantiser:
    """Int8 graphs of one subject: measures once, when first asked, and makes any of them.

    Args:
        subject: the head.
        ledger: keeps ranges; None measures in every run.
        progress: told how many of how many calibration inputs were run, over both passes.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        ledger: Ledger | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self._subject = subject
        self._ledger = ledger
        self._progress = progress

    @cached_property
    def histograms(self) -> Mapping[str, TensorHistogram]:
        """Of every activation that either kind of graph rounds."""
        subject = self._subject
        feeds = counted(subject.feeds, 2 * subject.feed_count, self._progress)
        return observe(subject.float_model, tensors_to_measure(subject.float_model), feeds)

    @cached_property
    def _all_ranges(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        def measure() -> dict[str, Any]:
            return {
                method: {
                    name: [found.low, found.high]
                    for name, found in (
                        (name, choose_range(seen, method)) for name, seen in self.histograms.items()
                    )
                }
                for method in METHODS
            }

        return measure() if self._ledger is None else self._ledger.remember("ranges", {}, measure)

    def ranges(self, method: Method) -> dict[str, Range]:
        """Of every activation, by one method."""
        return {name: Range(*ends) for name, ends in self._all_ranges[method].items()}

    def make(self, runtime: Runtime, method: Method, keep_float: Collection[str] = ()) -> bytes:
        """The int8 graph for a runtime family, some nodes of it left in float."""
        return _MAKERS[runtime](
            self._subject.float_model, self.ranges(method), keep_float=keep_float
        )

    def only(self, runtime: Runtime, method: Method, nodes: Collection[str]) -> bytes:
        """The graph in which only these nodes are int8."""
        return self.make(runtime, method, all_but(self._subject.float_model, nodes))

    def output_error(self, model: bytes) -> dict[str, float]:
        """SQNR of the last layers, dB, by tensor."""
        subject = self._subject
        names = last_layers(subject.float_model)
        return layer_errors(subject.float_model, model, names, subject.compared)


def report_head(
    subject: Subject,
    runtime: Runtime,
    method: Method,
    *,
    blocks: bool = True,
    ledger: Ledger | None = None,
    show: ShowStep,
) -> HeadReport:
    """Measures everything that a report says of one head.

    Args:
        subject: the head.
        runtime: family the int8 graph is for.
        method: of the ranges.
        blocks: measure what each block costs, by far the longest step.
        ledger: keeps what was measured.
        show: gives a context manager with the progress of a named step.

    Raises:
        DataError: no, too little or unusable data.
        BackendError: a backend refuses a graph.
    """
    with show(f"{subject.head}: activations") as progress:
        quantiser = Quantiser(subject, progress=progress)
        histograms = quantiser.histograms
    model = quantiser.make(runtime, method)
    layers = layer_states(subject.float_model, model, runtime)
    wanted = [*histograms, *(layer.output for layer in layers)]
    with show(f"{subject.head}: layers, float against int8") as progress:
        compared = counted(subject.compared, 0, progress)
        errors = layer_errors(subject.float_model, model, wanted, compared)
    float_figures: Mapping[str, float] = {}
    int8_figures: Mapping[str, float] = {}
    if subject.judge is not None:
        with show(f"{subject.head}: {subject.figure} of float and int8") as progress:
            float_figures = subject.judge(subject.float_model)
            progress(1, 2)
            int8_figures = subject.judge(model)
            progress(2, 2)
    costs: list[BlockCost] = []
    if blocks:
        costs = _block_costs(subject, quantiser, runtime, method, float_figures, ledger, show)
    return HeadReport(
        head=subject.head,
        runtime=runtime,
        method=method,
        calibrated_on=subject.calibrated_on,
        judged_on=subject.judged_on,
        figure=subject.figure,
        float_size=len(subject.float_model),
        int8_size=len(model),
        quantised_share=convolution_work(load_graph(model)).share,
        float_figures=dict(float_figures),
        int8_figures=dict(int8_figures),
        output_db={name: errors[name] for name in last_layers(subject.float_model)},
        tensors=tensor_reports(
            histograms, ranges_of(model), errors, symmetric=runtime == "tensorrt"
        ),
        layers=tuple(_with_errors(layers, errors)),
        blocks=tuple(costs),
    )


def sweep_head(
    subject: Subject,
    folder: Path,
    *,
    runtimes: Sequence[Runtime],
    methods: Sequence[Method],
    most_costly: Sequence[int],
    show: ShowStep,
) -> SweepResult:
    """Tries every method with every exclusion set for every runtime family.

    Exclusion sets are the most costly blocks, as measured with the first method for the first
    runtime family. What is in ``folder`` already is not measured again.

    Args:
        subject: the head.
        folder: one file per measurement; made when missing.
        runtimes: families to try.
        methods: to try.
        most_costly: how many blocks to leave in float; 0 is always tried.
        show: gives a context manager with the progress of a named step.

    Raises:
        DataError: no, too little or unusable data.
        BackendError: a backend refuses a graph.
        StoreError: the folder cannot be written.
    """
    ledger = subject_ledger(subject, folder)
    float_figures: Mapping[str, float] = {}
    with show(f"{subject.head}: float") as progress:
        if subject.judge is not None:
            judge = subject.judge
            float_figures = ledger.remember("float", {}, lambda: dict(judge(subject.float_model)))
        progress(1, 1)
    with show(f"{subject.head}: activations") as progress:
        quantiser = Quantiser(subject, ledger=ledger, progress=progress)
        quantiser.ranges(methods[0])
    runtime = runtimes[0]
    costs = _block_costs(subject, quantiser, runtime, methods[0], float_figures, ledger, show)
    blocks = blocks_of(subject.float_model)

    def make(candidate: Candidate) -> bytes:
        nodes = {node for block in candidate.exclusion.blocks for node in blocks[block]}
        wanted: Runtime = "tensorrt" if candidate.runtime == "tensorrt" else "cpu"
        return quantiser.make(wanted, candidate.method, nodes)

    candidates = [
        Candidate(each, method, exclusion)
        for exclusion in exclusion_sets(costs, most_costly)
        for each in runtimes
        for method in methods
    ]
    with show(f"{subject.head}: candidates") as progress:
        results = run_sweep(
            candidates,
            make,
            quantiser.output_error,
            ledger,
            judge=subject.judge,
            float_figures=float_figures or None,
            allowed_points=subject.allowed_points,
            progress=progress,
        )
    return SweepResult(
        head=subject.head,
        figure=subject.figure,
        calibrated_on=subject.calibrated_on,
        judged_on=subject.judged_on,
        allowed_points=subject.allowed_points,
        float_size=len(subject.float_model),
        float_figures=dict(float_figures),
        blocks=tuple(costs),
        blocks_for=f"{runtime}, {methods[0]}",
        by_loss=tuple(by_loss(results)),
        by_size=tuple(candidate_name(each) for each in by_size(results)),
        chosen={key: candidate_name(each) for key, each in choose(results).items()},
        trial=subject.trial,
    )


def subject_ledger(subject: Subject, folder: Path) -> Ledger:
    """Results that depend on this head, its data and the runtime that runs it here."""
    import onnxruntime

    identity = {
        "head": subject.head,
        "float": hashlib.sha256(subject.float_model).hexdigest(),
        "calibration": subject.digest,
        "judged": subject.judged_digest,
        "onnxruntime": onnxruntime.__version__,
    }
    return Ledger(folder, identity)


def _block_costs(
    subject: Subject,
    quantiser: Quantiser,
    runtime: Runtime,
    method: Method,
    float_figures: Mapping[str, float],
    ledger: Ledger | None,
    show: ShowStep,
) -> list[BlockCost]:
    with show(f"{subject.head}: each block alone in int8") as progress:
        return rank_blocks(
            blocks_of(subject.float_model),
            lambda nodes: quantiser.only(runtime, method, nodes),
            quantiser.output_error,
            judge=subject.judge,
            float_figures=float_figures or None,
            made_by=f"{runtime} {method}",
            ledger=ledger,
            progress=progress,
        )


def ranges_of(model: bytes) -> dict[str, Range]:
    """The ranges an int8 graph really has, read off its pairs: pooling takes its input's."""
    from onnx import numpy_helper

    graph = load_graph(model).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = (stored[name] for name in node.input[1:3])
            # Symmetric graphs leave -128 out.
            least, most = (-127, 127) if zero.dtype == np.int8 else (0, 255)
            low, high = ((end - int(zero)) * float(scale) for end in (least, most))
            found[node.input[0]] = Range(low, high)
    return found


def _with_errors(layers: Sequence[LayerState], errors: Mapping[str, float]) -> list[LayerState]:
    return [layer.model_copy(update={"sqnr_db": errors.get(layer.output)}) for layer in layers]
