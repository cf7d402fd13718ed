"""``leukoscope train attridet`` and ``judge-attridet``.

Owns flags and tables. Does not own training or measuring.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataOption = Annotated[
    Path | None, typer.Option("--data", help="data root [default: the recipe's]")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, 0, or 0,1 for several GPUs")]


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


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(attridet)
