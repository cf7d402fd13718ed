"""Trying range methods and exclusion sets against each other, and saying which one to ship.

Owns the candidates, their measuring one by one, the ranking and the choice. The quantiser and
the judge are given in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from pydantic import BaseModel, ConfigDict

from calibration.ledger import Ledger
from calibration.ranges import Method
from calibration.sensitivity import BlockCost, Judge, OutputError, worst_loss

# One cell found or lost among the fifty of a domain moves a figure by that much, and sweeps of
# neighbouring candidates scatter by more: a smaller difference is chance.
EQUALLY_GOOD_POINTS = 0.2
NOTHING_EXCLUDED = "none"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Blocks that stay in float, and what the set of them is called."""

    name: str
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to make the int8 graph of one head for one runtime family."""

    runtime: str
    method: Method
    exclusion: Exclusion

    @property
    def name(self) -> str:
        """Runtime, method and exclusion set, for people and file names."""
        return f"{self.runtime} {self.method} {self.exclusion.name}"


class CandidateResult(BaseModel):
    """What a candidate is worth.

    Attributes:
        blocks: left in float.
        size: bytes of the ONNX file.
        figures: per domain, 0..1; empty without labels.
        lost_points: on the domain that loses most; None without labels.
        domain: that one.
        sqnr_db: of the output that suffers most.
        passed: no domain loses more than allowed; None without labels.
        seconds: it took to measure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    method: str
    exclusion: str
    blocks: tuple[str, ...]
    size: int
    figures: dict[str, float]
    lost_points: float | None
    domain: str | None
    sqnr_db: float
    passed: bool | None
    seconds: float


class SweepResult(BaseModel):
    """All candidates of one head.

    Attributes:
        figure: what ``figures`` are, e.g. AP50-95.
        calibrated_on, judged_on: in words.
        blocks: what each costs alone, most costly first.
        blocks_for: runtime family and method these were measured with.
        by_loss: candidates, least loss first; per runtime the first ones are not yet the
            choice, which also looks at size.
        by_size: names of the same, smallest first.
        chosen: per runtime the name of the candidate to ship; none when all fail or
            nobody could judge.
        trial: not all pictures were looked at, so nothing may be shipped on its word.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    head: str
    figure: str
    calibrated_on: str
    judged_on: str
    allowed_points: float
    float_size: int
    float_figures: dict[str, float]
    blocks: tuple[BlockCost, ...]
    blocks_for: str
    by_loss: tuple[CandidateResult, ...]
    by_size: tuple[str, ...]
    chosen: dict[str, str]
    trial: bool = False


def exclusion_sets(costs: Sequence[BlockCost], most: Sequence[int]) -> list[Exclusion]:
    """Nothing, and the so many most costly blocks.

    Args:
        costs: ranked, most costly first.
        most: how many blocks; 0 is always tried, numbers beyond all blocks never.
    """
    sets = [Exclusion(NOTHING_EXCLUDED, ())]
    for count in sorted(set(most) - {0}):
        if count < len(costs):
            blocks = tuple(cost.block for cost in costs[:count])
            sets.append(Exclusion(f"worst {count}", blocks))
    return sets


def run_sweep(
    candidates: Sequence[Candidate],
    make: Callable[[Candidate], bytes],
    output_error: OutputError,
    ledger: Ledger,
    *,
    judge: Judge | None = None,
    float_figures: Mapping[str, float] | None = None,
    allowed_points: float,
    clock: Callable[[], float] = monotonic,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CandidateResult]:
    """Measures every candidate that the ledger does not hold yet.

    Args:
        candidates: to try.
        make: the int8 ONNX bytes of one.
        output_error: how far the outputs are from those of the float graph.
        ledger: keeps one file per candidate.
        judge: the figure of a graph per domain; None leaves figures out.
        float_figures: the same of the float graph.
        allowed_points: that any domain may lose.
        clock: seconds.
        progress: told how many of how many are done.
    """
    results = []
    for done, candidate in enumerate(candidates, start=1):

        def measure(candidate: Candidate = candidate) -> dict[str, object]:
            start = clock()
            model = make(candidate)
            figures: dict[str, float] = {}
            lost, domain, passed = None, None, None
            if judge is not None and float_figures is not None:
                figures = dict(judge(model))
                domain, lost = worst_loss(float_figures, figures)
                passed = lost <= allowed_points + 1e-9
            return CandidateResult(
                runtime=candidate.runtime,
                method=candidate.method,
                exclusion=candidate.exclusion.name,
                blocks=candidate.exclusion.blocks,
                size=len(model),
                figures=figures,
                lost_points=lost,
                domain=domain,
                sqnr_db=min(output_error(model).values()),
                passed=passed,
                seconds=round(clock() - start, 2),
            ).model_dump(mode="json")

        depends_on = {"blocks": list(candidate.exclusion.blocks), "allowed": allowed_points}
        found = ledger.remember(candidate.name, depends_on, measure)
        results.append(CandidateResult.model_validate(found))
        progress(done, len(candidates))
    return results


def by_loss(results: Sequence[CandidateResult]) -> list[CandidateResult]:
    """Least points lost first; without labels, highest SQNR first; then the smaller."""
    return sorted(
        results,
        key=lambda each: (each.lost_points or 0.0, -each.sqnr_db, each.size, candidate_name(each)),
    )


def by_size(results: Sequence[CandidateResult]) -> list[CandidateResult]:
    """Smallest first, then least loss."""
    return sorted(
        results,
        key=lambda each: (each.size, each.lost_points or 0.0, -each.sqnr_db, candidate_name(each)),
    )


def choose(results: Sequence[CandidateResult]) -> dict[str, CandidateResult]:
    """Per runtime the one to ship.

    Of those that passed, the least loss; of those equally good, i.e. within
    ``EQUALLY_GOOD_POINTS``, the one with the fewest blocks in float, since each of them costs
    speed, and then the least loss. Without labels nothing is chosen: fewer decibels of noise are
    no reason to ship.
    """
    chosen = {}
    for runtime in sorted({each.runtime for each in results}):
        able = by_loss([each for each in results if each.runtime == runtime and each.passed])
        losses = [each.lost_points or 0.0 for each in able]
        good = [
            each
            for each, lost in zip(able, losses, strict=True)
            if lost <= losses[0] + EQUALLY_GOOD_POINTS
        ]
        if good:
            # ``good`` begins with the least loss, which decides between equals.
            chosen[runtime] = min(good, key=lambda each: len(each.blocks))
    return chosen


def candidate_name(result: CandidateResult) -> str:
    """The name of the candidate it was measured on."""
    return f"{result.runtime} {result.method} {result.exclusion}"
