"""PCM-Leukemia: nine classes in fields of 1920 x 1080, boxes only.

Owns the patient of a picture. The class list is the order of the paper's table; the set's own
class list, where there is one, is taken by name. The ways to hold out validation pictures are in
``splits``; the two-class form and the eight classes of the second stage are mappings in
``schemas.yaml``.
"""

from __future__ import annotations

import csv
from collections.abc import Container
from pathlib import Path

from edge_runtime.errors import DataError
from train.datasets.label_rows import cell_arrays
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.schemas import DatasetSpec
from train.datasets.yolo_folders import is_yolo_folder, read_yolo_folder

GROUP_FILE = "groups.csv"


def read(root: Path, spec: DatasetSpec) -> LabelledSet:
    """Reads the folder with its own splits; patients come from ``groups.csv`` if it is there.

    Raises:
        DataError: the folder is not this data set, or ``groups.csv`` has other columns.
    """
    if not is_yolo_folder(root):
        raise DataError(
            f"{root}: not a PCM-Leukemia folder; expected images/<split> with labels/<split>"
        )
    folder = read_yolo_folder(root, spec)
    known = {each.image.name for each in folder.fields}
    groups, bad = _read_groups(root / GROUP_FILE, known)
    images = tuple(
        LabelledImage(
            each.image,
            each.split,
            spec.name,
            *cell_arrays(list(each.rows), 0),
            group=groups.get(each.image.name),
        )
        for each in folder.fields
    )
    unknown = sum(each.group is None for each in images)
    notes = list(folder.notes)
    if unknown:
        notes.append(f"{unknown} pictures without a patient in {GROUP_FILE} (image,group)")
    return LabelledSet.as_read(spec, root, images, (*folder.bad, *bad), notes=notes)


def _read_groups(file: Path, known: Container[str]) -> tuple[dict[str, str], list[str]]:
    if not file.is_file():
        return {}, []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    reader = csv.reader(lines)
    if next(reader, []) != ["image", "group"]:
        raise DataError(f"{file}:1: expected the columns image,group")
    groups: dict[str, str] = {}
    bad: list[str] = []
    for row in reader:
        if len(row) != 2 or not row[0] or not row[1]:
            bad.append(f"{file}:{reader.line_num}: expected image,group, got {','.join(row)!r}")
        elif row[0] not in known:
            bad.append(f"{file}:{reader.line_num}: no such picture as {row[0]}")
        elif groups.setdefault(row[0], row[1]) != row[1]:
            bad.append(f"{file}:{reader.line_num}: {row[0]} is of {groups[row[0]]} already")
    return groups, bad
