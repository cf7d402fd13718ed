"""``leukoscope bench frame-age``.

Owns flags and the table. Does not own measuring.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

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


def add_to(app: typer.Typer) -> None:
    """Adds the command to ``leukoscope bench``."""
    app.command("frame-age")(frame_age)
