"""How well cells are named, and how far stated probabilities can be believed.

Owns the figures by class, the confusion matrix and the bins of a reliability plot. Does not own
the calibration error itself (see ``confidence``), naming cells, nor pairing finds with
labelled cells (see ``accuracy``). All figures are pooled over cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from calibration.confidence import expected_calibration_error, softmax
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, Int64Array

# What is said of a cell that nothing was said of: it was not found, or left unclassified.
NO_ANSWER = -1
CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class. A figure without a cell to take it from is None.

    Attributes:
        name: the class.
        cells: labelled cells of it.
        answered: cells that were given its name.
        precision: right ones among the answered.
        recall: right ones among the labelled.
        f1: 2 right / (cells + answered).
    """

    name: str
    cells: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Cells whose highest probability lies in ``[low, high)``; None where there are none."""

    low: float
    high: float
    cells: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class ClassificationMetrics:
    """Figures over a set of cells.

    Attributes:
        cells: how many.
        unanswered: of them, nothing was said; each counts as wrong.
        accuracy: share named right.
        macro_f1: mean F1 over the classes that occur in the truth.
        macro_f1_all: mean F1 over the whole class list; a class that occurs neither in the
            truth nor in the answers counts as 0.
        classes: by class, in the order of the list.
        confusion: ``confusion[t][p]`` cells of class t called p; the last column, one beyond
            the classes, counts the unanswered.
        ece: expected calibration error over 15 equal bins of the highest probability; None
            without probabilities or answers. Of answered cells only.
        reliability: the bins behind it.
    """

    cells: int
    unanswered: int
    accuracy: float
    macro_f1: float
    macro_f1_all: float
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    ece: float | None
    reliability: tuple[ReliabilityBin, ...]

    def as_document(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return asdict(self)


def evaluate_classification(
    names: Sequence[str],
    truth: Int64Array,
    answers: Int64Array,
    confidence: Float32Array | None = None,
) -> ClassificationMetrics:
    """Figures of answers against labels.

    Args:
        names: the class list.
        truth: int64 ``(n,)``, indices into it.
        answers: int64 ``(n,)``, indices or ``NO_ANSWER``.
        confidence: float32 ``(n,)``, probability of each answer in 0..1.

    Raises:
        DataError: lengths or indices that do not fit, or no cell.
    """
    count = len(names)
    if len(truth) == 0:
        raise DataError("classification: no labelled cell to measure on; choose another split")
    if len(truth) != len(answers) or (confidence is not None and len(confidence) != len(truth)):
        raise DataError(f"classification: {len(truth)} labels but {len(answers)} answers")
    if truth.min() < 0 or truth.max() >= count or answers.min() < -1 or answers.max() >= count:
        raise DataError(f"classification: an index beyond the {count} classes")
    confusion = np.zeros((count, count + 1), np.int64)
    np.add.at(confusion, (truth, np.where(answers == NO_ANSWER, count, answers)), 1)
    right = np.diagonal(confusion)
    labelled, answered = confusion.sum(1), confusion[:, :count].sum(0)
    f1 = 2 * right / np.maximum(labelled + answered, 1)
    figures = tuple(
        ClassFigures(
            name=name,
            cells=int(labelled[i]),
            answered=int(answered[i]),
            precision=float(right[i] / answered[i]) if answered[i] else None,
            recall=float(right[i] / labelled[i]) if labelled[i] else None,
            f1=float(f1[i]) if labelled[i] + answered[i] else None,
        )
        for i, name in enumerate(names)
    )
    said = answers != NO_ANSWER
    bins = () if confidence is None else _bins(confidence[said], truth[said] == answers[said])
    ece = None
    if confidence is not None and said.any():
        matches = truth[said] == answers[said]
        ece = expected_calibration_error(confidence[said], matches, bins=CALIBRATION_BINS)
    return ClassificationMetrics(
        cells=len(truth),
        unanswered=int((~said).sum()),
        accuracy=float((truth == answers).mean()),
        macro_f1=float(f1[labelled > 0].mean()),
        macro_f1_all=float(f1.mean()),
        classes=figures,
        confusion=tuple(tuple(int(value) for value in row) for row in confusion),
        ece=ece,
        reliability=bins,
    )


def probabilities(logits: Float32Array, temperature: float = 1.0) -> Float32Array:
    """Softmax of ``logits / temperature``, float32 ``(n, classes)``."""
    return np.asarray(softmax(logits.astype(np.float64) / temperature), np.float32)


def _bins(confidence: Float32Array, right: np.ndarray) -> tuple[ReliabilityBin, ...]:
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    # As ``confidence.expected_calibration_error`` puts them: 1 into the last.
    places = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    bins = []
    for place in range(CALIBRATION_BINS):
        inside = places == place
        cells = int(inside.sum())
        bins.append(
            ReliabilityBin(
                low=float(edges[place]),
                high=float(edges[place + 1]),
                cells=cells,
                confidence=float(confidence[inside].mean()) if cells else None,
                accuracy=float(right[inside].mean()) if cells else None,
            )
        )
    return tuple(bins)
