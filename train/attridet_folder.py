"""The pictures of a recipe: read, chosen, and laid out as ultralytics wants them.

Owns which pictures and classes a recipe means, and the folder: five-column labels, with
attributes in sidecars (see ``attributed_dataset``). Does not own reading a data set (see
``datasets``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from edge_runtime.errors import DataError, SettingsError, StoreError
from train.attribute_files import DATA_KEY, write_attributes
from train.attridet_recipe import SPLITS, AttributeOptions, AttriDetRecipe, FieldsSpec, Phase
from train.datasets import yolo_set
from train.datasets.catalog import read_dataset
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.splits import with_validation
from train.models.attridet import AttriDetSettings

RECORD = "folder.json"
# A folder that describes itself, in place of a name of the catalogue.
OWN = "own"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def read_fields(spec: FieldsSpec, root: Path, *, seed: int = 0) -> LabelledSet:
    """The pictures that a recipe means, with splits ``train``, ``val`` and ``test``.

    What another data set tests on is in neither ``train`` nor ``val``.

    Args:
        spec: which.
        root: the data root.
        seed: of validation draws and of ``most``.

    Raises:
        DataError: the folder is missing or not this data set, or rows are bad.
        SettingsError: no such data set, mapping or class.
    """
    if spec.dataset == OWN:
        if spec.mapping is not None:
            raise SettingsError(f"fields {spec.path}: a folder of one's own has no mappings")
        found = yolo_set.read(root / spec.path).require_clean()
    else:
        found = read_dataset(spec.dataset, root / spec.path, mapping=spec.mapping).require_clean()
    if spec.classes is not None:
        found = _with_classes(found, spec.classes, others=spec.others)
    if not found.of_split("val"):
        found = with_validation(
            found, "random" if spec.validation == "own" else spec.validation, seed=seed
        )
    chosen: list[LabelledImage] = []
    for split in SPLITS:
        images = found.of_split(split) if split == "test" else found.usable(split)
        most = spec.most.get(split)
        if most is not None and most < len(images):
            # Named by split, so that another size of one leaves the others as they are.
            rng = np.random.default_rng([seed, *split.encode()])
            images = tuple(images[i] for i in sorted(rng.permutation(len(images))[:most]))
        chosen += images
    return found.with_images(tuple(chosen))


def _with_classes(
    found: LabelledSet, classes: tuple[str, ...], *, others: Literal["leave_out", "background"]
) -> LabelledSet:
    unknown = [name for name in classes if name not in found.classes]
    if unknown:
        raise SettingsError(
            f"classes: {found.name} has no {unknown[0]!r}; it has {', '.join(found.classes)}"
        )
    table = np.array(
        [classes.index(name) if name in classes else -1 for name in found.classes], np.int64
    )
    images = []
    for each in found.images:
        ids = table[each.class_ids]
        images.append(replace(each.select(ids >= 0), class_ids=ids[ids >= 0]))
    if others == "background":
        return replace(found, classes=classes, images=tuple(images))
    # A picture whose cells are all of other classes is not one without cells: what is in it
    # would be taught to be background.
    kept = tuple(
        now for before, now in zip(found.images, images, strict=True) if len(now) == len(before)
    )
    return replace(found, classes=classes, images=kept)


def identity(recipe: AttriDetRecipe) -> str:
    """A digest of what decides the folder's contents."""
    deciding = {
        "fields": recipe.fields.model_dump(mode="json"),
        "seed": recipe.seed,
        "data_root": recipe.data_root,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def write_folder(recipe: AttriDetRecipe, fields: LabelledSet, folder: Path) -> dict[str, Any]:
    """Lays out pictures, labels and sidecars; what was there before is replaced.

    Pictures are links where the system makes them, else copies. A row that stands twice in
    a picture is written once: ultralytics would drop it without its attributes.

    Returns:
        The record that is also written to ``folder.json``: counts per split and class.

    Raises:
        DataError: no picture to train on, cells without extents, or a picture of which only
            a part is labelled.
        StoreError: the folder cannot be written.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise StoreError(f"{folder}: holds other files; choose another --out")
    for split in SPLITS[:2]:
        if not fields.of_split(split):
            raise DataError(f"{fields.root}: no picture in split {split!r}; check the data set")
    counts: dict[str, Any] = {}
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        # First, so that a folder that was left half written is known to be one of ours.
        (folder / RECORD).write_text("{}\n")
        for split in SPLITS[:2]:
            counts[split], _ = write_split(fields, split, folder)
        record = {"identity": identity(recipe), "classes": list(fields.classes), "splits": counts}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}; choose another --out") from error
    return record


def is_written_for(recipe: AttriDetRecipe, folder: Path) -> bool:
    """Whether a whole folder of this very recipe lies there."""
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return False
    return bool(record.get("identity") == identity(recipe))


def write_split(
    fields: LabelledSet, split: str, folder: Path, *, patched: bool = False
) -> tuple[dict[str, Any], list[LabelledImage]]:
    """Writes pictures, labels and sidecars of one split.

    Args:
        fields: what to write.
        split: which pictures of it.
        folder: gains ``images/<split>`` and ``labels/<split>``.
        patched: pictures of which a part is labelled are welcome.

    Returns:
        Counts, and the pictures as they lie in the folder now.

    Raises:
        DataError: cells without extents, or a picture of which only a part is labelled.
    """
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    cells: dict[str, int] = defaultdict(int)
    twice = 0
    placed: list[LabelledImage] = []
    for number, each in enumerate(fields.of_split(split)):
        _check(each, patched=patched)
        # Numbered: subsets of one data set name their pictures alike.
        name = f"{number:06d}_{each.image.stem}"
        picture = images / f"{name}{each.image.suffix}"
        link_picture(each.image, picture)
        rows = [
            f"{label} " + " ".join(f"{value:.6f}" for value in box)
            for label, box in zip(each.class_ids.tolist(), each.boxes_xywhn.tolist(), strict=True)
        ]
        first = [place for place, row in enumerate(rows) if row not in rows[:place]]
        twice += len(rows) - len(first)
        (labels / f"{name}.txt").write_text("".join(rows[place] + "\n" for place in first))
        for place in first:
            cells[fields.classes[int(each.class_ids[place])]] += 1
        if fields.attributes is not None:
            write_attributes(picture, each.attributes[first], fields.attributes)
        placed.append(replace(each, image=picture))
    counts = {
        "pictures": len(placed),
        "cells": {name: cells[name] for name in fields.classes},
        "rows_written_once": twice,
    }
    return counts, placed


def _check(image: LabelledImage, *, patched: bool) -> None:
    if image.patch_xyxyn is not None and not patched:
        raise DataError(
            f"{image.image}: only a part of it is labelled, and AttriDet would learn the rest "
            "as background; this data set needs a training on sparse labels"
        )
    if not image.extents_known:
        raise DataError(f"{image.image}: its labels are centres without extents, no boxes")


def link_picture(source: Path, target: Path) -> None:
    """A link; a copy where the system makes none, or where ultralytics would write through it.

    Ultralytics takes a JPEG with something behind its end, as phones write them, for damaged and
    saves it anew, through a link as well. The user's own files are not ours to change.
    """
    try:
        if _ends_as_it_should(source):
            os.symlink(source.resolve(), target)
            return
    except (OSError, NotImplementedError):
        # Windows without the privilege, or a file system without links.
        pass
    shutil.copyfile(source, target)


def _ends_as_it_should(picture: Path) -> bool:
    with picture.open("rb") as handle:
        if handle.read(2) != _JPEG_START:
            return True
        handle.seek(-2, os.SEEK_END)
        return handle.read(2) == _JPEG_END


def write_data_yaml(
    recipe: AttriDetRecipe, fields: LabelledSet, folder: Path, phase: Phase, file: Path
) -> Path:
    """The data YAML of one phase, with the attribute head's settings.

    Raises:
        SettingsError: attributes are wanted, and the data set has none.
    """
    document: dict[str, Any] = {
        "path": str(folder.resolve()),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(fields.classes)),
    }
    if recipe.attributes is not False:
        document |= attribute_section(recipe.attributes, fields, phase, recipe.name)
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def attribute_section(
    options: AttributeOptions, fields: LabelledSet, phase: Phase, recipe: str
) -> dict[str, Any]:
    """What a data YAML says of the attribute head.

    Args:
        options: of the head.
        fields: whose attributes it learns.
        phase: which it is for.
        recipe: name for the error's line.

    Raises:
        SettingsError: the data set has no attributes.
    """
    if fields.attributes is None:
        raise SettingsError(
            f"recipe {recipe}: {fields.name} has no attributes; set attributes: false"
        )
    settings = AttriDetSettings(
        attributes=fields.attributes, fresh_head=phase.fresh_head, **options.model_dump()
    )
    return {DATA_KEY: settings.model_dump(mode="json")}
