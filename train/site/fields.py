"""Looking through a site's fields and its source before anything is learnt from them.

Owns what is refused, copies and near-copies, and the part of the site that is held out. Does
not own formats (see ``train.datasets.site_fields``) nor class names.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calibration.near_duplicates import near_pairs, pattern_hash
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import decode_image
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.yolo_set import read as read_yolo_set

_LISTED = 5
# Enough for a median.
_MEASURED = 20


@dataclass(frozen=True, slots=True)
class SiteFields:
    """The site's fields, divided.

    Attributes:
        train: to learn from.
        held_out: to stop on and to measure on; never learnt from.
        test: pictures of a ``test`` split that the folder has itself, perhaps none.
        different: fields that show different things, copies counted once, test left out.
        hashes: SHA-256 of every picture's file.
        notes: what was decided.
    """

    train: tuple[LabelledImage, ...]
    held_out: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]
    different: int
    hashes: dict[Path, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceSet:
    """One set of the source.

    Attributes:
        labelled: the whole set.
        train: pictures that may be replayed.
        check: pictures that are only measured on.
        hashes: SHA-256 of every picture's file.
    """

    labelled: LabelledSet
    train: tuple[LabelledImage, ...]
    check: tuple[LabelledImage, ...]
    hashes: dict[Path, str]

    @property
    def name(self) -> str:
        """The folder's."""
        return self.labelled.root.resolve().name


def divide_site(
    found: LabelledSet,
    *,
    minimum: int,
    share: float,
    least_held_out: int,
    most: int | None,
    seed: int,
) -> SiteFields:
    """Checks the fields, leaves copies out, and holds a part back.

    Near-copies (the same field again, re-encoded or a little recoloured) are kept, all on one
    side, and so are the pictures of a named group: a film, a patient.

    Args:
        found: the fields as read, bad rows already refused.
        minimum: fewer different fields are refused.
        share: of the fields, to hold out.
        least_held_out: so many at least.
        most: draw at most so many fields; None takes all.
        seed: of both draws.

    Raises:
        DataError: a picture that cannot be used, a copy with other labels, too few different
            fields, or no cell among them.
    """
    hashes, patterns = _look_at(found.images)
    images, notes = _without_copies(found.images, hashes)
    field_of = _groups(images, patterns, named=False)
    group_of = _groups(images, patterns, named=True)
    seen_in_test = {group_of[each.image] for each in images if each.split == "test"}
    test = tuple(each for each in images if each.split == "test")
    left = [x for x in images if x.split != "test" and group_of[x.image] in seen_in_test]
    if left:
        notes.append(f"{len(left)} fields left out: near-copies or films of test fields")
    own = [x for x in images if x.split != "test" and group_of[x.image] not in seen_in_test]
    if most is not None and most < len(own):
        # The first of one shuffled row, so that 10 fields are among the 25 of the same seed.
        order = np.random.default_rng([seed, *b"most"]).permutation(len(own))[:most]
        own = [own[place] for place in sorted(order.tolist())]
        notes.append(f"{most} fields drawn, seed {seed}")
    if any(each.split == "val" for each in own):
        notes.append("the folder's own val split is not kept: held-out fields are drawn from all")
    different = len({field_of[each.image] for each in own})
    if different < minimum:
        copies = len(found.images) - len(test) - different
        why = "" if copies <= 0 or most is not None else f" ({copies} are copies or nearly so)"
        if test:
            why += f" beside {len(test)} of the split test"
        raise DataError(
            f"{found.root}: {len(found.images) - len(test)} pictures show {different} different "
            f"fields{why}; an adaptation needs {minimum} at least, spread over films and patients"
        )
    if not any(len(each) for each in own):
        raise DataError(f"{found.root}: no labelled cell of the model's classes in any field")
    held = _held_out(own, group_of, share=share, least=least_held_out, seed=seed)
    if not 0 < len(held) < len(own):
        raise DataError(
            f"{found.root}: groups and near-copies leave nothing to train on beside the held-out "
            "fields; label fields of other films"
        )
    near = len(own) - different
    if near:
        notes.append(f"{near} fields are near-copies of others; each group stays on one side")
    empty = sum(len(each) == 0 for each in own)
    if empty:
        notes.append(f"{empty} fields without any cell")
    return SiteFields(
        tuple(replace(each, split="train") for each in own if each.image not in held),
        tuple(replace(each, split="val") for each in own if each.image in held),
        test,
        different,
        hashes,
        tuple(notes),
    )


def read_source(folder: Path, check_split: str) -> LabelledSet:
    """A source set in YOLO layout, without attributes.

    Raises:
        DataError: no such set, bad rows, no ``train`` or no ``check_split`` pictures, or
            pictures of which only a part is labelled.
    """
    found = read_yolo_set(folder).require_clean()
    images = tuple(
        replace(each, attributes=np.zeros((len(each), 0), np.int64)) for each in found.images
    )
    for split in ("train", check_split):
        if not any(each.split == split for each in images):
            have = ", ".join(found.splits)
            raise DataError(
                f"{folder}: no {split} pictures, only {have}; the source is replayed from train "
                f"and checked on {check_split} (--check-split), which no training saw"
            )
    part = next((each for each in images if each.patch_xyxyn is not None), None)
    if part is not None:
        raise DataError(f"{part.image}: only a part of it is labelled; replay whole fields")
    return replace(found, name=folder.resolve().name, attributes=None, images=images)


def divide_sources(found: Sequence[LabelledSet], check_split: str) -> tuple[SourceSet, ...]:
    """The pictures to replay and those to check on.

    Raises:
        DataError: a picture is in both, also of two sets, or cannot be read; or a set has
            nothing to be checked by.
    """
    sources = []
    for each in found:
        hashes = {image.image: _digest(image.image)[0] for image in each.images}
        sources.append(SourceSet(each, each.usable("train"), each.of_split(check_split), hashes))
    replayed = {source.hashes[x.image]: x.image for source in sources for x in source.train}
    shared = [
        (x.image, replayed[source.hashes[x.image]])
        for source in sources
        for x in source.check
        if source.hashes[x.image] in replayed
    ]
    if shared:
        raise DataError(
            f"{shared[0][0]}: the same file as {shared[0][1]}, which is replayed; the check needs "
            f"pictures that no training saw ({len(shared)} such, remove them from train)"
        )
    for source in sources:
        if not any(len(image) for image in source.check):
            raise DataError(
                f"{source.labelled.root}: no labelled cell of the model's classes in its "
                f"{check_split} pictures, so the check would see nothing; name the classes with "
                "--map, or give another --check-split"
            )
    return tuple(sources)


def refuse_shared(site: SiteFields, sources: Sequence[SourceSet]) -> None:
    """Refuses fields of the site that are pictures of the source as well.

    Raises:
        DataError: there is one.
    """
    known = {digest: file for source in sources for file, digest in source.hashes.items()}
    shared = [(file, known[digest]) for file, digest in site.hashes.items() if digest in known]
    if shared:
        raise DataError(
            f"{shared[0][0]}: the same file as {shared[0][1]} of the replay set ({len(shared)} "
            "such); the site's fields must be its own, remove them from one of the two"
        )


def typical_cell_px(images: Sequence[LabelledImage], size: int) -> float | None:
    """Median width of a cell in the network's input, from at most some tens of pictures.

    Args:
        images: labelled pictures.
        size: side of the square input that each is fitted to.

    Returns:
        Input pixels, or None without any cell.
    """
    with_cells = [each for each in images if len(each)]
    step = max(1, len(with_cells) // _MEASURED)
    widths: list[float] = []
    for each in with_cells[::step]:
        try:
            height, width = decode_image(_digest(each.image)[1]).shape[:2]
        except FrameError as error:
            raise DataError(f"{each.image}: {error}; copy the data again") from error
        widths += (each.boxes_xywhn[:, 2] * width * size / max(height, width)).tolist()
    return float(np.median(widths)) if widths else None


def _digest(file: Path) -> tuple[str, bytes]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    return hashlib.sha256(content).hexdigest(), content


def _look_at(images: Sequence[LabelledImage]) -> tuple[dict[Path, str], dict[Path, bytes]]:
    """File digest and pattern of every picture."""
    hashes: dict[Path, str] = {}
    patterns: dict[Path, bytes] = {}
    unusable: list[str] = []
    for each in images:
        hashes[each.image], content = _digest(each.image)
        try:
            pixels = decode_image(content)
        except FrameError as error:
            unusable.append(f"{each.image}: {error}")
            continue
        size = (int(pixels.shape[1]), int(pixels.shape[0]))
        if each.size_px is not None and each.size_px != size:
            wide, high = each.size_px
            unusable.append(
                f"{each.image}: {size[0]} x {size[1]} px, its labels say {wide} x {high}; "
                "export labels and pictures together"
            )
        patterns[each.image] = pattern_hash(pixels)
    if unusable:
        shown = "; ".join(unusable[:_LISTED])
        more = f"; and {len(unusable) - _LISTED} more" if len(unusable) > _LISTED else ""
        raise DataError(f"{len(unusable)} pictures cannot be used: {shown}{more}")
    return hashes, patterns


def _without_copies(
    images: Sequence[LabelledImage], hashes: dict[Path, str]
) -> tuple[list[LabelledImage], list[str]]:
    """The first of each file, test pictures before others."""
    first: dict[str, LabelledImage] = {}
    copies = 0
    for each in sorted(images, key=lambda item: item.split != "test"):
        known = first.setdefault(hashes[each.image], each)
        if known is each:
            continue
        copies += 1
        if not _same_labels(known, each):
            raise DataError(
                f"{each.image}: the same picture as {known.image} with other labels; keep the "
                "right one"
            )
    kept = [each for each in images if first[hashes[each.image]] is each]
    return kept, [f"{copies} copies of files left out"] if copies else []


def _same_labels(one: LabelledImage, other: LabelledImage) -> bool:
    def rows(image: LabelledImage) -> list[tuple[float, ...]]:
        numbers = np.round(image.boxes_xywhn.astype(np.float64), 3).tolist()
        return sorted((i, *box) for i, box in zip(image.class_ids.tolist(), numbers, strict=True))

    return rows(one) == rows(other)


def _groups(
    images: Sequence[LabelledImage], patterns: dict[Path, bytes], *, named: bool
) -> dict[Path, int]:
    """Picture to the number of its group: near-copies, and named groups as well if wanted."""
    parent = list(range(len(images)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    hashes = [patterns[each.image] for each in images]
    # Each of its own kind, so that all are compared with all.
    kinds = [str(place) for place in range(len(images))]
    for pair in near_pairs(hashes, kinds, most=max(1, len(images) ** 2)):
        parent[root(pair.second)] = root(pair.first)
    first: dict[str, int] = {}
    for place, each in enumerate(images):
        if named and each.group is not None:
            parent[root(place)] = root(first.setdefault(each.group, place))
    return {each.image: root(place) for place, each in enumerate(images)}


def _held_out(
    images: Sequence[LabelledImage],
    group_of: dict[Path, int],
    *,
    share: float,
    least: int,
    seed: int,
) -> set[Path]:
    """Whole groups, drawn until enough fields are held out; the first shows a cell."""
    members: dict[int, list[LabelledImage]] = defaultdict(list)
    for each in images:
        members[group_of[each.image]].append(each)
    names = sorted(members)
    order = [names[i] for i in np.random.default_rng([seed, *b"held"]).permutation(len(names))]
    # No figure can be had from fields without cells.
    with_cell = next(name for name in order if any(len(each) for each in members[name]))
    order.sort(key=lambda name: name != with_cell)
    wanted = max(least, math.floor(share * len(images) + 0.5))
    held: set[Path] = set()
    for name in order:
        if len(held) >= wanted:
            break
        held |= {each.image for each in members[name]}
    return held
