"""One pair: boxes, patch and figures, against drawn fields whose truth is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.accuracy import iou_matrix
from calibration.fields import parse_label_file, xywhn_to_xyxy, xyxy_to_xywhn
from edge_runtime.image_file import read_image
from edge_runtime.types import Float32Array, UInt8Image
from tests.support import paint_field
from tests.train.datasets.conftest import See
from train.datasets.homography import Matrix, mapped_points
from train.datasets.inscribed import clipped_polygon, largest_rectangle
from train.datasets.labelled import LabelledImage, Patch
from train.datasets.landmarks import picture_size
from train.datasets.transfer import Scales, map_boxes, mapped_patch, transfer_field
from train.datasets.transfer_figures import (
    compare_with_hand,
    purple_pixels,
    purple_shares,
    warped_correlation,
)

NAME = Path("images") / "train" / "a.png"


def labelled(boxes_xywhn: Float32Array, patch: Patch | None = None) -> LabelledImage:
    count = len(boxes_xywhn)
    return LabelledImage(
        NAME,
        "train",
        "drawn",
        boxes_xywhn,
        np.arange(count, dtype=np.int64),
        np.stack([np.arange(count), -np.ones(count)], axis=1).astype(np.int64),
        patch_xyxyn=patch,
    )


def turned(
    scale: float, degrees: float, source: tuple[int, int], target: tuple[int, int]
) -> Matrix:
    """The source's middle on the target's, turned and scaled, a little perspective."""
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 0], [s, c, 0], [2e-5, -1e-5, 1]])
    middle = mapped_points(matrix, np.array([source]) / 2)[0]
    move = np.eye(3)
    move[:2, 2] = np.array(target) / 2 - middle
    return np.asarray(move @ matrix, np.float64)


def seen_otherwise(
    pixels: UInt8Image, matrix: Matrix, size: tuple[int, int], *, seed: int = 0
) -> UInt8Image:
    """The picture through a known homography, another lens and another camera's colours."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    soft = cv2.GaussianBlur(pixels, (0, 0), 1.3)
    mapping = np.linalg.inv(half) @ matrix @ half
    warped = cv2.warpPerspective(soft, mapping, size, borderValue=(225, 215, 205))
    colours = np.array([[0.88, 0.08, 0.0], [0.06, 0.82, 0.08], [0.0, 0.1, 0.86]])
    noise = np.random.default_rng(seed).normal(0, 2, warped.shape)
    return np.asarray(np.clip(warped @ colours.T + 8 + noise, 0, 255), np.uint8)


def best_overlaps(
    found: Float32Array, truth: Float32Array, size: tuple[int, int]
) -> NDArray[np.float64]:
    table = iou_matrix(xywhn_to_xyxy(truth, *size), xywhn_to_xyxy(found, *size))
    return np.asarray(table.max(axis=1), np.float64)


# --- boxes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 11.25, 22.5, 45, 60])
def test_a_turned_disc_keeps_the_size_of_its_box(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 200], [s, c, 200], [0, 0, 1.0]])
    box = np.array([[0.5, 0.5, 0.2, 0.2]], np.float32)
    mapped = map_boxes(matrix, box, (200, 200), (800, 800)).boxes_xyxy[0]
    side = mapped[2:] - mapped[:2]
    # Corners would have given up to 1.41.
    assert (side < 1.05 * 40).all()
    assert (side > 0.97 * 40).all()
    middle = mapped_points(matrix, np.array([[100.0, 100.0]]))[0]
    assert np.abs((mapped[:2] + mapped[2:]) / 2 - middle).max() < 0.1


def test_boxes_are_clipped_and_dropped_when_less_than_half_remains() -> None:
    boxes = np.array([[0.5, 0.5, 0.2, 0.2]] * 3, np.float32)
    boxes[:, 0] = [0.02, -0.0, 0.3]
    moved = np.array([[1, 0, -1.0], [0, 1, 0], [0, 0, 1]])
    cells = map_boxes(moved, boxes, (100, 100), (100, 100))
    assert cells.remaining == pytest.approx([0.55, 0.45, 1.0], abs=1e-6)
    assert cells.kept.tolist() == [True, False, True]
    assert cells.boxes_xyxy[0] == pytest.approx([0, 40, 11, 60], abs=1e-4)
    away = np.array([[1, 0, 500.0], [0, 1, 0], [0, 0, 1]])
    outside = map_boxes(away, boxes, (100, 100), (100, 100))
    assert outside.remaining.tolist() == [0, 0, 0]
    none = map_boxes(moved, boxes[:0], (100, 100), (100, 100))
    assert none.boxes_xyxy.shape == (0, 4)
    assert none.kept.shape == (0,)


# --- patch ---------------------------------------------------------------------------------


def test_the_largest_rectangle_of_known_shapes() -> None:
    frame = np.array([(2, 3), (12, 3), (12, 9), (2, 9)], np.float64)
    assert largest_rectangle(frame) == pytest.approx((2, 3, 12, 9), abs=1e-6)
    diamond = np.array([(0, 5), (5, 0), (10, 5), (5, 10)], np.float64)
    assert largest_rectangle(diamond) == pytest.approx((2.5, 2.5, 7.5, 7.5), abs=1e-3)
    assert largest_rectangle(diamond[:2]) is None
    line = np.array([(0, 0), (5, 5), (10, 10)], np.float64)
    rectangle = largest_rectangle(line)
    assert rectangle is None or (rectangle[2] - rectangle[0]) * (rectangle[3] - rectangle[1]) < 1e-6


def _depth(polygon: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    """Least distance of points from the edges, negative outside."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    offsets = points[:, None] - polygon[None]
    cross = edges[None, :, 0] * offsets[:, :, 1] - edges[None, :, 1] * offsets[:, :, 0]
    sign = np.sign(np.median(cross))
    return float((sign * cross / np.hypot(edges[:, 0], edges[:, 1])).min())


@pytest.mark.parametrize("seed", range(12))
def test_the_rectangle_is_inside_and_hard_to_beat(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.array([(0, 0), (100, 0), (100, 80), (0, 80)]) + rng.uniform(-15, 15, (4, 2))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    polygon = clipped_polygon(corners @ turn.T + 100, (150, 140))
    rectangle = largest_rectangle(polygon)
    assert rectangle is not None
    x1, y1, x2, y2 = rectangle
    mine = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    assert _depth(polygon, mine) > -1e-6
    # No rectangle between any two places on a grid is larger.
    places = np.linspace(polygon[:, 0].min(), polygon[:, 0].max(), 60)
    tops, bottoms = _rows(polygon, places)
    heights = np.minimum(bottoms[:, None], bottoms) - np.maximum(tops[:, None], tops)
    areas = np.maximum(heights, 0) * np.maximum(places - places[:, None], 0)
    assert (x2 - x1) * (y2 - y1) >= areas.max()


def _rows(
    polygon: NDArray[np.float64], places: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    crossings: list[list[float]] = [[] for _ in places]
    for (xa, ya), (xb, yb) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        for k, x in enumerate(places):
            if min(xa, xb) <= x <= max(xa, xb) and xa != xb:
                crossings[k].append(ya + (yb - ya) * (x - xa) / (xb - xa))
    return np.array([min(each) for each in crossings]), np.array([max(each) for each in crossings])


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 200])
@pytest.mark.parametrize("patch", [None, (0.2, 0.1, 0.7, 0.6)])
def test_a_patch_never_reaches_what_the_source_did_not_show(
    degrees: float, patch: Patch | None
) -> None:
    source, target = (400, 300), (500, 300)
    matrix = turned(0.6, degrees, source, target)
    mapped = mapped_patch(matrix, patch, source, target)
    assert mapped is not None
    x1, y1, x2, y2 = mapped
    assert [round(each, 6) for each in mapped] == list(mapped)
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]) * target
    inverse = np.asarray(np.linalg.inv(matrix), np.float64)
    back = mapped_points(inverse, corners) / source
    low, high = ((0, 0), (1, 1)) if patch is None else (patch[:2], patch[2:])
    assert (back >= np.array(low) - 1e-9).all()
    assert (back <= np.array(high) + 1e-9).all()
    assert (np.array(mapped) >= 0).all()
    assert (np.array(mapped) <= 1).all()
    # At 0 and 90 degrees next to nothing is lost.
    if degrees in (0, 90) and patch is None:
        area = (x2 - x1) * (y2 - y1) * target[0] * target[1]
        assert area > 0.9 * min(240 * 180, 180 * 240)


# --- figures -------------------------------------------------------------------------------


def test_correlation_tells_the_same_field_from_another(see: See) -> None:
    one, _, _ = see((320, 240), 0.2)
    other, _, _ = see((320, 240), 0.2, (40.0, 35.0), seed=1)
    assert warped_correlation(one, one, np.eye(3), 1.0) == pytest.approx(1, abs=1e-6)
    assert (warped_correlation(one, other, np.eye(3), 1.0) or 0) < 0.5
    darker = np.asarray(one * 0.5 + 30, np.uint8)
    assert (warped_correlation(one, darker, np.eye(3), 1.0) or 0) > 0.95
    assert warped_correlation(one, np.full_like(one, 128), np.eye(3), 1.0) is None
    far = np.array([[1, 0, 1000.0], [0, 1, 0], [0, 0, 1]])
    assert warped_correlation(one, one, far, 1.0) is None


@pytest.mark.parametrize("cast", [(1.0, 1.0, 1.0), (1.0, 0.9, 0.75), (0.8, 0.95, 1.0)])
def test_purple_is_nuclei_and_not_red_cells(cast: tuple[float, float, float]) -> None:
    field = paint_field(200, 150, [(60, 70, 40)], red_cells=[(150, 70, 40)])
    pixels = np.asarray(field * np.array(cast), np.uint8)
    purple = purple_pixels(pixels)
    assert purple[70, 60]
    assert not purple[70, 150]
    assert not purple[10, 10]
    whole = np.array([(0, 0), (200, 0), (200, 150), (0, 150)], np.float64)
    inside, outside = purple_shares(pixels, np.array([[39, 49, 82, 92.0]]), whole)
    assert inside is not None
    assert 0.6 < inside < 0.8
    assert outside == 0
    assert purple_shares(pixels, np.zeros((0, 4)), whole)[0] is None


def test_figures_against_boxes_drawn_by_hand() -> None:
    hand = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]], np.float32)
    mine = np.array([[1, 0, 11, 10], [50, 53, 60, 63], [20, 20, 30, 30]], np.float32)
    figures = compare_with_hand([(mine, hand), (mine[:0], hand[:1])])
    assert (figures.pictures, figures.hand_boxes, figures.found) == (2, 4, 2)
    assert figures.recall == 0.5
    assert figures.median_centre_error_px == pytest.approx(2.0)
    nothing = compare_with_hand([])
    assert (nothing.recall, nothing.median_centre_error_px) == (None, None)
    # One box cannot find two cells.
    twice = compare_with_hand([(mine[:1], np.repeat(hand[:1], 2, axis=0))])
    assert twice.found == 1


# --- whole pairs ---------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "degrees"), [(0.4, 0), (0.4, 25), (0.5, -130), (1.0, 8)])
def test_a_drawn_field_through_a_known_homography(see: See, scale: float, degrees: float) -> None:
    pixels, boxes, _ = see((640, 480), 0.12)
    size = (round(640 * scale * 1.5), round(640 * scale * 1.5))
    true = turned(scale, degrees, (640, 480), size)
    target = seen_otherwise(pixels, true, size)
    done = transfer_field(
        labelled(boxes), pixels, Path("b.png"), target, scales=Scales(target=scale)
    )
    assert done.accepted, done.reasons
    assert done.labels is not None
    truth = map_boxes(true, boxes, (640, 480), size)
    assert len(done.labels) == len(boxes) > 5
    wanted = xyxy_to_xywhn(truth.boxes_xyxy.astype(np.float32), *size)
    overlaps = np.diag(
        iou_matrix(xywhn_to_xyxy(wanted, *size), xywhn_to_xyxy(done.labels.boxes_xywhn, *size))
    )
    assert overlaps.min() >= 0.9
    # Class, attributes and order go along.
    assert np.array_equal(done.labels.class_ids, np.arange(len(boxes)))
    assert np.array_equal(done.labels.attributes[:, 0], np.arange(len(boxes)))
    assert done.labels.image == Path("b.png")
    assert done.labels.patch_xyxyn is not None
    assert done.labels.size_px == size


def test_from_one_microscope_to_another(see: See) -> None:
    source, boxes, ids = see((640, 480), 0.1, (64.0, 52.0))
    target, truth, truth_ids = see(
        (480, 400),
        0.24,
        (60.0, 54.0),
        seed=1,
        blur_um=0.35,
        vignetting=0.2,
        white_balance=(0.95, 1.0, 0.85),
        jpeg_quality=80,
        illumination_tilt=0.1,
    )
    done = transfer_field(
        labelled(boxes), source, Path("b.png"), target, scales=Scales(target=0.1 / 0.24)
    )
    assert done.accepted, done.reasons
    assert done.labels is not None
    both = [i for i, film_id in enumerate(ids) if film_id in truth_ids]
    assert len(both) > 3
    wanted = truth[[truth_ids.index(ids[i]) for i in both]]
    found = done.labels.boxes_xywhn[both]
    assert best_overlaps(found, wanted, (480, 400)).min() >= 0.5
    by_name = {each.name: each.value for each in done.verification}
    assert set(by_name) == {"round trip", "both ways", "correlation", "purple in boxes"}


def test_through_a_chain(see: See) -> None:
    source, boxes, ids = see((800, 640), 0.1, (64.0, 52.0))
    between, _, _ = see((520, 440), 0.22, (62.0, 54.0), seed=1, blur_um=0.2)
    target, truth, truth_ids = see((320, 300), 0.4, (64.0, 56.0), seed=2, blur_um=0.3)
    done = transfer_field(
        labelled(boxes),
        source,
        Path("b.png"),
        target,
        scales=Scales(target=0.1 / 0.4, chain=0.1 / 0.22),
        chain_pixels=between,
    )
    assert done.accepted, done.reasons
    assert done.labels is not None
    assert len(done.registration.legs) == 2
    both = [i for i, film_id in enumerate(ids) if film_id in truth_ids]
    wanted = truth[[truth_ids.index(ids[i]) for i in both]]
    assert best_overlaps(done.labels.boxes_xywhn[both], wanted, (320, 300)).min() >= 0.5


def test_up_in_magnification_and_unknown_scale(see: See) -> None:
    source, boxes, _ = see((480, 400), 0.24, (64.0, 54.0))
    target, truth, _ = see((640, 480), 0.15, (62.0, 55.0), seed=1)
    for scales in (Scales(target=0.24 / 0.15), Scales()):
        strict = transfer_field(labelled(boxes), source, Path("b.png"), target, scales=scales)
        assert not strict.accepted
        assert [line.split(":")[0] for line in strict.reasons] == ["corners inside"]
        done = transfer_field(
            labelled(boxes), source, Path("b.png"), target, scales=scales, corner_margin=0.5
        )
        assert done.accepted, done.reasons
        assert done.labels is not None
        # Cells outside the target went, those in it are found.
        assert 0 < len(done.labels) < len(boxes)
        assert best_overlaps(done.labels.boxes_xywhn, truth, (640, 480)).min() >= 0.5


def test_labels_that_miss_their_cells_are_rejected_by_colour(see: See) -> None:
    pixels, boxes, _ = see((640, 480), 0.12)
    purple = purple_pixels(pixels)
    bare = [
        (x, y)
        for x in range(60, 580, 20)
        for y in range(60, 420, 20)
        if not purple[y - 20 : y + 20, x - 20 : x + 20].any()
    ]
    wrong = np.array([(x / 640, y / 480, 40 / 640, 40 / 480) for x, y in bare[:3]], np.float32)
    done = transfer_field(labelled(wrong), pixels, Path("b.png"), pixels, scales=Scales(1.0))
    assert done.registration.accepted
    assert [line.split(":")[0] for line in done.reasons] == ["purple in boxes"]
    assert len(boxes) > 0


def test_cells_cut_by_the_sources_frame_are_told_apart(see: See) -> None:
    pixels, _, _ = see((640, 480), 0.12)
    boxes = np.array(
        [[0.5, 0.5, 0.1, 0.1], [0.05, 0.5, 0.1, 0.1], [0.5, 0.95, 0.1, 0.1]], np.float32
    )
    done = transfer_field(labelled(boxes), pixels, Path("b.png"), pixels, scales=Scales(1.0))
    assert done.cut_in_source.tolist() == [False, True, True]


def test_a_field_without_cells_is_a_patch_without_cells(see: See) -> None:
    pixels, boxes, _ = see((640, 480), 0.12)
    done = transfer_field(labelled(boxes[:0]), pixels, Path("b.png"), pixels, scales=Scales(1.0))
    assert done.accepted, done.reasons
    assert done.labels is not None
    assert len(done.labels) == 0
    assert done.labels.patch_xyxyn == pytest.approx((0, 0, 1, 1), abs=1e-3)


def test_the_same_pair_gives_the_same_numbers(see: See) -> None:
    source, boxes, _ = see((640, 480), 0.1)
    target, _, _ = see((480, 400), 0.24, seed=1)
    one, other = (
        transfer_field(labelled(boxes), source, Path("b.png"), target, scales=Scales(0.1 / 0.24))
        for _ in range(2)
    )
    assert one.checks == other.checks
    assert one.registration.matrix is not None
    assert other.registration.matrix is not None
    assert np.array_equal(one.registration.matrix, other.registration.matrix)


@pytest.mark.realdata
def test_real_fields_through_a_known_homography(shared_data: Path) -> None:
    root = shared_data / "wbc-domains" / "bccd"
    for image in sorted((root / "images" / "test").iterdir())[:3]:
        rows, bad = parse_label_file(root / "labels" / "test" / f"{image.stem}.txt", class_count=3)
        assert not bad
        boxes = np.array([box for _, box in rows], np.float32)
        pixels = read_image(image)
        source = picture_size(pixels)
        size = (400, 380)
        true = turned(0.4, 20, source, size)
        target = seen_otherwise(pixels, true, size)
        done = transfer_field(
            labelled(boxes), pixels, Path("b.png"), target, scales=Scales(target=0.4)
        )
        assert done.accepted, done.reasons
        assert done.labels is not None
        truth = map_boxes(true, boxes, source, size).boxes_xyxy
        overlaps = np.diag(
            iou_matrix(truth.astype(np.float32), xywhn_to_xyxy(done.labels.boxes_xywhn, *size))
        )
        assert len(overlaps) == len(boxes)
        assert overlaps.min() >= 0.5
        assert np.median(overlaps) >= 0.95
