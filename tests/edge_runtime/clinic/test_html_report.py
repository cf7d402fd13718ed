"""report.html: whole, self-contained, escaped, and honest about what it leaves out."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.clinic.html_report import HtmlSink
from edge_runtime.film_report import RESEARCH_USE

VOID = {"meta", "link", "img", "input", "br", "hr"}
LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "background"}


class Page(HTMLParser):
    """A page whose tags must balance; collects ids, links and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"doubled attribute in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and all(attrs.get(key) == value for key, value in wanted.items())
        ]

    def gallery(self) -> list[dict[str, str | None]]:
        return [attrs for attrs in self.having("li") if "data-score" in attrs]

    def jumps(self) -> list[str]:
        return [
            str(attrs["href"])[1:]
            for attrs in self.having("a")
            if str(attrs.get("href")).startswith("#")
        ]


def written(film: Any, out: Path, **limits: Any) -> str:
    film.through(HtmlSink(out, **limits))
    return (out / "report.html").read_bytes().decode("utf-8")


def states(make_film: Callable[[], Any]) -> dict[str, Any]:
    full, empty, skipped, nothing = (make_film() for _ in range(4))
    full.add("a.jpg", [0.9, 1.0], "lymphocyte")
    full.add("b.jpg", [0.4], "monocyte")
    full.skip("c.jpg", "0 bytes")
    empty.add("a.jpg")
    skipped.skip("a.jpg", "0 bytes")
    nothing.changes = {"timings": [], "settings": {}}
    return {"full": full, "empty": empty, "skipped": skipped, "nothing": nothing}


@pytest.mark.parametrize("state", ["full", "empty", "skipped", "nothing"])
def test_the_page_is_well_formed_and_loads_nothing(
    make_film: Callable[[], Any], tmp_path: Path, state: str
) -> None:
    text = written(states(make_film)[state], tmp_path)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.having("html", lang="en")
    assert len(page.ids) == len(set(page.ids))
    assert set(page.jumps()) <= set(page.ids)
    for tag, attrs in page.tags:
        for name in LOADING & attrs.keys():
            value = str(attrs[name])
            assert value.startswith(("#", "data:")), f"<{tag} {name}={value[:60]}>"
        assert "style" not in attrs  # the page's own policy would drop it
        assert not [name for name in attrs if name.startswith("on")]
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.text.count(RESEARCH_USE) == 2


def test_the_policy_allows_exactly_this_style_and_script(film: Any, tmp_path: Path) -> None:
    text = written(film, tmp_path)
    policy = Page(text).having("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy is not None
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(bodies) == 1
        digest = base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_names_and_words_from_outside_are_escaped(
    make_film: Callable[[], Any], tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script>\"'onload=x&amp;.jpg"
    film = make_film()
    film.add(evil, [0.9], evil)
    film.add(evil, [0.8], "wbc")
    film.skip(evil, evil)
    report = film.report()
    film.changes = {
        "source": evil,
        "started_at": evil,
        "leukoscope_version": evil,
        "bundle": report.bundle.model_copy(update={"id": evil, "sha256": evil}),
        "backend": report.backend.model_copy(
            update=dict.fromkeys(("name", "version", "device", "precision", "artifact"), evil)
        ),
        "model_card": report.model_card.model_copy(
            update={
                "title": evil,
                "summary": evil,
                "limits": [evil],
                "licence": evil,
                "metrics": {evil: {evil: 0.5}},
            }
        ),
        "settings": {evil: evil},
        "timings": [report.timings[0].model_copy(update={"stage": evil})],
    }
    text = written(film, tmp_path)
    page = Page(text)
    assert len(page.having("script")) == 1
    assert "alert(1)</script>" not in text
    assert not [attrs for _, attrs in page.tags if "onload" in attrs]
    assert evil in page.text
    assert page.having("span", title=evil)


def test_the_totals_can_be_read(film: Any, tmp_path: Path) -> None:
    text = Page(written(film, tmp_path)).text
    assert "3 white cells found" in text
    assert "3 fields examined of 4" in text
    assert "1 field skipped" in text
    assert "1.00 cells per field" in text
    assert "12.3 s duration" in text
    assert "broken.jpg truncated JPEG" in text
    assert "onnxruntime 1.23.2" in text
    assert "ab" * 32 in text
    assert "25 July 2026, 14:03 (UTC+02:00)" in text
    assert "Has never seen leukemia." in text
    assert "detector.score_threshold 0.3" in text
    assert "38.6 50.2 65.6" in text


def test_the_gallery_starts_with_the_highest_score_and_leads_to_the_cell(
    film: Any, tmp_path: Path
) -> None:
    page = Page(written(film, tmp_path))
    assert [attrs["data-score"] for attrs in page.gallery()] == ["0.9877", "0.91", "0.55"]
    boxes = {attrs["id"] for attrs in page.having("a") if "cell" in str(attrs.get("class"))}
    assert boxes == {"f0c1", "f0c2", "f3c1"}
    assert boxes <= set(page.jumps())
    crop = film.results[2].cells[0].crop_jpeg
    uri = "data:image/jpeg;base64," + base64.b64encode(crop).decode()
    assert page.having("img", src=uri)


def test_boxes_stand_in_the_pixels_of_the_field(film: Any, tmp_path: Path) -> None:
    page = Page(written(film, tmp_path))
    assert page.having("svg", viewbox="0 0 640 480")
    assert page.having("rect", x="10.0", y="20.0", width="30.1", height="40.5")


@pytest.mark.parametrize(("state", "banner"), [("interrupted", True), ("complete", False)])
def test_only_an_interrupted_film_is_marked_partial(
    film: Any, tmp_path: Path, state: str, banner: bool
) -> None:
    film.changes = {"state": state}
    text = Page(written(film, tmp_path)).text
    assert ("Partial report." in text) is banner
    assert ("State Complete" in text) is not banner


def test_limits_are_stated_and_keep_the_highest_scores(
    make_film: Callable[[], Any], tmp_path: Path
) -> None:
    film = make_film()
    for number in range(12):
        film.add(f"{number}.jpg", [0.5 + number / 100, 0.3])
    film.add("none.jpg")
    page = Page(written(film, tmp_path, gallery_cells=5, field_pictures=3))
    assert [attrs["data-score"] for attrs in page.gallery()] == [
        "0.61",
        "0.6",
        "0.59",
        "0.58",
        "0.57",
    ]
    assert "Showing the 5 of highest score of 24" in page.text
    assert "Pictures of the 3 fields with the highest scores, of 13 examined" in page.text
    # Two crops lead to fields whose picture was not kept: their boxes still stand there.
    assert set(page.jumps()) <= set(page.ids)
    assert len(page.having("svg", **{"class": "over"})) == 3
    assert len(page.having("svg", **{"class": "blank"})) == 2


def test_nothing_is_said_of_limits_when_everything_is_shown(film: Any, tmp_path: Path) -> None:
    text = Page(written(film, tmp_path)).text
    assert "Showing 3 of 3" in text
    assert "Pictures of 3 of 3 examined" in text


def test_large_pictures_are_held_within_a_budget(
    make_film: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = make_film()
    for number in range(6):
        film.add(f"{number}.jpg", [0.9 - number / 100])
    size = max(len(result.preview_jpeg) for result in film.results)
    monkeypatch.setattr("edge_runtime.clinic.html_report._PICTURE_BYTES", 2 * size)
    page = Page(written(film, tmp_path))
    assert "Pictures of the 2 fields with the highest scores, of 6 examined" in page.text


def test_classes_can_be_chosen_only_when_there_are_several(
    make_film: Callable[[], Any], tmp_path: Path
) -> None:
    films = states(make_film)
    several = Page(written(films["full"], tmp_path / "several"))
    assert several.having("select", id="class-filter")
    assert "lymphocyte 2" in several.text
    film = make_film()
    film.add("a.jpg", [0.9])
    assert not Page(written(film, tmp_path / "one")).having("select")


def test_a_film_without_cells_says_so(make_film: Callable[[], Any], tmp_path: Path) -> None:
    films = states(make_film)
    assert "No white cell was found" in Page(written(films["empty"], tmp_path / "a")).text
    skipped = Page(written(films["skipped"], tmp_path / "b")).text
    assert "No field could be examined" in skipped
    assert "– cells per field" in skipped


def test_a_very_long_list_of_skipped_fields_is_cut_and_says_so(
    make_film: Callable[[], Any], tmp_path: Path
) -> None:
    film = make_film()
    for number in range(501):
        film.skip(f"{number}.jpg", "0 bytes")
    text = Page(written(film, tmp_path)).text
    assert "Showing the first 500 of 501" in text
    assert "499.jpg" in text
    assert "500.jpg" not in text
