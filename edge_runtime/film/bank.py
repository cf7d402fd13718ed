"""The morphology bank: what the cells of one film show, counted and put to the vote.

Owns the counts, their merging and the votes, with the numbers behind each. Does not own
predicting attributes, nor the words a person reads (see ``description``). Counts are whole
numbers, so neither the order of cells nor of merges can change a vote.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.types import Float32Array, Int64Array

WhyNot = Literal["too few cells", "too few judged"]


@dataclass(frozen=True, slots=True)
class BankRules:
    """When a cell counts, and when a vote is worth naming.

    Attributes:
        minimum_score: cells below this score are left out.
        minimum_cells: below this number of cells nothing of the film is assessable.
        minimum_known: below this number of judged cells of the dominant type an attribute
            is not assessable.
    """

    minimum_score: float = 0.25
    minimum_cells: int = 20
    minimum_known: int = 10


@dataclass(frozen=True, slots=True)
class TypeCounts:
    """One cell type's share of the bank.

    Attributes:
        name: the type.
        artefact: whether it is no cell, so that it neither counts nor votes.
        cells: cells of it.
        values: per attribute, cells by value in the schema's order.
        known: per attribute, cells in which it was judged.
    """

    name: str
    artefact: bool
    cells: int
    values: tuple[tuple[int, ...], ...]
    known: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """The most frequent answer to one question, and what it rests on.

    Attributes:
        subject: ``type`` or an attribute's name.
        answer: the most frequent answer; None when it is not assessable.
        votes: cells that gave the most frequent answer, assessable or not.
        of: cells that gave any answer.
        needed: cells that had to give one.
        tied: another answer is as frequent; the first in the list's order is named.
        why_not: None when assessable.
    """

    subject: str
    answer: str | None
    votes: int
    of: int
    needed: int
    tied: bool
    why_not: WhyNot | None


@dataclass(frozen=True, slots=True)
class BankSummary:
    """All numbers of a film's bank, and the votes they give.

    Attributes:
        cells: cells that count: of a type, sure enough, no artefacts.
        artefacts: finds of artefact types.
        unclassified: cells without a type.
        below_score: cells left out for their score.
        types: counts of every type, in the bundle's order.
        dominant: vote on the type, artefacts excluded.
        attributes: votes within the most frequent type, in the schema's order.
    """

    cells: int
    artefacts: int
    unclassified: int
    below_score: int
    types: tuple[TypeCounts, ...]
    dominant: Vote
    attributes: tuple[Vote, ...]


class MorphologyBank:
    """Counts of one film, filled cell by cell or field by field.

    Args:
        schema: the attributes; None when nobody judges any.
        type_names: cell types; a cell's type is an index into them.
        artefacts: names of types that are no cells.
        rules: what counts and what is enough.

    Raises:
        ValueError: a name in ``artefacts`` that is no type, or a type listed twice.
    """

    def __init__(
        self,
        schema: AttributeSchema | None,
        type_names: Sequence[str],
        *,
        artefacts: Collection[str] = (),
        rules: BankRules | None = None,
    ) -> None:
        strange = sorted(set(artefacts) - set(type_names))
        if strange:
            raise ValueError(f"morphology bank: no type {strange[0]!r}: {', '.join(type_names)}")
        if len(set(type_names)) != len(type_names):
            raise ValueError(f"morphology bank: a type is listed twice: {', '.join(type_names)}")
        self._schema = schema
        self._attributes = () if schema is None else schema.attributes
        self._type_names = tuple(type_names)
        self._artefacts = frozenset(artefacts)
        self._rules = rules or BankRules()
        self._cells = np.zeros(len(self._type_names), np.int64)
        # Per attribute: types by values.
        self._values: list[Int64Array] = [
            np.zeros((len(self._type_names), len(each.values)), np.int64)
            for each in self._attributes
        ]
        self._unclassified = 0
        self._below_score = 0

    def add(self, type_ids: Int64Array, scores: Float32Array, values: Int64Array) -> None:
        """Counts the cells of one field.

        Args:
            type_ids: int64 ``(n,)``, indices of types, ``MISSING`` for an unclassified cell.
            scores: float32 ``(n,)``, how sure each find is, 0..1.
            values: int64 ``(n, attributes)``, value indices or ``MISSING``.

        Raises:
            ValueError: shapes, types or values that do not fit; nothing is counted then.
        """
        self._check(type_ids, scores, values)
        # The bound in the scores' own precision: a float32 0.3 is above a double 0.3.
        sure: NDArray[np.bool_] = scores >= scores.dtype.type(self._rules.minimum_score)
        typed = sure & (type_ids != MISSING)
        self._below_score += int((~sure).sum())
        self._unclassified += int((sure & ~typed).sum())
        np.add.at(self._cells, type_ids[typed], 1)
        for column, table in enumerate(self._values):
            judged = typed & (values[:, column] != MISSING)
            np.add.at(table, (type_ids[judged], values[judged, column]), 1)

    def merged(self, other: MorphologyBank) -> MorphologyBank:
        """A new bank with the cells of both, as of two parts of one film.

        Raises:
            ValueError: the two differ in schema, types or rules.
        """
        mine = (self._schema, self._type_names, self._artefacts, self._rules)
        if mine != (other._schema, other._type_names, other._artefacts, other._rules):
            raise ValueError("morphology banks of different schemas, types or rules")
        both = MorphologyBank(
            self._schema, self._type_names, artefacts=self._artefacts, rules=self._rules
        )
        both._cells = self._cells + other._cells
        both._values = [a + b for a, b in zip(self._values, other._values, strict=True)]
        both._unclassified = self._unclassified + other._unclassified
        both._below_score = self._below_score + other._below_score
        return both

    def summary(self) -> BankSummary:
        """The counts and the votes as they stand now."""
        rules = self._rules
        artefact = np.array([name in self._artefacts for name in self._type_names], bool)
        votes_by_type = np.where(artefact, 0, self._cells)
        cells = int(votes_by_type.sum())
        # At least one, whatever the rules say: without a cell there is nothing to name.
        enough = cells >= max(rules.minimum_cells, 1)
        leading, votes, tied = _most_frequent(votes_by_type)
        attributes = []
        for attribute, table in zip(self._attributes, self._values, strict=True):
            counts = table[leading] if cells else np.zeros(len(attribute.values), np.int64)
            value, value_votes, value_tied = _most_frequent(counts)
            known = int(counts.sum())
            why_not = _why_not(enough, known >= max(rules.minimum_known, 1))
            attributes.append(
                Vote(
                    subject=attribute.name,
                    answer=None if why_not else attribute.values[value],
                    votes=value_votes,
                    of=known,
                    needed=rules.minimum_known,
                    tied=value_tied,
                    why_not=why_not,
                )
            )
        why_no_type = _why_not(enough, True)
        return BankSummary(
            cells=cells,
            artefacts=int(self._cells[artefact].sum()),
            unclassified=self._unclassified,
            below_score=self._below_score,
            types=tuple(self._type_counts(index) for index in range(len(self._type_names))),
            dominant=Vote(
                subject="type",
                answer=None if why_no_type else self._type_names[leading],
                votes=votes,
                of=cells,
                needed=rules.minimum_cells,
                tied=tied,
                why_not=why_no_type,
            ),
            attributes=tuple(attributes),
        )

    def _type_counts(self, index: int) -> TypeCounts:
        values = tuple(tuple(int(count) for count in table[index]) for table in self._values)
        return TypeCounts(
            name=self._type_names[index],
            artefact=self._type_names[index] in self._artefacts,
            cells=int(self._cells[index]),
            values=values,
            known=tuple(sum(counts) for counts in values),
        )

    def _check(self, type_ids: Int64Array, scores: Float32Array, values: Int64Array) -> None:
        n = len(type_ids)
        if scores.shape != (n,) or values.shape != (n, len(self._values)):
            raise ValueError(
                f"morphology bank: {n} types, scores {scores.shape}, values {values.shape}; "
                f"wanted one row per cell and {len(self._values)} attributes"
            )
        if ((type_ids < MISSING) | (type_ids >= len(self._type_names))).any():
            raise ValueError(
                f"morphology bank: type index {_extreme(type_ids)}; "
                f"there are {len(self._type_names)} types"
            )
        for column, attribute in enumerate(self._attributes):
            given = values[:, column]
            if ((given < MISSING) | (given >= len(attribute.values))).any():
                raise ValueError(
                    f"morphology bank: {attribute.name} has value index {_extreme(given)}; "
                    f"it has {len(attribute.values)} values"
                )


def _most_frequent(counts: Int64Array) -> tuple[int, int, bool]:
    """Index, votes, and whether another has as many; of equals the first."""
    if len(counts) == 0:
        return 0, 0, False
    first = int(counts.argmax())
    votes = int(counts[first])
    return first, votes, votes > 0 and int((counts == votes).sum()) > 1


def _why_not(enough_cells: bool, enough_known: bool) -> WhyNot | None:
    if not enough_cells:
        return "too few cells"
    return None if enough_known else "too few judged"


def _extreme(indices: Int64Array) -> int:
    low = int(indices.min())
    return low if low < MISSING else int(indices.max())
