"""Latency by profile and backend: what a row holds, what is refused, what is a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

import benchmarks.latency as latency_module
from benchmarks.cli import app
from benchmarks.latency import LatencyPlan, check_what_ran, measure_latency
from benchmarks.latency_row import Combination, row_of
from benchmarks.latency_run import CONTENDERS, StoredFields, growth
from edge_runtime.backends import row_named
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import BackendError, LeukoscopeError, SettingsError
from edge_runtime.virtual_film import PROFILES, FilmSpec, VirtualFilm


@pytest.fixture(scope="module")
def small_profiles() -> Iterator[None]:
    """Two profiles of a few pixels, and a film that is rendered at once."""
    small = {
        name: replace(PROFILES[name], resolution=(160, 96), frame_rate_hz=20.0)
        for name in ("hcm_100x_c2", "phone")
    }
    spec = FilmSpec(size_um=(60.0, 40.0), pixel_size_um=0.3, white_cells_per_mm2=800.0)
    film = VirtualFilm.build(3, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_module, "PROFILES", small)
        patch.setattr(VirtualFilm, "build", lambda seed, spec=None: film)
        yield


@pytest.fixture(scope="module")
def measured(small_profiles: None, patch_bundle: Path) -> dict[str, Any]:
    """All contenders in this process; the command's test starts real ones."""

    def here(module: str, job: dict[str, Any], scratch: Path, *, name: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(json.dumps(CONTENDERS[job["contender"]](job)))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_module, "run_child", here)
        # They are for a process that does nothing else.
        patch.setattr("edge_runtime.cli.set_environment", lambda: None)
        patch.setattr("edge_runtime.cli.spare_threads", lambda: None)
        # Returned, not yielded: the patches must be gone before the command's test.
        return measure_latency(
            LatencyPlan(
                profiles=("hcm_100x_c2",),
                backends=("onnxruntime", "tensorrt"),
                bundle=patch_bundle,
                threads=1,
                rounds=1,
                fields=6,
                seconds=1.5,
                warm_up=2,
            )
        )


def _row(measured: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [r for r in measured["rows"] if name in (r["contender"], r["backend"])]
    return dict(found)


def test_every_combination_is_a_row(measured: dict[str, Any]) -> None:
    names = [row["backend"] or row["contender"] for row in measured["rows"]]
    assert names == ["onnxruntime", "tensorrt", "plain_loop", "session_run", "ultralytics"]


def test_a_row_has_every_stage_of_every_field(measured: dict[str, Any]) -> None:
    row = _row(measured, "onnxruntime")
    assert set(row["stages"]) == {"read", "detect", "crop", "write"}
    assert all(each["count"] == 6 for each in row["stages"].values())
    detect = row["stages"]["detect"]
    assert 0 < detect["p50_ms"] <= detect["p95_ms"] <= detect["p99_ms"]
    assert row["field"]["p50_ms"] >= detect["p50_ms"]
    assert len(row["fields_per_s_rounds"]) == 1
    assert row["peak_memory_mb"] > 20
    assert row["ran"]["detector"]["name"] == "onnxruntime"


def test_a_live_camera_is_measured_at_two_rates(measured: dict[str, Any]) -> None:
    live = _row(measured, "onnxruntime")["live"]
    assert live["own_rate"]["camera_fps"] == 20
    over = live["overload"]
    assert over["camera_fps"] == measured["profiles"]["hcm_100x_c2"]["overload_fps"]
    assert over["passed_over"] > 0
    assert over["bound_ms"] == pytest.approx(
        2 * over["inference_p50_ms"] + 1000 / over["camera_fps"], abs=0.02
    )
    assert over["within_bound"] == (over["p99_ms"] <= over["bound_ms"])


def test_a_plain_loop_grows_older_in_the_same_run(measured: dict[str, Any]) -> None:
    over = _row(measured, "plain_loop")["live"]["overload"]
    assert over["passed_over"] == 0
    assert over["growth_ms_per_s"] > 100


def test_ratios_to_the_bare_loop_are_of_the_same_rounds(measured: dict[str, Any]) -> None:
    ratio = _row(measured, "onnxruntime")["against"]["session_run"]
    assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert "ultralytics" not in _row(measured, "onnxruntime")["against"]


def test_what_cannot_run_is_a_row_with_its_reason(measured: dict[str, Any]) -> None:
    assert "tensorrt" in _row(measured, "tensorrt")["not_run"]
    assert "--checkpoint" in _row(measured, "ultralytics")["not_run"]


def test_clocks_energy_and_others_are_on_record(measured: dict[str, Any]) -> None:
    assert "note" in measured["clocks"]
    energy = _row(measured, "onnxruntime")["energy"]
    assert energy["measured"] or energy["reason"]
    assert 0 <= measured["others_share"] <= 1


def test_nothing_in_the_result_says_whose_machine_it_is(
    measured: dict[str, Any], patch_bundle: Path
) -> None:
    text = json.dumps(measured)
    assert str(Path.home()) not in text
    assert str(patch_bundle) not in text


def test_unknown_names_are_refused(patch_bundle: Path) -> None:
    with pytest.raises(SettingsError, match="choose of hcm_100x_c2"):
        measure_latency(LatencyPlan(("microscope",), ("onnxruntime",), patch_bundle))
    with pytest.raises(BackendError, match="unknown"):
        measure_latency(LatencyPlan(("phone",), ("abacus",), patch_bundle))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "openvino"}, "backend 'onnxruntime' was asked and 'openvino' ran"),
        ({"artifact": "other.onnx"}, "artifact 'patches.onnx' was asked"),
        ({"precision": "int8"}, "precision 'float32' was asked and 'int8' ran"),
    ],
)
def test_another_backend_than_was_asked_ends_it(
    patch_bundle: Path, changed: dict[str, str], said: str
) -> None:
    ran = {
        "name": "onnxruntime",
        "artifact": "patches.onnx",
        "precision": "float32",
        "device": "CPUExecutionProvider",
    }
    bundle, asked = open_bundle(patch_bundle), row_named("onnxruntime")
    check_what_ran(bundle, asked, None, {"detector": ran})
    with pytest.raises(BackendError, match=said):
        check_what_ran(bundle, asked, None, {"detector": ran | changed})


def test_a_gpu_backend_that_ran_on_the_processor_ends_it() -> None:
    from edge_runtime.bundle import shipped_bundle_path

    bundle, asked = open_bundle(shipped_bundle_path()), row_named("onnxruntime-cuda")
    wanted = bundle.artifact_for("tensorrt")
    ran = {"name": asked.name, "artifact": wanted.path, "precision": wanted.precision}
    check_what_ran(bundle, asked, None, {"detector": ran | {"device": "CUDAExecutionProvider"}})
    with pytest.raises(BackendError, match="not on a GPU"):
        check_what_ran(bundle, asked, None, {"detector": ran | {"device": "CPUExecutionProvider"}})


def test_a_contender_that_fails_in_a_round_ends_it(
    small_profiles: None, patch_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(module: str, job: dict[str, Any], scratch: Path, *, name: str) -> dict[str, Any]:
        if job["camera_fps"]:
            return {"refused": "out of memory"}
        return {
            "fields": 2,
            "seconds": 0.1,
            "skipped": 0,
            "ran": {
                "detector": {
                    "name": "onnxruntime",
                    "artifact": "patches.onnx",
                    "precision": "float32",
                    "device": "CPUExecutionProvider",
                }
            },
        }

    monkeypatch.setattr(latency_module, "run_child", child)
    plan = LatencyPlan(("phone",), ("onnxruntime",), patch_bundle, fields=4, warm_up=2, peers=False)
    with pytest.raises(LeukoscopeError, match="out of memory"):
        measure_latency(plan)


def _run(detect_s: list[float], ages_ms: list[float], grown: float | None) -> dict[str, Any]:
    live = {
        "camera_fps": 10.0,
        "ages_ms": ages_ms,
        "inference_ms": [200.0] * len(ages_ms),
        "passed_over": 2,
        "growth_ms_per_s": grown,
        "seconds": 1.0,
    }
    return {
        "fields": len(detect_s),
        "seconds": sum(detect_s),
        "windows": 2 * len(detect_s),
        "cells_per_field": 1.0,
        "stage_seconds": {"read": [0.1] * len(detect_s), "detect": detect_s},
        "ran": {},
        "peak_memory_bytes": 10**8,
        "others_share": 0.0,
        "live": [live, live],
    }


def test_percentiles_are_of_all_fields_of_all_rounds_and_not_of_rounds() -> None:
    each = Combination("phone", "leukoscope", "onnxruntime")
    bare = Combination("phone", "session_run")
    own = [_run([0.1, 0.1, 0.1], [300.0], 5.0), _run([0.9], [500.0, 700.0], 9.0)]
    peers = [_run([0.1], [], None), _run([0.3], [], None)]
    row = row_of(each, {each: own, bare: peers})
    # The median of medians would be 500.
    assert row["stages"]["detect"] == {
        "count": 4,
        "p50_ms": pytest.approx(100),
        "p95_ms": pytest.approx(780),
        "p99_ms": pytest.approx(876),
    }
    assert row["field"]["p50_ms"] == pytest.approx(100)
    assert row["windows_per_field"] == 2
    live = row["live"]["overload"]
    assert (live["frames"], live["p50_ms"], live["passed_over"]) == (3, 500, 4)
    assert live["bound_ms"] == pytest.approx(2 * 200 + 100)
    assert not live["within_bound"]
    assert live["growth_ms_per_s"] == 7
    # Round by round: 20 looks a second to 20, 2.2 to 6.7.
    assert row["against"] == {"session_run": {"ratio": 0.6667, "low": 0.3333, "high": 1.0}}


def test_a_camera_that_gave_no_frame_is_said_so() -> None:
    each = Combination("phone", "leukoscope", "onnxruntime")
    row = row_of(each, {each: [_run([0.1], [], None)]})
    assert row["live"]["own_rate"] == {"camera_fps": 10.0, "frames": 0}


def test_whole_rounds_survive_an_interruption() -> None:
    first, second = Combination("phone", "plain_loop"), Combination("phone", "session_run")

    class Interrupted:
        def __init__(self, after: int) -> None:
            self.left = after

        def run(self, each: Combination, overload_fps: float) -> dict[str, Any]:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return {"fields": 1, "seconds": 1.0, "place": self.left}

    def rounds(after: int) -> dict[Combination, list[dict[str, Any]]]:
        bench = cast("latency_module._Bench", Interrupted(after))
        return latency_module._rounds([first, second], bench, {}, 3, lambda line: None)

    found = rounds(3)
    # The second round had begun, and counts for neither.
    assert [run["place"] for run in found[first]] == [2]
    assert [run["place"] for run in found[second]] == [1]
    with pytest.raises(KeyboardInterrupt):
        rounds(1)


def test_growth_is_of_the_ends() -> None:
    assert growth([float(age) for age in range(0, 1000, 10)], 10.0) == pytest.approx(100, rel=0.02)
    assert growth([1.0, 2.0], 1.0) is None


def test_stored_fields_are_read_when_asked_for(patch_images: Path) -> None:
    fields = StoredFields(sorted(patch_images.iterdir()))
    assert len(fields) == 6
    assert fields[0].shape == (128, 128, 3)
    assert len(fields[2:4]) == 2


def test_the_command_writes_result_and_page(
    small_profiles: None, patch_bundle: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "latency.json", tmp_path / "latency.html"
    flags = ["--profiles", "phone", "--backends", "onnxruntime", "--bundle", str(patch_bundle)]
    flags += ["--threads", "1", "--rounds", "1", "--fields", "4", "--seconds", "0.5"]
    flags += ["--warm-up", "2", "--no-peers", "--out", str(out), "--html", str(page)]
    answer = CliRunner().invoke(app, ["latency", *flags])
    assert answer.exit_code == 0, answer.output
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["what"] == "latency by camera profile and backend"
    # Of its own process, not of this one with all its libraries.
    assert 20 < document["rows"][0]["peak_memory_mb"] < 350
    assert document["research_use"].startswith("For research use only")
    assert "phone" in answer.output
    assert "For research use only" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--profiles", " , "], "--profiles"),
        (["--precision", "int4"], "--precision"),
        (["--fields", "4", "--warm-up", "5"], "--warm-up"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], said: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["latency", *flags, "--out", str(tmp_path / "x.json")])
    assert isinstance(answer.exception, SettingsError)
    assert said in str(answer.exception)
