"""What every sink of a film report must keep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.clinic.report_files import report_sinks
from edge_runtime.errors import StoreError
from edge_runtime.film_report import (
    BackendRecord,
    BundleRecord,
    CellRecord,
    FieldRecord,
    FilmReport,
    FilmState,
    ModelCardSummary,
    TotalsRecord,
)
from edge_runtime.postprocess import encode_jpeg
from edge_runtime.sinks import Sink
from edge_runtime.types import CellFinding, FieldResult, SkippedFrame
from tests.support import paint_field

SINKS = [type(sink).__name__ for sink in report_sinks(Path(), save_frames=True)]
SKIPPED = SkippedFrame(1, "field_2.jpg", "empty file (0 bytes)")


def sink_of(name: str, out: Path) -> Sink:
    return next(s for s in report_sinks(out, save_frames=True) if type(s).__name__ == name)


def result() -> FieldResult:
    jpeg = encode_jpeg(paint_field(64, 48, [(30, 24, 20)]), quality=80)
    cell = CellFinding((20.0, 14.0, 40.0, 34.0), 0.9, "wbc", jpeg)
    return FieldResult(0, "field_1.jpg", 64, 48, (cell,), jpeg, 1.0, 1, jpeg)


def report(state: FilmState, *, empty: bool = False) -> FilmReport:
    fields = [
        FieldRecord(
            index=0,
            name="field_1.jpg",
            width=64,
            height=48,
            skipped=False,
            reason=None,
            cells=1,
            tiles=1,
        ),
        FieldRecord(
            index=1,
            name=SKIPPED.name,
            width=None,
            height=None,
            skipped=True,
            reason=SKIPPED.reason,
            cells=0,
            tiles=0,
        ),
    ]
    cell = CellRecord(field=0, box_xyxy=(20.0, 14.0, 40.0, 34.0), score=0.9, class_name="wbc")
    n = 0 if empty else 1
    return FilmReport(
        state=state,
        source="film",
        started_at="2026-01-01T12:00:00+00:00",
        duration_s=1.0,
        leukoscope_version="0",
        bundle=BundleRecord(id="toy-0.1.0", sha256="0" * 64),
        backend=BackendRecord(
            name="toy", version="0", device="CPU", precision="float32", artifact="a", threads=1
        ),
        model_card=ModelCardSummary(title="t", summary="s", limits=[], licence="l", metrics={}),
        settings={},
        fields=[] if empty else fields,
        cells=[] if empty else [cell],
        totals=TotalsRecord(fields=n, fields_skipped=n, cells=n, cells_by_class={"wbc": n}),
        timings=[],
    )


def append_and_finish(sink: Sink) -> None:
    sink.append(result())
    sink.finish(report("complete"))


def left_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", SINKS)
@pytest.mark.parametrize("state", ["complete", "interrupted"])
def test_a_film_leaves_whole_files_and_nothing_else(
    name: str, state: FilmState, tmp_path: Path
) -> None:
    out = tmp_path / "not" / "yet"
    sink = sink_of(name, out)
    sink.start()
    sink.append(result())
    sink.skip(SKIPPED)
    sink.finish(report(state))
    files = left_in(out)
    assert len(files) == 1
    assert not files[0].split("/")[-1].startswith(".")
    assert (out / files[0]).stat().st_size > 0


@pytest.mark.parametrize("name", SINKS)
def test_a_film_without_a_field_is_no_error(name: str, tmp_path: Path) -> None:
    sink = sink_of(name, tmp_path)
    sink.start()
    sink.finish(report("interrupted", empty=True))


@pytest.mark.parametrize("name", SINKS)
def test_a_file_in_the_way_is_told_before_the_film_starts(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="file is in the way") as refusal:
        sink_of(name, tmp_path / "out").start()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", SINKS)
def test_a_second_film_takes_the_place_of_the_first(name: str, tmp_path: Path) -> None:
    for state in ("complete", "interrupted"):
        sink = sink_of(name, tmp_path)
        sink.start()
        sink.append(result())
        sink.finish(report(state))
    assert len(left_in(tmp_path)) == 1


@pytest.mark.parametrize("name", SINKS)
def test_a_full_disk_is_a_store_error_and_the_old_report_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sink_of(name, tmp_path)
    first.start()
    first.append(result())
    first.finish(report("complete"))
    before = {file: (tmp_path / file).read_bytes() for file in left_in(tmp_path)}

    def full(*args: object) -> None:
        raise OSError(28, os.strerror(28))

    second = sink_of(name, tmp_path)
    second.start()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left") as refusal:
        append_and_finish(second)
    assert "free some space" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    after = {file: (tmp_path / file).read_bytes() for file in left_in(tmp_path)}
    assert before == {file: after[file] for file in before}
    assert not [file for file in after if file.endswith(".part")]
