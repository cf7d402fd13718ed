"""``leukoscope bench stop-rule`` and ``field-gate``.

Owns flags and tables. Does not own the experiments.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

_RESULTS = Path("benchmarks") / "results"


def stop_rule(
    films: Annotated[int, typer.Option(min=100, help="simulated films per true share")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="of the simulation")] = 20,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "stop_rule.json",
) -> None:
    """Declared and observed error rates of the stop rule, and the cells it asks for."""
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.stop_rule import measure_stop_rule

    require_writable(out)
    facts = machine_facts(datetime.now(timezone.utc))
    result = measure_stop_rule(films=films, seed=seed, progress=_say)
    write_result(out, "the stop rule over simulated films", facts, result)
    for case in result["cases"]:
        _print_case(case)
    typer.echo(f"written to {out}")


def _print_case(case: dict[str, Any]) -> None:
    observed = case["observed"]
    typer.echo(
        f"\n{case['case']}: threshold {100 * case['threshold']:g} %, {case['fewest_cells']} to "
        f"{case['most_cells']} cells, classifier {case['classifier']}; declared "
        f"{100 * case['declared']:g} %, observed at worst {100 * observed['missed']:.2f} % missed, "
        f"{100 * observed['false']:.2f} % false"
    )
    typer.echo("  share   below   above    open   cells")
    for row in case["rows"]:
        typer.echo(
            f"  {100 * row['share']:5.2f}  {row['below']:.4f}  {row['above']:.4f}  "
            f"{row['not_settled']:.4f}  {row['mean_cells']:6.1f}"
        )


def field_gate(
    data: Annotated[Path, typer.Option("--data", help="data root")] = Path("../shared/data"),
    fields: Annotated[int, typer.Option(min=2, help="virtual fields per profile and film")] = 12,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "field_gate.json",
) -> None:
    """How many good fields the gate refuses, and how many bad ones of each kind it catches."""
    from benchmarks.field_gate import measure_field_gate
    from benchmarks.machine import machine_facts, require_writable, write_result

    require_writable(out)
    facts = machine_facts(datetime.now(timezone.utc))
    result = measure_field_gate(data, fields=fields, progress=_say)
    write_result(out, "the field gate on virtual and real fields", facts, result)
    for row in result["rows"]:
        typer.echo(
            f"{row['set']:<12} {row['limits']:<9} {row['kind']:<24} {row['fields']:4d} fields, "
            f"refused {100 * row['refused']:.1f} %, rightly named {row['named_rightly']:.3f}"
        )
    typer.echo(f"written to {out}")


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command("stop-rule")(stop_rule)
    app.command("field-gate")(field_gate)


def _say(line: str) -> None:
    typer.echo(line, err=True)
