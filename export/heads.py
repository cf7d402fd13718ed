"""From a float head to its part of a bundle: calibrate, quantise, compare, choose, describe.

Owns the order of these steps for the classifier and the attribute head, and what each is
judged on. Does not own any step itself, nor the decision to write (the caller checks
``HeadResult.passed`` first).

Training cells set the ranges; validation cells decide the gate, the range method, the
temperature and the abstention limit; test cells are only measured on, as they are, last.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from calibration.cell_draw import (
    DEFAULT_CELLS,
    DEFAULT_MINIMUM_CELLS,
    DrawnCells,
    draw_cells,
)
from calibration.confidence import at_temperature, choose_abstention, fit_temperature
from calibration.float_heads import FloatAttributeHead, FloatClassifier
from calibration.histograms import Feed
from calibration.labelled_cells import OpenedCells
from calibration.ranges import METHODS, measure_ranges
from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import (
    Artifact,
    AttributeHeadSpec,
    ClassifierSpec,
    DetectorSpec,
    HeadName,
    ModelCard,
    Precision,
    Runtime,
)
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.film.blasts import blast_classes
from edge_runtime.preprocess import crop_tensor
from export.assembly import METHOD_CHOICES, ArtifactFacts, runs_here
from export.cards import CardText
from export.graph import convolution_work, load_graph
from export.half import also_artifact, unquantised
from export.head_cards import attribute_figures, class_figures, head_card
from export.head_evaluation import (
    HeadOnDetector,
    cell_views_to_tell,
    classify_cells,
    feature_feeds,
    judge_cells,
)
from export.int8_plan import BEST, Int8Plan, SweepChoice, plans_to_try
from export.parity import (
    ALLOWED_BLAST_POINTS,
    ALLOWED_HEAD_POINTS,
    GateRow,
    ParityResult,
    parity_gate,
)
from export.qdq import quantise_for_cpu, quantise_for_tensorrt, tensors_to_measure

_MAKERS = {"cpu": quantise_for_cpu, "tensorrt": quantise_for_tensorrt}
_KINDS = {
    "cpu": "static Q/DQ, uint8 activations, int8 weights per channel, last layer float",
    "tensorrt": (
        "static Q/DQ, symmetric int8, convolutions' weights per channel, other layers float"
    ),
}
_FLOAT, _HALF = "float", "float16"
# Macro-F1 of a variant by domain; variants by name, an int8 one by runtime and method.
_Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a person can decide about a head's export.

    Attributes:
        date: of the measurement, as written into the card.
        method: how ranges are found; ``best`` tries all and takes the one that loses least.
        chosen: by head a sweep's choice of method and blocks left in float, which overrules
            ``method``; a head that is not in it is made by ``method``.
        cells: training cells that set the ranges, at most.
        minimum: fewer are refused.
        allowed_points: of macro-F1, that any domain may lose.
        cpu_only: leave the TensorRT artifact out.
        also: precisions beside int8 that artifacts are made of, float16 or float32.
        outside_differential: classes counted beside the white cells, where it has them.
        blasts: classes that count as blasts; None takes those that are called so.
        allowed_blast_points: of blast recall, that any domain may lose.
    """

    date: str
    method: str = BEST
    chosen: Mapping[str, SweepChoice] | None = None
    cells: int = DEFAULT_CELLS
    minimum: int = DEFAULT_MINIMUM_CELLS
    seed: int = 0
    allowed_points: float = ALLOWED_HEAD_POINTS
    threads: int = 1
    cpu_only: bool = False
    also: tuple[Precision, ...] = ()
    outside_differential: tuple[str, ...] = ()
    blasts: tuple[str, ...] | None = None
    allowed_blast_points: float = ALLOWED_BLAST_POINTS

    def __post_init__(self) -> None:
        if self.method not in METHOD_CHOICES:
            raise SettingsError(
                f"calibration method {self.method!r}: choose one of {', '.join(METHOD_CHOICES)}"
            )

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """Families an artifact is made for."""
        return ("cpu",) if self.cpu_only else ("cpu", "tensorrt")


@dataclass(frozen=True, slots=True)
class HeadResult:
    """A head's part of a bundle and everything it was judged by."""

    head: HeadName
    spec: ClassifierSpec | AttributeHeadSpec
    contents: Mapping[str, bytes]
    card: ModelCard
    gate: tuple[GateRow, ...]
    artifacts: tuple[ArtifactFacts, ...]

    @property
    def passed(self) -> bool:
        """Every artifact, on every backend it was tried on, in every domain."""
        return all(row.parity.passed for row in self.gate)


@dataclass(frozen=True, slots=True)
class DetectorGraphs:
    """The detector whose maps an attribute head reads.

    Attributes:
        spec: with its feature maps.
        float_model: ONNX bytes, with the maps among its outputs.
        int8: the artifacts' bytes by runtime family, likewise.
    """

    spec: DetectorSpec
    float_model: bytes
    int8: Mapping[Runtime, bytes]


def assemble_classifier(
    made: FloatClassifier,
    cells: OpenedCells,
    card: CardText,
    options: HeadOptions,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> HeadResult:
    """Makes and measures a classifier's int8 artifacts.

    Args:
        made: the float classifier.
        cells: what it was trained and is to be judged on.
        card: what people wrote of it.
        options: see there.
        say: told every step.

    Raises:
        DataError: no, too little or unusable data, or cells of other classes.
        BackendError: a backend refuses a graph.
    """
    if cells.cells.classes != made.spec.classes:
        raise DataError(
            f"classifier: tells {', '.join(made.spec.classes)} apart, its cells.json labels "
            f"{', '.join(cells.cells.classes)}; give the run's own"
        )
    outside = tuple(name for name in options.outside_differential if name in made.spec.classes)
    blasts = _blasts(made.spec.classes, outside, options)
    spec = made.spec.model_copy(update={"outside_differential": outside, "blasts": blasts})
    drawn = _draw(cells, options)
    views = cell_views_to_tell(cells.cells, "val")

    def feeds() -> Iterable[Feed]:
        return (crop_tensor(pixels, boxes, spec.input) for pixels, boxes in drawn.fields())

    def measure(variants: Mapping[str, bytes], backend: str) -> _Figures:
        answers = classify_cells(
            spec, variants, cells, "val", backend=backend, threads=options.threads, views=views
        )
        return {
            name: {d: f.macro_f1 for d, f in answers.figures(spec.classes, name).items()}
            for name in variants
        }

    chosen = _choose("classifier", made.model, feeds, measure, drawn, options, say)
    gate = chosen.gate
    if blasts:
        say(f"classifier: recall of {', '.join(blasts)} on validation cells")
        gate = (*gate, *_blast_gate(spec, made.model, chosen, cells, views, options))
    say("classifier: temperature and abstention on validation cells")
    cpu = chosen.int8["cpu"].model
    answers = classify_cells(spec, {"int8": cpu}, cells, "val", threads=options.threads)
    temperature = fit_temperature(answers.probabilities["int8"], answers.truth)
    calibrated = at_temperature(answers.probabilities["int8"], temperature)
    spec = spec.model_copy(
        update={
            "temperature": temperature,
            "abstain_below": choose_abstention(calibrated, answers.truth),
            "artifacts": chosen.artifacts,
        }
    )
    say("classifier: test cells")
    metrics: dict[str, dict[str, float]] = {}
    if cells.cells.of_split("test"):
        on_test = classify_cells(spec, {"int8": cpu}, cells, "test", threads=options.threads)
        metrics = class_figures(spec, on_test, "int8")
    return _result("classifier", spec, chosen, gate, card, metrics, options)


def assemble_attribute_head(
    made: FloatAttributeHead,
    detector: DetectorGraphs,
    cells: OpenedCells,
    card: CardText,
    options: HeadOptions,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> HeadResult:
    """Makes and measures an attribute head's int8 artifacts.

    Float is the float head on the float detector's maps, int8 each int8 head on those of
    the int8 detector it is shipped with.

    Args:
        made: the float head.
        detector: whose maps it reads.
        cells: what it was trained and is to be judged on.
        card: what people wrote of it.
        options: see there.
        say: told every step.

    Raises:
        DataError: no, too little or unusable data, or cells of another schema.
        BackendError: a backend refuses a graph.
    """
    spec = made.spec
    if cells.cells.attributes != spec.attributes:
        labelled = cells.cells.attributes
        raise DataError(
            f"attribute head: made for schema {spec.attributes.name!r}, its cells.json is labelled "
            f"by {'none' if labelled is None else repr(labelled.name)} or another of that name; "
            "give the run's own"
        )
    drawn = _draw(cells, options)
    views = cell_views_to_tell(cells.cells, "val")

    def feeds() -> Iterable[Feed]:
        return feature_feeds(spec, detector.spec, detector.float_model, drawn.fields())

    def paired(variants: Mapping[str, bytes]) -> dict[str, HeadOnDetector]:
        return {
            name: HeadOnDetector(
                model,
                detector.float_model
                if name in (_FLOAT, _HALF)
                else detector.int8[_runtime_of(name)],
            )
            for name, model in variants.items()
        }

    def measure(variants: Mapping[str, bytes], backend: str) -> _Figures:
        answers = judge_cells(
            spec,
            detector.spec,
            paired(variants),
            cells,
            "val",
            backend=backend,
            threads=options.threads,
            views=views,
        )
        return {
            name: {
                domain: figures.mean_macro_f1 or 0.0
                for domain, figures in answers.figures(spec.attributes, name).items()
            }
            for name in variants
        }

    chosen = _choose("attribute_head", made.model, feeds, measure, drawn, options, say)
    spec = spec.model_copy(update={"artifacts": chosen.artifacts})
    say("attribute_head: test cells")
    metrics: dict[str, dict[str, float]] = {}
    if cells.cells.of_split("test"):
        variants = {"int8": HeadOnDetector(chosen.int8["cpu"].model, detector.int8["cpu"])}
        on_test = judge_cells(spec, detector.spec, variants, cells, "test", threads=options.threads)
        metrics = attribute_figures(spec, on_test, "int8")
    return _result("attribute_head", spec, chosen, chosen.gate, card, metrics, options)


@dataclass(frozen=True, slots=True)
class _Quantised:
    """One artifact, how its ranges were found, and the verdict on ONNX Runtime."""

    artifact: Artifact
    model: bytes
    parity: ParityResult


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The artifacts of a head, and the verdicts on its main figure.

    Attributes:
        int8: by runtime family.
        beside: artifacts of other precisions with their bytes.
    """

    int8: dict[Runtime, _Quantised]
    beside: tuple[tuple[Artifact, bytes], ...]
    gate: tuple[GateRow, ...]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        return (
            *(each.artifact for each in self.int8.values()),
            *(artifact for artifact, _ in self.beside),
        )

    @property
    def models(self) -> dict[str, bytes]:
        """Bytes by path."""
        made = {each.artifact.path: each.model for each in self.int8.values()}
        return made | {artifact.path: model for artifact, model in self.beside}


def _blasts(
    classes: tuple[str, ...], outside: tuple[str, ...], options: HeadOptions
) -> tuple[str, ...]:
    if options.blasts is None:
        return blast_classes([name for name in classes if name not in outside])
    for name in options.blasts:
        if name not in classes or name in outside:
            what = "counted outside the differential" if name in outside else "no class of it"
            raise SettingsError(
                f"blast class {name!r}: {what}; the classifier has {', '.join(classes)}"
            )
    return options.blasts


def _blast_gate(
    spec: ClassifierSpec,
    float_model: bytes,
    chosen: _Chosen,
    cells: OpenedCells,
    views: int,
    options: HeadOptions,
) -> tuple[GateRow, ...]:
    """What rounding costs the share of blasts that are called blasts, of whatever kind."""
    runs = [("onnxruntime", chosen.models)]
    if runs_here("openvino"):
        cpu = chosen.int8["cpu"]
        runs.append(("openvino", {cpu.artifact.path: cpu.model}))
    rows: list[GateRow] = []
    known: Mapping[str, float] = {}
    for backend, variants in runs:
        wanted = variants if known else {_FLOAT: float_model, **variants}
        answers = classify_cells(
            spec, wanted, cells, "val", backend=backend, threads=options.threads, views=views
        )
        found = {name: answers.blast_recall(spec.classes, spec.blasts, name) for name in wanted}
        known = known or found[_FLOAT]
        rows += [
            GateRow(
                path,
                backend,
                "blast recall",
                parity_gate(known, found[path], allowed_points=options.allowed_blast_points),
            )
            for path in variants
        ]
    return tuple(rows)


def _draw(cells: OpenedCells, options: HeadOptions) -> DrawnCells:
    return draw_cells(cells, cells=options.cells, minimum=options.minimum, seed=options.seed)


def _choose(
    head: HeadName,
    float_model: bytes,
    feeds: Callable[[], Iterable[Feed]],
    measure: Callable[[Mapping[str, bytes], str], _Figures],
    drawn: DrawnCells,
    options: HeadOptions,
    say: Callable[[str], None],
) -> _Chosen:
    """Per runtime family the method asked for, or the one that costs it least."""
    variants = {_FLOAT: float_model}
    wanted = tensors_to_measure(float_model)
    swept = (options.chosen or {}).get(head)
    if swept is not None:
        swept.check(head, float_model)
    plans: dict[str, Int8Plan] = {
        f"{plan.runtime} {plan.method}": plan
        for plan in plans_to_try(options.method, options.runtimes, swept)
    }
    for method in sorted({plan.method for plan in plans.values()}, key=METHODS.index):
        say(f"{head}: ranges on {drawn.count} training cells, {method}")
        ranges = measure_ranges(float_model, wanted, feeds, method=method)
        for name, plan in plans.items():
            if plan.method == method:
                make = _MAKERS[plan.runtime]
                variants[name] = make(float_model, ranges, keep_float=plan.kept(float_model))
    say(f"{head}: float and {len(variants) - 1} int8 variants on validation cells")
    figures = measure(variants, "onnxruntime")
    chosen: dict[Runtime, _Quantised] = {}
    for name, plan in plans.items():
        runtime, model = plan.runtime, variants[name]
        parity = parity_gate(figures[_FLOAT], figures[name], allowed_points=options.allowed_points)
        worst = parity.worst
        say(f"{head}, {name}: {worst.lost_points:+.2f} macro-F1 points lost, on {worst.domain}")
        before = chosen.get(runtime)
        if before is None or worst.lost_points < before.parity.worst.lost_points:
            chosen[runtime] = _Quantised(_artifact(head, plan, drawn), model, parity)
    chosen = {runtime: chosen[runtime] for runtime in options.runtimes}
    gate = [
        GateRow(each.artifact.path, "onnxruntime", "macro-F1", each.parity)
        for each in chosen.values()
    ]
    if runs_here("openvino"):
        cpu = chosen["cpu"]
        say(f"{cpu.artifact.path} on openvino")
        found = measure({"cpu chosen": cpu.model}, "openvino")["cpu chosen"]
        verdict = parity_gate(figures[_FLOAT], found, allowed_points=options.allowed_points)
        gate.insert(1, GateRow(cpu.artifact.path, "openvino", "macro-F1", verdict))
    beside = []
    for precision in options.also:
        artifact = also_artifact(head, precision)
        model = unquantised(float_model, precision)
        beside.append((artifact, model))
        if precision == "float16":
            say(f"{artifact.path} on validation cells")
            found = measure({_HALF: model}, "onnxruntime")[_HALF]
            verdict = parity_gate(figures[_FLOAT], found, allowed_points=options.allowed_points)
            gate.append(GateRow(artifact.path, "onnxruntime", "macro-F1", verdict))
    return _Chosen(chosen, tuple(beside), tuple(gate))


def _runtime_of(variant: str) -> Runtime:
    return "cpu" if variant.split(maxsplit=1)[0] == "cpu" else "tensorrt"


def _artifact(head: HeadName, plan: Int8Plan, drawn: DrawnCells) -> Artifact:
    return Artifact(
        path=f"{head}.{plan.runtime}.int8.onnx",
        runtime=plan.runtime,
        precision="int8",
        quantisation=(
            f"{_KINDS[plan.runtime]}{plan.left_out}; ranges of {drawn.count} training cells, "
            f"{plan.method}, digest {drawn.digest[:16]}"
        ),
    )


def _result(
    head: HeadName,
    spec: ClassifierSpec | AttributeHeadSpec,
    chosen: _Chosen,
    gate: tuple[GateRow, ...],
    card: CardText,
    metrics: Mapping[str, Mapping[str, float]],
    options: HeadOptions,
) -> HeadResult:
    contents = chosen.models
    cpu = chosen.int8["cpu"]
    with open_backend(backend_row("onnxruntime"), cpu.model, threads=1) as loaded:
        ran_on = f"{loaded.facts.name} {loaded.facts.version}, {platform.machine()}"
    described = head_card(
        card, metrics, gate, metrics_of=f"{cpu.artifact.path}, {ran_on}, {options.date}"
    )
    facts = tuple(
        ArtifactFacts(path, len(model), convolution_work(load_graph(model)).share)
        for path, model in contents.items()
    )
    return HeadResult(head, spec, contents, described, gate, facts)
