"""Looking through a data set before anything is trained on it.

Owns what is counted and compared: cells per class and split, attribute values, pictures that
cannot be used, groups and near-duplicates across splits. Does not own reading (see ``catalog``)
nor printing (see ``train.data_cli``).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from calibration.near_duplicates import MOST_PAIRS, near_pairs, pattern_hash
from edge_runtime.attributes import MISSING
from edge_runtime.errors import FrameError
from edge_runtime.image_file import read_image
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.splits import groups_in_several_splits

EXIT_CLEAN, EXIT_WARNINGS, EXIT_BAD = 0, 1, 2

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class AttributeCounts:
    """How often each value of one attribute was given, and how often none."""

    name: str
    values: tuple[tuple[str, int], ...]
    missing: int


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two pictures of different splits that look nearly the same."""

    first: LabelledImage
    second: LabelledImage
    distance: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        unusable: one line per picture or mask that cannot be used.
        near: near-duplicates across splits, at most ``MOST_PAIRS``.
        crossing: groups with pictures in several splits, and which.
    """

    cells: LabelledSet
    attributes: tuple[AttributeCounts, ...]
    unusable: tuple[str, ...]
    near: tuple[NearDuplicate, ...]
    crossing: dict[str, tuple[str, ...]]

    @property
    def near_is_capped(self) -> bool:
        """Whether the search for near-duplicates ended early."""
        return len(self.near) >= MOST_PAIRS

    @property
    def exit_code(self) -> int:
        """0 clean, 1 something to look at, 2 something that must be mended first."""
        if self.cells.bad or self.unusable:
            return EXIT_BAD
        if self.cells.warnings or self.near or self.crossing:
            return EXIT_WARNINGS
        return EXIT_CLEAN

    def cells_of(self, class_id: int, split: str) -> int:
        """Cells of one class in one split."""
        return sum(int((each.class_ids == class_id).sum()) for each in self.cells.of_split(split))


def check_set(
    cells: LabelledSet,
    *,
    open_pictures: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> CheckReport:
    """Counts, opens every picture once, and compares pictures of different splits.

    Args:
        cells: a set as read.
        open_pictures: False leaves pictures and near-duplicates unchecked.
        workers: threads that open pictures; each holds one at a time.
        progress: called with pictures done and pictures in all.
    """
    unusable: list[str] = []
    hashed: list[tuple[LabelledImage, bytes]] = []
    if open_pictures:
        with ThreadPoolExecutor(workers) as pool:
            looks = pool.map(_look_at, cells.images)
            for done, (each, (pattern, why)) in enumerate(
                zip(cells.images, looks, strict=True), start=1
            ):
                unusable += why
                if pattern is not None:
                    hashed.append((each, pattern))
                if progress is not None:
                    progress(done, len(cells.images))
    pairs = near_pairs([pattern for _, pattern in hashed], [each.split for each, _ in hashed])
    return CheckReport(
        cells,
        _count_attributes(cells),
        tuple(unusable),
        tuple(
            NearDuplicate(hashed[pair.first][0], hashed[pair.second][0], pair.distance)
            for pair in pairs
        ),
        groups_in_several_splits(cells.images),
    )


def _look_at(each: LabelledImage) -> tuple[bytes | None, list[str]]:
    """The picture's hash, if it can be opened, and what is wrong with it."""
    try:
        pixels = read_image(each.image)
    except FrameError as error:
        return None, [f"{each.image}: {error}"]
    why: list[str] = []
    height, width = pixels.shape[:2]
    if each.size_px not in (None, (width, height)):
        why.append(f"{each.image}: {width} x {height} px, its labels say {_times(each.size_px)}")
    if each.mask is not None:
        why += _look_at_mask(each.mask, width, height)
    return pattern_hash(pixels), why


def _look_at_mask(mask: Path, width: int, height: int) -> list[str]:
    try:
        content = np.frombuffer(mask.read_bytes(), np.uint8)
    except OSError as error:
        return [f"{mask}: cannot be read: {error.strerror}"]
    pixels = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if len(content) else None
    if pixels is None:
        return [f"{mask}: not a readable mask"]
    if pixels.shape != (height, width):
        found = (int(pixels.shape[1]), int(pixels.shape[0]))
        return [f"{mask}: {_times(found)} px, its picture has {width} x {height}"]
    return [] if pixels.any() else [f"{mask}: no cell in it"]


def _count_attributes(cells: LabelledSet) -> tuple[AttributeCounts, ...]:
    if cells.attributes is None or not cells.images:
        return ()
    table = np.concatenate([each.attributes for each in cells.images])
    counts = []
    for column, attribute in enumerate(cells.attributes.attributes):
        values = table[:, column]
        counts.append(
            AttributeCounts(
                attribute.name,
                tuple(
                    (value, int((values == index).sum()))
                    for index, value in enumerate(attribute.values)
                ),
                int((values == MISSING).sum()),
            )
        )
    return tuple(counts)


def _times(size: tuple[int, int] | None) -> str:
    return "nothing" if size is None else f"{size[0]} x {size[1]}"
