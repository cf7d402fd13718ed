"""What an adaptation did to the site's figures and to the source's, and whether that may stay.

Owns the comparison and its line. Does not own measuring (see
``train.evaluate_attridet``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.class_accuracy import ClassMetrics


@dataclass(frozen=True, slots=True)
class Change:
    """One set of pictures, before and after."""

    before: ClassMetrics
    after: ClassMetrics

    @property
    def points(self) -> float:
        """Points of AP50-95 won; below 0: lost."""
        return 100 * (self.after.ap - self.before.ap)

    def document(self) -> dict[str, Any]:
        """The same for a JSON file, per class."""
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "points": round(self.points, 3),
        }


@dataclass(frozen=True, slots=True)
class SiteResult:
    """How an adaptation went.

    Attributes:
        checkpoint: ``best.pt``, or ``rejected.pt`` where a source set lost too much.
        passed: no source set lost more than was allowed.
        verdict: one line for a person.
        site: on the held-out fields.
        site_test: on the site folder's own test split, if it has one.
        source: per source set, on its check split.
        curve: AP50-95 of the held-out fields after each epoch, as the trainer measured it.
        record: what ``training.json`` holds.
    """

    checkpoint: Path
    passed: bool
    verdict: str
    site: Change
    site_test: Change | None
    source: dict[str, Change]
    curve: tuple[float, ...]
    record: dict[str, Any]


def source_verdict(source: Mapping[str, Change], limit: float) -> tuple[bool, str]:
    """Whether every source set kept its figures, and a line that says so.

    Args:
        source: per set.
        limit: points of AP50-95 that each may lose.
    """
    lost = {name: each for name, each in source.items() if not each.points >= -limit}
    if not lost:
        shown = ", ".join(f"{name} {_from_to(each)}" for name, each in source.items())
        return True, f"source kept: AP50-95 of {shown}; {limit:g} points may be lost"
    shown = ", ".join(
        f"{name} {_from_to(each)}, by {-each.points:.1f} points" for name, each in lost.items()
    )
    return False, (
        f"source lost: AP50-95 of {shown}; {limit:g} may be lost. Replay more (a smaller "
        "--ratio), train less (fewer --epochs, a smaller --lr0), or allow more (--limit-drop)"
    )


def site_remark(site: Change) -> str:
    """A line on what the site won, or that it won nothing."""
    line = f"site, held-out fields: AP50-95 {_from_to(site)} ({site.points:+.1f} points)"
    if site.points > 0:
        return line
    return f"{line}: nothing is won on the site; keep the detector you have, or label more fields"


def _from_to(change: Change) -> str:
    return f"from {change.before.ap:.4f} to {change.after.ap:.4f}"
