"""From the model's output tensor to cells: decode, suppress doubles, cut crops.

Owns what output tensors mean. Does not own which windows of a frame are looked at
(see ``stages``).
"""

from __future__ import annotations

import numpy as np
from simplejpeg import encode_jpeg as encode_rgb

from edge_runtime.cameras.device import shrink
from edge_runtime.types import Detections, Float32Array, Int64Array, UInt8Image


def decode_xywh_scores(output: Float32Array, *, score_threshold: float) -> Detections:
    """Boxes above a score from an anchor-free head's tensor.

    Args:
        output: float32 ``(1, 4 + classes, anchors)``: centre x, y, width, height in input
            pixels, then one score per class.
        score_threshold: anchors below are dropped.

    Returns:
        Detections in input pixels, not yet suppressed.
    """
    table = output[0]
    class_scores = table[4:]
    if class_scores.shape[0] == 1:
        scores = class_scores[0]
        chosen = np.flatnonzero(scores >= score_threshold)
        class_ids = np.zeros(len(chosen), np.int64)
    else:
        best = class_scores.argmax(axis=0)
        scores = class_scores.max(axis=0)
        chosen = np.flatnonzero(scores >= score_threshold)
        class_ids = best[chosen].astype(np.int64)
    centre, half = table[:2, chosen].T, table[2:4, chosen].T / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return Detections(
        np.ascontiguousarray(boxes, np.float32),
        # A quantised head can step over 1.
        np.minimum(scores[chosen], 1, dtype=np.float32),
        class_ids,
    )


def decode_xyxy_score_class(
    output: Float32Array, *, score_threshold: float, classes: int
) -> Detections:
    """Finds above a score from a one-to-one head's tensor: doubles are not among them.

    Args:
        output: float32 ``(1, finds, 6)``: left, top, right, bottom in input pixels, score,
            class index.
        score_threshold: finds below are dropped.
        classes: how many there are; a find of another one is no find.

    Returns:
        Detections in input pixels.
    """
    table = output[0]
    # Rounded: half precision need not give whole numbers.
    named = np.rint(table[:, 5])
    # Comparisons with what is no number are false.
    kept = (table[:, 4] >= score_threshold) & (named >= 0) & (named < classes)
    chosen = table[kept]
    return Detections(
        np.ascontiguousarray(chosen[:, :4], np.float32),
        # A quantised head can step over 1.
        np.minimum(chosen[:, 4], 1, dtype=np.float32),
        named[kept].astype(np.int64),
    )


def suppress_doubles(
    found: Detections, *, iou: float, covered: float = 1.0, limit: int | None = None
) -> Detections:
    """Greedy non-maximum suppression, best score first, over all classes together.

    A white cell has one name, so boxes of different classes suppress each other.

    Args:
        found: any detections.
        iou: boxes that overlap a better one by more than this are dropped.
        covered: boxes of which more than this share lies inside a better one are dropped
            too; catches halves of a cell that two windows cut. 1 switches it off.
        limit: keep at most this many.
    """
    if len(found) < 2 and (limit is None or limit > 0):
        return found
    order = np.argsort(-found.scores, kind="stable")
    boxes = found.boxes_xyxy[order]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    keep: list[int] = []
    alive = np.ones(len(order), bool)
    for index in range(len(order)):
        if not alive[index]:
            continue
        keep.append(index)
        if limit is not None and len(keep) >= limit:
            break
        rest = np.flatnonzero(alive[index + 1 :]) + index + 1
        low = np.maximum(boxes[rest, :2], boxes[index, :2])
        high = np.minimum(boxes[rest, 2:], boxes[index, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        union = areas[rest] + areas[index] - shared
        double = shared > iou * union
        if covered < 1:
            double |= shared > covered * areas[rest]
        alive[rest[double]] = False
    kept: Int64Array = order[keep].astype(np.int64)
    return found.select(kept)


def cut_crop(
    pixels: UInt8Image, box_xyxy: Float32Array, *, margin: float = 0.15, largest_side: int = 320
) -> UInt8Image:
    """A cell with some surroundings, cut from the original pixels.

    Args:
        pixels: the frame, RGB uint8 ``(H, W, 3)``.
        box_xyxy: the cell in frame pixels.
        margin: share of the box added on each side, as far as the frame goes.
        largest_side: larger crops are shrunk to this.

    Returns:
        RGB uint8, at least 1 x 1.
    """
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    dx, dy = (x2 - x1) * margin, (y2 - y1) * margin
    height, width = pixels.shape[:2]
    left, top = int(np.clip(x1 - dx, 0, width - 1)), int(np.clip(y1 - dy, 0, height - 1))
    right = int(np.clip(np.ceil(x2 + dx), left + 1, width))
    bottom = int(np.clip(np.ceil(y2 + dy), top + 1, height))
    return shrink(pixels[top:bottom, left:right], largest_side)


def encode_jpeg(pixels: UInt8Image, *, quality: int) -> bytes:
    """JPEG bytes of an RGB image.

    OpenCV would want its channels turned round first, and takes 1.7 times as long for large ones.
    """
    return bytes(encode_rgb(np.ascontiguousarray(pixels), quality, "RGB", "420"))
