"""When a source lost too much, and what the line says."""

from __future__ import annotations

import pytest

from calibration.class_accuracy import ClassFigures, ClassMetrics
from train.site.verdict import Change, site_remark, source_verdict


def change(before: float, after: float) -> Change:
    def metrics(ap: float) -> ClassMetrics:
        return ClassMetrics(3, 4, ap, ap, (ClassFigures("WBC", 4, ap, ap),))

    return Change(metrics(before), metrics(after))


@pytest.mark.parametrize(
    ("after", "limit", "passed"),
    [
        (0.90, 2.0, True),
        (0.79, 2.0, True),
        (0.7801, 2.0, True),
        (0.7799, 2.0, False),
        (0.79, 0.5, False),
        (0.7999, 0.0, False),
        (float("nan"), 2.0, False),
    ],
)
def test_the_limit_decides(after: float, limit: float, passed: bool) -> None:
    assert source_verdict({"one": change(0.8, after)}, limit)[0] is passed


def test_one_set_of_several_is_enough_to_fail_and_is_named() -> None:
    passed, line = source_verdict({"a": change(0.8, 0.85), "b": change(0.9, 0.86)}, 2.0)
    assert not passed
    assert line.startswith("source lost: AP50-95 of b from 0.9000 to 0.8600, by 4.0 points; 2 may")
    for remedy in ("--ratio", "--epochs", "--lr0", "--limit-drop"):
        assert remedy in line
    passed, line = source_verdict({"a": change(0.8, 0.85), "b": change(0.9, 0.89)}, 2.0)
    assert passed
    assert "a from 0.8000 to 0.8500, b from 0.9000 to 0.8900" in line


def test_a_site_that_won_nothing_is_told_so() -> None:
    assert site_remark(change(0.5, 0.6)).endswith("from 0.5000 to 0.6000 (+10.0 points)")
    assert "nothing is won on the site" in site_remark(change(0.5, 0.5))
