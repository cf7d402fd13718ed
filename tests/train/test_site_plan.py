"""Counts of an epoch are exact, and everything has its turn."""

from __future__ import annotations

from collections import Counter

import pytest

from edge_runtime.errors import DataError
from train.site.plan import plan_epochs


@pytest.mark.parametrize(
    ("site", "ratio", "pictures", "shown"),
    [
        (8, 4.0, 200, (160, 40)),
        (20, 4.0, 200, (160, 40)),
        (40, 4.0, 200, (160, 40)),
        (80, 4.0, 200, (160, 40)),
        # Every field of the site comes once at least: 164 need 41 beside them.
        (164, 4.0, 200, (164, 41)),
        (400, 4.0, 200, (400, 100)),
        (8, 1.0, 200, (100, 100)),
        (8, 0.25, 200, (40, 160)),
        (8, 0.5, 10, (8, 16)),
        (8, 1000.0, 10, (9, 1)),
        (12, 1000.0, 10, (12, 1)),
    ],
)
def test_the_ratio_is_kept_to_the_picture(
    site: int, ratio: float, pictures: int, shown: tuple[int, int]
) -> None:
    plan = plan_epochs(site, 430, ratio=ratio, pictures=pictures, seed=0)
    assert (plan.shown_site, plan.shown_replay) == shown
    for number in (0, 1, 17):
        epoch = plan.epoch(number)
        assert len(epoch) == plan.pictures == sum(shown)
        assert int((epoch < site).sum()) == shown[0]
        counts = Counter(int(each) for each in epoch if each < site)
        assert len(counts) == site
        assert max(counts.values()) - min(counts.values()) <= 1
        replayed = [int(each) for each in epoch if each >= site]
        assert max(replayed) < site + 430
        if number == 0:
            assert len(set(replayed)) == len(replayed)


def test_no_source_picture_comes_again_before_all_had_their_turn() -> None:
    plan = plan_epochs(8, 100, ratio=4.0, pictures=200, seed=3)
    row = [int(each) for n in range(10) for each in plan.epoch(n) if each >= 8]
    assert len(row) == 400
    for deck in range(4):
        assert sorted(row[deck * 100 : (deck + 1) * 100]) == list(range(8, 108))
    assert row[:100] != row[100:200]


def test_few_source_pictures_are_repeated_evenly() -> None:
    plan = plan_epochs(8, 7, ratio=1.0, pictures=40, seed=0)
    counts = Counter(int(each) for each in plan.epoch(0) if each >= 8)
    assert sum(counts.values()) == 20
    assert set(counts.values()) <= {2, 3, 4}
    assert len(counts) == 7


def test_draws_follow_the_seed_alone() -> None:
    one, same, other = (plan_epochs(9, 50, ratio=4.0, pictures=50, seed=seed) for seed in (1, 1, 2))
    assert one.epoch(5).tolist() == same.epoch(5).tolist() != other.epoch(5).tolist()


def test_without_replay_the_site_fills_the_epoch() -> None:
    plan = plan_epochs(9, 0, ratio=None, pictures=200, seed=0)
    assert (plan.shown_site, plan.shown_replay) == (200, 0)
    assert set(plan.epoch(3).tolist()) == set(range(9))


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(DataError, match="no field to train on"):
        plan_epochs(0, 5, ratio=4.0, pictures=200, seed=0)
    with pytest.raises(DataError, match="no source picture to show"):
        plan_epochs(5, 0, ratio=4.0, pictures=200, seed=0)
