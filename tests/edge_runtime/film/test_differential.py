"""Exact intervals against published values and the binomial sum itself, and the counting."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from edge_runtime.film.differential import count_differential, exact_interval


def tail_at_least(count: int, total: int, share: float) -> float:
    """P(count or more of total), summed in exact fractions."""
    p = Fraction(share)
    return float(
        sum(comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(count, total + 1))
    )


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # The 95 % limits of blast counts in common use. 4 of 200 begins at 0.5476 %, which
        # some tables round twice, to 0.6.
        (2, 100, 0.2, 7.0),
        (4, 200, 0.5, 5.0),
        (0, 100, 0.0, 3.6),
        (5, 100, 1.6, 11.3),
        (20, 100, 12.7, 29.2),
        (100, 100, 96.4, 100.0),
    ],
)
def test_known_intervals(count: int, total: int, low: float, high: float) -> None:
    found = exact_interval(count, total)
    assert (round(100 * found[0], 1), round(100 * found[1], 1)) == (low, high)


@pytest.mark.parametrize(
    ("count", "total"), [(1, 1), (0, 1), (1, 2), (1, 37), (18, 37), (36, 37), (7, 400), (199, 400)]
)
def test_ends_leave_exactly_a_fortieth_on_each_side(count: int, total: int) -> None:
    low, high = exact_interval(count, total)
    if count:
        assert tail_at_least(count, total, low) == pytest.approx(0.025, rel=1e-9)
    if count < total:
        assert 1 - tail_at_least(count + 1, total, high) == pytest.approx(0.025, rel=1e-9)


@pytest.mark.parametrize("total", [1, 9, 100, 100_000])
def test_ends_without_and_with_only_hits_have_a_closed_form(total: int) -> None:
    bound = 0.025 ** (1 / total)
    assert exact_interval(total, total) == pytest.approx((bound, 1.0), rel=1e-9)
    assert exact_interval(0, total) == pytest.approx((0.0, 1 - bound), rel=1e-9)


@pytest.mark.parametrize(("count", "total"), [(3, 50), (30, 1000), (12_345, 1_000_000)])
def test_mirrored_counts_mirror_the_interval(count: int, total: int) -> None:
    low, high = exact_interval(count, total)
    mirrored = exact_interval(total - count, total)
    assert mirrored == pytest.approx((1 - high, 1 - low))
    assert low < count / total < high


def test_large_counts_approach_the_normal_interval() -> None:
    assert exact_interval(500_000, 1_000_000) == pytest.approx((0.49902, 0.50098), abs=2e-6)


def test_interval_narrows_with_less_confidence_and_more_cells() -> None:
    low, high = exact_interval(10, 100)
    assert low < exact_interval(10, 100, confidence=0.5)[0]
    assert exact_interval(100, 1000)[1] < high


def test_against_scipy_where_it_is_installed() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count, total in ((1, 7), (250, 400), (3, 10_000)):
        low, high = exact_interval(count, total)
        assert low == pytest.approx(stats.beta.ppf(0.025, count, total - count + 1))
        assert high == pytest.approx(stats.beta.ppf(0.975, count + 1, total - count))


def test_counts_become_shares_of_what_counts() -> None:
    counts = {"blast": 2, "neutrophil": 98, "erythroblast": 7, "basophil": 0}
    found = count_differential(counts, outside=("erythroblast",), unclassified=4)
    assert found.total == 100
    assert [each.name for each in found.classes] == ["blast", "neutrophil", "basophil"]
    assert [each.share for each in found.classes] == [0.02, 0.98, 0.0]
    assert (found.outside, found.unclassified) == ((("erythroblast", 7),), 4)
    assert round(found.classes[0].high, 3) == 0.070
    assert sum(each.count for each in found.classes) == found.total


def test_empty_film_says_that_anything_is_possible() -> None:
    (only,) = count_differential({"blast": 0}).classes
    assert (only.share, only.low, only.high) == (None, 0.0, 1.0)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2 cells"):
        exact_interval(3, 2)
    with pytest.raises(ValueError, match="confidence 1"):
        exact_interval(1, 2, confidence=1)
    with pytest.raises(ValueError, match="no class 'x'"):
        count_differential({"blast": 1}, outside=("x",))
    with pytest.raises(ValueError, match="negative count of 'blast'"):
        count_differential({"blast": -1})
    with pytest.raises(ValueError, match="negative count of 'unclassified'"):
        count_differential({"blast": 1}, unclassified=-1)
