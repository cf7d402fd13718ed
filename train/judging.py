"""Measuring a trained classifier on labelled boxes, and leaving figures and plots.

Owns reading a run back and what a measurement leaves: ``classification.json`` and two
pictures. Does not own the figures (see ``calibration.classification_metrics``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from calibration.classification_metrics import (
    ClassificationMetrics,
    evaluate_classification,
    probabilities,
)
from calibration.labelled_cells import CellSplit, OpenedCells, open_cells
from edge_runtime.errors import DataError
from edge_runtime.film_report import RESEARCH_USE
from train.classify import CELLS_NAME, JudgedCells, judge, torch_device
from train.models.cell_classifier import CHECKPOINT_NAME, Checkpoint, load_classifier
from train.plots import plot_confusion, plot_reliability
from train.run_folder import make_folder, storing

RESULT_NAME = "classification.json"


def open_run(run: Path, data: Path | None = None) -> tuple[Checkpoint, nn.Module, OpenedCells]:
    """A classifier's run: what it says of itself, the network, and its labelled cells.

    Args:
        run: folder of ``train_classifier``.
        data: the data root; None takes the one that it was trained with.

    Raises:
        DataError: no finished run, other data, or a class list that is not the checkpoint's.
    """
    checkpoint, network = load_classifier(run / CHECKPOINT_NAME)
    if data is None:
        data = Path(recipe_of(run)["data_root"])
    opened = open_cells(run / CELLS_NAME, data)
    if opened.cells.classes != checkpoint.classes:
        raise DataError(
            f"{run / CELLS_NAME}: classes {', '.join(opened.cells.classes)} are not the "
            f"checkpoint's, {', '.join(checkpoint.classes)}; give the run as training left it"
        )
    return checkpoint, network, opened


def judge_run(
    run: Path,
    split: CellSplit,
    out: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
) -> ClassificationMetrics:
    """Measures a run's classifier on its labelled boxes and leaves figures and plots.

    Args:
        run: folder of ``train_classifier``.
        split: cells to measure on.
        out: folder for ``classification.json``, ``confusion.png`` and ``reliability.png``.
        data: the data root; None takes the one that it was trained with.
        device: as ``train_classifier`` takes it.

    Raises:
        DataError: see ``open_run``; or the split has no cell.
        StoreError: ``out`` cannot be written.
    """
    chosen = torch_device(device)
    checkpoint, network, opened = open_run(run, data)
    pictures = opened.cells.of_split(split)
    if not pictures:
        raise DataError(f"{run / CELLS_NAME}: no {split} cell in it; choose another --split")
    make_folder(out)
    judged = judge(network.to(chosen), pictures, opened.root, checkpoint.input, device=chosen)
    metrics = metrics_of(judged, checkpoint.classes)
    about = {"run": opened.cells.name, "split": split, "crops": "labelled boxes"}
    write_classification(metrics, out, about)
    return metrics


def metrics_of(judged: JudgedCells, classes: tuple[str, ...]) -> ClassificationMetrics:
    """Figures of a network's logits."""
    shares = probabilities(judged.logits)
    return evaluate_classification(
        classes, judged.truth, judged.logits.argmax(1), shares.max(1) if len(shares) else shares
    )


def write_classification(metrics: ClassificationMetrics, out: Path, about: dict[str, Any]) -> None:
    """Leaves figures and plots.

    Args:
        metrics: what was measured.
        out: folder.
        about: what it was measured on; ``run``, ``split`` and ``crops`` name the plots.

    Raises:
        StoreError: the folder cannot be written.
    """
    title = f"{about['run']}, {about['split']}, {about['crops']}"
    document = {"about": about, **metrics.as_document(), "notice": RESEARCH_USE}
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / RESULT_NAME).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    plot_confusion(metrics, title, out / "confusion.png")
    if metrics.ece is not None:
        plot_reliability(metrics, title, out / "reliability.png")


def print_classification(metrics: ClassificationMetrics, title: str) -> None:
    """Prints one row a class, and the means, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column("class")
    for head in ("cells", "named so", "precision", "recall", "F1"):
        table.add_column(head, justify="right")
    for each in metrics.classes:
        rates = (each.precision, each.recall, each.f1)
        shown = ["-" if value is None else f"{value:.3f}" for value in rates]
        table.add_row(each.name, str(each.cells), str(each.answered), *shown)
    console = Console()
    console.print(table)
    ece = "none" if metrics.ece is None else f"{metrics.ece:.3f}"
    console.print(
        f"accuracy {metrics.accuracy:.4f}  macro F1 {metrics.macro_f1:.4f} "
        f"(all {len(metrics.classes)} classes {metrics.macro_f1_all:.4f})  "
        f"calibration error {ece}  cells {metrics.cells}, without an answer {metrics.unanswered}"
    )
    console.print(RESEARCH_USE)


def recipe_of(run: Path) -> dict[str, Any]:
    """The recipe in a finished run's record.

    Raises:
        DataError: no such record.
    """
    file = run / "training.json"
    try:
        recipe: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: no record of a finished training; finish it first") from error
    return recipe
