"""A source for every live row of the table, and the fake hardware it needs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest

from tests.fake_cameras import PERIOD_S, Hardware, fake_picamera2, fake_video_capture
from tests.support import paint_field, write_image

_FILM = "@FILM@"


@dataclass(frozen=True)
class LiveSource:
    """One live row.

    Attributes:
        source: as a person writes it, but for paths; see ``written``.
        has_cable: somebody could pull it.
        settles: its automatic chooses the light when it is first opened.
        still: size of its stills, where it is another than the stream's.
    """

    name: str
    source: str
    has_cable: bool = True
    settles: bool = False
    still: tuple[int, int] | None = None


LIVE_SOURCES = [
    LiveSource(
        "v4l2",
        f"v4l2:{_FILM}/video0?width=320&height=240&still=800x600",
        settles=True,
        still=(800, 600),
    ),
    LiveSource("picamera", "picamera:0?width=328&height=248", settles=True),
    LiveSource("gstreamer", "gstreamer:csi?width=320&height=240&exposure_ms=8&gain=2"),
    LiveSource("paced", f"paced:{round(1 / PERIOD_S)}:{_FILM}", has_cable=False),
]


def written(made: LiveSource, folder: Path) -> str:
    """The source with its paths."""
    return made.source.replace(_FILM, str(folder))


def plug_in_fake(made: LiveSource, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hardware:
    """Puts the fake behind ``made`` where the real one would be."""
    hardware = Hardware()
    write_image(folder / "field.png", paint_field(320, 240, [(90, 80, 40)]))
    (folder / "video0").touch()
    if made.name in ("v4l2", "gstreamer"):
        monkeypatch.setattr(cv2, "VideoCapture", fake_video_capture(hardware))
        monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: True)
    elif made.name == "picamera":
        monkeypatch.setitem(sys.modules, "picamera2", fake_picamera2(hardware))
        # It waits for a request so long that a test should not.
        monkeypatch.setattr("edge_runtime.cameras.picamera._LATE_S", 0.3)
    return hardware
