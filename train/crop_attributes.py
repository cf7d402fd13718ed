"""A network of its own for attributes, on crops: what a shared head is compared with.

Owns the loop and measuring. Does not own the views (see ``datasets.cell_views``), the loss
nor the head on a detector's features, whose recipe decides everything that both share: cells,
loss, epochs, batch, rates, averaging and seed (see ``describe``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from calibration.attribute_metrics import AttributeMetrics, evaluate_on_labelled_boxes
from calibration.labelled_cells import CellSplit, LabelledCells
from edge_runtime.bundle import CropInputSpec
from edge_runtime.errors import DataError
from edge_runtime.preprocess import crop_tensor
from edge_runtime.types import Float32Array
from train.datasets.cell_views import Surroundings, ViewSpec, draw_view, surroundings
from train.describe import DescribeRecipe
from train.losses import AsymmetricLoss
from train.models.attribute_head import chosen_values, logit_widths
from train.models.cell_classifier import NetworkSpec, Normalised, build_network
from train.schedule import warm_cosine

_AT_ONCE = 32
# Last learning rate, share of its height; that of the head's training.
_FINAL = 0.01


def train_crop_attributes(
    recipe: DescribeRecipe,
    cells: LabelledCells,
    network: NetworkSpec,
    crop: CropInputSpec,
    *,
    view: ViewSpec | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Normalised:
    """Trains a crop network with one output per attribute value.

    Args:
        recipe: of the head that it is compared with.
        cells: with attributes; files relative to the recipe's data root.
        network: timm network.
        crop: its input.
        view: how far training views stray.
        say: told once an epoch.

    Returns:
        The network, in eval mode, with the averaged weights that were best on validation
        cells; its last ones where there are none.

    Raises:
        DataError: no training cell with an attribute.
        SettingsError: a network that timm does not have.
    """
    schema = cells.attributes
    if schema is None:
        raise DataError(f"{cells.name}: its cells have no attributes")
    root, widths = Path(recipe.data_root), logit_widths(schema)
    torch.manual_seed(recipe.seed)
    built = build_network(network.architecture, network.args, sum(widths), network.dropout)
    model = Normalised(built, network.mean, network.std).to(memory_format=torch.channels_last)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    around, values = _training_cells(cells, root, crop)
    steps = max(1, len(around) // recipe.batch)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    best = -1.0
    # What an average wraps is a plain module to the type checker.
    kept: Any = copy.deepcopy(averaged.module)
    for epoch in range(recipe.epochs):
        model.train()
        batches = _batches(around, values, recipe, epoch, crop, view or ViewSpec())
        for number, (crops, labels) in enumerate(batches):
            rate = warm_cosine(
                epoch * steps + number,
                total=steps * recipe.epochs,
                warmup=recipe.warmup,
                final=_FINAL,
            )
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate
            loss = AsymmetricLoss()(model(crops), labels, widths)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            averaged.update_parameters(model)
        reached = 0.0
        if cells.of_split("val"):
            judged = judge_crop_attributes(averaged.module, cells, "val", root, crop)
            reached = judged.mean_macro_f1 or 0.0
        say(f"crop network, epoch {epoch + 1}: validation macro F1 {reached:.4f}")
        if reached >= best:
            best, kept = reached, copy.deepcopy(averaged.module)
    finished: Normalised = kept
    return finished.eval()


def judge_crop_attributes(
    network: nn.Module, cells: LabelledCells, split: CellSplit, root: Path, crop: CropInputSpec
) -> AttributeMetrics:
    """Agreement on the labelled boxes of a split, cut as a device would.

    Raises:
        DataError: the split has no cell with an attribute, or a picture cannot be read.
    """
    schema = cells.attributes
    truth, crops = [], []
    for picture, number in cells.attributed(split):
        pixels = picture.read(root)
        box = picture.boxes_xyxy(pixels.shape[1], pixels.shape[0])[number : number + 1]
        crops.append(crop_tensor(pixels, box, crop))
        truth.append(picture.cells[number].attributes)
    if schema is None or not truth:
        raise DataError(f"{cells.name}: no {split} cell with an attribute; check the data")
    network.eval()
    predicted = []
    with torch.no_grad():
        for start in range(0, len(crops), _AT_ONCE):
            part: Float32Array = np.concatenate(crops[start : start + _AT_ONCE])
            logits = network(torch.from_numpy(part))
            predicted.append(chosen_values(logits, logit_widths(schema))[0].numpy())
    return evaluate_on_labelled_boxes(schema, np.array(truth, np.int64), np.concatenate(predicted))


def _training_cells(
    cells: LabelledCells, root: Path, crop: CropInputSpec
) -> tuple[list[Surroundings], Tensor]:
    around, values = [], []
    for picture, number in cells.attributed("train"):
        pixels = picture.read(root)
        box = picture.boxes_xyxy(pixels.shape[1], pixels.shape[0])[number]
        around.append(surroundings(pixels, box, crop))
        values.append(picture.cells[number].attributes)
    if not around:
        raise DataError(f"{root}: no training cell with an attribute; check the data")
    return around, torch.tensor(values)


def _batches(
    around: list[Surroundings],
    values: Tensor,
    recipe: DescribeRecipe,
    epoch: int,
    crop: CropInputSpec,
    view: ViewSpec,
) -> Iterator[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng([recipe.seed, epoch])
    order = rng.permutation(len(around))
    for number in range(max(1, len(order) // recipe.batch)):
        chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
        views = np.stack([draw_view(around[i], rng, crop, view) for i in chosen])
        crops = torch.from_numpy(views).permute(0, 3, 1, 2).float() * crop.scale
        yield crops.contiguous(memory_format=torch.channels_last), values[chosen]
