"""LeukemiaAttri: twelve subsets of the same slides, boxes of 14 classes and six attributes.

Owns finding subsets and the group of a picture. Rows are read by ``label_rows``, annotations
in JSON by ``leukemia_attri_json``.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge_runtime.errors import DataError
from train.datasets.label_rows import cell_arrays
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.leukemia_attri_json import is_json_folder, read_json_folder
from train.datasets.schemas import DatasetSpec
from train.datasets.yolo_folders import is_yolo_folder, read_yolo_folder

# slide, field, magnification times ten, diagnosis: 18_33_1000_ALL.png
_NAME = re.compile(r"(?P<slide>\d+)_\d+_\d+_[A-Za-z]+")


def slide_of(image: Path) -> str | None:
    """The slide a picture was taken of, or None when its name does not tell."""
    match = _NAME.match(image.name)
    return match["slide"] if match else None


def read(root: Path, spec: DatasetSpec) -> LabelledSet:
    """Reads one subset, or a folder of several.

    Raises:
        DataError: the folder is not this data set.
    """
    images: list[LabelledImage] = []
    bad: list[str] = []
    notes: list[str] = []
    subsets = _subsets(root)
    for base in subsets:
        # The published files come in both forms; where both lie, the text files win.
        if is_yolo_folder(base):
            folder = read_yolo_folder(base, spec)
            for each in folder.fields:
                cells = cell_arrays(list(each.rows), len(spec.attribute_names))
                images.append(
                    LabelledImage(
                        each.image, each.split, base.name, *cells, group=slide_of(each.image)
                    )
                )
            bad += folder.bad
            notes += folder.notes
            if is_json_folder(base):
                notes.append(f"{base.name}: its annotations in JSON were not read")
        else:
            found, bad_here = read_json_folder(base, spec, slide_of)
            images += found
            bad += bad_here
    unknown = sum(each.group is None for each in images)
    warnings = [f"{unknown} file names do not tell the slide: group unknown"] if unknown else []
    subsets_found = f"{len(subsets)} subsets: {', '.join(each.name for each in subsets)}"
    return LabelledSet.as_read(
        spec, root, images, bad, warnings=warnings, notes=(subsets_found, *notes)
    )


def _subsets(root: Path) -> list[Path]:
    if root.is_dir():
        if is_yolo_folder(root) or is_json_folder(root):
            return [root]
        children = sorted(each for each in root.iterdir() if each.is_dir())
        found = [each for each in children if is_yolo_folder(each) or is_json_folder(each)]
        if found:
            return found
    raise DataError(
        f"{root}: not a LeukemiaAttri folder; expected images/<split> with labels/<split>, "
        f"Images/<split> with Annotations/<split>.json, or folders that hold one of these"
    )
