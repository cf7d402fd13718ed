"""Whether enough cells are counted to say on which side of a threshold a film's blasts are.

Owns the states, when the rule keeps silent, how many more cells it asks for, and its words.
Does not own the bounds and their error rates (see ``blast_evidence``), the classifier's figures
(see ``confusion``) nor counting (see ``tally``). It says when to stop scanning and never what
a patient has: a person looks at the cells and signs.

What is declared holds for cells that are seen in no particular order and each once, and for
films on which the classifier errs as often as it did on its test cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_runtime.film.blast_evidence import (
    LARGEST_COUNT,
    CorrectedShare,
    StopBounds,
    corrected_share,
    stop_bounds,
)
from edge_runtime.film.blasts import blast_classes
from edge_runtime.film.confusion import BlastConfusion, confusion_of_card, parse_confusion

if TYPE_CHECKING:
    from edge_runtime.manifest import ClassifierSpec, Manifest
    from edge_runtime.settings import Settings

ScreeningState = Literal["enough: below", "enough: above", "keep scanning", "unsettled", "abstains"]
WhyAbstain = Literal[
    "out of domain",
    "no blast class",
    "no figures of blasts",
    "figures too poor",
    "too many unclassified",
]

_REASONS: dict[WhyAbstain, str] = {
    "out of domain": "this film looks unlike those on which the model was measured",
    "no blast class": "the model knows no blasts",
    "no figures of blasts": "nobody measured how many blasts the model misses; measure it, and "
    "give the counts in the setting blast_figures",
    "figures too poor": "the model's test cells were too few, or it did not clearly tell blasts "
    "from others on them",
    "too many unclassified": "the model is not sure of too many cells of this film",
}

# Films are scanned field by field and a person may go on after "enough": the errors are
# declared for so many times the largest count that is asked for.
_BEYOND = 2
# Fewer test cells of either kind leave recall or false rate open by a fifth or more.
_FEWEST_MEASURED = 30
# Recall must lie clearly above the false rate: of both, these many equally probable values.
_RATES = 40
# Cells are asked for in round numbers: the forecast is no better.
_ROUND_TO = 10


@dataclass(frozen=True, slots=True)
class ScreeningPlan:
    """What is asked and how surely.

    Attributes:
        threshold: share of blasts among the white cells, 0..1; 0.20 is WHO's for acute
            leukaemia.
        confidence: 1 less the chance of either error, above 0.5 and below 1.
        fewest_cells: nothing is settled before; 100 is the smallest differential.
        most_cells: more are not asked for.
        most_unclassified: share of cells without a sure class above which the rule abstains.

    Raises:
        ValueError: a value outside its bounds.
    """

    threshold: float = 0.20
    confidence: float = 0.95
    fewest_cells: int = 100
    most_cells: int = 400
    most_unclassified: float = 0.20

    def __post_init__(self) -> None:
        shares = 0 < self.threshold < 1 and 0.5 < self.confidence < 1
        cells = 1 <= self.fewest_cells <= self.most_cells <= LARGEST_COUNT // _BEYOND
        if not shares or not cells or not 0 <= self.most_unclassified <= 1:
            raise ValueError(
                f"{self}: wanted a threshold in 0..1, a confidence in 0.5..1, 1 <= fewest_cells "
                f"<= most_cells <= {LARGEST_COUNT // _BEYOND} and most_unclassified in 0..1"
            )


@dataclass(frozen=True, slots=True)
class ScreeningVerdict:
    """What the rule says of the cells counted so far.

    Attributes:
        state: see ``text``.
        cells: white cells, unclassified ones too.
        named: those named blasts.
        why: the reason when it abstains.
        more_cells: about how many more are needed; 0 when enough. When ``may_settle`` is false
            it is what is left to the largest count.
        may_settle: False when the share seen so far would not settle it by the largest count.
        corrected: the share of blasts; None when abstaining.
        domain_assessed: False when nobody could tell whether the film is in the domain.
        text: one line for the operator.
    """

    state: ScreeningState
    cells: int
    named: int
    why: WhyAbstain | None
    more_cells: int
    may_settle: bool
    corrected: CorrectedShare | None
    domain_assessed: bool
    text: str


def blasts_of(classifier: ClassifierSpec | None) -> tuple[str, ...]:
    """The classes that count as blasts: those the bundle names, else those called so."""
    if classifier is None:
        return ()
    inside = [name for name in classifier.classes if name not in classifier.outside_differential]
    return classifier.blasts or blast_classes(inside)


def build_rule(manifest: Manifest, settings: Settings) -> ScreeningRule:
    """The rule for a bundle, as a person has set it.

    The setting ``blast_figures`` comes before the figures that the bundle carries.
    """
    card = manifest.head_cards.get("classifier")
    confusion = None if card is None else confusion_of_card(card.metrics)
    if settings.blast_figures is not None:
        confusion = parse_confusion(settings.blast_figures)
    return ScreeningRule(
        ScreeningPlan(
            threshold=settings.blast_threshold,
            confidence=settings.blast_confidence,
            fewest_cells=settings.blast_fewest_cells,
            most_cells=settings.blast_most_cells,
        ),
        knows_blasts=bool(blasts_of(manifest.classifier)),
        confusion=confusion,
    )


class ScreeningRule:
    """The stop rule for one classifier; one instance serves many films.

    Making one costs under a second, asking it milliseconds. It keeps nothing of a film: the
    same counts give the same answer, whatever was asked before.

    Attributes:
        plan: what is asked.
        confusion: the classifier's figures; None when nobody measured them.
        bounds: where it stops; None when it can only abstain.
    """

    def __init__(
        self,
        plan: ScreeningPlan,
        *,
        knows_blasts: bool = True,
        confusion: BlastConfusion | None = None,
    ) -> None:
        self.plan = plan
        self.confusion = confusion
        self.bounds: StopBounds | None = None
        self._never: WhyAbstain | None = None
        if not knows_blasts:
            self._never = "no blast class"
        elif confusion is None or not confusion.blasts or not confusion.others:
            self._never = "no figures of blasts"
        elif (
            min(confusion.blasts, confusion.others) < _FEWEST_MEASURED
            or confusion.recalls(_RATES)[0] <= confusion.false_rates(_RATES)[-1]
        ):
            self._never = "figures too poor"
        else:
            self.bounds = stop_bounds(
                confusion,
                threshold=plan.threshold,
                error=1 - plan.confidence,
                first=plan.fewest_cells,
                cells=_BEYOND * plan.most_cells,
            )

    def judge(
        self,
        *,
        named: int,
        cells: int,
        unclassified: int = 0,
        outside_domain: bool | None = None,
    ) -> ScreeningVerdict:
        """The verdict on a film.

        Args:
            named: cells named a blast.
            cells: cells of the differential, blasts included.
            unclassified: cells without a sure class; they count as not named blasts, as they do
                in the classifier's figures.
            outside_domain: whether the film is outside the bundle's domain; None where that
                was not assessed.

        Raises:
            ValueError: a negative count, or more blasts than cells.
        """
        if not 0 <= named <= cells or unclassified < 0:
            raise ValueError(
                f"screening: {named} blasts of {cells} cells, {unclassified} unclassified"
            )
        total = cells + unclassified
        assessed = outside_domain is not None
        why = self._why(total, unclassified, bool(outside_domain))
        if why is not None or self.bounds is None or self.confusion is None:
            why = why or "no figures of blasts"
            return ScreeningVerdict(
                "abstains", total, named, why, 0, False, None, assessed,
                f"No verdict on blasts: {_REASONS[why]}.",
            )  # fmt: skip
        corrected = corrected_share(
            self.confusion,
            named=named,
            cells=total,
            threshold=self.plan.threshold,
            confidence=self.plan.confidence,
        )
        state, more, settles = self._state(self.bounds, named, total)
        text = _say(self.plan, state, named, total, more, settles)
        return ScreeningVerdict(state, total, named, None, more, settles, corrected, assessed, text)

    def _why(self, total: int, unclassified: int, outside: bool) -> WhyAbstain | None:
        if self._never is not None:
            return self._never
        if outside:
            return "out of domain"
        # Of a few cells a few are no share; the limit counts once a verdict could come.
        if total >= self.plan.fewest_cells and unclassified > self.plan.most_unclassified * total:
            return "too many unclassified"
        return None

    def _state(
        self, bounds: StopBounds, named: int, total: int
    ) -> tuple[ScreeningState, int, bool]:
        plan = self.plan
        last = len(bounds.lower) - 1
        if total > last:
            # Beyond what the errors are declared for, the share decides that was seen, put to
            # the last bounds: they lie nearer to the threshold than any before.
            scaled = named * last / total
            lower, upper = float(bounds.lower[last]), float(bounds.upper[last])
            if scaled <= lower or scaled >= upper:
                return ("enough: below" if scaled <= lower else "enough: above"), 0, True
            return "unsettled", 0, False
        if total >= bounds.first:
            if named <= bounds.lower[total]:
                return "enough: below", 0, True
            if named >= bounds.upper[total]:
                return "enough: above", 0, True
        if total >= plan.most_cells:
            return "unsettled", 0, False
        left = plan.most_cells - total
        more = _forecast(bounds, named, total, plan.most_cells)
        return "keep scanning", left if more is None else more, more is not None


def _forecast(bounds: StopBounds, named: int, total: int, most: int) -> int | None:
    """Cells until the share seen so far would pass a bound; None when not by ``most``."""
    if total == 0:
        return bounds.first
    n = np.arange(max(total + 1, bounds.first), most + 1)
    expected = named + (n - total) * (named / total)
    passing = np.flatnonzero((expected <= bounds.lower[n]) | (expected >= bounds.upper[n]))
    return int(n[passing[0]]) - total if len(passing) else None


def _say(
    plan: ScreeningPlan, state: ScreeningState, named: int, total: int, more: int, settles: bool
) -> str:
    asked = f"{100 * plan.threshold:g} % blasts"
    counted = f"{named} of {total} cells named blasts"
    if state == "enough: below":
        return f"Enough: below {asked} ({counted})."
    if state == "enough: above":
        return f"Enough: {asked} or more ({counted})."
    if state == "unsettled":
        return (
            f"Not settled: too near to {asked} for {total} cells ({counted}); a person must decide."
        )
    about = max(_ROUND_TO, -(-more // _ROUND_TO) * _ROUND_TO)
    if settles:
        return f"Keep scanning: about {about} more cells ({counted})."
    return f"Keep scanning: {more} more cells, and it may stay open: near to {asked} ({counted})."
