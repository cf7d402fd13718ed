"""An attribute head on a frozen detector: nothing below it moves, and the run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import DataError, SettingsError
from tests.train.drawn_cells import CLASSES, NAMES, write_cells_folder

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from train.datasets.cell_windows import WindowSpec  # noqa: E402
from train.describe import (  # noqa: E402
    DescribeRecipe,
    FrozenFeatures,
    load_describe_recipe,
    train_attribute_head,
)
from train.models.cell_classifier import load_weights  # noqa: E402
from train.own_checkpoint import load_own_checkpoint  # noqa: E402

pytestmark = pytest.mark.train

LAYERS = (2, 4)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ultralytics import YOLO

    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("detector") / "tiny.pt"
    model: Any = YOLO("yolo11n.yaml", task="detect")
    model.save(str(file))
    return file


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells")
    write_cells_folder(root, train=8)
    return root


def recipe_for(root: Path, detector: Path, **changes: Any) -> DescribeRecipe:
    document: dict[str, Any] = {
        "name": "drawn", "purpose": "test", "data_root": str(root),
        "classes": (*CLASSES, "monocyte"), "detector": str(detector), "input_size": 96,
        "sources": [{"dataset": "pbc-attributes", "path": "pbc-attributes"}],
        "window": WindowSpec(size=64, fitted_px=(20, 40), restained=0, lens=0),
        "convolutions": (8, 8, 8), "epochs": 2, "batch": 4, "ema": 0.5, "lr": 0.003,
    }  # fmt: skip
    return DescribeRecipe.model_validate({**document, **changes})


def test_features_stay_bit_identical_and_give_the_detectors_maps(detector: Path) -> None:
    own = load_own_checkpoint(detector).eval()
    features = FrozenFeatures(own, LAYERS)
    before = {name: each.clone() for name, each in features.state_dict().items()}
    features.train()
    assert not any(module.training for module in features.modules())
    pictures = torch.rand(2, 3, 64, 96)
    maps = features(pictures)
    assert [tap.layer for tap in features.taps] == list(LAYERS)
    for found, tap in zip(maps, features.taps, strict=True):
        assert found.shape == (2, tap.channels, 64 // tap.stride, 96 // tap.stride)
        assert not found.requires_grad
    after = features.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())
    # The same maps as in the whole detector.
    seen: list[Any] = []
    layers: Any = own.model
    handle = layers[LAYERS[1]].register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        own(pictures)
    handle.remove()
    assert torch.equal(seen[0], maps[1])


def test_layers_behind_a_junction_are_refused(detector: Path) -> None:
    with pytest.raises(SettingsError, match="no plain chain"):
        FrozenFeatures(load_own_checkpoint(detector), (16,))


def test_a_run_and_its_checkpoint(cells: Path, detector: Path, tmp_path: Path) -> None:
    said: list[str] = []
    digest = detector.read_bytes()
    file = train_attribute_head(recipe_for(cells, detector), tmp_path / "run", say=said.append)
    document = load_weights(file)
    assert document["kind"] == "attribute_head"
    assert [each["name"] for each in document["attributes"]["attributes"]] == list(NAMES)
    # No drawn cell is a monocyte, so nothing is known of a monocyte's attributes.
    assert document["not_for_classes"] == ["monocyte"]
    assert document["convolutions"] == [8, 8, 8]
    assert len(said) == 2
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["cells_with_attributes"] == {"train": 8, "val": 4, "test": 4}
    assert record["detector_sha256"] == document["detector_sha256"]
    assert detector.read_bytes() == digest


def test_training_lowers_the_loss(cells: Path, detector: Path, tmp_path: Path) -> None:
    recipe = recipe_for(cells, detector, epochs=12, dropout=0.0, loss="cross_entropy")
    train_attribute_head(recipe, tmp_path / "run")
    history = json.loads((tmp_path / "run" / "training.json").read_text())["history"]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


def test_a_resumed_run_is_the_uninterrupted_one(
    cells: Path, detector: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(cells, detector, epochs=4)
    whole = train_attribute_head(recipe, tmp_path / "whole")

    class Interrupted(Exception):  # noqa: N818
        pass

    def say(line: str) -> None:
        if line.startswith("epoch 3 "):
            raise Interrupted

    with pytest.raises(Interrupted):
        train_attribute_head(recipe, tmp_path / "broken", say=say)
    torch.manual_seed(99)
    resumed = train_attribute_head(recipe, tmp_path / "broken", resume=True)
    one, other = load_weights(whole)["state"], load_weights(resumed)["state"]
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (load_weights(tmp_path / each / "last.pt") for each in ("whole", "broken"))
    assert all(torch.equal(one["head"][name], other["head"][name]) for name in one["head"])
    with pytest.raises(SettingsError, match="begun with another recipe"):
        train_attribute_head(
            recipe.model_copy(update={"lr": 0.1}), tmp_path / "broken", resume=True
        )


def test_what_cannot_be_used(cells: Path, detector: Path, tmp_path: Path) -> None:
    recipe = recipe_for(cells, detector)
    with pytest.raises(DataError, match="no such file"):
        train_attribute_head(recipe, tmp_path / "run", detector=tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(DataError, match="not one of ultralytics"):
        train_attribute_head(recipe, tmp_path / "run", detector=tmp_path / "text.pt")
    with pytest.raises(DataError, match="to resume from"):
        train_attribute_head(recipe, tmp_path / "run", resume=True)
    only = recipe.model_copy(update={"classes": ("monocyte",)})
    with pytest.raises(DataError, match="no cell of the recipe's classes to train on"):
        train_attribute_head(only, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_shipped_recipe_loads_and_another_kind_does_not() -> None:
    assert load_describe_recipe("wbc-attributes").epochs > 0
    with pytest.raises(SettingsError, match="not an attribute head's recipe"):
        load_describe_recipe("wbc-classifier")
