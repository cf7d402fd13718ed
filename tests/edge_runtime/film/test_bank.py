"""Counting, merging and voting: order never matters, ties and thin films are said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.attributes import MISSING, Attribute, AttributeSchema
from edge_runtime.film.bank import BankRules, MorphologyBank

SCHEMA = AttributeSchema(
    name="test",
    attributes=(
        Attribute(name="nuclear_chromatin", values=("open", "coarse")),
        Attribute(name="nucleus_shape", values=("round", "indented", "lobed")),
    ),
)
TYPES = ("None", "lymphocyte", "neutrophil")
EASY = BankRules(minimum_cells=1, minimum_known=1)

Cell = tuple[int, float, int, int]


def filled(cells: list[Cell], rules: BankRules | None = None) -> MorphologyBank:
    bank = MorphologyBank(SCHEMA, TYPES, artefacts=("None",), rules=rules)
    add(bank, cells)
    return bank


def add(bank: MorphologyBank, cells: list[Cell]) -> None:
    bank.add(
        np.array([cell[0] for cell in cells], np.int64),
        np.array([cell[1] for cell in cells], np.float32),
        np.array([cell[2:] for cell in cells], np.int64).reshape(-1, 2),
    )


def test_votes_and_the_numbers_behind_them() -> None:
    cells = [(1, 0.9, 1, 0)] * 12 + [(1, 0.9, 0, MISSING)] * 3 + [(2, 0.9, 0, 2)] * 9
    summary = filled(cells).summary()
    assert summary.cells == 24
    dominant = summary.dominant
    assert (dominant.answer, dominant.votes, dominant.of) == ("lymphocyte", 15, 24)
    chromatin, shape = summary.attributes
    # Of all 24 cells 12 are open and 12 coarse: the vote is within the dominant type.
    assert (chromatin.answer, chromatin.votes, chromatin.of) == ("coarse", 12, 15)
    assert (shape.answer, shape.votes, shape.of) == ("round", 12, 12)
    assert not any(vote.tied for vote in (dominant, chromatin, shape))
    assert summary.types[1].values == ((3, 12), (12, 0, 0))
    assert summary.types[1].known == (15, 12)
    assert summary.types[2].cells == 9


def test_artefacts_neither_lead_nor_make_a_film_assessable() -> None:
    summary = filled([(0, 0.9, 1, 1)] * 50 + [(2, 0.9, 0, 2)] * 19).summary()
    assert (summary.cells, summary.artefacts) == (19, 50)
    assert summary.dominant.answer is None
    assert summary.dominant.why_not == "too few cells"
    assert (summary.dominant.votes, summary.dominant.of, summary.dominant.needed) == (19, 19, 20)
    assert {vote.why_not for vote in summary.attributes} == {"too few cells"}
    assert summary.types[0].artefact
    assert summary.types[0].cells == 50


def test_twentieth_cell_and_tenth_judged_one_make_the_difference() -> None:
    nine = [(1, 0.9, 1, 0)] * 9 + [(1, 0.9, MISSING, 0)] * 10
    assert filled(nine).summary().dominant.answer is None
    chromatin, shape = filled([*nine, (1, 0.9, MISSING, 0)]).summary().attributes
    assert (chromatin.answer, chromatin.why_not) == (None, "too few judged")
    assert (chromatin.votes, chromatin.of, chromatin.needed) == (9, 9, 10)
    assert shape.answer == "round"
    assert filled([*nine, (1, 0.9, 1, 0)]).summary().attributes[0].answer == "coarse"


def test_low_scores_and_cells_without_a_type_are_counted_apart() -> None:
    bank = filled([(1, 0.2499, 0, 0), (1, 0.25, 0, 0), (MISSING, 0.9, 1, 1)], EASY)
    summary = bank.summary()
    assert (summary.below_score, summary.unclassified, summary.cells) == (1, 1, 1)
    assert summary.attributes[0].of == 1


def test_score_at_the_bound_counts_whatever_its_precision() -> None:
    bank = filled([(1, 0.7, 0, 0)], BankRules(0.7, 1, 1))
    assert bank.summary().cells == 1


def test_ties_name_the_first_and_say_so() -> None:
    summary = filled([(2, 0.9, 1, 2), (1, 0.9, 1, 1), (1, 0.9, 0, 2), (2, 0.9, 0, 0)], EASY)
    found = summary.summary()
    assert (found.dominant.answer, found.dominant.tied) == ("lymphocyte", True)
    assert (found.attributes[0].answer, found.attributes[0].tied) == ("open", True)
    assert (found.attributes[1].answer, found.attributes[1].tied) == ("indented", True)


@pytest.mark.parametrize("rules", [None, EASY, BankRules(minimum_cells=0, minimum_known=0)])
def test_empty_film_names_nothing(rules: BankRules | None) -> None:
    summary = filled([], rules).summary()
    assert summary.cells == 0
    assert summary.dominant.answer is None
    assert not summary.dominant.tied
    assert all(vote.answer is None and vote.of == 0 for vote in summary.attributes)


CELLS = st.lists(
    st.tuples(
        st.integers(MISSING, 2),
        st.floats(0, 1, width=32),
        st.integers(MISSING, 1),
        st.integers(MISSING, 2),
    ),
    max_size=40,
)


@given(cells=CELLS, data=st.data())
def test_order_of_cells_and_merges_changes_nothing(cells: list[Cell], data: st.DataObject) -> None:
    whole = filled(cells, EASY).summary()
    shuffled = data.draw(st.permutations(cells))
    first = data.draw(st.integers(0, len(cells)))
    second = data.draw(st.integers(first, len(cells)))
    a, b, c = (
        filled(part, EASY) for part in (shuffled[:first], shuffled[first:second], shuffled[second:])
    )
    assert a.merged(b).merged(c).summary() == whole
    assert a.merged(b.merged(c)).summary() == whole
    assert c.merged(b).merged(a).summary() == whole


def test_merging_leaves_both_as_they_were_and_shares_nothing() -> None:
    a, b = filled([(1, 0.9, 1, 0)], EASY), filled([(2, 0.9, 0, 2)], EASY)
    both = a.merged(b)
    add(a, [(1, 0.9, 1, 0)])
    assert both.summary().cells == 2
    assert a.summary().cells == 2
    assert b.summary().cells == 1


def test_banks_of_other_rules_do_not_merge() -> None:
    with pytest.raises(ValueError, match="different schemas, types or rules"):
        filled([]).merged(filled([], EASY))


def test_bad_cells_are_refused_and_nothing_is_counted() -> None:
    bank = filled([], EASY)
    with pytest.raises(ValueError, match="type index 3"):
        add(bank, [(1, 0.9, 0, 0), (3, 0.9, 0, 0)])
    with pytest.raises(ValueError, match="nucleus_shape has value index 3"):
        add(bank, [(1, 0.9, 0, 3)])
    with pytest.raises(ValueError, match="nuclear_chromatin has value index -2"):
        add(bank, [(1, 0.9, -2, 1)])
    with pytest.raises(ValueError, match="wanted one row per cell and 2 attributes"):
        bank.add(np.zeros(1, np.int64), np.ones(1, np.float32), np.zeros((1, 3), np.int64))
    assert bank.summary().cells == 0
    with pytest.raises(ValueError, match="no type 'smudge'"):
        MorphologyBank(SCHEMA, TYPES, artefacts=("smudge",))
    with pytest.raises(ValueError, match="listed twice"):
        MorphologyBank(SCHEMA, ("a", "a"))
