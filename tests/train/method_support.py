"""Recipes of training methods on two drawn microscopes, and checkpoints nothing was trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from ultralytics.nn.tasks import DetectionModel

from tests.train.attributed_fields import write_data_yaml, write_fields
from train.method_recipe import AdaptRecipe, SparseRecipe
from train.method_run import How

HOW = How(device="cpu", workers=0)


def write_microscopes(folder: Path) -> Path:
    """Folders ``expensive`` and ``cheap`` in YOLO layout, with other cells each."""
    for seed, name in enumerate(("expensive", "cheap")):
        for place, split in enumerate(("train", "val", "test")):
            write_fields(folder / name, split, 4, size=64, seed=10 * seed + place)
        write_data_yaml(folder / name)
        document = yaml.safe_load((folder / name / "data.yaml").read_text())
        document["nc"] = len(document["names"])
        (folder / name / "data.yaml").write_text(yaml.safe_dump(document))
    return folder


def adapt_recipe(root: Path, **changes: Any) -> AdaptRecipe:
    document: dict[str, Any] = {
        "name": "tiny",
        "purpose": "a test",
        "data_root": str(root),
        "source": {"dataset": "own", "path": "expensive"},
        "target": {"dataset": "own", "path": "cheap"},
        "model": "yolo11n.yaml",
        "image_size": 64,
        "batch": 4,
        "hyp": {"warmup_epochs": 0},
        "source_phase": {"epochs": 1},
        "adapt_phase": {"epochs": 1},
    }
    return AdaptRecipe.model_validate({**document, **changes})


def sparse_recipe(root: Path, **changes: Any) -> SparseRecipe:
    document: dict[str, Any] = {
        "name": "tiny",
        "purpose": "a test",
        "data_root": str(root),
        "fields": [
            {"dataset": "own", "path": "expensive"},
            {"dataset": "own", "path": "cheap"},
        ],
        "patch_share": 0.4,
        "model": "yolo11n.yaml",
        "image_size": 64,
        "batch": 4,
        "hyp": {"warmup_epochs": 0, "mixup": 0},
        "phase": {"epochs": 1},
    }
    return SparseRecipe.model_validate({**document, **changes})


def write_checkpoint(file: Path, classes: tuple[str, ...], model: str = "yolo11n.yaml") -> Path:
    """An untrained detector as ultralytics keeps one."""
    detector: Any = DetectionModel(model, nc=len(classes), verbose=False)
    detector.names = dict(enumerate(classes))
    torch.save({"model": detector, "train_args": {"imgsz": 64}}, file)
    return file
