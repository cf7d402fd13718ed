"""``leukoscope bench latency``: measure, or compare two results.

Owns flags and tables. Does not own measuring (see ``latency``) nor the page (see
``latency_page``).
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

_RESULTS = Path("benchmarks") / "results"
_PROFILES = "hcm_100x_c2,hcm_40x_c2,lcm_100x_c2,lcm_40x_c2,phone"


def latency(
    profiles: Annotated[str, typer.Option(help="camera profiles, with commas")] = _PROFILES,
    backends: Annotated[str, typer.Option(help="backends, with commas")] = "onnxruntime,openvino",
    checkpoint: Annotated[
        Path | None, typer.Option(help="best.pt of the bundle's detector, for Ultralytics")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="bundle folder or file [default: shipped demo]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="processor threads of every contender")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds")] = 3,
    fields: Annotated[int, typer.Option(min=4, help="of a film, per round")] = 48,
    seconds: Annotated[float, typer.Option(min=0.5, help="of each live run, per round")] = 4.0,
    warm_up: Annotated[int, typer.Option(min=2, help="fields in front of every film")] = 4,
    precision: Annotated[
        str | None, typer.Option(help="int8, float16 or float32 [default: the runtime's choice]")
    ] = None,
    engines: Annotated[Path | None, typer.Option(help="folder of built engines")] = None,
    peers: Annotated[bool, typer.Option(help="measure peers in the same rounds")] = True,
    out: Annotated[Path, typer.Option(help="result file, JSON")] = _RESULTS / "latency.json",
    html: Annotated[Path | None, typer.Option(help="also a page with charts")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="measure nothing; compare two results"),
    ] = None,
) -> None:
    """Latency, frame age, memory and energy by camera profile and backend.

    A backend that cannot run here is a row with its reason. When another backend or artifact ran
    than was asked, nothing is written.
    """
    if compare is not None:
        _compare(*compare)
        return
    from benchmarks.latency import WHAT, LatencyPlan, measure_latency
    from benchmarks.latency_page import write_page
    from benchmarks.machine import BUSY_SHARE, machine_facts, require_writable, write_result
    from edge_runtime.bundle import shipped_bundle_path
    from edge_runtime.errors import SettingsError

    if warm_up > fields:
        raise SettingsError(f"--warm-up {warm_up}: more than --fields {fields}; give fewer")
    for place in (out, html):
        if place is not None:
            require_writable(place)
    plan = LatencyPlan(
        profiles=_names("--profiles", profiles),
        backends=_names("--backends", backends),
        bundle=bundle or shipped_bundle_path(),
        checkpoint=checkpoint,
        threads=threads,
        rounds=rounds,
        fields=fields,
        seconds=seconds,
        warm_up=warm_up,
        precision=_precision(precision),
        engines=engines,
        peers=peers,
    )
    facts = machine_facts(datetime.now(timezone.utc))
    result = measure_latency(plan, lambda line: typer.echo(line, err=True))
    write_result(out, WHAT, facts, result)
    _print(result)
    typer.echo(result["clocks"]["note"])
    typer.echo(f"written to {out}")
    if html is not None:
        write_page({"machine": facts, **result}, html)
        typer.echo(f"page: {html}")
    others = max((row.get("others_share", 0.0) for row in result["rows"]), default=0.0)
    if others > BUSY_SHARE:
        typer.echo(
            f"other programs used up to {100 * others:.0f} % of the machine: read the ratios, not "
            "the rates",
            err=True,
        )


def latency_page(
    result: Annotated[Path, typer.Argument(help="result file of `bench latency`")],
    out: Annotated[Path, typer.Argument(help="page, HTML")],
) -> None:
    """Draw the page of a latency result that is there already."""
    from benchmarks.latency_compare import read_latency
    from benchmarks.latency_page import write_page

    write_page(read_latency(result), out)
    typer.echo(f"page: {out}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to ``leukoscope bench``."""
    app.command("latency")(latency)
    app.command("latency-page")(latency_page)


def _compare(first: Path, second: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.latency_compare import compare_latency, read_latency

    found = compare_latency(read_latency(first), read_latency(second))
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for each in found.differences:
        typer.echo(f"differs: {each}")
    if not found.differences:
        typer.echo("machine, versions, bundle and plan are the same")
    table = Table(title=f"B against A: A {first.name}, B {second.name}")
    for heading in ("profile", "contender", "figure"):
        table.add_column(heading)
    for heading in ("A", "B", "B / A", "lowest", "highest"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in found.rows:
        table.add_row(
            row.profile,
            row.contender,
            row.figure,
            f"{row.first:.2f}",
            f"{row.second:.2f}",
            f"{row.ratio:.3f}",
            "–" if row.low is None else f"{row.low:.3f}",
            "–" if row.high is None else f"{row.high:.3f}",
            row.verdict,
        )
    Console().print(table)
    for each in found.only_in_one:
        typer.echo(f"only in one: {each}")


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    plan = result["plan"]
    table = Table(
        title=f"{result['bundle']}, {plan['threads']} threads, {plan['rounds']} rounds of "
        f"{plan['fields_per_round']} fields"
    )
    for heading in ("profile", "contender"):
        table.add_column(heading)
    for heading in (
        "fields/s",
        "windows",
        "field p50",
        "p99 ms",
        "age p50",
        "p99 ms",
        "overload p99",
        "growth ms/s",
        "MB",
        "J/field",
        "others",
        "/ bare",
    ):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        name = row["contender"] if row["backend"] is None else row["backend"]
        if "not_run" in row:
            table.add_row(row["profile"], name, "not run")
            continue
        live = row.get("live", {})
        own, over = live.get("own_rate", {}), live.get("overload", {})
        energy, bare = row["energy"], row["against"].get("session_run")
        table.add_row(
            row["profile"],
            name,
            f"{row['fields_per_s']:.1f}",
            f"{row['windows_per_field']:.1f}",
            f"{row['field']['p50_ms']:.1f}",
            f"{row['field']['p99_ms']:.1f}",
            *(
                "–" if value is None else f"{value:.0f}"
                for value in (
                    own.get("p50_ms"),
                    own.get("p99_ms"),
                    over.get("p99_ms"),
                    over.get("growth_ms_per_s"),
                    row["peak_memory_mb"],
                )
            ),
            f"{energy['joules_per_field']:.2f}" if energy["measured"] else "–",
            f"{row['others_share']:.2f}",
            "–" if bare is None else f"{bare['ratio']:.2f}",
        )
    Console(width=160).print(table)
    for name, reason in sorted(
        {
            (row["backend"] or row["contender"], row["not_run"])
            for row in result["rows"]
            if "not_run" in row
        }
    ):
        typer.echo(f"{name}: not run: {reason}")
    for reason in {
        row["energy"]["reason"]
        for row in result["rows"]
        if row["contender"] == "leukoscope" and "energy" in row and not row["energy"]["measured"]
    }:
        typer.echo(f"energy: not measured: {reason}")


def _names(flag: str, text: str) -> tuple[str, ...]:
    from edge_runtime.errors import SettingsError

    names = tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
    if not names:
        raise SettingsError(f"{flag} {text!r}: names none; give some with commas between them")
    return names


def _precision(name: str | None) -> str | None:
    from edge_runtime.errors import SettingsError

    known = ("int8", "float16", "float32")
    if name is not None and name not in known:
        raise SettingsError(f"--precision {name!r}: unknown; choose of {', '.join(known)}")
    return name
