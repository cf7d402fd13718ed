"""Text label files: one cell a row, a box and perhaps a patch and attributes.

Owns columns and values of one file. A row is taken as it stands or refused with file and line;
nothing is repaired. Does not own which file belongs to which picture (see ``yolo_folders``) nor
what the four patch columns mean (see ``patches``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.fields import parse_box_row
from edge_runtime.errors import DataError
from edge_runtime.types import Float32Array, Int64Array
from train.datasets.schemas import (
    BOX_COLUMNS,
    IGNORED,
    PATCH_COLUMNS,
    DatasetSpec,
    index_of_code,
)


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One labelled cell; ``patch`` holds the four patch columns as they stand in the file."""

    line: int
    class_id: int
    box_xywhn: tuple[float, float, float, float]
    attributes: tuple[int, ...]
    patch: tuple[float, float, float, float] | None


def parse_label_rows(
    path: Path, spec: DatasetSpec, class_order: tuple[int, ...]
) -> tuple[list[LabelRow], list[str], int | None]:
    """All rows of one file.

    Args:
        path: the label file.
        spec: the data set's layouts, classes and attributes.
        class_order: class id in the file to class id in ``spec``.

    Returns:
        Rows, one ``file:line: why`` for every bad row, and the file's number of columns (that
        of its first row in a known layout, None without one).
    """
    rows: list[LabelRow] = []
    bad: list[str] = []
    layouts = {len(columns): columns for columns in spec.layouts}
    width: int | None = None
    first = 0
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return [], [f"{path}:1: not UTF-8 text"], None
    except OSError as error:
        return [], [f"{path}:1: cannot be read: {error.strerror}"], None
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) not in layouts:
            wanted = " or ".join(str(each) for each in sorted(layouts))
            bad.append(f"{path}:{number}: {len(columns)} columns, expected {wanted}")
            continue
        if width is None:
            width, first = len(columns), number
        if len(columns) != width:
            bad.append(
                f"{path}:{number}: {len(columns)} columns, but {width} in line {first}; "
                f"one file has one width"
            )
            continue
        try:
            rows.append(_row(number, columns, layouts[width], spec, class_order))
        except DataError as error:
            bad.append(f"{path}:{number}: {error}")
    return rows, bad, width


def cell_arrays(
    rows: list[LabelRow], attribute_count: int
) -> tuple[Float32Array, Int64Array, Int64Array]:
    """Boxes ``(N, 4)``, class ids ``(N,)`` and attributes ``(N, A)`` of parsed rows."""
    return (
        np.array([row.box_xywhn for row in rows], np.float32).reshape(-1, 4),
        np.array([row.class_id for row in rows], np.int64),
        np.array([row.attributes for row in rows], np.int64).reshape(len(rows), attribute_count),
    )


def _row(
    number: int,
    columns: list[str],
    layout: tuple[str, ...],
    spec: DatasetSpec,
    class_order: tuple[int, ...],
) -> LabelRow:
    box, why = parse_box_row(columns[: len(BOX_COLUMNS)], len(class_order))
    if box is None:
        raise DataError(why)
    named = {name: text for name, text in zip(layout, columns, strict=True) if name != IGNORED}
    attributes: tuple[int, ...] = ()
    if spec.attributes is not None:
        attributes = tuple(
            index_of_code(each, named[each.name], spec.missing_code)
            for each in spec.attributes.attributes
        )
    patch = _patch([named[name] for name in PATCH_COLUMNS]) if PATCH_COLUMNS[0] in named else None
    return LabelRow(number, class_order[box[0]], box[1], attributes, patch)


def _patch(columns: list[str]) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = (float(text) for text in columns)
    except ValueError:
        a, b, c, d = (float("nan"),) * 4
    if not np.isfinite((a, b, c, d)).all():
        raise DataError(f"patch is no four numbers: {' '.join(columns)!r}")
    return a, b, c, d
