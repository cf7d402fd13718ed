"""The whole way from a run folder to a bundle that finds cells, and the gate that stops it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from calibration.dataset import CalibrationSet
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import BundleError, DataError, SettingsError
from edge_runtime.film_run import load_bundle
from edge_runtime.settings import Settings
from edge_runtime.types import Frame
from export import float_onnx
from export.cli import app
from export.measurement_day import measurement_day
from export.trained_scales import trained_scales
from export.training_run import TrainingRun
from tests.export.conftest import make_run, paint_square
from tests.export.test_trained_scales import rounded_detector

pytest.importorskip("faster_coco_eval")
pytest.importorskip("yaml")


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch, float_model: bytes) -> None:
    """The hand-made detector stands for the checkpoint; everything after it is real."""

    def write(
        checkpoint: Path, out: Path, image_size: int, *, one_to_one: bool | None = None
    ) -> Path:
        assert image_size == 64
        out.write_bytes(float_model)
        return out

    monkeypatch.setattr(float_onnx, "float_onnx", write)
    monkeypatch.setattr(float_onnx, "trained_quantisation", lambda *_, **__: None)


def arguments(run: TrainingRun, card: Path, out: Path, *more: str) -> list[str]:
    return [
        "bundle",
        f"--run={run.folder}",
        f"--card={card}",
        f"--out={out}",
        "--calibration-images=30",
        "--calibration-minimum=30",
        "--cell-px=16",
        "--min-cell-px=4",
        "--date=2026-01-02",
        *more,
    ]


def test_bundle_finds_cells_on_a_device(run: TrainingRun, card_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = CliRunner().invoke(app, arguments(run, card_file, out))
    assert result.exit_code == 0, (result.output, result.exception)
    opened = open_bundle(out)
    manifest = opened.manifest
    assert [a.runtime for a in manifest.detector.artifacts] == ["cpu", "tensorrt"]
    assert manifest.calibration.domains == {"composed": 10, "one": 10, "two": 10}
    assert set(manifest.model_card.metrics) == {"one", "two"}
    assert manifest.model_card.metrics["one"]["AP50"] > 0.95
    assert "2026-01-02" in manifest.model_card.metrics_of
    assert "detector.cpu.int8.onnx" in manifest.model_card.metrics_of
    record = CalibrationSet.from_json(opened.contents["calibration.json"].decode())
    assert record.digest == manifest.calibration.digest
    with load_bundle(opened, Settings(threads=1)) as loaded:
        found = loaded.detector.examine(Frame(0, 0, paint_square(2, 4), "field")).detections
    assert found.boxes_xyxy == pytest.approx(np.array([[16, 32, 32, 48]]), abs=1)
    for said in ("onnxruntime", "composed", "cpu.int8", "tensorrt.int8", "work in int8"):
        assert said in result.output


def test_same_run_same_bytes(run: TrainingRun, card_file: Path, tmp_path: Path) -> None:
    for name in ("1.zip", "2.zip"):
        result = CliRunner().invoke(app, arguments(run, card_file, tmp_path / name))
        assert result.exit_code == 0, (result.output, result.exception)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_calibration_on_pale_training_pictures_is_stopped_by_the_gate(
    card_file: Path, tmp_path: Path
) -> None:
    """Ranges without a real cell in them clip what makes a cell: int8 goes blind."""
    pale = make_run(tmp_path, training_contrast=0.02)
    out = tmp_path / "bundle"
    result = CliRunner().invoke(app, arguments(pale, card_file, out))
    assert isinstance(result.exception, BundleError)
    assert "AP points" in str(result.exception)
    assert "is not written" in str(result.exception)
    assert not out.exists()
    assert "points lost" in result.output, "the table is shown all the same"


def test_best_method_is_no_worse_than_any(
    run: TrainingRun, card_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    result = CliRunner().invoke(
        app, arguments(run, card_file, out, "--calibration-method=best", "--allowed-points=100")
    )
    assert result.exit_code == 0, (result.output, result.exception)
    pattern = re.compile(r"detector\.(\w+)\.int8\.onnx, (\w+): ([+-][\d.]+) AP points lost")
    lost: dict[str, dict[str, float]] = {}
    for kind, method, points in pattern.findall(result.output):
        lost.setdefault(kind, {})[method] = float(points)
    assert set(lost) == {"cpu", "tensorrt"}
    chosen = open_bundle(out).manifest.calibration.method
    for kind, by_method in lost.items():
        assert set(by_method) == {"minmax", "percentile", "mse", "entropy"}
        best = [name for name, points in by_method.items() if points == min(by_method.values())]
        named = re.search(rf"(\w+) \(detector\.{kind}\.int8\.onnx\)", chosen)
        assert (chosen if named is None else named.group(1)) in best


def test_an_earlier_draw_can_be_used_again(
    run: TrainingRun, card_file: Path, tmp_path: Path
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert CliRunner().invoke(app, arguments(run, card_file, first, "--seed=9")).exit_code == 0
    record = first / "calibration.json"
    result = CliRunner().invoke(
        app, arguments(run, card_file, again, f"--calibration-set={record}")
    )
    assert result.exit_code == 0, (result.output, result.exception)
    digests = [open_bundle(b).manifest.calibration.digest for b in (first, again)]
    assert digests[0] == digests[1]
    (tmp_path / "no.json").write_text("{}")
    failed = CliRunner().invoke(
        app, arguments(run, card_file, again, f"--calibration-set={tmp_path / 'no.json'}")
    )
    assert isinstance(failed.exception, DataError)


def test_a_validation_picture_among_the_training_ones_stops_the_export(
    run: TrainingRun, card_file: Path, tmp_path: Path
) -> None:
    leaked = run.validation_fields()["one"][0].image
    (run.pools()[0].folder / "leaked.png").write_bytes(leaked.read_bytes())
    out = tmp_path / "bundle"
    result = CliRunner().invoke(app, arguments(run, card_file, out))
    assert isinstance(result.exception, DataError)
    assert "leaked.png" in str(result.exception)
    assert not out.exists()


def test_too_few_calibration_pictures_stop_the_export(
    run: TrainingRun, card_file: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        app, arguments(run, card_file, tmp_path / "b", "--calibration-minimum=37")
    )
    assert isinstance(result.exception, DataError)
    assert "at least 37" in str(result.exception)


def test_operating_point_can_be_given(run: TrainingRun, card_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = CliRunner().invoke(app, arguments(run, card_file, out, "--score=0.77"))
    assert result.exit_code == 0, (result.output, result.exception)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["detector"]["thresholds"]["score"] == 0.77


def test_unknown_method_is_refused(run: TrainingRun, card_file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, arguments(run, card_file, tmp_path / "b", "--calibration-method=guess")
    )
    assert isinstance(result.exception, SettingsError)


def test_date_comes_from_flag_or_environment() -> None:
    assert measurement_day("2026-05-06", {"SOURCE_DATE_EPOCH": "0"}) == "2026-05-06"
    assert measurement_day(None, {"SOURCE_DATE_EPOCH": "86400"}) == "1970-01-02"
    assert len(measurement_day(None, {})) == 10
    for date, environment in (("yesterday", {}), (None, {"SOURCE_DATE_EPOCH": "soon"})):
        with pytest.raises(SettingsError):
            measurement_day(date, environment)


def test_scales_from_training_go_into_the_bundle(
    run: TrainingRun,
    card_file: Path,
    tmp_path: Path,
    float_model: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = trained_scales(rounded_detector(float_model, shrink=1.0), float_model)
    monkeypatch.setattr(float_onnx, "trained_quantisation", lambda *_, **__: found)
    done = CliRunner().invoke(app, arguments(run, card_file, tmp_path / "bundle"))
    assert done.exit_code == 0, done.output
    bundle = open_bundle(tmp_path / "bundle")
    artifact = bundle.artifact_for("tensorrt")
    assert artifact.quantisation.endswith("scales from training")
    assert bundle.artifact_for("cpu").quantisation.endswith("scales of weights from training")
    graph = onnx.load_from_string(bundle.contents[artifact.path])
    stored = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    for name, scale in found.inputs.items():
        assert stored[f"{name}/scale"] == np.float32(scale)
    for name, scales in found.weights.items():
        np.testing.assert_array_equal(stored[f"{name}/scale"], scales)


def test_other_precisions_stand_behind_int8(
    run: TrainingRun, card_file: Path, tmp_path: Path
) -> None:
    given = arguments(run, card_file, tmp_path / "bundle", "--also=float16", "--also=float32")
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    bundle = open_bundle(tmp_path / "bundle")
    made = [(each.runtime, each.precision) for each in bundle.manifest.detector.artifacts]
    assert made == [
        ("cpu", "int8"),
        ("tensorrt", "int8"),
        ("tensorrt", "float16"),
        ("cpu", "float32"),
    ]
    assert bundle.artifact_for("tensorrt").precision == "int8"
    judged = {each.artifact for each in bundle.manifest.parity}
    assert "detector.tensorrt.float16.onnx" in judged
    assert "detector.cpu.float32.onnx" not in judged
    refused = CliRunner().invoke(app, [*given, "--also=float8"])
    assert isinstance(refused.exception, SettingsError)
