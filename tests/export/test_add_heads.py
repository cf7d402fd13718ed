"""Heads join a bundle: measured, gated, and the detector's finds the same to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from calibration.labelled_cells import LabelledCells
from calibration.ranges import measure_ranges
from edge_runtime.attribute_head import AttributeHead
from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import (
    Artifact,
    Bundle,
    CalibrationSummary,
    ModelCard,
    ParityRecord,
    Runtime,
    open_bundle,
)
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, DataError, SettingsError
from edge_runtime.types import Float32Array, UInt8Image
from export import float_onnx
from export.bundle_writer import BundleDraft, detector_spec, write_bundle
from export.cli import app
from export.feature_maps import check_feature_maps, expose_feature_maps
from export.head_evaluation import ClassAnswers
from export.qdq import quantise_for_cpu, quantise_for_tensorrt, tensors_to_measure
from tests.export.toy_heads import (
    COLOURS,
    LAYERS,
    MAPS,
    SIDE,
    head_run,
    layered_detector,
    toy_attribute_head,
    toy_classifier,
)

pytest.importorskip("onnx")
pytest.importorskip("yaml")


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand-made graphs stand for the checkpoints; everything after them is real."""

    def detector(
        checkpoint: Path,
        out: Path,
        image_size: int,
        *,
        feature_layers: tuple[int, ...] = (),
        one_to_one: bool | None = None,
    ) -> Path:
        assert image_size == SIDE
        # The bundle's detector has the classic head.
        assert one_to_one is False
        seed = 1 if checkpoint.name == "other.pt" else 0
        assert feature_layers == LAYERS
        out.write_bytes(layered_detector(tapped=True, seed=seed))
        return out

    monkeypatch.setattr(float_onnx, "float_onnx", detector)
    monkeypatch.setattr(float_onnx, "float_classifier", lambda _: toy_classifier())
    monkeypatch.setattr(float_onnx, "float_attribute_head", lambda *_: toy_attribute_head())


def pictures() -> list[Float32Array]:
    rng = np.random.default_rng(3)
    return [rng.random((1, 3, SIDE, SIDE), np.float32) for _ in range(4)]


@pytest.fixture(scope="module")
def quantised() -> dict[Runtime, bytes]:
    model = layered_detector(tapped=False)
    ranges = measure_ranges(model, tensors_to_measure(model), pictures)
    return {
        "cpu": quantise_for_cpu(model, ranges),
        "tensorrt": quantise_for_tensorrt(model, ranges),
    }


@pytest.fixture
def bundle(quantised: dict[Runtime, bytes], tmp_path: Path) -> Bundle:
    artifacts = [
        Artifact(
            path=f"detector.{name}.int8.onnx", runtime=name, precision="int8", quantisation="Q/DQ"
        )
        for name in quantised
    ]
    draft = BundleDraft(
        name="squares",
        version="0.1.0",
        detector=detector_spec(architecture="toy", image_size=SIDE, artifacts=artifacts),
        calibration=CalibrationSummary(digest="d", images=4, domains={"a": 4}, method="minmax"),
        model_card=ModelCard(
            title="Squares",
            summary="Finds squares.",
            limits=("Squares are no cells.",),
            licence="AGPL-3.0-or-later",
            training_data=("drawn squares",),
            metrics={},
            metrics_of="not measured",
        ),
        contents={f"detector.{name}.int8.onnx": model for name, model in quantised.items()},
    )
    return write_bundle(draft, tmp_path / "old")


def arguments(tmp_path: Path, *more: str, light: float = 1.0) -> list[str]:
    data = tmp_path / "data"
    named = head_run(tmp_path / "named", data, attributes=False, training_light=light)
    judged = head_run(tmp_path / "judged", data, attributes=True, training_light=light)
    (tmp_path / "best.pt").write_bytes(b"checkpoint")
    return [
        "add-heads",
        f"--bundle={tmp_path / 'old'}",
        f"--detector={tmp_path / 'best.pt'}",
        f"--classifier={named}",
        f"--attribute-head={judged}",
        f"--data={data}",
        f"--out={tmp_path / 'new'}",
        "--version=0.2.0",
        "--minimum-cells=20",
        "--date=2026-01-02",
        *more,
    ]


def painted(class_id: int) -> tuple[UInt8Image, Float32Array]:
    pixels = np.full((SIDE, SIDE, 3), 30, np.uint8)
    pixels[8:32, 16:40] = COLOURS[class_id]
    return pixels, np.array([[16, 8, 40, 32]], np.float32)


def test_heads_of_the_new_bundle_answer_as_on_a_device(
    bundle: Bundle, quantised: dict[Runtime, bytes], tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        app, arguments(tmp_path, "--calibration-method=minmax", "--outside-differential=blue")
    )
    assert result.exit_code == 0, (result.output, result.exception)
    opened = open_bundle(tmp_path / "new")
    manifest = opened.manifest
    assert opened.id == "squares-0.2.0"
    assert manifest.detector.thresholds == bundle.manifest.detector.thresholds
    assert manifest.detector.feature_maps == MAPS
    assert manifest.calibration == bundle.manifest.calibration
    assert manifest.classifier is not None
    assert manifest.attribute_head is not None
    assert manifest.classifier.outside_differential == ("blue",)
    assert 0 <= manifest.classifier.abstain_below <= 1
    assert manifest.classifier.temperature > 0
    assert manifest.description == "description.toml"
    assert b"not_assessable" in opened.contents["description.toml"]
    assert [a.runtime for a in manifest.classifier.artifacts] == ["cpu", "tensorrt"]
    cards = manifest.head_cards
    assert cards["classifier"].metrics["test, squares"]["accuracy"] == 1
    assert cards["classifier"].metrics["test, squares"]["F1 blue"] == 1
    # Four of the twelve test squares are green and have no attributes.
    assert cards["attribute_head"].metrics["test, squares"]["cells"] == 8
    assert cards["attribute_head"].metrics["test, squares"]["macro-F1 tint"] == 1
    assert any("on openvino" in n or "on onnxruntime" in n for n in cards["classifier"].metrics)
    page = opened.contents["model_card.md"].decode()
    for said in ("Squares are no cells.", "never seen a blast", "Not shown for: green"):
        assert said in page
    row = backend_row("onnxruntime")
    for runtime in ("cpu", "tensorrt"):
        models = [
            opened.contents[f"{part}.{runtime}.int8.onnx"]
            for part in ("classifier", "attribute_head", "detector")
        ]
        with (
            open_backend(row, models[0], threads=1) as c,
            open_backend(row, models[1], threads=1) as a,
            open_backend(row, models[2], threads=1) as d,
        ):
            classifier = Classifier(manifest.classifier, c)
            head = AttributeHead(manifest.attribute_head, manifest.detector, a)
            for class_id in range(3):
                pixels, box = painted(class_id)
                assert classifier.classify(pixels, box).class_ids.tolist() == [class_id]
                tensor = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
                values, _ = head.judge(d.infer({"images": np.ascontiguousarray(tensor)}), box)
                assert values[0, 1] == class_id


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("runtime", ["cpu", "tensorrt"])
def test_finds_stay_the_same_to_the_bit(
    quantised: dict[Runtime, bytes], runtime: Runtime, backend: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    exposed = expose_feature_maps(quantised[runtime], layered_detector(tapped=True), MAPS)
    row = backend_row(backend)
    with (
        open_backend(row, quantised[runtime], threads=1) as before,
        open_backend(row, exposed, threads=1) as after,
    ):
        for picture in pictures():
            old, new = before.infer({"images": picture}), after.infer({"images": picture})
            assert np.array_equal(old["output0"], new["output0"])
            assert set(new) == {"output0", "features_s4", "features_s8"}
            # Layer 1 is the mean colour of 4 x 4 pixels, to a level of its 255.
            blocks = picture.reshape(1, 3, 16, 4, 16, 4).mean(axis=(3, 5))
            assert new["features_s4"] == pytest.approx(blocks, abs=0.02)


def test_another_checkpoint_is_told_by_its_maps(
    quantised: dict[Runtime, bytes], bundle: Bundle, tmp_path: Path
) -> None:
    other = layered_detector(tapped=True, seed=1)
    exposed = expose_feature_maps(quantised["cpu"], other, MAPS)
    with pytest.raises(DataError, match="made of another checkpoint"):
        check_feature_maps(quantised["cpu"], exposed, other, MAPS, pictures())
    (tmp_path / "other.pt").write_bytes(b"another")
    result = CliRunner().invoke(
        app,
        arguments(tmp_path, f"--detector={tmp_path / 'other.pt'}", "--calibration-method=minmax"),
    )
    assert isinstance(result.exception, DataError)
    assert not (tmp_path / "new").exists()


def test_changed_finds_are_never_passed(quantised: dict[Runtime, bytes]) -> None:
    reference = layered_detector(tapped=True)
    exposed = expose_feature_maps(quantised["tensorrt"], reference, MAPS)
    with pytest.raises(DataError, match="'output0' differs"):
        check_feature_maps(quantised["cpu"], exposed, reference, MAPS, pictures())


def test_maps_that_do_not_fit_are_one_line(quantised: dict[Runtime, bytes]) -> None:
    reference = layered_detector(tapped=True)
    wide = (MAPS[0].model_copy(update={"channels": 64}),)
    with pytest.raises(DataError, match="3 channels, the head wants 64"):
        expose_feature_maps(quantised["cpu"], reference, wide)
    once = expose_feature_maps(quantised["cpu"], reference, MAPS)
    with pytest.raises(DataError, match="start from a bundle without heads"):
        expose_feature_maps(once, reference, MAPS)


def test_ranges_of_dark_training_cells_are_stopped_by_the_gate(
    bundle: Bundle, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, arguments(tmp_path, "--calibration-method=minmax", light=0.05))
    assert isinstance(result.exception, BundleError)
    assert "macro-F1 points" in str(result.exception)
    assert "is not written" in str(result.exception)
    assert not (tmp_path / "new").exists()
    assert "points lost" in result.output, "the table is shown all the same"


def test_best_method_is_chosen_per_artifact_and_named(bundle: Bundle, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, arguments(tmp_path))
    assert result.exit_code == 0, (result.output, result.exception)
    manifest = open_bundle(tmp_path / "new").manifest
    assert manifest.classifier is not None
    for artifact in manifest.classifier.artifacts:
        assert "24 training cells" in artifact.quantisation
        assert any(m in artifact.quantisation for m in ("minmax", "percentile", "mse", "entropy"))
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert f"cpu {method}: " in result.output


def test_same_runs_same_bytes_and_heads_can_be_replaced(bundle: Bundle, tmp_path: Path) -> None:
    given = arguments(tmp_path, "--calibration-method=minmax")
    assert CliRunner().invoke(app, given).exit_code == 0
    first = open_bundle(tmp_path / "new")
    again = CliRunner().invoke(app, [*given, f"--out={tmp_path / 'again'}"])
    assert again.exit_code == 0, again.exception
    assert open_bundle(tmp_path / "again").sha256 == first.sha256
    # On a bundle that has heads: the detector's graphs are right already.
    renewed = CliRunner().invoke(
        app, [*given, f"--bundle={tmp_path / 'new'}", f"--out={tmp_path / 'renewed'}"]
    )
    assert renewed.exit_code == 0, renewed.exception
    assert open_bundle(tmp_path / "renewed").sha256 == first.sha256


def test_what_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    given = [each for each in arguments(tmp_path) if "--detector" not in each]
    for change, kind, said in (
        (given, SettingsError, "give --detector"),
        ([*given[:2], *given[4:]], SettingsError, "no head to add"),
        ([*given, "--minimum-cells=25"], DataError, "at least 25 are needed"),
        ([*given, "--calibration-method=guess"], SettingsError, "choose one of"),
    ):
        result = CliRunner().invoke(app, change)
        assert isinstance(result.exception, kind), (said, result.output, result.exception)
        assert said in str(result.exception)
    file = tmp_path / "named" / "cells.json"
    cells = LabelledCells.model_validate_json(file.read_text())
    turned = cells.model_copy(update={"classes": ("green", "red", "blue")})
    file.write_text(turned.model_dump_json())
    result = CliRunner().invoke(app, given)
    assert "tells red, green, blue apart" in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_a_picture_that_is_evaluated_on_sets_no_range(bundle: Bundle, tmp_path: Path) -> None:
    given = arguments(tmp_path)
    data = tmp_path / "data" / "squares"
    (data / "train" / "00.png").write_bytes((data / "val" / "00.png").read_bytes())
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, DataError)
    assert "is also evaluated on" in str(result.exception)


def test_every_layer_but_the_last_is_in_int8() -> None:
    import onnx

    made = toy_classifier()
    rng = np.random.default_rng(0)
    crops = [rng.random((2, 3, 16, 16), np.float32)]
    ranges = measure_ranges(made.model, tensors_to_measure(made.model), lambda: crops)
    head = toy_attribute_head()
    feeds = [
        {
            "features_s4": rng.random((1, 3, 16, 16), np.float32),
            "features_s8": rng.random((1, 3, 8, 8), np.float32),
            "boxes": np.array([[8, 8, 40, 40], [0, 0, 20, 20]], np.float32),
        }
    ]
    head_ranges = measure_ranges(head.model, tensors_to_measure(head.model), lambda: feeds)
    for model, found, floats in (
        (made.model, ranges, {"logits"}),
        (head.model, head_ranges, {"attribute_logits"}),
    ):
        graph = onnx.load_from_string(quantise_for_cpu(model, found)).graph
        makers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if node.op_type in {"Conv", "Gemm"}:
                int8 = makers[node.input[1]].op_type if node.input[1] in makers else "stored"
                assert (int8 == "DequantizeLinear") == (node.output[0] not in floats)
        rounded = {n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
        kinds = {makers[name].op_type for name in rounded if name in makers}
        assert not kinds & {"RoiAlign", "GlobalAveragePool"}


def parity_of(bundle: Bundle, figure: str) -> dict[tuple[str, str], ParityRecord]:
    return {
        (each.artifact, each.backend): each
        for each in bundle.manifest.parity
        if each.figure == figure
    }


def test_recall_of_blasts_has_a_gate_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    given = arguments(tmp_path, "--blast-class=green", "--blast-class=blue")
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "Blast recall on validation cells" in result.output
    written = open_bundle(tmp_path / "new")
    assert written.manifest.classifier is not None
    assert written.manifest.classifier.blasts == ("green", "blue")
    found = parity_of(written, "blast recall")
    assert {"classifier.cpu.int8.onnx", "classifier.tensorrt.int8.onnx"} == {
        artifact for artifact, _ in found
    }
    for record in found.values():
        assert record.allowed_points == 0.5
        assert all(each.float_figure == 1 for each in record.domains.values())
    # Heads that replace others replace their verdicts.
    verdicts = len(written.manifest.parity)
    again = [each.replace("/old", "/new").replace("0.2.0", "0.3.0") for each in given]
    again = [
        each if not each.startswith("--out") else f"--out={tmp_path / 'newer'}" for each in again
    ]
    assert CliRunner().invoke(app, again).exit_code == 0
    assert len(open_bundle(tmp_path / "newer").manifest.parity) == verdicts


def test_a_classifier_that_loses_blasts_is_not_written(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ClassAnswers.blast_recall

    def lossy(
        self: ClassAnswers, classes: tuple[str, ...], blasts: tuple[str, ...], variant: str
    ) -> dict[str, float]:
        found = asked(self, classes, blasts, variant)
        return {d: f - (0.0 if variant == "float" else 0.006) for d, f in found.items()}

    monkeypatch.setattr(ClassAnswers, "blast_recall", lossy)
    result = CliRunner().invoke(app, arguments(tmp_path, "--blast-class=green"))
    assert isinstance(result.exception, BundleError)
    assert "0.60 blast recall points" in str(result.exception)
    assert not (tmp_path / "new").exists()
    allowed = arguments(tmp_path, "--blast-class=green", "--allowed-blast-points=0.7")
    assert CliRunner().invoke(app, allowed).exit_code == 0


def test_a_strange_blast_class_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, arguments(tmp_path, "--blast-class=myeloblast"))
    assert isinstance(result.exception, SettingsError)
    assert "no class of it" in str(result.exception)
    both = arguments(tmp_path, "--blast-class=green", "--outside-differential=green")
    result = CliRunner().invoke(app, both)
    assert "outside the differential" in str(result.exception)


def test_a_blast_called_another_blast_is_called_a_blast() -> None:
    said = np.zeros((6, 3), np.float32)
    said[np.arange(6), [0, 2, 1, 1, 0, 0]] = 1
    answers = ClassAnswers(np.array(["a"] * 6), np.array([0, 1, 1, 2, 2, 0]), {"int8": said})
    # Of the four blasts, three are called green or blue.
    assert answers.blast_recall(("red", "green", "blue"), ("green", "blue"), "int8") == {"a": 0.75}
    none = ClassAnswers(np.array(["a"]), np.array([0]), {"int8": said[:1]})
    with pytest.raises(DataError, match="none is a blast"):
        none.blast_recall(("red", "green", "blue"), ("green",), "int8")


def test_heads_in_half_precision_beside_int8(bundle: Bundle, tmp_path: Path) -> None:
    given = arguments(tmp_path, "--also=float16", "--also=float32")
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, (result.output, result.exception)
    manifest = open_bundle(tmp_path / "new").manifest
    for head in (manifest.classifier, manifest.attribute_head):
        assert head is not None
        precisions = [each.precision for each in head.artifacts]
        assert precisions == ["int8", "int8", "float16", "float32"]
    judged = {each.artifact for each in manifest.parity}
    for name in ("classifier", "attribute_head"):
        assert f"{name}.tensorrt.float16.onnx" in judged
