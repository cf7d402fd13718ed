"""report.html of films with a classifier and an attribute head."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from edge_runtime.bundle import open_bundle
from edge_runtime.cameras import Camera
from edge_runtime.clinic.film_view import (
    UNSURE_BELOW,
    chips,
    differential_rows,
    say_probability,
)
from edge_runtime.clinic.html_report import HtmlSink
from edge_runtime.film_report import RESEARCH_USE, DifferentialRecord, FilmReport
from edge_runtime.film_run import film_runner, load_bundle
from edge_runtime.settings import Settings
from edge_runtime.types import Frame, JudgedAttribute
from tests.edge_runtime.clinic.test_html_report import LOADING, Page
from tests.support import paint_field
from tests.toy_heads import (
    CLASSIFIER_NAME,
    SCHEMA,
    classifier_part,
    head_part,
    toy_classifier,
    write_toy_bundle,
)

STAINS = ["violet"] * 8 + ["navy"] * 3 + ["plum"] * 2
EVIL = "<script>alert(1)</script>\"'"
CARD: dict[str, Any] = {
    "title": "Stains of discs",
    "summary": "Names discs.",
    "limits": ["Discs only."],
    "licence": "AGPL-3.0-or-later",
    "training_data": ["none"],
    "metrics": {"discs": {"accuracy": 0.75}},
    "metrics_of": "nothing",
}


class Film:
    """A camera of one disc a field."""

    frame_count = len(STAINS)

    def __iter__(self) -> Iterator[Frame]:
        for index, stain in enumerate(STAINS):
            field = paint_field(160, 120, stained={stain: [(60.0 + index, 55.0, 24.0 + 3 * index)]})
            yield Frame(index, 0, field, f"field_{index}.png")


def page_of(folder: Path, **parts: Any) -> tuple[Page, str, FilmReport]:
    bundle = open_bundle(write_toy_bundle(folder / "bundle", **parts))
    settings = Settings(threads=1)
    with load_bundle(bundle, settings) as loaded:
        camera = cast(Camera, Film())
        sinks = [HtmlSink(folder)]
        report = film_runner(loaded, camera, source="f", settings=settings, sinks=sinks).run()
    text = (folder / "report.html").read_bytes().decode("utf-8")
    return Page(text), text, report


def crops(page: Page, class_name: str) -> int:
    return len(page.having("li", **{"data-class": class_name}))


PARTS: dict[str, dict[str, Any]] = {
    "head": {"head": head_part()},
    "classifier": {"classifier": classifier_part()},
    "both": {"head": head_part(), "classifier": classifier_part()},
}


@pytest.mark.parametrize("parts", PARTS)
def test_the_page_stays_whole_and_loads_nothing(parts: str, tmp_path: Path) -> None:
    page, text, report = page_of(tmp_path, **PARTS[parts])
    assert len(page.ids) == len(set(page.ids))
    assert set(page.jumps()) <= set(page.ids)
    for tag, attrs in page.tags:
        for name in LOADING & attrs.keys():
            assert str(attrs[name]).startswith(("#", "data:")), f"<{tag} {name}>"
        assert "style" not in attrs
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(page.gallery()) == len(STAINS)
    assert ("differential" in page.ids) == (report.differential is not None)
    assert "description" in page.ids
    # Once at the top, once at the end, once in the description itself.
    assert page.text.count(RESEARCH_USE) == 3


def test_the_differential_shows_counts_shares_and_intervals(tmp_path: Path) -> None:
    part = classifier_part(outside_differential=["plum"])
    page, _, report = page_of(tmp_path, classifier=part)
    assert report.differential is not None
    assert "11 cells counted" in page.text
    violet = report.differential.classes[1]
    assert (violet.class_name, violet.count, violet.percent) == ("violet", 8, 72.73)
    assert f"violet 8 72.7 {violet.low_percent:.1f} to {violet.high_percent:.1f}" in page.text
    assert page.having("rect", **{"class": "bar"}, width="72.73")
    assert page.having("line", **{"class": "span"}, x1=str(violet.low_percent), y1="5")
    assert "plum 2" in page.text
    assert "unclassified 0" in page.text
    assert "2 outside the differential" in page.text


def test_the_gallery_is_grouped_by_class_most_probable_first(tmp_path: Path) -> None:
    page, text, report = page_of(tmp_path, classifier=classifier_part())
    assert [crops(page, stain) for stain in ("violet", "navy", "plum")] == [8, 3, 2]
    groups = re.findall(r'<div class="group( doubtful)?".*?<h3>(\w+)</h3>', text, re.DOTALL)
    assert [name for _, name in groups] == ["navy", "violet", "plum"]
    order = [
        next(i for i, s in enumerate(STAINS) if s == name) for name in ("navy", "violet", "plum")
    ]
    assert order == [8, 0, 11]
    shown = re.findall(r'data-class="(\w+)".*?probability ([0-9.]+),', text)
    for name in ("navy", "violet", "plum"):
        values = [float(value) for which, value in shown if which == name]
        assert len(values) == STAINS.count(name)
        assert values == sorted(values, reverse=True)
    assert "By class, most probable first" in page.text
    assert report.classifier is not None


def test_unclassified_cells_stand_apart_with_their_best_class(tmp_path: Path) -> None:
    page, _, _ = page_of(
        tmp_path,
        classifier=classifier_part(),
        models={CLASSIFIER_NAME: toy_classifier(sharpness=2.0)},
    )
    assert crops(page, "unclassified") == len(STAINS)
    assert len(page.having("div", **{"class": "group doubtful"})) == 1
    assert "no class is at least 0.60 probable" in page.text
    assert page.text.count("most like violet") == STAINS.count("violet")
    assert "unclassified 13" in page.text


def test_attributes_are_read_beneath_each_crop(tmp_path: Path) -> None:
    page, text, report = page_of(tmp_path, head=head_part(), classifier=classifier_part())
    shown = page.having("span", **{"class": "chip"}) + page.having(
        "span", **{"class": "chip unsure"}
    )
    # Two attributes a cell, and two in the legend.
    assert len(shown) == 2 * len(STAINS) + 2
    unsure = sum(
        judged.probability < UNSURE_BELOW
        for cell in report.cells
        for judged in (cell.attributes or {}).values()
        if judged is not None
    )
    assert len(page.having("span", **{"class": "chip unsure"})) == unsure + 1
    assert "redness much" in page.text
    assert re.search(r'aria-label="White cell, score [^"]*, redness much', text)


def test_cells_of_classes_without_attributes_say_so(tmp_path: Path) -> None:
    head = head_part(not_for_classes=["navy"])
    page, _, _ = page_of(tmp_path, head=head, classifier=classifier_part())
    assert page.text.count("not described") >= STAINS.count("navy")
    assert len(page.having("span", **{"class": "chips none"})) == STAINS.count("navy")


def test_the_description_stands_beside_its_votes(tmp_path: Path) -> None:
    page, _, report = page_of(tmp_path, head=head_part(), classifier=classifier_part())
    assert report.description is not None
    for sentence in report.description.sentences:
        assert sentence in page.text
    assert "cell type not assessable (too few cells) 8 of 13 20" in page.text
    assert "violet (8)" in page.text
    assert "some 8" in page.text


def test_every_head_has_its_model_card(tmp_path: Path) -> None:
    page, _, _ = page_of(
        tmp_path,
        head=head_part(),
        classifier=classifier_part(),
        head_cards={"classifier": CARD},
    )
    assert "Classifier: Stains of discs" in page.text
    assert "Discs only." in page.text
    assert "discs 0.750" in page.text
    assert "Attribute head The bundle has no model card of it." in page.text
    assert "attribute_head.onnx" in page.text
    assert "Schema toy-2" in page.text


def test_words_of_a_bundle_are_escaped(tmp_path: Path) -> None:
    schema = {
        "name": EVIL,
        "attributes": [
            {"name": EVIL, "values": [EVIL, EVIL + "2"]},
            {"name": "b", "values": [EVIL, "b", "c"]},
        ],
    }
    page, text, _ = page_of(
        tmp_path,
        head=head_part(attributes=schema, architecture=EVIL),
        classifier=classifier_part(classes=[EVIL, EVIL + "b", "c"], architecture=EVIL),
        head_cards={"classifier": CARD | {"title": EVIL, "summary": EVIL, "limits": [EVIL]}},
    )
    assert len(page.having("script")) == 1
    assert "alert(1)</script>" not in text
    assert SCHEMA["name"] not in text


def test_probabilities_are_never_rounded_to_certainty() -> None:
    assert [say_probability(p) for p in (0, 0.0001, 0.5, 0.9999, 1)] == [
        "0.00",
        "0.01",
        "0.50",
        "0.99",
        "1.00",
    ]


def test_chips_say_what_is_uncertain_and_leave_out_what_nobody_judged() -> None:
    made = chips(
        {
            "cell_size": JudgedAttribute("light_blue", UNSURE_BELOW),
            "vacuole": JudgedAttribute("no", UNSURE_BELOW - 0.01),
            "granules": None,
        }
    )
    assert [(chip.name, chip.value, chip.unsure) for chip in made] == [
        ("cell size", "light blue", False),
        ("vacuole", "no", True),
    ]
    assert made[1].title == "vacuole: no, probability 0.69"
    assert chips(None) == ()


def test_a_differential_without_a_cell_has_no_percent() -> None:
    empty = {"class_name": "a", "count": 0, "percent": None, "low_percent": 0, "high_percent": 100}
    record = DifferentialRecord.model_validate(
        {"total": 0, "confidence": 0.95, "classes": [empty], "outside": {}, "unclassified": 2}
    )
    (row,) = differential_rows(record)
    assert (row.percent, row.interval, row.share) == ("–", "0.0 to 100.0", 0.0)


def test_a_heads_figures_do_not_claim_test_films_and_fit_on_paper(tmp_path: Path) -> None:
    page, text, _ = page_of(tmp_path, classifier=classifier_part(), head_cards={"classifier": CARD})
    assert "Measured, by artifact and data" in page.text
    printed = text.partition("@media print")[2].partition("</style>")[0]
    assert ".columns.head { grid-template-columns: minmax(0, 1fr); }" in printed
    # Later rules win: the one for all columns must stand before it.
    assert printed.index(".columns { grid") < printed.index(".columns.head")
