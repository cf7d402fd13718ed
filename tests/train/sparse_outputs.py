"""Outputs of a detector without a detector, and batches for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.utils.loss import v8DetectionLoss

from train.sparse.anchors import AnchorOutputs
from train.step_loss import Moment, StepContext, StepLog

SIDE = 64
STRIDES = (8, 16, 32)
CHANNELS = 6
BINS = 16
ANCHORS = sum((SIDE // stride) ** 2 for stride in STRIDES)


class StandIn(nn.Module):
    """What ultralytics' criterion wants to know of a network."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.args = get_cfg()
        head: Any = nn.Module()
        head.stride = torch.tensor([float(stride) for stride in STRIDES])
        head.nc, head.reg_max = classes, BINS
        self.model = nn.ModuleList([head])


def criterion(classes: int = 3) -> Any:
    return v8DetectionLoss(StandIn(classes))


def random_outputs(pictures: int = 2, classes: int = 3, seed: int = 0) -> dict[str, Any]:
    """Training outputs, leaves of the graph."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    feats = [draw(pictures, CHANNELS, SIDE // s, SIDE // s) for s in STRIDES]
    return {
        "boxes": draw(pictures, 4 * BINS, ANCHORS),
        "scores": draw(pictures, classes, ANCHORS),
        "feats": feats,
    }


def set_prediction(
    outputs: dict[str, Any],
    picture: int,
    anchor: int,
    box_px: tuple[float, ...],
    logits: list[float],
) -> None:
    """Makes one anchor of the finest level predict that box with those class logits."""
    column, row = anchor % (SIDE // 8), anchor // (SIDE // 8)
    x, y = (column + 0.5) * 8, (row + 0.5) * 8
    sides = (x - box_px[0], y - box_px[1], box_px[2] - x, box_px[3] - y)
    with torch.no_grad():
        bins = torch.full((4, BINS), -30.0)
        for side, pixels in enumerate(sides):
            low = int(pixels / 8)
            part = pixels / 8 - low
            # Softmax of two bins: expectation between them.
            bins[side, low] = torch.log(torch.tensor(max(1 - part, 1e-9)))
            bins[side, low + 1] = torch.log(torch.tensor(max(part, 1e-9)))
        outputs["boxes"][picture, :, anchor] = bins.reshape(-1)
        outputs["scores"][picture, :, anchor] = torch.tensor(logits)


def quiet_outputs(pictures: int = 2, classes: int = 3) -> dict[str, Any]:
    """Outputs that predict nothing."""
    outputs = random_outputs(pictures, classes)
    with torch.no_grad():
        outputs["scores"].fill_(-12.0)
    return outputs


def batch_of(
    cells: list[tuple[int, int, tuple[float, float, float, float]]],
    patches: list[tuple[int, tuple[float, float, float, float]]],
    pictures: int = 2,
) -> dict[str, Any]:
    """A batch; cells as picture, class, corners in pixels, patches as picture, corners."""
    boxes = torch.tensor([box for _, _, box in cells]).reshape(-1, 4) / SIDE
    corners = torch.tensor([box for _, box in patches]).reshape(-1, 4) / SIDE
    return {
        "img": torch.rand(pictures, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)),
        "cls": torch.tensor([[float(kind)] for _, kind, _ in cells]).reshape(-1, 1),
        "bboxes": torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1),
        "batch_idx": torch.tensor([float(picture) for picture, _, _ in cells]),
        "patches": corners,
        "patch_idx": torch.tensor([picture for picture, _ in patches], dtype=torch.long),
    }


def read(plain: Any, outputs: dict[str, Any]) -> AnchorOutputs:
    return AnchorOutputs.read(plain, outputs)


class Clock:
    """Where a training is, moved by hand."""

    def __init__(self, epochs: int = 50) -> None:
        self.iteration, self.epoch, self.epochs = 0, 0, epochs

    def __call__(self) -> Moment:
        return Moment(self.iteration, 100, self.epoch, self.epochs)


def context_of(
    plain: Any, clock: Clock, folder: Path | None = None, *, every: int = 0, averaged: Any = None
) -> StepContext:
    model: Any = SimpleNamespace()
    return StepContext(
        model=model,
        plain=plain,
        classes=("a", "b", "c"),
        moment=clock,
        averaged=lambda: averaged,
        log=StepLog(folder, every),
    )
