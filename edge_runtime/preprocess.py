"""From a frame to the models' input tensors, and the way back.

Owns the one preprocessing that training checks, calibration, export and the device all
use. Does not own what a model's output means (see ``postprocess``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from edge_runtime.bundle import CropInputSpec, InputSpec
from edge_runtime.shrinking import resized, sampled
from edge_runtime.types import Float32Array, UInt8Image


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a frame and how it lies in the model's input.

    Attributes:
        x1, y1, x2, y2: frame pixels, x2 and y2 exclusive.
        scale_x, scale_y: input pixels per frame pixel.
        pad_x, pad_y: input pixels of padding on the left and on top.
    """

    x1: int
    y1: int
    x2: int
    y2: int
    scale_x: float
    scale_y: float
    pad_x: int
    pad_y: int

    @property
    def placed(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in input pixels between which the frame's part lies."""
        width = max(1, round((self.x2 - self.x1) * self.scale_x))
        height = max(1, round((self.y2 - self.y1) * self.scale_y))
        return self.pad_x, self.pad_y, self.pad_x + width, self.pad_y + height

    def to_frame(self, boxes_xyxy: Float32Array) -> Float32Array:
        """Boxes ``(N, 4)`` from input pixels to frame pixels, clipped to the window."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        pad = np.array([self.pad_x, self.pad_y] * 2, np.float32)
        boxes = (boxes_xyxy - pad) / scale + np.array([self.x1, self.y1] * 2, np.float32)
        np.clip(boxes[:, 0::2], self.x1, self.x2, out=boxes[:, 0::2])
        np.clip(boxes[:, 1::2], self.y1, self.y2, out=boxes[:, 1::2])
        return boxes.astype(np.float32)

    def to_input(self, boxes_xyxy: Float32Array) -> Float32Array:
        """Boxes ``(N, 4)`` from frame pixels to input pixels."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        pad = np.array([self.pad_x, self.pad_y] * 2, np.float32)
        start = np.array([self.x1, self.y1] * 2, np.float32)
        return ((boxes_xyxy - start) * scale + pad).astype(np.float32)


def fit_window(width: int, height: int, spec: InputSpec) -> Window:
    """The whole frame, proportions kept, centred in the input (letterbox)."""
    scale = min(spec.width / width, spec.height / height)
    new_width, new_height = _placed(width, scale, spec.width), _placed(height, scale, spec.height)
    return Window(
        0,
        0,
        width,
        height,
        new_width / width,
        new_height / height,
        (spec.width - new_width) // 2,
        (spec.height - new_height) // 2,
    )


def tensor_of(
    pixels: UInt8Image,
    window: Window,
    spec: InputSpec,
    half: Callable[[], UInt8Image] | None = None,
) -> Float32Array:
    """The input tensor for one window of a frame.

    Args:
        pixels: the frame, RGB uint8 ``(H, W, 3)``.
        window: which part of it, and where it goes.
        spec: the bundle's input.
        half: gives the whole frame at half its size, for windows that are shrunk by way of it;
            the tensor is the same.

    Returns:
        float32 ``(1, 3, spec.height, spec.width)``, contiguous.
    """
    view = pixels[window.y1 : window.y2, window.x1 : window.x2]
    left, top, right, bottom = window.placed
    width, height = right - left, bottom - top
    if (width, height) != (view.shape[1], view.shape[0]):
        view = resized(view, width, height, half and _half_of(half, window))
    if (height, width) != (spec.height, spec.width):
        canvas = np.full((spec.height, spec.width, 3), spec.pad_value, np.uint8)
        canvas[top:bottom, left:right] = view
        view = canvas
    tensor = np.empty((1, 3, spec.height, spec.width), np.float32)
    # Channel by channel out of contiguous planes: a fifth of what one pass over all takes.
    for plane, channel in zip(tensor[0], cv2.split(view), strict=True):
        plane[...] = channel
        np.multiply(plane, np.float32(spec.scale), out=plane)
    return tensor


def _half_of(half: Callable[[], UInt8Image], window: Window) -> Callable[[], UInt8Image] | None:
    """The window's part of the frame at half the size, where pixels were paired alike."""
    if window.x1 % 2 or window.y1 % 2:
        return None
    return lambda: half()[window.y1 // 2 : window.y2 // 2, window.x1 // 2 : window.x2 // 2]


def crop_tensor(pixels: UInt8Image, boxes_xyxy: Float32Array, spec: CropInputSpec) -> Float32Array:
    """The classifier's input batch: one square crop for each box.

    The square's side is rounded to whole frame pixels, so that a crop that needs no
    resizing is the frame's own pixels.

    Args:
        pixels: the frame, RGB uint8 ``(H, W, 3)``.
        boxes_xyxy: float32 ``(n, 4)``, frame pixels; they may reach beyond the frame.
        spec: the bundle's crop input.

    Returns:
        float32 ``(n, 3, spec.height, spec.width)``, contiguous; n may be 0.
    """
    crops = np.empty((len(boxes_xyxy), 3, spec.height, spec.width), np.float32)
    for crop, box in zip(crops, boxes_xyxy.tolist(), strict=True):
        square = _padded_square(pixels, box, spec)
        if square.shape[:2] != (spec.height, spec.width):
            shrinks = len(square) >= max(spec.width, spec.height)
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            square = sampled(square, spec.width, spec.height, method)
        np.multiply(square.transpose(2, 0, 1), np.float32(spec.scale), out=crop)
    return crops


def _padded_square(pixels: UInt8Image, box: list[float], spec: CropInputSpec) -> UInt8Image:
    """The frame's pixels in the square around one box, ``pad_value`` beyond the frame."""
    x1, y1, x2, y2 = box
    wanted = max(x2 - x1, y2 - y1) * (1 + 2 * spec.margin) + 2 * spec.margin_px
    side = max(1, math.floor(wanted + 0.5))
    left = math.floor((x1 + x2 - side) / 2 + 0.5)
    top = math.floor((y1 + y2 - side) / 2 + 0.5)
    height, width = pixels.shape[:2]
    inside = (
        slice(min(max(top, 0), height), min(max(top + side, 0), height)),
        slice(min(max(left, 0), width), min(max(left + side, 0), width)),
    )
    view = pixels[inside]
    if view.shape[:2] == (side, side):
        return view
    square = np.full((side, side, 3), spec.pad_value, np.uint8)
    row, column = inside[0].start - top, inside[1].start - left
    square[row : row + view.shape[0], column : column + view.shape[1]] = view
    return square


def _placed(length: int, scale: float, limit: int) -> int:
    return int(np.clip(round(length * scale), 1, limit))
