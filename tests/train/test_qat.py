"""Training with int8 rounding: what it needs is asked for first, and what comes out is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edge_runtime.errors import DataError, SettingsError
from train import trainer
from train.recipe import load_recipe

pytestmark = pytest.mark.train


def test_it_begins_with_a_finished_detector(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--start-from"):
        trainer.train_detector(load_recipe("wbc-detector-qat"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"needs modelopt; pip install 'leukoscope\[qat\]'"):
        trainer.train_detector(
            load_recipe("wbc-detector-qat"), tmp_path / "run", start_from=tmp_path / "best.pt"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("qat", [True, False])
def test_ultralytics_is_told(tmp_path: Path, qat: bool) -> None:
    recipe = load_recipe("wbc-detector-qat")
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"qat": qat})})
    told: dict[str, Any] = trainer._arguments(
        recipe, tmp_path / "data.yaml", tmp_path, "cpu", 0, tmp_path / "best.pt"
    )
    assert told["quantize"] == (8 if qat else None)


def test_weights_that_became_nothing_are_refused(tmp_path: Path, repository: Path) -> None:
    from train.own_checkpoint import load_own_checkpoint

    good = repository / "models" / "wbc-detector.pt"
    trainer._require_alive(good)
    network: Any = load_own_checkpoint(good)
    torch.nn.init.zeros_(network.model[4].cv1.conv.weight)
    torch.save({"model": network.half(), "train_args": {}}, tmp_path / "last.pt")
    with pytest.raises(DataError, match=r"diverged, model\.4\.cv1\.conv\.weight is zero"):
        trainer._require_alive(tmp_path / "last.pt")
