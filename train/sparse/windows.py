"""Finding the cells of a whole field through overlapping windows.

Owns where the windows lie and how their finds become the field's. Does not own the network's
input (see ``edge_runtime.preprocess``) nor the figures (see ``calibration.class_accuracy``).

A detector trained on patches that were cut out knows cells at the scale of a patch. So a whole
field is looked at through windows as large as the median patch, each fitted to the network's
input as the patches were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.ops import batched_nms
from ultralytics.utils.nms import non_max_suppression

from calibration.class_accuracy import MAX_FINDS, ClassedCells, count_finds, evaluate_classes
from calibration.fields import xywhn_to_xyxy
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError, FrameError, SettingsError
from edge_runtime.image_file import read_image
from edge_runtime.preprocess import Window, fit_window, tensor_of
from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.labelled import LabelledImage, LabelledSet
from train.evaluate_attridet import CONFIDENCE, SUPPRESSION_IOU, Judgement

# The box of a cell that a window cuts ends this near the window's border, in input pixels.
_TOUCHING_PX = 2.0
_WINDOWS_AT_ONCE = 16


def place_windows(
    width: int,
    height: int,
    window_px: tuple[int, int],
    size: int,
    stride_share: float = 0.75,
) -> tuple[Window, ...]:
    """Windows that cover a field, row by row.

    Args:
        width: of the field, pixels.
        height: likewise.
        window_px: width and height of a window; at most the field's are taken.
        size: side of the network's square input, pixels.
        stride_share: from one window to the next, as a share of the window; the last one of
            a row or column is moved back to the field's edge.

    Raises:
        SettingsError: a window without extent, or a stride that leaves gaps or never ends.
    """
    if min(window_px) < 1:
        raise SettingsError(f"window {window_px[0]}x{window_px[1]}: give at least one pixel")
    if not 0 < stride_share <= 1:
        raise SettingsError(f"stride {stride_share}: give a share above 0 and up to 1")
    wide, high = min(window_px[0], width), min(window_px[1], height)
    whole = fit_window(wide, high, _input(size))
    return tuple(
        replace(whole, x1=x, y1=y, x2=x + wide, y2=y + high)
        for y in _starts(height, high, stride_share)
        for x in _starts(width, wide, stride_share)
    )


def find_through_windows(
    model: nn.Module,
    pixels: UInt8Image,
    *,
    window_px: tuple[int, int],
    size: int,
    stride_share: float = 0.75,
    device: str = "cpu",
) -> ClassedCells:
    """The cells of one field.

    Args:
        model: detector in eval mode, on ``device``.
        pixels: the field, RGB uint8 ``(H, W, 3)``.
        window_px: width and height of a window.
        size: side of the network's square input, pixels.
        stride_share: see ``place_windows``.
        device: of torch.

    Returns:
        Finds in the field's pixels, surest first, as many as of a field seen at once; a field
        that fits into one window gives what it gives without windows.

    Raises:
        SettingsError: see ``place_windows``.
    """
    height, width = pixels.shape[:2]
    windows = place_windows(width, height, window_px, size, stride_share)
    rows: list[Float32Array] = []
    for start in range(0, len(windows), _WINDOWS_AT_ONCE):
        some = windows[start : start + _WINDOWS_AT_ONCE]
        rows += _finds_of(model, pixels, some, size, device)
    if len(windows) == 1:
        # Suppressed already; a second time would compare boxes cut at the field's edges.
        return _cells(rows[0])
    kept = [
        own[~_cut_and_seen_elsewhere(own[:, :4], place, windows, (width, height))]
        for place, own in enumerate(rows)
    ]
    return _merged(np.concatenate(kept))


def judge_through_windows(
    model: nn.Module,
    fields: LabelledSet,
    images: Sequence[LabelledImage],
    *,
    window_share: tuple[float, float],
    size: int,
    stride_share: float = 0.75,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, wanted: None,
) -> Judgement:
    """Runs a detector through windows on labelled pictures; attributes are not judged.

    Args:
        model: in eval mode, with the classes of ``fields``.
        fields: class list.
        images: some of its pictures.
        window_share: width and height of a window, as shares of the picture.
        size: side of the network's square input, pixels.
        stride_share: see ``place_windows``.
        device: of torch.
        progress: called with pictures done and wanted.

    Raises:
        DataError: an unreadable picture, or no labelled cell at all.
        SettingsError: see ``place_windows``, or a window that is no share of a picture.
    """
    if not all(0 < share <= 1 for share in window_share):
        raise SettingsError(f"window {window_share}: give shares above 0 and up to 1")
    model = model.to(device)
    truth, found = [], []
    for done, each in enumerate(images, start=1):
        try:
            pixels = read_image(each.image)
        except FrameError as error:
            raise DataError(f"{each.image}: {error}; copy the data again") from error
        height, width = pixels.shape[:2]
        window = max(1, round(window_share[0] * width)), max(1, round(window_share[1] * height))
        boxes = xywhn_to_xyxy(each.boxes_xywhn, width, height)
        truth.append(ClassedCells(boxes, each.class_ids, np.ones(len(each), np.float32)))
        found.append(
            find_through_windows(
                model,
                pixels,
                window_px=window,
                size=size,
                stride_share=stride_share,
                device=device,
            )
        )
        progress(done, len(images))
    counted = count_finds(fields.classes, truth, found)
    return Judgement(evaluate_classes(fields.classes, truth, found), (), counted)


def _input(size: int) -> InputSpec:
    # As pictures are judged without windows.
    return InputSpec(name="images", width=size, height=size, scale=1 / 255, pad_value=114)


def _starts(length: int, window: int, stride_share: float) -> list[int]:
    stride = max(1, round(stride_share * window))
    last = length - window
    return [*range(0, last, stride), last]


def _finds_of(
    model: nn.Module, pixels: UInt8Image, windows: Sequence[Window], size: int, device: str
) -> list[Float32Array]:
    """Rows x1, y1, x2, y2, score, class of each window, in the field's pixels."""
    spec = _input(size)
    tensors = np.concatenate([tensor_of(pixels, window, spec) for window in windows])
    with torch.no_grad():
        answer: Any = model(torch.from_numpy(tensors).to(device))
        finds = non_max_suppression(
            answer[0],
            conf_thres=CONFIDENCE,
            iou_thres=SUPPRESSION_IOU,
            multi_label=True,
            max_det=MAX_FINDS,
            # Past its limit it leaves the rest of a batch without finds, with a warning.
            max_time_img=3600.0,
        )
    found = []
    for window, each in zip(windows, finds, strict=True):
        rows = each.float().cpu().numpy()
        rows[:, :4] = window.to_frame(rows[:, :4])
        found.append(rows)
    return found


def _cut_and_seen_elsewhere(
    boxes_xyxy: Float32Array,
    place: int,
    windows: Sequence[Window],
    field_px: tuple[int, int],
) -> np.ndarray:
    """Finds that their window cuts and that lie whole in another one, bool ``(n,)``."""
    cut = ~_whole_in(boxes_xyxy, windows[place], field_px)
    elsewhere = np.zeros(len(boxes_xyxy), bool)
    if cut.any():
        for other, window in enumerate(windows):
            if other != place:
                elsewhere |= _whole_in(boxes_xyxy, window, field_px)
    return cut & elsewhere


def _whole_in(boxes_xyxy: Float32Array, window: Window, field_px: tuple[int, int]) -> np.ndarray:
    """Boxes within a window that touch none of its borders but the field's own."""
    near_x, near_y = _TOUCHING_PX / window.scale_x, _TOUCHING_PX / window.scale_y
    low = np.array(
        [
            -np.inf if window.x1 == 0 else window.x1 + near_x,
            -np.inf if window.y1 == 0 else window.y1 + near_y,
        ]
    )
    high = np.array(
        [
            np.inf if window.x2 == field_px[0] else window.x2 - near_x,
            np.inf if window.y2 == field_px[1] else window.y2 - near_y,
        ]
    )
    whole = (boxes_xyxy[:, :2] > low).all(1) & (boxes_xyxy[:, 2:] < high).all(1)
    return np.asarray(whole, bool)


def _merged(rows: Float32Array) -> ClassedCells:
    """One field's finds: of those of a class that overlap the surest, and the surest of all."""
    table = torch.from_numpy(rows)
    order = batched_nms(table[:, :4], table[:, 4], table[:, 5].long(), SUPPRESSION_IOU)
    return _cells(rows[order.numpy()[:MAX_FINDS]])


def _cells(rows: Float32Array) -> ClassedCells:
    return ClassedCells(rows[:, :4].copy(), rows[:, 5].astype(np.int64), rows[:, 4].copy())
