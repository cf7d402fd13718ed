"""Bounds and posterior against slower ways to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.film.blast_evidence import (
    chance_at_or_over,
    chance_at_or_under,
    corrected_share,
    stop_bounds,
)
from edge_runtime.film.confusion import BlastConfusion

CONFUSION = BlastConfusion(blasts=200, blasts_named=188, others=600, others_named=6)
PERFECT = BlastConfusion(blasts=200_000, blasts_named=200_000, others=200_000, others_named=0)


def every_path(bound: list[int], q: float, first: int, *, over: bool) -> float:
    """The same chance by walking through all 2^n orders of cells."""
    cells, passed = len(bound) - 1, 0.0
    for order in range(2**cells):
        count, chance, hit = 0, 1.0, False
        for n in range(1, cells + 1):
            named = order >> (n - 1) & 1
            count += named
            chance *= q if named else 1 - q
            reached = count >= bound[n] if over else count <= bound[n]
            hit = hit or (n >= first and reached)
        passed += chance * hit
    return passed


@pytest.mark.parametrize("first", [1, 4])
def test_chances_of_passing_are_those_of_all_paths(first: int) -> None:
    lower = [-1, -1, -1, 0, 0, 0, 1, 0, 2, 2, 3]
    upper = [1, 1, 3, 3, 3, 5, 5, 5, 6, 6, 7]
    for q in (0.1, 0.35, 0.8):
        under = chance_at_or_under(np.array(lower), np.array([q]), first)
        over = chance_at_or_over(np.array(upper), np.array([q]), first)
        assert under == pytest.approx(every_path(lower, q, first, over=False), abs=1e-12)
        assert over == pytest.approx(every_path(upper, q, first, over=True), abs=1e-12)


def test_chances_are_means_over_the_shares() -> None:
    bound = np.array([-1, -1, 0, 0, 1])
    each = [chance_at_or_under(bound, np.array([q]), 1) for q in (0.1, 0.4)]
    assert chance_at_or_under(bound, np.array([0.1, 0.4]), 1) == pytest.approx(np.mean(each))


def test_no_bound_is_passed_by_nobody() -> None:
    assert chance_at_or_under(np.full(11, -1), np.array([0.2]), 1) == 0
    assert chance_at_or_over(np.arange(11) + 1, np.array([0.2]), 1) == pytest.approx(0, abs=1e-12)


def test_both_errors_are_used_up_and_not_overdrawn() -> None:
    for error in (0.05, 0.01):
        bounds = stop_bounds(CONFUSION, threshold=0.2, error=error, first=1, cells=200)
        assert 0.9 * error < bounds.missed <= error
        assert 0.9 * error < bounds.false <= error


def test_bounds_never_touch_and_widen_with_the_cells() -> None:
    bounds = stop_bounds(CONFUSION, threshold=0.2, error=0.05, first=20, cells=300)
    assert (bounds.lower < bounds.upper).all()
    assert (np.diff(bounds.lower[20:]) >= 0).all()
    n = np.arange(301)
    assert (bounds.lower[20:] / n[20:] < 0.2).all()
    assert (bounds.upper[20:] / n[20:] > 0.2).all()


def test_a_single_look_is_the_exact_binomial_test() -> None:
    """With one look and a perfect classifier the bounds are known from the binomial itself."""
    special = pytest.importorskip("scipy.special")
    for cells in (100, 400):
        bounds = stop_bounds(PERFECT, threshold=0.2, error=0.05, first=cells, cells=cells)
        # A flat prior's posterior may ask for one cell more than the test.
        lower = max(k for k in range(cells) if special.bdtr(k, cells, 0.2) <= 0.05)
        upper = min(k for k in range(1, cells) if special.bdtrc(k - 1, cells, 0.2) <= 0.05)
        assert bounds.lower[cells] in (lower, lower - 1)
        assert bounds.upper[cells] in (upper, upper + 1)


def test_poorer_figures_ask_for_more_cells() -> None:
    poor = BlastConfusion(blasts=60, blasts_named=51, others=300, others_named=15)
    good, worse = (
        stop_bounds(each, threshold=0.2, error=0.05, first=100, cells=200)
        for each in (PERFECT, poor)
    )
    # With a recall of 85 % and 5 % false ones a fifth of blasts is seen as 21 %.
    assert worse.upper[200] > good.upper[200]


@pytest.mark.parametrize(("named", "cells"), [(0, 50), (5, 50), (60, 200), (45, 50)])
def test_the_corrected_share_is_the_posterior_by_brute_force(named: int, cells: int) -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    draws = 200_000
    share = rng.random(draws)
    recall = rng.beta(188.5, 12.5, draws)
    false = rng.beta(6.5, 594.5, draws)
    q = false + (recall - false) * share
    # The binomial coefficient is the same for all draws.
    weight = q**named * (1 - q) ** (cells - named)
    weight /= weight.sum()
    got = corrected_share(CONFUSION, named=named, cells=cells, threshold=0.2, confidence=0.95)
    assert got.share == pytest.approx(float(weight @ share), abs=0.003)
    assert got.at_least_threshold == pytest.approx(float(weight[share >= 0.2].sum()), abs=0.01)
    inside = weight[(share >= got.low) & (share <= got.high)].sum()
    assert inside == pytest.approx(0.95, abs=0.015)


def test_no_blast_named_leaves_none_possible() -> None:
    got = corrected_share(CONFUSION, named=0, cells=200, threshold=0.2, confidence=0.95)
    assert got.low == 0
    assert got.high < 0.02


def test_false_blasts_alone_are_not_taken_for_blasts() -> None:
    confused = BlastConfusion(blasts=2000, blasts_named=1900, others=20000, others_named=1000)
    got = corrected_share(confused, named=20, cells=400, threshold=0.2, confidence=0.95)
    assert got.low == 0
    assert got.share < 0.02


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"error": 0.5},
        {"error": 0.0},
        {"first": 0},
        {"first": 300},
        {"cells": 1001},
    ],
)
def test_bad_arguments_are_told(bad: dict[str, float]) -> None:
    good = {"threshold": 0.2, "error": 0.05, "first": 10, "cells": 200}
    with pytest.raises(ValueError, match="stop bounds"):
        stop_bounds(CONFUSION, **{**good, **bad})  # type: ignore[arg-type]
