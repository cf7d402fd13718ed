"""The measurement of frame age: what it tells apart, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.frame_age import Overload, measure_frame_age
from edge_runtime.errors import SettingsError


def test_a_reader_that_keeps_the_newest_frame_is_told_from_those_that_queue() -> None:
    result = measure_frame_age(Overload(fps=100, inference_ms=40, seconds=1.6, size=(32, 24)))
    ours, driver, stream = result["rows"]
    names = [row["reader"] for row in result["rows"]]
    assert names == ["leukoscope", "fifo_driver", "fifo_stream"]
    assert all(row["frames"] > 8 for row in result["rows"])
    # Each frame waits for four others, or for all before it.
    assert ours["p50_ms"] < 0.7 * driver["p50_ms"]
    assert driver["last_ms"] < stream["last_ms"]
    # 40 ms of inference for each 10 ms of camera: three quarters of the time are made up never.
    assert 400 < stream["growth_ms_per_s"] < 1100
    assert ours["inference_p50_ms"] >= 40
    bound, grows = result["targets"]
    assert bound["at_most"] == pytest.approx(2 * ours["inference_p50_ms"] + 10, abs=0.1)
    assert bound["met"] == (ours["p99_ms"] <= bound["at_most"])
    assert grows["met"]


def test_the_command_writes_its_result(tmp_path: Path) -> None:
    out = tmp_path / "age.json"
    flags = ["--fps", "100", "--inference-ms", "90", "--seconds", "2", "--out", str(out)]
    answer = CliRunner().invoke(app, ["frame-age", *flags])
    document = json.loads(out.read_text())
    assert answer.exit_code == (0 if document["targets"][0]["met"] else 1), answer.output
    assert document["research_use"].startswith("For research use only")
    assert "fifo_stream" in answer.output


@pytest.mark.parametrize(
    "flags", [["--fps", "10", "--inference-ms", "50"], ["--inference-ms", "500", "--seconds", "5"]]
)
def test_what_is_no_overload_or_too_short_is_refused(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "age.json"
    answer = CliRunner().invoke(app, ["frame-age", *flags, "--out", str(out)])
    assert isinstance(answer.exception, SettingsError)
    assert not out.exists()
