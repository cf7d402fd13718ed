"""A sweep's choice goes into the bundle as it was chosen, or the export says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from calibration.sweep import CandidateResult, SweepResult, candidate_name
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import DataError
from export import float_onnx
from export.blocks import blocks_of
from export.calibrate_cli import app as calibrate
from export.cli import app
from export.graph import load_graph
from export.int8_plan import Int8Plan, load_sweep, plans_to_try
from export.training_run import TrainingRun

pytest.importorskip("faster_coco_eval")
pytest.importorskip("yaml")

WriteSweep = Callable[..., Path]


@pytest.fixture
def write_sweep(tmp_path: Path, float_model: bytes) -> WriteSweep:
    """A sweep.json in which both families chose; ``blocks`` of the TensorRT one are in float."""

    def write(blocks: tuple[str, ...] = (), **changes: Any) -> Path:
        def candidate(runtime: str, method: str, left: tuple[str, ...]) -> CandidateResult:
            return CandidateResult(
                runtime=runtime,
                method=method,
                exclusion="worst 1" if left else "none",
                blocks=left,
                size=1,
                figures={},
                lost_points=0.1,
                domain="one",
                sqnr_db=30,
                passed=True,
                seconds=1,
            )

        found = [candidate("cpu", "entropy", ()), candidate("tensorrt", "mse", blocks)]
        result = SweepResult(
            head="detector",
            figure="AP50-95",
            calibrated_on="30 pictures",
            judged_on="20 fields",
            allowed_points=0.5,
            float_size=len(float_model),
            float_figures={},
            blocks=(),
            blocks_for="cpu, minmax",
            by_loss=tuple(found),
            by_size=tuple(candidate_name(each) for each in found),
            chosen={each.runtime: candidate_name(each) for each in found},
        ).model_copy(update=changes)
        path = tmp_path / "sweep.json"
        path.write_text(json.dumps({"heads": [result.model_dump(mode="json")]}))
        return path

    return write


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch, float_model: bytes) -> None:
    def write(checkpoint: Path, out: Path, image_size: int, **_: Any) -> Path:
        out.write_bytes(float_model)
        return out

    monkeypatch.setattr(float_onnx, "float_onnx", write)
    monkeypatch.setattr(float_onnx, "trained_quantisation", lambda *_, **__: None)


def export(run: TrainingRun, card: Path, out: Path, *more: str) -> Any:
    given = [f"--run={run.folder}", f"--card={card}", f"--out={out}", "--allowed-points=100"]
    small = ["--calibration-images=30", "--calibration-minimum=30", "--cell-px=16"]
    return CliRunner().invoke(app, ["bundle", *given, *small, "--min-cell-px=4", *more])


def weights_in_int8(model: bytes) -> int:
    return sum(node.op_type == "DequantizeLinear" for node in load_graph(model).graph.node)


def test_method_and_blocks_of_each_family_are_taken(
    run: TrainingRun,
    card_file: Path,
    tmp_path: Path,
    float_model: bytes,
    write_sweep: WriteSweep,
) -> None:
    block = next(iter(blocks_of(float_model)))
    plain, chosen = tmp_path / "plain", tmp_path / "chosen"
    for out, more in ((plain, "--calibration-method=mse"), (chosen, "--sweep=")):
        given = more if out == plain else f"--sweep={write_sweep((block,))}"
        result = export(run, card_file, out, given)
        assert result.exit_code == 0, (result.output, result.exception)
    bundle = open_bundle(chosen)
    cpu, tensorrt = bundle.manifest.detector.artifacts
    assert cpu.quantisation.endswith("last layers float")
    assert tensorrt.quantisation.endswith(f"last layers float, {block} in float")
    assert bundle.manifest.calibration.method == (
        "entropy (detector.cpu.int8.onnx), mse (detector.tensorrt.int8.onnx)"
    )
    whole, partly = (
        weights_in_int8(open_bundle(each).contents["detector.tensorrt.int8.onnx"])
        for each in (plain, chosen)
    )
    assert partly < whole


def test_a_real_sweep_is_understood(run: TrainingRun, float_model: bytes, tmp_path: Path) -> None:
    model = tmp_path / "float.onnx"
    model.write_bytes(float_model)
    given = ["sweep", f"--run={run.folder}", f"--model={model}", "--minimum=20", "--views=1"]
    small = ["--method=minmax", "--exclude=1", f"--out={tmp_path / 's'}"]
    result = CliRunner().invoke(calibrate, [*given, *small])
    assert result.exit_code == 0, result.output
    choice = load_sweep(tmp_path / "s" / "sweep.json")["detector"]
    choice.check("detector", float_model)
    assert set(choice.plans) == {"cpu", "tensorrt"}
    assert {plan.method for plan in choice.plans.values()} == {"minmax"}


def test_a_trial_chooses_nothing(write_sweep: WriteSweep) -> None:
    with pytest.raises(DataError, match="trial"):
        load_sweep(write_sweep(trial=True))


def test_another_network_is_refused(
    run: TrainingRun, card_file: Path, tmp_path: Path, write_sweep: WriteSweep
) -> None:
    result = export(run, card_file, tmp_path / "b", f"--sweep={write_sweep(float_size=12)}")
    assert isinstance(result.exception, DataError)
    assert "network of 12 bytes" in str(result.exception)
    assert not (tmp_path / "b").exists()


def test_a_family_without_a_choice_is_refused(write_sweep: WriteSweep) -> None:
    choice = load_sweep(write_sweep(chosen={"cpu": "cpu entropy none"}))["detector"]
    assert plans_to_try("best", ["cpu"], choice) == [Int8Plan("cpu", "entropy")]
    with pytest.raises(DataError, match="nothing was chosen for tensorrt"):
        plans_to_try("best", ["cpu", "tensorrt"], choice)


def test_an_unknown_block_is_named(float_model: bytes) -> None:
    with pytest.raises(DataError, match=r"'model\.99'"):
        Int8Plan("cpu", "mse", ("model.99",)).kept(float_model)


@pytest.mark.parametrize("text", ["", "[]", '{"heads": 3}', '{"heads": [{}]}', "{}"])
def test_what_is_no_sweep_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    with pytest.raises(DataError, match="check --sweep"):
        load_sweep(path)
    path.write_text(text)
    with pytest.raises(DataError, match="calibrate sweep"):
        load_sweep(path)
