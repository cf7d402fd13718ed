"""Films from disk: order, bad files among good ones, and what is no film."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_runtime.cameras import open_camera
from edge_runtime.errors import CameraError
from edge_runtime.types import Frame, SkippedFrame
from tests.support import paint_field, write_image


def refusal(source: Path | str, limit: int | None = None) -> str:
    with pytest.raises(CameraError) as refused:
        open_camera(str(source), limit=limit)
    message = str(refused.value)
    assert "\n" not in message
    assert str(source) in message
    return message


def names(source: Path, limit: int | None = None) -> list[str]:
    with open_camera(str(source), limit=limit) as camera:
        return [item.name for item in camera]


def film(folder: Path, *files: str) -> Path:
    folder.mkdir(exist_ok=True)
    field = paint_field(40, 36)
    for name in files:
        write_image(folder / name, field)
    return folder


def test_fields_come_in_the_order_a_person_counts(tmp_path: Path) -> None:
    wanted = ["f1.png", "f2.png", "f02b.png", "f10.png", "F11.png", "g0.png"]
    assert names(film(tmp_path / "film", *sorted(wanted))) == wanted


@pytest.mark.parametrize(
    "files",
    [
        ["1²2.png", "²1.png"],
        ["٣.png", "2.png", "10.png"],
        ["9" * 200 + ".png", "1.png"],
        [".png.png", "-1.png", "a b.png", "ä.png"],
    ],
    ids=["superscripts", "arabic digits", "long number", "odd"],
)
def test_any_name_can_be_ordered(files: list[str], tmp_path: Path) -> None:
    assert sorted(names(film(tmp_path / "film", *files))) == sorted(files)


def test_equal_numbers_keep_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = film(tmp_path / "film", "a1.png", "a01.png", "a001.png")
    listed = Path.iterdir
    orders = []
    for backwards in (False, True):

        def shuffled(self: Path, backwards: bool = backwards) -> Iterator[Path]:
            return iter(sorted(listed(self), reverse=backwards))

        monkeypatch.setattr(Path, "iterdir", shuffled)
        orders.append(names(folder))
    assert orders[0] == orders[1]


def test_only_images_of_the_folder_itself_count(tmp_path: Path) -> None:
    folder = film(tmp_path / "film", "b.png", "A.JPG")
    film(folder / "c.png", "inner.png")
    (folder / "notes.txt").write_text("text")
    (folder / "labels.csv").write_text("a,b")
    assert names(folder) == ["A.JPG", "b.png"]


def test_a_bad_field_keeps_its_place(tmp_path: Path) -> None:
    folder = film(tmp_path / "film", "1.png", "3.png", "5.png")
    (folder / "2.jpg").write_bytes(b"")
    (folder / "4.jpg").write_bytes(b"text")
    with open_camera(str(folder)) as camera:
        items = list(camera)
        assert camera.frame_count == 5
    assert [type(item) for item in items] == [Frame, SkippedFrame, Frame, SkippedFrame, Frame]
    assert [item.index for item in items] == [0, 1, 2, 3, 4]
    skipped = [item for item in items if isinstance(item, SkippedFrame)]
    assert [(item.name, item.reason) for item in skipped] == [
        ("2.jpg", "empty file (0 bytes)"),
        ("4.jpg", "not an image in a known format (JPEG, PNG, BMP, TIFF, WebP)"),
    ]


def test_a_field_that_vanishes_is_skipped(tmp_path: Path) -> None:
    folder = film(tmp_path / "film", "1.png", "2.png")
    with open_camera(str(folder)) as camera:
        items = iter(camera)
        next(items)
        (folder / "2.png").unlink()
        item = next(items)
    assert isinstance(item, SkippedFrame)
    assert "cannot be read" in item.reason


def test_one_image_is_a_film_of_one_field(tmp_path: Path) -> None:
    field = paint_field(50, 40, [(20, 20, 10)])
    path = write_image(tmp_path / "field.png", field)
    with open_camera(str(path), limit=5) as camera:
        assert camera.frame_count == 1
        (frame,) = list(camera)
    assert isinstance(frame, Frame)
    assert np.array_equal(frame.pixels, field)
    assert frame.name == "field.png"
    assert frame.pixel_size_um is None


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert "no image in it" in message
    assert ".jpg" in message


def test_a_folder_of_folders_names_the_one_to_take(tmp_path: Path) -> None:
    (tmp_path / "a-empty").mkdir()
    film(tmp_path / "test", "1.png")
    assert "'test'; give that one" in refusal(tmp_path)


def test_a_folder_of_empty_folders_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert "known endings" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name", ["absent", "absent/inner.jpg", "x" * 300, "~nobody-of-that-name/x"]
)
def test_a_source_that_is_not_there_is_told(tmp_path: Path, name: str) -> None:
    refusal(name if name.startswith("~") else tmp_path / name)


def test_a_folder_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path) -> Iterator[Path]:
        raise PermissionError(13, os.strerror(13), str(self))

    monkeypatch.setattr(Path, "iterdir", denied)
    assert "Permission denied" in refusal(tmp_path)


def test_an_inner_folder_that_may_not_be_read_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    listed = Path.iterdir

    def denied(self: Path) -> Iterator[Path]:
        if self.name == "locked":
            raise PermissionError(13, os.strerror(13), str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", denied)
    assert "no image in it" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["film.txt", "film", "film.jpg.bak"])
def test_an_unknown_ending_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    message = refusal(tmp_path / name)
    assert ".jpg" in message
    assert ".mp4" in message


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_without_a_field_is_told(tmp_path: Path, limit: int) -> None:
    assert str(limit) in refusal(film(tmp_path / "film", "1.png"), limit)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG video")
    for number in range(6):
        field = paint_field(64, 48, [(10 + 8 * number, 24, 12)])
        writer.write(cv2.cvtColor(field, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_a_video_gives_its_frames_in_order(video: Path) -> None:
    with open_camera(str(video)) as camera:
        assert camera.frame_count == 6
        frames = [item for item in camera if isinstance(item, Frame)]
    assert [frame.name for frame in frames] == [f"film.avi#{n:06d}" for n in range(6)]
    for number, frame in enumerate(frames):
        # The disc moves to the right: purple has little green.
        columns = frame.pixels[:, :, 1].mean(axis=0)
        assert abs(int(columns.argmin()) - (10 + 8 * number)) <= 3


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_a_video_that_breaks_off_says_so(video: Path, share: float) -> None:
    whole = video.read_bytes()
    video.write_bytes(whole[: int(share * len(whole))])
    with open_camera(str(video)) as camera:
        assert camera.frame_count == 6
        *frames, last = list(camera)
    assert 1 <= len(frames) < 6
    assert isinstance(last, SkippedFrame)
    assert last.reason == f"the video ends after {len(frames)} of 6 declared frames"


def test_a_video_without_its_second_half_is_refused(video: Path) -> None:
    video.write_bytes(video.read_bytes()[:3000])
    assert "not a readable video" in refusal(video)


@pytest.mark.parametrize("content", [b"", b"no video", bytes(5000)])
@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_what_is_no_video_is_told(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"film{suffix}"
    path.write_bytes(content)
    assert "not a readable video" in refusal(path)


class _Capture:
    """A container that promises ``declared`` frames and holds ``real`` ones."""

    def __init__(self, declared: float, real: int) -> None:
        self.declared, self.left = declared, real

    def isOpened(self) -> bool:  # noqa: N802  OpenCV's name
        return True

    def get(self, what: int) -> float:
        return self.declared

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return (True, paint_field(40, 40)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.left = 0


@pytest.mark.parametrize(
    ("declared", "real", "limit", "promised", "frames", "skipped"),
    [
        (5, 5, None, 5, 5, 0),
        (5, 3, None, 5, 3, 1),
        (5, 3, 3, 3, 3, 0),
        (5, 5, 2, 2, 2, 0),
        (0, 4, None, None, 4, 0),
        (-1, 4, 2, None, 2, 0),
        (-9.2e18, 4, None, None, 4, 0),
    ],
)
def test_a_containers_promise_is_checked(
    declared: float,
    real: int,
    limit: int | None,
    promised: int | None,
    frames: int,
    skipped: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: _Capture(declared, real))
    (tmp_path / "film.mp4").write_bytes(b"x")
    with open_camera(str(tmp_path / "film.mp4"), limit=limit) as camera:
        assert camera.frame_count == promised
        items = list(camera)
    assert sum(isinstance(item, Frame) for item in items) == frames
    reasons = [item.reason for item in items if isinstance(item, SkippedFrame)]
    assert len(reasons) == skipped
    if skipped:
        assert reasons == ["the video ends after 3 of 5 declared frames"]


def test_a_video_without_a_frame_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: _Capture(9, 0))
    (tmp_path / "film.mp4").write_bytes(b"x")
    with (
        open_camera(str(tmp_path / "film.mp4")) as camera,
        pytest.raises(CameraError, match="no frame can be decoded"),
    ):
        list(camera)
