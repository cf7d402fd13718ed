"""The map of a film."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from edge_runtime.film.mosaic import FilmMosaic
from edge_runtime.film.mosaic_map import FilmMap, MapCell, draw_map, film_map
from edge_runtime.film_report import RESEARCH_USE
from tests.edge_runtime.film.painted_film import cut, finds, paint

SVG = "{http://www.w3.org/2000/svg}"
VIEWS = ((0, (0.0, 0.0, 320.0, 200.0)), (0, (200.0, 50.0, 520.0, 250.0)))


def _cell(number: int, x: float, y: float, name: str, fragment: int = 0) -> MapCell:
    return MapCell(number, fragment, (x - 20, y - 20, x + 20, y + 20), name)


def _drawn(film: FilmMap, *order: str) -> ElementTree.Element:
    return ElementTree.fromstring(draw_map(film, order=order))


def _words(drawing: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in drawing.iter(f"{SVG}text")]


def test_every_cell_lies_in_its_place_in_the_colour_of_its_class() -> None:
    cells = (
        _cell(3, 100, 80, "blast"),
        _cell(7, 480, 200, "band_neutrophil"),
        _cell(9, 300, 60, "blast"),
    )
    drawing = _drawn(FilmMap(cells, VIEWS, 0.1), "band_neutrophil", "blast")
    marks = {each.get("id"): each for each in drawing.iter() if each.get("id")}
    assert set(marks) == {"cell-3", "cell-7", "cell-9"}
    places = {key: (float(m.get("cx", "")), float(m.get("cy", ""))) for key, m in marks.items()}
    scale = (900 - 48) / 520
    assert places["cell-3"] == pytest.approx((100 * scale, 80 * scale), abs=0.02)
    assert places["cell-7"] == pytest.approx((480 * scale, 200 * scale), abs=0.02)
    assert marks["cell-3"].get("fill") == marks["cell-9"].get("fill") != marks["cell-7"].get("fill")
    assert marks["cell-7"].findtext(f"{SVG}title") == "band neutrophil, cell 7"
    words = _words(drawing)
    assert words.index("band neutrophil: 1") < words.index("blast: 2")
    assert "10 µm" in words
    assert RESEARCH_USE in words


def test_parts_of_unknown_place_are_drawn_apart_and_said_to_be() -> None:
    views = (*VIEWS, (4, (-50.0, -30.0, 270.0, 170.0)))
    cells = (_cell(1, 100, 80, "blast"), _cell(2, 0, 0, "blast", fragment=4))
    drawing = _drawn(FilmMap(cells, views, None, lost_fields=3))
    words = _words(drawing)
    assert sum("where it lies to the one above is not known" in each for each in words) == 1
    assert any(each.startswith("3 fields are not on the map") for each in words)
    assert not any("µm" in each for each in words)
    first, second = drawing.findall(f"{SVG}g")
    low = [float(re.findall(r"[-\d.]+", g.get("transform", ""))[1]) for g in (first, second)]
    assert low[1] > low[0] + 250
    assert [g.find(f"{SVG}circle").get("id") for g in (first, second)] == ["cell-1", "cell-2"]  # type: ignore[union-attr]
    height = float((drawing.get("viewBox") or "").split()[3])
    assert max(float(each.get("y", "0")) for each in drawing.iter(f"{SVG}text")) < height


def test_more_classes_than_colours_differ_in_shape() -> None:
    cells = tuple(_cell(k, 20 + 15 * k, 60, f"class_{k:02}") for k in range(20))
    drawing = _drawn(FilmMap(cells, VIEWS))
    looks = {(each.get("fill"), *_outline(each)) for each in drawing.iter() if each.get("id")}
    assert len(looks) == 20


def _outline(mark: ElementTree.Element) -> tuple[str, int, bool]:
    """Tag, corners, and whether the first corner stands above the last one."""
    points = mark.get("points", "").split()
    return mark.tag, len(points), len({each.split(",")[0] for each in points}) == 2


def test_it_is_safe_to_show() -> None:
    """Names come from bundles and people; the page forbids scripts and inline styles."""
    text = draw_map(FilmMap((_cell(1, 50, 50, '<script>"&'),), VIEWS))
    assert "<script" not in text
    assert "style" not in text
    assert ElementTree.fromstring(text) is not None


def test_a_film_without_a_place_says_so() -> None:
    assert "No field has a place yet." in _words(_drawn(FilmMap((), ())))


def test_a_mosaic_is_drawn() -> None:
    film, mosaic = paint(), FilmMosaic()
    for index, x in enumerate((0, 150)):
        mosaic.add(cut(film, x, 0, index), finds((160 - x, 60, 200 - x, 100)))
    made = film_map(mosaic, {0: "monocyte"}, unnamed="unclassified")
    assert [(cell.id, cell.class_name) for cell in made.cells] == [(0, "monocyte")]
    assert [fragment for fragment, _ in made.views] == [0, 0]
    assert made.views[1][1][0] == pytest.approx(150, abs=2)
    assert made.pixel_size_um == 0.4
    assert 'id="cell-0"' in draw_map(made)
