"""``leukoscope train attridet`` and ``judge-attridet``.

Owns flags and tables. Does not own training or measuring.
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.errors import StoreError

if TYPE_CHECKING:
    from train.evaluate_attridet import Judgement

DataOption = Annotated[
    Path | None, typer.Option("--data", help="data root [default: the recipe's]")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, 0, or 0,1 for several GPUs")]


class JudgedSplit(str, Enum):
    """Pictures to measure on."""

    TEST = "test"
    VAL = "val"


def attridet(
    recipe: Annotated[str, typer.Option(help="recipe YAML, or the name of a shipped one")],
    out: Annotated[Path, typer.Option(help="run folder")],
    data: DataOption = None,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="[default: the recipe's]")] = None,
    workers: Annotated[int, typer.Option(min=0, help="processes that load data")] = 2,
) -> None:
    """Train a detector and its attribute head together (AttriDet).

    A checkpoint that a recipe starts from is a pickle of ultralytics: name your own ones only.
    What it would import is looked through first, and anything but network classes refused.
    """
    from train.attridet_recipe import load_attridet_recipe
    from train.attridet_run import train_attridet

    chosen = load_attridet_recipe(recipe, data)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    best = train_attridet(
        chosen,
        out,
        device=device,
        resume=resume,
        workers=workers,
        say=lambda line: typer.echo(line, err=True),
    )
    typer.echo(f"checkpoint: {best}")


def judge_attridet(
    run: Annotated[Path, typer.Option(help="run folder of leukoscope train attridet")],
    out: Annotated[Path, typer.Option(help="folder for figures.json and charts")],
    split: Annotated[JudgedSplit, typer.Option(help="pictures to measure on")] = JudgedSplit.TEST,
    data: DataOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="another own checkpoint (a pickle) [default: the run's]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="pictures at once")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or 0")] = "auto",
) -> None:
    """Measure detection per class, and attributes under three rules of matching."""
    from train.attridet_plots import write_charts
    from train.evaluate_attridet import (
        judge_attridet,
        judgement_document,
        open_run,
        require_one_device,
    )
    from train.run_folder import make_folder

    recipe, own = open_run(run, data, checkpoint)
    make_folder(out)
    judged = judge_attridet(
        recipe, own, split.value, batch=batch, device=require_one_device(device)
    )
    document = judgement_document(judged, recipe, own, split.value)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "figures.json").write_text(json.dumps(document, indent=1) + "\n")
        write_charts(judged, out, title=f"{recipe.name}, {split.value} split")
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}; choose another --out") from error
    print_judgement(judged)
    typer.echo(f"written to {out}")


def print_judgement(judged: Judgement) -> None:
    """Tables of classes, and of attributes where there are any."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    detection = judged.detection
    table = Table(title=f"{detection.images} pictures, {detection.cells} cells")
    table.add_column("class")
    for head in ("cells", "AP50-95", "AP50"):
        table.add_column(head, justify="right")
    for row in detection.classes:
        table.add_row(row.name, str(row.cells), _figure(row.ap), _figure(row.ap50))
    table.add_section()
    table.add_row("mean", "", _figure(detection.ap), _figure(detection.ap50))
    console.print(table)
    if not judged.attributes:
        return
    table = Table(title="attributes, F1")
    table.add_column("attribute")
    for head in (
        "cells",
        *(each.rule for each in judged.attributes),
        "prevalence",
        "all ones",
        "majority",
    ):
        table.add_column(head, justify="right")
    for rows in zip(*(each.attributes for each in judged.attributes), strict=True):
        # Prevalence and what follows from it are of all labelled cells, as the last rule's.
        last = rows[-1]
        shares = "/".join("–" if p is None else f"{p:.2f}" for p in last.prevalence)
        table.add_row(
            last.name,
            str(last.cells),
            *(_figure(each.f1) for each in rows),
            shares,
            _figure(last.all_ones_f1),
            _figure(last.majority_f1),
        )
    table.add_section()
    means = [_figure(each.mean_f1) for each in judged.attributes]
    table.add_row("mean", "", *means, "", "", "")
    console.print(table)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(attridet)
    app.command("judge-attridet")(judge_attridet)
