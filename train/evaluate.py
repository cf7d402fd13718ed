"""How good a bundle is, per domain, measured through the device's own path.

Owns which fields are looked at and the result file. Every figure comes from
``FilmRunner`` with the artifact a device would run; nothing is measured on a
training-side copy of the model. Does not own the COCO arithmetic (``calibration.accuracy``).
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from calibration.accuracy import (
    DetectionMetrics,
    LabelledFinds,
    choose_operating_point,
    evaluate_detections,
)
from calibration.fields import LabelledField
from edge_runtime.bundle import Bundle
from edge_runtime.errors import StoreError
from edge_runtime.film_report import CellRecord
from edge_runtime.film_run import LoadedBundle, film_runner, load_bundle
from edge_runtime.image_file import read_image
from edge_runtime.settings import Settings
from edge_runtime.types import Detections, Float32Array, Frame, SkippedFrame
from edge_runtime.virtual_film import PROFILES, Optics, VirtualFilm, WindowCell, truth_in_window
from train.datasets.cutouts import wbc_mask_fields
from train.datasets.domains import domain_fields
from train.datasets.wide import wide_fields
from train.recipe import Recipe

# Average precision needs the whole ranking, not only what the operating point reports.
_RANKING_SCORE = 0.01
_WIDE_FIELDS = 24
# Far from the seeds of training films (see ``compose.open_sources``).
_VIRTUAL_SEEDS = {"test": (90_001, 90_002), "val": (80_001, 80_002)}
_VIRTUAL_FIELDS = 10
# A cell cut to less than half by the frame is neither asked for nor held against.
_VIRTUAL_VISIBLE = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One field with its truth.

    Attributes:
        boxes: cells that must be found, pixel corners ``(N, 4)``.
        ignored: cells that may be found or not, pixel corners ``(M, 4)``.
    """

    frame: Frame
    boxes: Float32Array
    ignored: Float32Array = field(default_factory=lambda: np.zeros((0, 4), np.float32))


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Named fields with truth; ``samples`` may be walked several times."""

    name: str
    about: str
    samples: Callable[[], Iterator[Sample]]


class FrameList:
    """A camera over frames that are made one by one."""

    def __init__(self, samples: Iterator[Sample], seen: list[Sample]) -> None:
        self._samples = samples
        self._seen = seen

    @property
    def frame_count(self) -> int | None:
        """Not known before the end."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is held open."""

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        for sample in self._samples:
            # Truth is kept, pixels are not: a set of wide fields would fill the memory.
            blank = np.zeros((1, 1, 3), np.uint8)
            self._seen.append(replace(sample, frame=replace(sample.frame, pixels=blank)))
            yield sample.frame


def evaluate_bundle(
    bundle: Bundle,
    sets: Sequence[EvaluationSet],
    *,
    backend: str = "auto",
    threads: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Metrics per evaluation set, and what they were measured with.

    ``best_f1_score`` is the score with the best mean F1 over all sets: on validation sets
    a choice for the operating point, on test sets only a remark.

    Raises:
        BackendError: the backend is not available here.
    """
    settings = Settings(backend=backend, score=_RANKING_SCORE, threads=threads)
    operating = bundle.manifest.detector.thresholds.score
    metrics: dict[str, Any] = {}
    finds: dict[str, LabelledFinds] = {}
    with load_bundle(bundle, settings, detector_only=True) as loaded:
        for each in sets:
            finds[each.name], windows = _find(loaded, each, settings)
            measured: DetectionMetrics = evaluate_detections(*finds[each.name], score=operating)
            metrics[each.name] = {"about": each.about, **asdict(measured), "windows": windows}
            progress(each.name)
        record = loaded.record
    return {
        "bundle": bundle.id,
        "bundle_sha256": bundle.sha256,
        "backend": record.model_dump(mode="json"),
        "operating_score": operating,
        "best_f1_score": choose_operating_point(finds).score,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": date.today().isoformat(),
        "sets": metrics,
    }


def _find(
    loaded: LoadedBundle, each: EvaluationSet, settings: Settings
) -> tuple[LabelledFinds, float]:
    """Truth and finds of every field, and how many windows a field took on average."""
    seen: list[Sample] = []
    with FrameList(each.samples(), seen) as camera:
        report = film_runner(loaded, camera, source=each.name, settings=settings).run()
    cells_of: dict[int, list[CellRecord]] = {}
    for cell in report.cells:
        cells_of.setdefault(cell.field, []).append(cell)
    found: list[Detections] = []
    for record, sample in zip(report.fields, seen, strict=True):
        cells = cells_of.get(record.index, [])
        detections = Detections(
            np.array([cell.box_xyxy for cell in cells], np.float32).reshape(-1, 4),
            np.array([cell.score for cell in cells], np.float32),
            np.zeros(len(cells), np.int64),
        )
        found.append(_without_ignored(detections, sample))
    windows = float(np.mean([record.tiles for record in report.fields]))
    return ([sample.boxes for sample in seen], found), round(windows, 2)


def _without_ignored(found: Detections, sample: Sample) -> Detections:
    """Finds that lie mostly in an ignored cell and fit no cell that counts are left out."""
    if len(sample.ignored) == 0 or len(found) == 0:
        return found
    in_ignored = _shared_area(found.boxes_xyxy, sample.ignored) > 0.5 * _area(found.boxes_xyxy)
    in_counted = _shared_area(found.boxes_xyxy, sample.boxes) > 0.5 * _area(found.boxes_xyxy)
    return found.select(~in_ignored | in_counted)


def _area(boxes: Float32Array) -> Float32Array:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.float32)


def _shared_area(boxes: Float32Array, others: Float32Array) -> Float32Array:
    """Largest area that each of ``boxes`` shares with one of ``others``, ``(N,)``."""
    if len(others) == 0:
        return np.zeros(len(boxes), np.float32)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    return np.asarray(shared.max(axis=1), np.float32)


def write_results(results: dict[str, Any], path: Path) -> None:
    """One JSON file.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; choose another --out") from error


def evaluation_sets(recipe: Recipe, *, split: str = "test") -> list[EvaluationSet]:
    """Real fields per domain, single-cell pictures, virtual films, simulated wide fields.

    Raises:
        DataError: a folder is missing or a label row is bad.
    """
    root = Path(recipe.data_root)
    films = _VIRTUAL_SEEDS[split]
    sets: list[EvaluationSet] = []
    per_domain: dict[str, list[LabelledField]] = {}
    for domain in recipe.domains:
        fields = domain_fields(recipe, domain, split)
        per_domain[domain.name] = fields
        sets.append(
            EvaluationSet(domain.name, f"{split} split, {len(fields)} real fields", _real(fields))
        )
    for source in recipe.cell_sources:
        if source.kind == "wbc_masks":
            fields = wbc_mask_fields(root / source.path, split)
            sets.append(
                EvaluationSet(
                    source.name,
                    f"{split} split, {len(fields)} single-cell pictures",
                    _real(fields),
                )
            )
    sets.append(
        EvaluationSet(
            "virtual",
            f"{_VIRTUAL_FIELDS} fields of {len(films)} unseen films in each profile",
            _virtual(films),
        )
    )
    for name, fields in per_domain.items():
        sets.append(
            EvaluationSet(
                f"wide_{name}",
                f"{_WIDE_FIELDS} simulated wide fields from {name}'s {split} split",
                _wide(fields),
            )
        )
    return sets


def _real(fields: list[LabelledField]) -> Callable[[], Iterator[Sample]]:
    def walk() -> Iterator[Sample]:
        for index, item in enumerate(fields):
            pixels = read_image(item.image)
            frame = Frame(index, 0, pixels, item.image.name)
            yield Sample(frame, item.boxes_xyxy(frame.width, frame.height))

    return walk


def _wide(fields: list[LabelledField]) -> Callable[[], Iterator[Sample]]:
    def walk() -> Iterator[Sample]:
        for frame, boxes in wide_fields(fields, count=_WIDE_FIELDS, seed=17):
            yield Sample(frame, boxes)

    return walk


def _virtual(seeds: tuple[int, ...]) -> Callable[[], Iterator[Sample]]:
    def walk() -> Iterator[Sample]:
        index = 0
        for seed in seeds:
            film = VirtualFilm.build(seed)
            rng = np.random.default_rng(seed)
            width_um, height_um = film.spec.size_um
            for name in sorted(PROFILES):
                profile = PROFILES[name]
                optics = Optics(profile)
                for _ in range(_VIRTUAL_FIELDS):
                    half_x = profile.resolution[0] * profile.pixel_size_um / 2
                    half_y = profile.resolution[1] * profile.pixel_size_um / 2
                    centre = (
                        float(rng.uniform(half_x, max(half_x + 1, width_um - half_x))),
                        float(rng.uniform(half_y, max(half_y + 1, height_um - half_y))),
                    )
                    pixels = optics.capture(film, centre, rng)
                    white = [
                        cell
                        for cell in truth_in_window(film, profile, centre, min_visible=0.0)
                        if cell.is_white_cell
                    ]
                    # The scale is not told: a cheap microscope does not know its own.
                    yield Sample(
                        Frame(index, 0, pixels, f"{name}_{index:04d}"),
                        _boxes(white, lambda visible: visible >= _VIRTUAL_VISIBLE),
                        _boxes(white, lambda visible: visible < _VIRTUAL_VISIBLE),
                    )
                    index += 1

    return walk


def _boxes(cells: list[WindowCell], chosen: Callable[[float], bool]) -> Float32Array:
    boxes = [cell.box_xyxy for cell in cells if chosen(cell.visible)]
    return np.array(boxes, np.float32).reshape(-1, 4)
