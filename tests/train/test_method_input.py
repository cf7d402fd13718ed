"""What a run of a method is given and cannot use: one line, before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch

from edge_runtime.errors import DataError, LeukoscopeError, SettingsError, StoreError
from tests.train.attributed_fields import CLASSES
from tests.train.method_support import HOW, adapt_recipe, sparse_recipe, write_checkpoint
from train import adapt, sparse
from train.cli import app
from train.datasets import yolo_set
from train.method_recipe import AdaptRecipe, SparseRecipe
from train.method_run import How, sparse_fields, train_adapted, train_sparse
from train.phase_run import PhaseRun
from train.step_loss import StepLog, find_row, read_counts

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

RESUMING = How(device="cpu", workers=0, resume=True)


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a training began")

    monkeypatch.setattr(PhaseRun, "train", refuse)


def copied(microscopes: Path, folder: Path, name: str = "cheap") -> Path:
    """A microscope of one's own to spoil; beside it the expensive one."""
    for each in {"expensive", name}:
        shutil.copytree(microscopes / each, folder / each)
    return folder / name


@pytest.mark.parametrize(
    ("place", "method"),
    [
        ("expensive/images/train", "source-only"),
        ("expensive/images/val", "source-only"),
        ("cheap/images/train", "confmix"),
        ("cheap/images/train", "oracle"),
    ],
)
def test_a_truncated_picture_is_named_before_the_first_phase(
    microscopes: Path, tmp_path: Path, place: str, method: str
) -> None:
    copied(microscopes, tmp_path)
    picture = tmp_path / place / "1.png"
    picture.write_bytes(picture.read_bytes()[:400])
    with pytest.raises(DataError, match=rf"{place}/1\.png: truncated PNG.*remove it"):
        train_adapted(adapt_recipe(tmp_path), method, tmp_path / "run", HOW)


def test_what_is_no_picture_is_named(microscopes: Path, tmp_path: Path) -> None:
    target = copied(microscopes, tmp_path)
    (target / "images" / "train" / "9.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"9\.jpg: not an image"):
        train_adapted(adapt_recipe(tmp_path), "stain", tmp_path / "run", HOW)


@pytest.mark.parametrize("method", ["naive", "masked", "sla-det"])
def test_a_truncated_sparse_picture_is_named(
    microscopes: Path, tmp_path: Path, method: str
) -> None:
    folder = copied(microscopes, tmp_path)
    picture = folder / "images" / "train" / "2.png"
    picture.write_bytes(picture.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"2\.png: truncated PNG"):
        train_sparse(sparse_recipe(tmp_path), method, tmp_path / "run", HOW)


@pytest.mark.parametrize("row", [row.name for row in sparse.METHODS if not row.every_label])
@pytest.mark.parametrize("rows", ["", "train,0.png,0.1,0.1,0.6,0.9\n"])
def test_a_picture_without_a_patch_is_never_taken_as_fully_labelled(
    microscopes: Path, tmp_path: Path, row: str, rows: str
) -> None:
    folder = copied(microscopes, tmp_path)
    if rows:
        (folder / "patches.csv").write_text(f"split,image,x1,y1,x2,y2\n{rows}")
    fields = [{"dataset": "own", "path": "cheap"}]
    recipe = sparse_recipe(tmp_path, patch_share=None, fields=fields)
    picture = "1" if rows else "0"
    with pytest.raises(DataError, match=rf"{picture}\.png: no labelled patch.*patches\.csv"):
        train_sparse(recipe, row, tmp_path / "run", HOW)
    assert not (tmp_path / "run").exists()


def test_labels_outside_a_patch_are_not_used(microscopes: Path, tmp_path: Path) -> None:
    folder = copied(microscopes, tmp_path)
    rows = "".join(f"train,{number}.png,0,0,0.5,1\n" for number in range(4))
    (folder / "patches.csv").write_text(f"split,image,x1,y1,x2,y2\n{rows}")
    fields = [{"dataset": "own", "path": "cheap"}]
    found = sparse_fields(sparse_recipe(tmp_path, patch_share=None, fields=fields))
    whole = yolo_set.read(folder)
    for split in ("train", "test"):
        kept = np.concatenate([each.boxes_xywhn for each in found.of_split(split)])
        there = np.concatenate([each.boxes_xywhn for each in whole.of_split(split)])
        inside = there[:, 0] <= 0.5
        assert 0 < inside.sum() < len(there)
        assert np.array_equal(kept, there[inside] if split == "train" else there)
    # Their attributes went with them.
    assert all(len(each.attributes) == len(each) for each in found.images)


@pytest.mark.parametrize("corners", ["0.1,0.1,1.2,0.5", "-0.1,0,0.5,0.5", "0.6,0.1,0.2,0.5"])
def test_a_patch_outside_its_picture_is_named_by_its_line(
    microscopes: Path, tmp_path: Path, corners: str
) -> None:
    folder = copied(microscopes, tmp_path)
    (folder / "patches.csv").write_text(f"split,image,x1,y1,x2,y2\ntrain,0.png,{corners}\n")
    fields = [{"dataset": "own", "path": "cheap"}]
    recipe = sparse_recipe(tmp_path, patch_share=None, fields=fields)
    with pytest.raises(DataError, match=r"patches\.csv:2: no patch inside the picture"):
        train_sparse(recipe, "sla-det", tmp_path / "run", HOW)


def test_a_test_picture_of_the_target_may_not_be_the_sources_either(
    microscopes: Path, tmp_path: Path
) -> None:
    target = copied(microscopes, tmp_path)
    shutil.copyfile(
        tmp_path / "expensive" / "images" / "train" / "0.png",
        target / "images" / "test" / "renamed.png",
    )
    with pytest.raises(DataError, match=r"renamed\.png is the source's 0\.png"):
        train_adapted(adapt_recipe(tmp_path), "source-only", tmp_path / "run", HOW)


def test_source_and_target_may_not_be_one(microscopes: Path, tmp_path: Path) -> None:
    recipe = adapt_recipe(microscopes, target={"dataset": "own", "path": "expensive"})
    with pytest.raises(DataError, match="must not share pictures"):
        train_adapted(recipe, "confmix", tmp_path / "run", HOW)


@pytest.mark.parametrize("method", ["confmix", "oracle"])
def test_other_classes_of_the_target_are_named(
    microscopes: Path, tmp_path: Path, method: str
) -> None:
    target = copied(microscopes, tmp_path)
    document = yaml.safe_load((target / "data.yaml").read_text())
    document["names"] = {number: f"other{number}" for number in range(len(CLASSES))}
    (target / "data.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(DataError, match=r"data\.yaml: classes other0, other1.*the source has"):
        train_adapted(adapt_recipe(tmp_path), method, tmp_path / "run", HOW)


def test_a_source_checkpoint_must_be_of_this_recipe(microscopes: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    cases = {
        "no such file": tmp_path / "none.pt",
        "damaged": tmp_path / "text.pt",
        "another architecture than yolo11n": write_checkpoint(
            tmp_path / "v8.pt", CLASSES, "yolov8n.yaml"
        ),
        "its classes are one": write_checkpoint(tmp_path / "one.pt", ("one",)),
    }
    for words, file in cases.items():
        with pytest.raises(LeukoscopeError, match=words):
            train_adapted(
                adapt_recipe(microscopes), "confmix", tmp_path / "run", HOW, source_checkpoint=file
            )
    assert not (tmp_path / "run").exists()


def test_options_that_name_classes_are_checked_before_the_first_phase(
    microscopes: Path, tmp_path: Path
) -> None:
    recipe = adapt_recipe(
        microscopes, options={"daca": {"per_class_confidence": {"nonsense": 0.3}}}
    )
    with pytest.raises(SettingsError, match="no class 'nonsense'"):
        train_adapted(recipe, "daca", tmp_path / "run", HOW)
    assert not (tmp_path / "run").exists()


def test_options_that_contradict_each_other_are_named_without_a_gap() -> None:
    with pytest.raises(SettingsError, match=r"method sla-det, options: t0 0\.99 is above t1"):
        find_row(sparse.METHODS, "sla-det").options({"t0": 0.99})


@pytest.mark.parametrize(("table", "rows"), [("adapt", adapt.METHODS), ("sparse", sparse.METHODS)])
def test_list_shows_every_option_so_that_it_can_be_given_back(table: str, rows: Any) -> None:
    shown = CliRunner().invoke(app, [table, "--list"], catch_exceptions=False)
    assert shown.exit_code == 0
    blocks: dict[str, dict[str, Any]] = {}
    method = ""
    for line in shown.stdout.splitlines():
        if line.startswith("  --set "):
            name, value = line.removeprefix("  --set ").split("=", 1)
            blocks[method][name] = yaml.safe_load(value)
        else:
            method = line.split(":")[0]
            blocks[method] = {}
    assert list(blocks) == [row.name for row in rows]
    for row in rows:
        assert row.options(blocks[row.name]) == row.options({})


def unfinished(out: Path, recipe: AdaptRecipe | SparseRecipe, method: str) -> None:
    """What a run that was stopped in its first epoch leaves."""
    (out / "data" / "source").mkdir(parents=True)
    (out / "data" / "source" / "written").write_text("")
    (out / "recipe.json").write_text(
        json.dumps(
            {"recipe": recipe.model_dump(mode="json"), "method": method, "source": None},
            sort_keys=True,
        )
    )


def test_pictures_of_a_stopped_run_are_not_taken_for_another_recipe(
    microscopes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    unfinished(out, adapt_recipe(microscopes, seed=1), "source-only")
    with pytest.raises(AssertionError, match="a training began"):
        train_adapted(adapt_recipe(microscopes), "source-only", out, HOW)
    assert len(list((out / "data" / "source" / "images" / "train").iterdir())) == 4


def test_a_folder_data_of_ones_own_is_not_touched(microscopes: Path, tmp_path: Path) -> None:
    own = tmp_path / "run" / "data" / "source" / "field.png"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(SettingsError, match=r"data: is there already, and of no run"):
        train_adapted(adapt_recipe(microscopes), "source-only", tmp_path / "run", HOW)
    assert own.read_text() == "mine"


def test_resuming_a_finished_run_changes_nothing(microscopes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    unfinished(out, adapt_recipe(microscopes), "source-only")
    for phase in ("phase1", "phase2"):
        (out / phase).mkdir()
        (out / phase / "done").write_text("")
    (out / "training.json").write_text('{"minutes": 7}')
    said: list[str] = []
    how = How(device="cpu", workers=0, resume=True, say=said.append)
    last = train_adapted(adapt_recipe(microscopes), "source-only", out, how)
    assert last == out / "phase2" / "weights" / "last.pt"
    assert said == [f"{out}: finished already"]
    assert json.loads((out / "training.json").read_text()) == {"minutes": 7}


def test_nothing_to_resume_and_another_method_are_named(microscopes: Path, tmp_path: Path) -> None:
    recipe = adapt_recipe(microscopes)
    with pytest.raises(DataError, match="no run to resume"):
        train_adapted(recipe, "source-only", tmp_path / "none", RESUMING)
    unfinished(tmp_path / "run", recipe, "source-only")
    with pytest.raises(SettingsError, match="another recipe or method"):
        train_adapted(recipe, "confmix", tmp_path / "run", RESUMING)


class Failing:
    """A trainer of ultralytics that ends badly."""

    error: Exception

    def __init__(self, overrides: dict[str, Any]) -> None:
        self.overrides = overrides

    def add_callback(self, *args: Any) -> None:
        pass

    def train(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(28, "No space left on device"), StoreError, r"phase1.*No space left"),
        (FileNotFoundError("Image Not Found a.png"), DataError, r"a\.png; put it back"),
        (torch.OutOfMemoryError("CUDA"), SettingsError, r"too little memory for batch 4"),
    ],
)
def test_what_ends_a_training_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    words: str,
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(Failing, "error", error, raising=False)
    run = PhaseRun(tmp_path, "phase1", "cpu", 0, 1)
    with pytest.raises(kind, match=words) as caught:
        run.train(Failing, {"batch": 4}, resume=False)
    assert not run.finished
    assert "--resume" not in str(caught.value)
    if kind is SettingsError:
        return
    # Only of a whole epoch can it be said that it is kept.
    run.weights.mkdir(parents=True)
    whole = write_checkpoint(tmp_path / "whole.pt", ("one",)).read_bytes()
    for content, kept in ((whole, True), (whole[: len(whole) // 2], False)):
        run.last.write_bytes(content)
        with pytest.raises(kind, match=words) as caught:
            run.train(Failing, {"batch": 4}, resume=False)
        assert ("finished epochs are kept, go on with --resume" in str(caught.value)) is kept


def test_a_trainer_that_cannot_begin_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    def make(overrides: dict[str, Any]) -> Failing:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        PhaseRun(tmp_path, "phase1", "cpu", 0, 1).train(make, {}, resume=False)


def test_half_a_checkpoint_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    run = PhaseRun(tmp_path, "phase1", "cpu", 0, 1)
    run.weights.mkdir(parents=True)
    whole = write_checkpoint(tmp_path / "whole.pt", ("one",)).read_bytes()
    run.last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"last\.pt: damaged"):
        run.train(Failing, {}, resume=True)


def test_an_epoch_counted_twice_counts_as_it_was_resumed(tmp_path: Path) -> None:
    for epoch, accepted in ((0, 1), (1, 2), (1, 3), (2, 4)):
        log = StepLog(tmp_path)
        log.count(accepted=accepted)
        log.close_epoch(epoch)
    assert [each["accepted"] for each in read_counts(tmp_path)] == [1, 3, 4]


@pytest.mark.parametrize("place", ["folder", "folder/file/figures.json"])
def test_judging_refuses_a_place_for_its_figures_before_it_measures(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    arguments = ["judge-method", "--run", str(tmp_path), "--out", str(tmp_path / place)]
    with pytest.raises(StoreError, match=r"folder"):
        CliRunner().invoke(app, [*arguments, "--device", "cpu"], catch_exceptions=False)
