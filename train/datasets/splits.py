"""Dividing pictures into training and held-back ones, by group or at random.

Owns the draw, and finding groups that stand in two splits. Splits that a source publishes
are read by its own module.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from edge_runtime.errors import DataError
from train.datasets.labelled import LabelledImage, LabelledSet

# PCM-Leukemia's paper holds out a random fifth of the training pictures.
VALIDATION_SHARE = 0.2

Validation = Literal["own", "random", "group"]


def with_validation(cells: LabelledSet, how: Validation, *, seed: int = 0) -> LabelledSet:
    """The set with validation pictures held out of ``train``.

    Args:
        cells: the set as read.
        how: ``own`` leaves everything as published; the others draw from ``train``, or from
            everything where a source has no splits: ``random`` is the paper's random fifth,
            which puts pictures of one patient on both sides; ``group`` holds out patients.
        seed: of the draw.

    Raises:
        DataError: ``group`` and a training picture's patient is unknown.
    """
    if how == "own":
        return cells
    if not cells.of_split("train"):
        # A source without splits of its own; the rest of it is for training.
        whole = (replace(x, split="train") if x.split == "all" else x for x in cells.images)
        cells = cells.with_images(tuple(whole))
    draw = hold_out_at_random if how == "random" else hold_out_by_group
    return cells.with_images(
        draw(cells.images, share=VALIDATION_SHARE, seed=seed, source="train", target="val")
    )


def hold_out_at_random(
    images: Sequence[LabelledImage], *, share: float, seed: int, source: str, target: str
) -> tuple[LabelledImage, ...]:
    """Moves a random share of one split's pictures into another split.

    This is what PCM-Leukemia's paper does for its validation. Pictures of one patient land on
    both sides, so figures on them are too good; see ``hold_out_by_group``.

    Args:
        images: all pictures, in their fixed order.
        share: of the pictures of ``source``, 0 to 1.
        seed: the same seed and order give the same draw.
        source: split to draw from.
        target: split that the drawn pictures belong to from now on.

    Returns:
        All pictures in the same order; exactly ``round(share * n)`` have moved.
    """
    places = [i for i, each in enumerate(images) if each.split == source]
    shuffled = np.random.default_rng(seed).permutation(len(places))
    drawn = {places[i] for i in shuffled[: round(share * len(places))]}
    return tuple(
        replace(each, split=target) if i in drawn else each for i, each in enumerate(images)
    )


def hold_out_by_group(
    images: Sequence[LabelledImage], *, share: float, seed: int, source: str, target: str
) -> tuple[LabelledImage, ...]:
    """Moves whole groups (patients, slides) of one split into another split.

    Groups come in an order that depends on their names and the seed alone, so subsets that
    show the same slides get the same slides held out. A group moves when that brings the moved
    share nearer to what is wanted; at least one group moves and one stays.

    Args:
        images: all pictures.
        share: wanted share of the pictures of ``source``, 0 to 1, both exclusive.
        seed: of the order of the groups.
        source: split to draw from.
        target: split that the drawn groups belong to from now on.

    Raises:
        DataError: a picture's group is unknown, or there are fewer than two groups.
    """
    sizes: dict[str, int] = defaultdict(int)
    for each in images:
        if each.split == source:
            if each.group is None:
                raise DataError(
                    f"{each.image}: its patient or slide is unknown, so {source} cannot be "
                    f"split by group; add groups.csv (image,group) or split at random"
                )
            sizes[each.group] += 1
    if len(sizes) < 2:
        raise DataError(f"{source}: {len(sizes)} groups; a split by group needs two or more")
    wanted = share * sum(sizes.values())
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    moved: set[str] = set()
    total = 0
    for name in order:
        if abs(total + sizes[name] - wanted) < abs(total - wanted):
            moved.add(name)
            total += sizes[name]
    if not moved:
        moved.add(min(order, key=lambda name: sizes[name]))
    if len(moved) == len(sizes):
        moved.remove(min(order, key=lambda name: sizes[name]))
    return tuple(
        replace(each, split=target) if each.split == source and each.group in moved else each
        for each in images
    )


def groups_in_several_splits(images: Iterable[LabelledImage]) -> dict[str, tuple[str, ...]]:
    """Groups whose pictures stand in more than one split, with those splits, sorted."""
    seen: dict[str, set[str]] = defaultdict(set)
    for each in images:
        if each.group is not None:
            seen[each.group].add(each.split)
    return {name: tuple(sorted(found)) for name, found in sorted(seen.items()) if len(found) > 1}
