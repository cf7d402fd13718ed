"""What counts of named cells say of a film's true share of blasts, and where to stop.

Owns the posterior of that share, corrected for the classifier's measured confusion, and the
stopping bounds with their error rates, computed and not simulated. Does not own states and
words (see ``screening``).

A cell is named a blast with probability ``q = f + (r - f) p``, where p is the film's share of
blasts, r the classifier's recall of them and f its rate of false ones. r and f are known only
as well as they were measured, so everything is averaged over what their test counts leave
possible. The prior of p is flat.

Stopping as soon as the posterior probability passes a limit errs more often than the limit
says where films lie near the threshold, because it looks again after every cell. So the limit
is raised until the chance of ever passing it, at a share exactly on the threshold, is as
declared; every other film on the wrong side of the decision errs more seldom, for its count of
named blasts tends farther away from that bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.film.confusion import BlastConfusion, Float64Array

Int64Array = NDArray[np.int64]

# Equally probable values of recall and of false rate. Films on the threshold need many: what
# lies beyond the outermost values is where errors come from; 24 made the errors a tenth
# larger than declared where few blasts were measured.
_RATES = 96
_COARSE_RATES = 24
# Values of the film's share on each side of the threshold.
_SHARES = 96
# Where the share of named cells can lie, evenly in its arcsine, which has the same error
# everywhere: 1/(2 sqrt(n)); at 1,000 cells that is five of these steps.
_STEPS = 512
# Groups of equally probable named shares for a film on the threshold.
_GROUPS = 48
# The corrected share and its interval are read off so many points.
_POINTS = 400
_COARSEST_RATES = 12
# Aimed at this much of the declared error: groups and values above are a grid, which makes
# computed errors up to a fiftieth too small where recall was poorly measured.
_AIM = 0.97
# Log odds; less moves no bound.
_TOLERANCE = 0.02
_FARTHEST = 40.0
# 2^-1000 is still a double; a longer film's likelihood would not be.
LARGEST_COUNT = 1000


@dataclass(frozen=True, slots=True)
class StopBounds:
    """When named blasts settle the question, by the number of cells.

    Attributes:
        lower: int64 ``(cells + 1,)``; at ``n`` cells so many named blasts or fewer mean
            "below"; -1 where none is few enough.
        upper: so many or more mean "at or above"; ``n + 1`` where none is enough.
        first: cells before which nothing is settled.
        missed: chance that a film whose share is just the threshold is ever called below,
            over all counts from ``first`` to ``cells``.
        false: that a film just under it is ever called at or above.
    """

    lower: Int64Array
    upper: Int64Array
    first: int
    missed: float
    false: float


@dataclass(frozen=True, slots=True)
class CorrectedShare:
    """The film's share of blasts, corrected for confusion.

    Attributes:
        share: posterior mean, 0..1.
        low, high: the shortest interval that holds ``confidence`` of the posterior.
        at_least_threshold: posterior probability of that, flat prior.
    """

    share: float
    low: float
    high: float
    at_least_threshold: float


def stop_bounds(
    confusion: BlastConfusion, *, threshold: float, error: float, first: int, cells: int
) -> StopBounds:
    """Bounds whose two errors are each at most ``error``, whatever the film's share.

    Costs under a second. Either error counts every passing of its bound between ``first`` and
    ``cells``, whether or not one looked, stopped or had passed the other one before.

    Args:
        confusion: of the classifier; its recall must be clearly above its false rate.
        threshold: share of blasts that is asked about, between 0 and 1.
        error: each kind's chance, between 0 and 0.5.
        first: cells before which nothing is settled, from 1.
        cells: the most that are looked at, up to ``LARGEST_COUNT``.

    Raises:
        ValueError: an argument outside its bounds.
    """
    if not 0 < threshold < 1 or not 0 < error < 0.5 or not 1 <= first <= cells <= LARGEST_COUNT:
        raise ValueError(
            f"stop bounds: threshold {threshold}, error {error}, first {first}, cells {cells}; "
            f"wanted 0..1, 0..0.5 and 1 <= first <= cells <= {LARGEST_COUNT}"
        )
    recalls, falses = confusion.recalls(_COARSE_RATES), confusion.false_rates(_COARSE_RATES)
    below = _named_shares(recalls, falses, (np.arange(_SHARES) + 0.5) / _SHARES * threshold)
    above = _named_shares(
        recalls, falses, threshold + (np.arange(_SHARES) + 0.5) / _SHARES * (1 - threshold)
    )
    odds = _log_odds(below, above, threshold, cells)
    recalls, falses = confusion.recalls(_RATES), confusion.false_rates(_RATES)
    at = np.sort((falses[None, :] + (recalls[:, None] - falses[None, :]) * threshold).ravel())
    at = at.reshape(_GROUPS, -1).mean(axis=1)
    # As odds rise with fewer blasts; the smallest up to k and the largest from k on keep both
    # regions whole where rounding or an odd test count would tear them.
    falling = np.fmin.accumulate(odds, axis=1)
    rising = np.fmax.accumulate(odds[:, ::-1], axis=1)[:, ::-1]
    start = float(np.log1p(-error) - np.log(error))

    n = np.arange(cells + 1)

    def lower_at(limit: float) -> tuple[Int64Array, float]:
        # Columns beyond n are no states.
        bound = np.minimum((falling >= limit).sum(axis=1, dtype=np.int64) - 1, n)
        return bound, chance_at_or_under(bound, at, first)

    def upper_at(limit: float) -> tuple[Int64Array, float]:
        # Beyond n there is no number here, which counts as not passed.
        bound = n + 1 - (rising <= -limit).sum(axis=1, dtype=np.int64)
        return bound, chance_at_or_over(bound, at, first)

    lower, missed = _raised(lower_at, start, _AIM * error)
    upper, false = _raised(upper_at, start, _AIM * error)
    return StopBounds(lower, upper, first, missed, false)


def chance_at_or_under(bound: Int64Array, shares: Float64Array, first: int) -> float:
    """The chance that the count of named cells ever is at or under a bound.

    Exact: every path of the count is followed, up to the bound's largest value, above which
    no path comes back.

    Args:
        bound: int64 ``(cells + 1,)``, by the number of cells; -1 where nothing passes.
        shares: float64 ``(m,)``, the chance that one cell is named; equally probable.
        first: bounds before this number of cells are not looked at.
    """
    states = int(bound[first:].max()) + 1
    if states <= 0:
        return 0.0
    passed = 0.0
    alive = _begin(states, len(shares))
    for n in range(1, len(bound)):
        _step(alive, shares)
        out = int(bound[n]) + 1
        if n >= first and out > 0:
            passed += float(alive[:out].sum())
            alive[:out] = 0.0
    return passed / len(shares)


def chance_at_or_over(bound: Int64Array, shares: Float64Array, first: int) -> float:
    """The chance that the count of named cells ever is at or over a bound; see above.

    Args:
        bound: int64 ``(cells + 1,)``; ``n + 1`` where nothing passes.
        shares: as of ``chance_at_or_under``.
        first: as there.
    """
    # A count above the largest bound is over every later one, so it is followed no farther.
    alive = _begin(int(bound.max()) + 1, len(shares))
    for n in range(1, len(bound)):
        _step(alive, shares)
        if n >= first:
            alive[int(bound[n]) :] = 0.0
    return 1.0 - float(alive.sum()) / len(shares)


def _begin(states: int, paths: int) -> Float64Array:
    """No cell yet: float64 ``(states, paths)`` with all of the chance at a count of 0."""
    alive = np.zeros((states, paths))
    alive[0] = 1.0
    return alive


def _step(alive: Float64Array, shares: Float64Array) -> None:
    """One more cell; what leaves the largest count is gone."""
    named = alive * shares
    alive -= named
    alive[1:] += named[:-1]


def corrected_share(
    confusion: BlastConfusion, *, named: int, cells: int, threshold: float, confidence: float
) -> CorrectedShare:
    """The posterior of a film's share of blasts from ``named`` of ``cells`` cells.

    Costs about a millisecond.
    """
    # Denser near 0 and 1, where small differences matter.
    edges = np.sin(np.linspace(0, np.pi / 2, _POINTS + 1)) ** 2
    share, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    recall, false = np.meshgrid(
        confusion.recalls(_COARSEST_RATES), confusion.false_rates(_COARSEST_RATES)
    )
    q = false.ravel() + (recall - false).ravel() * share[:, None]
    logs = named * np.log(q) + (cells - named) * np.log1p(-q)
    density = np.exp(logs - logs.max()).sum(axis=1)
    mass = density * width
    mass /= mass.sum()
    highest = np.argsort(-density, kind="stable")
    inside = highest[: int(np.searchsorted(np.cumsum(mass[highest]), confidence)) + 1]
    # A cell of the grid that the threshold cuts counts by its part above.
    above = np.clip((edges[1:] - threshold) / width, 0, 1)
    return CorrectedShare(
        share=float(mass @ share),
        low=float(edges[inside.min()]),
        high=float(edges[inside.max() + 1]),
        at_least_threshold=float(mass @ above),
    )


@dataclass(frozen=True, slots=True)
class _NamedShares:
    """Shares of named cells, float64 ``(m,)``, and their weights, which add up to 1."""

    values: Float64Array
    weights: Float64Array


def _named_shares(
    recalls: Float64Array, falses: Float64Array, shares: Float64Array
) -> _NamedShares:
    """How the share of named cells is distributed when all combinations are equally probable."""
    q = falses[None, :, None] + (recalls[:, None, None] - falses[None, :, None]) * shares
    q = q.ravel()
    step = np.minimum((np.arcsin(np.sqrt(q)) / (np.pi / 2) * _STEPS).astype(np.int64), _STEPS - 1)
    counts = np.bincount(step, minlength=_STEPS)
    sums = np.bincount(step, weights=q, minlength=_STEPS)
    there = counts > 0
    return _NamedShares(sums[there] / counts[there], counts[there] / len(q))


def _log_odds(
    below: _NamedShares, above: _NamedShares, threshold: float, cells: int
) -> Float64Array:
    """Posterior log odds of "below", float64 ``(cells + 1, cells + 1)`` by cells and named.

    No number where more are named than there are, or where the counts contradict the
    classifier's figures beyond what a double can say.
    """
    powers = np.arange(cells + 1)[:, None]
    by_counts = []
    for side, prior in ((below, threshold), (above, 1 - threshold)):
        named = side.values[None, :] ** powers * (side.weights * prior)
        by_counts.append(named @ ((1 - side.values[None, :]) ** powers).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.log(by_counts[0]) - np.log(by_counts[1])
    n, named = np.meshgrid(np.arange(cells + 1), np.arange(cells + 1), indexing="ij")
    return np.where(named <= n, odds[np.minimum(named, n), np.maximum(n - named, 0)], np.nan)


def _raised(
    bound_at: Callable[[float], tuple[Int64Array, float]], start: float, error: float
) -> tuple[Int64Array, float]:
    """The widest bound whose chance of being passed is at most ``error``, and that chance.

    Its limit in log odds is never under ``start``, where the posterior itself is as sure as
    was asked for.
    """
    bound, chance = bound_at(start)
    low, high = start, _FARTHEST
    if chance <= error:
        return bound, chance
    bound, chance = bound_at(high)
    while high - low > _TOLERANCE:
        # Near the start first: what is wanted lies a few units above it.
        middle = low + (high - low) / 8 if high == _FARTHEST else (low + high) / 2
        tried, tried_chance = bound_at(middle)
        if tried_chance <= error:
            high, bound, chance = middle, tried, tried_chance
        else:
            low = middle
    return bound, chance
