"""Fields in their places, each cell once, and loss of track said aloud."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.mosaic import Scan, Tracked, profile_of, run_scan, score
from edge_runtime.film import track
from edge_runtime.film.mosaic import FilmMosaic, MosaicUpdate
from edge_runtime.film.registration import FieldPicture, Match, NoMatch, match
from edge_runtime.film.track import Lost, Placed
from edge_runtime.types import Detections, Frame, UInt8Image
from edge_runtime.virtual_film import FilmSpec, VirtualFilm
from tests.edge_runtime.film.painted_film import (
    bare,
    cells_in,
    cut,
    finds,
    paint,
    repeated,
    white_cell,
)

NOTHING = Detections.empty()
PLACES = [(180, 100), (420, 130), (650, 90), (430, 300), (1250, 640), (1380, 760), (1450, 620)]


@pytest.fixture(scope="module")
def film() -> UInt8Image:
    painted = paint()
    for place in PLACES:
        white_cell(painted, *place)
    return painted


class Stage:
    """Feeds a mosaic with fields of painted films, one after the other."""

    def __init__(self, film: UInt8Image) -> None:
        self.film = film
        self.mosaic = FilmMosaic()
        self._next = 0

    def look(self, x: int, y: int, film: UInt8Image | None = None) -> MosaicUpdate:
        frame = cut(self.film if film is None else film, x, y, self._next)
        return self.show(frame, cells_in(PLACES, x, y) if film is None else NOTHING)

    def show(self, frame: Frame, found: Detections) -> MosaicUpdate:
        self._next += 1
        return self.mosaic.add(frame, found)


def _reason(update: MosaicUpdate) -> str:
    assert isinstance(update.place, Lost)
    assert update.loses_track
    assert update.sightings == ()
    return update.place.reason.split(":")[0]


def _place(update: MosaicUpdate) -> Placed:
    assert isinstance(update.place, Placed)
    return update.place


def _at(update: MosaicUpdate) -> tuple[int, int, int]:
    place = _place(update)
    return (place.fragment, round(place.x / 2) * 2, round(place.y / 2) * 2)


def test_a_hand_moved_film_is_counted_once() -> None:
    """Sixty fields; the goals are those of the film of five hundred."""
    spec = FilmSpec(size_um=(600.0, 300.0), pixel_size_um=0.4, white_cells_per_mm2=500.0)
    scan = Scan.over(VirtualFilm.build(5, spec), profile_of(320, 200), 60, seed=3, jumps=1)
    motions = {step.motion for step in scan.path}
    assert {"step", "row", "pause", "back", "jump"} <= motions
    result = score(scan, run_scan(scan))
    assert result["cells_found"] > 50
    assert result["sightings"] > 2.5 * result["cells_found"]
    assert result["double_share"] <= 0.02
    assert result["missed_share"] <= 0.03
    assert result["cell_error_widths"]["max"] < 0.1
    assert result["fields_misplaced"] == 0
    assert result["fragments_left"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_hundred_fields() -> None:
    spec = FilmSpec(size_um=(1400.0, 1000.0), pixel_size_um=0.3)
    scan = Scan.over(VirtualFilm.build(21, spec), profile_of(480, 300), 500, seed=4, jumps=5)
    result = score(scan, run_scan(scan))
    assert result["cells_found"] > 100
    assert result["double_share"] <= 0.02
    assert result["missed_share"] <= 0.03
    assert result["cell_error_widths"]["max"] < 0.5
    assert result["fields_misplaced"] == 0


def test_a_jump_is_announced_and_the_new_part_counted_from_its_first_field(
    film: UInt8Image,
) -> None:
    stage = Stage(film)
    for x in (0, 150, 300):
        assert not stage.look(x, 0).loses_track
    assert stage.mosaic.state().cells == 2
    jumped = stage.look(1200, 600)
    assert _reason(jumped) == "apart"
    assert stage.mosaic.state().finds_without_place == 3
    joined = stage.look(1260, 640)
    assert joined.earlier is not None
    assert (joined.earlier.index, joined.earlier.fragment) == (3, 1)
    assert _at(joined) == (1, 60, 40)
    assert _place(joined).found_again
    assert [(each.frame, each.new) for each in joined.sightings] == [
        (3, True),
        (3, True),
        (3, True),
        (4, False),
    ]
    state = stage.mosaic.state()
    assert (state.cells, state.cells_apart, state.fragments) == (5, 2, 2)
    assert (state.fields_placed, state.lost, state.finds_without_place) == (5, {}, 0)


def test_fragments_are_tied_when_the_way_between_them_is_seen(film: UInt8Image) -> None:
    stage = Stage(film)
    stage.look(300, 0)
    stage.look(1200, 600)
    for x, y in ((1100, 500), (900, 400), (720, 300), (540, 200)):
        update = stage.look(x, y)
    assert not update.ties
    update = stage.look(400, 100)
    (tie,) = update.ties
    assert (tie.fragment, tie.into) == (1, 0)
    assert (tie.x, tie.y) == pytest.approx((900, 600), abs=4)
    (merge,) = update.merges
    assert merge.into == 0
    assert merge.cell not in {cell.id for cell in stage.mosaic.cells}
    state = stage.mosaic.state()
    assert (state.fragments, state.cells_apart) == (1, 0)
    assert _at(stage.look(340, 10)) == (0, 40, 10)
    assert state.cells == 5


def test_back_where_it_was_the_old_places_hold(film: UInt8Image) -> None:
    stage = Stage(film)
    for x in (0, 150, 300, 450):
        stage.look(x, 0)
    stage.look(1200, 600)
    stage.look(1230, 610)
    back = stage.look(160, 20)
    place = _place(back)
    assert (place.fragment, place.found_again) == (0, True)
    assert (place.x, place.y) == pytest.approx((160, 20), abs=3)
    assert all(not each.new for each in back.sightings)


def test_a_lost_field_between_known_ones_gets_its_place(film: UInt8Image) -> None:
    """Too far from the last one, but not from the next one."""
    stage = Stage(film)
    stage.look(0, 0)
    assert _reason(stage.look(400, 120)) == "apart"
    bridge = stage.look(200, 60)
    assert _at(bridge) == (0, 200, 60)
    assert bridge.earlier is not None
    assert (bridge.earlier.x, bridge.earlier.y) == pytest.approx((400, 120), abs=3)
    assert stage.mosaic.state().fragments == 1


def test_a_black_frame_is_announced_and_the_film_goes_on(film: UInt8Image) -> None:
    stage = Stage(film)
    stage.look(0, 0)
    black = Frame(9, 9, np.zeros((200, 320, 3), np.uint8), "black")
    assert _reason(stage.show(black, finds((10, 10, 40, 40)))) == "dark"
    after = _place(stage.look(60, 10))
    assert (after.fragment, after.found_again) == (0, True)
    state = stage.mosaic.state()
    assert state.lost == {"dark": 1}
    assert (state.cells, state.finds_without_place) == (1, 1)


def test_an_empty_part_is_announced_each_time(film: UInt8Image) -> None:
    stage = Stage(film)
    stage.look(0, 0)
    reasons = [_reason(stage.look(x, 0, bare())) for x in (0, 50, 100)]
    assert reasons == ["empty", "empty", "empty"]
    assert not stage.look(40, 0).loses_track


def test_a_repeated_pattern_is_announced_and_not_guessed() -> None:
    stage = Stage(repeated())
    stage.look(100, 100)
    assert [_reason(stage.look(100 + 20 * k, 100)) for k in (1, 2, 3)] == ["repeats"] * 3
    assert stage.mosaic.state().fragments == 1


def test_a_field_that_the_fields_around_contradict_is_lost(film: UInt8Image) -> None:
    """Torn while it was read out: its right part shows what lies 40 pixels further on."""
    stage = Stage(film)
    for x in (450, 600, 750):
        stage.look(x, 0)
    stage.look(600, 60)
    torn = cut(film, 600, 60, 4).pixels.copy()
    torn[:, 190:] = cut(film, 640, 60, 4).pixels[:, 190:]
    assert _reason(stage.show(Frame(4, 4, torn, "torn"), NOTHING)) == "disagree"
    after = stage.look(620, 40)
    assert _at(after) == (0, 170, 40)
    assert after.earlier is None
    assert stage.mosaic.state().lost == {"disagree": 1}


def test_another_picture_size_is_announced(film: UInt8Image) -> None:
    stage = Stage(film)
    stage.look(0, 0)
    smaller = Frame(1, 1, cut(film, 0, 0).pixels[:150], "smaller")
    update = stage.show(smaller, NOTHING)
    assert _reason(update) == "size"
    assert isinstance(update.place, Lost)
    assert "320 x 150 pixels instead of 320 x 200" in update.place.reason


def test_a_hand_that_rests_counts_nothing_twice(film: UInt8Image) -> None:
    stage = Stage(film)
    new = [len(stage.look(300, 60).new_cells) for _ in range(12)]
    assert new == [1] + [0] * 11
    assert len(stage.mosaic.views()) == 1
    assert {cell.sightings for cell in stage.mosaic.cells} == {12}


def test_a_hand_that_rests_is_followed_without_a_search(
    film: UInt8Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(film)
    searched: list[str] = []

    def counted(first: FieldPicture, second: FieldPicture) -> Match | NoMatch:
        searched.append("everywhere")
        return match(first, second)

    monkeypatch.setattr(track, "match", counted)
    stage.look(300, 60)
    stage.look(300, 60)
    assert len(searched) == 1
    # Not quite at rest: where it lies is told from the one that was searched for, errors do not
    # add up.
    drift = [stage.look(300 + k, 60 - k) for k in range(1, 13)]
    off = [(_place(each).x - k, _place(each).y + k) for k, each in enumerate(drift, 1)]
    assert np.abs(off).max() < 1.0
    assert len(searched) == 1
    stage.look(400, 120)
    assert len(searched) == 2


def test_a_repeated_pattern_at_rest_is_not_taken_for_certain() -> None:
    """Nothing was searched for yet, so nobody knows that it has one place only."""
    stage = Stage(repeated())
    stage.look(100, 100)
    assert [_reason(stage.look(100, 100)) for _ in range(2)] == ["repeats"] * 2


def test_transforms_are_not_kept_for_ever(film: UInt8Image) -> None:
    """Twenty times what a keyframe itself takes."""
    stage = Stage(film)
    for y in (0, 690):
        for x in range(0, 1281, 160):
            stage.look(x, y)
    stage.mosaic.finish()
    keys = list(stage.mosaic._track.keyframes)
    assert (len(keys), stage.mosaic.state().fragments) == (18, 2)
    assert sum("spectrum" in vars(key.picture) for key in keys) <= 12
    kept = [vars(key.picture).get("half") for key in keys]
    assert sum(half is not None and "spectrum" in vars(half) for half in kept) <= 12


def test_the_score_sees_what_is_wrong() -> None:
    """A mosaic that never merges, or that drops cells, must not pass for a good one."""
    spec = FilmSpec(size_um=(300.0, 200.0), pixel_size_um=0.5, white_cells_per_mm2=400.0)
    scan = Scan.over(VirtualFilm.build(5, spec), profile_of(320, 200), 8, seed=3, jumps=0)
    tracked = run_scan(scan)
    good = score(scan, tracked)
    assert (good["doubles"], good["missed"]) == (0, 0)
    cell = next(iter(tracked.seen))
    tracked.seen[99] = tracked.seen.pop(cell)
    tracked.mosaic.cells._cells[99] = tracked.mosaic[cell]
    tracked.seen[cell] = list(tracked.seen[99])
    assert score(scan, tracked)["doubles"] == 1
    for each in (99, cell):
        del tracked.seen[each]
    assert score(scan, tracked)["missed"] == 1
    index = max(tracked.places)
    place = tracked.places[index]
    tracked.places[index] = Placed(index, 0, place.x + 50, place.y)
    assert score(scan, tracked)["fields_misplaced"] == 1


def test_tracked_is_empty_before_the_first_field() -> None:
    state = Tracked().mosaic.state()
    assert (state.fields, state.cells, state.fragments) == (0, 0, 0)


def test_what_shows_nothing_new_is_known(film: UInt8Image) -> None:
    stage = Stage(film)
    told = [stage.look(x, y).shows_new for x, y in ((300, 60), (303, 61), (520, 60), (305, 60))]
    assert told == [True, False, True, False]
    # Nobody can tell of a field without a place.
    assert stage.look(1200, 700).shows_new
