"""``leukoscope bench clinic | saving``.

Owns flags and tables. Does not own the measurements (see ``clinic``, ``saving``).
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.published_clinic import clinic_row_name

_PROFILES = ["lcm_100x_c2", "phone", "hcm_100x_c2"]


def clinic(
    profile: Annotated[
        list[str] | None,
        typer.Option(help=f"optical profile; may be given again [default: {', '.join(_PROFILES)}]"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="of each turn")] = 15.0,
    rounds: Annotated[int, typer.Option(min=1, help="turns of either")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="processor threads for inference")] = 2,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="of the page; may be given again [default: onnxruntime]"),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="bundle folder or file [default: shipped demo]")
    ] = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = Path("benchmarks")
    / "results"
    / "clinic.json",
) -> None:
    """What the page costs: rate against bare session.run, memory, time to the first result.

    Ends with exit code 1 when a target is missed.
    """
    from benchmarks.clinic import HOW, ClinicPlan, measure_clinic
    from benchmarks.machine import BUSY_SHARE, machine_facts, require_writable, write_result

    require_writable(out)
    facts = machine_facts(datetime.now(timezone.utc))
    measured = [
        measure_clinic(
            ClinicPlan(
                profile=each,
                seconds=seconds,
                rounds=rounds,
                threads=threads,
                backend=runtime,
                bundle=bundle,
            ),
            lambda line: typer.echo(line, err=True),
        )
        for runtime in backend or ["onnxruntime"]
        for each in profile or _PROFILES
    ]
    rows = [each["row"] for each in measured]
    body = {
        "how": HOW,
        "threads": threads,
        "seconds": seconds,
        "rows": rows,
        "targets": {clinic_row_name(each["row"]): each["targets"] for each in measured},
    }
    write_result(out, "leukoscope serve: rate, memory, time to the first result", facts, body)
    typer.echo(
        f"{'profile, backend':<26}{'fields/s':>9}{'bare':>8}{'share':>8}{'callers':>9}{'share':>8}"
        f"{'by CPU':>8}{'MB':>7}{'s':>7}"
    )
    for row in rows:
        typer.echo(
            f"{clinic_row_name(row):<26}{row['fields_per_s']:>9.2f}{row['bare_fields_per_s']:>8.2f}"
            f"{row['rate_of_bare']:>8.2f}{row['callers_fields_per_s']:>9.2f}"
            f"{row['rate_of_callers']:>8.2f}{row['cpu_of_callers']:>8.2f}{row['memory_mb']:>7.0f}"
            f"{row['first_result_s']:>7.2f}"
        )
    missed = False
    for each in measured:
        for target in each["targets"]:
            missed |= not target["met"]
            typer.echo(
                f"{'met' if target['met'] else 'NOT MET'}: {clinic_row_name(each['row'])}: "
                f"{target['name']}: {target['measured']:g}"
            )
    busiest = max(row["others_share"] for row in rows)
    if busiest > BUSY_SHARE:
        typer.echo(
            f"other programs took {100 * busiest:.0f} % of the machine: measure again when it is "
            "idle",
            err=True,
        )
    typer.echo(f"written to {out}")
    if missed:
        raise typer.Exit(1)


def saving(
    fields: Annotated[int, typer.Option(min=2, help="of each film")] = 104,
    rounds: Annotated[int, typer.Option(min=1, help="films in each way of keeping")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="processor threads for inference")] = 2,
    bundle: Annotated[
        Path | None, typer.Option(help="bundle folder or file [default: shipped demo]")
    ] = None,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = Path("benchmarks")
    / "results"
    / "saving.json",
) -> None:
    """What cropping and saving take of a film's time on 12-megapixel fields."""
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.saving import SavingPlan, measure_saving
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    require_writable(out)
    facts = machine_facts(datetime.now(timezone.utc))
    result = measure_saving(
        open_bundle(bundle or shipped_bundle_path()),
        SavingPlan(fields, rounds, threads),
        lambda line: typer.echo(line, err=True),
    )
    write_result(out, "cropping and saving on 12-megapixel fields", facts, result)
    for row in result["rows"]:
        verdict = "met" if row["met"] else "NOT MET"
        typer.echo(
            f"{verdict}: {row['kept_as']}: {100 * row['share']:.1f} % of the processor's time, "
            f"{row['cpu_ms_per_field']:.0f} ms a field; the film's time of "
            f"{row['seconds_per_field']:.2f} s a field grew by {100 * row['added']:.0f} %; its "
            f"thread was busy or waited for {100 * row['busy']:.0f} % of it"
        )


def add_to(app: typer.Typer) -> None:
    """Adds the commands to ``leukoscope bench``."""
    app.command("clinic")(clinic)
    app.command("saving")(saving)
