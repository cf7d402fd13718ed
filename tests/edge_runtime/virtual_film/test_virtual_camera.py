"""The virtual microscope as a camera."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge_runtime.cameras import open_camera as open_any_camera
from edge_runtime.cameras.virtual import DEFAULT_FRAMES, VirtualCamera, open_camera
from edge_runtime.errors import CameraError
from edge_runtime.types import Frame
from edge_runtime.virtual_film import PROFILES, FilmSpec, VirtualFilm, hand_path


@pytest.fixture(scope="module")
def camera(film: VirtualFilm) -> VirtualCamera:
    return VirtualCamera(film, PROFILES["lcm_100x_c2"], 6, clock=itertools.count(5).__next__)


def test_frames_are_named_numbered_and_stamped(film: VirtualFilm) -> None:
    profile = PROFILES["lcm_100x_c2"]
    with VirtualCamera(film, profile, 3, clock=itertools.count(5).__next__) as camera:
        assert camera.frame_count == 3
        frames = list(camera)
    assert [f.name for f in frames] == ["field_0000", "field_0001", "field_0002"]
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.captured_at_ns for f in frames] == [5, 6, 7]
    for frame in frames:
        assert isinstance(frame, Frame)
        assert (frame.width, frame.height) == (1280, 720)
        assert frame.pixel_size_um == profile.pixel_size_um


def test_frames_do_not_depend_on_what_was_read_before(camera: VirtualCamera) -> None:
    in_order = [frame.pixels for frame in camera]
    assert np.array_equal(camera.frame(4).pixels, in_order[4])
    assert np.array_equal(camera.frame(1).pixels, in_order[1])
    assert not np.array_equal(in_order[0], in_order[1])


def test_fields_lie_on_the_film_and_reach_its_corners(camera: VirtualCamera) -> None:
    width, height = camera.film.size_um
    field_width, field_height = camera.profile.field_um
    centres = np.array([camera.centre_um(k) for k in range(6)])
    assert len({tuple(c) for c in centres}) == 6
    assert centres[:, 0].min() == pytest.approx(field_width / 2)
    assert centres[:, 1].max() == pytest.approx(height - field_height / 2)
    assert centres[:, 0].max() == pytest.approx(width - field_width / 2)


def test_truth_belongs_to_the_frame(camera: VirtualCamera) -> None:
    counted = 0
    for frame in camera:
        truth = camera.truth(frame.index)
        clear = float(np.percentile(frame.pixels[:, :, 1], 95))
        for cell in (c for c in truth if c.class_name in ("blast", "lymphocyte")):
            x1, y1, x2, y2 = (round(v) for v in cell.box_xyxy)
            assert frame.pixels[y1:y2, x1:x2, 1].mean() < 0.75 * clear
            counted += 1
        assert {c.film_id for c in truth} <= {c.film_id for c in camera.truth(frame.index, 0.1)}
    assert counted > 3


def test_one_source_one_film() -> None:
    spec = FilmSpec(size_um=(130.0, 80.0))
    one, two, three = (
        open_camera(source, limit=1, spec=spec)
        for source in ("virtual:phone:12", "virtual:phone:12", "virtual:phone:13")
    )
    first, again, other = (next(iter(camera)).pixels for camera in (one, two, three))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("source", "profile", "seed"),
    [
        ("virtual", "hcm_100x_c2", 7),
        ("virtual:", "hcm_100x_c2", 7),
        ("virtual:lcm_40x_c2", "lcm_40x_c2", 7),
        ("virtual:lcm_100x_c2:123", "lcm_100x_c2", 123),
        ("virtual::5", "hcm_100x_c2", 5),
    ],
)
def test_sources_are_understood(source: str, profile: str, seed: int) -> None:
    camera = open_camera(source, spec=FilmSpec(size_um=(50.0, 40.0)))
    assert camera.profile.name == profile
    assert camera.film.seed == seed
    assert camera.frame_count == DEFAULT_FRAMES


@pytest.mark.parametrize(
    ("source", "limit", "words"),
    [
        ("virtual:hcm_10x", None, "lcm_100x_c2"),
        ("virtual:phone:x", None, "seed 'x'"),
        ("virtual:phone:-1", None, "seed '-1'"),
        ("virtual:phone:1:2", None, r"virtual\[:profile\[:seed\[:hand\]\]\]"),
        ("virtual:phone:1:hand:2", None, r"virtual\[:profile\[:seed\[:hand\]\]\]"),
        ("virtual:phone", 0, "limit 0"),
    ],
)
def test_bad_sources_are_refused(source: str, limit: int | None, words: str) -> None:
    with pytest.raises(CameraError, match=words) as caught:
        open_any_camera(source, limit=limit)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hand_moves_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    film = VirtualFilm.build(7, FilmSpec(size_um=(300.0, 180.0), pixel_size_um=0.5))
    monkeypatch.setattr(VirtualFilm, "build", lambda seed, spec=None: film)
    camera = open_camera("virtual:hcm_100x_c2::hand", limit=3)
    path = hand_path(film.size_um, camera.profile.field_um, 3, 7)
    assert [camera.centre_um(k) for k in range(3)] == [step.centre_um for step in path]
    assert camera.frame_count == 3
    with pytest.raises(CameraError, match="take a 100x profile"):
        open_camera("virtual:hcm_40x_c2:3:hand")


def test_the_camera_table_opens_it() -> None:
    with open_any_camera("virtual:hcm_100x_c2:2", limit=1) as camera:
        assert camera.frame_count == 1
        (frame,) = camera
        assert isinstance(frame, Frame)
        assert (frame.width, frame.height) == (1920, 1080)
