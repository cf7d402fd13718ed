"""Drawing a calibration set: seeded, and the same number from every domain.

Owns the draw and everything it refuses. There is no fallback: without pictures there are
no ranges, and random or assumed ones are never made up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.dataset import CalibrationImage, CalibrationSet, preprocessing_id
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import decode_image

# Published int8 tables that halve a detector's accuracy go back to eight calibration
# pictures; 500 and more are recommended. A smaller site says so and its record keeps it.
DEFAULT_IMAGES = 600
DEFAULT_MINIMUM = 500


# A picture and the SHA-256 of its content.
HashedFile = tuple[Path, str]


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures of one domain to draw from.

    Attributes:
        folder: what ``files`` are in; recorded names are relative to it.
    """

    domain: str
    folder: Path
    files: tuple[Path, ...]


def draw_calibration_set(
    pools: Sequence[Pool],
    spec: InputSpec,
    *,
    images: int = DEFAULT_IMAGES,
    minimum: int = DEFAULT_MINIMUM,
    seed: int = 0,
    evaluation_hashes: Collection[str] = (),
) -> CalibrationSet:
    """Draws equally many pictures from every domain.

    The smallest domain decides: with 140 pictures in one of four domains and 600 wanted,
    140 are taken from each, because a set that leans to one microscope gives ranges that
    clip on the others. Copies of one file count once. Files the device would skip are
    passed over.

    Args:
        pools: training pictures, one pool per domain.
        spec: how the device makes tensors of them.
        images: how many pictures in all, at most.
        minimum: fewer are refused.
        seed: of the draw.
        evaluation_hashes: SHA-256 of every file that the result is judged on.

    Raises:
        DataError: no pictures, too few, or some that are also evaluated on.
    """
    candidates = unique_files(pools)
    refuse_evaluated(candidates, evaluation_hashes)
    rng = np.random.default_rng(seed)
    wanted = images // len(pools)
    drawn = {domain: _usable(candidates[domain], rng, wanted) for domain in sorted(candidates)}
    chosen = evenly(drawn, pools, minimum=minimum, available=candidates)
    return CalibrationSet(
        seed=seed, preprocessing=preprocessing_id(spec), images=chosen, minimum=minimum
    )


def unique_files(pools: Sequence[Pool]) -> dict[str, list[HashedFile]]:
    """Files with their hashes by domain, in the order of names, one for every content.

    Raises:
        DataError: no pictures, a domain given twice, or a file that cannot be read.
    """
    if not pools or not any(pool.files for pool in pools):
        raise DataError(
            "no calibration data: int8 ranges are measured on training pictures and never "
            "assumed; give a training run with its data"
        )
    candidates = {pool.domain: _unique(pool) for pool in pools}
    if len(candidates) != len(pools):
        raise DataError("calibration: a domain is given twice; every domain needs its own name")
    return candidates


def refuse_evaluated(
    candidates: Mapping[str, Sequence[HashedFile]], evaluation_hashes: Collection[str]
) -> None:
    """Passes when no file is also evaluated on.

    Raises:
        DataError: some are; names the first.
    """
    evaluated = set(evaluation_hashes)
    shared = [
        path for group in candidates.values() for path, digest in group if digest in evaluated
    ]
    if shared:
        raise DataError(
            f"calibration: {len(shared)} training pictures are also evaluated on, the first "
            f"{shared[0]}; accuracy measured with them would be worthless, remove them from one"
        )


def evenly(
    drawn: Mapping[str, Sequence[HashedFile]],
    pools: Sequence[Pool],
    *,
    minimum: int,
    available: Mapping[str, Sequence[HashedFile]],
) -> tuple[CalibrationImage, ...]:
    """As many of each domain as the smallest has, the first ones drawn, sorted for a record.

    Args:
        drawn: files by domain, in the order of the draw.
        pools: give the folders.
        minimum: fewer in all are refused.
        available: what there was to draw from, for the message.

    Raises:
        DataError: too few.
    """
    smallest = min(drawn, key=lambda domain: len(drawn[domain]))
    each = len(drawn[smallest])
    if each * len(pools) < minimum or each == 0:
        raise DataError(
            f"calibration: {each * len(pools)} pictures, {each} from each of {len(pools)} "
            f"domains, but at least {max(minimum, len(pools))} are needed; "
            f"{smallest!r} has {len(available[smallest])}: add to it, ask for more, or give a "
            "lower minimum, which the record keeps"
        )
    folders = {pool.domain: pool.folder for pool in pools}
    chosen = [
        CalibrationImage(
            domain=domain, file=path.relative_to(folders[domain]).as_posix(), sha256=digest
        )
        for domain, group in drawn.items()
        for path, digest in group[:each]
    ]
    return tuple(sorted(chosen, key=lambda image: (image.domain, image.file)))


def check_calibration_set(
    drawn: CalibrationSet, *, minimum: int, evaluation_hashes: Collection[str]
) -> CalibrationSet:
    """Holds an earlier draw to the same rules as a new one and returns it.

    Raises:
        DataError: too few pictures, not the same number of every domain, or some that
            are also evaluated on.
    """
    counts = drawn.domains
    if len(drawn.images) < minimum or len(set(counts.values())) != 1:
        raise DataError(
            f"calibration set: {counts}; at least {minimum} pictures are needed, equally many "
            "of every domain"
        )
    evaluated = set(evaluation_hashes)
    shared = [image.file for image in drawn.images if image.sha256 in evaluated]
    if shared:
        raise DataError(
            f"calibration set: {len(shared)} pictures are also evaluated on, the first "
            f"{shared[0]}; draw the set again"
        )
    return drawn


def hash_files(files: Sequence[Path]) -> list[str]:
    """SHA-256 of every file.

    Raises:
        DataError: one cannot be read.
    """
    return [_sha256(path) for path in files]


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; mend the data folder") from error


def _unique(pool: Pool) -> list[HashedFile]:
    """Files with their hashes in the order of names, one for every content."""
    seen: dict[str, Path] = {}
    for path in sorted(pool.files):
        seen.setdefault(_sha256(path), path)
    return [(path, digest) for digest, path in seen.items()]


def _usable(
    candidates: list[HashedFile], rng: np.random.Generator, wanted: int
) -> list[HashedFile]:
    """Up to ``wanted`` pictures in random order, those the device would skip left out."""
    found: list[HashedFile] = []
    for index in rng.permutation(len(candidates)):
        if len(found) == wanted:
            break
        path, digest = candidates[index]
        try:
            decode_image(path.read_bytes())
        except FrameError:
            continue
        found.append((path, digest))
    return found
