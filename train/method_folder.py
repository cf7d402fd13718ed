"""The pictures of a method's run: read, told apart, and laid out for ultralytics.

Owns which pictures of which side a run may see, and their folders. Does not own reading a
data set (see ``datasets``) nor who is given which folder (see ``method_run``).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.fields import IMAGE_SUFFIXES
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import read_image
from edge_runtime.types import UInt8Image
from train.attridet_folder import OWN, link_picture, read_fields, write_split
from train.attridet_recipe import FieldsSpec
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.patches import PATCH_FILE, write_patches
from train.datasets.yolo_folders import class_file, class_names
from train.run_folder import storing

# Marks a folder that was written to its end.
WRITTEN = "written"
# Pictures whose mean colour is taken; the mean of so many no longer moves.
_FOR_THE_MEAN = 60


def read_several(specs: Sequence[FieldsSpec], root: Path, seed: int) -> LabelledSet:
    """Several sets with the same classes as one.

    Raises:
        DataError: their classes differ, or see ``read_fields``.
    """
    sets = [read_fields(spec, root, seed=seed) for spec in specs]
    for each in sets[1:]:
        if each.classes != sets[0].classes:
            raise DataError(
                f"{each.root}: classes {', '.join(each.classes)}; {sets[0].root} has "
                f"{', '.join(sets[0].classes)}; give both the same `classes`"
            )
    if len(sets) == 1:
        return sets[0]
    schema = sets[0].attributes
    if any(each.attributes != schema for each in sets):
        # The head learns from sets that agree on what it is to say.
        sets = [_without_attributes(each) for each in sets]
    return sets[0].with_images(tuple(image for each in sets for image in each.images))


def _without_attributes(fields: LabelledSet) -> LabelledSet:
    images = tuple(
        replace(each, attributes=np.zeros((len(each), 0), np.int64)) for each in fields.images
    )
    return replace(fields, attributes=None, images=images)


def target_pictures(spec: FieldsSpec, root: Path, *, seed: int = 0) -> list[Path]:
    """The training pictures of a target, by name; of a folder of one's own no label is opened.

    A folder of one's own has ``images/train``, or pictures in it and nothing else.

    Raises:
        DataError: no folder, or no picture in it.
    """
    if spec.dataset != OWN:
        found = read_fields(spec, root, seed=seed)
        return [each.image for each in found.usable("train")]
    folder = root / spec.path
    place = folder / "images" / "train"
    place = place if place.is_dir() else folder
    if not place.is_dir():
        raise DataError(f"target {folder}: no such folder; mend the recipe or --data")
    pictures = sorted(p for p in place.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not pictures:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"target {place}: no picture in it ({known}); adaptation needs some")
    most = spec.most.get("train")
    if most is not None and most < len(pictures):
        # As ``read_fields`` draws, so that both mean the same pictures.
        rng = np.random.default_rng([seed, *b"train"])
        pictures = [pictures[i] for i in sorted(rng.permutation(len(pictures))[:most])]
    return pictures


def all_pictures(spec: FieldsSpec, root: Path, *, seed: int = 0) -> list[Path]:
    """The pictures of a target's every split; of a folder of one's own no label is opened."""
    if spec.dataset != OWN:
        return [each.image for each in read_fields(spec, root, seed=seed).images]
    folder = root / spec.path
    place = folder / "images"
    files = place.rglob("*") if place.is_dir() else folder.iterdir()
    return sorted(p for p in files if p.suffix.lower() in IMAGE_SUFFIXES)


def require_alike(source: LabelledSet, spec: FieldsSpec, root: Path) -> None:
    """Refuses a target whose own list of classes, where it has one, is not the source's.

    No label is opened for it. Nothing would be learnt wrongly, but nothing could be judged.

    Raises:
        DataError: the lists differ.
    """
    file = class_file(root / spec.path) if spec.dataset == OWN else None
    names = None if file is None or spec.classes is not None else class_names(file)
    if names and tuple(names) != source.classes:
        raise DataError(
            f"{file}: classes {', '.join(names)}; the source has {', '.join(source.classes)}; "
            "give both the same `classes`"
        )


def require_apart(source: LabelledSet, pictures: Sequence[Path], target: FieldsSpec) -> None:
    """Refuses pictures that are in both, by content.

    Args:
        source: every split of it.
        pictures: of the target, also those that it is judged on.
        target: for the error's line.

    Raises:
        DataError: one is.
    """
    known = {_digest(each.image): each.image for each in source.images}
    for picture in pictures:
        same = known.get(_digest(picture))
        if same is not None:
            raise DataError(
                f"target {target.path}: {picture.name} is the source's {same.name}, byte "
                "by byte; source and target must not share pictures: remove it from one"
            )


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def mean_colour(images: Sequence[LabelledImage]) -> tuple[float, float, float]:
    """Mean RGB in 0..1 over pictures spread evenly through a set."""
    chosen = images[:: max(len(images) // _FOR_THE_MEAN, 1)]
    means = [_pixels(each.image).reshape(-1, 3).mean(axis=0) / 255 for each in chosen]
    red, green, blue = np.mean(means, axis=0).tolist()
    return (red, green, blue)


def _pixels(picture: Path) -> UInt8Image:
    try:
        return read_image(picture)
    except FrameError as error:
        raise DataError(f"{picture}: {error}; copy the data again, or remove it") from error


def require_readable(pictures: Iterable[Path]) -> None:
    """Reads every picture once.

    Of a truncated one ultralytics makes grey filling or leaves it out, and of what is no
    picture it makes an exception in the middle of an epoch.

    Raises:
        DataError: one cannot be used.
    """
    for picture in pictures:
        _pixels(picture)


def write_labelled(fields: LabelledSet, folder: Path) -> None:
    """Training and validation pictures with labels and patches; replaces what was there."""
    for split in ("train", "val"):
        if not fields.of_split(split):
            raise DataError(f"{fields.root}: no picture in split {split!r}; check the data set")
    with storing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _, placed = write_split(fields, "train", folder, patched=True)
        # Only the last epoch looks at these, and chooses nothing by them.
        write_split(fields, "val", folder, patched=True)
        write_patches(folder / PATCH_FILE, placed)
        (folder / WRITTEN).write_text("")


def write_pictures(pictures: Sequence[Path], folder: Path) -> Path:
    """Pictures alone; replaces what was there."""
    place = folder / "images" / "train"
    with storing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        place.mkdir(parents=True)
        for number, picture in enumerate(pictures):
            link_picture(picture, place / f"{number:06d}_{picture.stem}{picture.suffix}")
    return place
