"""A labelled set in YOLO layout that describes itself, and writing one.

Owns what the folder says about itself: classes and attribute schema in ``data.yaml``, values in
sidecars (see ``attribute_files``), patches in ``patches.csv``. Does not own label rows (see
``label_rows``) nor published sets, which ``schemas.yaml`` describes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edge_runtime.attributes import AttributeSchema
from edge_runtime.errors import DataError
from train.attribute_files import DATA_KEY, attribute_file, read_attributes, write_attributes
from train.datasets.label_rows import cell_arrays
from train.datasets.labelled import LabelledImage, LabelledSet, no_cells
from train.datasets.patches import PATCH_FILE, read_patches, write_patches
from train.datasets.schemas import BOX_COLUMNS, DatasetSpec
from train.datasets.yolo_folders import class_file, class_names, is_yolo_folder, read_yolo_folder

DATA_YAML = "data.yaml"


def read(root: Path) -> LabelledSet:
    """Reads the folder; bad rows are listed in the set (see ``LabelledSet.require_clean``).

    Raises:
        DataError: no such folder, nothing that names its classes, or a bad schema or sidecar.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if not is_yolo_folder(root):
        raise DataError(
            f"{root}: expected images and labels folders, perhaps with train, val, test"
        )
    file = class_file(root)
    names = None if file is None else class_names(file)
    if not names:
        raise DataError(f"{root}: no data.yaml with the names of its classes; write one")
    schema = None if file is None else _attribute_schema(file)
    # Attributes stand in sidecars, so a label row has five columns here.
    spec = DatasetSpec(name="own", title="own", classes=tuple(names), layouts=(BOX_COLUMNS,))
    folder = read_yolo_folder(root, spec)
    bad, notes = list(folder.bad), list(folder.notes)
    patch_file = root / PATCH_FILE
    known = {(each.split, each.image.name) for each in folder.fields}
    patches, bad_patches = read_patches(patch_file, known) if patch_file.is_file() else ({}, [])
    images = []
    for each in folder.fields:
        boxes, class_ids, values = cell_arrays(list(each.rows), 0)
        if schema is not None:
            sidecar = attribute_file(each.image)
            if len(boxes) or sidecar.is_file():
                values = read_attributes(each.image, schema)
            else:
                values = no_cells(len(schema.attributes))[2]
            if len(values) != len(boxes):
                bad.append(f"{sidecar}:1: {len(values)} rows for {len(boxes)} cells")
                continue
        patch = patches.get((each.split, each.image.name))
        images.append(
            LabelledImage(
                each.image, each.split, root.name, boxes, class_ids, values, patch_xyxyn=patch
            )
        )
    return LabelledSet(
        "own", root, spec.classes, schema, tuple(images), (*bad, *bad_patches), (), tuple(notes)
    )


@dataclass(frozen=True, slots=True)
class YoloSetWriter:
    """Writes labelled pictures one by one, then what describes them.

    Attributes:
        root: an existing folder.
    """

    root: Path
    classes: tuple[str, ...]
    attributes: AttributeSchema | None

    def place(self, kind: str, split: str, name: str) -> Path:
        """Path of a file of a picture: ``images``, ``labels`` or another kind of folder."""
        folder = self.root / kind
        # Pictures without a split lie in the folder itself.
        folder = folder if split == "all" else folder / split
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def add(self, labelled: LabelledImage, content: bytes) -> Path:
        """Writes picture, five-column rows and sidecar; returns the picture's path."""
        image = self.place("images", labelled.split, labelled.image.name)
        image.write_bytes(content)
        rows = [
            f"{class_id} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n"
            for class_id, (cx, cy, w, h) in zip(
                labelled.class_ids, labelled.boxes_xywhn, strict=True
            )
        ]
        label = self.place("labels", labelled.split, f"{labelled.image.stem}.txt")
        label.write_text("".join(rows), encoding="utf-8")
        if self.attributes is not None:
            write_attributes(image, labelled.attributes, self.attributes)
        return image

    def finish(self, images: Iterable[LabelledImage]) -> None:
        """Writes ``patches.csv`` and ``data.yaml`` for all pictures that were added."""
        images = list(images)
        write_patches(self.root / PATCH_FILE, images)
        splits = {each.split for each in images}
        document: dict[str, Any] = {"path": str(self.root.resolve())}
        document |= {
            split: f"images/{split}" for split in ("train", "val", "test") if split in splits
        }
        if "all" in splits:
            document.setdefault("train", "images")
        document |= {"nc": len(self.classes), "names": dict(enumerate(self.classes))}
        if self.attributes is not None:
            document[DATA_KEY] = {"attributes": self.attributes.model_dump(mode="json")}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        (self.root / DATA_YAML).write_text(text, encoding="utf-8")


def _attribute_schema(file: Path) -> AttributeSchema | None:
    if file.suffix == ".txt":
        return None
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    section = document.get(DATA_KEY) if isinstance(document, dict) else None
    if section is None:
        return None
    try:
        return AttributeSchema.model_validate(section["attributes"])
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"{file}: {DATA_KEY}: needs attributes with the schema of the sidecars"
        ) from error
