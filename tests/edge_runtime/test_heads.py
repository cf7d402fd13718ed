"""Attribute head and classifier on real models: what they say of discs of known stain and size."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from typing import Any, cast

import numpy as np
import pytest

from edge_runtime.attribute_head import AttributeHead
from edge_runtime.backends import (
    BACKENDS,
    BackendRow,
    InferenceBackend,
    TensorSpec,
    open_backend,
)
from edge_runtime.bundle import AttributeHeadSpec, ClassifierSpec, DetectorSpec
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BackendError
from edge_runtime.examiner import Examiner
from edge_runtime.stages import Detector
from edge_runtime.types import Detections, Float32Array, Frame
from tests.contracts.conftest import RECORDING
from tests.support import SIDE, manifest_of, paint_field, toy_detector
from tests.toy_heads import (
    CLASSES,
    MAPS,
    classifier_part,
    head_part,
    toy_attribute_head,
    toy_classifier,
)

CLASSIFIER = ClassifierSpec.model_validate(classifier_part())
HEAD = AttributeHeadSpec.model_validate(head_part())
DETECTOR = DetectorSpec.model_validate(
    manifest_of({})["detector"]
    | {"feature_maps": [{"name": n, "channels": 3, "stride": s} for n, s in MAPS]}
)
SIZES, REDS = ("small", "large"), ("none", "some", "much")


class Stages:
    """All three stages on one backend."""

    def __init__(self, row: BackendRow, stack: ExitStack) -> None:
        models = toy_detector(maps=MAPS), toy_attribute_head(), toy_classifier()
        opened = [stack.enter_context(open_backend(row, model, threads=2)) for model in models]
        self.detector = Detector(DETECTOR, opened[0])
        self.head = AttributeHead(HEAD, DETECTOR, opened[1])
        self.classifier = Classifier(CLASSIFIER, opened[2])


# Those whose library a machine without a GPU can have, and TensorRT on a recording runtime.
ROWS = [*(row for row in BACKENDS if row.runtime == "cpu"), RECORDING]


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.module.rpartition(".")[2])
def stages(request: pytest.FixtureRequest) -> Iterator[Stages]:
    reason = import_module(request.param.module).unsupported_reason()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield Stages(request.param, stack)


class Fake:
    """A backend that states any tensors, counts its calls and answers with any array."""

    def __init__(self, inputs: Any, outputs: Any, answer: Float32Array | None = None) -> None:
        self.inputs = tuple(TensorSpec(*entry) for entry in inputs)
        self.outputs = tuple(TensorSpec(*entry) for entry in outputs)
        self.answer, self.calls = answer, list[dict[str, Float32Array]]()

    def infer(self, arrays: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
        self.calls.append(dict(arrays))
        assert self.answer is not None
        name = self.outputs[0].name
        count = len(arrays["boxes"] if "boxes" in arrays else arrays["crops"])
        return {name: np.resize(self.answer, (count, len(self.answer)))}

    def infer_keeping(
        self, arrays: Mapping[str, Float32Array], keep: Collection[str]
    ) -> dict[str, Float32Array]:
        return self.infer(arrays)


MAP_INPUTS = [("early", (1, 3, 40, 40)), ("later", (1, 3, 20, 20))]
HEAD_IN, HEAD_OUT = [*MAP_INPUTS, ("boxes", (-1, 4))], [("attributes", (-1, 5))]
CROPS, LOGITS = [("crops", (-1, 3, 24, 24))], [("logits", (-1, 3))]


def head_of(fake: Fake, **changes: Any) -> AttributeHead:
    spec = AttributeHeadSpec.model_validate(head_part(**changes))
    return AttributeHead(spec, DETECTOR, cast(InferenceBackend, fake))


def classifier_of(fake: Fake, **changes: Any) -> Classifier:
    spec = ClassifierSpec.model_validate(classifier_part(**changes))
    return Classifier(spec, cast(InferenceBackend, fake))


def field(width: int, height: int, **stained: list[tuple[float, float, float]]) -> Frame:
    return Frame(0, 0, paint_field(width, height, stained=stained), "field")


def at(found: Detections, x: float, y: float) -> int:
    centres = (found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:]) / 2
    (row,) = np.flatnonzero(np.hypot(*(centres - (x, y)).T) < 6)
    return int(row)


def test_every_disc_is_named_and_described(stages: Stages) -> None:
    """One look at the whole field, which is twice as wide as the detector's input."""
    frame = field(320, 240, navy=[(60, 60, 110)], violet=[(230, 60, 50)], plum=[(90, 180, 46)])
    examiner = Examiner(stages.detector, attribute_head=stages.head, classifier=stages.classifier)
    examined = examiner.examine(frame)
    found, classes = examined.detections, examined.classes
    assert examined.windows == 1
    assert list(examined.seconds) == ["detect", "attributes", "classify"]
    assert min(examined.seconds.values()) > 0
    assert classes is not None
    assert found.attribute_values is not None
    assert found.attribute_probabilities is not None
    assert len(found) == 3
    # Size is told in the detector's input, in which everything is half as wide.
    for x, y, name, size, red in (
        (60, 60, "navy", "large", "none"),
        (230, 60, "violet", "small", "some"),
        (90, 180, "plum", "small", "much"),
    ):
        row = at(found, x, y)
        assert CLASSES[classes.class_ids[row]] == name
        assert not classes.unclassified[row]
        assert SIZES[found.attribute_values[row, 0]] == size
        assert REDS[found.attribute_values[row, 1]] == red
        assert found.attribute_probabilities[row].min() > 0.5
    np.testing.assert_allclose(classes.probabilities.sum(axis=1), 1, atol=1e-5)


def test_small_cells_are_described_in_the_window_that_saw_them(stages: Stages) -> None:
    """In the whole view all of these are small; only in windows some are large."""
    frame = field(
        820,
        640,
        navy=[(100, 100, 26), (700, 560, 26)],
        plum=[(400, 300, 26)],
        violet=[(600, 160, 190)],
    )
    examiner = Examiner(stages.detector, attribute_head=stages.head)
    examined = examiner.examine(frame)
    found = examined.detections
    assert examined.windows > 1
    assert examined.classes is None
    assert list(examined.seconds) == ["detect", "attributes"]
    assert found.attribute_values is not None
    for x, y, red in ((100, 100, 0), (700, 560, 0), (400, 300, 2)):
        assert found.attribute_values[at(found, x, y), 1] == red
    giant = found.boxes_xyxy[:, 2] - found.boxes_xyxy[:, 0] > 150
    assert giant.sum() == 1
    assert found.attribute_values[giant, 1] == 1


def test_the_head_is_asked_only_for_looks_with_a_find_to_keep(stages: Stages) -> None:
    asked: list[Float32Array] = []

    def describe(maps: Any, boxes: Float32Array) -> Any:
        asked.append(boxes)
        assert set(maps) == {"early", "later"}
        return np.zeros((len(boxes), 2), np.int64), np.ones((len(boxes), 2), np.float32)

    assert len(stages.detector.examine(field(640, 480), describe).detections) == 0
    assert asked == []
    many = stages.detector.examine(field(820, 640, navy=[(60, 60, 26)]), describe)
    assert many.windows > 4
    # The cell lies in one window; the whole view's find of it is superseded.
    assert [len(boxes) for boxes in asked] == [1]
    assert all(boxes.min() >= 0 and boxes.max() <= SIDE for boxes in asked)


def test_no_cell_asks_no_model() -> None:
    head = Fake(HEAD_IN, HEAD_OUT)
    values, shares = head_of(head).judge({}, np.zeros((0, 4), np.float32))
    assert (values.shape, shares.shape, head.calls) == ((0, 2), (0, 2), [])
    crops = Fake(CROPS, LOGITS)
    named = classifier_of(crops).classify(paint_field(40, 40), np.zeros((0, 4), np.float32))
    assert named.probabilities.shape == (0, 3)
    assert (len(named.class_ids), len(named.unclassified), crops.calls) == (0, 0, [])


def test_a_crowd_is_classified_in_batches_and_in_order(stages: Stages) -> None:
    cells = [(30.0 + 40 * (i % 10), 30.0 + 40 * (i // 10), 30.0) for i in range(40)]
    kinds = [CLASSES[i % 3] for i in range(40)]
    stained = {
        name: [c for c, k in zip(cells, kinds, strict=True) if k == name] for name in CLASSES
    }
    boxes = np.array([[x - 15, y - 15, x + 15, y + 15] for x, y, _ in cells], np.float32)
    pixels = paint_field(440, 200, stained=stained)
    named = stages.classifier.classify(pixels, boxes)
    assert [CLASSES[i] for i in named.class_ids] == kinds
    order = np.random.default_rng(0).permutation(40)
    again = stages.classifier.classify(pixels, boxes[order])
    np.testing.assert_allclose(again.probabilities, named.probabilities[order], atol=1e-5)


def judged(logits: list[float], **changes: Any) -> tuple[list[int], list[float]]:
    width = len(logits)
    fake = Fake(HEAD_IN, [("attributes", (-1, width))], np.array(logits, np.float32))
    maps = {name: np.zeros(shape, np.float32) for name, shape in MAP_INPUTS}
    values, shares = head_of(fake, **changes).judge(maps, np.ones((2, 4), np.float32))
    assert values.dtype == np.int64
    assert shares.dtype == np.float32
    assert (values[0] == values[1]).all()
    return values[0].tolist(), shares[0].tolist()


def test_probabilities_per_value_are_sigmoids_over_their_sum() -> None:
    logits = [0.3, -1.2, 2.0, 0.5, -3.0]
    values, shares = judged(logits)
    sigmoid = 1 / (1 + np.exp(-np.array(logits)))
    assert values == [0, 0]
    assert shares == pytest.approx(
        [sigmoid[0] / sigmoid[:2].sum(), sigmoid[2] / sigmoid[2:].sum()], abs=1e-6
    )


def test_probabilities_of_values_that_all_are_unlikely_still_sum_to_one() -> None:
    values, shares = judged([-900.0, -901.0, -800.0, -800.0, -800.0])
    assert values == [0, 0]
    assert shares == pytest.approx([1 / (1 + np.exp(-1)), 1 / 3], abs=1e-6)


@pytest.mark.parametrize(("logit", "value"), [(-2.0, 0), (2.0, 1), (500.0, 1), (-500.0, 0)])
def test_one_output_per_attribute_is_the_second_values(logit: float, value: int) -> None:
    schema = {"name": "s", "attributes": [{"name": "a", "values": ["no", "yes"]}]}
    values, shares = judged([logit], attributes=schema, outputs="per_attribute")
    assert values == [value]
    assert shares == pytest.approx([1 / (1 + np.exp(-abs(logit)))], abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_class_probabilities_are_the_softmax_at_the_temperature(temperature: float) -> None:
    logits = np.array([1.0, 3.0, -2.0], np.float32)
    named = classifier_of(Fake(CROPS, LOGITS, logits), temperature=temperature).classify(
        paint_field(40, 40), np.array([[5, 5, 20, 20]], np.float32)
    )
    powers = np.exp(logits / temperature)
    np.testing.assert_allclose(named.probabilities[0], powers / powers.sum(), rtol=1e-5)
    assert named.class_ids.tolist() == [1]


@pytest.mark.parametrize(
    ("below", "unclassified"), [(0.0, False), (0.49, False), (0.5, False), (0.5001, True)]
)
def test_a_cell_at_the_threshold_is_classified(below: float, unclassified: bool) -> None:
    """Two classes at a half each: the bound itself is enough."""
    logits = np.array([0.0, 0.0, -1e4], np.float32)
    named = classifier_of(Fake(CROPS, LOGITS, logits), abstain_below=below).classify(
        paint_field(40, 40), np.array([[5, 5, 20, 20]], np.float32)
    )
    assert named.probabilities[0].tolist() == [0.5, 0.5, 0.0]
    assert named.unclassified.tolist() == [unclassified]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_told_in_one_line(bad: float) -> None:
    logits = np.array([bad, 0, 0], np.float32)
    with pytest.raises(BackendError, match="no numbers") as refusal:
        classifier_of(Fake(CROPS, LOGITS, logits)).classify(
            paint_field(40, 40), np.array([[5, 5, 20, 20]], np.float32)
        )
    assert "\n" not in str(refusal.value)
    with pytest.raises(BackendError, match="no numbers"):
        judged([bad, 0, 0, 0, 0])


def test_classes_the_head_never_saw_are_not_described(stages: Stages) -> None:
    spec = HEAD.model_copy(update={"not_for_classes": ("plum",)})
    head = AttributeHead(spec, DETECTOR, stages.head._backend)
    examiner = Examiner(stages.detector, attribute_head=head, classifier=stages.classifier)
    frame = field(320, 240, navy=[(60, 60, 60)], plum=[(230, 180, 60)])
    found = examiner.examine(frame).detections
    assert found.attribute_values is not None
    assert found.attribute_probabilities is not None
    assert found.attribute_values[at(found, 230, 180)].tolist() == [-1, -1]
    assert found.attribute_probabilities[at(found, 230, 180)].tolist() == [0, 0]
    assert found.attribute_values[at(found, 60, 60)].min() >= 0


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        (MAP_INPUTS, HEAD_OUT, "boxes"),
        ([*MAP_INPUTS, ("boxes", (5, 4))], HEAD_OUT, "any number of cells"),
        ([*MAP_INPUTS, ("boxes", (-1, 5))], HEAD_OUT, "boxes"),
        ([("early", (1, 4, 40, 40)), *HEAD_IN[1:]], HEAD_OUT, "early"),
        ([("early", (1, 3, 20, 20)), *HEAD_IN[1:]], HEAD_OUT, "early"),
        ([*HEAD_IN, ("more", (1,))], HEAD_OUT, "more"),
        (HEAD_IN, [("attributes", (-1, 6))], "schema 'toy-2' wants 'attributes' (-1, 5)"),
        (HEAD_IN, [("attributes", (-1, 4))], "5 outputs for 2 attributes"),
        (HEAD_IN, [("others", (-1, 5))], "'attributes'"),
        (HEAD_IN, [], "'attributes'"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(inputs: Any, outputs: Any, words: str) -> None:
    with pytest.raises(BackendError) as refusal:
        head_of(Fake(inputs, outputs))
    assert words in str(refusal.value)
    assert "export it again" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([("images", (-1, 3, 24, 24))], LOGITS, "'crops'"),
        ([("crops", (1, 3, 24, 24))], LOGITS, "any number of cells"),
        ([("crops", (-1, 3, 32, 32))], LOGITS, "24"),
        ([*CROPS, ("more", (1,))], LOGITS, "more"),
        (CROPS, [("logits", (-1, 4))], "each of its 3 classes"),
        (CROPS, [("scores", (-1, 3))], "'logits'"),
        (CROPS, [], "'logits'"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(inputs: Any, outputs: Any, words: str) -> None:
    with pytest.raises(BackendError) as refusal:
        classifier_of(Fake(inputs, outputs))
    assert words in str(refusal.value)
    assert "export it again" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "shape", [None, (1, 3, 40, 41), (1, 4, 40, 40), (3, 40, 40), (2, 3, 40, 40)]
)
def test_a_detector_without_its_feature_map_is_refused(shape: tuple[int, ...] | None) -> None:
    outputs = [("output", (1, 5, 882)), ("later", (1, 3, 20, 20))]
    if shape is not None:
        outputs.append(("early", shape))
    fake = Fake([("images", (1, 3, SIDE, SIDE))], outputs)
    with pytest.raises(BackendError, match=r"feature map 'early' \(1, 3, 40, 40\)") as refusal:
        Detector(DETECTOR, cast(InferenceBackend, fake))
    assert "\n" not in str(refusal.value)


def test_detections_keep_their_attributes_together() -> None:
    def some(n: int, judged: bool) -> Detections:
        table = np.arange(2 * n).reshape(n, 2)
        plain = (np.zeros((n, 4), np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64))
        return Detections(*plain, table, table / np.float32(10)) if judged else Detections(*plain)

    joined = Detections.joined([some(2, True), some(0, False), some(1, False)])
    assert joined.attribute_values is not None
    assert joined.attribute_values.tolist() == [[0, 1], [2, 3], [-1, -1]]
    picked = joined.select(np.array([2, 1]))
    assert picked.attribute_values is not None
    assert picked.attribute_probabilities is not None
    assert picked.attribute_values.tolist() == [[-1, -1], [2, 3]]
    assert picked.attribute_probabilities[0].tolist() == [0, 0]
    assert Detections.joined([some(1, False)]).attribute_values is None
    two = some(2, True)
    with pytest.raises(ValueError, match="disagree"):
        replace(two, attribute_values=np.zeros((1, 2), np.int64))
    with pytest.raises(ValueError, match="disagree"):
        replace(two, attribute_probabilities=None)
