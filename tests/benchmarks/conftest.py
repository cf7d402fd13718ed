"""A detector small enough to time in a test, a bundle around it, and pictures for it.

The model averages 8-pixel patches of a 64-pixel input and scores a patch by its darkness:
it really finds dark squares, so two pipelines that read or fit pictures differently find
different ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.bundle import (
    MANIFEST_NAME,
    Artifact,
    BundledFile,
    CalibrationSummary,
    DetectorSpec,
    InputSpec,
    Manifest,
    ModelCard,
    OutputSpec,
    Thresholds,
    WorkingScale,
)
from edge_runtime.film_report import RESEARCH_USE

SIDE, PATCH = 64, 8
GRID = SIDE // PATCH
CELLS_PER_PICTURE = 3


@pytest.fixture(scope="session")
def patch_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    centres = (np.arange(GRID, dtype=np.float32) + 0.5) * PATCH
    x, y = np.meshgrid(centres, centres)
    side = np.full(GRID * GRID, PATCH, np.float32)
    boxes = np.stack([x.ravel(), y.ravel(), side, side])[None]
    constants = {
        "boxes": boxes,
        # Score is sigmoid(20 - 40 * brightness): above one half from mid-grey downwards.
        "weight": np.full((1, 3, 1, 1), -40 / 3, np.float32),
        "bias": np.array([20], np.float32),
        "flat": np.array([1, 1, GRID * GRID], np.int64),
    }
    nodes = [
        helper.make_node(
            "AveragePool",
            ["images"],
            ["pooled"],
            kernel_shape=[PATCH, PATCH],
            strides=[PATCH, PATCH],
        ),
        helper.make_node("Conv", ["pooled", "weight", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["likely"]),
        helper.make_node("Reshape", ["likely", "flat"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "dark_patches",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, GRID * GRID])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("model") / "patches.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def patch_bundle(patch_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder whose CPU artifact is the model."""
    content = patch_onnx.read_bytes()
    manifest = Manifest(
        schema_version=1,
        name="patches",
        version="1.0.0",
        research_use=RESEARCH_USE,
        files=(
            BundledFile(
                path="patches.onnx", sha256=hashlib.sha256(content).hexdigest(), size=len(content)
            ),
        ),
        detector=DetectorSpec(
            architecture="dark patches",
            classes=("WBC",),
            input=InputSpec(name="images", width=SIDE, height=SIDE, scale=1 / 255, pad_value=114),
            output=OutputSpec(name="output0", decode="xywh_scores"),
            thresholds=Thresholds(score=0.5, nms_iou=0.5, max_cells=100),
            # Patches are never too small, so every picture is looked at once.
            working_scale=WorkingScale(
                cell_px=PATCH, min_cell_px=1, cell_um=13, probe_score=0.5, max_windows=4
            ),
            artifacts=(
                Artifact(
                    path="patches.onnx", runtime="cpu", precision="float32", quantisation="none"
                ),
            ),
        ),
        calibration=CalibrationSummary(digest="none", images=0, domains={}, method="none"),
        model_card=ModelCard(
            title="Dark patches",
            summary="A test model.",
            limits=(),
            licence="AGPL-3.0",
            training_data=(),
            metrics={},
            metrics_of="nothing",
        ),
    )
    folder = tmp_path_factory.mktemp("bundle") / "patches"
    folder.mkdir()
    (folder / "patches.onnx").write_bytes(content)
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def patch_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, each with three dark squares that the model's grid fits."""
    folder = tmp_path_factory.mktemp("pictures") / "smear" / "images" / "test"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    scale = 2
    for index in range(6):
        pixels = np.full((SIDE * scale, SIDE * scale, 3), (215, 190, 230), np.uint8)
        # Every second place only: touching squares would be one dark region.
        places = rng.choice(GRID * GRID // 4, CELLS_PER_PICTURE, replace=False)
        for row, column in (divmod(int(place), GRID // 2) for place in places):
            top, left = 2 * row * PATCH * scale, 2 * column * PATCH * scale
            pixels[top : top + PATCH * scale, left : left + PATCH * scale] = (90, 20, 60)
        assert cv2.imwrite(str(folder / f"picture_{index}.png"), pixels)
    return folder
