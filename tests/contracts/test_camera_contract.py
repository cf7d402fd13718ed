"""What every camera must keep, whatever stands behind it.

A new row of ``CAMERAS`` needs an entry in ``SOURCES``, or the first test fails.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.cameras import CAMERAS, open_camera
from edge_runtime.types import Frame, SkippedFrame
from edge_runtime.virtual_film import FilmSpec, VirtualFilm
from tests.contracts.live_sources import LIVE_SOURCES, LiveSource, plug_in_fake, written
from tests.support import paint_field, write_image


def _folder(tmp_path: Path) -> str:
    folder = tmp_path / "film"
    folder.mkdir()
    for number in (1, 2, 10):
        field = paint_field(96 + number, 64, [(30, 30, 20)], seed=number)
        write_image(folder / f"field_{number}.png", field)
    (folder / "field_3.png").write_bytes(b"no image")
    return str(folder)


def _image(tmp_path: Path) -> str:
    return str(write_image(tmp_path / "field.png", paint_field(96, 64)))


def _video(tmp_path: Path) -> str:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG video")
    for number in range(5):
        writer.write(paint_field(96, 64, [(20 + number, 30, 20)])[:, :, ::-1])
    writer.release()
    return str(path)


def _virtual(tmp_path: Path) -> str:
    return "virtual:lcm_40x_c2:3"


SOURCES: list[tuple[str, Callable[[Path], str]]] = [
    ("replay", _folder),
    ("replay", _image),
    ("replay", _video),
    ("virtual", _virtual),
]


@functools.cache
def _small_film() -> VirtualFilm:
    return VirtualFilm.build(3, FilmSpec(size_um=(400.0, 260.0)))


@pytest.fixture(autouse=True)
def one_small_film(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default film takes seconds to render; a small one, rendered once, tells the same."""
    film = _small_film()
    monkeypatch.setattr(VirtualFilm, "build", lambda seed, spec=None: film)


@pytest.fixture(
    params=[*SOURCES, *((made.name, made) for made in LIVE_SOURCES)],
    ids=lambda row: f"{row[0]}{getattr(row[1], '__name__', '')}",
)
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made = request.param[1]
    if isinstance(made, LiveSource):
        plug_in_fake(made, tmp_path, monkeypatch)
        return written(made, tmp_path)
    source: str = made(tmp_path)
    return source


def test_every_row_has_a_source_here() -> None:
    live = {made.name for made in LIVE_SOURCES}
    assert {name for name, _ in SOURCES} | live == {row.name for row in CAMERAS}


@pytest.mark.parametrize(
    ("name", "make"), SOURCES, ids=[f"{name}{make.__name__}" for name, make in SOURCES]
)
def test_the_row_that_is_meant_handles_the_source(
    name: str, make: Callable[[Path], str], tmp_path: Path
) -> None:
    made = make(tmp_path)
    assert next(row.name for row in CAMERAS if row.handles(made)) == name


@pytest.mark.parametrize("made", LIVE_SOURCES, ids=lambda made: str(made.name))
def test_the_row_that_is_meant_handles_the_live_source(made: LiveSource) -> None:
    assert next(row.name for row in CAMERAS if row.handles(made.source)) == made.name


def test_a_camera_keeps_its_contract(source: str) -> None:
    before = time.monotonic_ns()
    with open_camera(source, limit=4) as camera:
        promised = camera.frame_count
        items = list(camera)
    assert promised == len(items)
    assert promised is not None
    assert 1 <= promised <= 4
    assert [item.index for item in items] == list(range(len(items)))
    assert len({item.name for item in items}) == len(items)
    assert all(item.name for item in items)

    frames = [item for item in items if isinstance(item, Frame)]
    assert frames
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.shape == (frame.height, frame.width, 3)
        assert frame.pixels.flags.c_contiguous
        # Stain on a light ground: red must not have become blue on the way.
        red, _, blue = frame.pixels.reshape(-1, 3).mean(axis=0)
        assert red > blue
    times = [frame.captured_at_ns for frame in frames]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.monotonic_ns()
    for item in items:
        if isinstance(item, SkippedFrame):
            assert item.reason
            assert "\n" not in item.reason


def test_the_limit_ends_the_film(source: str) -> None:
    with open_camera(source, limit=1) as camera:
        assert camera.frame_count == 1
        assert len(list(camera)) == 1


def test_a_frame_is_the_readers_own(source: str) -> None:
    """Frames are examined while the next one is read: none may share memory with another."""
    with open_camera(source, limit=3) as camera:
        frames = [item for item in camera if isinstance(item, Frame)]
    kept = [frame.pixels.copy() for frame in frames]
    for frame in frames[1:]:
        assert not np.shares_memory(frames[0].pixels, frame.pixels)
    assert all(np.array_equal(a, frame.pixels) for a, frame in zip(kept, frames, strict=True))


def test_closing_twice_and_after_an_error_is_harmless(source: str) -> None:
    camera = open_camera(source, limit=1)
    with pytest.raises(KeyError), camera:
        raise KeyError
    camera.__exit__(None, None, None)
