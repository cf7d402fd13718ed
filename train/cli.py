"""``leukoscope train``: compose, detect, evaluate; classify and attributes; judge.

Owns flags and tables. Does not own training or evaluation.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_runtime.film_report import RESEARCH_USE
from train import attridet_cli
from train.reproduce.cli import reproduce

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Train and evaluate detectors, classifiers and attribute heads. {RESEARCH_USE}",
)

attridet_cli.add_to(app)
app.command()(reproduce)


class Split(str, Enum):
    """Fields that no training saw."""

    TEST = "test"
    VAL = "val"


RecipeOption = Annotated[
    str, typer.Option(help="recipe YAML, or the name of a shipped one such as wbc-detector")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="data root [default: the recipe's]")
]
RunOption = Annotated[Path, typer.Option(help="run folder")]
SeedOption = Annotated[int | None, typer.Option(min=0, help="[default: the recipe's]")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="continue an interrupted run")]


@app.command()
def compose(
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option(help="folder for the composed set and its preview")],
    data: DataOption = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="pictures [default: the recipe's]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Write the composed training set and a preview picture with boxes, without training."""
    from train.datasets.compose import write_composed
    from train.preview import write_preview
    from train.recipe import load_recipe

    chosen = load_recipe(recipe, data)
    if images is not None:
        chosen = chosen.model_copy(
            update={"compose": chosen.compose.model_copy(update={"images": images})}
        )
    with _Counting("composing") as counting:
        write_composed(chosen, out, workers=workers, progress=counting)
    typer.echo(f"{chosen.compose.images} pictures in {out}")
    typer.echo(f"preview: {write_preview(out)}")


@app.command()
def detect(
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option(help="run folder")],
    data: DataOption = None,
    leave_out: Annotated[str | None, typer.Option(help="domain that training must not see")] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="own checkpoint whose weights to begin with")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="[default: the recipe's]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, 0, or 0,1 for several GPUs")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    workers: Annotated[int, typer.Option(help="processes that load data")] = 2,
) -> None:
    """Train a white-cell detector."""
    from train.recipe import load_recipe
    from train.trainer import train_detector

    chosen = load_recipe(recipe, data)
    if leave_out is not None:
        chosen = chosen.without(leave_out)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    with _Counting("composing") as counting:
        best = train_detector(
            chosen,
            out,
            start_from=start_from,
            device=device,
            resume=resume,
            workers=workers,
            progress=counting,
        )
    typer.echo(f"checkpoint: {best}")


@app.command()
def evaluate(
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option(help="result file, JSON")],
    bundle: Annotated[
        Path | None, typer.Option(help="bundle folder or file [default: shipped demo]")
    ] = None,
    data: DataOption = None,
    split: Annotated[Split, typer.Option(help="fields to measure on")] = Split.TEST,
    backend: Annotated[str, typer.Option(help="auto, onnxruntime or openvino")] = "auto",
) -> None:
    """Measure a bundle per domain, through the path a device runs (COCO definitions)."""
    from edge_runtime.bundle import open_bundle, shipped_bundle_path
    from train.evaluate import evaluate_bundle, evaluation_sets, write_results
    from train.recipe import load_recipe

    chosen = load_recipe(recipe, data)
    opened = open_bundle(bundle or shipped_bundle_path())
    results = evaluate_bundle(
        opened,
        evaluation_sets(chosen, split=split.value),
        backend=backend,
        progress=lambda name: typer.echo(f"measured: {name}", err=True),
    )
    write_results(results, out)
    _print_table(results)
    typer.echo(f"best mean F1 at score {results['best_f1_score']:.2f}")
    typer.echo(f"written to {out}")


@app.command()
def classify(
    recipe: RecipeOption,
    out: RunOption,
    data: DataOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or the index of one GPU")] = "auto",
    resume: ResumeOption = False,
    seed: SeedOption = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="local weights to begin with: classifier.pt, DinoBloom or ResNet"),
    ] = None,
) -> None:
    """Train a classifier of cell crops."""
    from train.classify import load_classify_recipe, train_classifier

    chosen = load_classify_recipe(recipe, data)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    best = train_classifier(
        chosen, out, device=device, resume=resume, start_from=start_from, say=typer.echo
    )
    typer.echo(f"checkpoint: {best}")
    typer.echo(RESEARCH_USE)


@app.command()
def attributes(
    recipe: RecipeOption,
    out: RunOption,
    detector: Annotated[
        Path | None, typer.Option(help="own detector's checkpoint [default: the recipe's]")
    ] = None,
    data: DataOption = None,
    resume: ResumeOption = False,
    seed: SeedOption = None,
) -> None:
    """Train an attribute head on a finished detector, whose weights stay as they are."""
    from train.describe import load_describe_recipe, train_attribute_head

    chosen = load_describe_recipe(recipe, data)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    best = train_attribute_head(chosen, out, detector=detector, resume=resume, say=typer.echo)
    typer.echo(f"checkpoint: {best}")
    typer.echo(RESEARCH_USE)


class _Counting:
    """A progress bar that is called with done and wanted."""

    def __init__(self, what: str) -> None:
        from rich.progress import Progress

        self._bar = Progress()
        self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> _Counting:
        self._bar.start()
        return self

    def __call__(self, done: int, wanted: int) -> None:
        self._bar.update(self._task, completed=done, total=wanted)
        if done >= wanted:
            # The trainer prints a bar of its own from here on.
            self._bar.stop()

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()


def _print_table(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results['bundle']}, {results['backend']['precision']}")
    table.add_column("set")
    for head in ("AP50-95", "AP50", "AR", "recall", "precision", "windows"):
        table.add_column(head, justify="right")
    for name, row in results["sets"].items():
        shown = [row[key] for key in ("ap", "ap50", "ar", "recall", "precision")]
        table.add_row(name, *(f"{value:.3f}" for value in shown), f"{row['windows']:.1f}")
    Console().print(table)
