"""How live sources are spelt, what they make of it, and what the list of cameras shows."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from edge_runtime.cameras import FoundCamera, gstreamer, open_camera, paced, picamera, v4l2
from edge_runtime.cameras.cli import app
from edge_runtime.cameras.device import WishedLight
from edge_runtime.errors import CameraError
from edge_runtime.types import Frame
from tests.contracts.live_sources import LIVE_SOURCES, plug_in_fake, written
from tests.fake_cameras import AUTOMATIC, BY_HAND


def test_a_whole_v4l2_source() -> None:
    wish = v4l2.parse_source(
        "v4l2:/dev/v4l/by-id/usb-x?width=1280&height=720&fps=30&still=4000x3000&format=YUYV"
        "&exposure_ms=12.5&gain=0&white_balance_k=4600"
    )
    light = WishedLight(12.5, 0.0, 4600.0)
    assert wish == v4l2.V4l2Wish(
        "/dev/v4l/by-id/usb-x", (1280, 720), 30.0, (4000, 3000), "YUYV", light
    )
    assert v4l2.parse_source("v4l2").path == "/dev/video0"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("v4l2:/dev/video0?width=1280", "both width and height"),
        ("v4l2:/dev/video0?widht=1280&height=720", "both width and height|unknown option"),
        ("v4l2:/dev/video0?zoom=2", "unknown option 'zoom'; known: width"),
        ("v4l2:/dev/video0?width=&height=720", "no value"),
        ("v4l2:/dev/video0?still=4000", "WIDTHxHEIGHT"),
        ("v4l2:/dev/video0?still=4000x99999999999999999999", "WIDTHxHEIGHT"),
        ("v4l2:/dev/video0?width=1&height=1", "from 16"),
        ("v4l2:/dev/video0?exposure_ms=nan", "exposure_ms = 'nan'"),
        ("v4l2:/dev/video0?gain=1&gain=2", "given twice"),
        ("v4l2:/dev/video0?format=H264", "one of MJPG, YUYV"),
        ("picamera:left", "not a number"),
        ("picamera:0?red_gain=2", "both red_gain and blue_gain"),
        ("gstreamer:usb", "no profile 'usb'"),
        ("gstreamer:csi?white_balance=auto", "white_balance"),
        ("paced:10", r"paced:FPS\[xHELD\]"),
        ("paced:0:virtual", r"paced:FPS\[xHELD\]"),
        ("paced:10x0:virtual", r"paced:FPS\[xHELD\]"),
        ("paced:10:paced:10:virtual", "live camera already"),
    ],
)
def test_a_malformed_source_is_refused_in_one_line(
    source: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for made in LIVE_SOURCES:
        plug_in_fake(made, tmp_path, monkeypatch)
    monkeypatch.setattr("edge_runtime.cameras.virtual.VirtualFilm.build", None)
    if source.startswith("paced:10:paced"):
        source = f"paced:10:paced:10:{tmp_path}"
    with pytest.raises(CameraError, match=said) as told:
        open_camera(source)
    assert "\n" not in str(told.value)


def test_the_jetsons_pipeline() -> None:
    wish = gstreamer.parse_source(
        "gstreamer:csi?sensor=1&width=1920&height=1080&fps=30&exposure_ms=8&gain=2"
        "&white_balance=daylight"
    )
    assert wish.pipeline == (
        'nvarguscamerasrc sensor-id=1 exposuretimerange="8000000 8000000" gainrange="2 2" '
        'ispdigitalgainrange="1 1" aelock=true wbmode=5 awblock=true ! '
        "video/x-raw(memory:NVMM), width=(int)1920, height=(int)1080, format=(string)NV12, "
        "framerate=(fraction)30/1 ! nvvidconv flip-method=0 ! "
        "video/x-raw, format=(string)BGRx ! videoconvert ! "
        "video/x-raw, format=(string)BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    assert wish.locked == ("exposure", "gain", "white_balance")
    assert wish.not_locked == {}


def test_what_is_not_given_is_not_said_to_be_locked() -> None:
    wish = gstreamer.parse_source("gstreamer:csi")
    assert wish.locked == ()
    assert set(wish.not_locked) == {"exposure", "gain", "white_balance"}
    assert "aelock" not in wish.pipeline


_BGR = "videoconvert ! video/x-raw, format=BGR"


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ("appsink", "drop=its default"),
        ("appsink drop=true sync=false", "max-buffers=its default"),
        ("appsink drop=true max-buffers=4 sync=false", "max-buffers=4"),
        ("appsink drop=false max-buffers=1 sync=false", "drop=false"),
        ("appsink drop=true max-buffers=1", "sync=its default"),
        ("autovideosink", "ends in autovideosink"),
    ],
)
def test_a_pipeline_that_would_hand_over_old_pictures_is_refused(sink: str, said: str) -> None:
    with pytest.raises(CameraError, match=said):
        gstreamer.parse_source(f"gstreamer:v4l2src ! {_BGR} ! {sink}")


def test_a_whole_pipeline_of_ones_own() -> None:
    text = f'v4l2src extra-controls="c,hint=what!" ! {_BGR} ! appsink drop=1 sync=0 max-buffers=1'
    assert gstreamer.parse_source(f"gstreamer:{text}").pipeline == text
    with pytest.raises(CameraError, match="BGR"):
        gstreamer.parse_source(f"gstreamer:v4l2src ! videoconvert ! {gstreamer.SINK}")


def test_the_format_is_set_before_the_size_and_the_light_after_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = LIVE_SOURCES[0]
    hardware = plug_in_fake(made, tmp_path, monkeypatch)
    source = f"v4l2:{tmp_path}/video0?width=800&height=600&exposure_ms=9&gain=3"
    with v4l2.open_camera(source, limit=1) as camera:
        (session,) = camera.sessions
        (frame,) = camera
    assert isinstance(frame, Frame)
    props = [prop for _, (prop, _) in hardware.log]
    first = {prop: props.index(prop) for prop in set(props)}
    order = [
        cv2.CAP_PROP_FOURCC,
        cv2.CAP_PROP_FRAME_WIDTH,
        cv2.CAP_PROP_FRAME_HEIGHT,
        cv2.CAP_PROP_EXPOSURE,
    ]
    assert sorted(order, key=lambda prop: first[prop]) == order
    # Uncompressed, this camera has no such size.
    assert (frame.width, frame.height, session.pixel_format) == (800, 600, "MJPG")
    assert (session.exposure_ms, session.gain, session.clock) == (9.0, 3.0, "driver")
    modes = [value for _, (prop, value) in hardware.log if prop == cv2.CAP_PROP_AUTO_EXPOSURE]
    assert modes == [BY_HAND]
    assert AUTOMATIC not in modes


def test_a_size_that_the_camera_does_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug_in_fake(LIVE_SOURCES[0], tmp_path, monkeypatch)
    camera = v4l2.open_camera(f"v4l2:{tmp_path}/video0?width=800&height=600&format=YUYV")
    with pytest.raises(CameraError, match="gives 640 x 480, not 800 x 600, in YUYV"), camera:
        pass


def test_a_camera_without_manual_exposure_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hardware = plug_in_fake(LIVE_SOURCES[0], tmp_path, monkeypatch)
    hardware.without = {cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_WB_TEMPERATURE}
    with v4l2.open_camera(f"v4l2:{tmp_path}/video0", limit=1) as camera:
        (session,) = camera.sessions
    assert "automatic cannot be switched off" in session.not_locked["exposure"]
    assert "does not tell" in session.not_locked["white_balance"]
    assert session.locked == ()


def test_video_devices_by_the_name_that_stays(tmp_path: Path) -> None:
    classes, links = tmp_path / "classes", tmp_path / "links"
    links.mkdir()
    for name, index in (("video0", "0"), ("video1", "1"), ("video10", "0"), ("video2", "0")):
        (classes / name).mkdir(parents=True)
        (classes / name / "index").write_text(f"{index}\n")
        (classes / name / "name").write_text(f"USB camera {name}\n")
    (links / "usb-maker-index0").symlink_to("/dev/video2")
    found = v4l2.find_cameras(classes, links)
    assert [(each.source, each.name) for each in found] == [
        ("v4l2:/dev/video0", "USB camera video0"),
        (f"v4l2:{links}/usb-maker-index0", "USB camera video2"),
        ("v4l2:/dev/video10", "USB camera video10"),
    ]


def test_what_cannot_work_here_says_what_is_missing() -> None:
    # The tests' OpenCV is PyPI's, and this is no Raspberry Pi.
    assert "GStreamer" in (gstreamer.unsupported_reason() or "")
    assert "apt install python3-picamera2" in (picamera.unsupported_reason() or "")
    with pytest.raises(CameraError, match="built without GStreamer"):
        open_camera("gstreamer:csi")


def test_the_list_of_cameras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = next(each for each in LIVE_SOURCES if each.name == "picamera")
    plug_in_fake(made, tmp_path, monkeypatch)
    plug_in_fake(LIVE_SOURCES[-1], tmp_path, monkeypatch)
    here = FoundCamera(written(LIVE_SOURCES[-1], tmp_path), "a field")
    monkeypatch.setattr(paced, "find_cameras", lambda: [here])
    answer = CliRunner().invoke(app, ["--open"])
    assert answer.exit_code == 0, answer.output
    assert "picamera   picamera:0  imx477" in answer.output
    assert "locked: exposure, gain, white_balance" in answer.output
    assert "built without GStreamer" in answer.output
