"""A folder of fields that a clinic labelled itself, in whichever format its tool exports.

Owns telling the formats apart. Does not own reading any of them (see ``yolo_export``,
``coco_file``, ``cvat_file``) nor checking the pictures (see ``train.site.fields``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from edge_runtime.errors import DataError, SettingsError
from train.datasets.coco_file import coco_files, damaged_json, read_coco
from train.datasets.cvat_file import cvat_files, read_cvat
from train.datasets.groups import GROUP_FILE, read_groups
from train.datasets.labelled import LabelledSet
from train.datasets.yolo_export import is_yolo_export, read_yolo_export

FieldFormat = Literal["yolo", "coco", "cvat"]
FORMATS: tuple[FieldFormat, ...] = get_args(FieldFormat)

_READERS: dict[FieldFormat, Callable[[Path], LabelledSet]] = {
    "yolo": read_yolo_export,
    "coco": read_coco,
    "cvat": read_cvat,
}


def formats_in(root: Path) -> tuple[FieldFormat, ...]:
    """The formats that a folder seems to hold.

    Raises:
        DataError: no such folder.
    """
    _require_folder(root)
    seen: dict[FieldFormat, bool] = {
        "yolo": is_yolo_export(root),
        "coco": bool(coco_files(root)),
        "cvat": bool(cvat_files(root)),
    }
    return tuple(name for name, there in seen.items() if there)


def read_site_fields(root: Path, labels: FieldFormat | Literal["auto"] = "auto") -> LabelledSet:
    """Reads labelled fields; bad rows are listed in the set (see ``require_clean``).

    Args:
        root: the folder; its ``groups.csv`` (``image,group``) says which films are whose. An
            image goes by its name, or by its path below the folder where names are not unique.
        labels: the format; ``auto`` tells it from the files.

    Raises:
        DataError: no such folder, no known format or several in it, or it cannot be read.
        SettingsError: no such format.
    """
    if labels == "auto":
        found = formats_in(root)
        if not found:
            raise DataError(
                f"{root}: no labels in a known format; export YOLO (images, labels, classes.txt), "
                "COCO (a JSON file) or CVAT for images 1.1 (annotations.xml) into it"
                f"{damaged_json(root)}"
            )
        if len(found) > 1:
            raise DataError(
                f"{root}: labels in several formats, {' and '.join(found)}; say which with "
                "--format, or remove the others"
            )
        labels = found[0]
    if labels not in _READERS:
        raise SettingsError(f"format {labels!r}: unknown; choose one of {', '.join(FORMATS)}")
    _require_folder(root)
    return _with_groups(_READERS[labels](root))


def _require_folder(root: Path) -> None:
    if root.is_file():
        raise DataError(f"{root}: a file; unpack the export and give the folder")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder of the labelled fields")


def _with_groups(found: LabelledSet) -> LabelledSet:
    """The set with the groups of ``groups.csv``, if there is one.

    A picture goes by its name, or by its path below the folder: tools that keep a folder for
    each film name pictures alike.
    """
    file = found.root / GROUP_FILE
    named = {each.image: each.image.relative_to(found.root).as_posix() for each in found.images}
    count = Counter(each.name for each in named)
    groups, bad = read_groups(file, {*count, *named.values()})
    paths = set(named.values())
    bad += [
        f"{file}: {count[name]} pictures are called {name}; write the path of each, below the "
        "folder of the fields"
        for name in groups
        if count[name] > 1 and name not in paths
    ]
    images = tuple(
        replace(each, group=groups.get(named[each.image], groups.get(each.image.name)))
        for each in found.images
    )
    return replace(found, images=images, bad=(*found.bad, *bad))
