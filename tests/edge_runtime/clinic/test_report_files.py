"""film.json, cells.csv and frames: what is in them, and that a bad disk cannot spoil them."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_runtime.clinic.html_report import HtmlSink
from edge_runtime.clinic.report_files import (
    CSV_COLUMNS,
    CsvSink,
    FramesSink,
    JsonSink,
    frame_file_name,
    report_sinks,
)
from edge_runtime.errors import StoreError
from edge_runtime.film_report import StageTiming, film_json_schema, film_json_schema_text
from edge_runtime.sinks import Sink
from edge_runtime.types import CellFinding, FieldResult

PUBLISHED_SCHEMA = Path(__file__).parents[3] / "docs" / "reference" / "film.schema.json"
FILE_SINKS: list[tuple[Callable[[Path], Sink], str]] = [
    (JsonSink, "film.json"),
    (CsvSink, "cells.csv"),
    (HtmlSink, "report.html"),
]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_film_json_obeys_its_schema(film: Any, tmp_path: Path) -> None:
    film.through(JsonSink(tmp_path))
    document = json.loads((tmp_path / "film.json").read_bytes())
    validator = jsonschema.Draft202012Validator(film_json_schema())
    validator.check_schema(film_json_schema())
    validator.validate(document)
    del document["cells"][0]["score"]
    assert not validator.is_valid(document)


def test_film_json_holds_the_film(film: Any, tmp_path: Path) -> None:
    film.through(JsonSink(tmp_path))
    document = json.loads((tmp_path / "film.json").read_bytes())
    report = film.report()
    assert list(document) == list(type(report).model_fields)
    assert [field["name"] for field in document["fields"]] == [
        "a.jpg",
        "b.jpg",
        "broken.jpg",
        "c.jpg",
    ]
    assert document["fields"][2]["reason"] == "truncated JPEG"
    assert document["cells"][0] == {
        "field": 0,
        "box_xyxy": [10.0, 20.0, 40.12, 60.5],
        "score": 0.91,
        "class_name": "wbc",
        "best_class": None,
        "class_probability": None,
        "class_probabilities": None,
        "attributes": None,
        "place": None,
    }
    assert document["cells"][2]["score"] == 0.987654
    assert document["totals"] == report.totals.model_dump()
    assert document["timings"][0]["p50_ms"] == 38.612


def test_equal_films_give_equal_bytes(film: Any, tmp_path: Path) -> None:
    film.changes = {"settings": {"b": {"y": 1, "x": 2}, "a": 3}}
    film.through(JsonSink(tmp_path / "one"))
    film.changes = {"settings": {"a": 3, "b": {"x": 2, "y": 1}}}
    film.through(JsonSink(tmp_path / "two"))
    first = (tmp_path / "one" / "film.json").read_bytes()
    assert first == (tmp_path / "two" / "film.json").read_bytes()


def test_an_empty_film_is_a_valid_document(make_film: Callable[[], Any], tmp_path: Path) -> None:
    film = make_film()
    film.changes = {"timings": []}
    film.through(JsonSink(tmp_path))
    document = json.loads((tmp_path / "film.json").read_bytes())
    jsonschema.validate(document, film_json_schema())
    assert document["fields"] == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_know_is_refused_and_named(
    film: Any, tmp_path: Path, value: float
) -> None:
    (tmp_path / "film.json").write_text("old")
    film.changes = {
        "timings": [StageTiming(stage="read", count=0, p50_ms=1.0, p95_ms=value, p99_ms=1.0)]
    }
    with pytest.raises(StoreError, match=r"timings\[0\]\.p95_ms"):
        film.through(JsonSink(tmp_path))
    assert (tmp_path / "film.json").read_text() == "old"


def test_a_file_name_that_is_no_utf8_is_written(
    make_film: Callable[[], Any], tmp_path: Path
) -> None:
    film = make_film()
    film.add(os.fsdecode(b"caf\xe9 \xc3\xa9.jpg"), [0.9])
    for sink in report_sinks(tmp_path, save_frames=True):
        film.through(sink)
    document = json.loads((tmp_path / "film.json").read_bytes().decode("utf-8"))
    assert document["fields"][0]["name"] == "caf\ufffd é.jpg"
    assert "caf\ufffd é.jpg" in (tmp_path / "cells.csv").read_bytes().decode("utf-8")
    assert "caf\ufffd é.jpg" in (tmp_path / "report.html").read_bytes().decode("utf-8")


def test_the_published_schema_is_up_to_date() -> None:
    assert PUBLISHED_SCHEMA.read_text(encoding="utf-8") == film_json_schema_text()


def test_the_documented_command_prints_the_schema() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "edge_runtime.film_report"],
        cwd=PUBLISHED_SCHEMA.parents[2],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert printed.stdout.decode("utf-8") == film_json_schema_text()


def test_cells_csv_has_one_row_per_cell(film: Any, tmp_path: Path) -> None:
    film.through(CsvSink(tmp_path))
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(r["field"], r["field_name"], r["cell"], r["score"]) for r in rows] == [
        ("0", "a.jpg", "1", "0.91"),
        ("0", "a.jpg", "2", "0.55"),
        ("3", "c.jpg", "1", "0.987654"),
    ]
    assert [rows[0][side] for side in ("x1", "y1", "x2", "y2")] == ["10.0", "20.0", "40.12", "60.5"]


def test_cells_csv_of_a_film_without_cells_is_its_heading(
    make_film: Callable[[], Any], tmp_path: Path
) -> None:
    film = make_film()
    film.add("empty.jpg")
    film.through(CsvSink(tmp_path))
    assert (tmp_path / "cells.csv").read_bytes() == ",".join(CSV_COLUMNS).encode() + b"\r\n"


@pytest.mark.parametrize("name", ["=cmd()|'x'!A1.jpg", "+1.jpg", "-1.jpg", "@a.jpg"])
def test_no_name_runs_as_a_formula(make_film: Callable[[], Any], tmp_path: Path, name: str) -> None:
    film = make_film()
    film.add(name, [0.9])
    film.through(CsvSink(tmp_path))
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["field_name"] == f"'{name}"


def test_a_name_with_comma_quote_and_line_break_stays_one_value(
    make_film: Callable[[], Any], tmp_path: Path
) -> None:
    film = make_film()
    film.add('a,"b"\nc.jpg', [0.9])
    film.through(CsvSink(tmp_path))
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["field_name"] for row in rows] == ['a,"b"\nc.jpg']


def test_frames_keep_their_bytes_under_safe_unique_names(
    make_film: Callable[[], Any], tmp_path: Path
) -> None:
    film = make_film()
    names = ["one/a.png", "two/a.png", "A.jpg", "../../etc/passwd", "..", "ü ß.jpg", "x" * 300]
    for name in names:
        film.add(name)
    film.through(FramesSink(tmp_path))
    written = {path.name: path.read_bytes() for path in (tmp_path / "frames").iterdir()}
    assert set(written) == {
        "a.jpg",
        "a-1.jpg",
        "A-2.jpg",
        "passwd.jpg",
        "field.jpg",
        "field-5.jpg",
        "x" * 80 + ".jpg",
    }
    assert written["a-1.jpg"] == film.results[1].frame_jpeg
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_a_frame_name_that_looks_like_a_resolved_clash_is_not_overwritten() -> None:
    assert frame_file_name("a.jpg", 1, {"a.jpg", "a-1.jpg"}) == "a-2.jpg"


def test_a_field_without_its_frame_is_a_fault_of_the_caller(tmp_path: Path) -> None:
    sink = FramesSink(tmp_path)
    sink.start()
    cells: tuple[CellFinding, ...] = ()
    with pytest.raises(ValueError, match="frame_jpeg"):
        sink.append(FieldResult(0, "a.jpg", 4, 4, cells, b"", 1.0, 1))


def test_report_sinks_save_frames_only_when_asked(film: Any, tmp_path: Path) -> None:
    for sink in report_sinks(tmp_path / "plain", save_frames=False):
        film.through(sink)
    for sink in report_sinks(tmp_path / "frames", save_frames=True):
        film.through(sink)
    files = {"film.json", "cells.csv", "report.html"}
    assert {path.name for path in (tmp_path / "plain").iterdir()} == files
    assert {path.name for path in (tmp_path / "frames").iterdir()} == files | {"frames"}
    assert len(list((tmp_path / "frames" / "frames").iterdir())) == len(film.results)


@pytest.mark.parametrize(("sink", "name"), FILE_SINKS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_report(
    film: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sink: Callable[[Path], Sink],
    name: str,
    call: str,
) -> None:
    (tmp_path / name).write_text("the old report")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(StoreError) as caught:
        film.through(sink(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / name) in message
    assert "No space left" in message
    assert "free some space" in message
    assert (tmp_path / name).read_text() == "the old report"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' full device")
@pytest.mark.parametrize(("sink", "name"), FILE_SINKS)
def test_a_disk_that_fills_up_while_writing_keeps_the_old_report(
    film: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sink: Callable[[Path], Sink],
    name: str,
) -> None:
    (tmp_path / name).write_text("the old report")
    made = sink(tmp_path)
    made.start()
    really_open = Path.open
    # The kernel's own "no space left", in the middle of the writing.
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", *a, **k: really_open(
            Path("/dev/full") if path.suffix == ".part" else path,
            mode.replace("x", "w"),
            *a,
            **k,
        ),
    )
    with pytest.raises(StoreError, match="No space left"):
        made.finish(film.report())
    assert (tmp_path / name).read_text() == "the old report"


@pytest.mark.parametrize("sink", [JsonSink, CsvSink, HtmlSink, FramesSink])
def test_a_file_in_place_of_the_folder_is_refused_at_the_start(
    tmp_path: Path, sink: Callable[[Path], Sink]
) -> None:
    (tmp_path / "out").write_text("in the way")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(StoreError, match=r"out.*a file is in the way.*--out"):
            sink(out).start()


@pytest.mark.parametrize("sink", [JsonSink, CsvSink, HtmlSink, FramesSink])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: Callable[[Path], Sink], code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StoreError, match=f"{os.strerror(code)}.*may write to"):
        sink(tmp_path).start()


@pytest.mark.parametrize(("sink", "name"), FILE_SINKS)
def test_a_folder_in_place_of_a_file_is_refused_at_the_start(
    tmp_path: Path, sink: Callable[[Path], Sink], name: str
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StoreError, match="a folder is in the way"):
        sink(tmp_path).start()


def test_start_leaves_nothing_behind_and_makes_parents(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    for sink in report_sinks(out, save_frames=False):
        sink.start()
    assert list(out.iterdir()) == []


def test_a_full_disk_during_the_film_names_the_frame(
    film: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FramesSink(tmp_path)
    sink.start()
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(StoreError, match=r"frames/a\.jpg"):
        sink.append(film.results[0])
    assert list((tmp_path / "frames").iterdir()) == []
