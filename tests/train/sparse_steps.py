"""What tests of methods share: outputs made by hand, a context, and a tiny training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from train.method_trainer import MethodTrainer
from train.sparse.mining import BatchBoxes
from train.step_loss import PATCH_INDEX, PATCHES, Moment, StepContext, StepLog

SIZE = 64
CLASSES = ("lymphocyte", "monocyte")
_GRIDS = (8, 4, 2)


def tiny_detector() -> DetectionModel:
    """An untrained detector of two classes in training mode."""
    torch.manual_seed(0)
    model = DetectionModel("yolo11n.yaml", nc=len(CLASSES), verbose=False)
    settings: Any = get_cfg()
    model.args = settings
    return model.train()


def outputs_with(
    cells: list[tuple[int, int, tuple[int, int, int, int], float]], pictures: int = 2
) -> dict[str, Any]:
    """Training outputs that say where cells are.

    Args:
        cells: picture, class, corners in units of 8 pixels with a middle that is an odd half
            (as anchors of the finest level are), probability.
        pictures: in the batch.
    """
    feats = [torch.zeros(pictures, 8, side, side) for side in _GRIDS]
    anchors = sum(side * side for side in _GRIDS)
    scores = torch.full((pictures, len(CLASSES), anchors), -12.0)
    boxes = torch.zeros(pictures, 4, 16, anchors)
    boxes[:, :, 1] = 50.0
    for picture, label, (x1, y1, x2, y2), probability in cells:
        column, row = (x1 + x2) // 2, (y1 + y2) // 2
        anchor = row * _GRIDS[0] + column
        scores[picture, label, anchor] = torch.logit(torch.tensor(probability))
        # Distances of whole bins from an anchor half way between grid lines: two bins each.
        for side, distance in enumerate(
            (column + 0.5 - x1, row + 0.5 - y1, x2 - column - 0.5, y2 - row - 0.5)
        ):
            boxes[picture, side, :, anchor] = 0.0
            boxes[picture, side, int(distance), anchor] = 50.0
            boxes[picture, side, int(distance) + 1, anchor] = 50.0
    return {
        "boxes": boxes.flatten(1, 2).requires_grad_(),
        "scores": scores.requires_grad_(),
        "feats": feats,
    }


def batch_with(
    cells: list[tuple[int, int, tuple[int, int, int, int]]],
    pictures: int = 2,
    patch: tuple[float, float, float, float] = (0.0, 0.0, 0.5, 1.0),
) -> dict[str, Any]:
    """A batch whose labels are these: picture, class, corners in units of 8 pixels."""
    corners = torch.tensor([cell[2] for cell in cells], dtype=torch.float32).view(-1, 4) * 8 / SIZE
    centred = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    return {
        "img": torch.rand(pictures, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)),
        "batch_idx": torch.tensor([float(cell[0]) for cell in cells]),
        "cls": torch.tensor([float(cell[1]) for cell in cells]).view(-1, 1),
        "bboxes": centred,
        PATCHES: torch.tensor([patch] * pictures),
        PATCH_INDEX: torch.arange(pictures),
    }


def boxes(
    rows: list[tuple[int, int, tuple[float, float, float, float]]], score: float = 0.9
) -> BatchBoxes:
    """A table of boxes: picture, class, corners in pixels."""
    return BatchBoxes(
        torch.tensor([row[2] for row in rows], dtype=torch.float32).view(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.long),
        torch.full((len(rows),), score),
        torch.tensor([row[0] for row in rows], dtype=torch.long),
    )


def corners_of(batch: dict[str, Any]) -> set[tuple[int, int, tuple[int, ...]]]:
    """Labels of a batch as in ``batch_with``."""
    centred = batch["bboxes"]
    corners = torch.cat(
        [centred[:, :2] - centred[:, 2:] / 2, centred[:, :2] + centred[:, 2:] / 2], 1
    )
    rows = zip(
        batch["batch_idx"].tolist(),
        batch["cls"].view(-1).tolist(),
        (corners * SIZE / 8).round().int().tolist(),
        strict=True,
    )
    return {(int(picture), int(label), tuple(box)) for picture, label, box in rows}


def context_of(
    model: DetectionModel,
    *,
    folder: Path | None = None,
    iteration: int = 50,
    plain: Callable[..., tuple[Tensor, dict[str, Tensor]]] | None = None,
) -> StepContext:
    """A context at some step of 100."""
    return StepContext(
        model=model,
        plain=plain or model.init_criterion(),
        classes=CLASSES,
        moment=lambda: Moment(iteration, 100, 0, 1),
        averaged=lambda: model,
        log=StepLog(folder, pictures_every=0 if folder is None else 1),
    )


def train_tiny(folder: Path, method: str, options: dict[str, Any]) -> Any:
    """Two steps of a method on four drawn fields with a patch each; the trainer."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((SIZE, SIZE, 3), (205, 225, 240), np.uint8)
            rows = []
            for x in (16, 48):
                y, label = int(rng.integers(14, 50)), int(rng.integers(2))
                cv2.circle(pixels, (x, y), 9, (120, 40, 90) if label else (40, 120, 60), -1)
                if x == 16 or split == "val":
                    rows.append(f"{label} {x / SIZE} {y / SIZE} {18 / SIZE} {18 / SIZE}")
            cv2.imwrite(str(folder / "images" / split / f"{split}{number}.png"), pixels)
            (folder / "labels" / split / f"{split}{number}.txt").write_text("\n".join(rows))
    lines = [f"train,train{number}.png,0,0,0.5,1" for number in range(4)]
    (folder / "patches.csv").write_text("\n".join(["split,image,x1,y1,x2,y2", *lines]) + "\n")
    document = {
        "path": str(folder),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(CLASSES)),
        "method": {
            "table": "sparse",
            "name": method,
            "options": options,
            "patches": str(folder / "patches.csv"),
            "pictures_every": 1,
        },
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(document))
    trainer: Any = MethodTrainer(
        overrides={
            "model": "yolo11n.yaml",
            "data": str(folder / "data.yaml"),
            "epochs": 1,
            "imgsz": SIZE,
            "batch": 2,
            "workers": 0,
            "device": "cpu",
            "plots": False,
            "pretrained": False,
            "project": str(folder / "run"),
            "name": "one",
        }
    )
    trainer.train()
    return trainer
