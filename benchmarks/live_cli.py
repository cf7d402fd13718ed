"""``leukoscope bench frame-age`` and ``soak``.

Owns flags and what is printed. Does not own measuring.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

_RESULTS = Path("benchmarks") / "results"


def frame_age(
    fps: Annotated[float, typer.Option(min=1, max=200, help="of the camera")] = 30.0,
    inference_ms: Annotated[float, typer.Option(min=1, help="per frame, waited for")] = 100.0,
    seconds: Annotated[float, typer.Option(min=2, max=600, help="of the measurement")] = 20.0,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "frame_age.json",
) -> None:
    """Measure how old frames are at their result, while inference is slower than the camera.

    Ends with exit code 1 when the age is above its target.
    """
    from benchmarks.frame_age import Overload, measure_frame_age
    from benchmarks.machine import BUSY_SHARE, machine_facts, require_writable, write_result
    from edge_runtime.errors import SettingsError

    if 1000 / fps >= inference_ms:
        raise SettingsError(
            f"--inference-ms {inference_ms:g}: the camera's {fps:g} frames a second are no more "
            "than that keeps up with; give a longer one"
        )
    if seconds * 1000 < 20 * inference_ms:
        raise SettingsError(
            f"--seconds {seconds:g}: fewer than 20 frames; give {20 * inference_ms / 1000:g}"
        )
    require_writable(out)
    facts = machine_facts(datetime.now(timezone.utc))
    result = measure_frame_age(
        Overload(fps=fps, inference_ms=inference_ms, seconds=seconds),
        lambda line: typer.echo(line, err=True),
    )
    write_result(out, "age of frames at their result, under overload", facts, result)
    typer.echo(f"{'reader':<12}{'p50, ms':>10}{'p95, ms':>10}{'p99, ms':>10}{'growth, ms/s':>14}")
    for row in result["rows"]:
        typer.echo(
            f"{row['reader']:<12}{row['p50_ms']:>10.0f}{row['p95_ms']:>10.0f}{row['p99_ms']:>10.0f}"
            f"{row['growth_ms_per_s']:>14.0f}"
        )
    for target in result["targets"]:
        bound = f"at most {target['at_most']:g}" if "at_most" in target else ""
        bound = bound or f"at least {target['at_least']:g}"
        met = "met" if target["met"] else "NOT MET"
        typer.echo(f"{met}: {target['name']}: {target['measured']:g}, {bound}")
    if result["others_share"] > BUSY_SHARE:
        typer.echo(
            f"other programs took {100 * result['others_share']:.0f} % of the machine: measure "
            "again when it is idle",
            err=True,
        )
    typer.echo(f"written to {out}")
    if not result["targets"][0]["met"]:
        raise typer.Exit(1)


def soak(
    frames: Annotated[int, typer.Option(min=100, help="out of the camera, in all")] = 200_000,
    film_frames: Annotated[int, typer.Option(min=60, help="of each film")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="of what goes wrong")] = 1,
    folder: Annotated[
        Path | None, typer.Option(help="holds the store while it runs [default: the system's]")
    ] = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "soak.json",
) -> None:
    """Run films for hours into a store while camera, disk and clock fail; takes no model.

    What is known so far is in the result file all along. Ends with exit code 1 when a fault is not
    on record or memory grew.
    """
    import logging
    import tempfile

    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.soak import SoakPlan, run_soak
    from edge_runtime.errors import SettingsError

    if folder is not None and not folder.is_dir():
        raise SettingsError(f"--folder {folder}: no such folder; give one that is there")
    require_writable(out)
    facts = machine_facts(datetime.now(timezone.utc))
    # Every lost camera is told by a warning; there will be hundreds.
    logging.getLogger("edge_runtime").setLevel(logging.ERROR)

    def keep(result: dict[str, Any]) -> None:
        write_result(out, "soak: films with faults", facts, result)

    with tempfile.TemporaryDirectory(prefix="leukoscope-soak-", dir=folder) as scratch:
        result = run_soak(
            SoakPlan(frames=frames, film_frames=film_frames, seed=seed),
            Path(scratch) / "store",
            lambda line: typer.echo(line, err=True),
            keep=keep,
        )
    keep(result)
    typer.echo(
        f"{result['frames']} frames in {result['films']} films, {sum(result['faults'].values())} "
        f"faults, {result['seconds']:.0f} s"
    )
    for line in result["not_on_record"][:20]:
        typer.echo(f"not on record: {line}", err=True)
    for target in result["targets"]:
        word = "met" if target["met"] else "NOT MET"
        typer.echo(f"{word}: {target['name']}: {target['measured']:g}")
    typer.echo(f"written to {out}")
    if not all(target["met"] for target in result["targets"]):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to ``leukoscope bench``."""
    app.command("frame-age")(frame_age)
    app.command("soak")(soak)
