"""The three heads as calibration looks at them: a float graph, its inputs, and who judges it.

Owns turning training runs, or a bare float graph, into such subjects. Does not own what is
measured on them (see ``calibration_runs``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from calibration.accuracy import evaluate_detections
from calibration.cell_draw import DEFAULT_CELLS, DEFAULT_MINIMUM_CELLS, DrawnCells, draw_cells
from calibration.dataset import CalibrationSet
from calibration.fields import digest_files
from calibration.float_heads import FloatAttributeHead, FloatClassifier
from calibration.histograms import Feed, Feeds
from calibration.labelled_cells import OpenedCells
from calibration.ranges import calibration_tensors
from calibration.sampling import (
    DEFAULT_IMAGES,
    DEFAULT_MINIMUM,
    check_calibration_set,
    draw_calibration_set,
    hash_files,
)
from calibration.sensitivity import Judge
from edge_runtime.bundle import DetectorSpec, InputSpec, WorkingScale
from edge_runtime.preprocess import crop_tensor
from export.assembly import CPU
from export.bundle_writer import DEFAULT_SCALE, detector_spec
from export.evaluation import find_in_domains, views_to_tell
from export.graph import decode_of, load_graph
from export.head_evaluation import (
    HeadOnDetector,
    cell_views_to_tell,
    classify_cells,
    feature_feeds,
    judge_cells,
)
from export.parity import ALLOWED_HEAD_POINTS, ALLOWED_POINTS
from export.training_run import TrainingRun

# Enough for sums of squares over millions of values.
COMPARED_PICTURES = 32
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subject:
    """One head.

    Attributes:
        head: detector, classifier or attribute_head.
        float_model: ONNX bytes.
        feeds: calibration inputs, one pass.
        feed_count: how many a pass has.
        compared: the inputs that float and int8 layers are compared on.
        calibrated_on: in words.
        digest: of the calibration pictures.
        judge: figure per domain of a graph; None without labels.
        judged_on: in words; empty without labels.
        judged_digest: of the pictures judged on, and in how many views.
        figure: what the judge gives.
        allowed_points: that the parity gate lets a domain lose.
        pictures: the calibration set, when whole fields were drawn.
        trial: not all pictures are looked at.
    """

    head: str
    float_model: bytes
    feeds: Feeds
    feed_count: int
    compared: Feeds
    calibrated_on: str
    digest: str
    judge: Judge | None
    judged_on: str
    judged_digest: str
    figure: str
    allowed_points: float
    pictures: CalibrationSet | None = None
    trial: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is looked at; None is all. What leaves pictures out is a trial and chooses nothing.

    Attributes:
        pictures: calibration pictures, or training cells of a head.
        fields: judged on, per domain, or pictures of a head in all; each in one view.
        views: mirrored views of each field, at most; None takes as many as the gate does.
        threads: fields judged at once.
    """

    pictures: int | None = None
    fields: int | None = None
    views: int | None = None
    threads: int = 1

    @property
    def trial(self) -> bool:
        """Whether anything is left out."""
        return self.pictures is not None or self.fields is not None

    def views_of(self, wanted: int) -> int:
        """How many of the wanted views are looked at."""
        if self.fields is not None:
            return 1
        return wanted if self.views is None else min(wanted, self.views)


def detector_subject(
    run: TrainingRun,
    float_model: bytes,
    *,
    drawn: CalibrationSet | None = None,
    minimum: int = DEFAULT_MINIMUM,
    seed: int = 0,
    working_scale: WorkingScale = DEFAULT_SCALE,
    limits: Limits | None = None,
) -> Subject:
    """A detector with the data of its training run, judged on validation fields as at the gate.

    Args:
        run: where the data is.
        float_model: its checkpoint as float ONNX.
        drawn: a set drawn earlier; None draws as ``leukoscope export bundle`` does.
        minimum: fewer calibration pictures are refused.
        seed: of the draw.
        working_scale: at which size cells are looked for, as the bundle will have it.
        limits: see there.

    Raises:
        DataError: no, too little or unusable data.
    """
    limits = limits or Limits()
    spec = detector_spec(
        architecture=run.architecture,
        image_size=run.image_size,
        artifacts=[CPU],
        working_scale=working_scale,
        decode=decode_of(load_graph(float_model)),
    )
    fields = run.validation_fields()
    held_out = [*fields.values(), *run.test_fields().values()]
    evaluated = hash_files([item.image for group in held_out for item in group])
    if drawn is None:
        drawn = draw_calibration_set(
            run.pools(),
            spec.input,
            images=DEFAULT_IMAGES,
            minimum=minimum,
            seed=seed,
            evaluation_hashes=evaluated,
        )
    else:
        check_calibration_set(drawn, minimum=minimum, evaluation_hashes=evaluated)
    folders = {pool.domain: pool.folder for pool in run.pools()}
    views = {name: limits.views_of(wanted) for name, wanted in views_to_tell(fields).items()}
    looked_at = {name: spread(group, limits.fields) for name, group in fields.items()}

    def judge(model: bytes) -> dict[str, float]:
        finds = find_in_domains(spec, model, looked_at, threads=limits.threads, views=views)
        return {
            name: evaluate_detections(truth, found, score=0.5).ap
            for name, (truth, found) in finds.items()
        }

    count = sum(len(group) for group in looked_at.values())
    return _of_pictures(
        float_model,
        drawn,
        folders,
        spec.input,
        limits,
        judge=judge,
        judged_on=_in_words(f"{count} validation fields", max(views.values()), limits),
        judged_digest=_judged_digest(
            [item.image for group in looked_at.values() for item in group], views
        ),
    )


def unlabelled_subject(
    float_model: bytes,
    drawn: CalibrationSet,
    folders: Mapping[str, Path],
    spec: InputSpec,
    *,
    limits: Limits | None = None,
) -> Subject:
    """A detector on pictures without labels: layers and outputs are compared, nothing is judged.

    Args:
        float_model: ONNX bytes.
        drawn: the calibration set.
        folders: of its domains.
        spec: the detector's input.
        limits: see there.
    """
    return _of_pictures(
        float_model,
        drawn,
        folders,
        spec,
        limits or Limits(),
        judge=None,
        judged_on="",
        judged_digest="",
    )


def classifier_subject(
    made: FloatClassifier,
    cells: OpenedCells,
    *,
    seed: int = 0,
    minimum: int = DEFAULT_MINIMUM_CELLS,
    limits: Limits | None = None,
) -> Subject:
    """A classifier on labelled cells, judged on validation cells.

    Raises:
        DataError: no, too little or unusable data.
    """
    limits = limits or Limits()
    drawn = draw_cells(cells, cells=limits.pictures or DEFAULT_CELLS, minimum=minimum, seed=seed)
    judged, views = _judged_cells(cells, limits)

    def feeds() -> Iterator[Feed]:
        return (crop_tensor(pixels, boxes, made.spec.input) for pixels, boxes in drawn.fields())

    def judge(model: bytes) -> dict[str, float]:
        answers = classify_cells(
            made.spec, {"int8": model}, judged, "val", threads=limits.threads, views=views
        )
        figures = answers.figures(made.spec.classes, "int8")
        return {name: found.macro_f1 for name, found in figures.items()}

    return _of_cells("classifier", made.model, feeds, drawn, judged, views, judge, limits)


def attribute_subject(
    made: FloatAttributeHead,
    detector: DetectorSpec,
    detector_model: bytes,
    cells: OpenedCells,
    *,
    seed: int = 0,
    minimum: int = DEFAULT_MINIMUM_CELLS,
    limits: Limits | None = None,
) -> Subject:
    """An attribute head on the float detector's maps, so that only its own rounding counts.

    The parity gate of the export judges it on the int8 detector's maps.

    Args:
        made: the float head.
        detector: with the feature maps it reads.
        detector_model: float ONNX bytes with these maps among the outputs.
        cells: labelled.
        seed: of the draw.
        minimum: fewer cells are refused.
        limits: see there.

    Raises:
        DataError: no, too little or unusable data.
    """
    spec = made.spec
    limits = limits or Limits()
    drawn = draw_cells(cells, cells=limits.pictures or DEFAULT_CELLS, minimum=minimum, seed=seed)
    judged, views = _judged_cells(cells, limits)

    def feeds() -> Iterator[Feed]:
        return feature_feeds(spec, detector, detector_model, drawn.fields())

    def judge(model: bytes) -> dict[str, float]:
        variants = {"int8": HeadOnDetector(model, detector_model)}
        answers = judge_cells(
            spec, detector, variants, judged, "val", threads=limits.threads, views=views
        )
        figures = answers.figures(spec.attributes, "int8")
        return {name: found.mean_macro_f1 or 0.0 for name, found in figures.items()}

    return _of_cells("attribute_head", made.model, feeds, drawn, judged, views, judge, limits)


def spread(items: Sequence[T], most: int | None) -> list[T]:
    """At most so many, evenly over all of them."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


def _of_pictures(
    float_model: bytes,
    drawn: CalibrationSet,
    folders: Mapping[str, Path],
    spec: InputSpec,
    limits: Limits,
    *,
    judge: Judge | None,
    judged_on: str,
    judged_digest: str,
) -> Subject:
    used = _some_of(drawn, limits.pictures)
    few = _some_of(used, COMPARED_PICTURES)
    said = f"{len(used.images)} pictures of {len(used.domains)} domains"
    return Subject(
        head="detector",
        float_model=float_model,
        feeds=lambda: calibration_tensors(used, folders, spec),
        feed_count=len(used.images),
        compared=lambda: calibration_tensors(few, folders, spec),
        calibrated_on=said,
        digest=used.digest,
        judge=judge,
        judged_on=judged_on,
        judged_digest=judged_digest,
        figure="AP50-95",
        allowed_points=ALLOWED_POINTS,
        pictures=drawn,
        trial=limits.trial,
    )


def _some_of(drawn: CalibrationSet, most: int | None) -> CalibrationSet:
    return drawn.model_copy(update={"images": tuple(spread(drawn.images, most))})


def _of_cells(
    head: str,
    model: bytes,
    feeds: Callable[[], Iterable[Feed]],
    drawn: DrawnCells,
    judged: OpenedCells,
    views: int,
    judge: Judge,
    limits: Limits,
) -> Subject:
    count = sum(len(picture.cells) for picture in judged.cells.of_split("val"))
    return Subject(
        head=head,
        float_model=model,
        feeds=feeds,
        feed_count=len(drawn.rows),
        compared=lambda: islice(feeds(), COMPARED_PICTURES),
        calibrated_on=f"{drawn.count} training cells",
        digest=drawn.digest,
        judge=judge,
        judged_on=_in_words(f"{count} validation cells", views, limits),
        judged_digest=_judged_digest(judged.files("val"), {"": views}),
        figure="macro-F1",
        allowed_points=ALLOWED_HEAD_POINTS,
        trial=limits.trial,
    )


def _judged_cells(cells: OpenedCells, limits: Limits) -> tuple[OpenedCells, int]:
    """The record with as many validation pictures as are looked at, and the views of each."""
    views = limits.views_of(cell_views_to_tell(cells.cells, "val"))
    if limits.fields is None:
        return cells, views
    chosen = tuple(spread(cells.cells.of_split("val"), limits.fields))
    return OpenedCells(cells.cells.model_copy(update={"pictures": chosen}), cells.root), views


def _in_words(what: str, views: int, limits: Limits) -> str:
    if limits.fields is not None:
        return f"{what} only, for a trial"
    if views == 1:
        return f"{what}, each in one view"
    return f"{what}, each in up to {views} views"


def _judged_digest(files: Sequence[Path], views: Mapping[str, int]) -> str:
    text = f"{digest_files(list(files))} {sorted(views.items())}"
    return hashlib.sha256(text.encode()).hexdigest()
