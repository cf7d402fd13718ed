"""``leukoscope train``: compose, detect, evaluate; classify and attributes; judge.

Owns flags and tables. Does not own training or evaluation.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_runtime.film_report import RESEARCH_USE
from train import attridet_cli, method_cli, site_cli
from train.reproduce.cli import reproduce

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Train and evaluate detectors, classifiers and attribute heads. {RESEARCH_USE}",
)

attridet_cli.add_to(app)
method_cli.add_to(app)
site_cli.add_to(app)
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
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, or the index of one GPU")]
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
    workers: Annotated[int, typer.Option(min=0, help="processes that load data")] = 2,
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
    device: DeviceOption = "auto",
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
    start_from: Annotated[
        Path | None, typer.Option(help="attribute_head.pt of an earlier run to begin with")
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
    best = train_attribute_head(
        chosen, out, detector=detector, start_from=start_from, resume=resume, say=typer.echo
    )
    typer.echo(f"checkpoint: {best}")
    typer.echo(RESEARCH_USE)


class CellSplitName(str, Enum):
    """Cells of a classifier's run."""

    TEST = "test"
    VAL = "val"
    TRAIN = "train"


@app.command("judge")
def judge_classifier(
    run: Annotated[Path, typer.Option(help="run folder of leukoscope train classify")],
    out: Annotated[Path, typer.Option(help="folder for figures and plots")],
    split: Annotated[CellSplitName, typer.Option(help="cells to measure on")] = CellSplitName.TEST,
    data: Annotated[
        Path | None, typer.Option("--data", help="data root [default: the run's]")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a classifier on labelled boxes: figures as JSON, a table, and plots."""
    from train.judging import judge_run, print_classification

    metrics = judge_run(run, split.value, out, data=data, device=device)
    print_classification(metrics, f"{run.name}, {split.value}, labelled boxes")
    typer.echo(f"written to {out}")


@app.command("detect-binary")
def detect_binary(
    recipe: RecipeOption,
    out: RunOption,
    data: DataOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, 0, or 0,1 for several GPUs")] = "auto",
    resume: ResumeOption = False,
    seed: SeedOption = None,
    workers: Annotated[int, typer.Option(min=0, help="processes that load data")] = 2,
) -> None:
    """Train the first of two stages: a detector on a whole data set of the catalogue."""
    from train.binary_detector import load_binary_recipe, train_binary_detector

    chosen = load_binary_recipe(recipe, data)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    best = train_binary_detector(chosen, out, device=device, resume=resume, workers=workers)
    typer.echo(f"checkpoint: {best}")
    typer.echo(RESEARCH_USE)


@app.command("two-stage")
def two_stage(
    run: Annotated[Path, typer.Option(help="run folder of leukoscope train classify")],
    detector: Annotated[Path, typer.Option(help="own first-stage detector's checkpoint")],
    out: Annotated[Path, typer.Option(help="folder for figures and plots")],
    split: Annotated[CellSplitName, typer.Option(help="cells to measure on")] = CellSplitName.TEST,
    data: Annotated[
        Path | None, typer.Option("--data", help="data root [default: the run's]")
    ] = None,
    cells: Annotated[str, typer.Option(help="the detector's class that is a cell")] = "WBC",
    size: Annotated[int, typer.Option(min=32, help="side of the detector's input")] = 640,
    score: Annotated[float, typer.Option(min=0, max=1, help="lowest score of a find")] = 0.25,
    device: DeviceOption = "auto",
) -> None:
    """Measure a classifier on labelled boxes and behind a detector, side by side."""
    from train.binary_detector import open_finder
    from train.classify import torch_device
    from train.judging import print_classification
    from train.two_stage import judge_two_stage

    where = str(torch_device(device))
    find = open_finder(detector, cells=cells, size=size, score=score, device=where)
    labelled, whole = judge_two_stage(run, find, split.value, out, data=data, device=device)
    print_classification(labelled, f"{run.name}, {split.value}, labelled boxes")
    print_classification(whole.metrics, f"{run.name}, {split.value}, finds of {detector.name}")
    typer.echo(f"cells found {whole.found}, finds without a cell {whole.false_finds}")
    typer.echo(f"written to {out}")


@app.command("adapt-classifier")
def adapt_classifier(
    recipe: RecipeOption,
    base: Annotated[Path, typer.Option(help="run folder of the classifier to adapt")],
    out: Annotated[Path, typer.Option(help="folder for indices, runs and figures")],
    data: DataOption = None,
    device: DeviceOption = "auto",
    joint: Annotated[
        bool, typer.Option("--joint", help="train anew with the share, not on from the classifier")
    ] = False,
) -> None:
    """Adapt a classifier to a share of another laboratory's cells; measure on the rest."""
    from train.two_stage import adapt as adapt_to
    from train.two_stage import load_adaptation_recipe

    chosen = load_adaptation_recipe(recipe, data)
    if joint:
        chosen = chosen.model_copy(update={"mode": "joint"})
    result = adapt_to(chosen, base, out, device=device, say=typer.echo)
    for when, figures in result["over_seeds"].items():
        shown = "  ".join(
            f"{name} {row['mean']:.4f}"
            + ("" if row["deviation"] is None else f" ± {row['deviation']:.4f}")
            for name, row in figures.items()
        )
        typer.echo(f"{when}, cells held back: {shown}")
    typer.echo(f"written to {out}")
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
