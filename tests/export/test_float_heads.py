"""Heads as float ONNX compute what their checkpoints compute, on every backend, or are refused."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.attributes import Attribute, AttributeSchema
from edge_runtime.backends import backend_row, open_backend
from edge_runtime.bundle import CropInputSpec
from edge_runtime.errors import BackendError, DataError, SettingsError
from edge_runtime.types import Float32Array
from export.float_onnx import float_attribute_head, float_classifier, float_onnx

pytestmark = pytest.mark.train
SIDE = 64
SCHEMA = AttributeSchema(
    name="toy",
    attributes=(
        Attribute(name="shape", values=("round", "oval", "bent")),
        Attribute(name="grains", values=("no", "yes")),
    ),
)
CROP = CropInputSpec(name="crops", width=32, height=32, scale=1 / 255, pad_value=255, margin=0.1)

# OpenVINO (seen with 2026.4) ends the process on a batch of none; a device asks no head then.
CALLS = [
    ("onnxruntime", 0),
    ("onnxruntime", 1),
    ("onnxruntime", 7),
    ("openvino", 1),
    ("openvino", 7),
]


def infer(model: bytes, backend: str, arrays: dict[str, Any]) -> dict[str, Float32Array]:
    try:
        row = backend_row(backend)
    except BackendError as error:
        pytest.skip(str(error))
    with open_backend(row, model, threads=1) as loaded:
        return loaded.infer(arrays)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector with ReLU and one class."""
    import torch
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.tasks import yaml_model_load

    folder = tmp_path_factory.mktemp("detector")
    document = yaml_model_load("yolo11n.yaml")
    document = {key: value for key, value in document.items() if key != "yaml_file"}
    document |= {"nc": 1, "activation": "torch.nn.ReLU()"}
    (folder / "yolo11n-relu.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    torch.manual_seed(0)
    model = YOLO(str(folder / "yolo11n-relu.yaml"), task="detect", verbose=False)
    model.save(folder / "best.pt")
    return folder / "best.pt"


@pytest.fixture(scope="module")
def classifier() -> dict[str, Any]:
    """What a trainer saves, with weights that differ from layer to layer."""
    import timm
    import torch

    torch.manual_seed(1)
    network = timm.create_model("resnet10t", channels=(8, 8, 16, 16), num_classes=3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return {
        "kind": "classifier",
        "architecture": "resnet10t",
        "model_args": {"channels": [8, 8, 16, 16]},
        "classes": ["one", "two", "three"],
        "input": CROP.model_dump(),
        "mean": [0.7, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "state": network.state_dict(),
    }


@pytest.fixture(scope="module")
def attribute_head(detector: Path) -> dict[str, Any]:
    import torch

    from train.models.attribute_head import AttriHead

    torch.manual_seed(2)
    return {
        "kind": "attribute_head",
        "attributes": SCHEMA.model_dump(),
        "outputs": "per_value",
        "layers": [2, 4],
        "strides": [4, 8],
        "channels": [64, 128],
        "convolutions": [128, 64, 64],
        "dropout": 0.2,
        "not_for_classes": ["three"],
        "detector_sha256": hashlib.sha256(detector.read_bytes()).hexdigest(),
        "state": AttriHead(192, 5).state_dict(),
    }


def save(document: Any, folder: Path, name: str = "head.pt") -> Path:
    import torch

    torch.save(document, folder / name)
    return folder / name


@pytest.mark.parametrize(("backend", "cells"), CALLS)
def test_classifier_computes_what_its_checkpoint_computes(
    classifier: dict[str, Any], tmp_path: Path, backend: str, cells: int
) -> None:
    import timm
    import torch

    made = float_classifier(save(classifier, tmp_path))
    assert made.spec.classes == ("one", "two", "three")
    assert made.spec.input == CROP
    crops = np.random.default_rng(cells).random((cells, 3, 32, 32), np.float32)
    found = infer(made.model, backend, {"crops": crops})["logits"]
    network = timm.create_model("resnet10t", channels=(8, 8, 16, 16), num_classes=3)
    network.load_state_dict(classifier["state"])
    mean, std = (torch.tensor(classifier[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network.eval()((torch.from_numpy(crops) - mean) / std).numpy()
    assert found.shape == (cells, 3)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("backend", "cells"), CALLS)
def test_attribute_head_computes_what_its_checkpoint_computes(
    attribute_head: dict[str, Any], detector: Path, tmp_path: Path, backend: str, cells: int
) -> None:
    import torch

    from train.models.attribute_head import AttriHead, pool_cells

    made = float_attribute_head(save(attribute_head, tmp_path), detector, SIDE)
    assert made.layers == (2, 4)
    assert made.spec.reads == ("features_s4", "features_s8")
    rng = np.random.default_rng(cells)
    fine = rng.normal(size=(1, 64, 16, 16)).astype(np.float32)
    coarse = rng.normal(size=(1, 128, 8, 8)).astype(np.float32)
    boxes = rng.uniform(0, SIDE / 2, (cells, 2)).astype(np.float32)
    boxes = np.concatenate([boxes, boxes + rng.uniform(4, 30, (cells, 2))], 1).astype(np.float32)
    if cells > 3:
        # In the corners, at and beyond the border, and smaller than a pixel of the maps.
        boxes[:4] = [[0, 0, 9, 8], [50, 48, 64, 64], [-6, -5, 20, 20], [30, 30, 31, 31]]
    arrays = {"features_s4": fine, "features_s8": coarse, "boxes": boxes}
    found = infer(made.model, backend, arrays)["attribute_logits"]
    head = AttriHead(192, 5)
    head.load_state_dict(attribute_head["state"])
    with torch.no_grad():
        maps = [torch.from_numpy(each) for each in (fine, coarse)]
        pooled = pool_cells(maps, (4, 8), torch.from_numpy(boxes), torch.zeros(cells))
        expected = head.eval()(pooled).numpy()
    assert found.shape == (cells, 5)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_detector_with_feature_maps_finds_the_same(
    detector: Path, tmp_path: Path, backend: str
) -> None:
    import torch
    from ultralytics import YOLO

    from train.models.attribute_head import FeatureTap

    plain = float_onnx(detector, tmp_path / "plain.onnx", SIDE).read_bytes()
    tapped = float_onnx(detector, tmp_path / "t.onnx", SIDE, feature_layers=(2, 4)).read_bytes()
    picture = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    alone = infer(plain, backend, {"images": picture})
    found = infer(tapped, backend, {"images": picture})
    assert set(found) == {"output0", "features_s4", "features_s8"}
    assert found["output0"] == pytest.approx(alone["output0"], abs=1e-4)
    network: Any = YOLO(str(detector)).model
    network.float().fuse().eval()
    with torch.no_grad(), FeatureTap(network.model, (2, 4)) as tap:
        network(torch.from_numpy(picture))
    for name, expected in zip(("features_s4", "features_s8"), tap.maps, strict=True):
        assert found[name].shape == expected.shape
        assert found[name] == pytest.approx(expected.numpy(), abs=1e-4)


def test_same_checkpoint_same_bytes(
    classifier: dict[str, Any], attribute_head: dict[str, Any], detector: Path, tmp_path: Path
) -> None:
    file = save(classifier, tmp_path)
    first, again = float_classifier(file).model, float_classifier(file).model
    assert first == again
    assert str(tmp_path).encode() not in first
    file = save(attribute_head, tmp_path)
    first, again = (float_attribute_head(file, detector, SIDE).model for _ in range(2))
    assert first == again


CLASSIFIER_FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"kind": "attribute_head"}, DataError, "no classifier's checkpoint"),
    ({"architecture": "resnet99x"}, SettingsError, "architecture 'resnet99x'"),
    ({"architecture": "hf-hub:some/model"}, SettingsError, "architecture 'hf-hub"),
    ({"architecture": "mobilenetv3_small_050", "model_args": {}}, DataError, "another network"),
    ({"model_args": {"checkpoint_path": "a.pt"}}, SettingsError, "reads weights from elsewhere"),
    ({"model_args": {"colour": 3}}, SettingsError, "architecture 'resnet10t'"),
    ({"classes": ["one", "two"]}, DataError, "another architecture or class list"),
    ({"input": {"name": "crops"}}, DataError, "input.width"),
]


@pytest.mark.parametrize(("change", "kind", "said"), CLASSIFIER_FAULTS)
def test_classifier_that_does_not_fit_is_one_line(
    classifier: dict[str, Any],
    tmp_path: Path,
    change: dict[str, Any],
    kind: type[Exception],
    said: str,
) -> None:
    with pytest.raises(kind, match=said) as caught:
        float_classifier(save({**classifier, **change}, tmp_path))
    assert "\n" not in str(caught.value)


HEAD_FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"kind": "classifier"}, DataError, "of kind 'classifier', no attribute head"),
    ({"detector_sha256": "0" * 64}, DataError, "trained on the maps of detector 000000000000"),
    ({"strides": [4]}, DataError, "do not describe the same maps"),
    ({"channels": [32, 128]}, DataError, "another architecture or class list"),
    ({"outputs": "per_attribute"}, SettingsError, "has 3 values"),
    (
        {"attributes": {"name": "small", "attributes": SCHEMA.model_dump()["attributes"][:1]}},
        DataError,
        "schema 'small' needs 3 outputs, its weights have 5",
    ),
]


@pytest.mark.parametrize(("change", "kind", "said"), HEAD_FAULTS)
def test_attribute_head_that_does_not_fit_is_one_line(
    attribute_head: dict[str, Any],
    detector: Path,
    tmp_path: Path,
    change: dict[str, Any],
    kind: type[Exception],
    said: str,
) -> None:
    with pytest.raises(kind, match=said) as caught:
        float_attribute_head(save({**attribute_head, **change}, tmp_path), detector, SIDE)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_plain_checkpoints_are_refused_unopened(
    classifier: dict[str, Any], detector: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="No such file"):
        float_classifier(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    for file in (tmp_path / "text.pt", detector):
        with pytest.raises(DataError, match="not a file of plain weights"):
            float_classifier(file)
    # An object with code of its own beside the tensors.
    strange = {**copy.copy(classifier), "note": Path("runs/code/when/read")}
    with pytest.raises(DataError, match="not a file of plain weights"):
        float_classifier(save(strange, tmp_path))
