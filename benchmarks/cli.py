"""``leukoscope bench``: peers, precision, folds, attributes and the like, and the README's tables.

Owns flags and tables. Does not own measuring.
"""

from __future__ import annotations

import tempfile
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import (
    adaptation_cli,
    clinic_cli,
    latency_cli,
    live_cli,
    roofline_cli,
    screening_cli,
)
from edge_runtime.film_report import RESEARCH_USE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Measure speed and memory, ours and the peers'. {RESEARCH_USE}",
)

adaptation_cli.add_to(app)
screening_cli.add_to(app)
live_cli.add_to(app)
latency_cli.add_to(app)
roofline_cli.add_to(app)
clinic_cli.add_to(app)

_HEADINGS = {
    "fields_per_s": "fields/s",
    "first_result_s": "first, s",
    "peak_memory_mb": "MB",
    "others_share": "others",
    "p50_ms": "p50, ms",
    "p95_ms": "p95, ms",
    "optics_setup_ms": "set-up, ms",
    "resolution_px": "pixels",
}
_RESULTS = Path("benchmarks") / "results"
BundleOption = Annotated[
    Path | None, typer.Option(help="bundle folder or file [default: shipped demo]")
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="processor threads for inference")]


class AttributeExperiment(str, Enum):
    """Questions about attributes."""

    DETECTION = "detection"
    HEADS = "heads"


@app.command()
def peers(
    checkpoint: Annotated[Path, typer.Option(help="best.pt of the bundle's training run")],
    images: Annotated[list[Path], typer.Option(help="folder of images; may be given again")],
    threads: ThreadsOption = 2,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds")] = 3,
    fields: Annotated[int, typer.Option(min=2, help="at least so many fields per run")] = 400,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "peers.json",
) -> None:
    """Compare leukoscope run with Ultralytics and with a bare ONNX Runtime loop.

    Ends with exit code 1 when the two detectors do not find the same cells.
    """
    from benchmarks.float_model import float_onnx
    from benchmarks.machine import machine_facts, write_result
    from benchmarks.peers import Comparison, compare
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    facts = machine_facts(datetime.now(timezone.utc))
    place = bundle or shipped_bundle_path()
    with tempfile.TemporaryDirectory(prefix="leukoscope-float-") as scratch:
        typer.echo("exporting the float model", err=True)
        onnx = float_onnx(checkpoint, open_bundle(place), Path(scratch))
        plan = Comparison(onnx, place, images, threads=threads, rounds=rounds, fields=fields)
        result = compare(plan, _say)
    write_result(out, "leukoscope run against its peers", facts, result)
    _print_peers(result)
    typer.echo(f"written to {out}")
    if result["agreement"] is not None and not result["agreement"]["same_cells"]:
        typer.echo("the detectors do not find the same cells: the rates mean nothing", err=True)
        raise typer.Exit(1)


@app.command("session-options")
def session_options(
    checkpoint: Annotated[
        Path | None, typer.Option(help="best.pt, to measure its float model as well")
    ] = None,
    threads: ThreadsOption = 2,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds")] = 3,
    seconds: Annotated[float, typer.Option(min=0.01, help="per cell and round")] = 1.5,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS
    / "session_options.json",
) -> None:
    """Measure ONNX Runtime's threads and spinning, idle and beside a busy core."""
    import hashlib

    from benchmarks.float_model import float_onnx
    from benchmarks.machine import machine_facts, write_result
    from benchmarks.session_options import measure_session_options
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    facts = machine_facts(datetime.now(timezone.utc))
    opened = open_bundle(bundle or shipped_bundle_path())
    artifact = opened.artifact_for("cpu")
    models: dict[str, bytes] = {artifact.precision: opened.contents[artifact.path]}
    if checkpoint is not None:
        with tempfile.TemporaryDirectory(prefix="leukoscope-float-") as scratch:
            typer.echo("exporting the float model", err=True)
            models["float32"] = float_onnx(checkpoint, opened, Path(scratch)).read_bytes()
    result = measure_session_options(
        models,
        opened.manifest.detector.input,
        threads=threads,
        seconds=seconds,
        rounds=rounds,
        progress=_say,
    )
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in models.items()}
    write_result(
        out,
        "ONNX Runtime session options",
        facts,
        {"bundle": opened.id, "models_sha256": digests, **result},
    )
    _print_rows(
        "ONNX Runtime session options",
        result["rows"],
        ("model", "options", "surroundings", "p50_ms", "p95_ms", "fields_per_s", "others_share"),
    )
    typer.echo(f"written to {out}")


@app.command()
def precision(
    checkpoint: Annotated[Path, typer.Option(help="best.pt of the bundle's training run")],
    threads: ThreadsOption = 2,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds")] = 5,
    seconds: Annotated[float, typer.Option(min=0.01, help="per contender and round")] = 3.0,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "precision.json",
) -> None:
    """Compare the detector's int8 artifact with its float32 model on the processor."""
    import hashlib

    from benchmarks.float_model import float_onnx
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.precision_rate import FLOAT, INT8, finds_only, measure_precisions
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    require_writable(out)
    facts = machine_facts(datetime.now(timezone.utc))
    opened = open_bundle(bundle or shipped_bundle_path())
    spec = opened.manifest.detector
    with tempfile.TemporaryDirectory(prefix="leukoscope-float-") as scratch:
        typer.echo("exporting the float model", err=True)
        exported = float_onnx(checkpoint, opened, Path(scratch)).read_bytes()
    given = {FLOAT: exported, INT8: opened.contents[opened.artifact_for("cpu").path]}
    models = {name: finds_only(content, spec.output.name) for name, content in given.items()}
    result = measure_precisions(
        models, spec.input, threads=threads, seconds=seconds, rounds=rounds, progress=_say
    )
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in given.items()}
    what = "int8 against float32 on the processor, the detector's calls alone"
    write_result(out, what, facts, {"bundle": opened.id, "models_sha256": digests, **result})
    columns = ("precision", "runtime", "p50_ms", "fields_per_s", "against_float32", "others_share")
    _print_rows(f"{result['threads']} threads, median of {rounds} rounds", result["rows"], columns)
    _print_targets(result["targets"], "ratio")
    typer.echo(f"written to {out}")


@app.command()
def virtual(
    frames: Annotated[int, typer.Option(min=1, help="fields per profile and size")] = 40,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "virtual.json",
) -> None:
    """Measure the virtual microscope: film set-up and rendering of one field."""
    from benchmarks.machine import machine_facts, write_result
    from benchmarks.virtual import measure_virtual

    facts = machine_facts(datetime.now(timezone.utc))
    result = measure_virtual(frames=frames, progress=_say)
    write_result(out, "virtual microscope", facts, result)
    _print_rows(
        "virtual microscope",
        result["rows"],
        ("profile", "resolution_px", "p50_ms", "p95_ms", "optics_setup_ms", "others_share"),
    )
    _print_targets(result["targets"], "measured")
    typer.echo(f"written to {out}")


@app.command()
def mosaic(
    frames: Annotated[int, typer.Option(min=20, help="fields along the hand's path")] = 500,
    detector: Annotated[
        bool, typer.Option(help="a second time, with the bundle's detector")
    ] = True,
    threads: ThreadsOption = 2,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "mosaic.json",
    picture: Annotated[
        Path | None, typer.Option("--map", help="also draw the film's cells, SVG")
    ] = None,
) -> None:
    """Measure how a hand-moved film is put together: each cell once, and where."""
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.mosaic import measure_mosaic
    from edge_runtime.bundle import open_bundle, shipped_bundle_path
    from edge_runtime.film_run import load_bundle
    from edge_runtime.settings import load_settings

    for place in (out, picture):
        if place is not None:
            require_writable(place)
    facts = machine_facts(datetime.now(timezone.utc))
    if not detector:
        result = measure_mosaic(frames=frames, picture=picture, progress=_say)
    else:
        opened = open_bundle(bundle or shipped_bundle_path())
        settings = load_settings(environment={}, flags={"threads": threads})
        with load_bundle(opened, settings, detector_only=True) as loaded:
            result = measure_mosaic(
                frames=frames,
                find=lambda frame: loaded.detector.examine(frame).detections,
                picture=picture,
                progress=_say,
            )
        result = {"bundle": opened.id, "backend": loaded.record.model_dump(), **result}
    write_result(out, "each cell once on a hand-moved virtual film", facts, result)
    _print_targets(result["targets"], "measured")
    typer.echo(f"written to {out}")


@app.command()
def folds(
    recipe: Annotated[str, typer.Option(help="recipe")] = "wbc-detector-short",
    data: Annotated[Path | None, typer.Option(help="data root [default: the recipe's]")] = None,
    work: Annotated[Path, typer.Option(help="a folder per training")] = Path("runs") / "folds",
    fold: Annotated[list[str] | None, typer.Option(help="only this one; may be repeated")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="trainings at once")] = 2,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "folds.json",
) -> None:
    """Train and measure ReLU, SiLU and every leave-one-domain-out fold; resumable."""
    from benchmarks.folds import gather, run_folds
    from train.evaluate import write_results

    run_folds(recipe, data, work, only=fold or [], jobs=jobs, report=_say)
    write_results(gather(recipe, data, work), out)
    typer.echo(f"written to {out}")


@app.command()
def heads(
    data: Annotated[Path | None, typer.Option(help="data root [default: the recipe's]")] = None,
    recipe: Annotated[str, typer.Option(help="recipe whose labelled sets")] = "wbc-classifier",
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    backend: Annotated[str, typer.Option(help="auto, onnxruntime or openvino")] = "auto",
    threads: ThreadsOption = 2,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "heads.json",
) -> None:
    """Measure classifier and attribute head on labelled cells, and what they cost."""
    from benchmarks.heads import labelled_pictures, measure_heads
    from benchmarks.machine import machine_facts, require_writable, write_result
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    facts = machine_facts(datetime.now(timezone.utc))
    require_writable(out)
    pictures, root, classes = labelled_pictures(recipe, split, data)
    opened = open_bundle(bundle or shipped_bundle_path())
    result = measure_heads(
        opened, pictures, root, classes, backend=backend, threads=threads, progress=_say
    )
    write_result(out, "classifier and attribute head", facts, {"split": split, **result})
    for name, row in result["sets"].items():
        named, described = row.get("classes"), row.get("attributes")
        parts = [f"{name}: {row['cells']} cells"]
        if named:
            found = named["found_crops"]
            parts.append(f"accuracy {found['accuracy']:.3f}, macro F1 {found['macro_f1']:.3f}")
        if described:
            parts.append(f"attributes' macro F1 {described['oracle']['mean_macro_f1']:.3f}")
        share = row["stages"].get("heads_per_detector")
        if share is not None:
            parts.append(f"heads take {share:.2f} of the detector's time")
        typer.echo("; ".join(parts))
    typer.echo(f"written to {out}")


@app.command()
def parity(
    data: Annotated[Path, typer.Option(help="data root")] = Path("../shared/data"),
    models: Annotated[
        Path, typer.Option(help="folder of the bundle's checkpoints (pickles: own ones only)")
    ] = Path("models"),
    recipe: Annotated[str, typer.Option(help="recipe whose labelled cells")] = "wbc-classifier",
    threads: ThreadsOption = 2,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "parity.json",
) -> None:
    """What int8 costs every head on test splits, which nothing was chosen on."""
    from benchmarks.heads import labelled_cells
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.parity import Checkpoints, measure_parity, recorded_run
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    facts = machine_facts(datetime.now(timezone.utc))
    require_writable(out)
    opened = open_bundle(bundle or shipped_bundle_path())
    heads = measure_parity(
        opened,
        Checkpoints(
            detector=models / "wbc-detector.pt",
            classifier=models / "wbc-classifier.pt",
            attribute_head=models / "wbc-attributes.pt",
        ),
        recorded_run(models / "wbc-detector.training.json", data),
        labelled_cells(recipe, data),
        threads=threads,
        say=_say,
    )
    write_result(out, "int8 against float on test splits", facts, {"bundle": opened.id, **heads})
    for name, head in heads.items():
        for row in head["rows"]:
            worst = max(each["lost_points"] for each in row["domains"].values())
            typer.echo(
                f"{name}, {row['artifact']} on {row['backend']}: {worst:+.2f} {head['figure']} "
                f"points lost where most, {head['allowed_points']:g} allowed"
            )
    typer.echo(f"written to {out}")


@app.command()
def domain(
    data: Annotated[Path | None, typer.Option(help="data root [default: the recipe's]")] = None,
    recipe: Annotated[str, typer.Option(help="recipe whose domains")] = "wbc-detector",
    seed: Annotated[int, typer.Option(min=0, help="of the films that are drawn")] = 0,
    bundle: BundleOption = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "domain_score.json",
) -> None:
    """How well the out-of-domain score tells other microscopes and spoilt fields from its own."""
    from benchmarks.domain import MaskPictures, measure_domain
    from benchmarks.machine import machine_facts, require_writable, write_result
    from calibration.domain_fields import DomainFields, FolderDomain, VirtualDomains
    from edge_runtime.bundle import open_bundle, shipped_bundle_path
    from train.recipe import load_recipe

    facts = machine_facts(datetime.now(timezone.utc))
    require_writable(out)
    chosen = load_recipe(recipe, data)
    root = Path(chosen.data_root)
    own: list[DomainFields] = [FolderDomain(each.name, root / each.path) for each in chosen.domains]
    strangers = [
        MaskPictures(root / each.path) for each in chosen.cell_sources if each.kind == "wbc_masks"
    ]
    result = measure_domain(
        open_bundle(bundle or shipped_bundle_path()),
        [*own, VirtualDomains()],
        strangers,
        seed=seed,
        progress=_say,
    )
    write_result(out, "out-of-domain score", facts, result)
    for group in ("left_out", "never_fitted"):
        for name, row in result[group].items():
            for kind, figures in row.items():
                field, film = figures["field"], figures["film"]
                typer.echo(
                    f"{group.replace('_', ' ')} {name}, {kind.replace('_', ' ')}: AUROC "
                    f"{field['auroc']:.3f} by field, {film['auroc']:.3f} by film; detected "
                    f"{field['detected']:.0%}, {film['detected']:.0%}"
                )
    for shift, rows in result["shifts"].items():
        said = ", ".join(f"{r['strength']:g}: {r['mahalanobis']['detected']:.0%}" for r in rows)
        typer.echo(f"{shift}, fields detected by strength: {said}")
    typer.echo(f"written to {out}")


@app.command()
def attributes(
    experiment: Annotated[
        AttributeExperiment,
        typer.Option(
            help="detection with and without the head; or shared head against own network"
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="data root")] = Path("../shared/data"),
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="may be given again [default: 0 1 2]")
    ] = (None),
    pictures: Annotated[
        int | None, typer.Option(min=16, help="training pictures [default: 400; heads: 1000]")
    ] = None,
    judged: Annotated[
        int | None, typer.Option(min=8, help="test pictures [default: 400; heads: 500]")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="of every training")] = 8,
    size: Annotated[int, typer.Option(min=64, help="detector's input; detection only")] = 192,
    model: Annotated[str, typer.Option(help="detector; detection only")] = "yolo11n.yaml",
    detector: Annotated[
        Path, typer.Option(help="own checkpoint (a pickle) whose features are shared; heads only")
    ] = Path("models") / "wbc-detector.pt",
    architecture: Annotated[str, typer.Option(help="crop network of timm; heads only")] = (
        "resnet10t"
    ),
    channels: Annotated[str, typer.Option(help="its widths; heads only")] = "32,64,128,256",
    device: Annotated[str, typer.Option(help="cpu or 0; detection only")] = "cpu",
    work: Annotated[Path, typer.Option(help="a folder per seed")] = Path("runs") / "attributes",
    out: Annotated[
        Path | None, typer.Option(help="[default: benchmarks/results/attributes_EXPERIMENT.json]")
    ] = None,
) -> None:
    """What the attribute head does to detection, and what sharing features saves; resumable."""
    from benchmarks.attributes import DetectionSettings, HeadSettings, run_detection, run_heads
    from benchmarks.machine import machine_facts, require_writable, write_result
    from edge_runtime.errors import SettingsError

    facts = machine_facts(datetime.now(timezone.utc))
    seeds = tuple(dict.fromkeys(seed or [0, 1, 2]))
    if size % 32:
        raise SettingsError(f"--size {size}: a multiple of 32; try {size // 32 * 32}")
    require_writable(out or _RESULTS / f"attributes_{experiment.value}.json")
    if experiment is AttributeExperiment.DETECTION:
        result = run_detection(
            DetectionSettings(model, pictures or 400, judged or 400, epochs, size),
            seeds,
            data,
            work,
            facts=facts,
            device=device,
            say=_say,
        )
    else:
        widths = channels.split(",")
        if not all(each.isascii() and each.strip().isdigit() and int(each) for each in widths):
            raise SettingsError(f"--channels {channels!r}: whole numbers and commas, as 32,64")
        result = run_heads(
            HeadSettings(
                pictures or 1000,
                judged or 500,
                epochs,
                architecture=architecture,
                channels=tuple(int(width) for width in widths),
            ),
            seeds,
            data,
            detector,
            work,
            facts=facts,
            say=_say,
        )
    place = out or _RESULTS / f"attributes_{experiment.value}.json"
    write_result(place, f"attributes: {experiment.value}", facts, result)
    for name, row in result["summary"].items():
        shown = "; ".join(
            f"{key} {each['mean']:.4f}" + ("" if each["sd"] is None else f" ± {each['sd']:.4f}")
            for key, each in row.items()
        )
        typer.echo(f"{name}: {shown}")
    typer.echo(f"written to {place}")


@app.command()
def readme(
    file: Annotated[Path, typer.Option(help="Markdown with table markers")] = Path("README.md"),
) -> None:
    """Write the tables of the README anew from the result files."""
    from benchmarks.published import fill_readme
    from edge_runtime.errors import StoreError

    try:
        file.write_text(fill_readme(file.read_text(encoding="utf-8"), _RESULTS), encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{file}: {error.strerror}; run this in the repository's root or give --file"
        ) from error
    typer.echo(f"{file}: tables written from {_RESULTS}")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_peers(result: dict[str, Any]) -> None:
    rows = [{"contender": name, **row} for name, row in result["contenders"].items()]
    _print_rows(
        f"{result['fields_per_run']} fields, {result['threads']} threads, median of "
        f"{result['rounds']} rounds",
        rows,
        (
            "contender",
            "fields_per_s",
            "first_result_s",
            "peak_memory_mb",
            "others_share",
        ),
    )
    _print_targets(result["targets"], "ratio")
    same = result["agreement"]
    if same is not None:
        typer.echo(
            f"same cells: {same['share']:.1%} of {same['cells']} ours and {same['peer_cells']} "
            f"theirs, in {same['fields']} fields examined in one window; doubles: "
            f"{same['doubles']} ours, {same['peer_doubles']} theirs"
        )


def _print_rows(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.machine import BUSY_SHARE

    table = Table(title=title)
    for column in columns:
        named = not any(isinstance(row.get(column), float) for row in rows)
        table.add_column(
            _HEADINGS.get(column, column), justify="left" if named else "right", no_wrap=not named
        )
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    Console().print(table)
    if any(row["others_share"] > BUSY_SHARE for row in rows):
        typer.echo("other programs were running: do not keep these figures", err=True)


def _print_targets(targets: list[dict[str, Any]], figure: str) -> None:
    for target in targets:
        bound = "at least" if "at_least" in target else "at most"
        wanted = target.get("at_least", target.get("at_most"))
        word = "met" if target["met"] else "NOT MET"
        typer.echo(f"{word}: {target['name']}: {target[figure]:.3g}, {bound} {wanted:.3g}")


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return " x ".join(str(part) for part in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
