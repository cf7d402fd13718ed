"""Copies are found however they were saved; different pictures are not; none is missed."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.near_duplicates import (
    DEFAULT_DISTANCE,
    HASH_BITS,
    HASH_BYTES,
    MOST_PAIRS,
    Pair,
    near_pairs,
    pattern_hash,
)
from edge_runtime.types import UInt8Image
from tests.support import paint_field


def picture(seed: int) -> UInt8Image:
    rng = np.random.default_rng(seed)
    cells = rng.uniform((10, 10, 20), (190, 150, 50), (3, 3)).tolist()
    red = rng.uniform((0, 0, 10), (200, 160, 24), (12, 3)).tolist()
    return paint_field(200, 160, cells, red_cells=red, seed=seed)


def distance(one: bytes, other: bytes) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


def saved_again(pixels: UInt8Image, scale: float, gain: float, quality: int) -> UInt8Image:
    smaller = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    darker = np.clip(smaller.astype(np.float32) * gain, 0, 255).astype(np.uint8)
    _, content = cv2.imencode(".jpg", darker, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)


def test_the_hash_has_its_length_and_no_stray_bit() -> None:
    value = pattern_hash(picture(0))
    assert len(value) == HASH_BYTES
    assert value[-1] & 1 == 0
    assert 100 < sum(byte.bit_count() for byte in value) < HASH_BITS - 100


@pytest.mark.parametrize(
    ("scale", "gain", "quality"), [(1, 1, 50), (0.5, 0.9, 70), (0.8, 1.05, 90)]
)
def test_a_copy_is_near_and_a_stranger_is_not(scale: float, gain: float, quality: int) -> None:
    hashes = [pattern_hash(picture(seed)) for seed in range(12)]
    again = [pattern_hash(saved_again(picture(seed), scale, gain, quality)) for seed in range(12)]
    for i, one in enumerate(hashes):
        for j, other in enumerate(again):
            assert (distance(one, other) <= DEFAULT_DISTANCE) == (i == j)


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(2, 40))
def test_no_pair_is_missed_and_none_invented(seed: int, limit: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    bits = np.zeros((count, HASH_BYTES * 8), np.uint8)
    bits[:, :HASH_BITS] = rng.integers(0, 2, HASH_BITS)
    for row in bits:
        row[rng.choice(HASH_BITS, rng.integers(0, 30), replace=False)] ^= 1
    hashes = [np.packbits(row).tobytes() for row in bits]
    kinds = rng.choice(["train", "val", "test"], count).tolist()
    first = {key: i for i, key in reversed(list(enumerate(zip(hashes, kinds, strict=True))))}
    own = sorted(first.values())
    expected = [
        Pair(i, j, distance(hashes[i], hashes[j]))
        for i in own
        for j in own
        if i < j and kinds[i] != kinds[j] and distance(hashes[i], hashes[j]) <= limit
    ]
    assert near_pairs(hashes, kinds, distance=limit) == expected


def test_a_pair_that_differs_in_every_band_but_one_is_found() -> None:
    bits = np.zeros((2, HASH_BYTES * 8), np.uint8)
    for band in np.array_split(np.arange(HASH_BITS), 8):
        bits[1, band[0]] = 1
    hashes = [np.packbits(row).tobytes() for row in bits]
    assert near_pairs(hashes, ["train", "test"], distance=8) == [Pair(0, 1, 8)]
    assert near_pairs(hashes, ["train", "test"], distance=7) == []


def test_pictures_of_one_split_are_not_compared() -> None:
    same = [pattern_hash(picture(0))] * 3
    assert near_pairs(same, ["train"] * 3) == []
    assert near_pairs([], []) == []
    assert near_pairs(same, ["train", "train", "test"]) == [Pair(0, 2, 0)]


def test_the_search_ends_at_the_wanted_number() -> None:
    rng = np.random.default_rng(0)
    base = np.unpackbits(np.frombuffer(pattern_hash(picture(0)), np.uint8))
    hashes = []
    for _ in range(240):
        row = base.copy()
        row[rng.choice(HASH_BITS, 4, replace=False)] ^= 1
        hashes.append(np.packbits(row).tobytes())
    kinds = ["train", "test"] * 120
    assert len(near_pairs(hashes, kinds)) == MOST_PAIRS
    assert len(near_pairs(hashes[:80], kinds[:80])) == 40 * 40
    assert len(near_pairs(hashes, kinds, most=50)) == 50


def test_ten_thousand_pictures_take_seconds() -> None:
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (10_000, HASH_BYTES), np.uint8)
    packed[:, -1] &= 0xFE
    packed[9_000] = packed[100] ^ np.eye(1, HASH_BYTES, 5, np.uint8)[0]
    kinds = ["train"] * 8_000 + ["test"] * 2_000
    started = time.perf_counter()
    assert near_pairs([row.tobytes() for row in packed], kinds) == [Pair(100, 9_000, 1)]
    # Seconds on a slow and loaded machine; all couples would take many times as long.
    assert time.perf_counter() - started < 30
