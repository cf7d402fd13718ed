"""A picture with its boxes, and the geometry that moves both together.

Owns placing fields, grids of fields, cut-outs and stain debris on a canvas.
Does not own colour (see ``appearance``) nor which scenes a data set needs (``compose``).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from edge_runtime.types import Float32Array, UInt8Image
from train.datasets.appearance import background_colour
from train.datasets.cutouts import Cutout

# The grey that letterboxing pads with; the device does the same.
PAD = 114
# A cell cut by the border is labelled when this much of its box is left. Slivers are
# labelled in some source fields and not in others, so they teach nothing either way.
_MIN_VISIBLE = 0.35


@dataclass
class Scene:
    """Pixels RGB uint8 ``(S, S, 3)`` and white-cell boxes, pixel corners ``(N, 4)``."""

    pixels: UInt8Image
    boxes_xyxy: Float32Array


def place_field(
    pixels: UInt8Image,
    boxes: Float32Array,
    *,
    size: int,
    zoom: tuple[float, float],
    rng: Generator,
    turn: bool,
) -> Scene:
    """One field on a canvas, anisotropically scaled about a random spot.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
        boxes: pixel corners ``(N, 4)``.
        size: side of the canvas.
        zoom: x and y scale relative to fitting the longer side.
        rng: source of chance.
        turn: also flip and rotate by right angles.
    """
    if turn:
        pixels, boxes = _turn(pixels, boxes, rng)
    height, width = pixels.shape[:2]
    fit = size / max(width, height)
    scale = np.array([fit * zoom[0], fit * zoom[1]])
    placed = scale * (width, height)
    slack = size - placed
    offset = np.where(slack >= 0, slack * rng.random(2), slack * rng.random(2))
    if len(boxes) and rng.random() < 0.85:
        # Keep one cell in sight when the field is larger than the canvas.
        chosen = boxes[rng.integers(len(boxes))]
        centre = (chosen[:2] + chosen[2:]) / 2 * scale
        low, high = size * 0.15 - centre, size * 0.85 - centre
        offset = np.where(
            slack < 0, np.clip(offset, np.minimum(low, high), np.maximum(low, high)), offset
        )
        offset = np.where(slack < 0, np.clip(offset, slack, 0), offset)
    affine = np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]], np.float32)
    fill = (
        (float(PAD),) * 3
        if rng.random() < 0.6
        else tuple(float(v) for v in background_colour(pixels))
    )
    if scale.max() < 0.7:
        # Area averaging first: bilinear sampling alone aliases when it shrinks this far.
        target = (max(1, round(placed[0])), max(1, round(placed[1])))
        shrunk = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA)
        affine = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float32)
    else:
        shrunk = pixels
    canvas = cv2.warpAffine(
        shrunk,
        affine,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
    moved = boxes * np.tile(scale, 2).astype(np.float32) + np.tile(offset, 2).astype(np.float32)
    return Scene(np.asarray(canvas, np.uint8), clip_visible(moved, size, size))


def place_grid(
    fields: list[tuple[UInt8Image, Float32Array]], *, size: int, rows: int, columns: int
) -> Scene:
    """Fields side by side, shrunk: many small cells among many red cells.

    ``fields`` holds at least ``rows * columns`` pictures with pixel boxes.
    """
    canvas = np.full((size, size, 3), PAD, np.uint8)
    boxes: list[Float32Array] = []
    xs = np.linspace(0, size, columns + 1).round().astype(int)
    ys = np.linspace(0, size, rows + 1).round().astype(int)
    for index in range(rows * columns):
        pixels, own = fields[index]
        r, c = divmod(index, columns)
        w, h = int(xs[c + 1] - xs[c]), int(ys[r + 1] - ys[r])
        canvas[ys[r] : ys[r + 1], xs[c] : xs[c + 1]] = cv2.resize(
            pixels, (w, h), interpolation=cv2.INTER_AREA
        )
        scale = np.array([w / pixels.shape[1], h / pixels.shape[0]], np.float32)
        boxes.append(own * np.tile(scale, 2) + np.array([xs[c], ys[r]] * 2, np.float32))
    stacked = np.concatenate(boxes) if boxes else np.zeros((0, 4), np.float32)
    return Scene(canvas, clip_visible(stacked, size, size))


def vary_tile(
    pixels: UInt8Image, boxes: Float32Array, *, rng: Generator
) -> tuple[UInt8Image, Float32Array]:
    """A turned random window of 60 % to 100 % of a field, so that no two tiles are alike."""
    pixels, boxes = _turn(pixels, boxes, rng)
    height, width = pixels.shape[:2]
    share = rng.uniform(0.6, 1.0)
    w, h = int(width * share), int(height * share)
    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    moved = boxes - np.array([x, y, x, y], np.float32)
    return pixels[y : y + h, x : x + w], clip_visible(moved, w, h)


def window_without_cells(
    pixels: UInt8Image, boxes: Float32Array, *, rng: Generator
) -> UInt8Image | None:
    """A random part of a field that no labelled white cell reaches into; None without one.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
        boxes: every white cell of the field, pixel corners ``(N, 4)``.
        rng: source of chance.
    """
    height, width = pixels.shape[:2]
    # Boxes are tight and stain bleeds a little beyond them.
    margin = 0.02 * max(width, height)
    # Small windows are tried more often later on: single-cell pictures leave narrow strips.
    for attempt in range(40):
        side = min(width, height) * rng.uniform(0.2, max(0.25, 0.9 - 0.03 * attempt))
        w = int(min(side * rng.uniform(0.8, 1.25), width))
        h = int(min(side * rng.uniform(0.8, 1.25), height))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        apart = (
            (boxes[:, 2] + margin < x)
            | (boxes[:, 0] - margin > x + w)
            | (boxes[:, 3] + margin < y)
            | (boxes[:, 1] - margin > y + h)
        )
        if apart.all() and min(w, h) >= 32:
            return pixels[y : y + h, x : x + w]
    return None


def paste_cell(
    scene: Scene, cutout: Cutout, *, width: float, height: float, centre: tuple[float, float]
) -> bool:
    """Sets a cut-out into a scene in the scene's own light; False when it would cover a cell.

    The cell's optical density is kept and the background under it replaced.
    """
    w, h = max(4, round(width)), max(4, round(height))
    x1, y1 = round(centre[0] - w / 2), round(centre[1] - h / 2)
    size_y, size_x = scene.pixels.shape[:2]
    box = np.array([x1, y1, x1 + w, y1 + h], np.float32)
    visible = clip_visible(box[None], size_x, size_y)
    if len(visible) == 0 or _covers(scene.boxes_xyxy, visible[0]):
        return False
    interpolation = cv2.INTER_AREA if w < cutout.pixels.shape[1] else cv2.INTER_LINEAR
    cell = cv2.resize(cutout.pixels, (w, h), interpolation=interpolation)
    alpha = cv2.resize(cutout.alpha, (w, h), interpolation=interpolation)
    vx1, vy1, vx2, vy2 = (int(v) for v in visible[0])
    inner = np.s_[vy1 - y1 : vy2 - y1, vx1 - x1 : vx2 - x1]
    target = scene.pixels[vy1:vy2, vx1:vx2].astype(np.float32)
    new_background = background_colour(scene.pixels)
    ratio = (new_background + 1) / (cutout.background + 1)
    lit = np.clip(cell[inner].astype(np.float32) * ratio, 0, 255)
    share = alpha[inner][:, :, None]
    scene.pixels[vy1:vy2, vx1:vx2] = (target * (1 - share) + lit * share).astype(np.uint8)
    scene.boxes_xyxy = np.concatenate([scene.boxes_xyxy, visible])
    return True


def scatter_debris(scene: Scene, *, cell_px: float, count: int, rng: Generator) -> None:
    """Platelet clumps, stain deposit and dirt: dark, purple or brown, and not cells."""
    size = scene.pixels.shape[0]
    for _ in range(count):
        centre = rng.uniform(0, size, 2)
        inside = scene.boxes_xyxy
        if len(inside) and np.any(
            (inside[:, 0] < centre[0])
            & (inside[:, 2] > centre[0])
            & (inside[:, 1] < centre[1])
            & (inside[:, 3] > centre[1])
        ):
            continue
        reach = cell_px * rng.uniform(0.08, 0.28)
        ink = np.zeros(scene.pixels.shape[:2], np.float32)
        for _ in range(int(rng.integers(1, 9))):
            spot = centre + rng.normal(0, reach * 0.7, 2)
            axes = np.maximum(rng.uniform(0.15, 0.6, 2) * reach, 0.7)
            cv2.ellipse(
                ink,
                (int(spot[0]), int(spot[1])),
                (max(1, round(axes[0])), max(1, round(axes[1]))),
                float(rng.uniform(0, 180)),
                0,
                360,
                1.0,
                -1,
            )
        soft = np.asarray(cv2.GaussianBlur(ink, (0, 0), max(0.5, reach * 0.12)), np.float32)
        density = np.array(
            [rng.uniform(0.3, 1.4), rng.uniform(0.6, 1.8), rng.uniform(0.1, 1.0)], np.float32
        )
        shade = np.exp(-soft[:, :, None] * density)
        scene.pixels[:] = (scene.pixels * shade).astype(np.uint8)


def clip_visible(boxes: Float32Array, width: int, height: int) -> Float32Array:
    """Boxes clipped to the canvas; those with too little left are dropped."""
    if len(boxes) == 0:
        return np.zeros((0, 4), np.float32)
    clipped = boxes.copy()
    np.clip(clipped[:, 0::2], 0, width, out=clipped[:, 0::2])
    np.clip(clipped[:, 1::2], 0, height, out=clipped[:, 1::2])
    extent = clipped[:, 2:] - clipped[:, :2]
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    visible = np.prod(extent, axis=1) / np.maximum(area, 1e-6)
    keep = (visible >= _MIN_VISIBLE) & (extent.min(axis=1) >= 3)
    return np.ascontiguousarray(clipped[keep], np.float32)


def _covers(boxes: Float32Array, box: Float32Array) -> bool:
    if len(boxes) == 0:
        return False
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    smaller = np.minimum(
        np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), float(np.prod(box[2:] - box[:2]))
    )
    return bool(np.any(shared > 0.15 * smaller))


def _turn(
    pixels: UInt8Image, boxes: Float32Array, rng: Generator
) -> tuple[UInt8Image, Float32Array]:
    """One of the eight symmetries of the square, the same for pixels and boxes."""
    boxes = boxes.copy()
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        boxes[:, [0, 2]] = pixels.shape[1] - boxes[:, [2, 0]]
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[::-1])
        boxes[:, [1, 3]] = pixels.shape[0] - boxes[:, [3, 1]]
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2))
        boxes = np.ascontiguousarray(boxes[:, [1, 0, 3, 2]])
    return pixels, boxes
