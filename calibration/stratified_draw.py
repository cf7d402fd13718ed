"""Drawing a calibration set so that every look a domain has is in it.

Owns the strata, the order of the draw and the pictures passed over as near-duplicates. Does
not own what a field's traits are (see ``field_traits``), the even share of every domain nor
the refusals that any draw makes (see ``sampling``).

Ranges are set by extremes: a set of sharp, pale fields clips on the one dark and crowded film.
So each domain is cut into parts by focus, stain and number of cells, and the parts give one
picture in turn as long as they have any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.dataset import CalibrationSet, Stratum, preprocessing_id
from calibration.field_traits import CellCounter, FieldTraits, field_traits
from calibration.near_duplicates import near_pairs, pattern_hash
from calibration.sampling import (
    DEFAULT_IMAGES,
    DEFAULT_MINIMUM,
    HashedFile,
    Pool,
    evenly,
    hash_files,
    refuse_evaluated,
    unique_files,
)
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError, FrameError
from edge_runtime.image_file import decode_image, read_image

UNUSABLE = "the device would skip it"
NEAR_DRAWN = "nearly the same as one that was drawn"
NEAR_EVALUATED = "nearly the same as one that is evaluated on"
# Focus, density, hue, cells: 36 parts of a domain, so that 150 pictures reach each of them.
_PARTS = (3, 2, 2, 3)
# Frames of one still stage are all near each other; each of them is one of its neighbours'.
_MOST_PAIRS = 2_000_000

Key = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class CellSource:
    """Who tells how many cells a picture shows, and the name the record gives it."""

    name: str
    count: CellCounter


@dataclass(frozen=True, slots=True)
class _Seen:
    file: HashedFile
    domain: str
    pattern: bytes
    traits: FieldTraits


def draw_stratified(
    pools: Sequence[Pool],
    spec: InputSpec,
    *,
    images: int = DEFAULT_IMAGES,
    minimum: int = DEFAULT_MINIMUM,
    seed: int = 0,
    evaluated: Sequence[Path] = (),
    cells: CellSource | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CalibrationSet:
    """Draws equally many pictures from every domain, over all of its strata.

    Every picture of the pools is looked at once. Of pictures that are nearly the same only
    the first one drawn is taken, and none that is nearly the same as one evaluated on.

    Args:
        pools: labelled or unlabelled pictures, one pool per domain.
        spec: how the device makes tensors of them.
        images: how many pictures in all, at most.
        minimum: fewer are refused; the record keeps it.
        seed: of the draw.
        evaluated: every file that the result is judged on.
        cells: who counts cells [default: nobody].
        progress: told how many of how many pictures were looked at.

    Raises:
        DataError: no pictures, too few, some that are also evaluated on, or too many alike.
    """
    candidates = unique_files(pools)
    refuse_evaluated(candidates, hash_files(evaluated))
    seen, passed_over = _look(candidates, cells, progress)
    neighbours, evaluated_near = _neighbours(seen, evaluated)
    rng = np.random.default_rng(seed)
    wanted = images // len(pools)
    drawn: dict[str, list[HashedFile]] = {}
    keys: dict[int, Key] = {}
    taken: set[int] = set()
    for domain in sorted(candidates):
        places = [place for place, each in enumerate(seen) if each.domain == domain]
        own = strata_of([seen[place].traits for place in places])
        keys |= dict(zip(places, own, strict=True))
        group = drawn.setdefault(domain, [])
        for index in in_turn(own, rng):
            if len(group) == wanted:
                break
            place = places[index]
            if place in evaluated_near:
                passed_over[NEAR_EVALUATED] += 1
            elif neighbours.get(place, set()) & taken:
                passed_over[NEAR_DRAWN] += 1
            else:
                taken.add(place)
                group.append(seen[place].file)
    try:
        chosen = evenly(drawn, pools, minimum=minimum, available=candidates)
    except DataError as error:
        said = "; ".join(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
        raise DataError(f"{error}; passed over: {said}" if said else str(error)) from error
    return CalibrationSet(
        seed=seed,
        preprocessing=preprocessing_id(spec),
        images=chosen,
        minimum=minimum,
        cells_from=None if cells is None else cells.name,
        strata=_counts(seen, keys, {(image.domain, image.sha256) for image in chosen}),
        passed_over=dict(sorted(passed_over.items())),
    )


def strata_of(traits: Sequence[FieldTraits]) -> list[Key]:
    """The part of its domain each field belongs to, by quantiles of that domain.

    Quantiles are of the values that occur, each counted once: fields with the same value are
    never parted, and where nearly all fields show one cell the crowded ones are not lost.
    """
    columns = [
        [each.focus for each in traits],
        [each.density for each in traits],
        [each.hue for each in traits],
        [float(each.cells) for each in traits],
    ]
    parts = []
    for values, count in zip(columns, _PARTS, strict=True):
        array = np.array(values, np.float64)
        inner = np.linspace(0, 1, count + 1)[1:-1]
        edges = np.quantile(np.unique(array), inner) if len(array) else np.zeros(0)
        # A border at the lowest value would leave the part below it without pictures.
        edges = edges[edges > array.min(initial=np.inf)]
        parts.append(np.searchsorted(edges, array, side="right").tolist())
    return [(focus, density, hue, cells) for focus, density, hue, cells in zip(*parts, strict=True)]


def in_turn(keys: Sequence[Key], rng: np.random.Generator) -> list[int]:
    """Places of all keys: one of each part in turn, within a part at random."""
    groups: dict[Key, list[int]] = {}
    for place in rng.permutation(len(keys)).tolist():
        groups.setdefault(keys[place], []).append(place)
    # Which part comes first decides who gives the odd picture; names must not.
    order = [sorted(groups)[index] for index in rng.permutation(len(groups)).tolist()]
    longest = max((len(group) for group in groups.values()), default=0)
    return [
        groups[key][turn] for turn in range(longest) for key in order if turn < len(groups[key])
    ]


def _look(
    candidates: Mapping[str, Sequence[HashedFile]],
    cells: CellSource | None,
    progress: Callable[[int, int], None],
) -> tuple[list[_Seen], Counter[str]]:
    """Traits and pattern of every usable picture, and how many are not."""
    seen: list[_Seen] = []
    passed_over: Counter[str] = Counter()
    total = sum(len(group) for group in candidates.values())
    done = 0
    for domain, group in sorted(candidates.items()):
        for path, digest in group:
            done += 1
            progress(done, total)
            try:
                pixels = decode_image(path.read_bytes())
            except FrameError:
                passed_over[UNUSABLE] += 1
                continue
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}; mend the data folder") from error
            count = 0 if cells is None else cells.count(path, pixels)
            traits = field_traits(pixels, cells=count)
            seen.append(_Seen((path, digest), domain, pattern_hash(pixels), traits))
    return seen, passed_over


def _neighbours(
    seen: Sequence[_Seen], evaluated: Sequence[Path]
) -> tuple[dict[int, set[int]], set[int]]:
    """Per picture those nearly the same, and all near one that is evaluated on."""
    hashes = [each.pattern for each in seen]
    kinds = [f"drawn {place}" for place in range(len(seen))]
    for path in evaluated:
        try:
            hashes.append(pattern_hash(read_image(path)))
        except FrameError:
            # Nobody is judged on what the device would skip.
            continue
        kinds.append("evaluated")
    neighbours: dict[int, set[int]] = {}
    evaluated_near: set[int] = set()
    pairs = near_pairs(hashes, kinds, most=_MOST_PAIRS) if len(hashes) > 1 else []
    if len(pairs) >= _MOST_PAIRS:
        # The search ended there; what it did not come to would be drawn as if it were different.
        raise DataError(
            f"calibration: {_MOST_PAIRS} pairs of pictures are nearly the same, and not all were "
            "compared; thin the pools out, as by every tenth frame of a film that stood still"
        )
    for pair in pairs:
        if pair.second >= len(seen):
            evaluated_near.add(pair.first)
        else:
            neighbours.setdefault(pair.first, set()).add(pair.second)
            neighbours.setdefault(pair.second, set()).add(pair.first)
    return neighbours, evaluated_near


def _counts(
    seen: Sequence[_Seen], keys: Mapping[int, Key], chosen: set[tuple[str, str]]
) -> tuple[Stratum, ...]:
    pool: Counter[tuple[str, Key]] = Counter()
    drawn: Counter[tuple[str, Key]] = Counter()
    for place, each in enumerate(seen):
        part = each.domain, keys[place]
        pool[part] += 1
        drawn[part] += (each.domain, each.file[1]) in chosen
    return tuple(
        Stratum(
            domain=domain,
            focus=key[0],
            density=key[1],
            hue=key[2],
            cells=key[3],
            pool=count,
            drawn=drawn[domain, key],
        )
        for (domain, key), count in sorted(pool.items())
    )
