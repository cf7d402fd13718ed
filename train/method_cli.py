"""``leukoscope train adapt``, ``sparse`` and ``judge-method``.

Owns flags and tables. Does not own training or measuring.
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_runtime.errors import SettingsError
from edge_runtime.film_report import RESEARCH_USE

RecipeOption = Annotated[str, typer.Option(help="recipe YAML, or the name of a shipped one")]
MethodOption = Annotated[str, typer.Option(help="method, see --list")]
OutOption = Annotated[Path, typer.Option(help="run folder")]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="data root [default: the recipe's]")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, 0, or 0,1 for several GPUs")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="continue an interrupted run")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="[default: the recipe's]")]
WorkersOption = Annotated[int, typer.Option(min=0, help="processes that load data")]
StartOption = Annotated[
    Path | None, typer.Option(help="own checkpoint (a pickle) whose weights to begin with")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="an option of the method, as name=value; may be given again"),
]


class JudgedSplit(str, Enum):
    """Pictures to measure on."""

    TEST = "test"
    VAL = "val"


def _list_methods(table: str) -> None:
    from train import adapt, sparse

    for row in adapt.METHODS if table == "adapt" else sparse.METHODS:
        typer.echo(f"{row.name}: {row.title}")
        for name, value in row.options({}).model_dump(mode="json").items():
            typer.echo(f"  --set {name}={json.dumps(value)}")


def _list_adapt(wanted: bool) -> None:
    if wanted:
        _list_methods("adapt")
        raise typer.Exit


def _list_sparse(wanted: bool) -> None:
    if wanted:
        _list_methods("sparse")
        raise typer.Exit


def adapt(
    method: MethodOption,
    recipe: RecipeOption,
    out: OutOption,
    source_checkpoint: Annotated[
        Path | None,
        typer.Option(help="phase1/weights/last.pt of another run: not to train it again"),
    ] = None,
    options: SetOption = None,
    data: DataOption = None,
    device: DeviceOption = "auto",
    resume: ResumeOption = False,
    seed: SeedOption = None,
    workers: WorkersOption = 2,
    listed: Annotated[
        bool,
        typer.Option("--list", is_eager=True, callback=_list_adapt, help="methods and options"),
    ] = False,
) -> None:
    """Adapt a detector to another microscope whose pictures have no labels.

    Of the target, training opens pictures alone. Pictures of what is learnt from, and counts
    of pseudo-labels per epoch, are in the run's folder phase2/method.
    """
    from train.method_recipe import load_adapt_recipe
    from train.method_run import How, train_adapted

    chosen = load_adapt_recipe(recipe, data)
    update: dict[str, Any] = {"options": _with_options(chosen.options, method, options)}
    if seed is not None:
        update["seed"] = seed
    how = How(device, resume, workers, say=lambda line: typer.echo(line, err=True))
    last = train_adapted(
        chosen.model_copy(update=update), method, out, how, source_checkpoint=source_checkpoint
    )
    typer.echo(f"checkpoint: {last}")
    typer.echo(RESEARCH_USE)


def sparse(
    method: MethodOption,
    recipe: RecipeOption,
    out: OutOption,
    start_from: StartOption = None,
    options: SetOption = None,
    data: DataOption = None,
    device: DeviceOption = "auto",
    resume: ResumeOption = False,
    seed: SeedOption = None,
    workers: WorkersOption = 2,
    listed: Annotated[
        bool,
        typer.Option("--list", is_eager=True, callback=_list_sparse, help="methods and options"),
    ] = False,
) -> None:
    """Train a detector on fields of which one patch each is labelled."""
    from train.method_recipe import load_sparse_recipe
    from train.method_run import How, train_sparse

    chosen = load_sparse_recipe(recipe, data)
    update: dict[str, Any] = {"options": _with_options(chosen.options, method, options)}
    if seed is not None:
        update["seed"] = seed
    if start_from is not None:
        update["start_from"] = str(start_from)
    how = How(device, resume, workers, say=lambda line: typer.echo(line, err=True))
    last = train_sparse(chosen.model_copy(update=update), method, out, how)
    typer.echo(f"checkpoint: {last}")
    typer.echo(RESEARCH_USE)


def judge_method(
    run: Annotated[Path, typer.Option(help="run folder of leukoscope train adapt or sparse")],
    out: Annotated[Path, typer.Option(help="result file, JSON")],
    split: Annotated[JudgedSplit, typer.Option(help="pictures to measure on")] = JudgedSplit.TEST,
    data: Annotated[
        Path | None, typer.Option("--data", help="data root [default: the run's]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or 0")] = "auto",
) -> None:
    """Measure a run of adapt or sparse on whole held-back fields, per set and class."""
    from train.evaluate_attridet import require_one_device
    from train.judge_method import judge_method as judge
    from train.run_folder import require_new_file, storing

    require_new_file(out)
    figures = judge(run, split.value, data_root=data, device=require_one_device(device))
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1) + "\n")
    print_figures(figures)
    typer.echo(f"written to {out}")


def print_figures(figures: dict[str, Any]) -> None:
    """One table: a row per set and class."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{figures['recipe']}, {figures['method']}, {figures['split']} split")
    for head in ("fields", "class"):
        table.add_column(head)
    for head in ("cells", "AP50-95", "AP50"):
        table.add_column(head, justify="right")
    for name, each in figures["fields"].items():
        detection = each["detection"]
        for row in detection["classes"]:
            table.add_row(
                name, row["name"], str(row["cells"]), _figure(row["ap"]), _figure(row["ap50"])
            )
        table.add_row(name, "mean", "", _figure(detection["ap"]), _figure(detection["ap50"]))
        table.add_section()
    Console().print(table)
    typer.echo(RESEARCH_USE)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _with_options(
    known: dict[str, dict[str, Any]], method: str, given: list[str] | None
) -> dict[str, dict[str, Any]]:
    """A recipe's options with those of the command line.

    Raises:
        SettingsError: one is no ``name=value``.
    """
    import yaml

    own = dict(known.get(method, {}))
    for each in given or []:
        name, sign, value = each.partition("=")
        if not sign or not name:
            raise SettingsError(f"--set {each!r}: expected name=value")
        try:
            own[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {each!r}: no value of YAML") from error
    return {**known, method: own}


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(adapt)
    app.command()(sparse)
    app.command("judge-method")(judge_method)
