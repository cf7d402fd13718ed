"""Drawn fields of a site, and the same labels written as each tool would export them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np

SIZE = (96, 80)
CLASSES = ("WBC", "platelet")
GROUND, NUCLEUS, RED = (205, 225, 240), (120, 40, 90), (165, 170, 215)
SITE_GROUND = (190, 240, 200)


@dataclass(frozen=True)
class DrawnField:
    """A picture and its cells in pixels: class, left, top, width, height."""

    name: str
    pixels: Any
    cells: tuple[tuple[int, int, int, int, int], ...]


def drawn_fields(
    count: int, *, seed: int = 0, ground: tuple[int, int, int] = SITE_GROUND
) -> list[DrawnField]:
    """Fields that show different things."""
    width, height = SIZE
    fields = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        pixels = np.full((height, width, 3), ground, np.uint8)
        for _ in range(9):
            x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
            cv2.circle(pixels, (x, y), int(rng.integers(5, 16)), RED, -1)
        x, y = int(rng.integers(18, width - 18)), int(rng.integers(18, height - 18))
        radius = int(rng.integers(11, 17))
        cv2.circle(pixels, (x, y), radius, NUCLEUS, -1)
        white = (0, x - radius, y - radius, 2 * radius, 2 * radius)
        fields.append(DrawnField(f"field_{number:02d}.png", pixels, (white, (1, 2, 3, 6, 5))))
    return fields


def save_pictures(folder: Path, fields: list[DrawnField]) -> Path:
    """Writes the pictures alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in fields:
        cv2.imwrite(str(folder / each.name), each.pixels)
    return folder


def yolo_rows(each: DrawnField) -> str:
    """The label file of one field."""
    width, height = SIZE
    return "".join(
        f"{label} {(x + w / 2) / width:.8f} {(y + h / 2) / height:.8f} "
        f"{w / width:.8f} {h / height:.8f}\n"
        for label, x, y, w, h in each.cells
    )


def write_yolo(
    root: Path, fields: list[DrawnField], split: str = "", classes: tuple[str, ...] = CLASSES
) -> Path:
    """``images`` and ``labels`` folders with ``classes.txt``."""
    save_pictures(root / "images" / split, fields)
    (root / "labels" / split).mkdir(parents=True, exist_ok=True)
    for each in fields:
        label = root / "labels" / split / f"{Path(each.name).stem}.txt"
        label.write_text(yolo_rows(each))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return root


def write_flat_yolo(root: Path, fields: list[DrawnField]) -> Path:
    """Pictures and texts together, as LabelImg leaves them."""
    save_pictures(root, fields)
    for each in fields:
        (root / f"{Path(each.name).stem}.txt").write_text(yolo_rows(each))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


def coco_document(fields: list[DrawnField]) -> dict[str, Any]:
    """Category ids with a gap, as after a deleted class."""
    ids = (3, 11)
    return {
        "images": [
            {"id": n, "file_name": each.name, "width": SIZE[0], "height": SIZE[1]}
            for n, each in enumerate(fields, start=1)
        ],
        "annotations": [
            {"id": 100 * n + k, "image_id": n, "category_id": ids[label], "bbox": [x, y, w, h]}
            for n, each in enumerate(fields, start=1)
            for k, (label, x, y, w, h) in enumerate(each.cells)
        ],
        "categories": [
            {"id": identity, "name": name} for identity, name in zip(ids, CLASSES, strict=True)
        ],
    }


def write_coco(root: Path, fields: list[DrawnField]) -> Path:
    """As CVAT exports "COCO 1.0"."""
    save_pictures(root / "images", fields)
    (root / "annotations").mkdir()
    file = root / "annotations" / "instances_default.json"
    file.write_text(json.dumps(coco_document(fields)))
    return root


def cvat_text(fields: list[DrawnField]) -> str:
    """As CVAT exports "CVAT for images 1.1"."""
    labels = "".join(f"<label><name>{name}</name></label>\n" for name in CLASSES)
    images = ""
    for number, each in enumerate(fields):
        boxes = "".join(
            f'  <box label={quoteattr(CLASSES[label])} source="manual" occluded="0" xtl="{x:.2f}" '
            f'ytl="{y:.2f}" xbr="{x + w:.2f}" ybr="{y + h:.2f}" z_order="0"></box>\n'
            for label, x, y, w, h in each.cells
        )
        images += (
            f'<image id="{number}" name={quoteattr(each.name)} width="{SIZE[0]}" '
            f'height="{SIZE[1]}">\n{boxes}</image>\n'
        )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f"<meta><job><labels>\n{labels}</labels></job></meta>\n{images}</annotations>\n"
    )


def write_cvat(root: Path, fields: list[DrawnField]) -> Path:
    """Pictures in ``images``, ``annotations.xml`` beside it."""
    save_pictures(root / "images", fields)
    (root / "annotations.xml").write_text(cvat_text(fields))
    return root
