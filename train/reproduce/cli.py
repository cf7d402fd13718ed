"""``leukoscope train reproduce``.

Owns flags and tables. Does not own rows or running them.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.errors import SettingsError

if TYPE_CHECKING:
    from train.reproduce.rows import Row


class ScaleName(str, Enum):
    """How much to run."""

    PAPER = "paper"
    SMOKE = "smoke"


def reproduce(
    row: Annotated[str | None, typer.Argument(help="a row's id, see --list")] = None,
    listed: Annotated[bool, typer.Option("--list", help="show all rows and their figures")] = False,
    data: Annotated[Path, typer.Option("--data", help="folder that holds the data sets")] = Path(
        "../shared/data"
    ),
    scale: Annotated[ScaleName, typer.Option(help="paper, or smoke: minutes on a CPU")] = (
        ScaleName.PAPER
    ),
    out: Annotated[Path | None, typer.Option(help="[default: runs/reproduce/ROW]")] = None,
    column: Annotated[str | None, typer.Option(help="only this column of the row")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="local file of weights that a classifier starts from; for adaptation and sparse "
            "labels phase1/weights/last.pt of another row of that table (a pickle of one's own)"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, 0, or 0,1 for several GPUs")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    seed: Annotated[int, typer.Option(min=0, help="of draws and trainings")] = 0,
) -> None:
    """Run a table row of a paper and print measured beside published."""
    from train.reproduce.rows import all_rows, load_row

    if listed:
        _print_rows(all_rows())
        return
    if row is None:
        raise SettingsError("reproduce: name a row, or give --list to see them")
    from train.reproduce.run import reproduce as run_row

    chosen = load_row(row)
    place = out or Path("runs") / "reproduce" / chosen.id
    result = run_row(
        chosen,
        place,
        scale=scale.value,
        data_root=data,
        only=column,
        weights=weights,
        device=device,
        resume=resume,
        seed=seed,
        say=lambda line: typer.echo(line, err=True),
    )
    print_result(result)
    typer.echo(f"written to {place / 'result.json'}")


def print_result(result: dict[str, Any]) -> None:
    """Measured beside published, and why they may not be compared."""
    from rich.console import Console
    from rich.table import Table

    smoke = result["scale"] == "smoke"
    table = Table(title=f"{result['paper']}, {result['table']}: {result['method']} (percent)")
    table.add_column("column")
    table.add_column("figure")
    table.add_column("published", justify="right")
    table.add_column("measured, other data" if smoke else "measured", justify="right")
    shown: set[str] = set()
    for column in result["columns"]:
        for name, value in column["published"].items():
            table.add_row(column["name"], name, f"{value:g}", _text(column["measured"].get(name)))
            shown.add(name)
    for column in result["columns"][: 1 if smoke else None]:
        for name, value in column["measured"].items():
            if name not in shown:
                table.add_row("" if smoke else column["name"], name, "–", _text(value))
    console = Console()
    console.print(table)
    for line in (result["warning"], result["smoke_note"], *result["notes"]):
        if line:
            console.print(line)
    for name, why in result["not_run"].items():
        console.print(f"{name} not run: {why}")


def _print_rows(rows: list[Row]) -> None:
    """Plain lines: a name that a table folds cannot be copied."""
    typer.echo("Table rows of the papers; figures in percent, as published.")
    for row in rows:
        built = "" if row.not_built is None else ", not built"
        typer.echo(f"\n{row.id}")
        typer.echo(f"  {row.method}{built}; {row.paper}, {row.table}; data: {', '.join(row.needs)}")
        for each in row.columns:
            figures = ", ".join(f"{name} {value:g}" for name, value in each.published.items())
            typer.echo(f"  {each.name}: {figures}")


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
