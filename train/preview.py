"""A picture of a composed set, so that a person sees what a detector learns from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from calibration.fields import parse_label_file, xywhn_to_xyxy
from edge_runtime.errors import DataError
from edge_runtime.image_file import read_image

_COLUMNS, _ROWS = 8, 6


def write_preview(composed: Path) -> Path:
    """Pictures spread over the training part of a composed set, with boxes.

    Returns:
        Path of the PNG written into ``composed``.

    Raises:
        DataError: the set has no pictures.
    """
    images = sorted((composed / "images" / "train").glob("*.jpg"))
    if not images:
        raise DataError(f"{composed}: no composed picture in images/train; compose it first")
    picked = [images[i] for i in np.linspace(0, len(images) - 1, _COLUMNS * _ROWS).astype(int)]
    tiles = []
    for image in picked:
        pixels = np.ascontiguousarray(read_image(image)[:, :, ::-1])
        rows, _ = parse_label_file(
            composed / "labels" / "train" / f"{image.stem}.txt", class_count=1
        )
        boxes = np.array([box for _, box in rows], np.float32).reshape(-1, 4)
        for x1, y1, x2, y2 in xywhn_to_xyxy(boxes, pixels.shape[1], pixels.shape[0]).astype(int):
            cv2.rectangle(pixels, (int(x1), int(y1)), (int(x2), int(y2)), (0, 255, 0), 1)
        tiles.append(pixels)
    rows_of_tiles = [
        np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)
    ]
    target = composed / "preview.png"
    cv2.imwrite(str(target), np.vstack(rows_of_tiles))
    return target
