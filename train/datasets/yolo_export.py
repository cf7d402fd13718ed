"""YOLO labels as annotation tools export them: in folders, or pictures and texts together.

Owns these layouts and their class lists. A picture without a label file is a bad row here: an
export that was stopped half way looks like that, and would teach cells to be background. So is
one that lies where no layout has any, for it would be lost without a word. Does not own rows
(see ``label_rows``) nor folders of published sets (see ``yolo_folders``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container
from pathlib import Path

from edge_runtime.errors import DataError
from train.datasets.field_files import pictures_below
from train.datasets.label_rows import cell_arrays, parse_label_rows
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.schemas import BOX_COLUMNS, DatasetSpec
from train.datasets.yolo_folders import (
    SPLIT_NAMES,
    YoloField,
    class_file,
    class_names,
    is_yolo_folder,
    pictures_in,
    read_yolo_folder,
)

# A subset of CVAT's "YOLO 1.1"; people name them as they like, and with capitals.
_SUBSET = re.compile(r"obj_(.+)_data", re.IGNORECASE)


def is_yolo_export(root: Path) -> bool:
    """Whether pictures and label texts lie here in a known way."""
    return is_yolo_folder(root) or bool(_together(root))


def read_yolo_export(root: Path) -> LabelledSet:
    """Reads an export; bad rows are listed in the set.

    Raises:
        DataError: no labels in a known layout, or nothing that names the classes.
    """
    folders = is_yolo_folder(root)
    if not folders and not _together(root):
        raise DataError(f"{root}: no YOLO labels; expected images and labels, or both together")
    names = _names(root)
    spec = DatasetSpec(name="own", title="own", classes=tuple(names), layouts=(BOX_COLUMNS,))
    if folders:
        found = read_yolo_folder(root, spec)
        fields, bad = found.fields, list(found.bad)
    else:
        fields, bad = _read_together(root, spec)
    bad += [
        f"{each.image}: no label file; label it, remove it, or write an empty .txt if it shows "
        "no cell"
        for each in fields
        if each.label is None
    ]
    bad += [
        f"{folder}: {count} pictures where no labels are looked for; put them and their labels "
        "where the others lie, or move them out of the folder of the fields"
        for folder, count in _elsewhere(root, {each.image.parent for each in fields})
        if not any(line.startswith(f"{folder}: ") for line in bad)
    ]
    images = tuple(
        LabelledImage(each.image, each.split, root.name, *cell_arrays(list(each.rows), 0))
        for each in fields
    )
    return LabelledSet(root.name, root, spec.classes, None, images, tuple(bad))


def _names(root: Path) -> list[str]:
    # A plain list like classes.txt, under the name that darknet gave it.
    darknet = root / "obj.names"
    file = darknet if darknet.is_file() else class_file(root)
    names = None if file is None else class_names(file)
    if not names:
        raise DataError(
            f"{root}: nothing names its classes; add classes.txt with one name a line, in the "
            "order of their numbers"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{root}: class {twice[0]!r} is named twice; mend the class list")
    return names


def _elsewhere(root: Path, read: Container[Path]) -> list[tuple[Path, int]]:
    """Folders with pictures that no layout takes, and how many each holds."""
    folders = Counter(each.parent for each in pictures_below(root) if each.parent not in read)
    return sorted(folders.items())


def _together(root: Path) -> list[tuple[str, Path]]:
    """Split and folder of each place where a picture has its text beside it.

    LabelImg leaves them together in the folder itself or in ``images``.
    """
    places = [("all", root), ("all", root / "images")]
    places += [
        (SPLIT_NAMES.get(subset[1].lower(), "all"), each)
        for each in (sorted(root.iterdir()) if root.is_dir() else ())
        if (subset := _SUBSET.fullmatch(each.name))
    ]
    return [
        (split, folder)
        for split, folder in places
        if folder.is_dir() and any(p.with_suffix(".txt").is_file() for p in pictures_in(folder))
    ]


def _read_together(root: Path, spec: DatasetSpec) -> tuple[list[YoloField], list[str]]:
    fields: list[YoloField] = []
    bad: list[str] = []
    order = tuple(range(len(spec.classes)))
    for split, folder in _together(root):
        named: dict[str, Path] = {}
        for image in pictures_in(folder):
            if image.stem in named:
                bad.append(
                    f"{image}: a second picture of this name beside {named[image.stem].name}; "
                    "they would share one label file"
                )
                continue
            named[image.stem] = image
            label = image.with_suffix(".txt")
            if not label.is_file():
                fields.append(YoloField(image, None, split, ()))
                continue
            rows, bad_here, _ = parse_label_rows(label, spec, order)
            bad += bad_here
            fields.append(YoloField(image, label, split, tuple(rows)))
        bad += [
            f"{text}:1: labels without a picture {text.with_suffix('.*')}"
            for text in sorted(folder.glob("*.txt"))
            # Notes and lists of files lie here as well; those hold no rows.
            if text.stem not in named and parse_label_rows(text, spec, order)[0]
        ]
    return fields, bad
