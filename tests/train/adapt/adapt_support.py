"""What the tests of adaptation share: planted outputs, tables of boxes, tiny trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from train.adapt.pseudo_boxes import PseudoBoxes
from train.step_loss import Moment, StepContext, StepLog

SIDE = 64
STRIDES = torch.tensor([8.0, 16.0, 32.0])
BINS = 16
# Logit of a sharp peak, and of a score that is surely none.
SHARP = 60.0
NOTHING = -20.0


def boxes(rows: Iterable[tuple[int, tuple[float, float, float, float], int, float]]) -> PseudoBoxes:
    """A table of rows picture, corners, class, confidence."""
    rows = list(rows)
    return PseudoBoxes(
        torch.tensor([row[0] for row in rows], dtype=torch.int64),
        torch.tensor([row[1] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[2] for row in rows], dtype=torch.int64),
        torch.tensor([row[3] for row in rows], dtype=torch.float32),
    )


def planted(
    pictures: int, classes: int, rows: Iterable[tuple[int, int, int, float, Tensor]]
) -> dict[str, Any]:
    """Outputs for pictures of 64 px with rows picture, anchor, class, score, side logits."""
    sizes = [SIDE // int(stride) for stride in STRIDES.tolist()]
    anchors = sum(size * size for size in sizes)
    logits = torch.full((pictures, 4 * BINS, anchors), 0.0)
    scores = torch.full((pictures, classes, anchors), NOTHING)
    for picture, anchor, label, score, sides in rows:
        logits[picture, :, anchor] = sides.reshape(-1)
        scores[picture, label, anchor] = torch.logit(torch.tensor(score)).item()
    feats = [torch.zeros(pictures, 2, size, size) for size in sizes]
    return {"boxes": logits, "scores": scores, "feats": feats}


def sides(*bins: tuple[int, ...]) -> Tensor:
    """Logits ``(4, 16)`` with the mass of each side shared alike by some bins."""
    logits = torch.zeros(4, BINS)
    for side, chosen in enumerate(bins):
        logits[side, list(chosen)] = SHARP
    return logits


def network(classes: int = 3, cfg: str = "yolo11n.yaml") -> Any:
    torch.manual_seed(0)
    model: Any = DetectionModel(cfg, nc=classes, verbose=False)
    model.args = get_cfg()
    return model.train()


def context(model: Any, folder: Path | None = None, **changes: Any) -> StepContext:
    """A training of ten steps at its first."""
    given: dict[str, Any] = {
        "model": model,
        "plain": model.init_criterion(),
        "classes": tuple("abcdef"[: model.nc if hasattr(model, "nc") else model.model[-1].nc]),
        "moment": lambda: Moment(0, 10, 0, 1),
        "averaged": lambda: model,
        "log": StepLog(folder, 1),
    }
    return StepContext(**{**given, **changes})


def step(source: int = 3, target: int = 3, seed: int = 0) -> dict[str, Any]:
    """A batch of noise with a label in the first and in the last picture."""
    noise = torch.Generator().manual_seed(seed)
    return {
        "img": torch.rand(source, 3, SIDE, SIDE, generator=noise),
        "target_img": torch.rand(target, 3, SIDE, SIDE, generator=noise),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.6, 0.6, 0.2, 0.2]]),
        "batch_idx": torch.tensor([0.0, float(source - 1)]),
    }


def write_domain(
    root: Path, name: str, count: int, labels: Callable[[int], str] | None, *, shade: int = 225
) -> Path:
    """Pictures with one dark square each; returns their folder."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(shade)
    images = root / name / "images" / "train"
    images.mkdir(parents=True)
    folder = root / name / "labels" / "train"
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((SIDE, SIDE, 3), shade, np.uint8)
        x, y = (int(value) for value in rng.integers(4, SIDE - 24, 2))
        pixels[y : y + 20, x : x + 20] = (120, 40, 90)
        cv2.imwrite(str(images / f"{number}.png"), pixels)
        row = f"0 {(x + 10) / SIDE} {(y + 10) / SIDE} {20 / SIDE} {20 / SIDE}\n"
        text = row if labels is None else labels(number)
        if text:
            (folder / f"{number}.txt").write_text(text)
    return images


def train_tiny(
    root: Path,
    out: Path,
    method: str,
    target: Path,
    *,
    options: dict[str, Any] | None = None,
    names: tuple[str, ...] = ("cell",),
    trainer: Any = None,
    extra: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """One epoch of a method on drawn pictures; the trainer afterwards."""
    from train.method_trainer import MethodTrainer

    out.mkdir(parents=True)
    data = {
        "path": str(root),
        "train": "images/train",
        "val": "images/train",
        "names": dict(enumerate(names)),
        "method": {
            "table": "adapt",
            "name": method,
            "options": options or {},
            "target": str(target),
            "pictures_every": 1,
        },
        **(extra or {}),
    }
    file = out / "data.yaml"
    file.write_text(yaml.safe_dump(data))
    overrides = {
        "model": "yolo11n.yaml",
        "data": str(file),
        "imgsz": SIDE,
        "epochs": 1,
        "batch": 2,
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "val": False,
        "pretrained": False,
        "optimizer": "SGD",
        "warmup_epochs": 0,
        "amp": False,
        "project": str(out),
        "name": "run",
        **changes,
    }
    run: Any = (trainer or MethodTrainer)(overrides=overrides)
    run.train()
    return run
