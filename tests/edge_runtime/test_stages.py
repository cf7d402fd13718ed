"""The detector stage on a real model: every cell once, small ones through windows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest

from edge_runtime.backends import BACKENDS, InferenceBackend, TensorSpec, open_backend
from edge_runtime.bundle import Bundle, DetectorSpec
from edge_runtime.errors import BackendError
from edge_runtime.postprocess import decode_xywh_scores, suppress_doubles
from edge_runtime.stages import Detector
from edge_runtime.types import Detections, Float32Array, Frame
from tests.support import SIDE, paint_field

Disc = tuple[float, float, float]


@pytest.fixture(scope="module")
def backend(toy_model: bytes) -> Iterator[InferenceBackend]:
    with open_backend(BACKENDS[0], toy_model, threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def detector(toy_bundle: Bundle, backend: InferenceBackend) -> Detector:
    return Detector(toy_bundle.manifest.detector, backend)


def frame(width: int, height: int, cells: list[Disc], *, um: float | None = None) -> Frame:
    return Frame(0, 0, paint_field(width, height, cells), "field", um)


def each_once(found: Detections, cells: list[Disc], within: float) -> None:
    """Every disc has exactly one find at its place and of its size, and nothing else is found."""
    assert len(found) == len(cells)
    boxes = found.boxes_xyxy
    centres, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    for x, y, diameter in cells:
        hits = np.flatnonzero(np.hypot(*(centres - (x, y)).T) <= within)
        assert len(hits) == 1, f"disc at {x}, {y}: {len(hits)} finds"
        np.testing.assert_allclose(extent[hits[0]], diameter, atol=2 * within)


def test_large_cells_are_found_in_one_look(detector: Detector) -> None:
    cells = [(110.0, 100.0, 60.0), (300.0, 220.0, 80.0)]
    examined = detector.examine(frame(400, 300, cells))
    assert examined.windows == 1
    each_once(examined.detections, cells, within=4)


def test_small_cells_are_looked_at_again_through_windows(detector: Detector) -> None:
    cells = [(100.0, 100.0, 30.0), (400.0, 300.0, 34.0), (320.0, 240.0, 28.0)]
    examined = detector.examine(frame(640, 480, cells))
    assert examined.windows > 1
    each_once(examined.detections, cells, within=2)


def test_a_known_pixel_size_sets_the_scale_by_itself(detector: Detector) -> None:
    """Discs far too small for the whole view: only the camera's word finds them."""
    cells = [(100.0, 100.0, 13.0), (500.0, 400.0, 13.0)]
    blind = detector.examine(frame(640, 480, cells))
    assert (len(blind.detections), blind.windows) == (0, 1)
    told = detector.examine(frame(640, 480, cells, um=1.0))
    assert told.windows > 1
    each_once(told.detections, cells, within=2)


def test_a_known_pixel_size_of_large_cells_needs_no_window(detector: Detector) -> None:
    cells = [(110.0, 100.0, 60.0)]
    assert detector.examine(frame(400, 300, cells, um=13 / 60)).windows == 1


def test_red_cells_set_the_scale_where_nothing_is_found(detector: Detector) -> None:
    red: list[Disc] = [(x, y, 8) for x in range(30, 620, 40) for y in range(30, 460, 40)]
    cells = [(250.0, 210.0, 14.0)]
    pixels = paint_field(640, 480, cells, red_cells=red)
    examined = detector.examine(Frame(0, 0, pixels, "field"))
    assert examined.windows > 1
    each_once(examined.detections, cells, within=2)


@pytest.mark.parametrize("shift", range(0, 120, 13))
def test_a_cell_on_a_seam_is_told_once(detector: Detector, shift: int) -> None:
    """A row of cells sliding over all window borders, in both directions."""
    cells = [(float(x), float(60 + shift), 28.0) for x in range(30 + shift, 800, 119)]
    cells += [(float(60 + shift), float(y), 28.0) for y in range(180 + shift, 560, 113)]
    examined = detector.examine(frame(820, 620, cells))
    assert examined.windows > 4
    each_once(examined.detections, cells, within=2.5)


def test_a_cell_cut_by_the_fields_own_border_is_kept(detector: Detector) -> None:
    cells = [(639.0, 100.0, 30.0), (300.0, 479.0, 30.0), (320.0, 240.0, 30.0)]
    examined = detector.examine(frame(640, 480, cells))
    assert examined.windows > 1
    boxes = examined.detections.boxes_xyxy
    assert len(boxes) == 3
    assert (boxes[:, 2] >= 638).sum() == 1
    assert (boxes[:, 3] >= 478).sum() == 1


def test_a_giant_among_small_cells_is_kept_whole(detector: Detector) -> None:
    # Far enough apart for the toy model to tell them in the whole view.
    small = [(60.0, 60.0, 36.0), (420.0, 60.0, 36.0), (780.0, 60.0, 36.0)]
    giant = (420.0, 420.0, 170.0)
    examined = detector.examine(frame(840, 640, [*small, giant]))
    assert examined.windows > 1
    boxes = examined.detections.boxes_xyxy
    large = boxes[(boxes[:, 2] - boxes[:, 0]) > 100]
    assert len(large) == 1
    np.testing.assert_allclose(large[0], [335, 335, 505, 505], atol=8)


def test_twelve_megapixels_are_told_in_their_own_pixels(detector: Detector) -> None:
    cells = [(float(x), float(y), 120.0) for x in (200, 1900, 3800) for y in (180, 1500, 2850)]
    examined = detector.examine(frame(4000, 3000, cells))
    assert examined.windows > 1
    each_once(examined.detections, cells, within=6)


@pytest.mark.parametrize(("width", "height"), [(100, 120), (32, 32), (159, 33), (33, 161)])
def test_a_frame_smaller_than_the_input(detector: Detector, width: int, height: int) -> None:
    cells = [(width / 2, height / 2, 16.0)]
    examined = detector.examine(frame(width, height, cells))
    each_once(examined.detections, cells, within=2)


def test_an_empty_field_has_no_cells(detector: Detector) -> None:
    examined = detector.examine(frame(640, 480, []))
    assert (len(examined.detections), examined.windows) == (0, 1)
    assert examined.detections.boxes_xyxy.shape == (0, 4)


def test_boxes_lie_in_the_frame_and_scores_come_best_first(detector: Detector) -> None:
    cells = [(float(x), float(y), 26.0) for x in (0, 250, 499) for y in (0, 200, 399)]
    found = detector.examine(frame(500, 400, cells)).detections
    assert len(found) >= 5
    assert found.boxes_xyxy.min() >= 0
    assert found.boxes_xyxy[:, 2].max() <= 500
    assert found.boxes_xyxy[:, 3].max() <= 400
    assert np.all(found.boxes_xyxy[:, :2] < found.boxes_xyxy[:, 2:])
    assert np.all(np.diff(found.scores) <= 0)


def test_the_operating_point_is_the_bundles_unless_set(
    toy_bundle: Bundle, backend: InferenceBackend
) -> None:
    spec = toy_bundle.manifest.detector
    field = frame(400, 300, [(110.0, 100.0, 60.0), (303.0, 217.0, 80.0)])
    assert Detector(spec, backend).score == 0.4
    scores = Detector(spec, backend).examine(field).detections.scores
    between = float(scores.mean())
    assert scores.min() < between < scores.max()
    strict = Detector(spec, backend, score=between)
    assert strict.score == between
    assert len(strict.examine(field).detections) == 1


def test_the_manifests_limit_holds(toy_bundle: Bundle, backend: InferenceBackend) -> None:
    spec = toy_bundle.manifest.detector
    few = spec.model_copy(
        update={"thresholds": spec.thresholds.model_copy(update={"max_cells": 2})}
    )
    cells = [(float(x), 100.0, 30.0) for x in (60, 200, 340, 480)]
    assert len(Detector(few, backend).examine(frame(640, 480, cells)).detections) == 2


def test_several_threads_find_what_one_does(detector: Detector) -> None:
    fields = [
        frame(640, 480, [(60.0 + 50 * i, 200.0, 30.0), (320.0, 380.0, 28.0)]) for i in range(3)
    ]
    alone = [detector.examine(field) for field in fields]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(detector.examine, fields * 2))
    for number, examined in enumerate(together):
        expected = alone[number % 3]
        assert examined.windows == expected.windows
        np.testing.assert_allclose(
            examined.detections.boxes_xyxy, expected.detections.boxes_xyxy, atol=1e-3
        )


class _Tensors:
    """A backend that states any tensors and answers with any array."""

    def __init__(self, inputs: Any, outputs: Any, answer: Float32Array | None = None) -> None:
        self.inputs = tuple(TensorSpec(*entry) for entry in inputs)
        self.outputs = tuple(TensorSpec(*entry) for entry in outputs)
        self.answer = answer

    def infer(self, arrays: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
        assert self.answer is not None
        return {"output": self.answer}

    def infer_keeping(
        self, arrays: Mapping[str, Float32Array], keep: Collection[str]
    ) -> dict[str, Float32Array]:
        return self.infer(arrays)


def detector_of(bundle: Bundle, tensors: _Tensors) -> Detector:
    return Detector(bundle.manifest.detector, cast(InferenceBackend, tensors))


def one_to_one(bundle: Bundle) -> DetectorSpec:
    """The toy detector's manifest for a head that names every cell once."""
    spec = bundle.manifest.detector
    output = spec.output.model_copy(update={"decode": "xyxy_score_class"})
    return spec.model_copy(update={"output": output})


GOOD_IN = [("images", (1, 3, SIDE, SIDE))]
GOOD_OUT = [("output", (1, 5, 882))]


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([], GOOD_OUT, "input"),
        ([("pictures", (1, 3, SIDE, SIDE))], GOOD_OUT, "'images'"),
        ([("images", (1, 3, SIDE, SIDE + 32))], GOOD_OUT, "input"),
        ([("images", (1, SIDE, SIDE, 3))], GOOD_OUT, "input"),
        ([("images", (-1, 3, SIDE, SIDE))], GOOD_OUT, "input"),
        ([("images", ())], GOOD_OUT, "input"),
        (GOOD_IN, [], "output"),
        (GOOD_IN, [("boxes", (1, 5, 882))], "'output'"),
        (GOOD_IN, [("output", (1, 6, 882))], "5 rows"),
        (GOOD_IN, [("output", (1, 882, 5))], "5 rows"),
        (GOOD_IN, [("output", (5, 882))], "5 rows"),
        (GOOD_IN, [("output", (882,))], "5 rows"),
        (GOOD_IN, [("output", ())], "5 rows"),
        (GOOD_IN, [("output", (1, 5, 20, 20))], "5 rows"),
    ],
)
def test_a_model_that_does_not_fit_its_manifest_is_refused(
    toy_bundle: Bundle, inputs: Any, outputs: Any, words: str
) -> None:
    with pytest.raises(BackendError) as refusal:
        detector_of(toy_bundle, _Tensors(inputs, outputs))
    assert words in str(refusal.value)
    assert "export it again" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_other_tensors_beside_the_named_ones_are_no_fault(toy_bundle: Bundle) -> None:
    detector_of(toy_bundle, _Tensors(GOOD_IN, [("proto", (1, 32)), *GOOD_OUT]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 4])
def test_a_field_that_a_model_cannot_judge_is_no_empty_field(
    toy_bundle: Bundle, value: float, row: int
) -> None:
    answer = np.zeros((1, 5, 882), np.float32)
    answer[0, row, 0] = value
    detector = detector_of(toy_bundle, _Tensors(GOOD_IN, GOOD_OUT, answer))
    with pytest.raises(BackendError, match="1 values that are no numbers"):
        detector.examine(frame(160, 160, []))


@pytest.mark.parametrize("value", [0.0, 1e30, -1e30])
@pytest.mark.parametrize("row", [0, 2, 4])
def test_rubbish_from_a_model_is_no_rubbish_in_the_report(
    toy_bundle: Bundle, value: float, row: int
) -> None:
    answer = np.zeros((1, 5, 882), np.float32)
    answer[0, :, 0] = [80, 80, 40, 40, 0.9]
    answer[0, row, 0] = value
    with np.errstate(invalid="ignore", over="ignore"):
        found = detector_of(toy_bundle, _Tensors(GOOD_IN, GOOD_OUT, answer)).examine(
            frame(160, 160, [])
        )
    boxes, scores = found.detections.boxes_xyxy, found.detections.scores
    assert np.isfinite(boxes).all()
    assert np.all((boxes >= 0) & (boxes <= 160))
    assert np.all((scores >= 0) & (scores <= 1))


@pytest.mark.parametrize(("score", "looks_closer"), [(0.5, True), (0.95, False)])
def test_red_cells_overrule_a_doubtful_giant(
    toy_bundle: Bundle, score: float, looks_closer: bool
) -> None:
    """A dirt spot taken for one huge cell must not keep the small ones out of sight."""
    red: list[Disc] = [(x, y, 12) for x in range(30, 620, 40) for y in range(30, 620, 40)]
    answer = np.zeros((1, 5, 882), np.float32)
    answer[0, :, 0] = [SIDE / 2, SIDE / 2, 0.6 * SIDE, 0.6 * SIDE, score]
    detector = detector_of(toy_bundle, _Tensors(GOOD_IN, GOOD_OUT, answer))
    pixels = paint_field(640, 640, [], red_cells=red)
    assert (detector.examine(Frame(0, 0, pixels, "field")).windows > 1) == looks_closer


def test_what_a_one_to_one_head_finds_in_one_look_is_not_suppressed(toy_bundle: Bundle) -> None:
    """Two touching cells share more than suppression would let pass; the head says both."""
    answer = np.zeros((1, 20, 6), np.float32)
    answer[0, 0] = [20, 20, 80, 80, 0.7, 0]
    answer[0, 1] = [30, 22, 90, 82, 0.9, 0]
    answer[0, 2] = [20, 90, 80, 150, 0.3, 0]
    tensors = cast(InferenceBackend, _Tensors(GOOD_IN, [("output", (1, 20, 6))], answer))
    found = Detector(one_to_one(toy_bundle), tensors).examine(frame(SIDE, SIDE, [])).detections
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    np.testing.assert_allclose(found.boxes_xyxy, answer[0, [1, 0], :4])
    few = one_to_one(toy_bundle).model_copy(
        update={
            "thresholds": toy_bundle.manifest.detector.thresholds.model_copy(
                update={"max_cells": 1}
            )
        }
    )
    found = Detector(few, tensors).examine(frame(SIDE, SIDE, [])).detections
    assert found.scores.tolist() == pytest.approx([0.9])


def test_doubles_of_several_windows_are_one_cell_for_a_one_to_one_head_too(
    toy_bundle: Bundle, backend: InferenceBackend
) -> None:
    cells = [(100.0, 100.0, 30.0), (400.0, 300.0, 34.0), (320.0, 240.0, 28.0)]
    detector = Detector(one_to_one(toy_bundle), cast(InferenceBackend, _Once(backend)))
    examined = detector.examine(frame(640, 480, cells))
    assert examined.windows > 1
    each_once(examined.detections, cells, within=2)


class _Once:
    """The toy detector as if its head named every cell once."""

    def __init__(self, inner: InferenceBackend) -> None:
        self._inner = inner
        self.inputs = inner.inputs
        self.outputs = (TensorSpec("output", (1, 300, 6)),)

    def infer(self, arrays: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
        found = decode_xywh_scores(self._inner.infer(arrays)["output"], score_threshold=0.2)
        found = suppress_doubles(found, iou=0.5)
        columns = (found.boxes_xyxy, found.scores[:, None], found.class_ids[:, None])
        return {"output": np.concatenate(columns, axis=1, dtype=np.float32)[None]}

    def infer_keeping(
        self, arrays: Mapping[str, Float32Array], keep: Collection[str]
    ) -> dict[str, Float32Array]:
        return self.infer(arrays)


def test_a_one_to_one_manifest_wants_six_columns(toy_bundle: Bundle) -> None:
    for shape in ((1, 6, 300), (1, 300, 5), (300, 6)):
        tensors = cast(InferenceBackend, _Tensors(GOOD_IN, [("output", shape)]))
        with pytest.raises(BackendError, match="6 columns"):
            Detector(one_to_one(toy_bundle), tensors)
