"""Drawn fields whose cells show their attributes, so that a mix-up can be seen.

Every cell is a filled rectangle. Its colour is one of ``COLOURS``, an attribute; another
attribute and the class follow from the colour.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from edge_runtime.attributes import Attribute, AttributeSchema
from train.attributed_dataset import write_attributes

# BGR, far apart and far from the background and from ultralytics' grey padding.
COLOURS = np.array(
    [(0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255), (255, 0, 255), (255, 255, 0)], np.uint8
)
BACKGROUND = (225, 225, 225)
CLASSES = ("even", "odd", "third")
SCHEMA = AttributeSchema(
    name="drawn",
    attributes=(
        Attribute(name="colour", values=tuple(f"colour {i}" for i in range(len(COLOURS)))),
        Attribute(name="warm", values=("no", "yes")),
    ),
)


def class_of(colour: int) -> int:
    return colour % len(CLASSES)


def warm(colour: int) -> int:
    return int(COLOURS[colour][2] > 0)


def write_fields(
    root: Path, split: str, count: int, *, size: int = 128, seed: int = 0, shuffle: bool = False
) -> Path:
    """Draws fields; ``shuffle`` writes the same cells in another order of rows."""
    rng = np.random.default_rng(seed)
    images = root / "images" / split
    labels = root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in range(count):
        pixels = np.full((size, size * 3 // 2, 3), BACKGROUND, np.uint8)
        height, width = pixels.shape[:2]
        rows, values = [], []
        # One cell per square of a 2 x 3 grid, so that none covers another.
        for place in rng.permutation(6)[: int(rng.integers(2, 6))]:
            y, x = divmod(int(place), 3)
            w, h = (int(v) for v in rng.integers(size // 4, size * 3 // 8, 2))
            left = x * size // 2 + int(rng.integers(2, size // 2 - w - 2))
            top = y * size // 2 + int(rng.integers(2, size // 2 - h - 2))
            colour = int(rng.integers(len(COLOURS)))
            pixels[top : top + h, left : left + w] = COLOURS[colour]
            box = ((left + w / 2) / width, (top + h / 2) / height, w / width, h / height)
            rows.append(f"{class_of(colour)} " + " ".join(f"{v:.6f}" for v in box))
            values.append((colour, warm(colour)))
        order = np.random.default_rng(index).permutation(len(rows)) if shuffle else range(len(rows))
        image = images / f"{index}.png"
        cv2.imwrite(str(image), pixels)
        (labels / f"{index}.txt").write_text("".join(rows[i] + "\n" for i in order))
        write_attributes(image, np.array([values[i] for i in order], np.int64), SCHEMA)
    return images


def write_data_yaml(root: Path, **settings: Any) -> Path:
    path = root / "data.yaml"
    document = {
        "path": str(root),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(CLASSES)),
        "attridet": {"attributes": SCHEMA.model_dump(mode="json"), **settings},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def colour_at(pixels: NDArray[np.uint8], x: float, y: float) -> int:
    """Which colour an RGB picture ``(3, H, W)`` shows at a point."""
    rgb = pixels[:, min(int(y), pixels.shape[1] - 1), min(int(x), pixels.shape[2] - 1)]
    distance = np.abs(COLOURS.astype(int) - rgb[::-1].astype(int)).sum(axis=1)
    return int(distance.argmin())
