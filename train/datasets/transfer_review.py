"""What a person looks at after a transfer: pictures side by side, reasons and figures.

Owns ``review.html``, its pictures and ``transfer.json``. Does not own any decision (see
``transfer``) nor the labels that training reads (see ``transfer_set``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.fields import xywhn_to_xyxy
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.types import UInt8Image
from train.datasets.homography import Registration, frame_corners, mapped_points
from train.datasets.labelled import LabelledSet
from train.datasets.landmarks import Points, Size, picture_size
from train.datasets.transfer import Transfer

REVIEW_HTML = "review.html"
PICTURES = "review"
_TEMPLATE = "transfer_review.html.j2"
_SIDE = 720
_GAP = 8
# Of the mapped frame's size, shown around it.
_MARGIN = 0.1
# A small part of a low magnification is enlarged, as far as it still shows more.
_LARGEST_ZOOM = 3.0
_FAR_PX = 1e5
# RGB; far apart, and none the colour of a stain.
_KEPT, _DROPPED, _FRAME, _PATCH = (0, 150, 0), (230, 0, 0), (255, 200, 0), (0, 160, 255)


@dataclass(frozen=True, slots=True)
class Entry:
    """One pair of the review.

    Attributes:
        number: place in the order of the pairs, from 1.
        source: path below the source folder; likewise ``target`` and ``chain``.
        by_hand: drawn at random to be checked by hand although accepted.
    """

    number: int
    source: str
    target: str
    chain: str | None
    transfer: Transfer
    by_hand: bool = False

    @property
    def picture(self) -> str:
        """Path of its picture below the review's folder."""
        return f"{PICTURES}/{self.number:05d}.jpg"

    @property
    def counts(self) -> dict[str, int]:
        """Cells of the source: all, kept, dropped, cut by its frame, outside the patch."""
        kept, outside = 0, 0
        if self.transfer.labels is not None:
            kept = len(self.transfer.labels)
            outside = int((~inside_patch(self.transfer)).sum())
        total = len(self.transfer.source)
        return {
            "source": total,
            "kept": kept,
            "dropped": total - kept,
            "cut_in_source": int(self.transfer.cut_in_source.sum()),
            "outside_patch": outside,
        }


def review_order(entries: Sequence[Entry]) -> list[Entry]:
    """Rejected pairs first, then those to check by hand, then the rest, each in their order."""
    return sorted(entries, key=lambda each: (each.transfer.accepted, not each.by_hand, each.number))


def inside_patch(transfer: Transfer) -> np.ndarray:
    """Which kept cells have their centre in the patch, bool ``(K,)``."""
    labels = transfer.labels
    if labels is None or labels.patch_xyxyn is None:
        return np.zeros(0 if labels is None else len(labels), np.bool_)
    x1, y1, x2, y2 = labels.patch_xyxyn
    xs, ys = labels.boxes_xywhn[:, 0], labels.boxes_xywhn[:, 1]
    return np.asarray((xs >= x1) & (xs <= x2) & (ys >= y1) & (ys <= y2), np.bool_)


def draw_pair(
    transfer: Transfer, source_pixels: UInt8Image, target_pixels: UInt8Image
) -> UInt8Image:
    """Source and target side by side, RGB; a cell has the same number on both.

    Green: kept, red: dropped; yellow: the source's frame on the target; blue: the patch.
    """
    kept = np.ones(len(transfer.source), np.bool_)
    if transfer.cells is not None:
        kept = transfer.cells.kept
    left, scale = _fitted(source_pixels)
    corners = xywhn_to_xyxy(transfer.source.boxes_xywhn, *picture_size(source_pixels))
    _draw_boxes(left, corners.astype(np.float64) * scale, kept)

    right = _target_picture(transfer, target_pixels, kept)
    height = max(left.shape[0], right.shape[0])
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    return np.asarray(np.hstack([_filled(left, height), gap, _filled(right, height)]), np.uint8)


def _target_picture(transfer: Transfer, pixels: UInt8Image, kept: np.ndarray) -> UInt8Image:
    """The part of the target that matters, with what was mapped onto it."""
    matrix, cells, labels = transfer.registration.matrix, transfer.cells, transfer.labels
    size = picture_size(pixels)
    frame = None
    if matrix is not None:
        frame = mapped_points(matrix, frame_corners(transfer.registration.source_size))
    # A wild homography has corners that no picture can show.
    if frame is None or not np.isfinite(frame).all() or np.abs(frame).max() > _FAR_PX:
        return _fitted(pixels)[0]
    x1, y1, x2, y2 = _surroundings(frame, size)
    picture, scale = _fitted(pixels[y1:y2, x1:x2], enlarge=_LARGEST_ZOOM)
    origin = np.array([x1, y1], np.float64)
    cv2.polylines(picture, [np.round((frame - origin) * scale).astype(np.int32)], True, _FRAME, 2)
    if labels is not None and labels.patch_xyxyn is not None:
        patch = np.array(labels.patch_xyxyn).reshape(2, 2) * size - origin
        (left, top), (right, bottom) = np.round(patch * scale).astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), _PATCH, 2)
    if cells is not None:
        _draw_boxes(picture, (cells.boxes_xyxy - np.tile(origin, 2)) * scale, kept)
    return picture


def _surroundings(frame: Points, size: Size) -> tuple[int, int, int, int]:
    """The mapped frame with a margin, inside the target; all of it where nothing is left."""
    low, high = frame.min(axis=0), frame.max(axis=0)
    margin = _MARGIN * (high - low)
    x1, y1 = (int(each) for each in np.floor(np.clip(low - margin, 0, size)))
    x2, y2 = (int(each) for each in np.ceil(np.clip(high + margin, 0, size)))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else (0, 0, *size)


def write_page(
    out: Path, entries: Sequence[Entry], title: str, hand: dict[str, Any] | None
) -> None:
    """Writes ``review.html``; its pictures lie beside it."""
    import jinja2  # slow to load; only a finished transfer needs it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(_TEMPLATE).render(
        research_use=RESEARCH_USE,
        title=title,
        entries=review_order(entries),
        accepted=sum(each.transfer.accepted for each in entries),
        hand=hand,
    )
    (out / REVIEW_HTML).write_text(page, encoding="utf-8", errors="backslashreplace")


def pair_document(entry: Entry) -> dict[str, Any]:
    """All numbers of one pair, as ``transfer.json`` holds them."""
    transfer = entry.transfer
    labels = transfer.labels
    in_boxes, outside = transfer.purple
    return {
        "source": entry.source,
        "target": entry.target,
        "chain": entry.chain,
        "split": transfer.source.split,
        "accepted": transfer.accepted,
        "reasons": list(transfer.reasons),
        "check_by_hand": entry.by_hand,
        "picture": entry.picture,
        "cells": entry.counts,
        "patch_xyxyn": None if labels is None else _listed(labels.patch_xyxyn),
        "purple_in_boxes": in_boxes,
        "purple_outside": outside,
        "registration": _registration(transfer.registration),
        "legs": [_registration(leg) for leg in transfer.registration.legs],
        "checks": [asdict(check) for check in transfer.checks],
    }


def field_document(entry: Entry, labels_of: LabelledSet) -> dict[str, Any]:
    """The sidecar of one accepted target: what its label rows cannot hold."""
    transfer = entry.transfer
    source, cells, labels = transfer.source, transfer.cells, transfer.labels
    if cells is None or labels is None:
        raise ValueError(f"{entry.target}: nothing was transferred")
    in_patch = dict(zip(np.flatnonzero(cells.kept).tolist(), inside_patch(transfer), strict=True))
    schema = labels_of.attributes
    width, height = transfer.registration.target_size
    rows = []
    for i in range(len(source)):
        x1, y1, x2, y2 = (float(each) for each in cells.boxes_xyxy[i])
        judged = {
            attribute.name: attribute.values[value] if value >= 0 else None
            for attribute, value in zip(
                schema.attributes if schema else (), source.attributes[i], strict=True
            )
        }
        rows.append(
            {
                "source_row": i,
                "class_id": int(source.class_ids[i]),
                "class": labels_of.classes[int(source.class_ids[i])],
                "box_xyxyn": [x1 / width, y1 / height, x2 / width, y2 / height],
                "kept": bool(cells.kept[i]),
                "remaining": float(cells.remaining[i]),
                "cut_in_source": bool(transfer.cut_in_source[i]),
                "centre_in_patch": bool(in_patch.get(i, False)),
                "attributes": judged,
            }
        )
    return {
        "research_use": RESEARCH_USE,
        "source": entry.source,
        "target": entry.target,
        "chain": entry.chain,
        "group": source.group,
        "source_domain": source.domain,
        "held_out": source.held_out,
        "size_px": [width, height],
        "patch_xyxyn": _listed(labels.patch_xyxyn),
        "homography": _matrix(transfer.registration),
        "cells": rows,
    }


def _registration(registration: Registration) -> dict[str, Any]:
    return {
        "source_size": list(registration.source_size),
        "target_size": list(registration.target_size),
        "landmarks": list(registration.landmarks),
        "matches": registration.matches,
        "inliers": len(registration.inliers_xy),
        "homography": _matrix(registration),
    }


def _matrix(registration: Registration) -> list[list[float]] | None:
    if registration.matrix is None:
        return None
    return [[float(value) for value in row] for row in registration.matrix]


def _listed(patch: tuple[float, float, float, float] | None) -> list[float] | None:
    return None if patch is None else list(patch)


def _fitted(pixels: UInt8Image, *, enlarge: float = 1.0) -> tuple[UInt8Image, float]:
    """A copy to draw on, no side above ``_SIDE``, and its scale."""
    scale = min(enlarge, _SIDE / max(pixels.shape[:2]))
    width, height = picture_size(pixels)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale <= 1 else cv2.INTER_LINEAR
    return np.array(cv2.resize(pixels, size, interpolation=how), np.uint8), scale


def _draw_boxes(picture: UInt8Image, boxes_xyxy: Points, kept: np.ndarray) -> None:
    height, width = picture.shape[:2]
    for number, (box, stays) in enumerate(zip(boxes_xyxy, kept, strict=True), start=1):
        x1, y1, x2, y2 = (round(float(each)) for each in np.clip(box, -1, max(height, width)))
        colour = _KEPT if stays else _DROPPED
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1)
        cv2.putText(picture, str(number), (x1 + 2, y1 + 12), cv2.FONT_HERSHEY_PLAIN, 0.9, colour, 1)


def _filled(picture: UInt8Image, height: int) -> UInt8Image:
    below = ((0, height - picture.shape[0]), (0, 0), (0, 0))
    return np.pad(picture, below, constant_values=255)
