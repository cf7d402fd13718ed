"""Decoding against a plain loop, suppression by its laws, crops inside the frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.postprocess import (
    cut_crop,
    decode_xywh_scores,
    decode_xyxy_score_class,
    encode_jpeg,
    suppress_doubles,
)
from edge_runtime.types import Detections
from tests.support import paint_field

QUICK = settings(max_examples=150, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def head_output(seed: int, classes: int, anchors: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 320, (4, anchors))
    return np.concatenate([boxes, rng.random((classes, anchors))])[None].astype(np.float32)


def crowd(seed: int, n: int | None = None) -> Detections:
    """Boxes in clusters, so that many overlap; distinct scores, so that order is defined."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40)) if n is None else n
    centres = (
        rng.uniform(0, 300, (n, 2))
        if n == 0
        else rng.choice(rng.uniform(0, 300, (max(1, n // 4), 2)), n) + rng.normal(0, 8, (n, 2))
    )
    half = rng.uniform(5, 30, (n, 2))
    boxes = np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.1, 0.9, n)).astype(np.float32)
    return Detections(boxes, scores, rng.integers(0, 3, n).astype(np.int64))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
    return float(shared / (areas - shared))


def rows(found: Detections) -> list[tuple[float, ...]]:
    """Detections as comparable rows."""
    return sorted(
        (float(s), int(c), *map(float, b))
        for b, s, c in zip(found.boxes_xyxy, found.scores, found.class_ids, strict=True)
    )


@QUICK
@given(seed=SEEDS, classes=st.integers(1, 4), threshold=st.floats(0, 1, width=32))
def test_decoding_is_what_a_plain_loop_does(seed: int, classes: int, threshold: float) -> None:
    output = head_output(seed, classes)
    expected = []
    for anchor in output[0].T:
        x, y, w, h = (float(v) for v in anchor[:4])
        best = max(range(classes), key=lambda c: anchor[4 + c])
        if anchor[4 + best] >= np.float32(threshold):
            box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            expected.append((float(anchor[4 + best]), best, *box))
    found = decode_xywh_scores(output, score_threshold=threshold)
    assert len(found) == len(expected)
    if expected:
        np.testing.assert_allclose(rows(found), sorted(expected), atol=1e-3)
    assert found.boxes_xyxy.dtype == np.float32
    assert found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int64


def test_what_is_no_number_is_no_cell() -> None:
    output = head_output(1, 1, anchors=5)
    output[0, 4] = [np.nan, 0.9, np.nan, 0.8, np.nan]
    found = decode_xywh_scores(output, score_threshold=0.5)
    assert sorted(found.scores.tolist()) == pytest.approx([0.8, 0.9])


def test_a_one_to_one_head_has_corners_score_and_class() -> None:
    output = np.array(
        [
            [
                [1, 2, 11, 22, 0.9, 1],
                [1, 2, 12, 22, 0.5, 0.0002],
                [3, 4, 5, 6, 0.49, 1],
                [0, 0, 9, 9, np.nan, 0],
                [5, 5, 8, 8, 1.002, 2],
                [5, 5, 8, 8, 0.9, 3],
                [5, 5, 8, 8, 0.9, -1],
                [5, 5, 8, 8, 0.9, np.nan],
            ]
        ],
        np.float32,
    )
    found = decode_xyxy_score_class(output, score_threshold=0.5, classes=3)
    np.testing.assert_array_equal(found.boxes_xyxy, output[0, [0, 1, 4], :4])
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 1.0])
    assert found.class_ids.tolist() == [1, 0, 2]
    assert found.boxes_xyxy.dtype == np.float32
    assert found.class_ids.dtype == np.int64
    assert len(decode_xyxy_score_class(output[:, :0], score_threshold=0.5, classes=3)) == 0


@QUICK
@given(seed=SEEDS, limit=st.floats(0.1, 0.9))
def test_survivors_do_not_overlap_and_the_dropped_do(seed: int, limit: float) -> None:
    found = crowd(seed)
    kept = suppress_doubles(found, iou=limit)
    for i in range(len(kept)):
        for j in range(i):
            assert iou(kept.boxes_xyxy[i], kept.boxes_xyxy[j]) <= limit + 1e-5
    survivors = set(rows(kept))
    for row, box, score in zip(
        rows(found.select(np.argsort(found.scores))),
        found.boxes_xyxy[np.argsort(found.scores)],
        np.sort(found.scores),
        strict=True,
    ):
        if row not in survivors:
            better = kept.select(kept.scores > score)
            assert max(iou(box, other) for other in better.boxes_xyxy) > limit - 1e-5


@QUICK
@given(seed=SEEDS, limit=st.floats(0.1, 0.9), covered=st.floats(0.3, 1.0))
def test_suppression_is_idempotent_and_blind_to_order(
    seed: int, limit: float, covered: float
) -> None:
    found = crowd(seed)
    once = suppress_doubles(found, iou=limit, covered=covered)
    again = suppress_doubles(once, iou=limit, covered=covered)
    assert rows(again) == rows(once)
    shuffled = found.select(np.random.default_rng(seed).permutation(len(found)))
    assert rows(suppress_doubles(shuffled, iou=limit, covered=covered)) == rows(once)


@QUICK
@given(seed=SEEDS, n=st.integers(1, 30))
def test_the_best_survives_and_comes_first(seed: int, n: int) -> None:
    found = crowd(seed, n)
    kept = suppress_doubles(found, iou=0.5, covered=0.7)
    assert kept.scores[0] == found.scores.max()
    assert np.all(np.diff(kept.scores) <= 0)


@QUICK
@given(seed=SEEDS, limit=st.integers(1, 10))
def test_a_limit_keeps_the_best(seed: int, limit: int) -> None:
    found = crowd(seed)
    every = suppress_doubles(found, iou=0.5)
    some = suppress_doubles(found, iou=0.5, limit=limit)
    assert rows(some) == rows(every.select(np.arange(min(limit, len(every)))))


def test_boxes_apart_all_stay() -> None:
    boxes = np.array([[i * 50, 0, i * 50 + 40, 40] for i in range(20)], np.float32)
    found = Detections(boxes, np.linspace(0.9, 0.1, 20, dtype=np.float32), np.zeros(20, np.int64))
    assert rows(suppress_doubles(found, iou=0.01, covered=0.01)) == rows(found)


def test_a_half_inside_a_whole_cell_goes_only_when_covered_says_so() -> None:
    boxes = np.array([[0, 0, 40, 40], [0, 0, 16, 40]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    assert len(suppress_doubles(found, iou=0.5)) == 2
    assert len(suppress_doubles(found, iou=0.5, covered=0.7)) == 1


def test_a_whole_cell_is_not_dropped_for_its_better_scored_part() -> None:
    boxes = np.array([[0, 0, 40, 40], [0, 0, 16, 40]], np.float32)
    found = Detections(boxes, np.array([0.8, 0.9], np.float32), np.zeros(2, np.int64))
    assert len(suppress_doubles(found, iou=0.5, covered=0.7)) == 2


def test_classes_suppress_each_other() -> None:
    boxes = np.array([[0, 0, 40, 40], [1, 1, 41, 41]], np.float32)
    found = Detections(boxes, np.array([0.8, 0.9], np.float32), np.array([0, 1], np.int64))
    assert suppress_doubles(found, iou=0.5).class_ids.tolist() == [1]


def test_nothing_found_stays_nothing() -> None:
    assert len(suppress_doubles(Detections.empty(), iou=0.5, covered=0.7, limit=3)) == 0


@QUICK
@given(
    size=st.tuples(st.integers(32, 300), st.integers(32, 300)),
    corner=st.tuples(st.floats(-50, 350), st.floats(-50, 350)),
    extent=st.tuples(st.floats(0.01, 400), st.floats(0.01, 400)),
    margin=st.floats(0, 1),
    largest=st.integers(32, 200),
)
def test_a_crop_lies_in_the_frame_and_within_the_limit(
    size: tuple[int, int],
    corner: tuple[float, float],
    extent: tuple[float, float],
    margin: float,
    largest: int,
) -> None:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    box = np.array([*corner, corner[0] + extent[0], corner[1] + extent[1]], np.float32)
    crop = cut_crop(pixels, box, margin=margin, largest_side=largest)
    assert crop.dtype == np.uint8
    assert crop.shape[2] == 3
    assert min(crop.shape[:2]) >= 1
    assert max(crop.shape[:2]) <= largest
    assert encode_jpeg(crop, quality=80).startswith(b"\xff\xd8")


def test_a_crop_shows_the_cell_with_its_margin() -> None:
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[60:100, 120:180] = 255
    box = np.array([120, 60, 180, 100], np.float32)
    assert cut_crop(pixels, box, margin=0, largest_side=320).min() == 255
    crop = cut_crop(pixels, box, margin=0.5, largest_side=320)
    assert crop.shape == (80, 120, 3)
    assert crop[20:60, 30:90].min() == 255
    assert crop.sum() == 40 * 60 * 3 * 255


def test_a_crop_at_the_border_is_cut_there() -> None:
    field = paint_field(100, 80, [(0, 0, 40)])
    crop = cut_crop(field, np.array([0, 0, 20, 20], np.float32), margin=0.2, largest_side=320)
    assert np.array_equal(crop, field[:24, :24])


def test_a_jpeg_keeps_the_colours() -> None:
    field = paint_field(64, 64, [(32, 32, 40)])
    content = np.frombuffer(encode_jpeg(field, quality=95), np.uint8)
    decoded = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR))
    assert np.abs(decoded[:, :, ::-1].astype(int) - field).mean() < 4
