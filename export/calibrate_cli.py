"""``leukoscope calibrate``: sample, check, ranges, report, sweep.

Owns the flags of those that need the quantiser; ``sample`` and ``check`` are those of
``calibration.cli``, which works without it. Does not own any step.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from calibration.cell_draw import DEFAULT_MINIMUM_CELLS
from calibration.cli import BundleOption, check, named_folders, read_record, sample
from calibration.ranges import METHODS
from calibration.sampling import DEFAULT_MINIMUM
from edge_runtime.errors import SettingsError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from calibration.ranges import Method
    from calibration.sweep import SweepResult
    from edge_runtime.bundle import DetectorSpec, Runtime
    from export.calibration_subjects import Limits, Subject
    from export.training_run import TrainingRun

SWEEP_JSON, SWEEP_HTML = "sweep.json", "sweep.html"
_FOR_PROCESSORS, _EVERY_RUNTIME = ["cpu"], ["cpu", "tensorrt"]
_EVERY_METHOD = [str(method) for method in METHODS]
_EXCLUDED = [1, 2, 4]
T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Choose calibration pictures, measure int8 ranges and what they cost. {RESEARCH_USE}",
)
app.command()(sample)
app.command()(check)

_Out = Annotated[Path, typer.Option(help="folder to write into")]
_Run = Annotated[
    Path | None, typer.Option(help="run folder of a detector; its labels judge the figures")
]
_Data = Annotated[Path | None, typer.Option(help="data root [default: where it lay in training]")]
_Model = Annotated[
    Path | None,
    typer.Option(help="float ONNX of the detector [default: made of the run's checkpoint]"),
]
_Record = Annotated[
    Path | None,
    typer.Option(help="calibration set of `calibrate sample` [default: drawn as export does]"),
]
_Folder = Annotated[
    list[str] | None,
    typer.Option(help="without a run: NAME=FOLDER of a domain of --record; repeat it"),
]
_Classifier = Annotated[Path | None, typer.Option(help="run folder of a classifier")]
_AttributeHead = Annotated[
    Path | None, typer.Option(help="run folder of an attribute head; needs --detector or --run")
]
_Detector = Annotated[
    Path | None, typer.Option(help="checkpoint of the detector the attribute head reads")
]
_RuntimeOption = Annotated[list[str], typer.Option(help="cpu or tensorrt; repeat it")]
_Pictures = Annotated[
    int | None, typer.Option(min=1, help="for a trial: so many calibration pictures or cells only")
]
_Fields = Annotated[
    int | None, typer.Option(min=1, help="for a trial: judge so many fields per domain only")
]
_Views = Annotated[
    int | None,
    typer.Option(
        min=1, help="mirrored views of each field, at most [default: as many as the gate takes]"
    ),
]
_Threads = Annotated[int, typer.Option(min=1, help="fields judged at once")]
_Minimum = Annotated[int, typer.Option(min=1, help="fewer calibration pictures are refused")]
_Seed = Annotated[int, typer.Option(min=0, help="of the draw")]
_MethodsOption = Annotated[list[str], typer.Option(help=f"{', '.join(METHODS)}; repeat it")]
_MethodOption = Annotated[str, typer.Option(help=f"of the ranges: {', '.join(METHODS)}")]


@app.command()
def ranges(
    out: Annotated[Path, typer.Option(help="file to write, JSON")],
    run: _Run = None,
    data: _Data = None,
    model: _Model = None,
    record: _Record = None,
    folder: _Folder = None,
    bundle: BundleOption = None,
    classifier: _Classifier = None,
    attribute_head: _AttributeHead = None,
    detector: _Detector = None,
    pictures: _Pictures = None,
    minimum: _Minimum = DEFAULT_MINIMUM,
    seed: _Seed = 0,
) -> None:
    """Measure the range of every activation by every method, and write them down."""
    import json

    from calibration.progress import shown
    from edge_runtime.clinic.atomic_file import prepare_folder, replacing, utf8
    from export.calibration_runs import Quantiser
    from export.calibration_subjects import Limits

    prepare_folder(out.parent, (out.name,))
    document = {}
    for subject in _subjects(
        run=run,
        data=data,
        model=model,
        record=record,
        folder=folder,
        bundle=bundle,
        classifier=classifier,
        attribute_head=attribute_head,
        detector=detector,
        minimum=minimum,
        seed=seed,
        limits=Limits(pictures=pictures),
    ):
        with shown(f"{subject.head}: activations") as progress:
            quantiser = Quantiser(subject, progress=progress)
            document[subject.head] = {
                "calibrated_on": subject.calibrated_on,
                "digest": subject.digest,
                "ranges": {
                    method: {n: [r.low, r.high] for n, r in quantiser.ranges(method).items()}
                    for method in METHODS
                },
            }
        typer.echo(f"{subject.head}: {len(quantiser.histograms)} activations")
    with replacing(out) as file:
        file.write(utf8(json.dumps(document, indent=1, sort_keys=True) + "\n"))


@app.command()
def report(
    out: _Out,
    run: _Run = None,
    data: _Data = None,
    model: _Model = None,
    record: _Record = None,
    folder: _Folder = None,
    bundle: BundleOption = None,
    classifier: _Classifier = None,
    attribute_head: _AttributeHead = None,
    detector: _Detector = None,
    runtime: _RuntimeOption = _FOR_PROCESSORS,
    method: _MethodOption = "minmax",
    blocks: Annotated[
        bool, typer.Option(help="measure what each block costs, by far the longest step")
    ] = True,
    name: Annotated[str | None, typer.Option(help="heads the page [default: the run's]")] = None,
    pictures: _Pictures = None,
    fields: _Fields = None,
    views: _Views = None,
    threads: _Threads = 1,
    minimum: _Minimum = DEFAULT_MINIMUM,
    seed: _Seed = 0,
    date: Annotated[
        str | None,
        typer.Option(help="date written into it [default: SOURCE_DATE_EPOCH, or today]"),
    ] = None,
) -> None:
    """Write calibration.html and calibration_report.json: ranges, errors, costs, what is float."""
    from calibration.progress import shown
    from calibration.report import CalibrationReport, set_report, write_report
    from export.calibration_runs import report_head, subject_ledger
    from export.calibration_subjects import Limits
    from export.measurement_day import measurement_day

    chosen, runtimes = _method(method), _runtimes(runtime)
    day = measurement_day(date, os.environ)
    subjects = _subjects(
        run=run,
        data=data,
        model=model,
        record=record,
        folder=folder,
        bundle=bundle,
        classifier=classifier,
        attribute_head=attribute_head,
        detector=detector,
        minimum=minimum,
        seed=seed,
        limits=Limits(pictures, fields, views, threads),
    )
    heads = [
        report_head(
            subject,
            each,
            chosen,
            blocks=blocks,
            ledger=subject_ledger(subject, out / "measured"),
            show=shown,
        )
        for subject in subjects
        for each in runtimes
    ]
    drawn = next((subject.pictures for subject in subjects if subject.pictures is not None), None)
    document = CalibrationReport(
        name=name or _name(run, classifier, attribute_head, model),
        date=day,
        pictures=None if drawn is None else set_report(drawn),
        heads=tuple(heads),
    )
    written, page = write_report(document, out)
    for head in heads:
        left = sum(1 for layer in head.layers if not layer.int8)
        typer.echo(
            f"{head.head}, {head.runtime}, {head.method}: {head.quantised_share:.1%} of the "
            f"convolutions' work in int8, {left} layers in float, last layers "
            f"{min(head.output_db.values()):.1f} dB at worst"
        )
    typer.echo(f"{page}\n{written}\n{RESEARCH_USE}")


@app.command()
def sweep(
    out: _Out,
    run: _Run = None,
    data: _Data = None,
    model: _Model = None,
    record: _Record = None,
    folder: _Folder = None,
    bundle: BundleOption = None,
    classifier: _Classifier = None,
    attribute_head: _AttributeHead = None,
    detector: _Detector = None,
    runtime: _RuntimeOption = _EVERY_RUNTIME,
    method: Annotated[
        list[str], typer.Option(help=f"{', '.join(METHODS)}; repeat it")
    ] = _EVERY_METHOD,
    exclude: Annotated[
        list[int],
        typer.Option(min=0, help="leave so many of the most costly blocks in float; repeat it"),
    ] = _EXCLUDED,
    name: Annotated[str | None, typer.Option(help="heads the page [default: the run's]")] = None,
    pictures: _Pictures = None,
    fields: _Fields = None,
    views: _Views = None,
    threads: _Threads = 1,
    minimum: _Minimum = DEFAULT_MINIMUM,
    seed: _Seed = 0,
) -> None:
    """Try every method with every exclusion set, and rank them by loss and by size.

    Goes on where it stopped: each measurement is one file below the folder.
    """
    import json
    import platform

    import onnxruntime

    from calibration.progress import shown
    from calibration.report_page import sweep_page
    from edge_runtime.clinic.atomic_file import prepare_folder, replacing, utf8
    from export.calibration_runs import sweep_head
    from export.calibration_subjects import Limits
    from export.measurement_day import measurement_day

    methods, runtimes = [_method(each) for each in method], _runtimes(runtime)
    prepare_folder(out, (SWEEP_JSON, SWEEP_HTML))
    results = [
        sweep_head(
            subject,
            out / "measured",
            runtimes=runtimes,
            methods=methods,
            most_costly=exclude,
            show=shown,
        )
        for subject in _subjects(
            run=run,
            data=data,
            model=model,
            record=record,
            folder=folder,
            bundle=bundle,
            classifier=classifier,
            attribute_head=attribute_head,
            detector=detector,
            minimum=minimum,
            seed=seed,
            limits=Limits(pictures, fields, views, threads),
        )
    ]
    title = name or _name(run, classifier, attribute_head, model)
    document = {
        "schema_version": 1,
        "research_use": RESEARCH_USE,
        "name": title,
        "date": measurement_day(None, os.environ),
        "ran_on": f"onnxruntime {onnxruntime.__version__}, {platform.machine()}",
        "heads": [each.model_dump(mode="json") for each in results],
    }
    with replacing(out / SWEEP_JSON) as file:
        file.write(utf8(json.dumps(document, indent=1, sort_keys=True) + "\n"))
    with replacing(out / SWEEP_HTML) as file:
        file.write(utf8(sweep_page(results, name=title)))
    for each in results:
        _print_sweep(each)
    typer.echo(f"{out / SWEEP_HTML}\n{out / SWEEP_JSON}\n{RESEARCH_USE}")


def _subjects(
    *,
    run: Path | None,
    data: Path | None,
    model: Path | None,
    record: Path | None,
    folder: list[str] | None,
    bundle: Path | None,
    classifier: Path | None,
    attribute_head: Path | None,
    detector: Path | None,
    minimum: int,
    seed: int,
    limits: Limits,
) -> list[Subject]:
    """The heads that are asked for, the detector first."""
    from export.calibration_subjects import detector_subject, unlabelled_subject
    from export.training_run import open_training_run

    drawn = None if record is None else read_record(record)
    training = None if run is None else open_training_run(run, data_root=data)
    subjects: list[Subject] = []
    if training is not None:
        float_model = _float_model(training, model)
        subjects.append(
            detector_subject(
                training,
                float_model,
                drawn=drawn,
                minimum=minimum,
                seed=seed,
                working_scale=_detector(bundle).working_scale,
                limits=limits,
            )
        )
    elif model is not None:
        spec = _detector(bundle).input
        subjects.append(
            unlabelled_subject(
                _read(model, "--model"),
                _needed(drawn, "--model without --run needs --record, a calibration set"),
                named_folders(folder or []),
                spec,
                limits=limits,
            )
        )
    if classifier is not None or attribute_head is not None:
        root = _needed(
            data or (None if training is None else training.data_root),
            "a head needs --data, the root of its training pictures",
        )
        checkpoint = detector or (None if training is None else training.checkpoint)
        size = _detector(bundle).input.width if training is None else training.image_size
        subjects += _heads(classifier, attribute_head, checkpoint, size, root, seed, limits)
    if not subjects:
        raise SettingsError(
            "nothing to calibrate: give --run, --model, --classifier or --attribute-head"
        )
    return subjects


def _heads(
    classifier: Path | None,
    attribute_head: Path | None,
    detector: Path | None,
    size: int,
    data: Path,
    seed: int,
    limits: Limits,
) -> Iterator[Subject]:
    from calibration.labelled_cells import open_cells
    from export import float_onnx
    from export.assembly import CPU
    from export.bundle_writer import detector_spec
    from export.calibration_subjects import attribute_subject, classifier_subject
    from export.head_export import ATTRIBUTE_HEAD_NAME, CELLS_NAME, CLASSIFIER_NAME

    # A trial with fewer cells than an export would take is what --pictures asks for.
    minimum = min(DEFAULT_MINIMUM_CELLS, limits.pictures or DEFAULT_MINIMUM_CELLS)
    if classifier is not None:
        made = float_onnx.float_classifier(classifier / CLASSIFIER_NAME)
        cells = open_cells(classifier / CELLS_NAME, data)
        yield classifier_subject(made, cells, seed=seed, minimum=minimum, limits=limits)
    if attribute_head is not None:
        checkpoint = _needed(
            detector, "an attribute head needs --detector, the checkpoint whose maps it reads"
        )
        head = float_onnx.float_attribute_head(
            attribute_head / ATTRIBUTE_HEAD_NAME, checkpoint, size
        )
        with _scratch() as file:
            maps = float_onnx.float_onnx(
                checkpoint, file, size, feature_layers=head.layers
            ).read_bytes()
        spec = detector_spec(architecture="", image_size=size, artifacts=[CPU]).model_copy(
            update={"feature_maps": head.feature_maps}
        )
        cells = open_cells(attribute_head / CELLS_NAME, data)
        yield attribute_subject(head, spec, maps, cells, seed=seed, minimum=minimum, limits=limits)


def _detector(bundle: Path | None) -> DetectorSpec:
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    return open_bundle(bundle or shipped_bundle_path()).manifest.detector


def _float_model(training: TrainingRun, model: Path | None) -> bytes:
    if model is not None:
        return _read(model, "--model")
    from export.float_onnx import float_onnx

    with _scratch() as file:
        return float_onnx(training.checkpoint, file, training.image_size).read_bytes()


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="leukoscope-calibrate-") as folder:
        yield Path(folder) / "float.onnx"


def _print_sweep(result: SweepResult) -> None:
    from rich.console import Console
    from rich.table import Table

    from calibration.sweep import candidate_name

    place = {name: number for number, name in enumerate(result.by_size, start=1)}
    chosen = set(result.chosen.values())
    table = Table(title=f"{result.head}: {result.figure}, least loss first")
    for column in ("runtime", "ranges by", "left in float"):
        table.add_column(column)
    for column in ("points lost", "SQNR dB", "MB", "by size", "s"):
        table.add_column(column, justify="right")
    for each in result.by_loss:
        name = candidate_name(each)
        table.add_row(
            each.runtime,
            each.method,
            each.exclusion,
            "" if each.lost_points is None else f"{each.lost_points:+.2f}",
            f"{each.sqnr_db:.1f}",
            f"{each.size / 1e6:.2f}",
            str(place[name]),
            f"{each.seconds:.0f}",
            style="bold" if name in chosen else "red" if each.passed is False else None,
        )
    console = Console()
    console.print(table)
    for runtime, name in result.chosen.items():
        word = "for a trial" if result.trial else "ship"
        console.print(f"{result.head}, {runtime}: {word} {name} ({result.judged_on})")
    if not result.chosen:
        why = "no candidate passes" if result.judged_on else "no labels, so nothing is chosen"
        console.print(f"{result.head}: {why}")


def _method(name: str) -> Method:
    for method in METHODS:
        if name == method:
            return method
    raise SettingsError(f"--method {name!r}: choose one of {', '.join(METHODS)}")


def _runtimes(names: list[str]) -> list[Runtime]:
    for name in names:
        if name not in _EVERY_RUNTIME:
            raise SettingsError(f"--runtime {name!r}: choose one of {', '.join(_EVERY_RUNTIME)}")
    wanted: list[Runtime] = []
    if "cpu" in names:
        wanted.append("cpu")
    if "tensorrt" in names:
        wanted.append("tensorrt")
    return wanted


def _name(*candidates: Path | None) -> str:
    return next((path.resolve().name for path in candidates if path is not None), "")


def _needed(value: T | None, message: str) -> T:
    if value is None:
        raise SettingsError(message)
    return value


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag} {path}: {error.strerror}; give an existing file") from error
