"""The running count of a film's cells: differential, tiers, and how far the next tier is.

Owns counting while the film is scanned and counting again when a person corrects a cell. Does
not own shares and intervals (see ``differential``), nor when it is enough (see ``screening``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from edge_runtime.film.differential import CONFIDENCE, Differential, count_differential

# Cells of a differential: 100 is the least that is reported, 200 what one examiner counts, 400
# what the reference method of CLSI H20-A2 takes, as twice 200.
TIERS = (100, 200, 400)


@dataclass(frozen=True, slots=True)
class TallyState:
    """Where the count of a film stands.

    Attributes:
        differential: of all cells so far.
        blasts: cells named a blast of any kind.
        tier: the highest tier reached; None below the first.
        next_tier: the one that comes next; None from the last on.
        cells_to_next: cells of the differential that are missing to it; 0 from the last on.
    """

    differential: Differential
    blasts: int
    tier: int | None
    next_tier: int | None
    cells_to_next: int


class RunningTally:
    """Counts cells by class, in any order; each cell belongs in once.

    Args:
        classes: every class the classifier knows.
        outside: those counted beside the differential.
        blasts: those that count as blasts.
        unclassified: what cells without a sure class are called.
        tiers: ascending counts.

    Raises:
        ValueError: ``outside`` or ``blasts`` names no class, or tiers do not ascend.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        unclassified: str,
        outside: Collection[str] = (),
        blasts: Collection[str] = (),
        tiers: Sequence[int] = TIERS,
    ) -> None:
        strange = sorted({*outside, *blasts} - set(classes))
        if strange:
            raise ValueError(f"tally: no class {strange[0]!r} among {', '.join(classes)}")
        if not tiers or list(tiers) != sorted({*tiers}) or tiers[0] < 1:
            raise ValueError(f"tally: tiers {tuple(tiers)}; wanted ascending counts from 1 on")
        self._classes = tuple(classes)
        self._outside = frozenset(outside)
        self._blasts = frozenset(blasts)
        self._unclassified = unclassified
        self._tiers = tuple(tiers)
        self._counts = Counter(dict.fromkeys([*classes, unclassified], 0))
        self._state: TallyState | None = None

    @property
    def cells(self) -> int:
        """Cells of the differential."""
        return sum(self._counts[name] for name in self._classes if name not in self._outside)

    @property
    def blasts(self) -> int:
        """Cells named a blast of any kind."""
        return sum(self._counts[name] for name in self._blasts)

    @property
    def unclassified(self) -> int:
        """Cells without a sure class."""
        return self._counts[self._unclassified]

    def add(self, class_names: Iterable[str]) -> None:
        """Counts cells by their classes.

        Raises:
            ValueError: a name that is no class; nothing is counted then.
        """
        names = list(class_names)
        for name in names:
            self._check(name)
        self._counts.update(names)
        self._state = None

    def correct(self, before: str, after: str) -> None:
        """Moves one cell to another class, as a person decided.

        Raises:
            ValueError: a name that is no class, or no cell of ``before`` is counted.
        """
        self._check(before)
        self._check(after)
        if self._counts[before] == 0:
            raise ValueError(f"tally: no cell of class {before!r} to correct")
        self._counts[before] -= 1
        self._counts[after] += 1
        self._state = None

    def remove(self, class_name: str) -> None:
        """Takes one cell out again: it was none, or is counted twice.

        Raises:
            ValueError: a name that is no class, or no cell of it is counted.
        """
        self._check(class_name)
        if self._counts[class_name] == 0:
            raise ValueError(f"tally: no cell of class {class_name!r} to take out")
        self._counts[class_name] -= 1
        self._state = None

    def state(self) -> TallyState:
        """Shares with exact intervals, and tiers; made anew only after a change."""
        if self._state is None:
            cells = self.cells
            tier, after = tiers_at(cells, self._tiers)
            self._state = TallyState(
                differential=count_differential(
                    {name: self._counts[name] for name in self._classes},
                    outside=self._outside,
                    unclassified=self.unclassified,
                    confidence=CONFIDENCE,
                ),
                blasts=self.blasts,
                tier=tier,
                next_tier=after,
                cells_to_next=0 if after is None else after - cells,
            )
        return self._state

    def _check(self, name: str) -> None:
        if name not in self._counts:
            raise ValueError(f"tally: no class {name!r} among {', '.join(self._counts)}")


def tiers_at(cells: int, tiers: Sequence[int] = TIERS) -> tuple[int | None, int | None]:
    """The highest tier that so many cells reach, and the next one; None where there is none.

    Args:
        cells: of the differential.
        tiers: ascending.
    """
    reached = [tier for tier in tiers if tier <= cells]
    ahead = [tier for tier in tiers if tier > cells]
    return reached[-1] if reached else None, ahead[0] if ahead else None
