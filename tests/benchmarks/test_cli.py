from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from benchmarks import cli
from benchmarks.precision_rate import (
    CONTENDERS,
    FLOAT,
    INT8,
    PLAIN,
    finds_only,
    measure_precisions,
)
from benchmarks.published import _TABLES
from benchmarks.session_options import OPTIONS, SURROUNDINGS, measure_session_options
from benchmarks.virtual import COMMON_RESOLUTION, measure_virtual
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import DataError
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.virtual_film import PROFILES, FilmSpec

MACHINE = {"processor": "some", "cores": 2, "date": "2026-01-02T03:04:05+00:00"}


def test_every_cell_of_the_matrix_is_measured(patch_onnx: Path, patch_bundle: Path) -> None:
    spec = open_bundle(patch_bundle).manifest.detector.input
    content = patch_onnx.read_bytes()
    result = measure_session_options(
        {"float32": content, "again": content}, spec, threads=2, seconds=0.02, rounds=2
    )
    cells = {(row["model"], row["options"], row["surroundings"]) for row in result["rows"]}
    assert cells == {
        (model, options.name, surroundings)
        for model in ("float32", "again")
        for options in OPTIONS
        for surroundings in SURROUNDINGS
    }
    for row in result["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["fields_per_s"] > 0
        # At least five calls per caller and round.
        assert row["calls"] >= (20 if row["options"].startswith("one call per") else 10)


def test_the_busy_process_does_not_outlive_the_measurement(
    patch_onnx: Path, patch_bundle: Path
) -> None:
    spec = open_bundle(patch_bundle).manifest.detector.input
    # Tests that ran before may have left Python's own resource tracker.
    before = {child.pid for child in psutil.Process().children()}
    busy: list[int] = []

    def look(line: str) -> None:
        now = {child.pid for child in psutil.Process().children()}
        busy.extend(now - before)

    measure_session_options(
        {"float32": patch_onnx.read_bytes()},
        spec,
        threads=1,
        seconds=0.01,
        rounds=1,
        progress=look,
    )
    assert busy == []


def test_session_options_command_writes_its_result(patch_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "session_options.json"
    done = CliRunner().invoke(
        cli.app,
        [
            "session-options",
            "--bundle",
            str(patch_bundle),
            "--seconds",
            "0.01",
            "--rounds",
            "1",
            "--threads",
            "1",
            "--out",
            str(out),
        ],
    )
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["research_use"] == RESEARCH_USE
    assert document["bundle"] == "patches-1.0.0"
    assert len(document["rows"]) == len(OPTIONS) * len(SURROUNDINGS)
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    assert "one call per thread, no spinning" in done.output


def test_every_profile_is_rendered_at_its_size_and_at_the_common_one() -> None:
    spec = FilmSpec(size_um=(60.0, 60.0), pixel_size_um=0.4)
    result = measure_virtual(frames=2, spec=spec)
    seen = {(row["profile"], tuple(row["resolution_px"])) for row in result["rows"]}
    assert seen == {
        (name, resolution)
        for name, profile in PROFILES.items()
        for resolution in (profile.resolution, COMMON_RESOLUTION)
    }
    common = [row for row in result["rows"] if tuple(row["resolution_px"]) == COMMON_RESOLUTION]
    (target,) = result["targets"]
    assert target["measured"] == max(row["p50_ms"] for row in common)
    assert target["met"] == (target["measured"] <= 10)
    assert result["film"]["setup_s"] > 0


def test_help_says_what_it_is_not_for() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"], terminal_width=200).output
    assert "research use only" in " ".join(shown.split())


@pytest.mark.parametrize("word", ["peers", "session-options", "virtual"])
def test_commands_exist(word: str) -> None:
    assert CliRunner().invoke(cli.app, [word, "--help"]).exit_code == 0


def test_precisions_are_compared_on_the_same_threads(patch_onnx: Path, patch_bundle: Path) -> None:
    pytest.importorskip("openvino")
    spec = open_bundle(patch_bundle).manifest.detector.input
    content = patch_onnx.read_bytes()
    result = measure_precisions(
        {FLOAT: content, INT8: content}, spec, threads=2, seconds=0.02, rounds=1
    )
    rows = {(row["precision"], row["runtime"]): row for row in result["rows"]}
    assert len(rows) == len(CONTENDERS)
    peer = max(rows[FLOAT, PLAIN]["fields_per_s"], rows[FLOAT, "onnxruntime"]["fields_per_s"])
    target = result["targets"][0]
    assert target["ratio"] == pytest.approx(rows[INT8, "openvino"]["fields_per_s"] / peer, rel=0.01)
    assert target["met"] == (target["ratio"] >= target["at_least"])
    text = _TABLES["precision"]({"machine": MACHINE, "bundle": "b-1.0.0", **result})
    assert f"{target['ratio']:.2f}, at least 1.7 wanted" in text


def test_outputs_beside_the_finds_do_not_enter_the_comparison(patch_onnx: Path) -> None:
    import onnx

    graph = onnx.load(patch_onnx)
    name = graph.graph.output[0].name
    inferred = onnx.shape_inference.infer_shapes(graph)
    inner = next(each for each in inferred.graph.value_info if each.name != name)
    graph.graph.output.append(inner)
    kept = onnx.load_from_string(finds_only(graph.SerializeToString(), name))
    assert [each.name for each in kept.graph.output] == [name]
    with pytest.raises(DataError, match="no output 'other'"):
        finds_only(patch_onnx.read_bytes(), "other")
