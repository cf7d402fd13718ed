from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import CONTENDERS, TARGETS, Comparison, Target, _judge, compare
from edge_runtime.errors import DataError, LeukoscopeError

BY_NAME = {contender.name: contender for contender in CONTENDERS}
DEVICE_SIDE = ("leukoscope", "session_run", "session_run_callers", "leukoscope_report")


def silent(line: str) -> None:
    assert line


def plan(onnx: Path, bundle: Path, images: Path, *names: str, **changed: Any) -> Comparison:
    return Comparison(
        onnx,
        bundle,
        [images],
        **{
            "threads": 1,
            "rounds": 1,
            "fields": 8,
            "contenders": [BY_NAME[name] for name in names],
            **changed,
        },
    )


@pytest.fixture(scope="module")
def device_side(patch_onnx: Path, patch_bundle: Path, patch_images: Path) -> dict[str, Any]:
    return compare(plan(patch_onnx, patch_bundle, patch_images, *DEVICE_SIDE, rounds=2), silent)


def test_images_are_repeated_until_there_are_enough(device_side: dict[str, Any]) -> None:
    assert device_side["fields_per_run"] == 12
    assert device_side["data"] == [{"folder": "smear/images/test", "images": 6}]


def test_every_contender_says_what_ran(device_side: dict[str, Any]) -> None:
    assert set(device_side["contenders"]) == set(DEVICE_SIDE)
    for row in device_side["contenders"].values():
        assert row["ran"]["precision"] == "float32"
        assert row["ran"]["threads"] == 1
        assert len(row["rounds"]) == 2
        assert row["fields_per_s"] > 0


def test_figures_belong_together(device_side: dict[str, Any]) -> None:
    for name in ("leukoscope", "leukoscope_report"):
        for run in device_side["contenders"][name]["rounds"]:
            assert 0 < run["first_result_s"] < run["total_s"]
            # The first result costs the start-up, so the rate with it is the lower one.
            assert run["fields_per_s_from_start"] < run["fields_per_s"]
            assert 20 < run["peak_memory_mb"] < 600


def test_a_bare_loop_has_no_start_up_figures(device_side: dict[str, Any]) -> None:
    row = device_side["contenders"]["session_run"]
    assert "first_result_s" not in row
    assert "peak_memory_mb" not in row["rounds"][0]


def test_only_targets_whose_peer_ran_are_judged(device_side: dict[str, Any]) -> None:
    (judged,) = device_side["targets"]
    rows = device_side["contenders"]
    expected = rows["leukoscope"]["fields_per_s"] / rows["session_run"]["fields_per_s"]
    assert judged["peer"] == "session_run"
    assert judged["ratio"] == pytest.approx(expected, abs=1e-4)
    assert judged["met"] == (expected >= 0.85)


def test_no_path_of_this_machine_is_kept(
    device_side: dict[str, Any], patch_images: Path, patch_bundle: Path
) -> None:
    text = json.dumps(device_side)
    for path in (patch_images, patch_bundle, Path.home()):
        assert str(path) not in text


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_a_run_leaves_the_cores_as_they_were(
    patch_onnx: Path, patch_bundle: Path, patch_images: Path
) -> None:
    before = os.sched_getaffinity(0)
    result = compare(plan(patch_onnx, patch_bundle, patch_images, "session_run"), silent)
    assert result["cores_allowed"] == 1
    assert os.sched_getaffinity(0) == before


def test_settings_of_the_caller_do_not_reach_a_contender(
    patch_onnx: Path, patch_bundle: Path, patch_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEUKOSCOPE_CROP_MARGIN", "not a number")
    monkeypatch.setenv("OMP_NUM_THREADS", "not a number")
    result = compare(plan(patch_onnx, patch_bundle, patch_images, "leukoscope"), silent)
    assert result["contenders"]["leukoscope"]["ran"]["name"] == "onnxruntime"


def test_a_picture_that_would_be_skipped_ends_the_comparison(
    patch_onnx: Path, patch_bundle: Path, patch_images: Path, tmp_path: Path
) -> None:
    whole = (patch_images / "picture_0.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole)
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="1 skipped"):
        compare(plan(patch_onnx, patch_bundle, tmp_path, "leukoscope"), silent)


def test_a_folder_without_images_is_an_error(
    patch_onnx: Path, patch_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no image in it"):
        compare(plan(patch_onnx, patch_bundle, tmp_path, "session_run"), silent)
    with pytest.raises(DataError, match="no such folder"):
        compare(plan(patch_onnx, patch_bundle, tmp_path / "gone", "session_run"), silent)


def test_a_contender_that_fails_is_named(
    patch_bundle: Path, patch_images: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(LeukoscopeError, match=r"contender leukoscope: ended with 1: .*refuses"):
        compare(plan(broken, patch_bundle, patch_images, "leukoscope"), silent)


def test_a_backend_that_is_not_here_is_left_out_with_its_reason(
    patch_onnx: Path, patch_bundle: Path, patch_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edge_runtime.backends.openvino.unsupported_reason", lambda: "not installed"
    )
    result = compare(
        plan(patch_onnx, patch_bundle, patch_images, "session_run", "leukoscope_shipped_openvino"),
        silent,
    )
    assert result["left_out"] == {"leukoscope_shipped_openvino": "not installed"}


@pytest.mark.train
def test_ultralytics_finds_the_same_cells(
    patch_onnx: Path, patch_bundle: Path, patch_images: Path
) -> None:
    result = compare(
        plan(patch_onnx, patch_bundle, patch_images, "leukoscope", "ultralytics"), silent
    )
    found = result["agreement"]
    assert found["same_cells"]
    assert found["fields"] == 6
    assert found["cells"] == found["peer_cells"] == found["matched"] == 18
    row = result["contenders"]["ultralytics"]
    assert row["ran"]["threads"] == row["ran"]["torch_threads"] == 1
    assert [target["peer"] for target in result["targets"]] == ["ultralytics"] * 3


@pytest.mark.parametrize(
    ("target", "ours", "theirs", "met"),
    [
        (TARGETS[0], 17.0, 10.0, True),
        (TARGETS[0], 16.9, 10.0, False),
        (TARGETS[1], 200.0, 800.0, True),
        (TARGETS[1], 201.0, 800.0, False),
        (TARGETS[2], 0.41, 3.2, False),
        (TARGETS[3], 84.0, 100.0, False),
    ],
)
def test_targets_are_judged_at_their_bound(
    target: Target, ours: float, theirs: float, met: bool
) -> None:
    rows = {"leukoscope": {target.figure: ours}, target.peer: {target.figure: theirs}}
    judged = _judge(target, rows)
    assert judged["met"] is met
    assert judged["ratio"] == pytest.approx(ours / theirs, abs=1e-4)


def test_contenders_have_names_of_their_own() -> None:
    assert len(BY_NAME) == len(CONTENDERS)
    assert {target.peer for target in TARGETS} <= set(BY_NAME)
