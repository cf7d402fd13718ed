"""Numbers and charts of the report page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edge_runtime.clinic import report_view
from edge_runtime.film_report import CellRecord


@pytest.mark.parametrize(
    ("score", "said"), [(0.5, "0.50"), (0.987, "0.99"), (0.9999, "0.99"), (1.0, "1.00")]
)
def test_a_score_is_one_only_when_it_is(score: float, said: str) -> None:
    assert report_view.say_score(score) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (0.0412, "0.041"),
        (0.4123, "0.412"),
        (4.21, "4.21"),
        (38.61, "38.6"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_have_three_digits(value: float, said: str) -> None:
    assert report_view.say_number(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(8.44, "8.4 s"), (59.97, "1 min 00 s"), (725, "12 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert report_view.say_duration(seconds) == said


@pytest.mark.parametrize(
    ("stamp", "said"),
    [
        ("2026-07-25T14:03:11+02:00", "25 July 2026, 14:03 (UTC+02:00)"),
        ("2026-12-01T00:00:00Z", "1 December 2026, 00:00 (UTC)"),
        ("yesterday", "yesterday"),
    ],
)
def test_dates(stamp: str, said: str) -> None:
    assert report_view.say_date(stamp) == said


def test_cells_per_field_counts_every_examined_field(film: Any) -> None:
    chart = report_view.cells_per_field_chart(film.report())
    assert chart is not None
    assert [bar.count for bar in chart.bars] == ["1", "1", "1", "", ""]
    assert chart.summary == "3 fields: 1 without a cell, at most 2 in one field"


def test_crowded_fields_share_bars(make_film: Callable[[], Any]) -> None:
    film = make_film()
    for count in (0, 45, 99):
        film.add(f"{count}.jpg", [0.5] * count)
    chart = report_view.cells_per_field_chart(film.report())
    assert chart is not None
    assert len(chart.bars) == 20
    assert [bar.title for bar in chart.bars if bar.height] == [
        "0–4 cells: 1 field",
        "45–49 cells: 1 field",
        "95–99 cells: 1 field",
    ]


def test_scores_on_the_edge_of_a_step_belong_to_the_upper_one(
    make_film: Callable[[], Any],
) -> None:
    film = make_film()
    film.add("a.jpg", [0.15, 0.3, 0.55, 0.599, 1.0])
    chart = report_view.score_chart(film.report())
    assert chart is not None
    assert [bar.title for bar in chart.bars if bar.height] == [
        "score 0.15 to 0.20: 1 cell",
        "score 0.30 to 0.35: 1 cell",
        "score 0.55 to 0.60: 2 cells",
        "score 0.95 to 1.00: 1 cell",
    ]


def test_a_film_without_cells_has_no_score_chart(make_film: Callable[[], Any]) -> None:
    assert report_view.score_chart(make_film().report()) is None
    assert report_view.cells_per_field_chart(make_film().report()) is None


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (620, 460, 640, 480), (0, 0, 640, 480)])
def test_labels_stay_inside_the_picture(box: tuple[float, float, float, float]) -> None:
    cell = CellRecord(field=0, box_xyxy=box, score=0.5, class_name="wbc")
    shown = report_view.show_field(0, "a", (640, 480), [cell], None)
    label = shown.boxes[0]
    # Four digits are about 2.4 letters' heights wide.
    span = 2.4 * shown.text_size
    left = label.label_x - span if label.label_side == "end" else label.label_x
    assert left >= 0
    assert left + span <= 640
    assert shown.text_size * 0.7 <= label.label_y <= 480


def test_domains_with_the_same_figures_share_a_table() -> None:
    few = {"a": {"AP50": 0.9}, "b": {"recall": 0.8, "n": 50}, "c": {"AP50": 0.7}}
    first, second = report_view.metric_tables(few)
    assert (first.corner, first.titles) == ("Domain", ["AP50"])
    assert first.rows == [("a", ["0.900"]), ("c", ["0.700"])]
    assert (second.titles, second.rows) == (["recall", "n"], [("b", ["0.800", "50"])])


def test_many_figures_stand_below_each_other() -> None:
    many = {f"figure {n}": n / 10 for n in range(9)}
    (table,) = report_view.metric_tables({"a": many, "b": many})
    assert (table.corner, table.titles, len(table.rows)) == ("Figure", ["a", "b"], 9)
    assert table.rows[3] == ("figure 3", ["0.300", "0.300"])


def test_settings_are_flat_and_sorted() -> None:
    rows = report_view.setting_rows(
        {"b": {"y": True, "x": None}, "a": [1, 2], "c": {}, "d": 0.0, "e": []}
    )
    assert rows == [
        ("a", "1, 2"),
        ("b.x", "–"),
        ("b.y", "yes"),
        ("c", "–"),
        ("d", "0.0"),
        ("e", "–"),
    ]
