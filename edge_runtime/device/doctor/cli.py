"""The ``leukoscope doctor`` command.

Owns flags and how rows are printed. Does not own any row (see ``examine``).
"""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from edge_runtime.device.doctor.examine import Examination
    from edge_runtime.device.doctor.rows import DoctorRow

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
EXIT_CANNOT_RUN = 1
_NARROWEST, _WIDEST = 60, 120


@app.command()
def doctor(
    backend: Annotated[
        str | None, typer.Option(help="what the device shall run with [default: setting backend]")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="folder of the device's bundles and keys [default: setting device_root]"),
    ] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="TOML file with any of the settings")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Say whether this device can run a film, what is missing, and what mends it.

    Exit code 0 when a film can run with the wished backend, 1 when not. Changes nothing.
    """
    from edge_runtime.device.doctor.examine import examine
    from edge_runtime.device.doctor.machine import Machine
    from edge_runtime.device.doctor.software import InstalledSoftware
    from edge_runtime.settings import load_settings

    settings = load_settings(settings_file, flags={"device_root": root, "backend": backend})
    found = examine(Machine(), InstalledSoftware(), settings)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        _print(found)
    if not found.can_run:
        raise typer.Exit(EXIT_CANNOT_RUN)


def _print(found: Examination) -> None:
    width = max(_NARROWEST, min(_WIDEST, _terminal_columns()))
    longest = max(len(row.what) for row in found.rows if not row.what.startswith("key "))
    for row in found.rows:
        for line in _lines(row, longest, width):
            typer.echo(line)
    typer.echo("")
    typer.echo(found.verdict)
    typer.echo(RESEARCH_USE)


def _lines(row: DoctorRow, longest: int, width: int) -> list[str]:
    state = row.state.upper() if row.stops else row.state
    start = f"{state:<10} {row.what:<{longest}}  "
    indent = " " * (11 + longest + 2)
    lines = textwrap.wrap(
        row.value, width, initial_indent=start, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    if row.remedy:
        # Commands stay whole, so that they can be copied.
        lines.append(f"{indent}-> {row.remedy}")
    return lines


def _terminal_columns() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return _WIDEST
