"""Fitting the statistics of the validated domains, and how well scores tell domains apart.

Owns the shrunk covariance, the borders and the area under the ROC curve. Does not own pooling
and distances (see ``edge_runtime.domain_score``) nor where fields come from
(see ``domain_fields``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike

from edge_runtime.bundle import DistanceKind
from edge_runtime.domain_score import DomainStatistics, Float64Array
from edge_runtime.errors import DataError

DISTANCES: tuple[DistanceKind, ...] = get_args(DistanceKind)
DEFAULT_QUANTILE = 0.99
# Fewer fields tell too little of how fields of a domain differ.
FEWEST_FIELDS = 10
# A channel that is dead in all training fields still has a spread, this share of the mean
# one: without it, one spark in that channel would count more than everything else.
_LEAST_SPREAD = 1e-3


def shrunk_covariance(residuals: Float64Array) -> tuple[Float64Array, float]:
    """A covariance that is positive definite also with fewer fields than features.

    The sample covariance S and a multiple of the identity, ``rho * mu * I + (1 - rho) * S``,
    with the rho that lies nearest to the true covariance on average: Ledoit and Wolf, "A
    well-conditioned estimator for large-dimensional covariance matrices", Journal of
    Multivariate Analysis 88 (2004), 365-411, section 3.2.

    Args:
        residuals: ``(n, features)``, with a mean of 0.

    Returns:
        The covariance ``(features, features)`` and rho, 0 to 1.
    """
    n, features = residuals.shape
    sample = residuals.T @ residuals / n
    mu = float(np.trace(sample)) / features
    # Squared distances as in the paper, divided by the number of features.
    to_target = float(np.square(sample - mu * np.eye(features)).sum()) / features
    fourth = float(np.square(np.square(residuals).sum(axis=1)).sum())
    of_sample = (fourth / n - float(np.square(sample).sum())) / (n * features)
    rho = 1.0 if to_target <= 0 else min(max(of_sample, 0.0), to_target) / to_target
    return rho * mu * np.eye(features) + (1 - rho) * sample, rho


def fit_statistics(
    vectors: Mapping[str, Float64Array],
) -> tuple[DomainStatistics, dict[str, float]]:
    """Mean, spread and whitening matrix of each domain.

    Features are brought to the spread they have within domains before shrinking, so that the
    identity means the same for all of them; the matrices are for features as they are.

    Args:
        vectors: pooled features of training fields by domain, each ``(n, features)``.

    Returns:
        The statistics in the order of ``vectors``, and each domain's rho.

    Raises:
        DataError: a domain with too few different fields, or with one whose features are no
            numbers.
    """
    if not vectors:
        raise DataError("domain statistics: no domain; give at least one with its fields")
    residuals = {}
    for name, group in vectors.items():
        _require_numbers(name, group)
        different = len(np.unique(group, axis=0))
        if different < FEWEST_FIELDS:
            copies = f", {different} of them different" if different < len(group) else ""
            raise DataError(
                f"domain {name!r}: {len(group)} training fields{copies}, at least {FEWEST_FIELDS} "
                "are needed; add fields or leave the domain out"
            )
        residuals[name] = group - group.mean(axis=0)
    # Each domain counts alike, however many fields it has.
    within = np.mean([np.square(each).mean(axis=0) for each in residuals.values()], axis=0)
    floor = _LEAST_SPREAD**2 * float(within.mean())
    scale = np.sqrt(within + floor)
    means, spreads, whitening, shrinkage = [], [], [], {}
    for name, group in vectors.items():
        covariance, shrinkage[name] = shrunk_covariance(residuals[name] / scale)
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        means.append(group.mean(axis=0))
        spreads.append(np.sqrt(np.square(residuals[name]).mean(axis=0) + floor))
        whitening.append(np.tril(inverse / scale))
    return DomainStatistics(np.array(means), np.array(spreads), np.array(whitening)), shrinkage


def _require_numbers(name: str, vectors: Float64Array) -> None:
    if not np.isfinite(vectors).all():
        raise DataError(f"domain {name!r}: a field's features are no numbers; mend the model")


def find_borders(
    statistics: DomainStatistics,
    validation: Mapping[str, Sequence[Float64Array]],
    quantile: float = DEFAULT_QUANTILE,
) -> dict[str, dict[DistanceKind, float]]:
    """For each domain the distance that all but ``1 - quantile`` of its held-out fields keep.

    It is that of the ``ceil(quantile * (n + 1))``-th nearest of n fields: a further field of
    the domain then lies outside with a probability of ``1 - quantile`` at most, whatever the
    distances' distribution (split conformal prediction: Vovk, Gammerman and Shafer,
    "Algorithmic Learning in a Random World", 2005). With n too few for that it is the
    farthest field's, and the probability ``1 / (n + 1)``.

    A film's score is a median, so the same border serves films: outside as often as one field
    where all fields are alike, far less often where they are independent, and at most twice
    as often whatever they are (Markov's inequality on the share of fields outside).

    Args:
        statistics: of the domains, in the order of ``validation``.
        validation: by domain, the features ``(n, features)`` of its held-out fields; more
            than one array when several artifacts looked at the same fields. The widest
            border is taken, so that it holds for each.
        quantile: above 0 and below 1.

    Raises:
        DataError: a domain without held-out fields, with all of them in its mean, or with one
            whose features are no numbers.
    """
    borders: dict[str, dict[DistanceKind, float]] = {}
    for index, (name, seen_by) in enumerate(validation.items()):
        borders[name] = {}
        for kind in DISTANCES:
            widest = 0.0
            for vectors in seen_by:
                if len(vectors) == 0:
                    raise DataError(f"domain {name!r}: no validation field to set its border on")
                _require_numbers(name, vectors)
                own = [float(statistics.distances(each, kind)[index]) for each in vectors]
                rank = min(math.ceil(quantile * (len(own) + 1)), len(own))
                widest = max(widest, sorted(own)[rank - 1])
            if not (math.isfinite(widest) and widest > 0):
                raise DataError(
                    f"domain {name!r}: its validation fields lie at distance {widest:g}; "
                    "give different fields"
                )
            borders[name][kind] = widest
    return borders


def auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """Probability that a score from outside is above one from inside, ties counting half.

    It is Mann and Whitney's U over the number of pairs, from mid-ranks.

    Args:
        inside: scores of what should score low, at least one.
        outside: scores of what should score high, at least one.
    """
    low, high = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if low.size == 0 or high.size == 0:
        raise ValueError(f"auroc: {low.size} scores inside, {high.size} outside; both need one")
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left")
    tied = np.searchsorted(ordered, high, side="right") - below
    return float((below + 0.5 * tied).sum() / (low.size * high.size))
