"""The gate passes, fails, and refuses to judge what it cannot compare."""

from __future__ import annotations

import pytest

from edge_runtime.errors import DataError
from export.parity import parity_gate


@pytest.mark.parametrize(
    ("int8", "passed"),
    [
        ({"a": 0.80, "b": 0.70}, True),
        ({"a": 0.795, "b": 0.70}, True),  # exactly half a point
        ({"a": 0.7949, "b": 0.70}, False),
        ({"a": 0.99, "b": 0.69}, False),  # a gain elsewhere does not make up for it
    ],
)
def test_every_domain_may_lose_half_a_point(int8: dict[str, float], passed: bool) -> None:
    assert parity_gate({"a": 0.80, "b": 0.70}, int8).passed is passed


def test_worst_domain_and_points() -> None:
    result = parity_gate({"b": 0.8, "a": 0.7}, {"a": 0.72, "b": 0.77}, allowed_points=3)
    assert [domain.domain for domain in result.domains] == ["a", "b"]
    assert result.worst.domain == "b"
    assert result.worst.lost_points == pytest.approx(3)
    assert result.domains[0].lost_points == pytest.approx(-2)
    assert result.passed


@pytest.mark.parametrize(
    ("float_ap", "int8_ap", "allowed"),
    [
        ({}, {}, 0.5),
        ({"a": 0.8}, {}, 0.5),
        ({"a": 0.8}, {"b": 0.8}, 0.5),
        ({"a": float("nan")}, {"a": 0.8}, 0.5),
        ({"a": 0.8}, {"a": float("nan")}, 0.5),
        ({"a": 0.8}, {"a": 80.0}, 0.5),
        ({"a": 0.8}, {"a": 0.8}, float("nan")),
        ({"a": 0.8}, {"a": 0.8}, -1),
    ],
)
def test_what_cannot_be_compared_never_passes(
    float_ap: dict[str, float], int8_ap: dict[str, float], allowed: float
) -> None:
    with pytest.raises(DataError, match="parity gate"):
        parity_gate(float_ap, int8_ap, allowed_points=allowed)
