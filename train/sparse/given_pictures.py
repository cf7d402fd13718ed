"""Sparsely labelled pictures as the two plain baselines want them: painted over, or cut out.

Owns writing these pictures. Does not own what a patch's pixels and labels are (see
``draw_patches``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge_runtime.errors import DataError, FrameError, StoreError
from edge_runtime.image_file import read_image
from edge_runtime.types import UInt8Image
from train.datasets.labelled import LabelledImage, LabelledSet
from train.sparse.draw_patches import crop_to_patch, masked_pixels


def masked_of(fields: LabelledSet, folder: Path) -> LabelledSet:
    """The set with training pictures grey outside their patches, as whole pictures.

    Args:
        fields: training pictures have a patch.
        folder: an existing one for the new pictures.

    Raises:
        DataError: an unreadable picture.
        StoreError: the folder cannot be written.
    """
    images = []
    for number, each in enumerate(fields.images):
        if each.patch_xyxyn is None:
            images.append(each)
            continue
        painted = masked_pixels(_pixels(each), each.patch_xyxyn)
        written = _write(painted, folder, number, each)
        images.append(replace(each, image=written, patch_xyxyn=None))
    return fields.with_images(tuple(images))


def crops_of(fields: LabelledSet, folder: Path) -> LabelledSet:
    """The set with training patches as pictures of their own; validation pictures stay.

    Args, raises: as ``masked_of``.
    """
    images = []
    for number, each in enumerate(fields.images):
        if each.patch_xyxyn is None:
            images.append(each)
            continue
        # Numbers in place of classes: which cells stay is known then, attributes with them.
        numbered = replace(each, class_ids=np.arange(len(each), dtype=np.int64))
        pixels, boxes, kept = crop_to_patch(numbered, _pixels(each))
        height, width = pixels.shape[:2]
        images.append(
            replace(
                each.select(kept),
                image=_write(pixels, folder, number, each),
                boxes_xywhn=boxes,
                patch_xyxyn=None,
                size_px=(width, height),
            )
        )
    return fields.with_images(tuple(images))


def _pixels(image: LabelledImage) -> UInt8Image:
    try:
        return read_image(image.image)
    except FrameError as error:
        raise DataError(f"{image.image}: {error}; copy the data again") from error


def _write(pixels: UInt8Image, folder: Path, number: int, image: LabelledImage) -> Path:
    # Without loss: a second JPEG would be a domain of its own.
    file = folder / f"{number:06d}_{image.image.stem}.png"
    if not cv2.imwrite(str(file), np.ascontiguousarray(pixels[:, :, ::-1])):
        raise StoreError(f"{file}: cannot be written; free space or choose another --out")
    return file
