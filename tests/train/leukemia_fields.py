"""Drawn fields in LeukemiaAttri's layout: coloured discs whose colour decides class and values."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

# Class id, colour (BGR), the six attribute values; 2 is "not judged".
KINDS = (
    (1, (200, 60, 60), (0, 1, 0, 1, 0, 1)),
    (2, (60, 160, 60), (1, 0, 1, 0, 1, 0)),
    (3, (60, 60, 200), (1, 1, 0, 0, 1, 2)),
)


def write_leukemia_fields(
    root: Path, counts: dict[str, int], *, seed: int = 0, sparse: bool = False
) -> Path:
    """Writes so many pictures per split, of four slides, with one to three cells each.

    Of a sparse set's training pictures the left half is labelled, its patch in pixels of a
    640 px picture, as x1 y1 x2 y2, after the box.
    """
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            pixels = np.full((96, 144, 3), (225, 225, 225), np.uint8)
            rows = []
            # Every third picture shows the third kind as well.
            kinds = [int(rng.integers(2)) for _ in range(2)] + [2] * (number % 3 == 0)
            patched = sparse and split == "train"
            for place, kind in enumerate(kinds):
                class_id, colour, values = KINDS[kind]
                radius = int(rng.integers(14, 20))
                x, y = 24 + 48 * place, int(rng.integers(24, 72))
                cv2.circle(pixels, (x, y), radius, colour, -1)
                box = (x / 144, y / 96, 2 * radius / 144, 2 * radius / 96)
                if patched and x >= 72:
                    continue
                rows.append(
                    f"{class_id} "
                    + " ".join(f"{value:.6f}" for value in box)
                    + " 0 0 320 640" * patched
                    + "".join(f" {value}" for value in values)
                )
            # Test slides are others than those trained on.
            slide = number % 4 + 10 * (split != "train")
            name = f"{slide}_{number}_1000_ALL"
            cv2.imwrite(str(images / f"{name}.png"), pixels)
            (labels / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return root
