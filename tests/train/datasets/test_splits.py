"""Held-out pictures: random or by group, stable, and no group on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import DataError
from train.datasets.labelled import LabelledImage, LabelledSet, no_cells
from train.datasets.splits import (
    groups_in_several_splits,
    hold_out_at_random,
    hold_out_by_group,
    with_validation,
)


def pictures(groups: list[str | None], split: str = "train") -> list[LabelledImage]:
    return [
        LabelledImage(Path(f"{i}.png"), split, "d", *no_cells(0), group=group)
        for i, group in enumerate(groups)
    ]


GROUPS = st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=200).filter(
    lambda names: len(set(names)) > 1
)


@given(GROUPS, st.floats(0.05, 0.95), st.integers(0, 5))
def test_no_group_stands_on_both_sides(groups: list[str], share: float, seed: int) -> None:
    images = pictures(list(groups))
    split = hold_out_by_group(images, share=share, seed=seed, source="train", target="val")
    assert groups_in_several_splits(split) == {}
    assert {each.split for each in split} == {"train", "val"}
    assert [each.image for each in split] == [each.image for each in images]
    # Greedy and by whole groups: never further off than the largest group.
    largest = max(groups.count(name) for name in groups)
    moved = sum(each.split == "val" for each in split)
    assert abs(moved - share * len(groups)) <= largest
    assert split == hold_out_by_group(images, share=share, seed=seed, source="train", target="val")


def test_the_same_slides_are_held_out_of_every_subset() -> None:
    names = [f"slide {i}" for i in range(20)]
    one = hold_out_by_group(
        pictures([*names, *names]), share=0.2, seed=3, source="train", target="val"
    )
    other = hold_out_by_group(
        pictures(list(reversed([*names, *names]))), share=0.2, seed=3, source="train", target="val"
    )
    held_out = {each.group for each in one if each.split == "val"}
    assert len(held_out) == 4
    assert held_out == {each.group for each in other if each.split == "val"}


@given(st.integers(0, 300), st.floats(0, 1), st.integers(0, 5))
def test_a_random_share_is_exact_and_stable(count: int, share: float, seed: int) -> None:
    images = pictures([None] * count)
    split = hold_out_at_random(images, share=share, seed=seed, source="train", target="val")
    assert sum(each.split == "val" for each in split) == round(share * count)
    assert split == hold_out_at_random(images, share=share, seed=seed, source="train", target="val")


def test_other_splits_are_left_alone_and_seeds_differ() -> None:
    images = [*pictures(["a"] * 50), *pictures(["a"] * 50, "test")]
    draws = {
        tuple(
            each.split
            for each in hold_out_at_random(
                images, share=0.2, seed=seed, source="train", target="val"
            )
        )
        for seed in range(3)
    }
    assert len(draws) == 3
    assert all(draw[50:] == ("test",) * 50 for draw in draws)


def test_unknown_patients_cannot_be_split_by_group() -> None:
    with pytest.raises(DataError, match=r"1\.png: its patient or slide is unknown.*groups\.csv"):
        hold_out_by_group(pictures(["a", None]), share=0.2, seed=0, source="train", target="val")
    with pytest.raises(DataError, match="train: 1 groups"):
        hold_out_by_group(pictures(["a", "a"]), share=0.2, seed=0, source="train", target="val")


def test_validation_as_published_at_random_and_by_patient() -> None:
    groups: list[str | None] = [f"p{i // 10}" for i in range(100)]
    cells = LabelledSet("s", Path(), ("c",), None, tuple(pictures(groups)))
    assert with_validation(cells, "own") is cells
    leaking = with_validation(cells, "random", seed=1)
    assert len(leaking.of_split("val")) == 20
    assert groups_in_several_splits(leaking.images) != {}
    clean = with_validation(cells, "group", seed=1)
    assert len(clean.of_split("val")) == 20
    assert groups_in_several_splits(clean.images) == {}


def test_a_source_without_splits_gets_both() -> None:
    cells = LabelledSet("s", Path(), ("c",), None, tuple(pictures([None] * 50, "all")))
    divided = with_validation(cells, "random", seed=1)
    assert (len(divided.of_split("train")), len(divided.of_split("val"))) == (40, 10)


def test_a_group_in_two_splits_is_found() -> None:
    images = [*pictures(["a", "b"]), *pictures(["b", None], "test")]
    assert groups_in_several_splits(images) == {"b": ("test", "train")}
