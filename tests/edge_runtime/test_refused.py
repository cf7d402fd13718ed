"""Refused frames become few entries, and their number stays."""

from __future__ import annotations

from edge_runtime.refused import RefusedFrames
from edge_runtime.types import SkippedFrame


def refused(index: int, kind: str) -> SkippedFrame:
    return SkippedFrame(index, f"f{index}", f"{kind} ({index} px): do it", kind)


def test_an_hour_out_of_focus_is_some_hundred_entries() -> None:
    now = 0.0
    frames = RefusedFrames(lambda: now)
    entries: list[SkippedFrame] = []
    for index in range(36_000):
        now = 0.1 * index
        frames.add(refused(index, "out of focus" if index % 3 else "in motion"))
        entries += frames.due()
        assert sum(each.frames for each in entries) + frames.frames == index + 1
    entries += frames.all()
    assert len(entries) < 300
    by_kind = {
        kind: sum(each.frames for each in entries if each.refusal == kind)
        for kind in ("in motion", "out of focus")
    }
    assert by_kind == {"in motion": 12_000, "out of focus": 24_000}
    assert [each.index for each in entries] == sorted({each.index for each in entries})


def test_an_entry_is_the_first_of_its_frames() -> None:
    frames = RefusedFrames(lambda: 0.0)
    for index in (4, 5, 6):
        frames.add(refused(index, "too dark"))
    (entry,) = frames.all()
    assert entry == SkippedFrame(4, "f4", "too dark (4 px): do it", "too dark", 3)
    assert frames.all() == []


def test_the_first_entry_comes_soon_again_after_a_good_field() -> None:
    now = 0.0
    frames = RefusedFrames(lambda: now)
    waited = []
    for index in range(4):
        frames.add(refused(index, "too dark"))
        began = now
        while not frames.due():
            now += 0.5
        waited.append(now - began)
    assert waited == [1.0, 2.0, 4.0, 8.0]
    frames.all()
    frames.add(refused(9, "too dark"))
    now += 1.0
    assert len(frames.due()) == 1
