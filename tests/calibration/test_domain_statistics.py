"""Covariance, borders and AUROC, on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.domain_statistics import auroc, find_borders, fit_statistics, shrunk_covariance
from edge_runtime.bundle import DistanceKind
from edge_runtime.domain_score import DomainStatistics, Float64Array
from edge_runtime.errors import DataError


def fields(count: int, features: int = 3, *, seed: int = 0, centre: float = 0.0) -> Float64Array:
    return np.asarray(np.random.default_rng(seed).normal(centre, 1.0, (count, features)))


def standing_alone(features: int, domains: int = 1) -> DomainStatistics:
    """Domains around 0 whose features are independent, with a spread of 1."""
    zero = np.zeros((domains, features))
    return DomainStatistics(zero, zero + 1, np.tile(np.eye(features), (domains, 1, 1)))


def test_shrinkage_is_the_closed_form() -> None:
    # S = diag(2, 1), mu = 1.5, ||S - mu I||^2 / 2 = 0.25. The mean of |x|^4 is
    # (16 + 16 + 4 + 4) / 4 = 10, less ||S||^2 = 5 leaves 5; over n and features 5 / 8 = 0.625,
    # more than 0.25, so the target is taken whole.
    few = np.array([[2.0, 0], [-2, 0], [0, 2**0.5], [0, -(2**0.5)]])
    covariance, rho = shrunk_covariance(few)
    assert rho == 1.0
    np.testing.assert_allclose(covariance, 1.5 * np.eye(2))
    # The same eight times: only the error of S changes, 0.625 / 8; rho = 0.078125 / 0.25.
    covariance, rho = shrunk_covariance(np.tile(few, (8, 1)))
    assert rho == pytest.approx(0.3125)
    np.testing.assert_allclose(covariance, np.diag([2 - 0.5 * 0.3125, 1 + 0.5 * 0.3125]))


def test_a_covariance_of_fewer_fields_than_features_can_be_inverted() -> None:
    group = fields(12, 40)
    covariance, rho = shrunk_covariance(group - group.mean(axis=0))
    assert 0 < rho <= 1
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_with_the_identity_mahalanobis_is_euclid() -> None:
    away = np.array([3.0, 0, 4])
    statistics = standing_alone(3)
    assert statistics.distances(away, "mahalanobis") == pytest.approx([5.0])
    assert statistics.distances(away, "standardised_euclidean") == pytest.approx([5.0])


@pytest.mark.parametrize("kind", ["mahalanobis", "standardised_euclidean"])
def test_distances_do_not_change_with_the_units_of_features(kind: DistanceKind) -> None:
    group, probe = fields(400, 4), fields(5, 4, seed=9, centre=2.0)
    units, shift = np.array([1.0, 10.0, 0.1, 7.0]), np.array([5.0, -3, 0, 1])
    plain, _ = fit_statistics({"a": group})
    other, _ = fit_statistics({"a": group * units + shift})
    for each in probe:
        # Not exactly: the floor under a spread is a share of the mean one.
        found = other.distances(each * units + shift, kind)
        assert found == pytest.approx(plain.distances(each, kind), rel=0.01)


def test_a_field_against_the_grain_is_far_by_mahalanobis_only() -> None:
    along = np.random.default_rng(1).normal(0, 1, (500, 1))
    group = np.concatenate([along, along], 1) + 0.05 * fields(500, 2)
    statistics, shrinkage = fit_statistics({"a": group})
    with_it, against = np.array([1.0, 1.0]), np.array([1.0, -1.0])
    near, far = (statistics.distances(x, "mahalanobis")[0] for x in (with_it, against))
    assert far > 5 * near
    near, far = (statistics.distances(x, "standardised_euclidean")[0] for x in (with_it, against))
    assert far == pytest.approx(near, rel=0.2)
    assert 0 <= shrinkage["a"] < 0.1


def test_every_domain_has_the_covariance_of_its_own_fields() -> None:
    mixing = np.array([[1.0, 0, 0], [0.9, 0.3, 0], [-0.5, 0.2, 0.4]])
    units = np.array([1.0, 3.0, 0.5])
    groups = {
        "a": fields(6000, seed=1) @ mixing.T * units + 5,
        "b": fields(6000, seed=2) @ mixing * units - 3,
    }
    statistics, shrinkage = fit_statistics(groups)
    assert max(shrinkage.values()) < 0.01
    for place, group in enumerate(groups.values()):
        whitening = statistics.whitening[place]
        found = np.linalg.inv(whitening.T @ whitening)
        # In units of its own spreads, so that none of the features is too small to count.
        spread = group.std(axis=0)
        expected = np.cov(group.T) / np.outer(spread, spread)
        np.testing.assert_allclose(found / np.outer(spread, spread), expected, atol=0.02)
        np.testing.assert_allclose(statistics.spreads[place], spread, rtol=0.01)
        np.testing.assert_allclose(statistics.means[place], group.mean(axis=0))


def test_a_dead_channel_has_a_spread_and_a_spark_in_it_shows() -> None:
    group = fields(60, 3)
    group[:, 2] = 0.25
    statistics, _ = fit_statistics({"a": group})
    assert (statistics.spreads > 0).all()
    assert np.isfinite(statistics.whitening).all()
    calm = statistics.distances(np.array([0, 0, 0.25]), "mahalanobis")[0]
    assert statistics.distances(np.array([0, 0, 1.0]), "mahalanobis")[0] > 100 * (calm + 1)


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0.5, 5.0), (0.9, 9.0), (0.99, 9.0), (0.1, 1.0)]
)
def test_borders_are_order_statistics(quantile: float, expected: float) -> None:
    # Nine fields at distances 1 to 9: the ceil(q * 10)-th, and at most the farthest.
    held_out = np.arange(1.0, 10.0)[::-1, None]
    borders = find_borders(standing_alone(1), {"a": [held_out]}, quantile)
    assert borders["a"]["mahalanobis"] == pytest.approx(expected)
    assert borders["a"]["standardised_euclidean"] == pytest.approx(expected)


def test_a_border_is_of_distances_to_its_own_domain_alone() -> None:
    flat = standing_alone(1, domains=2)
    statistics = DomainStatistics(np.array([[0.0], [5.0]]), flat.spreads, flat.whitening)
    # Those of b lie nearer to a's mean than to their own, but for one.
    held_out = {"a": [np.array([[1.0], [2.0]])], "b": [5 - np.arange(1.0, 10.0)[:, None]]}
    borders = find_borders(statistics, held_out, 0.9)
    assert [borders[name]["mahalanobis"] for name in "ab"] == pytest.approx([2.0, 9.0])


def test_a_border_holds_for_the_artifact_that_sees_the_fields_farthest() -> None:
    held_out = np.arange(1.0, 10.0)[:, None]
    borders = find_borders(standing_alone(1), {"a": [held_out, 2 * held_out]}, 0.9)
    assert borders["a"]["mahalanobis"] == pytest.approx(18.0)


def test_further_fields_are_outside_as_often_as_stated() -> None:
    statistics, _ = fit_statistics({"a": fields(300, 5, seed=1)})
    border = find_borders(statistics, {"a": [fields(400, 5, seed=2)]}, 0.95)["a"]["mahalanobis"]
    further = [statistics.distances(each, "mahalanobis")[0] for each in fields(2000, 5, seed=3)]
    assert 0.02 < np.mean(np.array(further) > border) < 0.08


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ([1, 2], [3, 4], 1.0),
        ([3, 4], [1, 2], 0.0),
        ([1, 2, 3], [2], 0.5),
        ([1, 1], [1], 0.5),
        ([1, 2], [2, 3], 0.875),
        ([0, 2, 4], [1, 3], 0.5),
    ],
)
def test_auroc_by_hand(inside: list[float], outside: list[float], expected: float) -> None:
    assert auroc(inside, outside) == pytest.approx(expected)


def test_auroc_is_the_share_of_right_pairs() -> None:
    rng = np.random.default_rng(4)
    low, high = rng.integers(0, 9, 40), rng.integers(2, 12, 30)
    pairs = [(h > lo) + 0.5 * (h == lo) for lo in low for h in high]
    assert auroc(low.tolist(), high.tolist()) == pytest.approx(float(np.mean(pairs)))
    with pytest.raises(ValueError, match="both need one"):
        auroc([], [1.0])


def test_domains_too_small_or_without_life_are_one_line() -> None:
    with pytest.raises(DataError, match="'a': 4 training fields, at least 10"):
        fit_statistics({"a": fields(4)})
    with pytest.raises(DataError, match="'b': 12 training fields, 1 of them different, at least"):
        fit_statistics({"a": fields(12), "b": np.ones((12, 3))})
    with pytest.raises(DataError, match="'a': 36 training fields, 9 of them different, at least"):
        fit_statistics({"a": np.tile(fields(9), (4, 1))})
    assert fit_statistics({"a": np.tile(fields(10), (4, 1))})[0].means.shape == (1, 3)
    with pytest.raises(DataError, match="no numbers"):
        fit_statistics({"a": fields(12) * np.nan})
    for wrong in (np.nan, np.inf):
        # Among others, where sorting would put it anywhere.
        one = fields(9)
        one[4, 1] = wrong
        with pytest.raises(DataError, match="'a': a field's features are no numbers"):
            find_borders(standing_alone(3), {"a": [one]})
    with pytest.raises(DataError, match="no domain"):
        fit_statistics({})
    with pytest.raises(DataError, match="no validation field"):
        find_borders(standing_alone(3), {"a": [np.zeros((0, 3))]})
    with pytest.raises(DataError, match="distance 0"):
        find_borders(standing_alone(3), {"a": [np.zeros((4, 3))]})
