"""Finding pictures that are nearly the same: copies re-encoded, rescaled or slightly altered.

Owns a hash of a picture's coarse pattern and the search for hashes close to each other. It finds
neither shifted nor turned crops of one field. Does not own which pictures may not be alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.types import Int64Array, UInt8Image

# Cell pictures are all a dark disc in the middle of a light ground. 64 bits of pattern, the
# usual size, make strangers of them alike; 255 do not.
_SIDE = 32
_PATTERN = 16
HASH_BITS = _PATTERN * _PATTERN - 1
# One bit is unused; 32 bytes are four machine words.
HASH_BYTES = 32
# A tenth of the bits: rescaled or re-encoded copies stay below, different cells above. Strongly
# altered copies can be missed.
DEFAULT_DISTANCE = 24
MOST_PAIRS = 10_000
# Couples of so many pictures, half a million, take some 40 MB while they are compared.
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Pair:
    """Two places in the list of hashes, and by how many bits they differ."""

    first: int
    second: int
    distance: int


def pattern_hash(pixels: UInt8Image) -> bytes:
    """Signs of a picture's low cosine frequencies against their median, 255 bits.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:_PATTERN, :_PATTERN].ravel()[1:]
    return np.packbits(low > np.median(low)).tobytes()


def near_pairs(
    hashes: Sequence[bytes],
    kinds: Sequence[str],
    *,
    distance: int = DEFAULT_DISTANCE,
    most: int = MOST_PAIRS,
) -> list[Pair]:
    """Pairs of pictures of different kinds whose hashes differ by at most ``distance`` bits.

    The hash is cut into ``distance + 1`` bands. Two hashes that close agree in one band at
    least, so only pictures that share a band are compared; none is missed. Of pictures of one
    kind with exactly the same hash, the first stands for all.

    Args:
        hashes: of ``HASH_BYTES`` bytes each.
        kinds: splits, for instance; pictures of one kind are not compared.
        distance: largest number of differing bits.
        most: the search ends when it has found so many pairs.

    Returns:
        Pairs by place, each once, ``first < second``.
    """
    first_of: dict[tuple[bytes, str], int] = {}
    for place, key in enumerate(zip(hashes, kinds, strict=True)):
        first_of.setdefault(key, place)
    places = list(first_of.values())
    kind_ids = np.unique([kinds[place] for place in places], return_inverse=True)[1]
    if len(set(kind_ids.tolist())) < 2:
        return []
    packed = np.frombuffer(b"".join(hashes[place] for place in places), np.uint8)
    bits = np.unpackbits(packed.reshape(len(places), HASH_BYTES), axis=1)
    words = packed.view(np.uint64).reshape(len(places), HASH_BYTES // 8)
    found: dict[tuple[int, int], int] = {}
    for members in _candidates(bits, distance + 1):
        for one, other in _couples(members):
            apart = kind_ids[one] != kind_ids[other]
            i, j = one[apart], other[apart]
            differing = np.bitwise_count(words[i] ^ words[j]).sum(axis=1, dtype=np.int64)
            near = differing <= distance
            for a, b, count in zip(i[near], j[near], differing[near], strict=True):
                found[int(min(a, b)), int(max(a, b))] = int(count)
            if len(found) >= most:
                return _pairs(found, places)[:most]
    return _pairs(found, places)


def _candidates(bits: NDArray[np.uint8], bands: int) -> list[Int64Array]:
    """Groups of rows to compare among themselves."""
    groups: list[Int64Array] = []
    for band in np.array_split(np.arange(HASH_BITS), bands):
        packed = np.packbits(bits[:, band], axis=1)
        _, inverse, counts = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(inverse.ravel(), kind="stable")
        groups += [g for g in np.split(order, np.cumsum(counts)[:-1]) if len(g) > 1]
    # Pictures without a pattern of their own share every band; then all pairs once cost less.
    if sum(len(group) ** 2 for group in groups) > len(bits) ** 2:
        return [np.arange(len(bits))]
    return groups


def _couples(members: Int64Array) -> Iterator[tuple[Int64Array, Int64Array]]:
    """All couples of one group, as two arrays, in portions that memory can hold."""
    if len(members) <= _AT_ONCE:
        i, j = np.triu_indices(len(members), 1)
        yield members[i], members[j]
        return
    for k in range(len(members) - 1):
        others = members[k + 1 :]
        yield np.broadcast_to(members[k], others.shape), others


def _pairs(found: dict[tuple[int, int], int], places: list[int]) -> list[Pair]:
    ordered = [(*sorted((places[i], places[j])), count) for (i, j), count in found.items()]
    return [Pair(first, second, count) for first, second, count in sorted(ordered)]
