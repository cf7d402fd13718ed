"""The words, figures and charts that report.html shows, ready to be placed.

Owns how numbers are rounded and said, what the charts count, and where a box and its
label stand on a picture. Does not own which cells and pictures are kept
(see ``html_report``) nor the page itself (see ``templates``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edge_runtime.film_report import CellRecord, FilmReport, UncountedRecord

_BARS = 20  # more cannot be told apart at the width of a chart
_LABELLED_BARS = 11
_SCORE_STEP = 0.05
_METRICS_ABREAST = 8  # more columns would have to be scrolled to on a laptop
_UNIT_OF_ENDING = {"_ms": " (ms)", "_s": " (s)", "_px": " (px)", "_um": " (µm)"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One large number of the totals."""

    value: str
    label: str
    note: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram; lengths in the chart's own units."""

    x: float
    width: float
    height: float
    label: str
    count: str
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A histogram, 100 units high, and what it says in words."""

    bars: tuple[Bar, ...]
    width: float
    x_title: str
    y_title: str
    summary: str


@dataclass(frozen=True, slots=True)
class ShownBox:
    """A cell on the picture of its field, in pixels of the field."""

    anchor: str
    number: int
    score: float
    score_text: str
    class_name: str
    x: float
    y: float
    width: float
    height: float
    label_x: float
    label_y: float
    label_side: str


@dataclass(frozen=True, slots=True)
class PassedBox:
    """A find that is not counted, on the picture of its field."""

    x: float
    y: float
    width: float
    height: float
    title: str
    target: str


@dataclass(frozen=True, slots=True)
class ShownField:
    """One examined field with its boxes, and its picture where one was kept."""

    anchor: str
    index: int
    name: str
    width: int
    height: int
    picture_jpeg: bytes | None
    text_size: float
    boxes: tuple[ShownBox, ...]
    passed: tuple[PassedBox, ...] = ()
    lost: str | None = None


def field_anchor(field: int) -> str:
    """The id of a field in the page."""
    return f"f{field}"


def cell_anchor(field: int, number: int) -> str:
    """The id of a cell in the page; ``number`` counts from 1 within its field."""
    return f"f{field}c{number}"


def show_field(
    index: int,
    name: str,
    size: tuple[int, int],
    cells: Sequence[CellRecord],
    picture_jpeg: bytes | None,
    passed: Sequence[tuple[UncountedRecord, str | None]] = (),
    lost: str | None = None,
) -> ShownField:
    """Place the boxes of one field and their labels.

    Args:
        index: the field's index in the film.
        name: the field's name.
        size: width and height of the field in pixels.
        cells: its cells in the order of the report.
        picture_jpeg: the field shrunk for looking at, or None when none was kept.
        passed: finds in it that are not counted, each with the anchor of the cell it repeats.
        lost: why nobody knows where it lies.
    """
    width, height = size
    text = round(max(width, height) / 24, 1)
    boxes: list[ShownBox] = []
    for counted, cell in enumerate(cells, start=1):
        number = counted if cell.place is None else cell.place.number
        x1, y1, x2, y2 = cell.box_xyxy
        right = x1 > 0.7 * width  # a label to the right of here would leave the picture
        above = y1 > 1.5 * text
        boxes.append(
            ShownBox(
                anchor=cell_anchor(index, number),
                number=number,
                score=round(cell.score, 4),
                score_text=say_score(cell.score),
                class_name=cell.class_name,
                x=round(x1, 1),
                y=round(y1, 1),
                width=round(x2 - x1, 1),
                height=round(y2 - y1, 1),
                label_x=round(x2 if right else x1, 1),
                label_y=round(y1 - 0.35 * text if above else min(y2 + text, height - 2), 1),
                label_side="end" if right else "start",
            )
        )
    return ShownField(
        field_anchor(index),
        index,
        name,
        width,
        height,
        picture_jpeg,
        text,
        tuple(boxes),
        tuple(_passed(index, find, anchor) for find, anchor in passed),
        lost,
    )


def _passed(index: int, find: UncountedRecord, anchor: str | None) -> PassedBox:
    x1, y1, x2, y2 = find.box_xyxy
    if find.cell is None:
        title = "Not counted: nobody knows where this field lies"
    else:
        title = f"Shows cell {find.cell} of the film again; it is counted in its best look"
    return PassedBox(
        round(x1, 1),
        round(y1, 1),
        round(x2 - x1, 1),
        round(y2 - y1, 1),
        title,
        anchor or field_anchor(index),
    )


def total_figures(report: FilmReport) -> list[Figure]:
    """The film in five numbers."""
    totals = report.totals
    outside = 0 if report.differential is None else sum(report.differential.outside.values())
    seen = totals.fields + totals.fields_skipped
    rate = totals.fields / report.duration_s if report.duration_s > 0 else 0.0
    return [
        Figure(
            f"{totals.cells:,}",
            _plural(totals.cells, "white cell" if not outside else "cell") + " found",
            f"{outside:,} outside the differential" if outside else "",
        ),
        Figure(f"{totals.fields:,}", _plural(totals.fields, "field") + " examined", f"of {seen:,}"),
        Figure(
            f"{totals.fields_skipped:,}",
            _plural(totals.fields_skipped, "field") + " skipped",
            "reasons below" if totals.fields_skipped else "",
        ),
        Figure(
            # A cell that several fields show is found in each of them.
            say_number(sum(field.cells for field in report.fields) / totals.fields)
            if totals.fields
            else "–",
            "cells per field" if report.mosaic is None else "finds per field",
            "mean" if totals.fields else "no field was examined",
        ),
        Figure(
            say_duration(report.duration_s),
            "duration",
            f"{say_number(rate)} fields per second" if totals.fields else "",
        ),
    ]


def cells_per_field_chart(report: FilmReport) -> Chart | None:
    """How many examined fields hold 0, 1, 2 ... cells; None without an examined field."""
    counts = [field.cells for field in report.fields if not field.skipped]
    if not counts:
        return None
    most = max(counts)
    step = max(1, math.ceil((most + 1) / _BARS))
    bins = max(5, math.ceil((most + 1) / step))
    heights = [0] * bins
    for count in counts:
        heights[count // step] += 1
    labels = [
        str(n * step) if step == 1 else f"{n * step}–{n * step + step - 1}" for n in range(bins)
    ]
    titles = [
        f"{label} cells: {n:,} {_plural(n, 'field')}"
        for label, n in zip(labels, heights, strict=True)
    ]
    empty = counts.count(0)
    summary = (
        f"{len(counts):,} {_plural(len(counts), 'field')}: {empty:,} without a cell, "
        f"at most {most:,} in one field"
    )
    return _chart(heights, labels, titles, "white cells in a field", "fields", summary)


def score_chart(report: FilmReport) -> Chart | None:
    """How the scores are spread; None when no cell was found."""
    scores = [cell.score for cell in report.cells]
    if not scores:
        return None
    # Whole steps counted as integers: 0.15 / 0.05 is not 3 in floating point.
    last = round(1 / _SCORE_STEP)
    first = min(_score_bin(min(scores), last), last // 2)
    heights = [0] * (last - first)
    for score in scores:
        heights[_score_bin(score, last) - first] += 1
    starts = [n * _SCORE_STEP for n in range(first, last)]
    titles = [
        f"score {start:.2f} to {start + _SCORE_STEP:.2f}: {n:,} {_plural(n, 'cell')}"
        for start, n in zip(starts, heights, strict=True)
    ]
    ordered = sorted(scores)
    summary = (
        f"{len(scores):,} {_plural(len(scores), 'cell')}: lowest score {say_score(ordered[0])}, "
        f"median {say_score(ordered[len(ordered) // 2])}, highest {say_score(ordered[-1])}"
    )
    labels = [f"{start:.2f}" for start in starts]
    return _chart(heights, labels, titles, "score, from", "cells", summary)


@dataclass(frozen=True, slots=True)
class MetricTable:
    """Figures of a model card that are named alike.

    Attributes:
        corner: what the first column holds.
        titles: of the other columns.
        rows: name and values as text.
    """

    corner: str
    titles: list[str]
    rows: list[tuple[str, list[str]]]


def metric_tables(metrics: Mapping[str, Mapping[str, float]]) -> list[MetricTable]:
    """A model card's numbers, a table for each set of figures that rows share.

    Tables with more figures than fit side by side have one row for each figure.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for domain, values in metrics.items():
        alike.setdefault(tuple(values), []).append(domain)
    tables = []
    for names, domains in alike.items():
        if len(names) <= _METRICS_ABREAST:
            rows = [
                (each, [_say_metric(metrics[each][name]) for name in names]) for each in domains
            ]
            tables.append(MetricTable("Domain", [say_key(name) for name in names], rows))
        else:
            rows = [
                (say_key(name), [_say_metric(metrics[each][name]) for each in domains])
                for name in names
            ]
            tables.append(MetricTable("Figure", domains, rows))
    return tables


@dataclass(frozen=True, slots=True)
class DomainView:
    """Whether the film looks like those the bundle's figures hold for, in words.

    Attributes:
        heading: the answer.
        outside: it is a warning.
        facts: names and values, the numbers it rests on.
    """

    heading: str
    outside: bool
    facts: list[tuple[str, str]]


def domain_view(report: FilmReport) -> DomainView:
    """The answer, or why there is none."""
    domain = report.domain
    if domain is None:
        return DomainView("Not assessed: the bundle does not say how its films look", False, [])
    if domain.score is None:
        return DomainView("Not assessed: no field was examined", False, [])
    fields = report.totals.fields
    facts = [
        ("Score", f"{say_number(domain.score)}; outside above {domain.threshold:g}"),
        ("Nearest validated domain", domain.nearest or "–"),
        (
            "Fields outside by themselves",
            f"{domain.fields_outside:,} of {fields:,} {_plural(fields, 'field')}",
        ),
        ("Validated domains", ", ".join(domain.domains)),
    ]
    if domain.outside:
        return DomainView("Outside the validated domain", True, facts)
    return DomainView("Within the validated domain", False, facts)


def setting_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every setting with its dotted name and value, sorted by name."""
    return sorted(_flat("", settings))


def say_score(score: float) -> str:
    """A score with two decimals; 1.00 only when it is exactly 1."""
    return f"{score if score == 1 else min(score, 0.994999):.2f}"


def say_number(value: float) -> str:
    """Three significant digits, and no decimals from a hundred on."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 3)}f}"


def say_duration(seconds: float) -> str:
    """A duration as a person says it: 8.4 s, 12 min 05 s, 1 h 02 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def say_date(started_at: str) -> str:
    """``2026-07-25T14:03:00+02:00`` as ``25 July 2026, 14:03 (UTC+02:00)``."""
    try:
        when = datetime.fromisoformat(started_at.replace("Z", "+00:00"))
    except ValueError:
        return started_at
    months = "January February March April May June July August September October November December"
    zone = f" ({when.tzname()})" if when.tzinfo else ""
    return f"{when.day} {months.split()[when.month - 1]} {when.year}, {when:%H:%M}{zone}"


def say_key(key: str) -> str:
    """A key of the report as a column title: ``p50_ms`` becomes ``p50 (ms)``."""
    for ending, unit in _UNIT_OF_ENDING.items():
        if key.endswith(ending):
            key = key.removesuffix(ending) + unit
            break
    return key.replace("_", " ")


def _say_metric(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value > 1 and float(value).is_integer() else f"{value:.3f}"


def _score_bin(score: float, last: int) -> int:
    return min(math.floor(score * last + 1e-9), last - 1)


def _chart(
    heights: Sequence[int],
    labels: Sequence[str],
    titles: Sequence[str],
    x_title: str,
    y_title: str,
    summary: str,
) -> Chart:
    top = max(heights)
    slot = 320 / len(heights)
    every = math.ceil(len(heights) / _LABELLED_BARS)
    bars = tuple(
        Bar(
            x=round(number * slot + 0.1 * slot, 2),
            width=round(0.8 * slot, 2),
            # A bar of one among thousands must still be seen.
            height=round(max(100 * count / top, 1.5), 2) if count else 0,
            label=labels[number] if number % every == 0 else "",
            count=f"{count:,}" if count and len(heights) <= _BARS else "",
            title=titles[number],
        )
        for number, count in enumerate(heights)
    )
    return Chart(bars, 320, x_title, y_title, summary)


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), part)
    elif isinstance(value, bool):
        yield prefix, "yes" if value else "no"
    elif value is None or value == "" or value == {}:
        yield prefix, "–"
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(str(part) for part in value) or "–"
    else:
        yield prefix, str(value)


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
