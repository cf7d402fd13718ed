"""Training a classifier of cell crops, phase by phase, and measuring it on the way.

Owns the recipe and the loop. Does not own the networks (see ``models.cell_classifier``), the
views (see ``datasets.cell_views``) nor final figures of a bundle (see ``export``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from calibration.classification_metrics import ClassificationMetrics, evaluate_classification
from calibration.labelled_cells import CellPicture, LabelledCells, write_cells
from edge_runtime.bundle import CropInputSpec
from edge_runtime.errors import SettingsError
from edge_runtime.preprocess import crop_tensor
from edge_runtime.types import Float32Array, Int64Array
from train import THREADS
from train.averaging import moving_average
from train.datasets.cell_sources import CellSourceSpec, read_sources
from train.datasets.cell_views import ViewSpec, draw_view, surroundings
from train.datasets.view_store import ViewStore
from train.datasets.virtual_cells import virtual_cells
from train.models.cell_classifier import (
    CHECKPOINT_NAME,
    Checkpoint,
    NetworkSpec,
    Normalised,
    build_network,
    head_parameters,
    write_checkpoint,
)
from train.models.start_weights import put_start_weights, read_start_weights
from train.recipe_file import read_recipe
from train.run_folder import LAST, begin_run, read_last, save_whole, storing
from train.schedule import warm_cosine

CELLS_NAME = "cells.json"
_BATCH_JUDGED = 64
# Apart enough that no epoch of one seed is an epoch of another.
_EPOCHS_APART = 100_003


class Phase(BaseModel):
    """One stretch of training.

    Attributes:
        frozen_backbone: train the last layer only; the backbone stays in eval mode.
        lr: of the last layer, at its height.
        backbone_lr: of everything else; None takes ``lr``.
        warmup: share of the steps in which the rate rises; then it falls as a cosine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(gt=0)
    frozen_backbone: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(gt=0)
    backbone_lr: float | None = Field(default=None, gt=0)
    final: float = Field(default=0.01, ge=0, le=1, description="last rate, share of the height")
    warmup: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0)


class ClassifyRecipe(BaseModel):
    """Everything that decides a classifier, but for the data itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    purpose: str
    data_root: str = "../shared/data"
    sources: tuple[CellSourceSpec, ...] = Field(min_length=1)
    classes: tuple[str, ...] = Field(min_length=2)
    network: NetworkSpec
    input: CropInputSpec
    view: ViewSpec = ViewSpec()
    phases: tuple[Phase, ...] = Field(min_length=1)
    batch: int = Field(default=64, gt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    weighted_classes: bool = False
    ema: float = Field(default=0.998, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    start_from: str | None = Field(default=None, description="local file of weights")
    virtual_cells: int = Field(default=0, ge=0, description="drawn training cells of each kind")

    @model_validator(mode="after")
    def _bytes_to_unit(self) -> Self:
        # Views are kept as bytes and normalised inside the network.
        if abs(self.input.scale * 255 - 1) > 1e-6:
            raise ValueError(f"input scale {self.input.scale}: must be 1/255")
        return self


def load_classify_recipe(path: str | Path, data_root: Path | None = None) -> ClassifyRecipe:
    """Reads a classifier's recipe, a file or a shipped one by its bare name.

    Raises:
        SettingsError: missing, no YAML, or unknown or bad keys.
    """
    return read_recipe(ClassifyRecipe, "a classifier's recipe", path, data_root)


@dataclass(frozen=True, slots=True)
class JudgedCells:
    """What a network says of one split.

    Attributes:
        truth: int64 ``(n,)``.
        logits: float32 ``(n, classes)``.
    """

    truth: Int64Array
    logits: Float32Array

    @property
    def accuracy(self) -> float:
        """Share of cells named right; 0 without a cell."""
        return self._figures.accuracy if len(self.truth) else 0.0

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur in the truth; 0 without a cell."""
        return self._figures.macro_f1 if len(self.truth) else 0.0

    @property
    def _figures(self) -> ClassificationMetrics:
        names = [str(index) for index in range(self.logits.shape[1])]
        return evaluate_classification(names, self.truth, self.logits.argmax(1))


def judge(
    network: nn.Module,
    pictures: tuple[CellPicture, ...],
    root: Path,
    spec: CropInputSpec,
    *,
    device: torch.device | str = "cpu",
) -> JudgedCells:
    """A network's logits of every labelled cell, cropped as a device would."""
    truth: list[Int64Array] = []
    parts: list[Float32Array] = []
    network.eval()

    def name(crops: Float32Array) -> None:
        # As bytes and back, which is what the network was trained on.
        rounded = np.rint(crops / np.float32(spec.scale)).astype(np.uint8)
        with torch.no_grad():
            batch = torch.from_numpy(rounded).to(device).float() / 255
            parts.append(network(batch).float().cpu().numpy())

    waiting: list[Float32Array] = []
    for picture in pictures:
        pixels = picture.read(root)
        boxes = picture.boxes_xyxy(pixels.shape[1], pixels.shape[0])
        waiting += list(crop_tensor(pixels, boxes, spec))
        truth.append(picture.class_ids)
        while len(waiting) >= _BATCH_JUDGED:
            name(np.stack(waiting[:_BATCH_JUDGED]))
            waiting = waiting[_BATCH_JUDGED:]
    if waiting:
        name(np.stack(waiting))
    if not parts:
        return JudgedCells(np.zeros(0, np.int64), np.zeros((0, 1), np.float32))
    return JudgedCells(np.concatenate(truth), np.concatenate(parts))


def train_classifier(
    recipe: ClassifyRecipe,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    start_from: Path | dict[str, Tensor] | None = None,
    cells: LabelledCells | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains a classifier and leaves its run folder.

    Args:
        recipe: what to train.
        out: run folder: ``classifier.pt`` (best macro F1 on validation cells, averaged
            weights), ``cells.json``, ``training.json``.
        device: ``auto``, ``cpu`` or the index of one GPU.
        resume: continue after the last whole epoch.
        start_from: a file to begin with in place of the recipe's (see
            ``models.start_weights``), or weights already read.
        cells: take these in place of the recipe's sources; files relative to its data root.
        say: told once an epoch.

    Returns:
        The checkpoint.

    Raises:
        DataError: unusable data or weights, or nothing to resume.
        SettingsError: a bad recipe or device, or a folder that holds another run.
        StoreError: the folder cannot be written.
    """
    root, chosen = Path(recipe.data_root), torch_device(device)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(THREADS)
    network = build_network(
        recipe.network.architecture,
        recipe.network.args,
        len(recipe.classes),
        recipe.network.dropout,
    )
    if start_from is None and recipe.start_from is not None:
        start_from = Path(recipe.start_from)
    if start_from is not None and not resume:
        if isinstance(start_from, Path):
            where, given = str(start_from), read_start_weights(start_from, recipe.classes)
        else:
            where, given = "weights to start from", start_from
        random = put_start_weights(network, given, where)
        say(f"started from {where}; random: {', '.join(random) or 'nothing'}")
    if cells is None:
        cells = read_sources(
            recipe.sources, root, recipe.classes, name=recipe.name, with_attributes=False
        )
    begin_run(out, resume=resume)
    model = Normalised(network, recipe.network.mean, recipe.network.std).to(chosen)
    run = _Run(recipe, root, out, model, cells, chosen, say)
    if resume:
        run.resume()
    with storing(out):
        write_cells(cells, out / CELLS_NAME)
    run.train()
    return out / CHECKPOINT_NAME


def torch_device(device: str) -> torch.device:
    """One device of this machine.

    Raises:
        SettingsError: no such device, or several.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if device.isascii() and device.isdigit():
        found = torch.cuda.device_count()
        if int(device) >= found:
            raise SettingsError(f"--device {device}: {found} CUDA devices here; try --device cpu")
        return torch.device(f"cuda:{device}")
    if device not in ("cpu", "mps"):
        raise SettingsError(f"--device {device!r}: use auto, cpu or the index of one GPU")
    if device == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("--device mps: no such device here; try --device cpu")
    return torch.device(device)


class _Run:
    """The state of one training."""

    def __init__(
        self,
        recipe: ClassifyRecipe,
        root: Path,
        out: Path,
        model: Normalised,
        cells: LabelledCells,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self._recipe = recipe
        self._root = root
        self._out = out
        self._model = model.to(memory_format=torch.channels_last)
        self._averaged = moving_average(model, recipe.ema, buffers=True)
        self._cells = cells
        self._device = device
        self._say = say
        self._history: list[dict[str, Any]] = []
        self._best = -1.0
        self._done = 0
        self._labels: Int64Array = np.zeros(0, np.int64)
        self._places: list[int] = []
        self._views = ViewStore(out / "views.tmp")
        self._resumed: dict[str, Any] | None = None

    def resume(self) -> None:
        """Takes up the last whole epoch."""
        saved = read_last(self._out, ("recipe", "model", "averaged", "optimizer", "history"))
        # Read again, so that a key which is new since counts with its default.
        begun = ClassifyRecipe.model_validate_json(saved["recipe"])
        if begun.model_copy(update={"data_root": self._recipe.data_root}) != self._recipe:
            raise SettingsError(f"{self._out}: begun with another recipe; choose another folder")
        self._model.load_state_dict(saved["model"])
        self._averaged.load_state_dict(saved["averaged"])
        self._history, self._best = saved["history"], saved["best"]
        self._done = len(self._history)
        self._resumed = saved

    def train(self) -> None:
        """All phases."""
        self._read_cells()
        started = time.time()
        epoch = 0
        try:
            for number, phase in enumerate(self._recipe.phases):
                first, epoch = epoch, epoch + phase.epochs
                if self._done < epoch:
                    self._phase(number, phase, first)
        finally:
            self._views.close()
        self._write_record(time.time() - started)

    def _read_cells(self) -> None:
        labels: list[int] = []
        known: dict[str, list[int]] = {}
        for picture in self._cells.of_split("train"):
            # A picture that is repeated is read once.
            if picture.file not in known:
                pixels = picture.read(self._root)
                boxes = picture.boxes_xyxy(pixels.shape[1], pixels.shape[0])
                known[picture.file] = [
                    self._views.add(surroundings(pixels, box, self._recipe.input)) for box in boxes
                ]
            self._places += known[picture.file]
            labels += picture.class_ids.tolist()
        drawn = virtual_cells(
            self._recipe.classes, self._recipe.input, of_each=self._recipe.virtual_cells
        )
        for class_id, cell in drawn if self._recipe.virtual_cells else ():
            self._places.append(self._views.add(cell))
            labels.append(class_id)
        self._labels = np.array(labels, np.int64)

    def _phase(self, number: int, phase: Phase, first: int) -> None:
        recipe, model = self._recipe, self._model
        head = {id(p) for p in head_parameters(model.network)}
        groups = [
            {"params": [p for p in model.parameters() if id(p) in head], "lr": phase.lr},
            {
                "params": [p for p in model.parameters() if id(p) not in head],
                "lr": phase.backbone_lr or phase.lr,
            },
        ]
        for parameter in model.parameters():
            parameter.requires_grad_(not phase.frozen_backbone or id(parameter) in head)
        if phase.frozen_backbone:
            groups = groups[:1]
        optimizer: torch.optim.Optimizer
        if phase.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, weight_decay=phase.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                groups, momentum=0.9, nesterov=True, weight_decay=phase.weight_decay
            )
        heights = [float(group["lr"]) for group in optimizer.param_groups]
        steps_an_epoch = max(1, len(self._labels) // recipe.batch)
        total = steps_an_epoch * phase.epochs
        criterion = nn.CrossEntropyLoss(
            weight=self._class_weights(), label_smoothing=recipe.label_smoothing
        )
        begin = max(first, self._done)
        if begin > first and self._resumed is not None:
            optimizer.load_state_dict(self._resumed["optimizer"])
        for epoch in range(begin, first + phase.epochs):
            # Dropout's chance hangs on the epoch alone, so that a resumed run draws the same.
            torch.manual_seed(recipe.seed * _EPOCHS_APART + epoch)
            started, losses = time.time(), []
            model.train()
            if phase.frozen_backbone:
                model.eval()
            for number_of_batch, (crops, labels) in enumerate(self._batches(epoch)):
                step = (epoch - first) * steps_an_epoch + number_of_batch
                rate = warm_cosine(step, total=total, warmup=phase.warmup, final=phase.final)
                for group, height in zip(optimizer.param_groups, heights, strict=True):
                    group["lr"] = height * rate
                # Of the whole model: gradients of an earlier phase must not reach the clipping.
                model.zero_grad(set_to_none=True)
                loss = criterion(model(crops), labels)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                self._average()
                losses.append(float(loss.detach()))
            self._after(epoch, number, float(np.mean(losses)), time.time() - started)
            save_whole(
                {
                    "recipe": recipe.model_dump_json(),
                    "model": model.state_dict(),
                    "averaged": self._averaged.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "history": self._history,
                    "best": self._best,
                },
                self._out / LAST,
            )

    def _average(self) -> None:
        """One step of the moving average; whole numbers are counts and are copied."""
        self._averaged.update_parameters(self._model)
        for mine, theirs in zip(
            self._averaged.module.buffers(), self._model.buffers(), strict=True
        ):
            if not mine.is_floating_point():
                mine.copy_(theirs)

    def _class_weights(self) -> Tensor | None:
        if not self._recipe.weighted_classes:
            return None
        counts = np.bincount(self._labels, minlength=len(self._recipe.classes))
        weights = counts.sum() / np.maximum(counts, 1) / len(counts)
        return torch.tensor(weights, dtype=torch.float32, device=self._device)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, epoch])
        order = rng.permutation(len(self._labels))
        whole = max(1, len(order) // recipe.batch)
        for number in range(whole):
            chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
            views = np.stack(
                [
                    draw_view(self._views[self._places[i]], rng, recipe.input, recipe.view)
                    for i in chosen
                ]
            )
            crops = torch.from_numpy(views).to(self._device).permute(0, 3, 1, 2).float() / 255
            yield (
                crops.contiguous(memory_format=torch.channels_last),
                torch.from_numpy(self._labels[chosen]).to(self._device),
            )

    def _after(self, epoch: int, phase: int, loss: float, seconds: float) -> None:
        averaged: Any = self._averaged.module
        judged = judge(
            averaged,
            self._cells.of_split("val"),
            self._root,
            self._recipe.input,
            device=self._device,
        )
        row = {
            "epoch": epoch + 1,
            "phase": phase + 1,
            "loss": round(loss, 4),
            "val_accuracy": round(judged.accuracy, 4),
            "val_macro_f1": round(judged.macro_f1, 4),
            "seconds": round(seconds, 1),
        }
        self._history.append(row)
        self._say("  ".join(f"{key} {value}" for key, value in row.items()))
        # Of equals the later: the rate was lower. Without validation cells, the last.
        if judged.macro_f1 >= self._best:
            self._best = judged.macro_f1
            with storing(self._out):
                self._write_checkpoint(averaged)

    def _write_checkpoint(self, averaged: Any) -> None:
        recipe = self._recipe
        write_checkpoint(
            Checkpoint(
                architecture=recipe.network.architecture,
                model_args=recipe.network.args,
                classes=recipe.classes,
                input=recipe.input,
                mean=recipe.network.mean,
                std=recipe.network.std,
            ),
            {k: v.cpu() for k, v in averaged.network.state_dict().items()},
            self._out / CHECKPOINT_NAME,
        )

    def _write_record(self, seconds: float) -> None:
        document = {
            "recipe": self._recipe.model_dump(mode="json"),
            "checkpoint": CHECKPOINT_NAME,
            "cells": {
                split: sum(len(each.cells) for each in self._cells.of_split(split))
                for split in ("train", "val", "test")
            },
            "history": self._history,
            "best_val_macro_f1": self._best,
            "seconds_of_last_start": round(seconds, 1),
            "torch": torch.__version__,
        }
        with storing(self._out):
            (self._out / "training.json").write_text(json.dumps(document, indent=1) + "\n")
