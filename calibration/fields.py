"""YOLO-layout detection data, read strictly.

Owns parsing of ``images/<split>`` + ``labels/<split>`` folders and the list of bad rows.
Does not own augmentation, training or the choice of a calibration set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, UInt8Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
# Rounded label files overshoot the image by up to half a pixel of a 500 px field.
_COORDINATE_SLACK = 1e-3
_LISTED_BAD_ROWS = 20


@dataclass(frozen=True, slots=True)
class LabelledField:
    """One image and its boxes.

    Attributes:
        boxes_xywhn: float32 ``(N, 4)``, centre x, centre y, width, height as fractions.
    """

    image: Path
    domain: str
    boxes_xywhn: Float32Array

    def read_rgb(self) -> UInt8Image:
        """The pixels, RGB uint8 ``(H, W, 3)``.

        Raises:
            DataError: the file is not a readable image.
        """
        pixels = cv2.imread(str(self.image), cv2.IMREAD_COLOR)
        if pixels is None:
            raise DataError(f"{self.image}: not a readable image; remove it or copy it again")
        return np.ascontiguousarray(pixels[:, :, ::-1])

    def boxes_xyxy(self, width: int, height: int) -> Float32Array:
        """Corners in pixels of a field of ``width`` x ``height``, clipped, ``(N, 4)``."""
        return xywhn_to_xyxy(self.boxes_xywhn, width, height)


def xywhn_to_xyxy(boxes: Float32Array, width: int, height: int) -> Float32Array:
    """Normalised centre boxes ``(N, 4)`` to clipped pixel corners ``(N, 4)``."""
    half = boxes[:, 2:] / 2
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    corners *= np.array([width, height, width, height], np.float32)
    np.clip(corners[:, 0::2], 0, width, out=corners[:, 0::2])
    np.clip(corners[:, 1::2], 0, height, out=corners[:, 1::2])
    return corners.astype(np.float32)


def xyxy_to_xywhn(boxes: Float32Array, width: int, height: int) -> Float32Array:
    """Pixel corners ``(N, 4)`` to normalised centre boxes ``(N, 4)``."""
    size = np.array([width, height], np.float32)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / size
    extent = (boxes[:, 2:] - boxes[:, :2]) / size
    return np.concatenate([centre, extent], axis=1).astype(np.float32)


def parse_label_file(
    path: Path, *, class_count: int
) -> tuple[list[tuple[int, tuple[float, float, float, float]]], list[str]]:
    """All rows of one label file, and one line for every bad row.

    Returns:
        ``(rows, bad)``: rows as ``(class id, (cx, cy, w, h))``; bad as ``file:line: why``.
    """
    rows: list[tuple[int, tuple[float, float, float, float]]] = []
    bad: list[str] = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return [], [f"{path}:1: not UTF-8 text"]
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row, why = parse_box_row(line.split(), class_count)
        if row is None:
            bad.append(f"{path}:{number}: {why}")
        else:
            rows.append(row)
    return rows, bad


def parse_box_row(
    columns: list[str], class_count: int
) -> tuple[tuple[int, tuple[float, float, float, float]] | None, str]:
    """One row, already split, as ``(class id, (cx, cy, w, h))``, or None and why not."""
    if len(columns) != 5:
        return None, f"{len(columns)} columns, expected 5 (class cx cy w h)"
    try:
        class_id = int(columns[0])
        cx, cy, w, h = (float(value) for value in columns[1:])
    except ValueError:
        return None, f"not numbers: {' '.join(columns)!r}"
    if not 0 <= class_id < class_count:
        return None, f"class {class_id} outside 0..{class_count - 1}"
    if not all(np.isfinite((cx, cy, w, h))):
        return None, "not finite"
    if w <= 0 or h <= 0:
        return None, f"box without area (w={w:g}, h={h:g})"
    low, high = -_COORDINATE_SLACK, 1 + _COORDINATE_SLACK
    inside = cx - w / 2 >= low and cy - h / 2 >= low and cx + w / 2 <= high and cy + h / 2 <= high
    if not inside:
        return None, f"box leaves the image (cx={cx:g} cy={cy:g} w={w:g} h={h:g})"
    return (class_id, (cx, cy, w, h)), ""


def load_fields(
    root: Path, split: str, *, domain: str, keep_classes: tuple[int, ...], class_count: int
) -> list[LabelledField]:
    """The labelled fields of one split, sorted by name.

    Rows of other classes are dropped; a field without a label file has no cells.

    Raises:
        DataError: no folder, no image, or any bad label row (all are listed, none repaired).
    """
    folder = root / "images" / split
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected images/{split} and labels/{split}")
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"{folder}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    fields: list[LabelledField] = []
    bad: list[str] = []
    for image in images:
        label = root / "labels" / split / f"{image.stem}.txt"
        rows, bad_here = (
            ([], []) if not label.exists() else parse_label_file(label, class_count=class_count)
        )
        bad += bad_here
        kept = [box for class_id, box in rows if class_id in keep_classes]
        fields.append(LabelledField(image, domain, np.array(kept, np.float32).reshape(-1, 4)))
    if bad:
        shown = "\n  ".join(bad[:_LISTED_BAD_ROWS])
        more = f"\n  and {len(bad) - _LISTED_BAD_ROWS} more" if len(bad) > _LISTED_BAD_ROWS else ""
        raise DataError(f"{root}: {len(bad)} bad label rows, mend or remove them:\n  {shown}{more}")
    return fields


def digest_files(paths: list[Path]) -> str:
    """SHA-256 over the SHA-256 of every file, in sorted order of the digests."""
    single = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return hashlib.sha256("\n".join(single).encode()).hexdigest()
