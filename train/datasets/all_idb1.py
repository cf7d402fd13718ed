"""ALL-IDB1: 108 fields with the centres of their lymphoblasts.

Owns its files: ``im/Im001_1.jpg`` and ``xyc/Im001_1.xyc``, where the last figure says whether
the field has blasts. It is a test set: nothing here is trained on. The public files have
centres and no boxes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import read_image
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.schemas import DatasetSpec
from train.datasets.yolo_folders import child_folder, pictures_in

_NAME = re.compile(r"Im\d+_(?P<blasts>[01])", re.IGNORECASE)


def read(root: Path, spec: DatasetSpec) -> LabelledSet:
    """Reads the folder; boxes have a centre and no extent.

    Raises:
        DataError: the folder is not this data set.
    """
    pictures, texts = child_folder(root, "im"), child_folder(root, "xyc")
    if pictures is None or texts is None:
        raise DataError(f"{root}: not an ALL-IDB1 folder; expected im/ and xyc/")
    images: list[LabelledImage] = []
    bad: list[str] = []
    named = pictures_in(pictures)
    for image in named:
        match = _NAME.fullmatch(image.stem)
        file = texts / f"{image.stem}.xyc"
        if match is None:
            bad.append(f"{image}: not named like Im001_0.jpg")
            continue
        if not file.is_file():
            bad.append(f"{file}: missing; every picture has one, empty without blasts")
            continue
        try:
            height, width = read_image(image).shape[:2]
        except FrameError as error:
            bad.append(f"{image}: {error}")
            continue
        centres, bad_here = _centres(file, width, height)
        bad += bad_here
        if not bad_here and bool(centres) != (match["blasts"] == "1"):
            bad.append(f"{file}:1: {len(centres)} blasts, but the name says {match['blasts']}")
        boxes = np.zeros((len(centres), 4), np.float32)
        boxes[:, :2] = np.array(centres, np.float32).reshape(-1, 2)
        images.append(
            LabelledImage(
                image,
                "test",
                spec.name,
                boxes,
                np.zeros((len(centres),), np.int64),
                np.zeros((len(centres), 0), np.int64),
                extents_known=False,
            )
        )
    stems = {each.stem for each in named}
    bad += [
        f"{file}:1: centres without a picture"
        for file in sorted(texts.glob("*.xyc"))
        if file.stem not in stems
    ]
    notes = ("a test set of blast centres, without boxes", "other white cells are not labelled")
    return LabelledSet.as_read(spec, root, images, bad, notes=notes)


def _centres(file: Path, width: int, height: int) -> tuple[list[tuple[float, float]], list[str]]:
    """Centres as fractions of the picture, and ``file:line: why`` of bad rows."""
    centres: list[tuple[float, float]] = []
    bad: list[str] = []
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{file}:1: cannot be read: {error}"]
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        try:
            x, y = (float(column) for column in columns)
        except ValueError:
            bad.append(f"{file}:{number}: expected x and y in pixels, got {line.strip()!r}")
            continue
        if 0 <= x <= width and 0 <= y <= height:
            centres.append((x / width, y / height))
        else:
            bad.append(f"{file}:{number}: ({x:g}, {y:g}) outside {width} x {height} px")
    return centres, bad
