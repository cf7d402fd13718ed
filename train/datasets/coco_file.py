"""Detection labels in COCO form, as CVAT, Label Studio, Roboflow and most tools export them.

Owns finding such files in a folder and reading them strictly. An annotation has no line of its
own, so a bad one is named by its place in the list. Does not own what the classes mean to a
model (see ``class_names``) nor LeukemiaAttri's own dialect (see ``leukemia_attri_json``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from edge_runtime.errors import DataError
from train.datasets.field_files import (
    LARGEST_NUMBER,
    AnnotatedPicture,
    find_picture,
    unmentioned,
)
from train.datasets.labelled import LabelledSet
from train.datasets.yolo_folders import SPLIT_NAMES

_LISTS = ("images", "annotations", "categories")


def coco_files(root: Path) -> list[Path]:
    """JSON files in COCO form, in the folder, in ``annotations``, or in a split's folder.

    A JSON file of another content, such as a tool's notes, is none of them.
    """
    return [each for each in _json_files(root) if _looks_like_coco(each)]


def damaged_json(root: Path) -> str:
    """Which file where COCO's are looked for is no JSON at all, and why; empty without one."""
    for each in _json_files(root):
        try:
            _parse(each)
        except DataError as error:
            return f"; {error}"
    return ""


def _json_files(root: Path) -> list[Path]:
    places = [root, root / "annotations", *(root / name for name in SPLIT_NAMES)]
    return [each for place in places if place.is_dir() for each in sorted(place.glob("*.json"))]


def read_coco(root: Path) -> LabelledSet:
    """Reads all COCO files of a folder into one set; bad entries are listed in it.

    Categories are taken by name, so that files with other ids go together. Boxes are pixels,
    left, top, width, height. A crowd, a turned box and an outline without a box are bad rows.

    Raises:
        DataError: no such file, or one without names of its categories.
    """
    files = coco_files(root)
    if not files:
        raise DataError(
            f"{root}: no JSON file in COCO form (images, annotations, categories)"
            f"{damaged_json(root)}"
        )
    classes: list[str] = []
    pictures: dict[Path, AnnotatedPicture] = {}
    bad: list[str] = []
    for file in files:
        document = _load(file)
        ids = _categories(file, document["categories"], classes)
        by_id: dict[Any, AnnotatedPicture] = {}
        for place, entry in enumerate(document["images"]):
            try:
                identity, picture = _picture(entry, root, file, pictures, by_id)
            except DataError as error:
                bad.append(f"{file}:images[{place}]: {error}")
                continue
            by_id[identity] = pictures[picture.path] = picture
        for place, entry in enumerate(document["annotations"]):
            try:
                _add(entry, by_id, ids)
            except DataError as error:
                bad.append(f"{file}:annotations[{place}]: {error}")
    if damaged := damaged_json(root):
        # It may hold the labels of further pictures.
        raise DataError(f"{root}{damaged}; mend it, or move it out of the folder")
    images = tuple(each.labelled(root.name) for each in pictures.values())
    notes = unmentioned(root, pictures)
    return LabelledSet(root.name, root, tuple(classes), None, images, tuple(bad), (), notes)


def _looks_like_coco(file: Path) -> bool:
    try:
        document = _parse(file)
    except DataError:
        # One that COCO tools name so is meant to be read, and to fail with its reason.
        return file.stem.startswith(("instances_", "_annotations.coco"))
    return isinstance(document, dict) and all(isinstance(document.get(k), list) for k in _LISTS)


def _parse(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: no JSON: {' '.join(str(error).split())}") from error


def _load(file: Path) -> dict[str, Any]:
    document = _parse(file)
    if not isinstance(document, dict):
        raise DataError(f"{file}: not in COCO form; export it again")
    return document


def _categories(file: Path, entries: list[Any], classes: list[str]) -> dict[Any, int]:
    """Category id to class id; new names join ``classes``."""
    ids: dict[Any, int] = {}
    for place, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        identity = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip() or not _is_id(identity):
            raise DataError(f"{file}:categories[{place}]: needs an id and a name")
        if identity in ids:
            raise DataError(f"{file}:categories[{place}]: id {identity!r} is given twice")
        if name.strip() not in classes:
            classes.append(name.strip())
        ids[identity] = classes.index(name.strip())
    return ids


def _picture(
    entry: Any,
    root: Path,
    file: Path,
    pictures: Container[Path],
    ids: Container[Any],
) -> tuple[Any, AnnotatedPicture]:
    if not isinstance(entry, dict) or not _is_id(entry.get("id")):
        raise DataError("an image without an id")
    if entry["id"] in ids:
        raise DataError(f"image id {entry['id']!r} is given twice")
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError("an image without a file_name")
    size: list[Any] = [entry.get(key) for key in ("width", "height")]
    if not all(_is_number(value) and value >= 1 for value in size):
        raise DataError(f"{name}: width and height are no positive numbers: {size}")
    subset = _subset(root, file)
    path = find_picture(name, root, file, subset)
    if path in pictures:
        raise DataError(f"{path} is described twice")
    split = SPLIT_NAMES.get((subset or "").lower(), "all")
    return entry["id"], AnnotatedPicture(path, split, (int(size[0]), int(size[1])))


def _subset(root: Path, file: Path) -> str | None:
    """``train`` of ``instances_train2017.json`` or of ``train/_annotations.coco.json``."""
    words: Iterator[str] = (w for w in re.split(r"[^A-Za-z]+", file.stem) if w)
    known = next((word for word in words if word.lower() in (*SPLIT_NAMES, "default")), None)
    if known is not None:
        return known
    return file.parent.name if file.parent != root and file.parent.name in SPLIT_NAMES else None


def _add(entry: Any, pictures: dict[Any, AnnotatedPicture], classes: dict[Any, int]) -> None:
    if not isinstance(entry, dict):
        raise DataError("not a table")
    identity, category = entry.get("image_id"), entry.get("category_id")
    if not _is_id(identity) or identity not in pictures:
        raise DataError(f"image_id {identity!r} is none of the usable images")
    if not _is_id(category) or category not in classes:
        raise DataError(f"category_id {category!r} is none of the categories")
    if entry.get("iscrowd") not in (None, 0, False):
        raise DataError("iscrowd: a crowd is no cell; draw one box for each cell")
    extra = entry.get("attributes")
    turn = extra.get("rotation") if isinstance(extra, dict) else None
    if turn is not None and not (_is_number(turn) and turn % 360 == 0):
        raise DataError(f"turned box (rotation {turn!r}); draw it upright")
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(each) for each in box):
        raise DataError(f"bbox {box!r}: expected four numbers x, y, width, height")
    pictures[identity].add_box(classes[category], *(float(each) for each in box))


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    return usable and abs(value) < LARGEST_NUMBER
