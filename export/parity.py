"""The accuracy gate: what int8 may cost against float, per domain.

Owns the comparison and its verdict. Does not own measuring (see ``evaluation``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_runtime.bundle import ParityFigures, ParityRecord
from edge_runtime.errors import DataError

# Of average precision.
ALLOWED_POINTS = 0.5
# Of macro-F1.
ALLOWED_HEAD_POINTS = 1.0
# Of the share of blasts that are called blasts: what a decision about leukemia rests on.
ALLOWED_BLAST_POINTS = 0.5
# 0.800 - 0.795 is 0.50000000000000044 points in floating point.
_ROUNDING = 1e-9
# A hundredth of a point; machines differ beyond.
_DIGITS = 5


Figure = Literal["AP50-95", "macro-F1", "blast recall"]


@dataclass(frozen=True, slots=True)
class DomainParity:
    """One figure of one domain before and after quantisation, 0..1.

    The figure is average precision for a detector, macro-F1 or blast recall for a head.
    """

    domain: str
    float_figure: float
    int8_figure: float

    @property
    def lost_points(self) -> float:
        """Points lost (1 point = 0.01); negative when int8 is better."""
        return 100 * (self.float_figure - self.int8_figure)


@dataclass(frozen=True, slots=True)
class ParityResult:
    """The verdict on one int8 artifact.

    Attributes:
        domains: sorted by name.
        allowed_points: what every single domain may lose.
    """

    domains: tuple[DomainParity, ...]
    allowed_points: float

    @property
    def passed(self) -> bool:
        """No domain loses more than allowed; a mean over domains could hide one."""
        return self.worst.lost_points <= self.allowed_points + _ROUNDING

    @property
    def worst(self) -> DomainParity:
        """The domain that loses most."""
        return max(self.domains, key=lambda domain: domain.lost_points)


@dataclass(frozen=True, slots=True)
class GateRow:
    """The verdict on one artifact as one backend runs it."""

    artifact: str
    backend: str
    figure: Figure
    parity: ParityResult

    def record(self) -> ParityRecord:
        """The same as the manifest has it."""
        return ParityRecord(
            artifact=self.artifact,
            backend=self.backend,
            figure=self.figure,
            allowed_points=self.parity.allowed_points,
            domains={
                each.domain: ParityFigures(
                    float_figure=round(each.float_figure, _DIGITS),
                    rounded_figure=round(each.int8_figure, _DIGITS),
                )
                for each in self.parity.domains
            },
        )


def parity_gate(
    float_metrics: Mapping[str, float],
    int8_metrics: Mapping[str, float],
    *,
    allowed_points: float = ALLOWED_POINTS,
) -> ParityResult:
    """Compares a figure per domain of the float and an int8 graph.

    Args:
        float_metrics: AP50-95 or macro-F1 per domain, 0..1.
        int8_metrics: the same of the int8 artifact, for the same domains.
        allowed_points: points that may be lost.

    Raises:
        DataError: no domains, other domains, or a figure that is not in 0..1: a gate that
            cannot compare must not pass.
    """
    if not float_metrics or set(float_metrics) != set(int8_metrics):
        raise DataError(
            f"parity gate: float was measured on {sorted(float_metrics)}, int8 on "
            f"{sorted(int8_metrics)}; measure both on the same domains"
        )
    for name, value in (*float_metrics.items(), *int8_metrics.items()):
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise DataError(f"parity gate: the figure of {name!r} is {value}, not in 0..1")
    if not (math.isfinite(allowed_points) and allowed_points >= 0):
        raise DataError(f"parity gate: {allowed_points} allowed points; give 0 or more")
    domains = tuple(
        DomainParity(name, float_metrics[name], int8_metrics[name])
        for name in sorted(float_metrics)
    )
    return ParityResult(domains, allowed_points)
