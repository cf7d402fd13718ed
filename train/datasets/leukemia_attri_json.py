"""LeukemiaAttri's annotations in COCO form: ``Annotations/<split>.json``, ``Images/<split>``.

Owns that form, including its own spelling of attribute keys. An annotation has no line of its
own, so a bad one is named by its place in the list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from calibration.fields import parse_box_row
from edge_runtime.attributes import MISSING, Attribute
from edge_runtime.errors import DataError
from train.datasets.labelled import LabelledImage, no_cells
from train.datasets.schemas import DatasetSpec, index_of_code
from train.datasets.yolo_folders import SPLIT_NAMES, child_folder, plain_name

_Cell = tuple[tuple[float, float, float, float], int, tuple[int, ...]]


def is_json_folder(base: Path) -> bool:
    """Whether annotations and pictures lie here as published."""
    return any(True for _ in _places(base))


def read_json_folder(
    base: Path, spec: DatasetSpec, group_of: Callable[[Path], str | None]
) -> tuple[list[LabelledImage], list[str]]:
    """All pictures of one folder, and ``file:place: why`` of every bad entry.

    Raises:
        DataError: a file is no JSON in COCO form, or its categories are others.
    """
    images: list[LabelledImage] = []
    bad: list[str] = []
    for split, file, folder in _places(base):
        document = _load(file)
        _check_categories(file, document, spec)
        sized: dict[Any, tuple[Path, float, float]] = {}
        for place, entry in enumerate(document["images"]):
            try:
                identity, picture = _picture(entry, folder, sized)
                sized[identity] = picture
            except DataError as error:
                bad.append(f"{file}:images[{place}]: {error}")
        cells: dict[Any, list[_Cell]] = {identity: [] for identity in sized}
        for place, entry in enumerate(document["annotations"]):
            try:
                identity, cell = _cell(entry, sized, spec)
                cells[identity].append(cell)
            except DataError as error:
                bad.append(f"{file}:annotations[{place}]: {error}")
        for identity, (path, width, height) in sized.items():
            images.append(
                LabelledImage(
                    path,
                    split,
                    base.name,
                    *_arrays(cells[identity], len(spec.attribute_names)),
                    group=group_of(path),
                    size_px=(round(width), round(height)),
                )
            )
    return images, bad


def _places(base: Path) -> Iterator[tuple[str, Path, Path]]:
    annotations, images = child_folder(base, "annotations"), child_folder(base, "images")
    if annotations is None or images is None:
        return
    for name, split in SPLIT_NAMES.items():
        folder = child_folder(images, name)
        if (annotations / f"{name}.json").is_file() and folder is not None:
            yield split, annotations / f"{name}.json", folder


def _load(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: no JSON: {error}") from error
    lists = ("images", "annotations")
    if not isinstance(document, dict) or any(
        not isinstance(document.get(name), list) for name in lists
    ):
        raise DataError(f"{file}: not in COCO form; expected the lists images and annotations")
    return document


def _check_categories(file: Path, document: dict[str, Any], spec: DatasetSpec) -> None:
    categories = document.get("categories")
    for entry in categories if isinstance(categories, list) else []:
        identity, name = (
            (entry.get("id"), str(entry.get("name"))) if isinstance(entry, dict) else (None, "")
        )
        expected = (
            spec.classes[identity]
            if isinstance(identity, int) and 0 <= identity < len(spec.classes)
            else None
        )
        if expected is None or plain_name(name) != plain_name(expected):
            raise DataError(
                f"{file}: category {identity} is {name!r}, expected {expected or 'no such id'}"
            )


def _picture(
    entry: Any, folder: Path, known: Container[Any]
) -> tuple[Any, tuple[Path, float, float]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), (int, str)):
        raise DataError("an image without an id")
    if entry["id"] in known:
        raise DataError(f"image id {entry['id']} is given twice")
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError("an image without a file_name")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"file_name {name!r} leaves the folder of pictures")
    size: list[Any] = [entry.get(key) for key in ("width", "height")]
    width, height = (float(value) if _number(value) else 0.0 for value in size)
    if width <= 0 or height <= 0:
        raise DataError(f"{name}: width and height are no positive numbers: {size}")
    path = folder / relative
    if not path.is_file():
        raise DataError(f"no such picture {path}")
    return entry["id"], (path, width, height)


def _cell(
    entry: Any, sized: dict[Any, tuple[Path, float, float]], spec: DatasetSpec
) -> tuple[Any, _Cell]:
    if not isinstance(entry, dict):
        raise DataError("not a table")
    identity = entry.get("image_id")
    if not isinstance(identity, (int, str)) or identity not in sized:
        raise DataError(f"image_id {identity!r} is none of the images")
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_number(value) for value in box):
        raise DataError(f"bbox {box!r}: expected four numbers x, y, w, h")
    _, width, height = sized[identity]
    x, y, w, h = (float(value) for value in box)
    numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
    columns = [str(entry.get("category_id")), *(repr(value) for value in numbers)]
    row, why = parse_box_row(columns, len(spec.classes))
    if row is None:
        raise DataError(why)
    attributes: tuple[int, ...] = ()
    if spec.attributes is not None:
        attributes = tuple(_index(entry, each, spec) for each in spec.attributes.attributes)
    return identity, (row[1], row[0], attributes)


def _index(entry: dict[str, Any], attribute: Attribute, spec: DatasetSpec) -> int:
    for key in spec.json_keys.get(attribute.name, (attribute.name,)):
        if entry.get(key) is not None:
            return index_of_code(attribute, str(entry[key]), spec.missing_code)
    return MISSING


def _arrays(cells: list[_Cell], attribute_count: int) -> tuple[Any, Any, Any]:
    if not cells:
        return no_cells(attribute_count)
    boxes, class_ids, attributes = zip(*cells, strict=True)
    return (
        np.array(boxes, np.float32),
        np.array(class_ids, np.int64),
        np.array(attributes, np.int64).reshape(len(cells), attribute_count),
    )


def _number(value: Any) -> bool:
    # A bound that no picture reaches: JSON has integers that no float holds.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
