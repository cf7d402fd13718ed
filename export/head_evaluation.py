"""What heads answer on labelled cells, through the stages that devices run.

Owns running one or more variants of a head over the same cells in one pass. Does not own the
figures made of the answers (see ``calibration.classification_metrics``
and ``calibration.attribute_metrics``) nor the verdict (see ``parity``).

Cells are looked at in their labelled boxes, so that what a detector misses does not enter.
The attribute head reads the maps of the whole field fitted to the detector's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from calibration.attribute_metrics import AttributeMetrics, evaluate_on_labelled_boxes
from calibration.classification_metrics import ClassificationMetrics, evaluate_classification
from calibration.labelled_cells import CellPicture, CellSplit, LabelledCells, OpenedCells
from edge_runtime.attribute_head import AttributeHead
from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.backends import InferenceBackend, backend_row, open_backend
from edge_runtime.bundle import AttributeHeadSpec, ClassifierSpec, DetectorSpec
from edge_runtime.classifier import Classifier
from edge_runtime.errors import DataError
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import Float32Array, Int64Array, UInt8Image
from export.evaluation import turned

ALL_CELLS = "all cells"
# One cell in a class of a hundred moves the macro-F1 of seven by a tenth of a point.
_CELLS_TO_TELL = 1000
# With fewer, one cell of a rare class is a whole point: such a domain is judged in the sum.
_CELLS_OF_A_DOMAIN = 400
_ALL_VIEWS = 8
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ClassAnswers:
    """A classifier's answers, row by row.

    Attributes:
        domains: str ``(n,)``.
        truth: int64 ``(n,)``.
        probabilities: per variant, float32 ``(n, classes)`` at temperature 1.
    """

    domains: NDArray[np.str_]
    truth: Int64Array
    probabilities: Mapping[str, Float32Array]

    def figures(self, classes: Sequence[str], variant: str) -> dict[str, ClassificationMetrics]:
        """Per domain that has answers enough, and of all cells."""
        answered = self.probabilities[variant].argmax(axis=1).astype(np.int64)
        return {
            name: evaluate_classification(classes, self.truth[rows], answered[rows])
            for name, rows in _groups(self.domains).items()
        }

    def blast_recall(
        self, classes: Sequence[str], blasts: Sequence[str], variant: str
    ) -> dict[str, float]:
        """Share of blasts that are called a blast of any kind, grouped as ``figures`` is.

        Raises:
            DataError: none of the cells is a blast.
        """
        kinds = np.array([classes.index(name) for name in blasts])
        rows = np.isin(self.truth, kinds)
        if not rows.any():
            raise DataError(
                f"labelled cells: none is a blast ({', '.join(blasts)}), so what int8 costs their "
                "recall cannot be told; add some to validation, or name other --blast-class"
            )
        called = np.isin(self.probabilities[variant][rows].argmax(axis=1), kinds)
        return {
            name: float(called[group].mean()) for name, group in _groups(self.domains[rows]).items()
        }


@dataclass(frozen=True, slots=True)
class AttributeAnswers:
    """An attribute head's answers, row by row.

    Attributes:
        domains: str ``(n,)``.
        truth: int64 ``(n, attributes)``.
        values: per variant, int64 ``(n, attributes)``.
    """

    domains: NDArray[np.str_]
    truth: Int64Array
    values: Mapping[str, Int64Array]

    def figures(self, schema: AttributeSchema, variant: str) -> dict[str, AttributeMetrics]:
        """Per domain that has answers enough, and of all cells."""
        return {
            name: evaluate_on_labelled_boxes(schema, self.truth[rows], self.values[variant][rows])
            for name, rows in _groups(self.domains).items()
        }


@dataclass(frozen=True, slots=True)
class HeadOnDetector:
    """ONNX bytes of an attribute head and of the detector whose maps it reads."""

    head: bytes
    detector: bytes


def classify_cells(
    spec: ClassifierSpec,
    variants: Mapping[str, bytes],
    cells: OpenedCells,
    split: CellSplit,
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    views: int = 1,
) -> ClassAnswers:
    """Classes of every labelled cell of a split.

    Args:
        spec: the classifier as the manifest will have it.
        variants: ONNX bytes by name.
        cells: the record.
        split: which part of it.
        backend: one that runs ONNX on a processor.
        threads: pictures looked at at once.
        views: in how many of the eight mirrored and turned positions.

    Raises:
        BackendError: the backend is not available or refuses a model.
        DataError: no cell, or a picture cannot be read.
    """
    plain = spec.model_copy(update={"temperature": 1.0, "abstain_below": 0.0})
    pictures = [each for each in cells.cells.of_split(split) if each.cells]
    with ExitStack() as stack:
        row = backend_row(backend)
        stages = {
            name: Classifier(plain, stack.enter_context(open_backend(row, model, threads=threads)))
            for name, model in variants.items()
        }

        def look(view: tuple[CellPicture, int]) -> dict[str, Float32Array]:
            pixels, boxes = _view(cells, *view)
            return {
                name: stage.classify(pixels, boxes).probabilities for name, stage in stages.items()
            }

        found = _run(look, pictures, views, threads, split)
    rows = [(each, p) for p in pictures for _ in range(views) for each in p.class_ids.tolist()]
    return ClassAnswers(
        np.array([picture.domain for _, picture in rows]),
        np.array([each for each, _ in rows], np.int64),
        {name: np.concatenate([each[name] for each in found]) for name in variants},
    )


def judge_cells(
    spec: AttributeHeadSpec,
    detector: DetectorSpec,
    variants: Mapping[str, HeadOnDetector],
    cells: OpenedCells,
    split: CellSplit,
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    views: int = 1,
) -> AttributeAnswers:
    """Attributes of every cell of a split that has any labelled.

    Args:
        spec: the head as the manifest will have it.
        detector: the detector likewise, with its feature maps.
        variants: models by name; a detector that several share runs once.
        cells: the record.
        split: which part of it.
        backend: one that runs ONNX on a processor.
        threads: pictures looked at at once.
        views: in how many of the eight mirrored and turned positions.

    Raises:
        BackendError: the backend is not available or refuses a model.
        DataError: no such cell, or a picture cannot be read.
    """
    pictures = [each for each in cells.cells.of_split(split) if (each.attributes != MISSING).any()]
    with ExitStack() as stack:
        row = backend_row(backend)

        def opened(model: bytes) -> InferenceBackend:
            return stack.enter_context(open_backend(row, model, threads=threads))

        heads = {
            name: AttributeHead(spec, detector, opened(each.head))
            for name, each in variants.items()
        }
        sources = {model: opened(model) for model in {e.detector for e in variants.values()}}

        def look(view: tuple[CellPicture, int]) -> dict[str, Int64Array]:
            pixels, boxes = _view(cells, *view)
            window = fit_window(pixels.shape[1], pixels.shape[0], detector.input)
            tensor = tensor_of(pixels, window, detector.input)
            maps = {
                model: source.infer({detector.input.name: tensor})
                for model, source in sources.items()
            }
            placed = window.to_input(boxes)
            return {
                name: head.judge(maps[variants[name].detector], placed)[0]
                for name, head in heads.items()
            }

        found = _run(look, pictures, views, threads, split)
    shown = [picture for picture in pictures for _ in range(views)]
    return AttributeAnswers(
        np.array([picture.domain for picture in shown for _ in picture.cells]),
        np.concatenate([picture.attributes for picture in shown]),
        {name: np.concatenate([each[name] for each in found]) for name in variants},
    )


def feature_feeds(
    spec: AttributeHeadSpec,
    detector: DetectorSpec,
    model: bytes,
    fields: Iterator[tuple[UInt8Image, Float32Array]],
) -> Iterator[dict[str, Float32Array]]:
    """An attribute head's inputs for calibration, one field at a time.

    Args:
        spec: the head.
        detector: its detector, with feature maps.
        model: the detector's float ONNX bytes, with the maps among its outputs.
        fields: pixels and corners of cells.
    """
    with open_backend(backend_row("onnxruntime"), model, threads=1) as source:
        for pixels, boxes in fields:
            window = fit_window(pixels.shape[1], pixels.shape[0], detector.input)
            maps = source.infer({detector.input.name: tensor_of(pixels, window, detector.input)})
            yield {name: maps[name] for name in spec.reads} | {spec.boxes: window.to_input(boxes)}


def cell_views_to_tell(cells: LabelledCells, split: CellSplit) -> int:
    """Views per picture (1, 2, 4 or 8) that show some 1000 cells."""
    count = sum(len(picture.cells) for picture in cells.of_split(split))
    views = 1
    while views < _ALL_VIEWS and count * views < _CELLS_TO_TELL:
        views *= 2
    return views


def _view(
    cells: OpenedCells, picture: CellPicture, position: int
) -> tuple[UInt8Image, Float32Array]:
    pixels = picture.read(cells.root)
    return turned(pixels, picture.boxes_xyxy(pixels.shape[1], pixels.shape[0]), position)


def _run(
    look: Callable[[tuple[CellPicture, int]], dict[str, _Answer]],
    pictures: Sequence[CellPicture],
    views: int,
    threads: int,
    split: CellSplit,
) -> list[dict[str, _Answer]]:
    if not pictures:
        raise DataError(f"labelled cells: none in split {split!r} to judge a head on")
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(look, [(p, each) for p in pictures for each in range(views)]))


def _groups(domains: NDArray[np.str_]) -> dict[str, NDArray[np.bool_]]:
    """Rows of all cells, and of every domain with cells enough when there is more than one."""
    everything = np.ones(len(domains), np.bool_)
    names = sorted(set(domains.tolist()))
    if len(names) == 1:
        return {names[0]: everything}
    groups = {name: domains == name for name in names}
    large = {name: rows for name, rows in groups.items() if rows.sum() >= _CELLS_OF_A_DOMAIN}
    return {ALL_CELLS: everything, **large}
