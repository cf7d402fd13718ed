"""Plots of how well cells are named: confusion matrix and reliability.

Owns drawing. Does not own the figures (see ``calibration.classification_metrics``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibration.classification_metrics import ClassificationMetrics
from edge_runtime.film_report import RESEARCH_USE
from train.run_folder import storing


def plot_confusion(metrics: ClassificationMetrics, title: str, file: Path) -> Path:
    """Draws shares of each labelled class, with counts, as PNG.

    Raises:
        StoreError: the file cannot be written.
    """
    import numpy as np

    counts = np.array(metrics.confusion)
    columns = [each.name for each in metrics.classes]
    if metrics.unanswered:
        columns.append("no answer")
    else:
        counts = counts[:, :-1]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.62 * len(columns)
    figure, axes = _canvas(side + 1.2, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(counts)), [each.name for each in metrics.classes])
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark = shares[row, column] > 0.55
            colour = "white" if dark else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("named")
    axes.set_ylabel("labelled")
    axes.set_title(
        f"{title}\naccuracy {metrics.accuracy:.3f}, macro F1 {metrics.macro_f1:.3f}", fontsize=10
    )
    return _save(figure, file)


def plot_reliability(metrics: ClassificationMetrics, title: str, file: Path) -> Path:
    """Draws accuracy against stated probability, with the cells behind each point, as PNG.

    Raises:
        StoreError: the file cannot be written.
    """
    figure, axes = _canvas(5, 4.6)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    filled = [each for each in metrics.reliability if each.cells]
    most = max((each.cells for each in filled), default=1)
    for each in filled:
        axes.bar(
            (each.low + each.high) / 2, each.accuracy or 0.0, width=each.high - each.low,
            color="tab:blue", alpha=0.25 + 0.75 * each.cells / most, edgecolor="white",
        )  # fmt: skip
    axes.plot(
        [each.confidence for each in filled], [each.accuracy for each in filled], "o", color="black"
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("stated probability")
    axes.set_ylabel("share named right")
    error = "none" if metrics.ece is None else f"{metrics.ece:.3f}"
    axes.set_title(f"{title}\ncalibration error {error}", fontsize=10)
    return _save(figure, file)


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    # The figure itself, not pyplot: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.supxlabel(RESEARCH_USE, fontsize=6)
    return figure, figure.add_subplot()


def _save(figure: Any, file: Path) -> Path:
    with storing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Without the date, so that the same figures give the same bytes.
        figure.savefig(file, dpi=110, metadata={"Software": None})
    return file
