"""Runs of training methods: phases, data of either microscope, resuming, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch
import yaml

from edge_runtime.errors import DataError, SettingsError
from tests.train.method_support import HOW, adapt_recipe, sparse_recipe
from train import adapt, sparse
from train.cli import app
from train.judge_method import judge_method
from train.method_folder import read_several, target_pictures
from train.method_recipe import (
    load_adapt_recipe,
    load_sparse_recipe,
)
from train.method_run import How, train_adapted, train_sparse
from train.own_checkpoint import load_own_checkpoint
from train.phase_run import PhaseRun
from train.step_loss import StepLog, find_row, read_counts

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def root(microscopes: Path) -> Path:
    return microscopes


def weights(file: Path) -> dict[str, torch.Tensor]:
    return load_own_checkpoint(file).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def source_only(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "source-only"
    train_adapted(adapt_recipe(root), "source-only", out, HOW)
    return out


def test_run_leaves_phases_record_and_figures_of_both_microscopes(source_only: Path) -> None:
    record = json.loads((source_only / "training.json").read_text())
    assert (record["method"], record["kind"]) == ("source-only", "adapt")
    assert record["checkpoint"] == "phase2/weights/last.pt"
    figures = judge_method(source_only)
    assert set(figures["fields"]) == {"source", "target"}
    assert figures["fields"]["target"]["detection"]["images"] == 4
    # One epoch of four pictures: one step a phase, timed.
    (counts,) = read_counts(source_only / "phase2" / "method")
    assert counts["timed_steps"] == 1
    assert counts["seconds"] > 0


def test_source_only_never_lays_out_the_target(source_only: Path) -> None:
    assert not (source_only / "data" / "pictures").exists()
    assert not (source_only / "data" / "target").exists()


def test_oracle_learns_from_the_target_and_begins_with_the_source_phase(
    root: Path, source_only: Path, tmp_path: Path
) -> None:
    begun = source_only / "phase1" / "weights" / "last.pt"
    out = tmp_path / "oracle"
    last = train_adapted(adapt_recipe(root), "oracle", out, HOW, source_checkpoint=begun)
    assert not (out / "phase1").exists()
    labels = sorted((out / "data" / "target" / "labels" / "train").iterdir())
    own = sorted((root / "cheap" / "labels" / "train").iterdir())
    assert [each.read_text().split() for each in labels] == [
        each.read_text().split() for each in own
    ]
    assert not same(weights(last), weights(source_only / "phase2" / "weights" / "last.pt"))


def test_finished_phases_are_not_trained_again(
    root: Path, source_only: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(source_only, out, symlinks=True)
    (out / "training.json").unlink()
    shutil.rmtree(out / "phase2")
    before = (out / "phase1" / "weights" / "last.pt").stat().st_mtime_ns
    how = How(device="cpu", workers=0, resume=True)
    last = train_adapted(adapt_recipe(root), "source-only", out, how)
    assert (out / "phase1" / "weights" / "last.pt").stat().st_mtime_ns == before
    assert same(weights(last), weights(source_only / "phase2" / "weights" / "last.pt"))


def test_another_method_does_not_take_up_a_folder(root: Path, source_only: Path) -> None:
    how = How(device="cpu", workers=0, resume=True)
    with pytest.raises(SettingsError, match="another recipe"):
        train_adapted(adapt_recipe(root), "oracle", source_only, how)


def test_target_without_pictures_is_one_line(root: Path, tmp_path: Path) -> None:
    (root / "empty" / "images" / "train").mkdir(parents=True, exist_ok=True)
    recipe = adapt_recipe(root, target={"dataset": "own", "path": "empty"})
    with pytest.raises(DataError, match=r"empty.*no picture in it"):
        train_adapted(recipe, "confmix", tmp_path / "run", HOW)
    assert not (tmp_path / "run").exists()


def test_target_may_be_a_plain_folder_of_pictures(root: Path) -> None:
    spec = adapt_recipe(root, target={"dataset": "own", "path": "cheap/images/test"}).target
    assert [each.name for each in target_pictures(spec, root)] == [f"{i}.png" for i in range(4)]


def test_target_that_shares_a_picture_with_the_source_is_refused(
    root: Path, tmp_path: Path
) -> None:
    mixed = root / "mixed" / "images" / "train"
    mixed.mkdir(parents=True, exist_ok=True)
    # Under another name, so only the content tells.
    shutil.copyfile(root / "expensive" / "images" / "val" / "2.png", mixed / "new.png")
    recipe = adapt_recipe(root, target={"dataset": "own", "path": "mixed"})
    with pytest.raises(DataError, match=r"new\.png is the source's 2\.png"):
        train_adapted(recipe, "daca", tmp_path / "run", HOW)


def test_target_pictures_are_the_same_whether_labels_are_read_or_not(root: Path) -> None:
    spec = adapt_recipe(
        root, target={"dataset": "own", "path": "cheap", "most": {"train": 2}}
    ).target
    drawn = target_pictures(spec, root, seed=3)
    read = read_several([spec], root, 3).of_split("train")
    assert drawn == [each.image for each in read]
    assert len(drawn) == 2


def test_classes_of_both_sides_may_be_narrowed_to_one(root: Path, tmp_path: Path) -> None:
    one = {"classes": ["odd"], "others": "background"}
    recipe = adapt_recipe(
        root,
        source={"dataset": "own", "path": "expensive", **one},
        target={"dataset": "own", "path": "cheap", **one},
    )
    fields = read_several([recipe.source], root, 0)
    # Pictures without such a cell stay: their other cells are background.
    assert len(fields.of_split("train")) == 4
    assert fields.classes == ("odd",)
    whole = read_several([adapt_recipe(root).source], root, 0)
    kept = [each for image in whole.images for each in image.class_ids if each == 1]
    assert sum(len(each) for each in fields.images) == len(kept)


def test_naive_keeps_only_labels_of_the_patch(root: Path, tmp_path: Path) -> None:
    recipe = sparse_recipe(root)
    out = tmp_path / "naive"
    train_sparse(recipe, "naive", out, HOW)
    rows = [
        line
        for file in (out / "data" / "whole" / "labels" / "train").iterdir()
        for line in file.read_text().splitlines()
    ]
    whole = read_several(recipe.fields, root, 0)
    labelled = sum(len(each) for each in whole.of_split("train"))
    assert 0 < len(rows) < labelled
    patches = (out / "data" / "patches.csv").read_text().splitlines()[1:]
    assert len(patches) == len(whole.of_split("train"))
    figures = judge_method(out)
    assert set(figures["fields"]) == {"expensive", "cheap", "all"}


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of each phase, which leaves a file and trains nothing."""
    told: list[tuple[str, dict[str, Any]]] = []

    def train(run: PhaseRun, kind: Any, arguments: dict[str, Any], *, resume: bool) -> None:
        told.append((run.name, arguments))
        run.weights.mkdir(parents=True)
        run.last.write_text(run.name)

    monkeypatch.setattr(PhaseRun, "train", train)
    return told


def test_full_has_every_label(
    root: Path, tmp_path: Path, phases: list[tuple[str, dict[str, Any]]]
) -> None:
    recipe = sparse_recipe(root)
    out = tmp_path / "full"
    train_sparse(recipe, "full", out, HOW)
    folder = out / "data" / "full" / "labels" / "train"
    rows = [line for file in folder.iterdir() for line in file.read_text().splitlines()]
    whole = read_several(recipe.fields, root, 0)
    assert len(rows) == sum(len(each) for each in whole.of_split("train"))
    ((name, arguments),) = phases
    data = yaml.safe_load(Path(arguments["data"]).read_text())
    assert (name, data["path"]) == ("phase2", str(out / "data" / "full"))


def test_crops_come_first_where_the_recipe_says_so(
    root: Path, tmp_path: Path, phases: list[tuple[str, dict[str, Any]]]
) -> None:
    recipe = sparse_recipe(root, crops_phase={"epochs": 1})
    said: list[str] = []
    out = tmp_path / "masked"
    last = train_sparse(recipe, "masked", out, How(device="cpu", workers=0, say=said.append))
    assert [line.split(":")[0] for line in said] == ["phase1", "phase2"]
    (_, first), (_, second) = phases
    folders = [yaml.safe_load(Path(each["data"]).read_text())["path"] for each in (first, second)]
    assert folders == [str(out / "data" / name) for name in ("crops", "masked")]
    assert first["pretrained"] is False
    assert second["pretrained"] == str(out / "phase1" / "weights" / "last.pt")
    assert last == out / "phase2" / "weights" / "last.pt"


def test_full_is_refused_where_labels_are_in_patches_only(root: Path, tmp_path: Path) -> None:
    recipe = sparse_recipe(root, patch_share=None)
    with pytest.raises(SettingsError, match="needs every label"):
        train_sparse(recipe, "full", tmp_path / "run", HOW)


@pytest.mark.parametrize("name", [row.name for row in (*adapt.METHODS, *sparse.METHODS)])
def test_every_method_refuses_unknown_options(name: str) -> None:
    rows = adapt.METHODS if name in {row.name for row in adapt.METHODS} else sparse.METHODS
    with pytest.raises(SettingsError, match=f"method {name}, option nonsense"):
        find_row(rows, name).options({"nonsense": 1})


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"'mixup': unknown.*confmix, daca"):
        find_row(adapt.METHODS, "mixup")


@pytest.mark.parametrize("name", ["adapt-hcm-lcm", "adapt-lcm-hcm"])
def test_shipped_recipes_read(name: str) -> None:
    assert load_adapt_recipe(name).name == name


def test_shipped_sparse_recipe_reads() -> None:
    assert load_sparse_recipe("sparse-wbc-domains").patch_share == 0.2


def test_log_sums_an_epoch_and_begins_anew(tmp_path: Path) -> None:
    log = StepLog(tmp_path, pictures_every=3)
    log.count(accepted=2, pairs=1)
    log.count(accepted=3)
    log.close_epoch(0)
    log.close_epoch(1)
    log.count(accepted=1)
    log.close_epoch(2)
    assert read_counts(tmp_path) == [
        {"epoch": 0, "accepted": 5, "pairs": 1},
        {"epoch": 2, "accepted": 1},
    ]
    assert [log.wants_picture(step) for step in range(4)] == [True, False, False, True]


def test_command_refuses_in_one_line(root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(adapt_recipe(root).model_dump(mode="json")))
    base = ["adapt", "--method", "confmix", "--recipe", str(recipe), "--out", str(tmp_path / "o")]
    for given, what in (
        (["--set", "gamma"], "expected name=value"),
        (["--set", "gamma=1"], "option gamma"),
        (["--source-checkpoint", str(tmp_path / "none.pt")], "no such file"),
    ):
        with pytest.raises((SettingsError, DataError), match=what):
            CliRunner().invoke(app, [*base, *given], catch_exceptions=False)


def test_list_shows_methods_and_options() -> None:
    shown = CliRunner().invoke(app, ["sparse", "--list"])
    assert shown.exit_code == 0
    assert "naive" in shown.stdout
    assert "sla-det" in shown.stdout
