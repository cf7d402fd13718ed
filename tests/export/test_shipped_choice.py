"""The shipped bundle is what the committed sweeps chose, and says how it passed its gates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.bundle import open_bundle, shipped_bundle_path
from export.int8_plan import load_sweep

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
HEADS = ("detector", "classifier", "attribute_head")


@pytest.mark.parametrize("head", HEADS)
def test_every_int8_artifact_is_the_sweep_s_choice(head: str) -> None:
    manifest = open_bundle(shipped_bundle_path()).manifest
    file = "sweep_detector.json" if head == "detector" else "sweep_heads.json"
    choice = load_sweep(RESULTS / file)[head]
    spec = getattr(manifest, head)
    made = {each.runtime: each for each in spec.artifacts if each.precision == "int8"}
    assert set(made) == set(choice.plans) == {"cpu", "tensorrt"}
    for runtime, plan in choice.plans.items():
        said = made[runtime].quantisation
        assert plan.left_out in said
        if not plan.blocks:
            assert "in float" not in said
        if head == "detector":
            method = manifest.calibration.method
            assert method == plan.method or f"{plan.method} ({made[runtime].path})" in method
        else:
            assert f", {plan.method}, digest" in said


def test_the_sweep_is_of_the_shipped_calibration_set() -> None:
    opened = open_bundle(shipped_bundle_path())
    (head,) = json.loads((RESULTS / "sweep_detector.json").read_text())["heads"]
    calibration = opened.manifest.calibration
    assert head["calibrated_on"].startswith(f"{calibration.images} pictures")


def test_the_manifest_says_what_int8_cost() -> None:
    manifest = open_bundle(shipped_bundle_path()).manifest
    judged = {each.artifact for each in manifest.parity}
    shipped = {each.path for head in HEADS for each in getattr(manifest, head).artifacts}
    assert judged == shipped
    for each in manifest.parity:
        for figures in each.domains.values():
            lost = 100 * (figures.float_figure - figures.rounded_figure)
            assert lost <= each.allowed_points + 1e-9, (each.artifact, each.backend)
