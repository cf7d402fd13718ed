"""``leukoscope export``: bundle, onnx.

Owns flags and the closing table. Does not own any step of the export (see ``assembly``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calibration.sampling import DEFAULT_IMAGES, DEFAULT_MINIMUM
from edge_runtime.errors import BundleError, DataError, SettingsError
from edge_runtime.film_report import RESEARCH_USE
from export.bundle_writer import DEFAULT_SCALE
from export.parity import ALLOWED_POINTS

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet
    from export.assembly import ExportResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Turn a trained detector into a bundle that devices run. {RESEARCH_USE}",
)


@app.command()
def onnx(
    checkpoint: Annotated[
        Path, typer.Option(help="best.pt of an own training run (a pickle: never a stranger's)")
    ],
    out: Annotated[Path, typer.Option(help="ONNX file to write")],
    image_size: Annotated[int, typer.Option(help="side of the input in pixels")] = 320,
) -> None:
    """Write a checkpoint as float ONNX."""
    from export.float_onnx import float_onnx

    written = float_onnx(checkpoint, out, image_size)
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
    calibration_set: Annotated[
        Path | None, typer.Option(help="record of an earlier draw to use again, JSON")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the calibration draw")] = 0,
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
    date: Annotated[
        str | None,
        typer.Option(help="date written into the card [default: SOURCE_DATE_EPOCH, or today]"),
    ] = None,
) -> None:
    """Calibrate, quantise, compare with float, and write a bundle if int8 costs little.

    When a domain loses more than allowed, nothing is written and the exit code is 2.
    """
    from export.assembly import ExportOptions, assemble
    from export.bundle_writer import write_bundle
    from export.cards import load_card
    from export.float_onnx import float_onnx
    from export.training_run import open_training_run

    training = open_training_run(run, data_root=data)
    text = load_card(card)
    options = ExportOptions(
        name=name or training.name,
        version=version,
        date=_day(date, os.environ),
        calibration_images=calibration_images,
        calibration_minimum=calibration_minimum,
        seed=seed,
        method=calibration_method,
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
    )
    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as scratch:
        _say(f"{training.checkpoint} to float ONNX")
        model = float_onnx(
            training.checkpoint, Path(scratch) / "float.onnx", training.image_size
        ).read_bytes()
    result = assemble(training, model, text, options, say=_say)
    _print_result(result, float_bytes=len(model))
    if not result.passed:
        raise BundleError(_verdict(result, out))
    written = write_bundle(result.draft, out)
    total = sum(len(content) for content in written.contents.values())
    typer.echo(f"{out}: {written.id}, {total / 1e6:.1f} MB, sha256 {written.sha256}")
    typer.echo(RESEARCH_USE)


def _read_record(path: Path) -> CalibrationSet:
    from calibration.dataset import CalibrationSet

    try:
        return CalibrationSet.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--calibration-set {path}: unreadable; draw the set again") from error


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _day(date: str | None, environment: Mapping[str, str]) -> str:
    """An ISO date; a fixed one makes two exports of one run equal to the byte."""
    if date is not None:
        try:
            return datetime.strptime(date, "%Y-%m-%d").date().isoformat()
        except ValueError as error:
            raise SettingsError(f"--date {date!r}: give it as YYYY-MM-DD") from error
    epoch = environment.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.now(timezone.utc).date().isoformat()
    try:
        return datetime.fromtimestamp(int(epoch), timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise SettingsError(f"SOURCE_DATE_EPOCH={epoch!r}: not seconds since 1970") from error


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
    gate = Table(title="AP50-95 on validation fields, float against int8")
    for title in ("artifact", "backend", "domain"):
        gate.add_column(title)
    for title in ("float", "int8", "points lost"):
        gate.add_column(title, justify="right")
    for row in result.gate:
        for each in row.parity.domains:
            over = each.lost_points > row.parity.allowed_points
            gate.add_row(
                _short(row.artifact),
                row.backend,
                each.domain,
                f"{each.float_ap:.4f}",
                f"{each.int8_ap:.4f}",
                f"{each.lost_points:+.2f}",
                style="bold red" if over else None,
            )
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
