"""Figures of a classifier: how they are read, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.film.confusion import BlastConfusion, confusion_of_card, parse_confusion

ROW = {
    "blasts": 200.0,
    "blasts named blasts": 188.0,
    "other white cells": 600.0,
    "others named blasts": 6.0,
    "accuracy": 0.95,
}
COUNTS = BlastConfusion(blasts=200, blasts_named=188, others=600, others_named=6)


def test_counts_are_read_as_written() -> None:
    assert parse_confusion("188/200, 6/600") == COUNTS
    assert parse_confusion(str(COUNTS)) == COUNTS
    assert (COUNTS.recall, COUNTS.false_rate) == (0.94, 0.01)
    assert BlastConfusion(0, 0, 0, 0).recall is None


@pytest.mark.parametrize("text", ["", "0.94, 0.01", "188/200", "188/200, 6/600, 1/1", "-1/2, 0/3"])
def test_what_is_written_otherwise_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="write '188/200, 4/600'"):
        parse_confusion(text)


def test_no_part_is_larger_than_its_whole() -> None:
    with pytest.raises(ValueError, match="201 of 200"):
        parse_confusion("201/200, 0/600")


def test_a_card_gives_the_counts_of_all_cells_before_those_of_one_domain() -> None:
    other = {**ROW, "blasts": 50.0, "blasts named blasts": 40.0}
    assert confusion_of_card({"test, a": other, "test, all cells": ROW}) == COUNTS
    assert confusion_of_card({"test, a": ROW, "validation": {"accuracy": 1.0}}) == COUNTS


def test_domains_that_may_share_cells_are_not_added_up() -> None:
    assert confusion_of_card({"test, a": ROW, "test, b": ROW}) is None


def test_a_card_without_blasts_gives_nothing() -> None:
    assert confusion_of_card({"test, all cells": {"accuracy": 0.98}}) is None


def test_values_are_quantiles_of_the_beta_distribution() -> None:
    special = pytest.importorskip("scipy.special")
    wanted = special.betaincinv(188.5, 12.5, (np.arange(24) + 0.5) / 24)
    np.testing.assert_allclose(COUNTS.recalls(24), wanted, rtol=1e-9)
    wanted = special.betaincinv(6.5, 594.5, (np.arange(24) + 0.5) / 24)
    np.testing.assert_allclose(COUNTS.false_rates(24), wanted, rtol=1e-9)
