"""``leukoscope export``: bundle, add-heads, add-domain, onnx.

Owns flags and the closing table. Does not own any step of the export (see ``assembly``).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calibration.cell_draw import DEFAULT_CELLS, DEFAULT_MINIMUM_CELLS
from calibration.domain_statistics import DEFAULT_QUANTILE
from calibration.sampling import DEFAULT_IMAGES, DEFAULT_MINIMUM
from edge_runtime.errors import BundleError, DataError, SettingsError
from edge_runtime.film_report import RESEARCH_USE
from export.bundle_writer import DEFAULT_SCALE
from export.heads_cli import (
    ATTRIBUTE_CARD,
    CLASSIFIER_CARD,
    add_verdict,
    head_sources,
    print_heads,
    stop_at_the_gate,
    verdict_table,
)
from export.measurement_day import measurement_day
from export.parity import ALLOWED_BLAST_POINTS, ALLOWED_HEAD_POINTS, ALLOWED_POINTS

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet
    from edge_runtime.bundle import Precision
    from export.assembly import ExportResult
    from export.bundle_writer import BundleDraft
    from export.head_export import HeadSources
    from export.heads import HeadOptions
    from export.int8_plan import SweepChoice

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Turn a trained detector into a bundle that devices run. {RESEARCH_USE}",
)


_Classifier = Annotated[
    Path | None, typer.Option(help="run folder of a classifier that joins the bundle")
]
_AttributeHead = Annotated[
    Path | None, typer.Option(help="run folder of an attribute head that joins the bundle")
]
_ClassifierCard = Annotated[Path, typer.Option(help="the classifier's model card text, YAML")]
_AttributeCard = Annotated[Path, typer.Option(help="the attribute head's model card text, YAML")]
_Cells = Annotated[
    int, typer.Option(min=1, help="training cells that set a head's int8 ranges, at most")
]
_MinimumCells = Annotated[int, typer.Option(min=1, help="fewer cells are refused")]
_HeadPoints = Annotated[float, typer.Option(min=0, help="macro-F1 points a head may lose to int8")]
_Outside = Annotated[
    list[str],
    typer.Option(help="class counted beside the white cells, if the classifier has it"),
]
_OUTSIDE = ["erythroblast", "artefact"]
_Blasts = Annotated[
    list[str] | None,
    typer.Option(
        "--blast-class",
        help="class that counts as a blast; may be given again [default: those called so]",
    ),
]
_Also = Annotated[
    list[str] | None,
    typer.Option(
        help="precision beside int8 that artifacts are made of too, float16 (TensorRT) or "
        "float32 (anywhere); may be given again"
    ),
]
_LargestMb = Annotated[
    float | None, typer.Option(min=1, help="a larger bundle is not written [default: 16]")
]
_BlastPoints = Annotated[
    float, typer.Option(min=0, help="points of blast recall a classifier may lose to int8")
]
_Sweep = Annotated[
    Path | None,
    typer.Option(
        help="sweep.json of `calibrate sweep`: takes its choice of method and of blocks left in "
        "float, for the heads that it swept"
    ),
]
AUTO_HEAD = "auto"
_HEADS = {AUTO_HEAD: None, "classic": False, "one-to-one": True}
_Head = Annotated[
    str,
    typer.Option(
        help="of a network with both, as YOLO26: classic (doubles are suppressed) or one-to-one "
        "(none arise); auto: one-to-one where there is one"
    ),
]


@app.command()
def onnx(
    checkpoint: Annotated[
        Path, typer.Option(help="best.pt of an own training run (a pickle: never a stranger's)")
    ],
    out: Annotated[Path, typer.Option(help="ONNX file to write")],
    image_size: Annotated[int, typer.Option(help="side of the input in pixels")] = 320,
    head: _Head = AUTO_HEAD,
) -> None:
    """Write a checkpoint as float ONNX."""
    from export.float_onnx import float_onnx

    written = float_onnx(checkpoint, out, image_size, one_to_one=_one_to_one(head))
    typer.echo(f"{written}: {written.stat().st_size / 1e6:.1f} MB, float32")


@app.command()
def bundle(
    run: Annotated[Path, typer.Option(help="folder of a finished training run")],
    card: Annotated[Path, typer.Option(help="model card text, YAML")],
    out: Annotated[Path, typer.Option(help="bundle folder, or file ending in .zip")],
    data: Annotated[
        Path | None, typer.Option(help="data root [default: where it lay in training]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="bundle name [default: the recipe's]")] = None,
    version: Annotated[str, typer.Option(help="bundle version")] = "0.1.0",
    calibration_images: Annotated[
        int, typer.Option(min=1, help="training pictures that set the int8 ranges, at most")
    ] = DEFAULT_IMAGES,
    calibration_minimum: Annotated[
        int, typer.Option(min=1, help="fewer pictures are refused")
    ] = DEFAULT_MINIMUM,
    calibration_method: Annotated[
        str, typer.Option(help="minmax, percentile, mse, entropy, or best to try all")
    ] = "minmax",
    sweep: _Sweep = None,
    calibration_set: Annotated[
        Path | None, typer.Option(help="record of an earlier draw to use again, JSON")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the calibration draw")] = 0,
    allowed_points: Annotated[
        float, typer.Option(min=0, help="AP points a domain may lose to int8")
    ] = ALLOWED_POINTS,
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="operating point [default: best F1 on validation]"),
    ] = None,
    cell_px: Annotated[
        float, typer.Option(help="cell width in the input that large fields are brought to")
    ] = DEFAULT_SCALE.cell_px,
    min_cell_px: Annotated[
        float, typer.Option(help="cells smaller than this are looked at through windows")
    ] = DEFAULT_SCALE.min_cell_px,
    cell_um: Annotated[float, typer.Option(help="typical white cell in µm")] = (
        DEFAULT_SCALE.cell_um
    ),
    probe_score: Annotated[
        float, typer.Option(min=0, max=1, help="score of finds that may set the scale")
    ] = DEFAULT_SCALE.probe_score,
    max_windows: Annotated[
        int, typer.Option(min=1, help="windows per field, at most")
    ] = DEFAULT_SCALE.max_windows,
    threads: Annotated[int, typer.Option(min=1, help="fields measured at once")] = 1,
    cpu_only: Annotated[
        bool, typer.Option("--cpu-only", help="leave the TensorRT artifact out of the bundle")
    ] = False,
    head: _Head = AUTO_HEAD,
    date: Annotated[
        str | None,
        typer.Option(help="date written into the card [default: SOURCE_DATE_EPOCH, or today]"),
    ] = None,
    classifier: _Classifier = None,
    classifier_card: _ClassifierCard = CLASSIFIER_CARD,
    attribute_head: _AttributeHead = None,
    attribute_card: _AttributeCard = ATTRIBUTE_CARD,
    calibration_cells: _Cells = DEFAULT_CELLS,
    minimum_cells: _MinimumCells = DEFAULT_MINIMUM_CELLS,
    allowed_head_points: _HeadPoints = ALLOWED_HEAD_POINTS,
    outside_differential: _Outside = _OUTSIDE,
    blast_class: _Blasts = None,
    allowed_blast_points: _BlastPoints = ALLOWED_BLAST_POINTS,
    also: _Also = None,
    largest_mb: _LargestMb = None,
) -> None:
    """Calibrate, quantise, compare with float, and write a bundle if int8 costs little.

    When a domain loses more than allowed, nothing is written and the exit code is 2. A
    classifier and an attribute head may join the bundle in the same way.
    """
    from export.assembly import ExportOptions, assemble
    from export.cards import load_card
    from export.float_onnx import float_onnx, trained_quantisation
    from export.heads import HeadOptions
    from export.training_run import open_training_run

    training = open_training_run(run, data_root=data)
    text = load_card(card)
    sources = head_sources(
        data=training.data_root,
        detector=training.checkpoint,
        classifier=classifier,
        classifier_card=classifier_card,
        attribute_head=attribute_head,
        attribute_card=attribute_card,
    )
    swept = _swept(sweep)
    options = ExportOptions(
        name=name or training.name,
        version=version,
        date=measurement_day(date, os.environ),
        calibration_images=calibration_images,
        calibration_minimum=calibration_minimum,
        seed=seed,
        method=calibration_method,
        chosen=swept.get("detector"),
        calibration_set=None if calibration_set is None else _read_record(calibration_set),
        allowed_points=allowed_points,
        score=score,
        working_scale=DEFAULT_SCALE.model_copy(
            update={
                "cell_px": cell_px,
                "min_cell_px": min_cell_px,
                "cell_um": cell_um,
                "probe_score": probe_score,
                "max_windows": max_windows,
            }
        ),
        threads=threads,
        cpu_only=cpu_only,
        also=_precisions(also),
    )
    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as scratch:
        _say(f"{training.checkpoint} to float ONNX")
        model = float_onnx(
            training.checkpoint,
            Path(scratch) / "float.onnx",
            training.image_size,
            one_to_one=_one_to_one(head),
        ).read_bytes()
    trained = trained_quantisation(
        training.checkpoint, model, training.image_size, one_to_one=_one_to_one(head)
    )
    result = assemble(training, model, text, options, trained=trained, say=_say)
    _print_result(result, float_bytes=len(model))
    if not result.passed:
        raise BundleError(_verdict(result, out))
    draft = result.draft
    if classifier is not None or attribute_head is not None:
        draft = _add(
            draft,
            sources,
            HeadOptions(
                date=options.date,
                method=calibration_method,
                chosen=swept,
                cells=calibration_cells,
                minimum=minimum_cells,
                seed=seed,
                allowed_points=allowed_head_points,
                threads=threads,
                cpu_only=cpu_only,
                outside_differential=tuple(outside_differential),
                blasts=None if blast_class is None else tuple(blast_class),
                allowed_blast_points=allowed_blast_points,
                also=_precisions(also),
            ),
            out,
        )
    _write(draft, out, largest_mb)


@app.command(name="add-heads")
def add_heads(
    bundle: Annotated[Path, typer.Option(help="bundle whose detector stays as it is")],
    data: Annotated[Path, typer.Option(help="data root of the heads' training runs")],
    out: Annotated[Path, typer.Option(help="bundle folder, or file ending in .zip")],
    version: Annotated[str, typer.Option(help="version of the new bundle")],
    card: Annotated[
        Path | None,
        typer.Option(help="the detector's card text, YAML, to say it anew [default: as it is]"),
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(help="checkpoint of the bundle's detector; an attribute head needs it"),
    ] = None,
    classifier: _Classifier = None,
    classifier_card: _ClassifierCard = CLASSIFIER_CARD,
    attribute_head: _AttributeHead = None,
    attribute_card: _AttributeCard = ATTRIBUTE_CARD,
    calibration_cells: _Cells = DEFAULT_CELLS,
    minimum_cells: _MinimumCells = DEFAULT_MINIMUM_CELLS,
    calibration_method: Annotated[
        str, typer.Option(help="minmax, percentile, mse, entropy, or best to try all")
    ] = "best",
    sweep: _Sweep = None,
    seed: Annotated[int, typer.Option(min=0, help="of the calibration draw")] = 0,
    allowed_head_points: _HeadPoints = ALLOWED_HEAD_POINTS,
    outside_differential: _Outside = _OUTSIDE,
    blast_class: _Blasts = None,
    allowed_blast_points: _BlastPoints = ALLOWED_BLAST_POINTS,
    also: _Also = None,
    largest_mb: _LargestMb = None,
    threads: Annotated[int, typer.Option(min=1, help="pictures measured at once")] = 1,
    cpu_only: Annotated[
        bool, typer.Option("--cpu-only", help="make no TensorRT artifact of the heads")
    ] = False,
    date: Annotated[
        str | None,
        typer.Option(help="date written into the card [default: SOURCE_DATE_EPOCH, or today]"),
    ] = None,
) -> None:
    """Add a classifier, an attribute head or both to a bundle that is there already.

    The detector keeps its numbers: for an attribute head its graphs put out two feature maps
    more, and every find stays the same to the bit. When a head loses more than allowed,
    nothing is written and the exit code is 2.
    """
    from dataclasses import replace

    from edge_runtime.bundle import open_bundle
    from export.bundle_writer import draft_of, refuse_foreign
    from export.cards import load_card, reworded
    from export.heads import HeadOptions

    sources = head_sources(
        data=data,
        detector=detector,
        classifier=classifier,
        classifier_card=classifier_card,
        attribute_head=attribute_head,
        attribute_card=attribute_card,
    )
    options = HeadOptions(
        date=measurement_day(date, os.environ),
        method=calibration_method,
        chosen=_swept(sweep),
        cells=calibration_cells,
        minimum=minimum_cells,
        seed=seed,
        allowed_points=allowed_head_points,
        threads=threads,
        cpu_only=cpu_only,
        outside_differential=tuple(outside_differential),
        blasts=None if blast_class is None else tuple(blast_class),
        allowed_blast_points=allowed_blast_points,
        also=_precisions(also),
    )
    # Before the long work, though the writer asks again.
    refuse_foreign(out)
    draft = replace(draft_of(open_bundle(bundle)), version=version)
    if card is not None:
        draft = replace(draft, model_card=reworded(draft.model_card, load_card(card)))
    _write(_add(draft, sources, options, out), out, largest_mb)


@app.command(name="add-domain")
def add_domain(
    bundle: Annotated[Path, typer.Option(help="bundle whose models stay as they are")],
    out: Annotated[Path, typer.Option(help="bundle folder, or file ending in .zip")],
    version: Annotated[str, typer.Option(help="version of the new bundle")],
    data: Annotated[Path, typer.Option(help="what the folders of --domain are relative to")] = Path(
        "."
    ),
    domain: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER with images/train and images/val; may be given again"),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="record of the detector's training, JSON: all domains it names"),
    ] = None,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="the virtual microscope's profiles as well")
    ] = False,
    reads: Annotated[
        list[str] | None,
        typer.Option(help="feature map to pool; may be given again [default: the coarsest]"),
    ] = None,
    quantile: Annotated[
        float, typer.Option(help="share of a domain's validation fields inside its border")
    ] = DEFAULT_QUANTILE,
    card: Annotated[
        Path | None,
        typer.Option(help="the detector's card text, YAML, to say it anew [default: as it is]"),
    ] = None,
) -> None:
    """Tell a bundle which films it was validated on, so that it can tell others from them.

    Fits statistics of the detector's feature maps on training fields and the borders of the
    domains on validation fields. The models keep every byte.
    """
    from dataclasses import replace

    from edge_runtime.bundle import open_bundle
    from export.bundle_writer import draft_of, refuse_foreign
    from export.cards import load_card, reworded
    from export.domain_export import with_domain
    from export.domain_sources import domain_sources

    if not 0 < quantile < 1:
        raise SettingsError(f"--quantile {quantile:g}: give it between 0 and 1, as 0.99")
    sources = domain_sources(domain or [], record, data=data, virtual=virtual)
    refuse_foreign(out)
    draft = replace(draft_of(open_bundle(bundle)), version=version)
    if card is not None:
        draft = replace(draft, model_card=reworded(draft.model_card, load_card(card)))
    _write(with_domain(draft, sources, reads=reads or (), quantile=quantile, say=_say), out)


def _add(draft: BundleDraft, sources: HeadSources, options: HeadOptions, out: Path) -> BundleDraft:
    from export.head_export import with_heads

    extended, results = with_heads(draft, sources, options, say=_say)
    print_heads(results, extended)
    stop_at_the_gate(results, out)
    return extended


def _write(draft: BundleDraft, out: Path, largest_mb: float | None = None) -> None:
    from export.bundle_writer import LARGEST_BUNDLE_BYTES, write_bundle

    largest = LARGEST_BUNDLE_BYTES if largest_mb is None else round(largest_mb * 1e6)
    written = write_bundle(draft, out, largest_bytes=largest)
    total = sum(len(content) for content in written.contents.values())
    typer.echo(f"{out}: {written.id}, {total / 1e6:.1f} MB, sha256 {written.sha256}")
    typer.echo(RESEARCH_USE)


def _swept(path: Path | None) -> dict[str, SweepChoice]:
    from export.int8_plan import load_sweep

    return {} if path is None else load_sweep(path)


def _read_record(path: Path) -> CalibrationSet:
    from calibration.dataset import CalibrationSet

    try:
        return CalibrationSet.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--calibration-set {path}: unreadable; draw the set again") from error


def _precisions(names: list[str] | None) -> tuple[Precision, ...]:
    known: dict[str, Precision] = {"float16": "float16", "float32": "float32"}
    for name in names or ():
        if name not in known:
            raise SettingsError(f"--also {name!r}: choose float16 or float32; int8 is always made")
    return tuple(known[name] for name in dict.fromkeys(names or ()))


def _one_to_one(head: str) -> bool | None:
    if head not in _HEADS:
        raise SettingsError(f"--head {head!r}: choose one of {', '.join(_HEADS)}")
    return _HEADS[head]


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _verdict(result: ExportResult, out: Path) -> str:
    row = max(result.gate, key=lambda row: row.parity.worst.lost_points)
    worst = row.parity.worst
    return (
        f"{row.artifact} on {row.backend} loses {worst.lost_points:.2f} AP points on "
        f"{worst.domain}, {row.parity.allowed_points:g} are allowed; {out} is not written. "
        "Try --calibration-method best or more --calibration-images"
    )


def _print_result(result: ExportResult, *, float_bytes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    gate = verdict_table("AP50-95 on validation fields, float against int8", "domain")
    for row in result.gate:
        add_verdict(gate, row, _short(row.artifact))
        gate.add_section()
    console.print(gate)
    test = Table(title=f"Test fields, score {result.operating_point.score:g}")
    test.add_column("domain")
    test.add_column("model")
    for title in ("cells", "AP50-95", "AP50", "AR", "recall", "prec."):
        test.add_column(title, justify="right")
    for domain, int8 in result.int8_test.items():
        for model, figures in (("float", result.float_test[domain]), ("int8", int8)):
            rates = (figures.ap, figures.ap50, figures.ar, figures.recall, figures.precision)
            test.add_row(domain, model, str(figures.cells), *(f"{rate:.3f}" for rate in rates))
    console.print(test)
    console.print(f"float: {float_bytes / 1e6:.1f} MB")
    for artifact in result.artifacts:
        console.print(
            f"{_short(artifact.path)}: {artifact.size / 1e6:.1f} MB, "
            f"{artifact.quantised_share:.1%} of the convolutions' work in int8"
        )
    domains = ", ".join(f"{name} {count}" for name, count in result.calibration.domains.items())
    console.print(f"calibration: {domains}; method {result.method}")


def _short(artifact: str) -> str:
    """An artifact's name as far as it tells one from another; a table has 80 columns."""
    return artifact.removeprefix("detector.").removesuffix(".onnx")


if __name__ == "__main__":
    app()
