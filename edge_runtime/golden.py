"""The self-test of a bundle: drawn fields, what was found in them, and how near it must be.

Owns the form of the kept outputs, running the fields and the comparison. Does not own
drawing fields and keeping outputs (see ``export.golden``) nor what a failure means for an
installation (see ``device.install``).

The fields go the way of any film: the same stages, windows and thresholds. What is
compared is what a report would say: the cells, their scores, classes and attributes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.attributes import MISSING
from edge_runtime.backends import BackendRow
from edge_runtime.bundle import Bundle, GoldenTolerance, HeadName, Runtime
from edge_runtime.errors import BundleError, FrameError
from edge_runtime.settings import Settings
from edge_runtime.types import Frame

if TYPE_CHECKING:
    from edge_runtime.film_run import LoadedBundle

# More than one thread would not change an answer, only how a small device's memory is used.
_THREADS = 1

Part = Literal["detector", "attribute_head", "classifier"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GoldenCell(_Strict):
    """One cell: box in field pixels, score, and what the heads said."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    classes: tuple[float, ...] | None = Field(default=None, description="probability of each")
    attributes: tuple[tuple[int, float], ...] | None = Field(
        default=None, description="value index and its probability; -1 where not judged"
    )


class GoldenRun(_Strict):
    """What one runtime family's artifacts said of every field.

    Attributes:
        artifacts: file by head.
        backend, version, machine: what ran them.
        fields: cells of each field, in the order of the manifest's fields.
    """

    artifacts: dict[Part, str]
    backend: str
    version: str
    machine: str
    fields: tuple[tuple[GoldenCell, ...], ...]


class GoldenOutputs(_Strict):
    """The file that the manifest's ``golden.outputs`` names."""

    format: Literal[1] = 1
    runs: dict[Runtime, GoldenRun]


@dataclass(frozen=True, slots=True)
class PartResult:
    """How far one part of the bundle is from its kept outputs.

    Attributes:
        part: detector or head.
        passed: within the tolerance.
        said: one line of figures.
    """

    part: Part
    passed: bool
    said: str


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """A self-test.

    Attributes:
        ran_on: backend, version and machine.
        kept_of: the same of the kept outputs.
        same_runtime: whether the tight tolerance was asked for.
        parts: detector and heads.
    """

    ran_on: str
    kept_of: str
    same_runtime: bool
    parts: tuple[PartResult, ...]

    @property
    def passed(self) -> bool:
        """Every part within its tolerance."""
        return all(each.passed for each in self.parts)

    def lines(self) -> list[str]:
        """What a person should read of it."""
        kind = "tight tolerance" if self.same_runtime else f"kept outputs are of {self.kept_of}"
        verdicts = [
            f"{each.part}: {'passed' if each.passed else 'FAILED'}, {each.said}"
            for each in self.parts
        ]
        return [f"self-test on {self.ran_on} ({kind})", *verdicts]


def run_golden(bundle: Bundle, row: BackendRow, *, engines: Path | None = None) -> GoldenResult:
    """Runs a bundle's golden fields on a backend and compares.

    Args:
        bundle: verified.
        row: the backend; decides which artifacts run.
        engines: folder of built engines, for the backends that run those; None means the
            user's cache.

    Raises:
        BundleError: the bundle has no golden data for the row's runtime family, or they are
            damaged.
        BackendError: the backend does not run here, or refuses a model.
    """
    from edge_runtime.film_run import load_bundle

    spec = bundle.manifest.golden
    if spec is None:
        raise BundleError(
            f"bundle {bundle.id}: it has no golden data, so nothing proves that it works here; "
            "make it anew with `leukoscope bundle create`"
        )
    kept = golden_outputs(bundle).runs.get(row.runtime)
    if kept is None:
        raise BundleError(
            f"bundle {bundle.id}: no golden outputs for {row.runtime}; make it anew with "
            "`leukoscope bundle create`, or choose another --backend"
        )
    frames = golden_frames(bundle)
    with load_bundle(bundle, Settings(threads=_THREADS, engines=engines), row=row) as loaded:
        found = look_at(loaded, frames)
        score = loaded.detector.score
    same = _runtime_of(found) == _runtime_of(kept) and found.artifacts == kept.artifacts
    tolerance = spec.same_runtime if same else spec.other_runtime
    return GoldenResult(
        ran_on=" ".join(_runtime_of(found)),
        kept_of=" ".join(_runtime_of(kept)),
        same_runtime=same,
        parts=compare(kept, found, tolerance, score=score),
    )


def golden_outputs(bundle: Bundle) -> GoldenOutputs:
    """The kept outputs.

    Raises:
        BundleError: there are none, or they are not in their form.
    """
    spec = bundle.manifest.golden
    if spec is None:
        raise BundleError(f"bundle {bundle.id}: it has no golden data; make it anew")
    try:
        outputs = GoldenOutputs.model_validate_json(bundle.contents[spec.outputs])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"bundle {bundle.id}: {spec.outputs}: {where}: {first['msg']}; make it anew"
        ) from error
    for runtime, run in outputs.runs.items():
        if len(run.fields) != len(spec.fields):
            raise BundleError(
                f"bundle {bundle.id}: {spec.outputs}: {runtime} has {len(run.fields)} fields, the "
                f"manifest {len(spec.fields)}; make it anew"
            )
    return outputs


def golden_frames(bundle: Bundle) -> list[Frame]:
    """The golden fields as frames.

    Raises:
        BundleError: one is no usable picture.
    """
    from edge_runtime.image_file import decode_image

    spec = bundle.manifest.golden
    frames = []
    for index, path in enumerate(() if spec is None else spec.fields):
        try:
            pixels = decode_image(bundle.contents[path])
        except FrameError as error:
            raise BundleError(
                f"bundle {bundle.id}: golden field {path}: {error}; make it anew"
            ) from error
        size = None if spec is None else spec.pixel_size_um
        frames.append(Frame(index, 0, pixels, path, size))
    return frames


def look_at(loaded: LoadedBundle, frames: Sequence[Frame]) -> GoldenRun:
    """What a loaded bundle says of fields, rounded so that it can be kept.

    Raises:
        BackendError: a model fails.
    """
    from edge_runtime.examiner import Examiner

    examiner = Examiner(
        loaded.detector, attribute_head=loaded.attribute_head, classifier=loaded.classifier
    )
    fields = []
    for frame in frames:
        seen = examiner.examine(frame)
        found = seen.detections
        values, shares = found.attribute_values, found.attribute_probabilities
        cells = []
        for row in range(len(found)):
            x1, y1, x2, y2 = (round(float(edge), 2) for edge in found.boxes_xyxy[row])
            classes = attributes = None
            if seen.classes is not None:
                classes = tuple(_rounded(share) for share in seen.classes.probabilities[row])
            if values is not None and shares is not None:
                attributes = tuple(
                    (int(value), _rounded(share))
                    for value, share in zip(values[row], shares[row], strict=True)
                )
            score = _rounded(found.scores[row])
            cells.append(
                GoldenCell(
                    box_xyxy=(x1, y1, x2, y2), score=score, classes=classes, attributes=attributes
                )
            )
        fields.append(tuple(cells))
    facts = loaded.backend.facts
    heads: Mapping[HeadName, str] = {
        name: record.artifact for name, record in loaded.head_records.items()
    }
    return GoldenRun(
        artifacts={"detector": loaded.record.artifact, **heads},
        backend=facts.name,
        version=facts.version,
        machine=platform.machine(),
        fields=tuple(fields),
    )


def compare(
    kept: GoldenRun, found: GoldenRun, tolerance: GoldenTolerance, *, score: float
) -> tuple[PartResult, ...]:
    """Judges detector and heads.

    Cells whose kept score is within the tolerance of the operating point may come and go.
    Heads are judged on the cells that both found.

    Args:
        kept: what must come out.
        found: what came out.
        tolerance: how near.
        score: the operating point.
    """
    sure = score + tolerance.score
    cells = missing = extra = 0
    overlap, score_off = 1.0, 0.0
    pairs: list[tuple[GoldenCell, GoldenCell]] = []
    for before, after in zip(kept.fields, found.fields, strict=True):
        matched = _matched(before, after, tolerance.box_iou)
        cells += len(before)
        firsts, seconds = {i for i, _, _ in matched}, {j for _, j, _ in matched}
        missing += sum(c.score >= sure for i, c in enumerate(before) if i not in firsts)
        extra += sum(c.score >= sure for j, c in enumerate(after) if j not in seconds)
        for i, j, iou in matched:
            pairs.append((before[i], after[j]))
            overlap = min(overlap, iou)
            score_off = max(score_off, abs(before[i].score - after[j].score))
    detector = PartResult(
        "detector",
        missing == 0 and extra == 0 and score_off <= tolerance.score and bool(pairs),
        f"{len(pairs)} of {cells} cells, {missing} missing, {extra} too many, overlap "
        f"{overlap:.3f} (at least {tolerance.box_iou:g}), scores off by {score_off:.3f} (at most "
        f"{tolerance.score:g})",
    )
    results = [detector]
    if any(cell.attributes is not None for cell, _ in pairs):
        off = max(_attributes_off(first, second) for first, second in pairs)
        results.append(_head("attribute_head", off, len(pairs), tolerance))
    elif "attribute_head" in kept.artifacts:
        results.append(PartResult("attribute_head", False, "no cell to judge"))
    if any(cell.classes is not None for cell, _ in pairs):
        off = max(_classes_off(first, second) for first, second in pairs)
        results.append(_head("classifier", off, len(pairs), tolerance))
    elif "classifier" in kept.artifacts:
        results.append(PartResult("classifier", False, "no cell to judge"))
    return tuple(results)


def _head(part: Part, off: float, cells: int, tolerance: GoldenTolerance) -> PartResult:
    return PartResult(
        part,
        off <= tolerance.probability,
        f"{cells} cells, probabilities off by {off:.3f} (at most {tolerance.probability:g})",
    )


def _matched(
    before: Sequence[GoldenCell], after: Sequence[GoldenCell], least: float
) -> list[tuple[int, int, float]]:
    """Pairs of rows with their overlap, best first, each row once."""
    pairs = sorted(
        (
            (_overlap(first, second), i, j)
            for i, first in enumerate(before)
            for j, second in enumerate(after)
        ),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    taken: list[tuple[int, int, float]] = []
    for iou, i, j in pairs:
        if iou >= least and all(i != other and j != second for other, second, _ in taken):
            taken.append((i, j, iou))
    return taken


def _overlap(first: GoldenCell, second: GoldenCell) -> float:
    a, b = np.array(first.box_xyxy), np.array(second.box_xyxy)
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return float(shared / union) if union > 0 else 0.0


def _classes_off(first: GoldenCell, second: GoldenCell) -> float:
    a, b = first.classes or (), second.classes or ()
    if len(a) != len(b):
        return 1.0
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), default=1.0)


def _attributes_off(first: GoldenCell, second: GoldenCell) -> float:
    """Least change of probabilities that explains the answers: only the best value is kept."""
    a, b = first.attributes or (), second.attributes or ()
    if len(a) != len(b):
        return 1.0
    off = 0.0
    for (value, share), (other, other_share) in zip(a, b, strict=True):
        if value == other:
            off = max(off, abs(share - other_share))
        elif MISSING in (value, other):
            # Whether attributes are judged follows from the class, which is judged by itself.
            continue
        else:
            # The old value has at most what the new one leaves, and no more than the new one.
            off = max(off, share - min(other_share, 1 - other_share))
    return off


def _runtime_of(run: GoldenRun) -> tuple[str, str, str]:
    return run.backend, run.version, run.machine


def _rounded(share: float) -> float:
    return round(float(share), 4)
