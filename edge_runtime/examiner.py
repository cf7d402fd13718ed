"""What happens to one frame: detector, domain score, attribute head, classifier.

Owns their order, their times, and what one stage's answer means for another's. Does not
own any stage (see ``stages``, ``domain_score``, ``attribute_head``, ``classifier``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_runtime.attribute_head import AttributeHead
from edge_runtime.attributes import MISSING
from edge_runtime.backends import Tensor
from edge_runtime.classifier import CellClasses, Classifier
from edge_runtime.domain_score import DomainScorer, FieldDomain
from edge_runtime.preprocess import Window
from edge_runtime.stages import Detector
from edge_runtime.types import Detections, Float32Array, Frame, Int64Array

_STAGES = ("detect", "domain", "attributes", "classify")


@dataclass(frozen=True, slots=True)
class Examination:
    """What all stages say of one frame.

    Attributes:
        detections: the cells, best score first, with attributes when there is a head.
        windows: how many windows the detector looked through.
        classes: row by row of the detections; None without a classifier.
        seconds: time of each stage that the bundle has, by its name.
        domain: how far the frame looks from the validated domains; None without statistics.
    """

    detections: Detections
    windows: int
    classes: CellClasses | None
    seconds: dict[str, float]
    domain: FieldDomain | None = None


class Examiner:
    """Runs the stages of a bundle. Safe to call from several threads."""

    def __init__(
        self,
        detector: Detector,
        *,
        attribute_head: AttributeHead | None = None,
        classifier: Classifier | None = None,
        domain: DomainScorer | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._detector = detector
        self._domain = domain
        self._head = attribute_head
        self._classifier = classifier
        self._clock = clock
        self._without: Int64Array = np.zeros(0, np.int64)
        if attribute_head is not None and classifier is not None:
            strange = attribute_head.spec.not_for_classes
            names = classifier.spec.classes
            self._without = np.array([names.index(name) for name in strange], np.int64)

    def examine(self, frame: Frame) -> Examination:
        """All white cells of one frame, named and described as far as the bundle can."""
        seconds: dict[str, float] = {}
        started = self._clock()
        judge = None if self._head is None else _Timed(self._head, self._clock)
        watch = None if self._domain is None else _Watching(self._domain, self._clock)
        examined = self._detector.examine(frame, judge, watch)
        if judge is not None:
            seconds["attributes"] = judge.seconds
        if watch is not None:
            seconds["domain"] = watch.seconds
        seconds["detect"] = self._clock() - started - sum(seconds.values())
        detections, classes = examined.detections, None
        if self._classifier is not None:
            started = self._clock()
            classes = self._classifier.classify(frame.pixels, detections.boxes_xyxy)
            seconds["classify"] = self._clock() - started
            detections = self._without_strange(detections, classes)
        return Examination(
            detections,
            examined.windows,
            classes,
            {stage: seconds[stage] for stage in _STAGES if stage in seconds},
            None if watch is None else watch.judged,
        )

    def _without_strange(self, found: Detections, classes: CellClasses) -> Detections:
        """Takes back attributes of cells of classes that the head never saw."""
        values, shares = found.attribute_values, found.attribute_probabilities
        strange = np.isin(classes.class_ids, self._without)
        if values is None or shares is None or not strange.any():
            return found
        values, shares = values.copy(), shares.copy()
        values[strange], shares[strange] = MISSING, 0
        return replace(found, attribute_values=values, attribute_probabilities=shares)


class _Timed:
    """The attribute head of one frame, and how long it took."""

    def __init__(self, head: AttributeHead, clock: Callable[[], float]) -> None:
        self._head = head
        self._clock = clock
        self.seconds = 0.0

    def __call__(
        self, feature_maps: Mapping[str, Tensor], boxes_xyxy: Float32Array
    ) -> tuple[Int64Array, Float32Array]:
        started = self._clock()
        judged = self._head.judge(feature_maps, boxes_xyxy)
        self.seconds += self._clock() - started
        return judged


class _Watching:
    """What the domain scorer says of one frame's whole view, and how long it took."""

    def __init__(self, scorer: DomainScorer, clock: Callable[[], float]) -> None:
        self._scorer = scorer
        self._clock = clock
        self.judged: FieldDomain | None = None
        self.seconds = 0.0

    def __call__(self, feature_maps: Mapping[str, Tensor], whole: Window) -> None:
        started = self._clock()
        self.judged = self._scorer.judge(feature_maps, whole)
        self.seconds += self._clock() - started
