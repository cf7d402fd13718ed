"""A sparsely annotated set made of a fully labelled one, and its pictures for the baselines.

Owns drawing patches and what lies inside them. Does not own the patches' file (see
``datasets.patches``).

A cell is labelled when its centre lies in the patch, and then with its whole box, also where
that reaches beyond: so do people who annotate a patch, who see the rest of the cell too.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np

from edge_runtime.errors import SettingsError
from edge_runtime.types import Float32Array, Int64Array, UInt8Image
from train.datasets.labelled import LabelledImage, LabelledSet, Patch

# The published set: about a fifth of every picture is annotated.
SHARE = 0.20
# Width to height, in units of the picture's own.
ASPECT = (0.5, 2.0)
# Ultralytics' padding, so what is painted over looks like no picture at all.
_GREY = 114


def draw_patch(
    name: str, seed: int, share: float = SHARE, aspect: tuple[float, float] = ASPECT
) -> Patch:
    """One patch of a picture, the same for the same name and seed.

    The logarithm of its aspect ratio and its position are uniform; it lies inside the picture.

    Args:
        name: of the picture's file.
        seed: of the whole set.
        share: of the picture's area, above 0 and at most 1.
        aspect: least and greatest width to height, each as a fraction of the picture's own;
            narrowed where a patch of that share would not fit.

    Raises:
        SettingsError: a share or limits that no patch has.
    """
    if not 0 < share <= 1:
        raise SettingsError(f"share of patches {share:g}: give one above 0 and at most 1")
    low, high = max(aspect[0], share), min(aspect[1], 1 / share)
    if not 0 < aspect[0] <= aspect[1] or low > high:
        raise SettingsError(
            f"aspect ratio of patches {aspect[0]:g} to {aspect[1]:g}: no patch with a share of "
            f"{share:g} fits; give limits around 1"
        )
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
    width, height = min(math.sqrt(share * ratio), 1.0), min(math.sqrt(share / ratio), 1.0)
    x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return x, y, min(x + width, 1.0), min(y + height, 1.0)


def with_patch(image: LabelledImage, patch: Patch) -> LabelledImage:
    """The same picture labelled in a patch only.

    Raises:
        DataError: the patch leaves the picture.
    """
    x1, y1, x2, y2 = patch
    x, y = image.boxes_xywhn[:, 0], image.boxes_xywhn[:, 1]
    inside = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
    return replace(image.select(inside), patch_xyxyn=patch)


def draw_patches(
    labelled: LabelledSet,
    *,
    seed: int,
    share: float = SHARE,
    aspect: tuple[float, float] = ASPECT,
    split: str = "train",
) -> LabelledSet:
    """A fully labelled set of which only a patch of every training picture is labelled.

    Pictures of other splits stay fully labelled. A patch without any cell stays as well.

    Args:
        labelled: the set.
        seed: see ``draw_patch``.
        share: of every picture's area.
        aspect: see ``draw_patch``.
        split: whose pictures get patches.

    Raises:
        SettingsError: a share or limits that no patch has, or a picture is not fully labelled.
    """

    def sparse(image: LabelledImage) -> LabelledImage:
        if image.split != split:
            return image
        if image.patch_xyxyn is not None:
            raise SettingsError(
                f"{image.image}: has a labelled patch already; draw patches of a set whose "
                "pictures are labelled all over"
            )
        return with_patch(image, draw_patch(image.image.name, seed, share, aspect))

    images = tuple(sparse(image) for image in labelled.images)
    note = f"labels of {split} kept in one patch of {share:g} of the area, seed {seed}"
    return replace(labelled, images=images, notes=(*labelled.notes, note))


def patch_pixels(patch: Patch, width: int, height: int) -> tuple[int, int, int, int]:
    """First column and row of a patch, and the ones behind its last; at least one pixel."""
    x1, y1 = min(round(patch[0] * width), width - 1), min(round(patch[1] * height), height - 1)
    return x1, y1, max(round(patch[2] * width), x1 + 1), max(round(patch[3] * height), y1 + 1)


def masked_pixels(pixels: UInt8Image, patch: Patch) -> UInt8Image:
    """A copy of a picture, uint8 ``(H, W, 3)``, grey outside its patch."""
    x1, y1, x2, y2 = patch_pixels(patch, pixels.shape[1], pixels.shape[0])
    masked = np.full_like(pixels, _GREY)
    masked[y1:y2, x1:x2] = pixels[y1:y2, x1:x2]
    return masked


def crop_to_patch(
    image: LabelledImage, pixels: UInt8Image
) -> tuple[UInt8Image, Float32Array, Int64Array]:
    """The patch of a picture as a picture of its own.

    Args:
        image: with a patch and its labels.
        pixels: uint8 ``(H, W, 3)``.

    Returns:
        A copy of the patch's pixels; boxes clipped to it, float32 ``(n, 4)``, centre boxes as
        fractions of the crop; class ids, int64 ``(n,)``.

    Raises:
        SettingsError: the picture has no patch.
    """
    if image.patch_xyxyn is None:
        raise SettingsError(f"{image.image}: has no labelled patch to cut out")
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = patch_pixels(image.patch_xyxyn, width, height)
    size = np.array([x2 - x1, y2 - y1], np.float32)
    boxes = image.boxes_xywhn * np.array([width, height] * 2, np.float32)
    origin = np.array([x1, y1], np.float32)
    first = np.clip(boxes[:, :2] - boxes[:, 2:] / 2 - origin, 0, size)
    last = np.clip(boxes[:, :2] + boxes[:, 2:] / 2 - origin, 0, size)
    # A cell whose centre the rounding to pixels put outside may have nothing left.
    kept = (last > first).all(axis=1)
    first, last = first[kept], last[kept]
    clipped = np.concatenate([(first + last) / 2 / size, (last - first) / size], axis=1)
    return (
        pixels[y1:y2, x1:x2].copy(),
        np.asarray(clipped, np.float32).reshape(-1, 4),
        image.class_ids[kept],
    )
