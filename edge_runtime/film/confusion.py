"""How often a classifier calls blasts blasts, and other white cells blasts, as measured.

Owns these figures, how sure they are, and where a bundle keeps them. Does not own measuring
them (see ``export.head_cards``) nor what is concluded from them (see ``screening``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_runtime.film.differential import beta_quantile

Float64Array = NDArray[np.float64]

# Names of the counts among the figures of a classifier's card.
BLASTS = "blasts"
BLASTS_NAMED = "blasts named blasts"
OTHERS = "other white cells"
OTHERS_NAMED = "others named blasts"
# All domains together come first: a film's own domain is a guess, and one domain has few blasts.
_ALL_CELLS = "test, all cells"
_WRITTEN = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*,\s*(\d+)\s*/\s*(\d+)\s*")
# Of Jeffreys: half a cell for each answer.
_PRIOR = 0.5


@dataclass(frozen=True, slots=True)
class BlastConfusion:
    """Labelled test cells, and how many of them were named a blast of any kind.

    A blast that was left unclassified counts as not named.

    Attributes:
        blasts: labelled blasts.
        blasts_named: those named blasts.
        others: labelled white cells of the differential that are no blasts.
        others_named: those named blasts.

    Raises:
        ValueError: a count is negative or larger than what it is a part of.
    """

    blasts: int
    blasts_named: int
    others: int
    others_named: int

    def __post_init__(self) -> None:
        for part, whole in ((self.blasts_named, self.blasts), (self.others_named, self.others)):
            if not 0 <= part <= whole:
                raise ValueError(f"confusion: {part} of {whole} cells; wanted 0 to all of them")

    @property
    def recall(self) -> float | None:
        """Share of blasts named blasts; None without one."""
        return self.blasts_named / self.blasts if self.blasts else None

    @property
    def false_rate(self) -> float | None:
        """Share of other cells named blasts; None without one."""
        return self.others_named / self.others if self.others else None

    def recalls(self, count: int) -> Float64Array:
        """``count`` equally probable values of the true recall, ascending.

        Middles of equal parts of the beta distribution that the counts leave of Jeffreys'
        prior.
        """
        return _equally_probable(self.blasts_named, self.blasts, count)

    def false_rates(self, count: int) -> Float64Array:
        """``count`` equally probable values of the true rate of false blasts, ascending."""
        return _equally_probable(self.others_named, self.others, count)

    def __str__(self) -> str:
        return f"{self.blasts_named}/{self.blasts}, {self.others_named}/{self.others}"


def parse_confusion(text: str) -> BlastConfusion:
    """Reads ``188/200, 4/600``: blasts named blasts of all, others named blasts of all.

    Raises:
        ValueError: written otherwise, or a part larger than its whole.
    """
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r}: write '188/200, 4/600' for 188 of 200 blasts named blasts and 4 of 600 "
            "other cells named blasts"
        )
    named, blasts, false, others = (int(part) for part in match.groups())
    return BlastConfusion(blasts, named, others, false)


def confusion_of_card(metrics: Mapping[str, Mapping[str, float]]) -> BlastConfusion | None:
    """The counts among the figures of a classifier's model card.

    Args:
        metrics: of ``ModelCard``, by domain.

    Returns:
        Those of all test cells, else of the only domain that has them; None without any.
        Several domains without a sum are not added up: they may share cells.
    """
    keys = (BLASTS, BLASTS_NAMED, OTHERS, OTHERS_NAMED)
    having = {name: row for name, row in metrics.items() if all(key in row for key in keys)}
    row = having.get(_ALL_CELLS)
    if row is None and len(having) == 1:
        (row,) = having.values()
    if row is None:
        return None
    blasts, named, others, false = (round(row[key]) for key in keys)
    return BlastConfusion(blasts, named, others, false)


# They are asked for at every field of a film, and take a quarter of a second.
@lru_cache(maxsize=16)
def _equally_probable(part: int, whole: int, count: int) -> Float64Array:
    a, b = part + _PRIOR, whole - part + _PRIOR
    values = [beta_quantile((k + 0.5) / count, a, b) for k in range(count)]
    made = np.array(values, np.float64)
    made.flags.writeable = False
    return made
