"""Training a classifier of drawn cells: overfitting, resuming, freezing, starting from weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import DataError, SettingsError, StoreError
from tests.train.drawn_cells import CLASSES, write_cells_folder

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from calibration.labelled_cells import open_cells  # noqa: E402
from train.classify import (  # noqa: E402
    ClassifyRecipe,
    JudgedCells,
    judge,
    load_classify_recipe,
    train_classifier,
)
from train.models.cell_classifier import (  # noqa: E402
    head_parameters,
    load_classifier,
    load_weights,
)

pytestmark = pytest.mark.train

TINY = {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 24]}
PHASE = {"epochs": 2, "lr": 0.004}


def recipe_for(root: Path, **changes: Any) -> ClassifyRecipe:
    document: dict[str, Any] = {
        "name": "drawn", "purpose": "test", "data_root": str(root), "classes": CLASSES,
        "sources": [{"dataset": "pbc-attributes", "path": "pbc-attributes"}],
        "network": {"architecture": "resnet10t", "args": TINY, "dropout": 0.2},
        "input": {
            "name": "crops", "width": 32, "height": 32, "scale": 1 / 255, "pad_value": 114,
            "margin": 0.0, "margin_px": 10.0,
        },
        "view": {"restained": 0.0, "lens": 0.0},
        "phases": [PHASE], "batch": 4, "ema": 0.5, "seed": 1,
    }  # fmt: skip
    return ClassifyRecipe.model_validate({**document, **changes})


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells")
    write_cells_folder(root, train=16)
    return root


def last_of(out: Path) -> dict[str, Any]:
    saved: dict[str, Any] = load_weights(out / "last.pt")
    return saved


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_tiny_network_learns_sixteen_cells_by_heart(cells: Path, tmp_path: Path) -> None:
    recipe = recipe_for(cells, phases=[{"epochs": 30, "lr": 0.006}], label_smoothing=0.0)
    said: list[str] = []
    file = train_classifier(recipe, tmp_path / "run", say=said.append)
    checkpoint, network = load_classifier(file)
    opened = open_cells(tmp_path / "run" / "cells.json", cells)
    for split in ("train", "test"):
        judged = judge(network, opened.cells.of_split(split), cells, checkpoint.input)
        assert (judged.accuracy, judged.macro_f1) == (1.0, 1.0), split
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["cells"] == {"train": 16, "val": 4, "test": 4}
    assert len(record["history"]) == len(said) == 30
    losses = [row["loss"] for row in record["history"]]
    assert np.mean(losses[-5:]) < 0.25 * np.mean(losses[:3])


def test_a_resumed_run_is_the_uninterrupted_one(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = [{"epochs": 2, "lr": 0.01, "frozen_backbone": True}, {"epochs": 3, "lr": 0.004}]
    recipe = recipe_for(cells, phases=phases)
    whole = train_classifier(recipe, tmp_path / "whole")

    class Interrupted(Exception):  # noqa: N818
        pass

    for stop in (2, 4):  # between phases, and within one

        def say(line: str, stop: int = stop) -> None:
            if line.startswith(f"epoch {stop + 1} "):
                raise Interrupted

        broken = tmp_path / f"broken{stop}"
        with pytest.raises(Interrupted):
            train_classifier(recipe, broken, say=say)
        # Another draw of chance in between must not matter.
        torch.manual_seed(99)
        resumed = train_classifier(recipe, broken, resume=True)
        assert same(last_of(broken)["model"], last_of(tmp_path / "whole")["model"])
        assert same(last_of(broken)["averaged"], last_of(tmp_path / "whole")["averaged"])
        assert same(load_weights(resumed)["state"], load_weights(whole)["state"])
        assert [row["loss"] for row in last_of(broken)["history"]] == [
            row["loss"] for row in last_of(tmp_path / "whole")["history"]
        ]


def test_a_frozen_phase_leaves_the_backbone_alone_and_the_next_changes_it(
    cells: Path, tmp_path: Path
) -> None:
    given = train_classifier(recipe_for(cells, seed=4), tmp_path / "before")
    start = load_weights(given)["state"]
    frozen = {"epochs": 2, "lr": 0.01, "frozen_backbone": True, "weight_decay": 0.5}
    recipe = recipe_for(cells, phases=[frozen], start_from=str(given))
    network = load_classifier(given)[1].network
    head = {id(parameter) for parameter in head_parameters(network)}
    loose = {name for name, each in network.named_parameters() if id(each) in head}
    assert loose == {"fc.weight", "fc.bias"}

    train_classifier(recipe, tmp_path / "frozen")
    after = last_of(tmp_path / "frozen")
    for place, prefix in (("model", "network."), ("averaged", "module.network.")):
        state = after[place]
        counters = [name for name in start if name.endswith("num_batches_tracked")]
        assert counters
        assert all(start[name] > 0 for name in counters)
        for name, before in start.items():
            assert torch.equal(state[prefix + name], before) == (name not in loose), name

    both = recipe.model_copy(update={"phases": (*recipe.phases, recipe_for(cells).phases[0])})
    train_classifier(both, tmp_path / "both")
    state = last_of(tmp_path / "both")["model"]
    changed = {name for name in start if not torch.equal(state[f"network.{name}"], start[name])}
    assert {"conv1.0.weight", "bn1.running_mean", "layer1.0.conv1.weight"} <= changed


def test_the_rate_rises_and_falls_in_every_phase(cells: Path, tmp_path: Path) -> None:
    phases = [{"epochs": 2, "lr": 0.01, "backbone_lr": 0.001, "final": 0.25}]
    train_classifier(recipe_for(cells, phases=phases), tmp_path / "run")
    groups = last_of(tmp_path / "run")["optimizer"]["param_groups"]
    # The last of 8 steps: one before the end of the cosine.
    share = 0.25 + 0.75 * (1 + np.cos(np.pi * 6 / 7)) / 2
    assert [group["lr"] for group in groups] == pytest.approx([0.01 * share, 0.001 * share])


@pytest.mark.parametrize("architecture", ["resnet10t", "mobilenetv3_small_050"])
def test_another_architectures_weights_are_refused(
    cells: Path, tmp_path: Path, architecture: str
) -> None:
    given = train_classifier(recipe_for(cells, phases=[{"epochs": 1, "lr": 0.01}]), tmp_path / "a")
    args = {"layers": [1, 1, 1, 1]} if architecture == "resnet10t" else {}
    recipe = recipe_for(cells, network={"architecture": architecture, "args": args})
    with pytest.raises(DataError, match=r"classifier\.pt: weights of another architecture"):
        train_classifier(recipe, tmp_path / "b", start_from=given)
    assert not (tmp_path / "b").exists()


def test_the_last_layer_of_another_class_list_is_not_taken(cells: Path, tmp_path: Path) -> None:
    given = train_classifier(recipe_for(cells, phases=[{"epochs": 1, "lr": 0.01}]), tmp_path / "a")
    said: list[str] = []
    turned = recipe_for(cells, classes=CLASSES[::-1])
    train_classifier(turned, tmp_path / "b", start_from=given, say=said.append)
    assert said[0].endswith("random: fc.weight, fc.bias")
    train_classifier(recipe_for(cells), tmp_path / "c", start_from=given, say=said.append)
    assert any(line.endswith("random: nothing") for line in said)


def test_folders_that_cannot_be_used(cells: Path, tmp_path: Path) -> None:
    recipe, run = recipe_for(cells, phases=[{"epochs": 1, "lr": 0.01}]), tmp_path / "run"
    with pytest.raises(DataError, match="to resume from; start without --resume"):
        train_classifier(recipe, run, resume=True)
    train_classifier(recipe, run)
    with pytest.raises(SettingsError, match="holds a run already"):
        train_classifier(recipe, run)
    with pytest.raises(SettingsError, match="begun with another recipe"):
        train_classifier(recipe.model_copy(update={"batch": 8}), run, resume=True)
    torch.save({"recipe": "{}", "head": {}}, run / "last.pt")
    with pytest.raises(DataError, match="another kind of training"):
        train_classifier(recipe, run, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        train_classifier(recipe, tmp_path / "file" / "run")


def test_a_full_disk_is_one_line(cells: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pt.partial").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="cannot be written"):
        train_classifier(recipe_for(cells), run)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"input": {**recipe_for(Path()).input.model_dump(), "scale": 1.0}}, "must be 1/255"),
        ({"phases": []}, "phases"),
        ({"classes": ["one"]}, "classes"),
    ],
)
def test_bad_recipes_are_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        recipe_for(Path(), **change)


@pytest.mark.parametrize("device", ["cuda", "0,1", "99"])
def test_devices_that_are_not_there(cells: Path, tmp_path: Path, device: str) -> None:
    with pytest.raises(SettingsError, match="--device"):
        train_classifier(recipe_for(cells), tmp_path / "run", device=device)


def test_macro_f1_is_over_the_classes_that_occur() -> None:
    logits = np.eye(4, dtype=np.float32)[[0, 0, 2, 3]]
    judged = JudgedCells(np.array([0, 0, 2, 2], np.int64), logits)
    # Class 0: 1; class 2: two thirds; class 1 and 3 do not occur.
    assert judged.macro_f1 == pytest.approx((1 + 2 / 3) / 2)
    assert judged.accuracy == 0.75


def test_the_shipped_recipe_loads_and_another_kind_does_not() -> None:
    assert load_classify_recipe("wbc-classifier").network.architecture == "resnet10t"
    with pytest.raises(SettingsError, match="not a classifier's recipe") as caught:
        load_classify_recipe("wbc-detector")
    assert "\n" not in str(caught.value)
