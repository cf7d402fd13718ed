"""Fields that people checked, as a labelled set that ``leukoscope train site`` reads.

Owns which fields go in, and the files of both layouts. Nothing in them names a slide or a
patient. Does not own the training's reading of them (see ``train.datasets.site_fields``).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.atomic_file import prepare_folder, replacing, utf8
from edge_runtime.clinic.exports.film_files import random_name
from edge_runtime.clinic.store.records import StoredCell, StoredField
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User
from edge_runtime.errors import RecordError, StoreError

Layout = Literal["yolo", "coco"]
# The class of the shipped detector.
WHITE_CELL = "WBC"

_BOX_DECIMALS = 8


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What was written, and what was not.

    Attributes:
        fields, cells: written.
        classes: in the order of their numbers.
        unchecked: fields left out because nobody said that all their cells have boxes; a cell
            without a box would be taught to be background.
        without_frame: checked fields left out because they were not kept at full size.
        unclassified: checked fields left out because a cell has no sure class, by class only.
    """

    fields: int
    cells: int
    classes: tuple[str, ...]
    unchecked: int
    without_frame: int
    unclassified: int


@dataclass(frozen=True, slots=True)
class _Labelled:
    """One field to write; boxes are frame pixels."""

    film: int
    file: str
    name: str
    group: str
    size: tuple[int, int]
    cells: tuple[tuple[str, tuple[float, float, float, float]], ...]


def write_training_set(
    store: ClinicStore,
    films: Sequence[int],
    out: Path,
    by: User | None,
    *,
    layout: Layout = "yolo",
    by_class: bool = False,
    new_name: Callable[[], str] = random_name,
) -> TrainingSet:
    """Writes the checked fields of some films, at full size, with every cell's box.

    Args:
        store: open.
        films: their numbers.
        out: an empty or missing folder.
        by: who exports; None when it is the device's owner on the command line.
        layout: yolo (images, labels, classes.txt) or coco (images, one JSON file).
        by_class: a class for each class that counts; else every cell that is not rejected is a
            white cell, which is what the shipped detector learns.
        new_name: names a film's group, see ``groups.csv``.

    Raises:
        AccessError: ``by`` may not export.
        RecordError: no such film, or none of their fields can be used.
        StoreError: the folder is not empty, or cannot be written.
    """
    if by is not None:
        require(by, "export")
    if out.is_dir() and any(out.iterdir()):
        raise StoreError(f"{str(out)!r} is not empty; give a new folder for the training set")
    labelled: list[_Labelled] = []
    left = {"unchecked": 0, "without_frame": 0, "unclassified": 0}
    for film in films:
        group = new_name()
        standing = {each.film_cell: each for each in store.films.cells(film)}
        for field in store.films.fields(film):
            if not field.shown and field.frame_file is None:
                continue
            found = store.films.cells(film, field.index, every=True)
            cells = [_as_counted(each, standing) for each in found]
            cells = [each for each in cells if not each.rejected]
            why = _why_not(field, cells, by_class)
            if why is not None:
                left[why] += 1
                continue
            labelled.append(_labelled(field, cells, group, by_class))
    if not labelled:
        raise RecordError(
            f"training set: no usable field in {len(films)} films ({left['unchecked']} not "
            f"checked, {left['without_frame']} not kept at full size, {left['unclassified']} with "
            "cells of no sure class); look fields through and mark them as checked"
        )
    names = {name for each in labelled for name, _ in each.cells}
    classes = tuple(sorted(names)) if by_class else (WHITE_CELL,)
    prepare_folder(out)
    prepare_folder(out / "images")
    for each in labelled:
        picture = store.pictures.read(each.film, each.file)
        _write(out / "images" / f"{each.name}.jpg", picture)
    (_write_yolo if layout == "yolo" else _write_coco)(out, labelled, classes)
    _write(out / "groups.csv", _groups(labelled))
    for film in dict.fromkeys(each.film for each in labelled):
        store.note_export(film, by, f"training set, {layout}")
    cells_written = sum(len(each.cells) for each in labelled)
    return TrainingSet(len(labelled), cells_written, classes, **left)


def _as_counted(cell: StoredCell, standing: Mapping[int | None, StoredCell]) -> StoredCell:
    """A repeat is what people say of the cell that it shows."""
    if cell.counts or cell.film_cell is None:
        return cell
    shown = standing[cell.film_cell]
    return replace(cell, given_class=shown.shown_class, rejected=shown.rejected)


def _why_not(
    field: StoredField, cells: Sequence[StoredCell], by_class: bool
) -> Literal["unchecked", "without_frame", "unclassified"] | None:
    if not field.checked:
        return "unchecked"
    if field.frame_file is None:
        return "without_frame"
    if by_class and any(each.shown_class == UNCLASSIFIED for each in cells):
        return "unclassified"
    return None


def _labelled(
    field: StoredField, cells: Sequence[StoredCell], group: str, by_class: bool
) -> _Labelled:
    width, height = field.width or 0, field.height or 0
    return _Labelled(
        film=field.film,
        file=field.frame_file or "",
        name=f"{group}_{field.index:04d}",
        group=group,
        size=(width, height),
        cells=tuple(
            (each.shown_class if by_class else WHITE_CELL, _inside(each.box_xyxy, width, height))
            for each in cells
        ),
    )


def _inside(
    box: tuple[float, float, float, float], width: int, height: int
) -> tuple[float, float, float, float]:
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
    return x1, y1, x2, y2


def _write_yolo(out: Path, labelled: Sequence[_Labelled], classes: Sequence[str]) -> None:
    prepare_folder(out / "labels")
    number = {name: place for place, name in enumerate(classes)}
    for each in labelled:
        width, height = each.size
        lines = []
        for name, (x1, y1, x2, y2) in each.cells:
            parts = (
                (x1 + x2) / 2 / width,
                (y1 + y2) / 2 / height,
                (x2 - x1) / width,
                (y2 - y1) / height,
            )
            numbers = " ".join(f"{part:.{_BOX_DECIMALS}f}" for part in parts)
            lines.append(f"{number[name]} {numbers}\n")
        # An empty file says that the field shows no cell.
        _write(out / "labels" / f"{each.name}.txt", "".join(lines).encode())
    _write(out / "classes.txt", "".join(f"{name}\n" for name in classes).encode())


def _write_coco(out: Path, labelled: Sequence[_Labelled], classes: Sequence[str]) -> None:
    number = {name: place for place, name in enumerate(classes, start=1)}
    annotations: list[dict[str, Any]] = []
    for image, each in enumerate(labelled, start=1):
        for name, (x1, y1, x2, y2) in each.cells:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": number[name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    document = {
        "images": [
            {
                "id": image,
                "file_name": f"{each.name}.jpg",
                "width": each.size[0],
                "height": each.size[1],
            }
            for image, each in enumerate(labelled, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": number[name], "name": name} for name in classes],
    }
    prepare_folder(out / "annotations")
    text = utf8(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    _write(out / "annotations" / "instances_default.json", text)


def _groups(labelled: Sequence[_Labelled]) -> bytes:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("image", "group"))
    writer.writerows((f"{each.name}.jpg", each.group) for each in labelled)
    return lines.getvalue().encode()


def _write(path: Path, content: bytes) -> None:
    with replacing(path, durable=False) as file:
        file.write(content)
