"""Pictures with one text label file each, as most published detection sets come.

Owns finding pictures, label files, splits and the class order of such a folder. Does not own
rows (see ``label_rows``) nor what a data set makes of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from edge_runtime.errors import DataError
from edge_runtime.image_file import IMAGE_SUFFIXES
from train.datasets.label_rows import LabelRow, parse_label_rows
from train.datasets.schemas import DatasetSpec

SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_CLASS_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt")


@dataclass(frozen=True, slots=True)
class YoloField:
    """One picture and the rows of its label file; ``label`` is None where there is no file."""

    image: Path
    label: Path | None
    split: str
    rows: tuple[LabelRow, ...]


@dataclass(slots=True)
class YoloFolder:
    """What one folder holds."""

    fields: list[YoloField] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def child_folder(parent: Path, name: str) -> Path | None:
    """The sub-folder of that name, upper or lower case; the exact name first."""
    if (parent / name).is_dir():
        return parent / name
    if not parent.is_dir():
        return None
    found = [each for each in sorted(parent.iterdir()) if each.name.lower() == name]
    return next((each for each in found if each.is_dir()), None)


def pictures_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, by name; hidden files are left out."""
    return sorted(
        each
        for each in folder.iterdir()
        if each.suffix.lower() in IMAGE_SUFFIXES and not each.name.startswith(".")
    )


def is_yolo_folder(base: Path) -> bool:
    """Whether pictures and label files lie here in one of the usual ways."""
    return any(True for _ in _places(base))


def subset_folders(root: Path) -> list[Path]:
    """``root`` itself, or its sub-folders, as far as they hold pictures with labels."""
    if not root.is_dir():
        return []
    candidates = [root, *sorted(each for each in root.iterdir() if each.is_dir())]
    if is_yolo_folder(root):
        return [root]
    return [each for each in candidates[1:] if is_yolo_folder(each)]


def read_yolo_folder(base: Path, spec: DatasetSpec) -> YoloFolder:
    """All pictures of one folder with their rows.

    Raises:
        DataError: the folder's own class list is not that of the data set.
    """
    found = YoloFolder()
    order = _class_order(base, spec, found)
    widths: Counter[int] = Counter()
    without = 0
    for split, images, labels in _places(base):
        texts = {each.stem: each for each in sorted(labels.glob("*.txt"))}
        texts.pop("classes", None)
        named: dict[str, Path] = {}
        for image in pictures_in(images):
            if image.stem in named:
                found.bad.append(
                    f"{image}: a second picture of this name beside {named[image.stem].name}; "
                    f"they would share one label file"
                )
                continue
            named[image.stem] = image
            label = texts.get(image.stem)
            rows: list[LabelRow] = []
            if label is None:
                without += 1
            else:
                rows, bad, width = parse_label_rows(label, spec, order)
                found.bad += bad
                widths.update([] if width is None else [width])
            found.fields.append(YoloField(image, label, split, tuple(rows)))
        found.bad += [
            f"{text}:1: labels without a picture {images / text.stem}.*"
            for stem, text in texts.items()
            if stem not in named
        ]
    found.bad += [
        f"{odd}: no known split; name it one of {', '.join(SPLIT_NAMES)}" for odd in _odd(base)
    ]
    if widths and len(spec.layouts) > 1:
        shown = ", ".join(f"{width} in {count} files" for width, count in sorted(widths.items()))
        found.notes.append(f"{base.name}: columns: {shown}")
    if without:
        found.notes.append(f"{base.name}: {without} pictures without a label file: without cells")
    return found


def _places(base: Path) -> Iterator[tuple[str, Path, Path]]:
    """Split, folder of pictures, folder of labels."""
    images, labels = child_folder(base, "images"), child_folder(base, "labels")
    if images is not None and labels is not None:
        for name, split in SPLIT_NAMES.items():
            one, other = child_folder(images, name), child_folder(labels, name)
            if one is not None and other is not None:
                yield split, one, other
        if pictures_in(images):
            yield "all", images, labels
    for name, split in SPLIT_NAMES.items():
        part = child_folder(base, name)
        if part is not None:
            one, other = child_folder(part, "images"), child_folder(part, "labels")
            if one is not None and other is not None:
                yield split, one, other


def _odd(base: Path) -> list[Path]:
    """Sub-folders of the pictures that no split explains."""
    images, labels = child_folder(base, "images"), child_folder(base, "labels")
    if images is None:
        return []
    odd = []
    for each in sorted(images.iterdir()):
        name = each.name.lower()
        known = name in SPLIT_NAMES and labels is not None and child_folder(labels, name)
        if each.is_dir() and not known and pictures_in(each):
            odd.append(each)
    return odd


def _class_order(base: Path, spec: DatasetSpec, found: YoloFolder) -> tuple[int, ...]:
    """Class id in the label files to class id of the data set."""
    usual = tuple(range(len(spec.classes)))
    file = class_file(base)
    names = None if file is None else class_names(file)
    if file is None or names is None:
        found.notes.append(f"{base.name}: no class list beside the labels; taking {spec.name}'s")
        return usual
    if tuple(names) == spec.classes:
        # Names in other scripts, or that differ in punctuation alone, have no plain form.
        return usual
    plain = {plain_name(name): i for i, name in enumerate(spec.classes)}
    order = tuple(plain.get(plain_name(name), -1) for name in names)
    if sorted(order) != list(usual):
        raise DataError(
            f"{file}: its classes are not those of {spec.name}: {', '.join(names)}; "
            f"expected {', '.join(spec.classes)}"
        )
    if order != usual:
        found.notes.append(f"{file}: classes in another order, taken by name")
    return order


def class_file(base: Path) -> Path | None:
    """The file beside the labels that may name their classes."""
    return next((base / name for name in _CLASS_FILES if (base / name).is_file()), None)


def class_names(file: Path) -> list[str] | None:
    """Class names in the order of their ids, or None where the file has none.

    Raises:
        DataError: the file cannot be read, or numbers its classes with gaps.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix in (".txt", ".names"):
            return _listed_names(file, text)
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{file}: names: expected the numbers 0 to {len(names) - 1}")
        names = [names[i] for i in range(len(names))]
    return [str(name) for name in names] if isinstance(names, list) else None


def _listed_names(file: Path, text: str) -> list[str]:
    """One name a line; a line's place is the class's number, so none may be empty."""
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names:
        raise DataError(
            f"{file}:{names.index('') + 1}: an empty line, so that the numbers of the classes "
            "after it are not known; remove it, or name the class"
        )
    return names


def plain_name(name: str) -> str:
    """A class name without case, blanks and punctuation, in which spellings differ."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
