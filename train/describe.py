"""Training an attribute head on a finished detector, whose weights stay as they are.

Owns the recipe, the loop and the checkpoint. Does not own the head (see
``models.attribute_head``), nor training detector and head together (see
``models.attridet``). With the detector frozen its finds stay what they were measured to
be, and only its first layers have to run: those that the head reads.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from calibration.attribute_metrics import AttributeMetrics, evaluate_on_labelled_boxes
from calibration.labelled_cells import CellPicture, CellSplit, LabelledCells, write_cells
from edge_runtime.attributes import MISSING
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import Float32Array, Int64Array, UInt8Image
from train import THREADS
from train.averaging import moving_average
from train.datasets.cell_sources import CellSourceSpec, read_sources
from train.datasets.cell_windows import WindowSpec, draw_window
from train.losses import AsymmetricLoss
from train.models.attribute_head import (
    AttriHead,
    HeadOutputs,
    Tap,
    chosen_values,
    describe_taps,
    logit_widths,
    pool_cells,
    tapped_layers,
)
from train.models.cell_classifier import load_weights, put_weights
from train.own_checkpoint import load_own_checkpoint
from train.recipe_file import read_recipe
from train.run_folder import LAST, begin_run, read_last, save_whole, storing
from train.schedule import warm_cosine

CHECKPOINT_NAME = "attribute_head.pt"
CELLS_NAME = "cells.json"
# Of cross entropy: attribute labels are one person's judgement.
_SMOOTHING = 0.05
# Share of the rate's height that the last step comes near to.
_FINAL = 0.01
# Apart enough that no epoch of one seed is an epoch of another.
_EPOCHS_APART = 100_003


class DescribeRecipe(BaseModel):
    """Everything that decides an attribute head on a frozen detector, but for the data.

    Attributes:
        classes: cells of other classes are left out.
        layers: tapped layers; None takes those of the detector's family.
        convolutions: channels of the head's convolutions; the paper's are 128, 64, 64.
        loss: the method's asymmetric one, or cross entropy over the values of each
            attribute, which makes them compete.
        balance: with cross entropy, values weigh as their frequency to the power of minus
            this; 0 leaves rare values to be outvoted, 1 makes all values equal.
        input_size: side of the detector's input, which decides a picture's fitted scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    purpose: str
    data_root: str = "../shared/data"
    sources: tuple[CellSourceSpec, ...] = Field(min_length=1)
    classes: tuple[str, ...] = Field(min_length=1)
    detector: str = "models/wbc-detector.pt"
    layers: tuple[int, ...] | None = None
    convolutions: tuple[int, int, int] = AttriHead.CONVOLUTIONS
    outputs: HeadOutputs = "per_value"
    dropout: float = Field(default=0.2, ge=0, lt=1)
    loss: Literal["asymmetric", "cross_entropy"] = "asymmetric"
    balance: float = Field(default=0.0, ge=0, le=1)
    input_size: int = Field(default=320, gt=0)
    window: WindowSpec = WindowSpec()
    epochs: int = Field(gt=0)
    batch: int = Field(default=32, gt=1)
    lr: float = Field(default=0.001, gt=0, allow_inf_nan=False)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    ema: float = Field(default=0.998, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)


def load_describe_recipe(path: str | Path, data_root: Path | None = None) -> DescribeRecipe:
    """Reads a head's recipe, a file or a shipped one by its bare name.

    Raises:
        SettingsError: missing, no YAML, or unknown or bad keys.
    """
    return read_recipe(DescribeRecipe, "an attribute head's recipe", path, data_root)


class FrozenFeatures(nn.Module):
    """The first layers of a detector, in eval mode and without gradients.

    Args:
        detector: an ultralytics detector.
        layers: tapped layers, in rising order.

    Raises:
        SettingsError: a layer up to the last tapped one takes more than the layer before.
    """

    def __init__(self, detector: nn.Module, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.taps: tuple[Tap, ...] = describe_taps(detector, layers)
        stack: Any = detector.model
        self.stack = nn.ModuleList(list(stack)[: max(layers) + 1])
        for number, layer in enumerate(self.stack):
            described: Any = layer
            if number and described.f != -1:
                raise SettingsError(f"tapped layers {layers}: layer {number} is no plain chain")
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stays in eval mode: batch norms must not move."""
        super().train(False)
        return self

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Tapped maps of pictures ``(n, 3, h, w)`` in 0..1."""
        wanted = {tap.layer for tap in self.taps}
        maps = []
        with torch.no_grad():
            for number, layer in enumerate(self.stack):
                pictures = layer(pictures)
                if number in wanted:
                    maps.append(pictures)
        return maps


def train_attribute_head(
    recipe: DescribeRecipe,
    out: Path,
    *,
    detector: Path | None = None,
    start_from: Path | None = None,
    resume: bool = False,
    cells: LabelledCells | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains a head and leaves its run folder.

    Args:
        recipe: what to train.
        out: run folder: ``attribute_head.pt`` (best mean F1 on validation cells, averaged
            weights), ``cells.json``, ``training.json``.
        detector: checkpoint other than the recipe's.
        start_from: ``attribute_head.pt`` of an earlier run on the same detector, whose
            weights to begin with.
        resume: continue after the last whole epoch.
        cells: take these in place of the recipe's sources; files relative to its data root.
        say: told once an epoch.

    Returns:
        The checkpoint.

    Raises:
        DataError: unusable data or checkpoint.
        SettingsError: a bad recipe, or nothing known of the detector's layers.
    """
    root, checkpoint = Path(recipe.data_root), detector or Path(recipe.detector)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(THREADS)
    if cells is None:
        cells = read_sources(
            recipe.sources, root, recipe.classes, name=recipe.name, with_attributes=True
        )
    own: Any = load_own_checkpoint(checkpoint)
    layers = recipe.layers or tapped_layers(str(own.yaml.get("yaml_file", "")))
    features = FrozenFeatures(own, layers)
    begin_run(out, resume=resume)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    run = _Run(recipe, root, out, features, cells, digest, say)
    if resume:
        run.resume()
    elif start_from is not None:
        run.start_from(start_from)
    with storing(out):
        write_cells(cells, out / CELLS_NAME)
    run.train()
    return out / CHECKPOINT_NAME


class _Run:
    """The state of one training."""

    def __init__(
        self,
        recipe: DescribeRecipe,
        root: Path,
        out: Path,
        features: FrozenFeatures,
        cells: LabelledCells,
        detector_sha256: str,
        say: Callable[[str], None],
    ) -> None:
        if cells.attributes is None:
            raise SettingsError(f"recipe {recipe.name}: its data sets have no attributes")
        self._recipe, self._root, self._out, self._say = recipe, root, out, say
        self._cells, self._schema = cells, cells.attributes
        self._detector_sha256 = detector_sha256
        self._features = features.to(memory_format=torch.channels_last)
        self._widths = logit_widths(self._schema, recipe.outputs)
        self._head = AttriHead(
            sum(tap.channels for tap in features.taps),
            sum(self._widths),
            recipe.dropout,
            recipe.convolutions,
        )
        self._averaged = moving_average(self._head, recipe.ema)
        self._history: list[dict[str, Any]] = []
        self._best = -1.0
        self._resumed: dict[str, Any] | None = None
        self._value_weights: list[Tensor] = []

    def start_from(self, file: Path) -> None:
        """Begins with another run's weights.

        Raises:
            DataError: no head's checkpoint, or one for another detector, schema or width.
        """
        saved = load_weights(file)
        if not isinstance(saved, dict) or saved.get("kind") != "attribute_head":
            raise DataError(f"{file}: no attribute head's checkpoint; give {CHECKPOINT_NAME}")
        if saved.get("detector_sha256") != self._detector_sha256:
            raise DataError(f"{file}: trained on another detector; give that one's checkpoint")
        if saved.get("attributes") != self._schema.model_dump(mode="json"):
            raise DataError(f"{file}: its attributes are not those of the data")
        put_weights(self._head, saved["state"], file)
        self._averaged = moving_average(self._head, self._recipe.ema)

    def resume(self) -> None:
        """Takes up the last whole epoch."""
        saved = read_last(self._out, ("recipe", "head", "averaged", "optimizer", "history"))
        # Read again, so that a key which is new since counts with its default.
        begun = DescribeRecipe.model_validate_json(saved["recipe"])
        if begun.model_copy(update={"data_root": self._recipe.data_root}) != self._recipe:
            raise SettingsError(f"{self._out}: begun with another recipe; choose another folder")
        self._head.load_state_dict(saved["head"])
        self._averaged.load_state_dict(saved["averaged"])
        self._history, self._best, self._resumed = saved["history"], saved["best"], saved

    def train(self) -> None:
        """All epochs."""
        recipe = self._recipe
        examples = self._cells.attributed("train")
        if not examples:
            raise DataError(f"{self._root}: no training cell with an attribute; check the data")
        self._value_weights = self._weigh_values(examples)
        judged_on = _judging(self._cells, "val", self._root, recipe.input_size)
        optimizer = torch.optim.AdamW(
            self._head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        steps = max(1, len(examples) // recipe.batch)
        total = steps * recipe.epochs
        if self._resumed is not None:
            optimizer.load_state_dict(self._resumed["optimizer"])
        for epoch in range(len(self._history), recipe.epochs):
            # Dropout's chance hangs on the epoch alone, so that a resumed run draws the same.
            torch.manual_seed(recipe.seed * _EPOCHS_APART + epoch)
            started, losses = time.time(), []
            self._head.train()
            for number, (windows, boxes, values) in enumerate(self._batches(examples, epoch)):
                rate = warm_cosine(
                    epoch * steps + number, total=total, warmup=recipe.warmup, final=_FINAL
                )
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * rate
                logits = self._head(self._pooled(windows, boxes))
                loss = self._loss(logits, values)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self._head.parameters(), 5.0)
                optimizer.step()
                self._averaged.update_parameters(self._head)
                losses.append(float(loss.detach()))
            self._after(epoch, float(np.mean(losses)), time.time() - started, judged_on)
            save_whole(
                {
                    "recipe": recipe.model_dump_json(),
                    "head": self._head.state_dict(),
                    "averaged": self._averaged.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "history": self._history,
                    "best": self._best,
                },
                self._out / LAST,
            )
        self._write_record()

    def _loss(self, logits: Tensor, values: Tensor) -> Tensor:
        if self._recipe.loss == "asymmetric":
            return AsymmetricLoss()(logits, values, self._widths)
        groups = logits.split(list(self._widths), dim=1)
        parts = [
            nn.functional.cross_entropy(
                group,
                values[:, place],
                weight=self._value_weights[place],
                ignore_index=MISSING,
                label_smoothing=_SMOOTHING,
            )
            for place, group in enumerate(groups)
            if bool((values[:, place] != MISSING).any())
        ]
        return torch.stack(parts).sum()

    def _weigh_values(self, examples: list[tuple[CellPicture, int]]) -> list[Tensor]:
        """Per attribute the weight of each value, 1 on average over the cells."""
        table = np.array([picture.cells[cell].attributes for picture, cell in examples])
        weights = []
        for place, attribute in enumerate(self._schema.attributes):
            known = table[table[:, place] != MISSING, place]
            counts = np.bincount(known, minlength=len(attribute.values)).clip(min=1)
            raw = (counts / counts.sum()) ** -self._recipe.balance
            weights.append(
                torch.tensor(raw / (raw * counts).sum() * counts.sum(), dtype=torch.float32)
            )
        return weights

    def _pooled(self, pictures: Tensor, boxes: Tensor) -> Tensor:
        maps = self._features(pictures)
        strides = [tap.stride for tap in self._features.taps]
        return pool_cells(maps, strides, boxes, torch.arange(len(boxes)))

    def _batches(
        self, examples: list[tuple[CellPicture, int]], epoch: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, epoch])
        order = rng.permutation(len(examples))
        for number in range(max(1, len(order) // recipe.batch)):
            chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
            windows, boxes, values = [], [], []
            for index in chosen:
                picture, cell = examples[index]
                pixels = picture.read(self._root)
                height, width = pixels.shape[:2]
                window, box = draw_window(
                    pixels,
                    picture.boxes_xyxy(width, height)[cell],
                    recipe.input_size / max(width, height),
                    rng,
                    recipe.window,
                )
                windows.append(window)
                boxes.append(box)
                values.append(picture.cells[cell].attributes)
            tensor = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).float() / 255
            yield (
                tensor.contiguous(memory_format=torch.channels_last),
                torch.from_numpy(np.stack(boxes)),
                torch.tensor(values),
            )

    def _after(self, epoch: int, loss: float, seconds: float, judged_on: list[_Judged]) -> None:
        metrics = self._judge(judged_on)
        row = {
            "epoch": epoch + 1,
            "loss": round(loss, 4),
            "val_macro_f1": None if metrics is None else round(metrics.mean_macro_f1 or 0.0, 4),
            "seconds": round(seconds, 1),
        }
        self._history.append(row)
        self._say("  ".join(f"{key} {value}" for key, value in row.items()))
        reached = float(row["val_macro_f1"] or 0.0)
        if reached >= self._best:
            self._best = reached
            self._write_checkpoint()

    def _judge(self, judged_on: list[_Judged]) -> AttributeMetrics | None:
        if not judged_on:
            return None
        averaged: Any = self._averaged.module
        averaged.eval()
        truth, predicted = [], []
        with torch.no_grad():
            for start in range(0, len(judged_on), 16):
                part = judged_on[start : start + 16]
                pictures = torch.from_numpy(np.stack([each[0] for each in part])).float() / 255
                boxes = torch.from_numpy(np.stack([each[1] for each in part]))
                logits = averaged(
                    self._pooled(pictures.contiguous(memory_format=torch.channels_last), boxes)
                )
                predicted += list(chosen_values(logits, self._widths)[0].numpy())
                truth += [each[2] for each in part]
        return evaluate_on_labelled_boxes(self._schema, np.stack(truth), np.stack(predicted))

    def _write_checkpoint(self) -> None:
        recipe, taps = self._recipe, self._features.taps
        attributed = {
            picture.cells[cell].class_id for picture, cell in self._cells.attributed("train")
        }
        averaged: Any = self._averaged.module
        document = {
            "kind": "attribute_head",
            "attributes": self._schema.model_dump(mode="json"),
            "outputs": recipe.outputs,
            "activation": "sigmoid" if recipe.loss == "asymmetric" else "softmax",
            "layers": [tap.layer for tap in taps],
            "strides": [tap.stride for tap in taps],
            "channels": [tap.channels for tap in taps],
            "convolutions": list(recipe.convolutions),
            "dropout": recipe.dropout,
            "not_for_classes": [
                name for place, name in enumerate(recipe.classes) if place not in attributed
            ],
            "detector_sha256": self._detector_sha256,
            "state": averaged.state_dict(),
        }
        save_whole(document, self._out / CHECKPOINT_NAME)

    def _write_record(self) -> None:
        document = {
            "recipe": self._recipe.model_dump(mode="json"),
            "checkpoint": CHECKPOINT_NAME,
            "detector_sha256": self._detector_sha256,
            "cells_with_attributes": {
                split: len(self._cells.attributed(split)) for split in ("train", "val", "test")
            },
            "history": self._history,
            "best_val_macro_f1": self._best,
            "torch": torch.__version__,
        }
        with storing(self._out):
            (self._out / "training.json").write_text(json.dumps(document, indent=1) + "\n")


# A fitted input uint8 (3, size, size), a box in it and the labelled values.
_Judged = tuple[UInt8Image, Float32Array, Int64Array]


def _judging(cells: LabelledCells, split: CellSplit, root: Path, size: int) -> list[_Judged]:
    """Cells of a split in whole pictures, fitted to the input as a device does."""
    spec = InputSpec(name="images", width=size, height=size, scale=1.0, pad_value=114)
    judged: list[_Judged] = []
    for picture, number in cells.attributed(split):
        pixels = picture.read(root)
        height, width = pixels.shape[:2]
        window = fit_window(width, height, spec)
        box = window.to_input(picture.boxes_xyxy(width, height)[number])
        fitted = tensor_of(pixels, window, spec)[0].astype(np.uint8)
        judged.append((fitted, box, np.array(picture.cells[number].attributes)))
    return judged
