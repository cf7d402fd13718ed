"""How far one field lies from another."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_runtime.film.registration import (
    FieldEye,
    FieldPicture,
    Match,
    NoMatch,
    glance,
    match,
    match_near,
)
from edge_runtime.types import UInt8Image
from tests.edge_runtime.film.painted_film import bare, cut, paint, repeated, white_cell

PER_PICTURE_PX = 2.0  # fields of 320 pixels, pictures of 160


@pytest.fixture(scope="module")
def film() -> UInt8Image:
    return paint()


def _picture(film: UInt8Image, x: int, y: int, index: int = 0) -> FieldPicture:
    picture = FieldEye().look(cut(film, x, y, index).pixels)
    assert isinstance(picture, FieldPicture)
    return picture


@pytest.mark.parametrize(
    ("dx", "dy"),
    [(0, 0), (3, -1), (250, 0), (-250, 10), (0, 155), (12, -155), (150, 95), (-170, -90)],
)
def test_a_shift_is_found_down_to_a_fifth_in_common(film: UInt8Image, dx: int, dy: int) -> None:
    found = match(_picture(film, 600, 400), _picture(film, 600 + dx, 400 + dy, 1))
    assert isinstance(found, Match)
    assert found.shift_px == pytest.approx((dx / PER_PICTURE_PX, dy / PER_PICTURE_PX), abs=0.4)
    assert found.overlap == pytest.approx((1 - abs(dx) / 320) * (1 - abs(dy) / 200), abs=0.02)
    assert found.correlation > 0.8


def test_fields_with_nothing_in_common_do_not_match(film: UInt8Image) -> None:
    places = [(x, y) for x in (0, 320, 640, 960, 1280) for y in (0, 210, 430, 690)]
    pictures = [_picture(film, x, y, k) for k, (x, y) in enumerate(places)]
    compared = [match(one, other) for k, one in enumerate(pictures) for other in pictures[:k:3]]
    assert len(compared) > 60
    assert {type(each) for each in compared} == {NoMatch}
    assert {each.reason for each in compared if isinstance(each, NoMatch)} == {"apart"}


def test_light_and_focus_may_differ(film: UInt8Image) -> None:
    first = cut(film, 600, 400).pixels
    blurred = cv2.GaussianBlur(cut(film, 700, 430, 1).pixels, (0, 0), 3.0)
    slope = np.linspace(0.6, 0.9, 320)[None, :, None]
    second = np.asarray(blurred * slope, np.uint8)
    one, other = FieldEye().look(first), FieldEye().look(second)
    assert isinstance(one, FieldPicture)
    assert isinstance(other, FieldPicture)
    found = match(one, other)
    assert isinstance(found, Match)
    assert found.shift_px == pytest.approx((50, 15), abs=0.5)


def test_one_white_cell_upon_another_is_no_match() -> None:
    """Two bare places with a cell each correlate well where the cells lie upon each other."""
    here, there = bare(), bare()
    white_cell(here, 150, 90)
    white_cell(there, 190, 120)
    found = match(_picture(here, 0, 0), _picture(there, 0, 0, 1))
    assert isinstance(found, NoMatch)


def test_a_repeated_pattern_fits_in_several_places() -> None:
    film = repeated()
    found = match(_picture(film, 100, 100), _picture(film, 190, 130, 1))
    assert found == NoMatch("repeats")


@pytest.mark.parametrize(
    ("pixels", "word"),
    [
        (np.zeros((200, 320, 3), np.uint8), "dark"),
        (cut(bare(), 0, 0).pixels, "empty"),
    ],
)
def test_fields_that_show_nothing_say_so(pixels: UInt8Image, word: str) -> None:
    said = FieldEye().look(pixels)
    assert isinstance(said, str)
    assert said.split(":")[0] == word


def test_dirt_on_the_lens_is_no_place(film: UInt8Image) -> None:
    """Over bare film, dirt would say that the stage stands still."""
    dirt = np.ones((200, 320, 1))
    for x, y in np.random.default_rng(5).uniform((0, 0), (320, 200), (60, 2)):
        cv2.circle(dirt, (int(x), int(y)), 7, 0.9, -1, cv2.LINE_AA)

    def seen(film: UInt8Image, x: int, y: int, index: int) -> UInt8Image:
        return (cut(film, x, y, index).pixels * dirt).astype(np.uint8)

    eye = FieldEye()
    assert isinstance(eye.look(seen(bare(), 0, 0, 0)), FieldPicture)  # not known yet
    for index in range(40):
        x, y = 320 * (index % 4), 97 * (index // 4) % 700
        assert isinstance(eye.look(seen(film, x, y, index)), FieldPicture)
        eye.learn()
    assert isinstance(eye.look(seen(film, 700, 300, 50)), FieldPicture)
    said = eye.look(seen(bare(), 0, 0, 51))
    assert isinstance(said, str)
    assert said.startswith("empty")


def test_a_near_place_is_found_where_it_is_expected_only(film: UInt8Image) -> None:
    first, second = _picture(film, 600, 400), _picture(film, 700, 440, 1)
    found = match_near(first, second, (48.0, 22.0))
    assert found is not None
    assert found.shift_px == pytest.approx((50, 20), abs=0.4)
    assert match_near(first, second, (20.0, 20.0)) is None
    assert match_near(first, second, (150.0, 90.0)) is None


def test_a_glance_tells_known_places_from_others(film: UInt8Image) -> None:
    known = _picture(film, 600, 400)
    assert glance(known, _picture(film, 840, 410, 1)) > 5.5
    assert glance(known, _picture(film, 100, 100, 2)) < 5.5


def test_what_is_forgotten_is_made_again(film: UInt8Image) -> None:
    first, second = _picture(film, 600, 400), _picture(film, 700, 440, 1)
    before = match(first, second)
    assert glance(first, second) > 0
    for picture in (first, second):
        picture.forget()
        assert set(vars(picture)) == {"detail", "half"}
        assert set(vars(picture.half)) == {"detail"}
    assert match(first, second) == before


def test_pictures_of_different_size_are_refused(film: UInt8Image) -> None:
    smaller = FieldEye().look(cut(film, 0, 0).pixels[:150])
    assert isinstance(smaller, FieldPicture)
    with pytest.raises(ValueError, match="must be alike"):
        match(_picture(film, 0, 0), smaller)
