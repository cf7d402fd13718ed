"""Figures of an AttriDet: three rules, independent of batches, wrong checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch
from ultralytics.nn.tasks import DetectionModel

from edge_runtime.errors import DataError, SettingsError
from tests.train.leukemia_fields import write_leukemia_fields
from train import evaluate_attridet
from train.attridet_folder import read_fields
from train.attridet_recipe import AttriDetRecipe
from train.cli import app
from train.datasets.schemas import load_spec
from train.evaluate_attridet import (
    Judgement,
    judge_attridet,
    open_run,
    require_one_device,
)
from train.models.attridet import AttriDetModel, AttriDetSettings

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]
SPEC = load_spec("leukemia-attri")


def model_file(file: Path, *, plain: bool = False, **changes: Any) -> Path:
    """A checkpoint with random weights that gives finds of every class."""
    torch.manual_seed(0)
    names = dict(enumerate(changes.pop("classes", SPEC.classes)))
    schema = changes.pop("schema", SPEC.attributes)
    model: Any
    if plain:
        model = DetectionModel("yolo11n.yaml", nc=len(names), verbose=False)
    else:
        model = AttriDetModel("yolo11n.yaml", AttriDetSettings(attributes=schema), nc=len(names))
    model.names = names
    # Untrained scores lie below the threshold.
    for branch in model.model[-1].cv3:
        branch[-1].bias.data += 6.0
    torch.save({"model": model}, file)
    return file


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> AttriDetRecipe:
    root = tmp_path_factory.mktemp("root")
    write_leukemia_fields(root / "fields", {"train": 4, "test": 9})
    # Another shape among them, so that batches mix shapes.
    picture = min((root / "fields" / "images" / "test").iterdir())
    pixels = np.asarray(cv2.imread(str(picture)), np.uint8)
    cv2.imwrite(str(picture), cv2.resize(pixels, (96, 144)))
    return AttriDetRecipe.model_validate(
        {
            "name": "tiny",
            "purpose": "a test",
            "data_root": str(root),
            "fields": {"dataset": "leukemia-attri", "path": "fields"},
            "model": "yolo11n.yaml",
            "image_size": 64,
            "phases": [{"epochs": 1}],
        }
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("models") / "own.pt")


def rounded(judgement: Judgement) -> str:
    return json.dumps(
        json.loads(json.dumps(asdict(judgement)), parse_float=lambda v: round(float(v), 6))
    )


def test_batches_of_one_and_of_eight_give_the_same_figures(
    recipe: AttriDetRecipe, checkpoint: Path
) -> None:
    one = judge_attridet(recipe, checkpoint, "test", batch=1)
    assert rounded(one) == rounded(judge_attridet(recipe, checkpoint, "test", batch=8))
    assert one.detection.images == 9
    assert {each.rule for each in one.attributes} == {"nearest", "one_to_one", "oracle"}
    # Random weights still answer something for most cells.
    nearest = one.rule("nearest")
    assert nearest is not None
    assert nearest.attributes[0].cells > 10
    assert nearest.attributes[0].missed == 0


def test_finds_left_out_of_the_head_change_no_figure(
    recipe: AttriDetRecipe, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = recipe.fields.model_copy(update={"most": {"test": 2}})
    recipe = recipe.model_copy(update={"fields": fields})
    few = judge_attridet(recipe, checkpoint, "test")
    monkeypatch.setattr(
        evaluate_attridet, "_comparable", lambda boxes, finds: np.arange(len(finds))
    )
    assert rounded(few) == rounded(judge_attridet(recipe, checkpoint, "test"))


def test_the_oracle_sees_the_labelled_boxes(
    recipe: AttriDetRecipe, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = read_fields(recipe.fields, Path(recipe.data_root))
    cells = sum(len(each) for each in fields.of_split("test"))
    seen: list[Any] = []

    def remember(self: Any, maps: Any, boxes: Any, index: Any) -> Any:
        seen.append((boxes.clone(), maps[0].shape))
        return torch.zeros(len(boxes), sum(self.widths))

    monkeypatch.setattr(AttriDetModel, "attribute_logits", remember)
    judged = judge_attridet(recipe, checkpoint, "test")
    oracle = judged.rule("oracle")
    assert oracle is not None
    assert oracle.attributes[0].cells == cells
    # One picture's maps at a time, and every labelled cell once.
    assert {shape[0] for _, shape in seen} == {1}
    # A cell of diameter d in a picture of width 144 is d * 64 / 144 pixels in the input, up to
    # whole pixels of the fitted picture.
    first = fields.of_split("test")[1]
    wide = first.boxes_xywhn[:, 2:] * np.array([144, 96]) * 64 / 144
    sizes = np.concatenate([(b[:, 2:] - b[:, :2]).numpy() for b, _ in seen])
    for size in wide:
        assert (np.abs(sizes - size).max(axis=1) < 0.2).any()


def test_a_plain_detector_has_no_attribute_figures(recipe: AttriDetRecipe, tmp_path: Path) -> None:
    judged = judge_attridet(recipe, model_file(tmp_path / "plain.pt", plain=True), "test")
    assert judged.attributes == ()
    assert judged.detection.cells > 0


def test_other_classes_or_attributes_than_the_checkpoints_are_one_line(
    recipe: AttriDetRecipe, tmp_path: Path
) -> None:
    other = tmp_path / "other.pt"
    model_file(other, classes=SPEC.classes[::-1])
    with pytest.raises(DataError, match=r"its classes are Basophil, .*; leukemia-attri has None,"):
        judge_attridet(recipe, other, "test")
    model_file(other, schema=load_spec("pbc-attributes").attributes)
    with pytest.raises(DataError, match="attribute head is for schema 'wbcatt'"):
        judge_attridet(recipe, other, "test")


def test_a_split_without_pictures_and_a_folder_without_a_run(
    recipe: AttriDetRecipe, checkpoint: Path, tmp_path: Path
) -> None:
    write_leukemia_fields(tmp_path / "fields", {"train": 4})
    moved = recipe.model_copy(update={"data_root": str(tmp_path)})
    with pytest.raises(DataError, match="no picture in split 'test'; it has train, val"):
        judge_attridet(moved, checkpoint, "test")
    with pytest.raises(DataError, match="no finished run"):
        open_run(tmp_path)
    with pytest.raises(SettingsError, match=r"0 CUDA devices|takes one device"):
        require_one_device("0,1")


def test_the_command_writes_figures_and_charts(
    recipe: AttriDetRecipe, checkpoint: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.pt").write_bytes(checkpoint.read_bytes())
    (run / "training.json").write_text(
        json.dumps({"recipe": recipe.model_dump(mode="json"), "checkpoint": "best.pt"})
    )
    shown = CliRunner().invoke(
        app,
        ["judge-attridet", "--run", str(run), "--out", str(tmp_path / "out"), "--device", "cpu"],
        env={"COLUMNS": "160"},
    )
    assert shown.exit_code == 0, shown.output
    assert "all ones" in shown.output
    document = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert document["confidence"] == 0.001
    assert document["suppression_iou"] == 0.6
    assert set(document["attributes"]) == {"nearest", "one_to_one", "oracle"}
    for chart in ("classes.png", "attributes.png"):
        pixels = np.asarray(cv2.imread(str(tmp_path / "out" / chart)), np.uint8)
        assert pixels.shape[1] > 600
        assert pixels.std() > 10
