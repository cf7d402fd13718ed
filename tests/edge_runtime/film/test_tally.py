"""The running count: tiers, corrections, intervals."""

from __future__ import annotations

import pytest

from edge_runtime.film.differential import exact_interval
from edge_runtime.film.tally import RunningTally

CLASSES = ("neutrophil", "lymphocyte", "myeloblast", "erythroblast")


@pytest.fixture
def tally() -> RunningTally:
    return RunningTally(
        CLASSES, unclassified="unclassified", outside=["erythroblast"], blasts=["myeloblast"]
    )


def test_cells_are_counted_by_what_they_are(tally: RunningTally) -> None:
    tally.add(["neutrophil"] * 3 + ["myeloblast", "erythroblast", "unclassified"])
    assert (tally.cells, tally.blasts, tally.unclassified) == (4, 1, 1)
    differential = tally.state().differential
    assert differential.total == 4
    assert differential.outside == (("erythroblast", 1),)
    assert differential.unclassified == 1


@pytest.mark.parametrize(
    ("cells", "tier", "following", "missing"),
    [
        (0, None, 100, 100),
        (99, None, 100, 1),
        (100, 100, 200, 100),
        (399, 200, 400, 1),
        (400, 400, None, 0),
        (950, 400, None, 0),
    ],
)
def test_tiers(
    tally: RunningTally, cells: int, tier: int | None, following: int | None, missing: int
) -> None:
    tally.add(["neutrophil"] * cells + ["erythroblast"] * 7 + ["unclassified"] * 7)
    state = tally.state()
    assert (state.tier, state.next_tier, state.cells_to_next) == (tier, following, missing)


def test_intervals_are_exact_and_follow_the_count(tally: RunningTally) -> None:
    tally.add(["myeloblast"] * 2 + ["lymphocyte"] * 98)
    blasts = next(each for each in tally.state().differential.classes if each.name == "myeloblast")
    # 2 of 100 is 0.2 to 7.0 %.
    assert (blasts.low, blasts.high) == exact_interval(2, 100)
    assert (round(blasts.low, 3), round(blasts.high, 3)) == (0.002, 0.070)
    tally.add(["lymphocyte"] * 100)
    blasts = next(each for each in tally.state().differential.classes if each.name == "myeloblast")
    assert (blasts.low, blasts.high) == exact_interval(2, 200)


def test_a_correction_moves_one_cell(tally: RunningTally) -> None:
    tally.add(["lymphocyte", "lymphocyte"])
    before = tally.state()
    tally.correct("lymphocyte", "myeloblast")
    assert (tally.cells, tally.blasts, tally.state().blasts) == (2, 1, 1)
    assert before.blasts == 0
    tally.remove("myeloblast")
    assert (tally.cells, tally.state().blasts) == (1, 0)


def test_the_state_is_made_once_for_one_count(tally: RunningTally) -> None:
    tally.add(["lymphocyte"])
    assert tally.state() is tally.state()


def test_an_unknown_class_counts_nothing(tally: RunningTally) -> None:
    with pytest.raises(ValueError, match="no class 'smudge'"):
        tally.add(["lymphocyte", "smudge"])
    assert tally.cells == 0


def test_cells_that_are_not_there_cannot_be_corrected(tally: RunningTally) -> None:
    with pytest.raises(ValueError, match="no cell of class 'neutrophil'"):
        tally.correct("neutrophil", "lymphocyte")
    with pytest.raises(ValueError, match="no cell of class 'neutrophil'"):
        tally.remove("neutrophil")
    with pytest.raises(ValueError, match="no class 'smudge'"):
        tally.correct("neutrophil", "smudge")


def test_bad_names_and_tiers_are_told() -> None:
    with pytest.raises(ValueError, match="no class 'basophil'"):
        RunningTally(CLASSES, unclassified="unclassified", blasts=["basophil"])
    for tiers in ((), (0, 100), (200, 100), (100, 100)):
        with pytest.raises(ValueError, match="ascending"):
            RunningTally(CLASSES, unclassified="unclassified", tiers=tiers)
