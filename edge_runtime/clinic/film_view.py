"""How the report page shows classes, attributes, the differential and the votes.

Owns rounding, wording and grouping of what classifier and attribute head say. Does not own
the numbers (see ``film_report``) nor the markup (see ``templates``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.film_report import (
    BackendRecord,
    DifferentialRecord,
    FilmReport,
    ModelCardSummary,
    MorphologyRecord,
    VoteRecord,
)
from edge_runtime.types import JudgedAttribute

# Below this a value is shown as uncertain. A choice for the eye, not a measured bound.
UNSURE_BELOW = 0.7


@dataclass(frozen=True, slots=True)
class Chip:
    """One attribute beneath a crop."""

    name: str
    value: str
    unsure: bool
    title: str


@dataclass(frozen=True, slots=True)
class DifferentialRow:
    """One class of the differential; lengths in percent of the chart's width."""

    name: str
    count: str
    percent: str
    interval: str
    share: float
    low: float
    high: float
    title: str


@dataclass(frozen=True, slots=True)
class VoteRow:
    """One question the cells of the film were asked."""

    subject: str
    answer: str
    assessable: bool
    votes: str
    needed: str


@dataclass(frozen=True, slots=True)
class HeadView:
    """What is told of one head beside the detector."""

    title: str
    card: ModelCardSummary | None
    facts: tuple[tuple[str, str], ...]


class Named(Protocol):
    """Anything of a class and a probability."""

    @property
    def class_name(self) -> str:
        """The class by which it is grouped."""

    @property
    def class_probability(self) -> float | None:
        """How probable the class is."""


N = TypeVar("N", bound=Named)


@dataclass(frozen=True, slots=True)
class Group:
    """The cells of one class in the gallery; ``total`` of them are in the film."""

    name: str
    anchor: str
    unclassified: bool
    note: str
    cells: Sequence[Named]
    total: int


def skip_reason(reason: str) -> str:
    """What a reason begins with; behind it come measures, which differ from field to field."""
    return re.split(r"[:(]", reason, maxsplit=1)[0].strip()


def say(name: str) -> str:
    """A name of a class, attribute or value as a person writes it."""
    return name.replace("_", " ")


def chips(attributes: Mapping[str, JudgedAttribute | None] | None) -> tuple[Chip, ...]:
    """The judged attributes of a cell; nothing is shown of those that were not."""
    return tuple(
        Chip(
            say(name),
            say(judged.value),
            judged.probability < UNSURE_BELOW,
            f"{say(name)}: {say(judged.value)}, probability {say_probability(judged.probability)}",
        )
        for name, judged in (attributes or {}).items()
        if judged is not None
    )


def say_probability(probability: float) -> str:
    """Two decimals; 1.00 only when it is exactly 1, 0.00 only when it is exactly 0."""
    if probability in (0, 1):
        return f"{probability:.2f}"
    return f"{min(max(probability, 0.01), 0.994999):.2f}"


def class_order(report: FilmReport) -> list[str]:
    """Classes as the page lists them: the differential's, those beside it, unclassified."""
    if report.differential is None:
        return sorted(report.totals.cells_by_class)
    inside = [each.class_name for each in report.differential.classes]
    return [*inside, *report.differential.outside, UNCLASSIFIED]


def groups(report: FilmReport, gallery: Sequence[N]) -> list[Group]:
    """The gallery by class, most probable cell first; none without a classifier."""
    if report.classifier is None:
        return []
    made = []
    for number, name in enumerate(class_order(report)):
        cells = [cell for cell in gallery if cell.class_name == name]
        if not cells:
            continue
        note = ""
        if name == UNCLASSIFIED:
            note = (
                "no class is at least "
                f"{say_probability(report.classifier.abstain_below)} probable; the most "
                "probable one is named beside each cell"
            )
        elif name in report.classifier.outside_differential:
            note = "counted beside the differential"
        # Sorting is stable: of equals the one of higher score stays first.
        cells.sort(key=lambda cell: -(cell.class_probability or 0.0))
        made.append(
            Group(
                say(name),
                f"g{number}",
                name == UNCLASSIFIED,
                note,
                cells,
                report.totals.cells_by_class.get(name, 0),
            )
        )
    return made


def differential_rows(differential: DifferentialRecord) -> list[DifferentialRow]:
    """Every class of the differential with its bar and interval."""
    rows = []
    for each in differential.classes:
        percent = "–" if each.percent is None else f"{each.percent:.1f}"
        interval = f"{each.low_percent:.1f} to {each.high_percent:.1f}"
        rows.append(
            DifferentialRow(
                say(each.class_name),
                f"{each.count:,}",
                percent,
                interval,
                each.percent or 0.0,
                each.low_percent,
                each.high_percent,
                f"{say(each.class_name)}: {each.count:,} of {differential.total:,} cells, "
                f"{percent} %, interval {interval} %",
            )
        )
    return rows


def beside_differential(differential: DifferentialRecord) -> list[tuple[str, str, bool]]:
    """Name, count and whether it is unclassified, of what the total leaves out."""
    rows = [(say(name), f"{count:,}", False) for name, count in differential.outside.items()]
    return [*rows, (UNCLASSIFIED, f"{differential.unclassified:,}", True)]


def vote_rows(morphology: MorphologyRecord) -> list[VoteRow]:
    """The vote on the type, then those on each attribute."""
    return [_vote_row(vote) for vote in (morphology.dominant, *morphology.attributes)]


def count_table(
    morphology: MorphologyRecord,
) -> tuple[list[tuple[str, str]], list[tuple[str, list[str]]]]:
    """Counts by value: classes that have cells, with their cells, and a row per attribute."""
    types = [each for each in morphology.types if each.cells]
    heads = [(say(each.class_name), f"{each.cells:,}") for each in types]
    names = types[0].attributes if types else {}
    rows = [(say(name), [_say_counts(each.attributes[name]) for each in types]) for name in names]
    return heads, rows


def head_views(report: FilmReport) -> list[HeadView]:
    """The classifier and the attribute head, as far as the bundle has them."""
    views = []
    if report.classifier is not None:
        named = report.classifier
        views.append(
            HeadView(
                "Classifier",
                report.head_cards.get("classifier"),
                (
                    ("Architecture", named.architecture),
                    *_ran(named.backend),
                    ("Classes", _listed(named.classes)),
                    (
                        "Unclassified",
                        f"below a probability of {say_probability(named.abstain_below)}",
                    ),
                    ("Outside", _listed(named.outside_differential) or "none"),
                ),
            )
        )
    if report.attribute_head is not None:
        head = report.attribute_head
        views.append(
            HeadView(
                "Attribute head",
                report.head_cards.get("attribute_head"),
                (
                    ("Architecture", head.architecture),
                    *_ran(head.backend),
                    ("Schema", head.schema_name),
                    ("Attributes", _listed(head.attributes)),
                    ("Not for", _listed(head.not_for_classes) or "no class"),
                ),
            )
        )
    return views


def _say_counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{say(value)} {count:,}" for value, count in values.items() if count) or "–"


def _ran(backend: BackendRecord) -> tuple[tuple[str, str], ...]:
    return (
        ("Artifact", backend.artifact),
        ("Ran on", f"{backend.name} {backend.version}, {backend.precision}, {backend.device}"),
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(say(name) for name in names)


def _vote_row(vote: VoteRecord) -> VoteRow:
    answer = "not assessable" if vote.answer is None else say(vote.answer)
    if vote.answer is None:
        answer += f" ({vote.not_assessable})"
    elif vote.tied:
        answer += " (tied)"
    subject = "cell type" if vote.subject == "type" else say(vote.subject)
    return VoteRow(
        subject,
        answer,
        vote.answer is not None,
        f"{vote.votes:,} of {vote.of:,}",
        f"{vote.needed:,}",
    )
