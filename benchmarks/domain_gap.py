"""Why a detector loses on another microscope: colour, scale, batch statistics, pseudo-labels.

Owns the measurements on a finished source-only run, none of which trains anything: how the
two sets differ, what each difference costs when it alone is taken away, and how right the
pseudo-labels are that adaptation would begin with. Labels of the target are read here to judge,
never to learn.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from ultralytics.utils.nms import non_max_suppression

from benchmarks.training_grid import over_seeds
from calibration.class_accuracy import ClassedCells, count_finds
from calibration.fields import xywhn_to_xyxy
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError
from edge_runtime.image_file import read_image
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import UInt8Image
from train.adapt.recolour import lab_to_rgb, rgb_to_lab
from train.datasets.labelled import LabelledImage, LabelledSet
from train.evaluate_attridet import judge_pictures
from train.judge_method import open_method_run
from train.method_folder import read_several
from train.method_recipe import AdaptRecipe
from train.own_checkpoint import load_own_checkpoint

# Of pseudo-labels: ConfMix's own, and a stricter one.
CONFIDENCES = (0.25, 0.5)


def measure_gap(run: Path, data_root: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """All measurements on one source-only run.

    Args:
        run: its folder.
        data_root: of the data.
        say: told what is measured.

    Raises:
        DataError: no finished run of adaptation, or missing or bad data.
    """
    recipe, _, checkpoint = open_method_run(run, data_root)
    if not isinstance(recipe, AdaptRecipe):
        raise DataError(f"{run}: a run of sparse training; give one of adaptation")
    model = load_own_checkpoint(checkpoint)
    source = read_several([recipe.source], data_root, recipe.seed)
    target = read_several([recipe.target], data_root, recipe.seed)
    size = recipe.image_size
    say("colour and scale")
    colours = {
        "source": _colour(source.of_split("train")),
        "target": _colour(target.of_split("train")),
    }
    scales = {"source": _cell_scale(source), "target": _cell_scale(target)}
    factor = scales["source"] / scales["target"]
    test = target.of_split("test")
    with tempfile.TemporaryDirectory(prefix="leukoscope-gap-") as scratch:
        say("source's colours, source's scale")
        painted = _recoloured(test, colours["source"], Path(scratch) / "colour")
        larger, scaled_size = _rescaled(test, factor, size, Path(scratch) / "scale")
        both, _ = _rescaled(painted, factor, size, Path(scratch) / "both")
        say("batch statistics of the target")
        adapted = with_batch_statistics(model, target.of_split("train"), size)
        cases = {
            "as it is": (model, test, size),
            "source's colours": (model, painted, size),
            "source's scale": (model, larger, scaled_size),
            "both": (model, both, scaled_size),
            "batch statistics of the target": (adapted, test, size),
        }
        figures = {}
        for name, (network, images, side) in cases.items():
            judged = judge_pictures(network, target, images, size=side).detection
            figures[name] = {"ap": judged.ap, "ap50": judged.ap50}
    say("pseudo-labels on the target")
    return {
        "colours": {
            name: {"mean_lab": means.tolist(), "deviation_lab": deviations.tolist()}
            for name, (means, deviations) in colours.items()
        },
        "cell_scale": {**scales, "factor": factor},
        "target": figures,
        "pseudo_labels": pseudo_label_figures(model, target, target.of_split("train"), size),
    }


def over_runs(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs of one kind as one entry: figures over seeds, the sets as they are."""
    first = runs[0]
    return {
        "colours": first["colours"],
        "cell_scale": first["cell_scale"],
        "target": {
            case: {
                name: over_seeds([run["target"][case][name] for run in runs])
                for name in ("ap", "ap50")
            }
            for case in first["target"]
        },
        "pseudo_labels": {
            confidence: {
                label: {
                    name: over_seeds(
                        [run["pseudo_labels"][confidence][label][name] for run in runs]
                    )
                    for name in figures
                }
                for label, figures in labels.items()
            }
            for confidence, labels in first["pseudo_labels"].items()
        },
    }


_Colours = tuple[NDArray[np.float64], NDArray[np.float64]]


def _colour(images: Sequence[LabelledImage]) -> _Colours:
    """Mean over pictures of their mean and deviation in CIE Lab."""
    found = [_lab(read_image(each.image)).reshape(3, -1) for each in images]
    return (
        np.mean([each.mean(axis=1) for each in found], axis=0),
        np.mean([each.std(axis=1) for each in found], axis=0),
    )


def _lab(pixels: UInt8Image) -> NDArray[np.float64]:
    """CIE Lab ``(3, H, W)``."""
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    lab: NDArray[np.float64] = rgb_to_lab(tensor)[0].numpy()
    return lab


def _cell_scale(fields: LabelledSet) -> float:
    """Median side of a box of the first class, as a share of the picture's longer side."""
    sides: list[float] = []
    for each in fields.of_split("train"):
        height, width = read_image(each.image).shape[:2]
        boxes = each.boxes_xywhn[each.class_ids == 0]
        areas = boxes[:, 2] * width * boxes[:, 3] * height
        sides += (np.sqrt(areas) / max(width, height)).tolist()
    return statistics.median(sides)


def _recoloured(
    images: Sequence[LabelledImage], colours: _Colours, folder: Path
) -> tuple[LabelledImage, ...]:
    folder.mkdir()
    means, deviations = (part[:, None, None] for part in colours)
    found = []
    for each in images:
        lab = _lab(read_image(each.image))
        own = lab.mean(axis=(1, 2), keepdims=True), lab.std(axis=(1, 2), keepdims=True)
        painted = (lab - own[0]) / np.maximum(own[1], 1e-3) * deviations + means
        rgb = lab_to_rgb(torch.from_numpy(painted)[None])[0].permute(1, 2, 0).numpy()
        found.append(_written(np.rint(rgb * 255).astype(np.uint8), each, folder))
    return tuple(found)


def _rescaled(
    images: Sequence[LabelledImage], factor: float, size: int, folder: Path
) -> tuple[tuple[LabelledImage, ...], int]:
    """Pictures with a margin, and the input's side at which cells appear ``factor`` as large."""
    folder.mkdir()
    side = int(np.ceil(size * factor / 32) * 32)
    share = size * factor / side
    found = []
    for each in images:
        pixels = read_image(each.image)
        height, width = pixels.shape[:2]
        longer = round(max(height, width) / share)
        top, left = (longer - height) // 2, (longer - width) // 2
        canvas = np.full((longer, longer, 3), 114, np.uint8)
        canvas[top : top + height, left : left + width] = pixels
        boxes = each.boxes_xywhn * np.array([width, height] * 2, np.float32)
        boxes[:, :2] += np.array([left, top], np.float32)
        found.append(_written(canvas, replace(each, boxes_xywhn=boxes / longer), folder))
    return tuple(found), side


def _written(pixels: UInt8Image, image: LabelledImage, folder: Path) -> LabelledImage:
    file = folder / f"{image.image.stem}.png"
    cv2.imwrite(str(file), np.ascontiguousarray(pixels[:, :, ::-1]))
    return replace(image, image=file)


def with_batch_statistics(
    model: nn.Module, images: Sequence[LabelledImage], size: int, batch: int = 16
) -> nn.Module:
    """A copy whose batch normalisation has the statistics of other pictures (AdaBN).

    Args:
        model: whose weights stay.
        images: pictures; their labels are not used.
        size: side of the network's input.
        batch: pictures at once.
    """
    other = copy.deepcopy(model)
    norms = [each for each in other.modules() if isinstance(each, nn.BatchNorm2d)]
    for each in norms:
        each.reset_running_stats()
        # None: the plain mean over batches.
        each.momentum = None
        each.train()
    with torch.no_grad():
        for start in range(0, len(images), batch):
            other(torch.cat([_tensor(each, size)[0] for each in images[start : start + batch]]))
    return other.eval()


def _tensor(image: LabelledImage, size: int) -> tuple[torch.Tensor, Any, tuple[int, int]]:
    pixels = read_image(image.image)
    height, width = pixels.shape[:2]
    spec = InputSpec(name="images", width=size, height=size, scale=1 / 255, pad_value=114)
    window = fit_window(width, height, spec)
    return torch.from_numpy(tensor_of(pixels, window, spec)), window, (width, height)


def pseudo_label_figures(
    model: nn.Module, fields: LabelledSet, images: Sequence[LabelledImage], size: int
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Precision and recall of pseudo-labels per class, at two confidences.

    See ``calibration.class_accuracy.count_finds`` for when one is right.
    """
    network: Any = model
    truth, found = [], []
    for each in images:
        tensor, window, (width, height) = _tensor(each, size)
        with torch.no_grad():
            answer = network(tensor)[0]
            finds = non_max_suppression(answer, min(CONFIDENCES), 0.5, nc=len(fields.classes))[0]
        boxes = xywhn_to_xyxy(each.boxes_xywhn, width, height)
        truth.append(ClassedCells(boxes, each.class_ids, np.ones(len(boxes), np.float32)))
        found.append(
            ClassedCells(
                window.to_frame(finds[:, :4].numpy()),
                finds[:, 5].numpy().astype(np.int64),
                finds[:, 4].numpy(),
            )
        )
    counted = count_finds(fields.classes, truth, found, scores=CONFIDENCES)
    return {
        f"{confidence:g}": {
            each.name: {
                "precision": each.precision,
                "recall": each.recall,
                "given": float(each.finds),
            }
            for each in counted
            if each.score == confidence
        }
        for confidence in CONFIDENCES
    }
