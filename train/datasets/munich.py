"""The single-cell pictures of LMU Munich: one folder per three-letter code.

Owns finding the codes. Does not own what they become in another class list: that is a mapping
(``A`` or ``B``) in ``schemas.yaml``, applied by ``LabelledSet.mapped``.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import DataError
from train.datasets.labelled import LabelledImage, LabelledSet, one_cell
from train.datasets.schemas import DatasetSpec
from train.datasets.yolo_folders import pictures_in

# The picture is the cell: its box is the whole of it.
_WHOLE = (0.5, 0.5, 1.0, 1.0)


def read(root: Path, spec: DatasetSpec) -> LabelledSet:
    """Reads the folder of code folders, or one whose only sub-folder holds them.

    Raises:
        DataError: no folder is named after a code.
    """
    base = _base(root, spec)
    images: list[LabelledImage] = []
    bad: list[str] = []
    for folder in sorted(each for each in base.iterdir() if each.is_dir()):
        if folder.name in spec.classes:
            class_id = spec.classes.index(folder.name)
            images += [
                LabelledImage(image, "all", spec.name, *one_cell(_WHOLE, class_id))
                for image in pictures_in(folder)
            ]
        elif pictures_in(folder):
            bad.append(f"{folder}: no code of {spec.name}; known: {', '.join(spec.classes)}")
    absent = [code for code in spec.classes if not (base / code).is_dir()]
    warnings = (f"no folder for {', '.join(absent)}",) if absent else ()
    notes = ("no splits and no patients: divide at random with a fixed seed",)
    return LabelledSet.as_read(spec, root, images, bad, warnings=warnings, notes=notes)


def _base(root: Path, spec: DatasetSpec) -> Path:
    if root.is_dir():
        children = sorted(each for each in root.iterdir() if each.is_dir())
        for base in (root, *children):
            if any((base / code).is_dir() for code in spec.classes):
                return base
    raise DataError(
        f"{root}: not the Munich data; expected a folder per code ({', '.join(spec.classes)})"
    )
