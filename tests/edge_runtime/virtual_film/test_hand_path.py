"""How a hand moves the stage."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from edge_runtime.virtual_film import hand_path

FILM, FIELD = (1400.0, 1000.0), (122.0, 76.0)


def _shared(one: tuple[float, float], other: tuple[float, float]) -> float:
    wide = max(0.0, 1 - abs(one[0] - other[0]) / FIELD[0])
    high = max(0.0, 1 - abs(one[1] - other[1]) / FIELD[1])
    return wide * high


def test_fields_overlap_as_asked_and_lie_on_the_film() -> None:
    path = hand_path(FILM, FIELD, 400, 3, jumps=2)
    assert len(path) == 400
    centres = np.array([step.centre_um for step in path])
    assert (centres >= np.array(FIELD) / 2).all()
    assert (centres <= np.array(FILM) - np.array(FIELD) / 2).all()
    shared = [_shared(a.centre_um, b.centre_um) for a, b in pairwise(path)]
    moved = [s for s, step in zip(shared, path[1:], strict=True) if step.motion in ("step", "back")]
    assert min(moved) > 0.17
    assert max(moved) < 0.63
    assert np.ptp(moved) > 0.3
    counts = Counter(step.motion for step in path)
    assert counts["start"] == 1
    assert counts["jump"] == 4  # there and back, twice
    assert counts["pause"] > 20
    assert counts["back"] > 10
    assert counts["row"] > 10
    assert all(s > 0.9 for s, step in zip(shared, path[1:], strict=True) if step.motion == "pause")


def test_a_jump_leaves_nothing_in_common_and_the_hand_comes_back() -> None:
    path = hand_path(FILM, FIELD, 60, 3, jumps=1)
    (there, back) = (k for k, step in enumerate(path) if step.motion == "jump")
    assert _shared(path[there - 1].centre_um, path[there].centre_um) == 0
    assert path[back].centre_um == path[there - 1].centre_um


def test_the_seed_decides() -> None:
    assert hand_path(FILM, FIELD, 50, 3) == hand_path(FILM, FIELD, 50, 3)
    assert hand_path(FILM, FIELD, 50, 3) != hand_path(FILM, FIELD, 50, 4)


@pytest.mark.parametrize(
    ("film", "frames"), [((200.0, 1000.0), 5), ((1400.0, 150.0), 5), (FILM, 0)]
)
def test_impossible_paths_are_refused(film: tuple[float, float], frames: int) -> None:
    with pytest.raises(ValueError, match=r"film|path"):
        hand_path(film, FIELD, frames, 1)
