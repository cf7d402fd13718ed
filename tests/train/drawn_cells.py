"""Two kinds of drawn cells in the layout of ``pbc-attributes``: purple discs, large or small.

The kind can be seen at a glance, so a tiny network learns it in seconds.
"""

from __future__ import annotations

import csv
from pathlib import Path

from tests.support import paint_field, write_image
from train.datasets.schemas import load_spec

ATTRIBUTES = load_spec("pbc-attributes").attributes
assert ATTRIBUTES is not None
NAMES = tuple(each.name for each in ATTRIBUTES.attributes)
CLASSES = ("neutrophil", "lymphocyte")
SIDE = 64
# Index of the kind by name; the class decides cell size and shape, the rest has value 0.
KINDS = {"neutrophil": 30, "lymphocyte": 14}


def write_cells_folder(
    root: Path,
    *,
    train: int = 8,
    val: int = 4,
    test: int = 4,
    name: str = "pbc-attributes",
    held_out: int = 0,
) -> Path:
    """Writes ``root/<name>``; the first ``held_out`` training pictures are test elsewhere."""
    folder = root / name
    (folder / "images").mkdir(parents=True)
    assert ATTRIBUTES is not None
    rows: list[dict[str, object]] = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            kind = list(KINDS)[number % 2]
            size, file = KINDS[kind], f"images/{split}{number}.png"
            x, y = 32 + (number * 5) % 9 - 4, 32 + (number * 3) % 7 - 3
            half = size // 2 + 2
            seed = len(rows)
            pixels = paint_field(SIDE, SIDE, [(x, y, size)], red_cells=[(8, 8, 14)], seed=seed)
            write_image(folder / file, pixels)
            row: dict[str, object] = {
                "file": file,
                "split": split,
                "class": kind,
                "width": SIDE,
                "height": SIDE,
            }
            row |= {"x1": x - half, "y1": y - half, "x2": x + half, "y2": y + half}
            big = kind == "neutrophil"
            for each in ATTRIBUTES.attributes:
                flipped = each.name in ("cell_size", "cell_shape") and big
                row[each.name] = each.values[int(flipped)]
            shared = "test" if split == "train" and number < held_out else ""
            row |= {
                "wbc_domains_file": f"{number}.png" if shared else "",
                "wbc_domains_split": shared,
            }
            rows.append(row)
    with (folder / "annotations.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder
