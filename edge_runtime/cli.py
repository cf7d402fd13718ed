"""The ``leukoscope`` command.

Owns flags, the progress display and turning errors into one line and exit code 2. Other
packages plug their commands in through the entry-point group ``leukoscope.commands``;
they are imported only when called, so ``leukoscope run`` starts without them.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.errors import LeukoscopeError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from edge_runtime.film.guide import Guidance
    from edge_runtime.film_report import DifferentialRecord, DomainRecord, FilmReport, LiveRecord
    from edge_runtime.types import RunStatus

COMMAND_GROUP = "leukoscope.commands"
# Commands of other modules, most with sub-commands; imported when called. Another
# package's command of the same name comes first: it has these and its own.
GROUPS = {
    "bundle": "edge_runtime.bundle_cli",
    "cameras": "edge_runtime.cameras.cli",
    "clinic": "edge_runtime.clinic.cli",
    "device": "edge_runtime.device.cli",
    "doctor": "edge_runtime.device.doctor.cli",
    "serve": "edge_runtime.serve_cli",
    "setup": "edge_runtime.setup_cli",
}
EXIT_BAD_INPUT = 2


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"White-cell screening on low-cost microscopes. {RESEARCH_USE}",
)


@app.callback()
def _leukoscope() -> None:
    """Keeps ``leukoscope run`` a sub-command even while it is the only own one."""


@app.command()
def run(
    source: Annotated[
        str,
        typer.Option(
            help="folder of images, image, video file, virtual[:profile[:seed[:hand]]], or a "
            "live camera: see `leukoscope cameras`"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for film.json, cells.csv and report.html")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="model bundle, folder or file [default: the device's active one, or shipped demo]"
        ),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="auto, onnxruntime, openvino, tensorrt, ... [default: auto]")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="int8, float16 or float32 [default: the bundle's first]"),
    ] = None,
    save_frames: Annotated[
        bool | None, typer.Option("--save-frames", help="keep every field at full size")
    ] = None,
    score: Annotated[
        float | None, typer.Option(help="operating point [default: the bundle's]")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="stop after so many fields")] = None,
    threads: Annotated[
        int | None, typer.Option(help="processor threads for inference [default: one per core]")
    ] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="TOML file with any of the settings")
    ] = None,
    camera_profile: Annotated[
        Path | None,
        typer.Option(
            help="of the camera, as `leukoscope setup camera` writes it [default: the stored one "
            "of this source]"
        ),
    ] = None,
    gate: Annotated[
        bool | None,
        typer.Option(
            help="skip fields that are blurred, badly lit, moving or empty [default: with a live "
            "camera or a stage moved by hand]"
        ),
    ] = None,
    mosaic: Annotated[
        bool | None,
        typer.Option(
            help="put overlapping fields together, so that each cell counts once [default: as "
            "--gate]"
        ),
    ] = None,
) -> None:
    """Examine a film: find its white cells and write a report.

    Ctrl-C ends the film cleanly; the report then says that it is partial.
    """
    spare_threads()
    from edge_runtime.cameras import open_camera
    from edge_runtime.film_run import bundle_to_run, film_runner, guide_for, load_bundle
    from edge_runtime.settings import load_settings

    settings = load_settings(
        settings_file,
        flags={
            "backend": backend,
            "precision": precision,
            "save_frames": save_frames,
            "score": score,
            "limit": limit,
            "threads": threads,
        },
    )
    opened = bundle_to_run(bundle, settings, say=_say)
    with (
        load_bundle(opened, settings) as loaded,
        open_camera(source, limit=settings.limit) as camera,
    ):
        from edge_runtime.clinic.report_files import report_sinks

        sinks = report_sinks(out, save_frames=settings.save_frames)
        guide = guide_for(
            camera,
            loaded,
            settings,
            source=source,
            profile_file=camera_profile,
            gate=gate,
            mosaic=mosaic,
            say=_say,
        )
        with _Progress() as progress:
            runner = film_runner(
                loaded,
                camera,
                source=source,
                settings=settings,
                sinks=sinks,
                on_status=progress.show,
                guide=guide,
            )
            with _CtrlC(runner.stop):
                report = runner.run()
    _print_summary(report, out)


def _say(line: str) -> None:
    typer.echo(f"leukoscope: {line}", err=True)


@app.command()
def verify(
    bundle: Annotated[
        Path | None, typer.Argument(help="bundle folder or file [default: shipped demo]")
    ] = None,
) -> None:
    """Check every file of a model bundle against its manifest."""
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    opened = open_bundle(bundle or shipped_bundle_path())
    total = sum(len(content) for content in opened.contents.values())
    typer.echo(f"{opened.id}: {len(opened.contents)} files, {total / 1e6:.1f} MB, all as listed")
    typer.echo(f"sha256 {opened.sha256}")
    manifest = opened.manifest
    for head, part in (
        ("detector", manifest.detector),
        ("attribute head", manifest.attribute_head),
        ("classifier", manifest.classifier),
    ):
        for artifact in () if part is None else part.artifacts:
            typer.echo(f"  {artifact.path}: {artifact.runtime}, {artifact.precision}, {head}")


def set_environment() -> None:
    """What libraries read when they are first loaded; what a user has set stays."""
    # Looking for plug-ins reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    # Decoders report a broken file on stderr as well; it is told once, by us.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def spare_threads() -> None:
    """Before NumPy is loaded: its BLAS makes threads that no film needs, and waits for them."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> None:
    """Entry point: one clear line and exit code 2 for everything a user can cause."""
    # Names of files reach us in any encoding, and a terminal may show less than UTF-8.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    set_environment()
    try:
        _dispatch(sys.argv[1:])
    except LeukoscopeError as error:
        typer.echo(f"leukoscope: {' '.join(str(error).splitlines())}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        typer.echo("leukoscope: stopped", err=True)
        sys.exit(130)


def _dispatch(arguments: list[str]) -> None:
    """Own commands, or those of the package whose name comes first."""
    own = [command.callback.__name__ for command in app.registered_commands if command.callback]
    if arguments[:1] == [] or arguments[0] not in own:
        # Only now: the metadata of all installed packages is read for it.
        from importlib.metadata import entry_points

        plugged: dict[str, EntryPoint] = {}
        for point in entry_points(group=COMMAND_GROUP):
            # As with modules, the first on the path wins.
            plugged.setdefault(point.name, point)
        if arguments and arguments[0] in plugged:
            _call(plugged[arguments[0]], arguments[1:])
            return
        if arguments and arguments[0] in GROUPS:
            group = import_module(GROUPS[arguments[0]]).app
            group(args=arguments[1:], prog_name=f"leukoscope {arguments[0]}")
            return
        app.info.epilog = (
            "More commands, each with its own --help: "
            f"{', '.join(sorted(plugged.keys() | GROUPS.keys()))}"
        )
    app(prog_name="leukoscope")


def _call(point: EntryPoint, arguments: list[str]) -> None:
    try:
        # A command imports what is slow or heavy only when it runs, so that may fail as well.
        point.load()(args=arguments, prog_name=f"leukoscope {point.name}")
    except ModuleNotFoundError as error:
        extra = point.name if point.name in ("train", "bench") else "export"
        raise LeukoscopeError(
            f"leukoscope {point.name}: {error.name} is not installed here; "
            f"pip install 'leukoscope[{extra}]'"
        ) from error


class _Progress:
    """A bar with field rate and cell count; plain silence where nobody watches."""

    def __init__(self) -> None:
        self._display: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._display = Progress(
                TextColumn("examining"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[cells]} cells"),
                TextColumn("{task.fields[skipped]}"),
                console=Console(stderr=True),
            )
            self._display.start()
            self._task = self._display.add_task("film", total=None, rate="", cells=0, skipped="")
        return self

    def show(self, status: RunStatus) -> None:
        """Takes the runner's status after every field."""
        if self._display is not None:
            skipped = f"{status.fields_skipped} skipped" if status.fields_skipped else ""
            if status.camera_gap is not None:
                gap = status.camera_gap
                skipped = f"CAMERA LOST for {gap.seconds:.0f} s: {gap.reason}"
            elif status.frame_age_ms is not None:
                skipped = f"{status.frame_age_ms:.0f} ms old {skipped}"
            skipped = " ".join(part for part in (skipped, _guided(status.guidance)) if part)
            self._display.update(
                self._task,
                total=status.fields_total,
                completed=status.fields_done + status.fields_skipped,
                rate=f"{status.fields_per_s:.1f} fields/s",
                cells=status.cells_found,
                skipped=skipped,
            )

    def __exit__(self, *exc: object) -> None:
        if self._display is not None:
            self._display.stop()


def _guided(guidance: Guidance | None) -> str:
    """The most pressing thing to know while the film runs."""
    if guidance is None:
        return ""
    if guidance.gate is not None and guidance.gate.reason is not None:
        return guidance.gate.reason
    if guidance.lost is not None:
        return f"TRACK LOST: {guidance.lost}"
    return "" if guidance.screening is None else guidance.screening.text


class _CtrlC:
    """The first Ctrl-C calls ``stop``; a second one ends the program at once."""

    def __init__(self, stop: Any) -> None:
        self._stop = stop
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, stack: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._stop()

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGINT, self._before)


def _print_summary(report: FilmReport, out: Path) -> None:
    totals = report.totals
    state = "" if report.state == "complete" else "PARTIAL REPORT (interrupted)\n"
    rate = totals.fields / report.duration_s if report.duration_s else 0.0
    # Cells of classes beside the differential, such as erythroblasts, are no white cells.
    beside = report.differential is not None and any(report.differential.outside.values())
    typer.echo(
        f"{state}{totals.cells} {'cells' if beside else 'white cells'} in {totals.fields} fields "
        f"({rate:.{1 if rate >= 1 else 2}f} fields/s, {report.backend.name} "
        f"{report.backend.precision} on {report.backend.device})"
    )
    if totals.fields_skipped:
        first = next(record for record in report.fields if record.skipped)
        typer.echo(
            f"{totals.fields_skipped} fields skipped, the first: {first.name}: {first.reason}; "
            f"all are listed in {out / 'film.json'}"
        )
    if report.live is not None:
        _print_live(report.live)
    _print_guided(report)
    if report.differential is not None:
        _print_differential(report.differential)
    typer.echo(_say_domain(report.domain))
    typer.echo(f"report: {out / 'report.html'}")
    typer.echo(RESEARCH_USE)


def _print_live(live: LiveRecord) -> None:
    """How old the pictures were, when none came, and what of the light was not locked."""
    if live.frame_age is not None:
        age = live.frame_age
        typer.echo(
            f"age of a field's picture at its result: {age.p50_ms:.0f} ms, 99 % below "
            f"{age.p99_ms:.0f} ms; {live.frames_passed_over} older pictures passed over"
        )
    for name, why in live.sessions[-1].not_locked.items():
        typer.echo(f"NOT LOCKED: {name}: {why}")
    if live.gaps:
        longest = max(live.gaps, key=lambda gap: gap.seconds)
        typer.echo(
            f"CAMERA LOST {len(live.gaps)} times, {sum(gap.seconds for gap in live.gaps):.1f} s in "
            f"all; longest {longest.seconds:.1f} s: {longest.reason}"
        )


def _print_guided(report: FilmReport) -> None:
    """What was refused, what has no place, and whether it was enough."""
    if report.gate is not None and report.gate.refused:
        refused = ", ".join(f"{count} {why}" for why, count in report.gate.refused.items())
        typer.echo(f"refused of {report.gate.judged} fields: {refused}")
    mosaic = report.mosaic
    if mosaic is not None:
        typer.echo(
            f"each cell once: {mosaic.fields_placed} of {mosaic.fields} fields have their place on "
            f"the film; {mosaic.repeats} finds were repeats"
        )
        if mosaic.lost:
            typer.echo(
                f"TRACK LOST in {sum(mosaic.lost.values())} fields: their "
                f"{mosaic.finds_without_place} cells are not counted"
            )
        if mosaic.cells_apart:
            typer.echo(
                f"PARTS NOT JOINED: {mosaic.fragments}; of {mosaic.cells_apart} cells outside the "
                "largest some may be counted twice"
            )
    if report.screening is not None:
        typer.echo(report.screening.text)


def _say_domain(domain: DomainRecord | None) -> str:
    """Whether the bundle's figures were shown to hold for films that look like this one."""
    if domain is None:
        return "domain: not assessed, the bundle does not say how its films look"
    if domain.score is None:
        return "domain: not assessed, no field was examined"
    said = f"score {domain.score:.2f}, outside above {domain.threshold:g}; nearest {domain.nearest}"
    if domain.outside:
        return (
            f"OUTSIDE THE VALIDATED DOMAIN ({said}): the figures of this bundle were not shown "
            "to hold here"
        )
    return f"domain: within the validated domain ({said})"


def _print_differential(differential: DifferentialRecord) -> None:
    """One line for each class, with its exact interval."""
    beside = [*differential.outside.items(), ("unclassified", differential.unclassified)]
    names = [each.class_name for each in differential.classes] + [name for name, _ in beside]
    widest = max(len(name) for name in names)
    digits = len(f"{max([differential.total, *(count for _, count in beside)]):,}")
    for each in differential.classes:
        percent = "     –" if each.percent is None else f"{each.percent:5.1f}%"
        typer.echo(
            f"  {each.class_name:<{widest}}  {each.count:>{digits},}  {percent}  "
            f"({100 * differential.confidence:.0f} % interval {each.low_percent:.1f} to "
            f"{each.high_percent:.1f} %)"
        )
    for name, count in beside:
        typer.echo(f"  {name:<{widest}}  {count:>{digits},}  not in the differential")


if __name__ == "__main__":
    main()
