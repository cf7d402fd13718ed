"""The stop rule: its states, its silence, its words, its errors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.film.confusion import BlastConfusion
from edge_runtime.film.screening import ScreeningPlan, ScreeningRule, blasts_of, build_rule
from edge_runtime.settings import Settings

CONFUSION = BlastConfusion(blasts=200, blasts_named=188, others=600, others_named=6)


@pytest.fixture(scope="module")
def rule() -> ScreeningRule:
    return ScreeningRule(ScreeningPlan(), confusion=CONFUSION)


def test_a_film_without_blasts_is_enough_at_the_first_tier(rule: ScreeningRule) -> None:
    before = rule.judge(named=0, cells=99)
    assert (before.state, before.more_cells) == ("keep scanning", 1)
    after = rule.judge(named=0, cells=100)
    assert after.state == "enough: below"
    assert after.text == "Enough: below 20 % blasts (0 of 100 cells named blasts)."
    assert after.corrected is not None
    assert after.corrected.high < 0.05
    assert after.corrected.at_least_threshold < 1e-6


def test_a_film_full_of_blasts_is_enough_at_the_first_tier(rule: ScreeningRule) -> None:
    verdict = rule.judge(named=70, cells=100)
    assert verdict.state == "enough: above"
    assert verdict.text == "Enough: 20 % blasts or more (70 of 100 cells named blasts)."
    assert verdict.corrected is not None
    assert verdict.corrected.at_least_threshold > 0.9999


def test_between_the_bounds_it_asks_for_about_as_many_as_it_takes(rule: ScreeningRule) -> None:
    verdict = rule.judge(named=15, cells=120)
    assert verdict.state == "keep scanning"
    assert verdict.may_settle
    # With the same share in as many more cells the bound is passed, and not much before.
    n = 120 + verdict.more_cells
    assert rule.judge(named=round(15 / 120 * n - 0.5), cells=n).state == "enough: below"
    fewer = n - 20
    assert rule.judge(named=round(15 / 120 * fewer + 0.5), cells=fewer).state == "keep scanning"
    assert f"about {-(-verdict.more_cells // 10) * 10} more cells" in verdict.text


def test_a_share_on_the_threshold_asks_for_all_and_says_it_may_stay_open(
    rule: ScreeningRule,
) -> None:
    verdict = rule.judge(named=40, cells=200)
    assert (verdict.state, verdict.more_cells, verdict.may_settle) == ("keep scanning", 200, False)
    assert "may stay open" in verdict.text
    end = rule.judge(named=80, cells=400)
    assert end.state == "unsettled"
    assert "a person must decide" in end.text


def test_the_last_field_may_bring_more_than_was_asked_for(rule: ScreeningRule) -> None:
    assert rule.judge(named=84, cells=420).state == "unsettled"
    assert rule.judge(named=40, cells=420).state == "enough: below"
    # Far beyond what the errors are declared for.
    assert rule.judge(named=500, cells=5000).state == "enough: below"
    assert rule.judge(named=1000, cells=5000).state == "unsettled"
    assert rule.judge(named=3000, cells=5000).state == "enough: above"


def test_nothing_is_asked_before_the_first_cell(rule: ScreeningRule) -> None:
    verdict = rule.judge(named=0, cells=0)
    assert (verdict.state, verdict.more_cells) == ("keep scanning", 100)


def test_the_same_counts_give_the_same_verdict(rule: ScreeningRule) -> None:
    first = rule.judge(named=10, cells=150)
    rule.judge(named=90, cells=150)
    assert rule.judge(named=10, cells=150) == first


def test_unclassified_cells_count_as_not_named(rule: ScreeningRule) -> None:
    with_some = rule.judge(named=20, cells=100, unclassified=20)
    assert with_some == rule.judge(named=20, cells=120)


def test_it_abstains_out_of_domain_and_says_so(rule: ScreeningRule) -> None:
    for named in (0, 90):
        verdict = rule.judge(named=named, cells=100, outside_domain=True)
        assert (verdict.state, verdict.why) == ("abstains", "out of domain")
        assert verdict.corrected is None
        assert verdict.text.startswith("No verdict on blasts: this film looks unlike")
    inside = rule.judge(named=0, cells=100, outside_domain=False)
    assert inside.state == "enough: below"
    assert inside.domain_assessed
    assert not rule.judge(named=0, cells=100).domain_assessed


def test_it_abstains_when_too_many_cells_have_no_class(rule: ScreeningRule) -> None:
    assert rule.judge(named=0, cells=100, unclassified=25).state == "enough: below"
    assert rule.judge(named=0, cells=100, unclassified=26).why == "too many unclassified"
    # Three of the first four tell nothing yet.
    assert rule.judge(named=0, cells=1, unclassified=3).state == "keep scanning"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"knows_blasts": False, "confusion": CONFUSION}, "no blast class"),
        ({}, "no figures of blasts"),
        ({"confusion": BlastConfusion(0, 0, 600, 6)}, "no figures of blasts"),
        ({"confusion": BlastConfusion(200, 188, 0, 0)}, "no figures of blasts"),
        ({"confusion": BlastConfusion(29, 29, 600, 0)}, "figures too poor"),
        ({"confusion": BlastConfusion(200, 200, 29, 0)}, "figures too poor"),
        ({"confusion": BlastConfusion(200, 20, 600, 70)}, "figures too poor"),
    ],
)
def test_it_abstains_where_it_cannot_know(options: dict[str, Any], why: str) -> None:
    verdict = ScreeningRule(ScreeningPlan(), **options).judge(named=0, cells=400)
    assert (verdict.state, verdict.why, verdict.corrected) == ("abstains", why, None)
    assert verdict.text.startswith("No verdict on blasts: ")


def test_impossible_counts_are_told(rule: ScreeningRule) -> None:
    for named, cells in ((5, 4), (-1, 4)):
        with pytest.raises(ValueError, match="screening"):
            rule.judge(named=named, cells=cells)


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": 0},
        {"confidence": 0.5},
        {"confidence": 1},
        {"fewest_cells": 0},
        {"fewest_cells": 401},
        {"most_cells": 501},
        {"most_unclassified": 1.1},
    ],
)
def test_a_bad_plan_is_told(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        ScreeningPlan(**bad)  # type: ignore[arg-type]


def bundle(*, blasts: tuple[str, ...] = (), metrics: dict[str, dict[str, float]]) -> Any:
    classifier = SimpleNamespace(
        classes=("neutrophil", "myeloblast", "odd"), outside_differential=("odd",), blasts=blasts
    )
    card = SimpleNamespace(metrics=metrics)
    return SimpleNamespace(classifier=classifier, head_cards={"classifier": card})


FIGURES = {
    "test, all cells": {
        "blasts": 200.0,
        "blasts named blasts": 188.0,
        "other white cells": 600.0,
        "others named blasts": 6.0,
    }
}


def test_the_rule_takes_the_bundles_figures_and_a_persons_settings() -> None:
    settings = Settings(blast_threshold=0.05, blast_confidence=0.9, blast_most_cells=200)
    built = build_rule(bundle(metrics=FIGURES), settings)
    assert built.confusion == CONFUSION
    assert built.plan == ScreeningPlan(0.05, 0.9, 100, 200)
    assert built.bounds is not None
    given = build_rule(
        bundle(metrics=FIGURES), Settings(blast_figures="30/40, 2/90", blast_most_cells=100)
    )
    assert given.confusion == BlastConfusion(40, 30, 90, 2)


def test_a_bundle_without_figures_or_blasts_abstains() -> None:
    unmeasured = build_rule(bundle(metrics={}), Settings())
    assert unmeasured.judge(named=0, cells=200).why == "no figures of blasts"
    nothing: Any = SimpleNamespace(classifier=None, head_cards={})
    assert build_rule(nothing, Settings()).judge(named=0, cells=200).why == "no blast class"


def test_the_shipped_bundle_knows_no_blasts() -> None:
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    shipped = build_rule(open_bundle(shipped_bundle_path()).manifest, Settings())
    assert shipped.judge(named=0, cells=200).why == "no blast class"


def test_blasts_are_those_the_bundle_names_or_those_called_so() -> None:
    assert blasts_of(bundle(metrics={}).classifier) == ("myeloblast",)
    assert blasts_of(bundle(blasts=("neutrophil",), metrics={}).classifier) == ("neutrophil",)
    assert blasts_of(None) == ()


def test_films_on_either_side_of_the_threshold_err_as_declared(rule: ScreeningRule) -> None:
    """2,000 films on each side, cell by cell through the confusion; 10,000 in the slow test."""
    rng = np.random.Generator(np.random.PCG64(11))
    films, cells = 2000, 400
    assert rule.bounds is not None
    n = np.arange(1, cells + 1)
    for share, wrong_is_below in ((0.20, True), (0.1999, False)):
        blast = rng.random((films, cells)) < share
        recall = rng.beta(188.5, 12.5, (films, 1))
        false = rng.beta(6.5, 594.5, (films, 1))
        named = np.cumsum(rng.random((films, cells)) < np.where(blast, recall, false), axis=1)
        passed = named <= rule.bounds.lower[n] if wrong_is_below else named >= rule.bounds.upper[n]
        wrong = float((passed & (n >= 100)).any(axis=1).mean())
        # Three standard errors of 2,000 films at 5 % are 1.5 points; much less would be timid.
        assert 0.025 < wrong < 0.065
