"""A guide in the runner: refused fields, the operator's picture, the camera's own profile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edge_runtime.cameras import Camera, is_moved, shows_motion
from edge_runtime.cameras.paced import PacedDevice
from edge_runtime.cameras.paced import open_camera as open_paced
from edge_runtime.cameras.replay import FolderCamera
from edge_runtime.cameras.watchdog import Patience, WatchedCamera
from edge_runtime.errors import SettingsError
from edge_runtime.film.camera_profile import (
    CameraProfile,
    profile_folder,
    profile_of,
    save_profile,
)
from edge_runtime.film.gate import FieldGate, GateVerdict
from edge_runtime.film.guide import FilmGuide
from edge_runtime.film.tally import RunningTally
from edge_runtime.film_run import guide_for
from edge_runtime.pipeline import FilmRunner
from edge_runtime.types import Detections, Frame, RunStatus, SkippedFrame, UInt8Image
from tests.edge_runtime.test_pipeline import SETUP, FakeDetector, RecordingSink
from tests.support import paint_field, write_image

SHARP = paint_field(320, 240, [(60, 60, 30), (200, 120, 34), (120, 180, 28)], seed=4)
DARK = np.asarray(SHARP // 6, np.uint8)


class Pictures:
    """A camera of these, one of which cannot be read."""

    frame_count = None

    def __init__(self, *pixels: UInt8Image | None) -> None:
        self._pixels = pixels

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        for index, each in enumerate(self._pixels):
            if each is None:
                yield SkippedFrame(index, f"f{index}", "broken")
            else:
                yield Frame(index, 0, each, f"f{index}")


def profile_for(source: str, name: str = "scope", **more: Any) -> CameraProfile:
    values = {"made_at": "2026-07-01T10:00:00+00:00", "width": 320, "height": 240} | more
    return CameraProfile(name=name, source=source, **values)


def runner_of(camera: object, guide: FilmGuide, detector: FakeDetector, **more: Any) -> FilmRunner:
    return FilmRunner(
        camera=cast(Camera, camera),
        detector=cast(Any, detector),
        setup=SETUP,
        guide=guide,
        **cast(dict[str, Any], {"streams": 2, "sinks": ()} | more),
    )


def lenient() -> CameraProfile:
    """Only light is judged."""
    limits = {"blur_um": 99.0, "blur_share": 1.0, "smear": 99.0, "stained_least": 0.0}
    return profile_for("x", limits=limits | {"slope_least": 0.0, "stained_most": 1.0})


def test_a_refused_field_is_skipped_with_its_reason_and_never_examined() -> None:
    seen: list[tuple[int, str | None]] = []
    statuses, sink, detector = list[RunStatus](), RecordingSink(), FakeDetector()

    def on_frame(frame: Frame, verdict: GateVerdict | None) -> None:
        assert verdict is not None
        seen.append((frame.index, verdict.refusal))

    profile = lenient()
    report = runner_of(
        Pictures(SHARP, DARK, None, SHARP, DARK),
        FilmGuide(gate=FieldGate(profile), profile=profile),
        detector,
        sinks=(sink,),
        on_status=statuses.append,
        on_frame=on_frame,
    ).run()
    assert seen == [(0, None), (1, "too dark"), (3, None), (4, "too dark")]
    assert sorted(detector.seen) == [0, 3]
    assert [each.index for each in sink.skipped] == [1, 2, 4]
    assert "too dark (light" in sink.skipped[0].reason
    assert "turn up the lamp" in sink.skipped[0].reason
    assert report.gate is not None
    assert (report.gate.judged, report.gate.refused) == (4, {"too dark": 2})
    assert report.gate.profile == "scope"
    # Without a mosaic every find counts, as always.
    assert report.mosaic is None
    assert report.totals.cells == len(report.cells) == 2
    told = statuses[-1].guidance
    assert told is not None
    assert told.gate is not None
    assert told.gate.refusal == "too dark"
    assert told.cells_counted == statuses[-1].cells_found == 2


def test_every_frame_is_shown_also_without_a_guide() -> None:
    seen: list[tuple[int, GateVerdict | None]] = []
    FilmRunner(
        camera=cast(Camera, Pictures(SHARP, DARK)),
        detector=cast(Any, FakeDetector()),
        streams=1,
        sinks=(),
        setup=SETUP,
        on_frame=lambda frame, verdict: seen.append((frame.index, verdict)),
    ).run()
    assert seen == [(0, None), (1, None)]


def test_a_live_cameras_refused_frames_are_skipped_too() -> None:
    profile, sink, detector = lenient(), RecordingSink(), FakeDetector()
    seen: list[int] = []

    def opened(before: object) -> PacedDevice:
        return PacedDevice([DARK, SHARP], 100)

    with WatchedCamera(
        opened, source="s", name="s", limit=12, patience=Patience(poll_s=0.01)
    ) as camera:
        report = runner_of(
            camera,
            FilmGuide(gate=FieldGate(profile), profile=profile),
            detector,
            streams=1,
            sinks=(sink,),
            on_frame=lambda frame, verdict: seen.append(frame.index),
        ).run()
    assert seen == list(range(12))
    assert report.gate is not None
    refused = report.gate.refused["too dark"]
    assert 0 < refused < 12
    assert len(sink.skipped) == refused == report.totals.fields_skipped
    assert len(detector.seen) == 12 - refused


def test_frames_get_the_size_of_their_pixels_from_the_profile() -> None:
    sizes: list[float | None] = []
    profile = lenient().model_copy(update={"pixel_size_um": 0.25})
    camera = Pictures(SHARP)
    runner_of(
        camera,
        FilmGuide(profile=profile),
        FakeDetector(),
        on_frame=lambda frame, verdict: sizes.append(frame.pixel_size_um),
    ).run()
    assert sizes == [0.25]
    own = Frame(0, 0, SHARP, "f", 0.5)
    assert FilmGuide(profile=profile).scaled(own) is own


def test_a_profile_of_another_size_ends_the_film_with_a_remedy() -> None:
    guide = FilmGuide(profile=profile_for("x", width=640))
    with pytest.raises(SettingsError, match=r"640 x 240.*320 x 240.*leukoscope setup camera"):
        runner_of(Pictures(SHARP), guide, FakeDetector()).run()


def test_every_find_counts_where_nothing_is_put_together() -> None:
    tally = RunningTally(["a", "b"], unclassified="u")
    guide = FilmGuide(tally=tally)
    found = Detections.joined([Detections.empty()])
    assert guide.take(Frame(0, 0, SHARP, "f"), found, []) is None
    two = Detections(
        np.array([[1, 1, 20, 20], [30, 30, 60, 60]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.zeros(2, np.int64),
    )
    for index in (1, 2):
        guide.take(Frame(index, 0, SHARP, "f"), two, ["a", "u"])
    told = guide.guidance()
    assert told.cells_counted == 4
    assert told.tally is not None
    assert (told.tally.differential.total, told.tally.differential.unclassified) == (2, 2)
    assert guide.finish() is None


def test_the_stored_profile_of_a_camera_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert profile_of("v4l2:/dev/video0") is None
    folder = profile_folder()
    assert folder == tmp_path / "leukoscope" / "cameras"
    for name, source, day in (
        ("old", "v4l2:/dev/video0", "01"),
        ("new", "v4l2:/dev/video0", "09"),
        ("large", "v4l2:/dev/video0?width=1920", "05"),
        ("other", "v4l2:/dev/video1", "20"),
    ):
        save_profile(profile_for(source, name, made_at=f"2026-07-{day}T10:00:00+00:00"), folder)

    def found(source: str) -> str | None:
        profile = profile_of(source)
        return None if profile is None else profile.name

    assert found("v4l2:/dev/video0") == "new"
    assert found("v4l2:/dev/video0?width=1920") == "large"
    assert found("v4l2:/dev/video0?height=480") == "new"
    assert found("v4l2:/dev/video10") is None
    (folder / "broken.toml").write_text("name = 1")
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        found("v4l2:/dev/video0")


class Hand:
    by_hand = True


def guided(camera: object, said: list[str], **flags: Any) -> FilmGuide | None:
    class Loaded:
        classifier = None

    return guide_for(
        cast(Camera, camera),
        cast(Any, Loaded()),
        SETUP.settings,
        source="scope:1",
        say=said.append,
        **flags,
    )


def test_a_film_is_guided_where_fields_overlap_and_where_a_person_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    said: list[str] = []
    assert guided(Pictures(), said) is None
    assert guided(Hand(), said, gate=False, mosaic=False) is None
    assert said == []
    by_hand = guided(Hand(), said)
    assert by_hand is not None
    assert by_hand.puts_together
    assert "nobody has set this camera up" in said.pop()
    only_gate = guided(Pictures(), said, gate=True)
    assert only_gate is not None
    assert not only_gate.puts_together
    said.clear()
    path = save_profile(profile_for("scope:1"), tmp_path / "elsewhere")
    named = guided(Pictures(), said, profile_file=path)
    assert named is not None
    verdict = named.judge(Frame(0, 0, DARK, "f"))
    assert verdict is not None
    assert verdict.refusal == "too dark"
    assert said == []


def test_motion_tells_only_of_a_stage_that_moves_while_pictures_come() -> None:
    def live(stepwise: bool) -> WatchedCamera:
        return WatchedCamera(
            lambda before: PacedDevice([SHARP], 1), source="s", name="s", stepwise=stepwise
        )

    moved = [is_moved(cast(Camera, each)) for each in (Pictures(), Hand(), live(False))]
    assert moved == [False, True, True]
    told = [shows_motion(cast(Camera, x)) for x in (Pictures(), Hand(), live(False), live(True))]
    assert told == [False, False, True, False]


def test_paced_pictures_overlap_where_those_of_their_source_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(2):
        write_image(tmp_path / f"{index}.png", SHARP)
    separate = open_paced(f"paced:10:{tmp_path}")
    assert not is_moved(separate)
    monkeypatch.setattr(FolderCamera, "by_hand", True, raising=False)
    assert is_moved(open_paced(f"paced:10:{tmp_path}"))
    assert not shows_motion(separate)


def test_paced_fields_are_held_and_shown_there_and_back(tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / f"{index}.png", SHARP // np.uint8(index + 1))
    for source, wanted in (
        (f"paced:200x2:{tmp_path}", [0, 0, 1, 1, 2, 2, 0, 0]),
        (f"paced:200:hand:{tmp_path}", [0, 1, 2, 1, 0, 1, 2, 1]),
        (f"paced:200x2:hand:{tmp_path}", [0, 0, 1, 1, 2, 2, 1, 1, 0]),
    ):
        camera = open_paced(source)
        assert is_moved(camera) == ("hand" in source)
        # Held fields are frames of one scene, single ones are jumps.
        assert shows_motion(camera) == ("x2" in source)
        device = cast(PacedDevice, camera._open_device(None))
        levels = [int(SHARP[0, 0, 0]) // (index + 1) for index in range(3)]
        shown = [levels.index(int(each[0, 0, 0])) for each in device._pictures]
        assert (shown * 2)[: len(wanted)] == wanted
