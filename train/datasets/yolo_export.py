"""YOLO labels as annotation tools export them: in folders, or pictures and texts together.

Owns these layouts and their class lists. A picture without a label file is a bad row here: an
export that was stopped half way looks like that, and would teach cells to be background. Does
not own rows (see ``label_rows``) nor folders of published sets (see ``yolo_folders``).
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import DataError
from train.datasets.label_rows import cell_arrays, parse_label_rows
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.schemas import BOX_COLUMNS, DatasetSpec
from train.datasets.yolo_folders import (
    YoloField,
    class_file,
    class_names,
    is_yolo_folder,
    pictures_in,
    read_yolo_folder,
)

# Where pictures and texts lie together, as LabelImg and CVAT's "YOLO 1.1" leave them.
_TOGETHER = {
    ".": "all",
    "images": "all",
    "obj_train_data": "train",
    "obj_valid_data": "val",
    "obj_validation_data": "val",
    "obj_test_data": "test",
}


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
    images = tuple(
        LabelledImage(each.image, each.split, root.name, *cell_arrays(list(each.rows), 0))
        for each in fields
    )
    return LabelledSet(root.name, root, spec.classes, None, images, tuple(bad))


def _names(root: Path) -> list[str]:
    file = root / "obj.names"
    if file.is_file():
        # A plain list like classes.txt, under the name that darknet gave it.
        try:
            names: list[str] | None = [
                line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read: {error}") from error
    else:
        named = class_file(root)
        names = None if named is None else class_names(named)
    if not names:
        raise DataError(
            f"{root}: nothing names its classes; add classes.txt with one name a line, in the "
            "order of their numbers"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{root}: class {twice[0]!r} is named twice; mend the class list")
    return names


def _together(root: Path) -> list[tuple[str, Path]]:
    """Split and folder of each place where a picture has its text beside it."""
    found = []
    for name, split in _TOGETHER.items():
        folder = root / name
        if folder.is_dir() and any(p.with_suffix(".txt").is_file() for p in pictures_in(folder)):
            found.append((split, folder))
    return found


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
    return fields, bad
