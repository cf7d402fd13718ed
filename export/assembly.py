"""From float ONNX to a bundle draft: calibrate, quantise, compare, choose, describe.

Owns the order of these steps and what each is judged on. Does not own any step itself,
nor the decision to write (the caller checks ``ExportResult.passed`` first).

Which fields serve what: training pictures set the ranges; validation fields decide the
gate, the range method and the operating point, each domain in as many mirrored views as it
takes to tell half a point; test fields are only measured on, as they are, last.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from calibration.accuracy import (
    DetectionMetrics,
    LabelledFinds,
    OperatingPoint,
    choose_operating_point,
    evaluate_detections,
)
from calibration.dataset import CalibrationSet
from calibration.fields import LabelledField
from calibration.ranges import METHODS, calibration_tensors, measure_ranges
from calibration.sampling import (
    DEFAULT_IMAGES,
    DEFAULT_MINIMUM,
    check_calibration_set,
    draw_calibration_set,
    hash_files,
)
from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import (
    Artifact,
    CalibrationSummary,
    DetectorSpec,
    Precision,
    Runtime,
    WorkingScale,
)
from edge_runtime.errors import BackendError, SettingsError
from export.bundle_writer import DEFAULT_SCALE, DEFAULT_THRESHOLDS, BundleDraft, detector_spec
from export.cards import CardText, model_card, with_card
from export.evaluation import find_in_domains, views_to_tell
from export.graph import convolution_work, decode_of, load_graph
from export.half import also_artifact, unquantised
from export.int8_plan import BEST, Int8Plan, SweepChoice, plans_to_try
from export.parity import ALLOWED_POINTS, GateRow, ParityResult, parity_gate
from export.qdq import quantise_for_cpu, quantise_for_tensorrt, tensors_to_measure
from export.trained_scales import TrainedScales
from export.training_run import TrainingRun

METHOD_CHOICES = (*METHODS, BEST)
CALIBRATION_NAME = "calibration.json"
CPU = Artifact(
    path="detector.cpu.int8.onnx",
    runtime="cpu",
    precision="int8",
    quantisation="static Q/DQ, uint8 activations, int8 weights per channel, last layers float",
)
TENSORRT = Artifact(
    path="detector.tensorrt.int8.onnx",
    runtime="tensorrt",
    precision="int8",
    quantisation="static Q/DQ, symmetric int8, weights per channel, last layers float",
)
_MAKERS = {
    "cpu": (CPU.path, quantise_for_cpu),
    "tensorrt": (TENSORRT.path, quantise_for_tensorrt),
}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What a person can decide about an export.

    Attributes:
        method: how ranges are found; ``best`` tries all and takes the one that loses least.
        calibration_set: an earlier draw to use again instead of drawing.
        score: operating point; None chooses it on the validation fields.
        date: of the measurement, as written into the card.
        chosen: a sweep's choice of method and blocks left in float; it overrules ``method``.
        cpu_only: leave the TensorRT artifact out; the manifest then names none.
        also: precisions beside int8 that artifacts are made of, float16 or float32.
    """

    name: str
    version: str
    date: str
    calibration_images: int = DEFAULT_IMAGES
    calibration_minimum: int = DEFAULT_MINIMUM
    seed: int = 0
    method: str = "minmax"
    chosen: SweepChoice | None = None
    calibration_set: CalibrationSet | None = None
    allowed_points: float = ALLOWED_POINTS
    score: float | None = None
    working_scale: WorkingScale = DEFAULT_SCALE
    threads: int = 1
    cpu_only: bool = False
    also: tuple[Precision, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in METHOD_CHOICES:
            raise SettingsError(
                f"calibration method {self.method!r}: choose one of {', '.join(METHOD_CHOICES)}"
            )


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """Size and the share of convolution work between Q/DQ pairs, 0..1."""

    path: str
    size: int
    quantised_share: float


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A draft and everything it was judged by."""

    draft: BundleDraft
    calibration: CalibrationSet
    method: str
    gate: tuple[GateRow, ...]
    operating_point: OperatingPoint
    float_test: Mapping[str, DetectionMetrics]
    int8_test: Mapping[str, DetectionMetrics]
    artifacts: tuple[ArtifactFacts, ...]

    @property
    def passed(self) -> bool:
        """Every artifact, on every backend it was tried on, in every domain."""
        return all(row.parity.passed for row in self.gate)


def assemble(
    run: TrainingRun,
    float_model: bytes,
    card: CardText,
    options: ExportOptions,
    *,
    trained: TrainedScales | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ExportResult:
    """Makes and measures both int8 artifacts.

    Args:
        run: where the data is.
        float_model: the run's checkpoint as float ONNX.
        card: what people wrote of the model.
        options: see there.
        trained: int8 scales of quantisation-aware training, where the run was one.
        say: told every step.

    Raises:
        DataError: no, too little or unusable data.
        BackendError: a backend refuses a graph.
    """
    spec = detector_spec(
        architecture=run.architecture,
        image_size=run.image_size,
        artifacts=_artifacts(options, trained),
        working_scale=options.working_scale,
        decode=decode_of(load_graph(float_model)),
    )
    validation, test = run.validation_fields(), run.test_fields()
    say("drawing the calibration set")
    calibration = _draw(run, spec, options, [*validation.values(), *test.values()])
    say(f"float model on {_count(validation)} validation fields")
    measure = _Measurement(spec, validation, options, views_to_tell(validation))
    float_finds = measure.finds(float_model, "onnxruntime")
    float_ap = measure.ap(float_finds)

    made = _quantise(run, float_model, measure, float_ap, calibration, trained, say)
    models = {path: each.model for path, each in made.items()}
    models |= {
        also_artifact("detector", each).path: unquantised(float_model, each)
        for each in options.also
    }
    gate = [GateRow(path, "onnxruntime", "AP50-95", each.parity) for path, each in made.items()]
    if runs_here("openvino"):
        say(f"{CPU.path} on openvino")
        ap = measure.ap(measure.finds(models[CPU.path], "openvino"))
        verdict = parity_gate(float_ap, ap, allowed_points=options.allowed_points)
        gate.insert(1, GateRow(CPU.path, "openvino", "AP50-95", verdict))
    if "float16" in options.also:
        half = also_artifact("detector", "float16").path
        say(f"{half} on validation fields")
        ap = measure.ap(measure.finds(models[half], "onnxruntime"))
        verdict = parity_gate(float_ap, ap, allowed_points=options.allowed_points)
        gate.append(GateRow(half, "onnxruntime", "AP50-95", verdict))
    point = _operating_point(made[CPU.path].finds, options.score)
    score = point.score
    say(f"both on {_count(test)} test fields")
    on_test = _Measurement(spec, test, options)
    float_test = on_test.metrics(on_test.finds(float_model, "onnxruntime"), score)
    int8_test = on_test.metrics(on_test.finds(models[CPU.path], "onnxruntime"), score)
    spec = spec.model_copy(
        update={
            "thresholds": DEFAULT_THRESHOLDS.model_copy(update={"score": score}),
            "artifacts": _described(spec.artifacts, made),
        }
    )
    chosen = _methods(made)
    draft = _draft(spec, calibration, chosen, card, int8_test, models, options)
    draft = replace(draft, parity=tuple(row.record() for row in gate))
    facts = tuple(
        ArtifactFacts(path, len(content), convolution_work(load_graph(content)).share)
        for path, content in models.items()
    )
    return ExportResult(
        draft, calibration, chosen, tuple(gate), point, float_test, int8_test, facts
    )


@dataclass(frozen=True, slots=True)
class _Measurement:
    """Models on the same fields in the same way."""

    spec: DetectorSpec
    fields: Mapping[str, Sequence[LabelledField]]
    options: ExportOptions
    views: Mapping[str, int] | None = None

    def finds(self, model: bytes, backend: str) -> dict[str, LabelledFinds]:
        """What a model finds, with the truth, per domain."""
        return find_in_domains(
            self.spec,
            model,
            self.fields,
            backend=backend,
            threads=self.options.threads,
            views=self.views,
        )

    def metrics(
        self, finds: Mapping[str, LabelledFinds], score: float
    ) -> dict[str, DetectionMetrics]:
        """Figures per domain at an operating point."""
        return {
            name: evaluate_detections(truth, found, score=score)
            for name, (truth, found) in finds.items()
        }

    def ap(self, finds: Mapping[str, LabelledFinds]) -> dict[str, float]:
        """AP50-95 per domain; no operating point enters it."""
        return {name: figures.ap for name, figures in self.metrics(finds, 0.5).items()}


@dataclass(frozen=True, slots=True)
class _Quantised:
    """One artifact, how its ranges were found, what it finds and the verdict."""

    plan: Int8Plan
    model: bytes
    finds: dict[str, LabelledFinds]
    parity: ParityResult


def _quantise(
    run: TrainingRun,
    float_model: bytes,
    measure: _Measurement,
    float_ap: Mapping[str, float],
    calibration: CalibrationSet,
    trained: TrainedScales | None,
    say: Callable[[str], None],
) -> dict[str, _Quantised]:
    """The artifacts by path, each with the method asked for, or the one that costs it least.

    Signed and unsigned activations suffer from different ranges, so each artifact has its
    own method. Scales from training are taken where there are any: what was measured then
    only serves tensors that training left alone.
    """
    options, spec = measure.options, measure.spec
    folders = {pool.domain: pool.folder for pool in run.pools()}
    wanted = tensors_to_measure(float_model)
    runtimes: tuple[Runtime, ...] = ("cpu",) if options.cpu_only else ("cpu", "tensorrt")
    if options.chosen is not None:
        options.chosen.check("detector", float_model)
    plans = plans_to_try(options.method, runtimes, options.chosen)
    best: dict[str, _Quantised] = {}
    for method in sorted({plan.method for plan in plans}, key=METHODS.index):
        say(f"ranges on {len(calibration.images)} pictures, {method}")
        ranges = measure_ranges(
            float_model,
            wanted,
            lambda: calibration_tensors(calibration, folders, spec.input),
            method=method,
        )
        for plan in plans:
            if plan.method != method:
                continue
            path, maker = _MAKERS[plan.runtime]
            model = maker(float_model, ranges, trained, keep_float=plan.kept(float_model))
            finds = measure.finds(model, "onnxruntime")
            parity = parity_gate(float_ap, measure.ap(finds), allowed_points=options.allowed_points)
            worst = parity.worst
            say(
                f"{path}, {method}{plan.left_out}: {worst.lost_points:+.2f} AP points lost, on "
                f"{worst.domain}"
            )
            if path not in best or worst.lost_points < best[path].parity.worst.lost_points:
                best[path] = _Quantised(plan, model, finds, parity)
    return {path: best[path] for path, _ in _MAKERS.values() if path in best}


def _described(
    artifacts: Sequence[Artifact], made: Mapping[str, _Quantised]
) -> tuple[Artifact, ...]:
    """The same, with the blocks that were left in float."""
    return tuple(
        each.model_copy(update={"quantisation": each.quantisation + made[each.path].plan.left_out})
        if each.path in made
        else each
        for each in artifacts
    )


def _artifacts(options: ExportOptions, trained: TrainedScales | None) -> list[Artifact]:
    wanted = [CPU] if options.cpu_only else [CPU, TENSORRT]
    beside = [also_artifact("detector", each) for each in options.also]
    if trained is None:
        return [*wanted, *beside]
    scales = {CPU.path: "of weights from training", TENSORRT.path: "from training"}
    rounded = [
        each.model_copy(update={"quantisation": f"{each.quantisation}, scales {scales[each.path]}"})
        for each in wanted
    ]
    return [*rounded, *beside]


def _draw(
    run: TrainingRun,
    spec: DetectorSpec,
    options: ExportOptions,
    judged_on: Sequence[Sequence[LabelledField]],
) -> CalibrationSet:
    evaluated = hash_files([item.image for fields in judged_on for item in fields])
    if options.calibration_set is not None:
        return check_calibration_set(
            options.calibration_set,
            minimum=options.calibration_minimum,
            evaluation_hashes=evaluated,
        )
    return draw_calibration_set(
        run.pools(),
        spec.input,
        images=options.calibration_images,
        minimum=options.calibration_minimum,
        seed=options.seed,
        evaluation_hashes=evaluated,
    )


def _operating_point(finds: Mapping[str, LabelledFinds], score: float | None) -> OperatingPoint:
    if score is None:
        return choose_operating_point(finds)
    figures = {
        name: evaluate_detections(truth, found, score=score)
        for name, (truth, found) in finds.items()
    }
    f1 = [2 * f.recall * f.precision / max(f.recall + f.precision, 1e-12) for f in figures.values()]
    return OperatingPoint(
        score=score,
        f1=sum(f1) / len(f1),
        recall={name: each.recall for name, each in figures.items()},
        precision={name: each.precision for name, each in figures.items()},
    )


def _draft(
    spec: DetectorSpec,
    calibration: CalibrationSet,
    method: str,
    card: CardText,
    metrics: Mapping[str, DetectionMetrics],
    models: Mapping[str, bytes],
    options: ExportOptions,
) -> BundleDraft:
    with open_backend(backend_row("onnxruntime"), models[CPU.path], threads=1) as loaded:
        ran_on = f"{loaded.facts.name} {loaded.facts.version}, {platform.machine()}"
    described = model_card(
        card, metrics, metrics_of=f"{CPU.path}, test splits, {ran_on}, {options.date}"
    )
    summary = CalibrationSummary(
        digest=calibration.digest,
        images=len(calibration.images),
        domains=calibration.domains,
        method=method,
    )
    draft = BundleDraft(
        name=options.name,
        version=options.version,
        detector=spec,
        calibration=summary,
        model_card=described,
        contents={**models, CALIBRATION_NAME: calibration.to_json().encode()},
    )
    return with_card(draft)


def _methods(made: Mapping[str, _Quantised]) -> str:
    """One word where all artifacts share a method, otherwise each with its own."""
    methods = {each.plan.method for each in made.values()}
    if len(methods) == 1:
        return methods.pop()
    return ", ".join(f"{each.plan.method} ({path})" for path, each in made.items())


def runs_here(backend: str) -> bool:
    """Whether a backend is installed and works on this machine."""
    try:
        backend_row(backend)
    except BackendError:
        return False
    return True


def _count(fields: Mapping[str, Sequence[LabelledField]]) -> int:
    return sum(len(group) for group in fields.values())
