"""The cells of a film, each once."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_runtime.film.film_cells import FilmCells, Find, finds_of
from tests.edge_runtime.film.painted_film import bare, cut, finds, white_cell

VIEW = (0.0, 0.0, 320.0, 200.0)


def _find(
    box: tuple[float, float, float, float],
    *,
    frame: int = 0,
    row: int = 0,
    sharpness: float = 100.0,
    whole: bool = True,
    score: float = 0.9,
) -> Find:
    return Find(frame, row, box, score, sharpness, whole)


def _view(x: float, y: float) -> tuple[float, float, float, float]:
    return (x, y, x + 320, y + 200)


def test_the_same_place_is_the_same_cell_and_scores_are_noted() -> None:
    cells = FilmCells()
    (first,) = cells.add([_find((100, 50, 140, 90), score=0.8)], 0, VIEW)
    (again,) = cells.add([_find((2, 30, 42, 70), frame=1, score=0.6)], 0, _view(100, 21))
    assert (first.new, first.best, again.new, again.best) == (True, True, False, False)
    (cell,) = cells
    assert first.cell == again.cell == cell.id
    assert (cell.sightings, cell.in_view) == (2, 2)
    assert (cell.lowest_score, cell.highest_score) == (0.6, 0.8)
    assert cell.mean_score == pytest.approx(0.7)


@pytest.mark.parametrize(("away", "cells_then"), [(17.0, 1), (23.0, 2)])
def test_half_a_cell_is_the_border(away: float, cells_then: int) -> None:
    cells = FilmCells()
    cells.add([_find((100, 50, 140, 90))], 0, VIEW)
    cells.add([_find((100 + away, 50, 140 + away, 90), frame=1)], 0, VIEW)
    assert len(cells) == cells_then


def test_cells_that_touch_stay_two() -> None:
    cells = FilmCells()
    small, large = (100.0, 60.0, 126.0, 86.0), (124.0, 50.0, 174.0, 100.0)
    cells.add([_find(small), _find(large, row=1)], 0, VIEW)
    moved = [_find((115, 41, 165, 91), frame=1), _find((91, 51, 117, 77), frame=1, row=1)]
    seen = cells.add(moved, 0, _view(9, 9))
    assert [each.cell for each in seen] == [1, 0]
    assert len(cells) == 2


def test_one_find_is_one_cell_though_two_are_near() -> None:
    cells = FilmCells()
    cells.add([_find((100, 50, 140, 90))], 0, VIEW)
    seen = cells.add(
        [_find((104, 50, 144, 90), frame=1), _find((96, 50, 136, 90), frame=1, row=1)], 0, VIEW
    )
    assert sorted(each.new for each in seen) == [False, True]


def test_a_cell_cut_by_the_border_is_the_whole_one_and_gives_way_to_it() -> None:
    cells = FilmCells()
    half = _find((300, 50, 320, 90), whole=False, sharpness=500.0)
    cells.add([half], 0, VIEW)
    (seen,) = cells.add([_find((100, 50, 140, 90), frame=1)], 0, _view(200, 0))
    assert (seen.new, seen.best) == (False, True)
    (back,) = cells.add([half], 0, VIEW)
    assert (back.new, back.best) == (False, False)
    (cell,) = cells
    assert cell.box_xyxy == (300.0, 50.0, 340.0, 90.0)
    assert cell.in_view == 2


def test_the_best_focused_crop_is_kept() -> None:
    cells = FilmCells()
    box = (100.0, 50.0, 140.0, 90.0)
    looks = [100.0, 60.0, 102.0, 130.0, 129.0]
    kept = [
        cells.add([_find(box, frame=k, sharpness=sharp)], 0, VIEW)[0].best
        for k, sharp in enumerate(looks)
    ]
    assert kept == [True, False, False, True, False]
    assert next(iter(cells)).best.frame == 3


def test_sharpness_falls_with_focus() -> None:
    film = bare()
    white_cell(film, 150, 90)
    frame = cut(film, 0, 0)
    (sharp,) = finds_of(0, frame.pixels, finds((133, 73, 167, 107)))
    blurred = np.asarray(cv2.GaussianBlur(frame.pixels, (0, 0), 2.0), np.uint8)
    (soft,) = finds_of(0, blurred, finds((133, 73, 167, 107)))
    assert sharp.sharpness > 2 * soft.sharpness
    assert sharp.whole


@pytest.mark.parametrize(
    ("box", "whole"),
    [
        ((0, 50, 30, 90), False),
        ((50, 1, 90, 30), False),
        ((290, 50, 320, 90), False),
        ((50, 170, 90, 199.5), False),
        ((4, 4, 40, 40), True),
    ],
)
def test_what_the_border_cuts_is_not_whole(
    box: tuple[float, float, float, float], whole: bool
) -> None:
    (find,) = finds_of(0, cut(bare(), 0, 0).pixels, finds(box))
    assert find.whole is whole


def test_fragments_do_not_mix_until_they_are_tied() -> None:
    cells = FilmCells()
    cells.add([_find((100, 50, 140, 90), score=0.5)], 0, VIEW)
    cells.add(
        [_find((60, 40, 100, 80), frame=1, sharpness=300.0), _find((200, 40, 240, 80), frame=1)],
        1,
        VIEW,
    )
    assert len(cells) == 3
    (merge,) = cells.tie(1, 0, 41.0, 11.0)
    assert (merge.cell, merge.into, merge.best.frame) == (1, 0, 1)
    assert {cell.id for cell in cells} == {0, 2}
    assert {cell.fragment for cell in cells} == {0}
    assert cells[0].box_xyxy == (101.0, 51.0, 141.0, 91.0)
    assert cells[0].sightings == 2
    assert cells[0].mean_score == pytest.approx(0.7)
    assert cells[2].box_xyxy == (241.0, 51.0, 281.0, 91.0)
    (again,) = cells.add([_find((241, 51, 281, 91), frame=2)], 0, VIEW)
    assert (again.cell, again.new) == (2, False)
