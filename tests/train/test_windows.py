"""Whole fields through overlapping windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch
from torch import Tensor, nn
from ultralytics.utils.nms import non_max_suppression

from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import UInt8Image
from tests.train.sparse_steps import tiny_detector
from train.datasets.labelled import LabelledImage, LabelledSet
from train.evaluate_attridet import judge_pictures
from train.sparse.windows import find_through_windows, judge_through_windows, place_windows

pytestmark = pytest.mark.train

RED, GREEN, BOTH = (30, 20, 20), (30, 200, 20), (30, 20, 200)


class Blobs(nn.Module):
    """Finds what has little red in it; green makes it class 1, blue both classes."""

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        answer = torch.zeros(len(images), 6, 24)
        for rows, image in zip(answer, images, strict=True):
            dark = (image[0] < 0.3).numpy().astype(np.uint8)
            _, _, stats, centres = cv2.connectedComponentsWithStats(dark)
            for place, (stat, centre) in enumerate(zip(stats[1:], centres[1:], strict=True)):
                x, y, width, height, area = (float(value) for value in stat)
                rows[:4, place] = torch.tensor([x + width / 2, y + height / 2, width, height])
                _, green, blue = image[:, int(centre[1]), int(centre[0])].tolist()
                sure = min(0.5 + area / 10000, 0.99)
                rows[4, place] = 0.0 if green > 0.5 else sure
                rows[5, place] = sure if green > 0.5 or blue > 0.5 else 0.0
        return answer, {}


def field(*cells: tuple[int, int, int, int, tuple[int, int, int]]) -> UInt8Image:
    pixels = np.full((120, 200, 3), 230, np.uint8)
    for x1, y1, x2, y2, colour in cells:
        pixels[y1:y2, x1:x2] = colour
    return pixels


def near(rows: list[list[int]], wanted: list[list[int]]) -> bool:
    """Whether finds are those: a pixel more or less comes from fitting windows to the input."""
    return len(rows) == len(wanted) and np.allclose(rows, wanted, atol=1.0)


def found(pixels: UInt8Image, window: tuple[int, int] = (100, 120), **told: Any) -> list[list[int]]:
    cells = find_through_windows(Blobs(), pixels, window_px=window, size=128, **told)
    assert (np.diff(cells.scores) <= 0).all()
    rows = np.concatenate([cells.boxes_xyxy, cells.class_ids[:, None]], axis=1)
    return sorted(rows.round().astype(int).tolist())


@pytest.mark.parametrize("stride", [0.75, 0.8, 1.0, 0.3])
@pytest.mark.parametrize("window", [(100, 120), (64, 37), (199, 119), (1000, 50), (200, 120)])
def test_windows_cover_every_pixel_and_end_at_the_edges(
    window: tuple[int, int], stride: float
) -> None:
    windows = place_windows(200, 120, window, 128, stride)
    seen = np.zeros((120, 200), int)
    for each in windows:
        assert each.x2 - each.x1 == min(window[0], 200)
        assert each.y2 - each.y1 == min(window[1], 120)
        seen[each.y1 : each.y2, each.x1 : each.x2] += 1
    assert (seen > 0).all()
    assert {each.x1 for each in windows} >= {0, 200 - min(window[0], 200)}
    assert len({(each.x1, each.y1) for each in windows}) == len(windows)


def test_windows_lie_a_stride_apart() -> None:
    places = [(each.x1, each.y1) for each in place_windows(1000, 400, (400, 400), 640, 0.75)]
    assert places == [(0, 0), (300, 0), (600, 0)]
    places = [(each.x1, each.y1) for each in place_windows(1100, 400, (400, 400), 640, 0.75)]
    assert places == [(0, 0), (300, 0), (600, 0), (700, 0)]


def test_a_cell_on_a_seam_is_reported_once_and_whole() -> None:
    # Windows at 0..100, 75..175, 100..200: cut by the first and the last.
    assert near(found(field((88, 40, 112, 64, RED))), [[88, 40, 112, 64, 0]])
    # Whole in two windows.
    assert near(found(field((80, 40, 98, 58, GREEN))), [[80, 40, 98, 58, 1]])
    # On a corner of four: windows of 100 x 60 at 0, 45, 60 downwards.
    corner = found(field((90, 50, 110, 70, RED)), (100, 60))
    assert near(corner, [[90, 50, 110, 70, 0]])


def test_a_cell_at_the_fields_edge_is_not_cut_by_a_window() -> None:
    cells = [(0, 0, 20, 20, RED), (180, 100, 200, 120, GREEN), (90, 0, 108, 20, RED)]
    assert near(
        found(field(*cells)), [[0, 0, 20, 20, 0], [90, 0, 108, 20, 0], [180, 100, 200, 120, 1]]
    )


def test_a_cell_larger_than_every_window_is_not_lost() -> None:
    # What two windows see of it; all that the last one sees lies whole in the middle one.
    parts = found(field((10, 40, 160, 80, RED)))
    assert near(parts, [[10, 40, 100, 80, 0], [75, 40, 160, 80, 0]])


def test_finds_of_two_classes_do_not_suppress_each_other() -> None:
    assert near(found(field((80, 40, 98, 58, BOTH))), [[80, 40, 98, 58, 0], [80, 40, 98, 58, 1]])


def test_a_field_in_one_window_gives_the_plain_finds() -> None:
    model = tiny_detector().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    cells = find_through_windows(model, pixels, window_px=(80, 50), size=64)
    spec = InputSpec(name="images", width=64, height=64, scale=1 / 255, pad_value=114)
    window = fit_window(80, 50, spec)
    with torch.no_grad():
        answer = model(torch.from_numpy(tensor_of(pixels, window, spec)))
    (plain,) = non_max_suppression(
        answer[0], conf_thres=0.001, iou_thres=0.6, multi_label=True, max_det=300
    )
    assert len(plain) > 5
    assert np.array_equal(cells.boxes_xyxy, window.to_frame(plain[:, :4].numpy()))
    assert np.array_equal(cells.scores, plain[:, 4].numpy())
    assert np.array_equal(cells.class_ids, plain[:, 5].numpy().astype(int))


def labelled(folder: Path) -> LabelledSet:
    images = []
    for number, colour in enumerate((RED, GREEN)):
        box = (88 + number, 40, 112 + number, 64)
        cv2.imwrite(str(folder / f"{number}.png"), field((*box, colour))[:, :, ::-1])
        x1, y1, x2, y2 = box
        row = [(x1 + x2) / 400, (y1 + y2) / 240, (x2 - x1) / 200, (y2 - y1) / 120]
        images.append(
            LabelledImage(
                image=folder / f"{number}.png",
                split="test",
                domain="drawn",
                boxes_xywhn=np.array([row], np.float32),
                class_ids=np.array([number]),
                attributes=np.zeros((1, 0), np.int64),
            )
        )
    return LabelledSet("drawn", folder, ("a", "b"), None, tuple(images))


def test_judging_counts_each_cell_once_and_agrees_with_judging_at_once(tmp_path: Path) -> None:
    fields = labelled(tmp_path)
    steps: list[tuple[int, int]] = []
    judged = judge_through_windows(
        Blobs(),
        fields,
        fields.images,
        window_share=(0.5, 1.0),
        size=128,
        progress=lambda done, wanted: steps.append((done, wanted)),
    )
    assert judged.detection.ap50 == pytest.approx(1.0)
    assert judged.detection.cells == 2
    assert judged.attributes == ()
    assert steps == [(1, 2), (2, 2)]
    once = judge_through_windows(Blobs(), fields, fields.images, window_share=(1.0, 1.0), size=128)
    assert once == judge_pictures(Blobs(), fields, fields.images, size=128)


def test_bad_windows_and_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="window 0x5"):
        place_windows(20, 20, (0, 5), 64)
    for stride in (0.0, 1.2, float("nan")):
        with pytest.raises(SettingsError, match="stride"):
            place_windows(20, 20, (5, 5), 64, stride)
    fields = labelled(tmp_path)
    with pytest.raises(SettingsError, match="shares"):
        judge_through_windows(Blobs(), fields, fields.images, window_share=(1.5, 1.0), size=64)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png"):
        judge_through_windows(Blobs(), fields, fields.images, window_share=(0.5, 0.5), size=64)
