"""What annotation files of whole sets (COCO, CVAT) have in common: pictures, sizes, boxes.

Owns finding a picture by the name that a file gives it, pictures that no file names, and
checking a box in pixels. Does not own any format (see ``coco_file`` and ``cvat_file``).
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from calibration.fields import parse_box_row
from edge_runtime.errors import DataError
from edge_runtime.image_file import IMAGE_SUFFIXES
from train.datasets.labelled import LabelledImage, no_cells

# A bound that no picture reaches: files can hold integers that no float does.
LARGEST_NUMBER = 1e9
_LONGEST_SHOWN = 100


@dataclass(slots=True)
class AnnotatedPicture:
    """One picture as its file describes it; rows are ``(class id, (cx, cy, w, h))``.

    Attributes:
        size_px: width and height as the file says.
    """

    path: Path
    split: str
    size_px: tuple[int, int]
    rows: list[tuple[int, tuple[float, float, float, float]]] = field(default_factory=list)

    def add_box(self, class_id: int, x: float, y: float, width: float, height: float) -> None:
        """Takes a box in pixels, left, top, width, height.

        Raises:
            DataError: why the box is none, without the name of a file.
        """
        columns, rows = self.size_px
        numbers = (
            (x + width / 2) / columns,
            (y + height / 2) / rows,
            width / columns,
            height / rows,
        )
        row, why = parse_box_row([str(class_id), *(repr(each) for each in numbers)], class_id + 1)
        if row is None:
            raise DataError(why)
        self.rows.append(row)

    def labelled(self, domain: str) -> LabelledImage:
        """The record that every reader gives."""
        arrays = no_cells(0)
        if self.rows:
            class_ids, boxes = zip(*self.rows, strict=True)
            arrays = (
                np.array(boxes, np.float32),
                np.array(class_ids, np.int64),
                np.zeros((len(self.rows), 0), np.int64),
            )
        return LabelledImage(self.path, self.split, domain, *arrays, size_px=self.size_px)


def pictures_below(root: Path) -> list[Path]:
    """Image files in a folder and its sub-folders; hidden ones are left out."""
    return sorted(
        each
        for each in root.rglob("*")
        if each.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in each.relative_to(root).parts)
        and each.is_file()
    )


def unmentioned(root: Path, used: Container[Path]) -> tuple[str, ...]:
    """A note on pictures that an annotation file says nothing of; empty without any."""
    left = [each for each in pictures_below(root) if each not in used]
    if not left:
        return ()
    return (
        f"{len(left)} pictures in {root} are not in its labels and are left out, such as "
        f"{left[0].relative_to(root)}",
    )


def find_picture(name: str, root: Path, file: Path, subset: str | None = None) -> Path:
    """The picture that an annotation file means.

    Tools lay pictures beside the file, in ``images``, or in a folder named after the subset.

    Args:
        name: as the file gives it, perhaps with folders.
        root: the set's folder; nothing outside it is looked at.
        file: the annotation file.
        subset: its own name of the subset, such as ``train`` or ``default``.

    Raises:
        DataError: no such picture, several, or the name leaves the folder; without the name of
            the annotation file.
    """
    relative = PurePosixPath(name.replace("\\", "/"))
    drive = re.match(r"[A-Za-z]:[\\/]", name)
    if relative.is_absolute() or ".." in relative.parts or drive or not relative.parts:
        raise DataError(
            f"picture {_shown(name)} leaves the folder {root}; export with pictures, named "
            "relative to it"
        )
    folders = [file.parent, root, root / "images", file.parent / "images"]
    if subset:
        folders += [root / "images" / subset, root / subset, root / subset / "images"]
    found = {each / relative for each in folders if _is_file(each / relative)}
    if not found:
        raise DataError(
            f"picture {_shown(name)}: no such file below {root}; export with the pictures"
        )
    if len(found) > 1:
        shown = ", ".join(sorted(str(each.relative_to(root)) for each in found))
        raise DataError(f"picture {_shown(name)}: several files of that name: {shown}; keep one")
    return found.pop()


def _shown(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}...")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A name that no file system takes, such as a picture's content in place of its name.
        return False
