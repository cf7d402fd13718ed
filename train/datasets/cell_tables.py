"""Single-cell pictures listed in a CSV table, one row a picture.

Owns columns, the box and the plain checks of a row. Does not own what classes and attributes a
table may name.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from calibration.fields import xyxy_to_xywhn
from edge_runtime.errors import DataError
from train.datasets.labelled import LabelledImage

BOX = ("x1", "y1", "x2", "y2")
_NEEDED = ("file", "split", "class", "width", "height", *BOX)
_SPLITS = ("train", "val", "test")


def read_cell_table(
    table: Path,
    *,
    more_columns: Iterable[str],
    make: Callable[[dict[str, str]], LabelledImage],
) -> tuple[list[LabelledImage], list[str]]:
    """All rows of a table, and one ``file:line: why`` for every bad one.

    Args:
        table: the CSV file; its pictures are named relative to its folder.
        more_columns: that it must have besides file, split, class, size and box.
        make: one row to a picture, calling ``box_of``; may raise ``DataError``.

    Raises:
        DataError: there is no such table, or a column is missing.
    """
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{table}: {reason}; is this the right data set folder?") from error
    reader = csv.DictReader(lines)
    absent = [name for name in (*_NEEDED, *more_columns) if name not in (reader.fieldnames or ())]
    if absent:
        raise DataError(f"{table}:1: no column {', '.join(absent)}; is this the right table?")
    images: list[LabelledImage] = []
    bad: list[str] = []
    seen: dict[str, int] = {}
    for row in reader:
        where = f"{table}:{reader.line_num}"
        if None in row or None in row.values():
            bad.append(f"{where}: not as many columns as the first line")
        elif row["file"] in seen:
            bad.append(f"{where}: {row['file']} stands in line {seen[row['file']]} already")
        else:
            seen[row["file"]] = reader.line_num
            try:
                images.append(replace(make(row), size_px=(int(row["width"]), int(row["height"]))))
            except DataError as error:
                bad.append(f"{where}: {error}")
    return images, bad


def picture_of(row: dict[str, str], root: Path, column: str = "file") -> Path:
    """The file a row names.

    Raises:
        DataError: it is absent or outside the folder.
    """
    relative = PurePosixPath(row[column])
    if relative.is_absolute() or ".." in relative.parts or not (root / relative).is_file():
        raise DataError(f"no such file {row[column]!r} below {root}")
    return root / relative


def split_of(row: dict[str, str]) -> str:
    """The row's split.

    Raises:
        DataError: it is none of train, val, test.
    """
    if row["split"] not in _SPLITS:
        raise DataError(f"split {row['split']!r}: expected one of {', '.join(_SPLITS)}")
    return row["split"]


def class_of(row: dict[str, str], classes: tuple[str, ...]) -> int:
    """Index of the row's class.

    Raises:
        DataError: no such class.
    """
    if row["class"] not in classes:
        raise DataError(f"class {row['class']!r}: expected one of {', '.join(classes)}")
    return classes.index(row["class"])


def box_of(row: dict[str, str]) -> tuple[float, float, float, float]:
    """Centre and size as fractions, from corners in pixels.

    Raises:
        DataError: no whole numbers, no area, or outside the picture.
    """
    names = (*BOX, "width", "height")
    try:
        x1, y1, x2, y2, width, height = (int(row[name]) for name in names)
    except ValueError:
        shown = " ".join(row[name] for name in names)
        raise DataError(f"box and size are no whole numbers: {shown!r}") from None
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise DataError(f"box {x1} {y1} {x2} {y2} has no area or leaves {width} x {height} px")
    corners = np.array([[x1, y1, x2, y2]], np.float32)
    cx, cy, w, h = (float(value) for value in xyxy_to_xywhn(corners, width, height)[0])
    return cx, cy, w, h
