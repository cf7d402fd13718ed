"""Measuring a run: figures, plots, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from edge_runtime.errors import DataError, StoreError
from edge_runtime.film_report import RESEARCH_USE
from tests.train.drawn_cells import CLASSES, write_cells_folder

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from tests.train.test_classify import recipe_for  # noqa: E402
from train.classify import train_classifier  # noqa: E402
from train.cli import app  # noqa: E402
from train.judging import judge_run  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_cells_folder(root)
    return root


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    recipe = recipe_for(data, phases=[{"epochs": 1, "lr": 0.01}])
    return train_classifier(recipe, data / "run").parent


def test_figures_and_plots(run: Path, tmp_path: Path) -> None:
    metrics = judge_run(run, "test", tmp_path / "out")
    assert metrics.cells == 4
    assert [each.name for each in metrics.classes] == list(CLASSES)
    document = json.loads((tmp_path / "out" / "classification.json").read_text())
    assert document["about"] == {"run": "drawn", "split": "test", "crops": "labelled boxes"}
    assert document["accuracy"] == metrics.accuracy
    assert sum(map(sum, document["confusion"])) == 4
    assert sum(each["cells"] for each in document["reliability"]) == 4
    assert document["notice"] == RESEARCH_USE
    for name in ("confusion.png", "reliability.png"):
        picture = cv2.imread(str(tmp_path / "out" / name))
        assert picture is not None
        assert min(picture.shape[:2]) > 200
        # Something is drawn: many colours.
        assert len({tuple(colour) for colour in picture.reshape(-1, 3)[::7].tolist()}) > 10


def test_the_command_prints_the_table(run: Path, data: Path, tmp_path: Path) -> None:
    flags = ["--run", str(run), "--split", "val", "--data", str(data), "--device", "cpu"]
    answer = CliRunner().invoke(app, ["judge", *flags, "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    assert "neutrophil" in answer.output
    assert "macro F1" in answer.output
    assert RESEARCH_USE in answer.output


def test_what_cannot_be_measured(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classifier\.pt: No such file"):
        judge_run(data, "test", tmp_path / "out")
    with pytest.raises(DataError, match="give --data the folder the data lies in"):
        judge_run(run, "test", tmp_path / "out", data=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        judge_run(run, "test", tmp_path / "file")


def test_a_class_list_that_is_not_the_checkpoints(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("classifier.pt", "training.json"):
        (other / name).write_bytes((run / name).read_bytes())
    cells = json.loads((run / "cells.json").read_text())
    cells["classes"] = cells["classes"][::-1]
    (other / "cells.json").write_text(json.dumps(cells))
    with pytest.raises(DataError, match="are not the checkpoint's, neutrophil, lymphocyte"):
        judge_run(other, "test", tmp_path / "out")
