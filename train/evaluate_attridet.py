"""Measuring a detector with classes, and its attribute head if it has one.

Owns running a checkpoint on labelled pictures under the settings of the papers, and the
document of the figures. Does not own the figures themselves (see
``calibration.class_accuracy`` and ``calibration.attribute_metrics``) nor pictures of them
(see ``attridet_plots``).

Every picture is fitted to the same square input, so that neither a batch's size nor a
picture's neighbours in it can change a figure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.utils.nms import non_max_suppression

from calibration.accuracy import MATCH_IOU, iou_matrix
from calibration.attribute_metrics import (
    AttributeMetrics,
    FieldTruth,
    FoundCells,
    evaluate_on_finds,
    evaluate_on_labelled_boxes,
)
from calibration.class_accuracy import (
    MAX_FINDS,
    ClassedCells,
    ClassMetrics,
    CountedFinds,
    count_finds,
    evaluate_classes,
)
from calibration.fields import digest_files, xywhn_to_xyxy
from edge_runtime.attributes import MISSING
from edge_runtime.bundle import InputSpec
from edge_runtime.errors import DataError, FrameError, SettingsError
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.image_file import read_image
from edge_runtime.preprocess import Window, fit_window, tensor_of
from edge_runtime.types import Float32Array, Int64Array
from train.attridet_folder import read_fields
from train.attridet_recipe import AttriDetRecipe, Split
from train.datasets.labelled import LabelledImage, LabelledSet
from train.models.attribute_head import chosen_values
from train.models.attridet import AttriDetModel
from train.own_checkpoint import load_own_checkpoint

# As the authors of AttriDet measure: nearly all finds, suppressed at this overlap.
CONFIDENCE = 0.001
SUPPRESSION_IOU = 0.6
# Cells pooled at once: 300 of a large detector's would take half a gigabyte.
_CELLS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was measured on one split.

    Attributes:
        detection: per class and overall.
        attributes: under the rules nearest, one_to_one and oracle; empty without a head.
        counted: finds from fixed scores on, as a device would show them.
    """

    detection: ClassMetrics
    attributes: tuple[AttributeMetrics, ...]
    counted: tuple[CountedFinds, ...] = ()

    def rule(self, name: str) -> AttributeMetrics | None:
        """The figures under one rule, None where there is no head."""
        return next((each for each in self.attributes if each.rule == name), None)


def open_run(
    run: Path, data_root: Path | None = None, checkpoint: Path | None = None
) -> tuple[AttriDetRecipe, Path]:
    """The recipe and the best checkpoint of a finished run.

    Args:
        run: folder of ``train_attridet``.
        data_root: another place of the data.
        checkpoint: an own checkpoint in place of the run's.

    Raises:
        DataError: no finished run.
    """
    try:
        record = json.loads((run / "training.json").read_text(encoding="utf-8"))
        recipe = AttriDetRecipe.model_validate(record["recipe"])
        best = run / record["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run}: no finished run of leukoscope train attridet") from error
    if data_root is not None:
        recipe = recipe.model_copy(update={"data_root": str(data_root)})
    return recipe, checkpoint or best


def judge_attridet(
    recipe: AttriDetRecipe,
    checkpoint: Path,
    split: Split,
    *,
    batch: int = 8,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, wanted: None,
) -> Judgement:
    """Runs a checkpoint on one split of a recipe's pictures.

    Args:
        recipe: which pictures, and the input's size.
        checkpoint: own checkpoint of an AttriDet or of a plain detector.
        split: ``val`` or ``test``; nothing was fitted to ``test``.
        batch: pictures at once.
        device: of torch.
        progress: called with pictures done and wanted.

    Raises:
        DataError: missing or bad data, no detector's checkpoint, or one for other classes or
            attributes.
        SettingsError: a bad recipe.
    """
    fields = read_fields(recipe.fields, Path(recipe.data_root), seed=recipe.seed)
    images = fields.of_split(split) if split == "test" else fields.usable(split)
    if not images:
        have = ", ".join(fields.splits)
        raise DataError(f"{fields.root}: no picture in split {split!r}; it has {have}")
    model = load_own_checkpoint(checkpoint)
    require_classes(model, fields, checkpoint)
    return judge_pictures(
        model, fields, images, size=recipe.image_size, batch=batch, device=device, progress=progress
    )


def judge_pictures(
    model: nn.Module,
    fields: LabelledSet,
    images: Sequence[LabelledImage],
    *,
    size: int,
    batch: int = 8,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, wanted: None,
) -> Judgement:
    """Runs a detector on labelled pictures.

    Args:
        model: in eval mode, with the classes of ``fields`` (see ``require_classes``).
        fields: class list and attributes.
        images: some of its pictures.
        size: side of the network's square input, pixels.
        batch: pictures at once.
        device: of torch.
        progress: called with pictures done and wanted.

    Raises:
        DataError: an unreadable picture, or no labelled cell at all.
    """
    runner = _Runner(model.to(device), size, device, fields)
    for start in range(0, len(images), batch):
        runner.see(tuple(images[start : start + batch]))
        progress(min(start + batch, len(images)), len(images))
    return runner.judgement()


def judgement_document(
    judgement: Judgement, recipe: AttriDetRecipe, checkpoint: Path, split: Split
) -> dict[str, Any]:
    """The figures as one JSON document."""
    return {
        "what": "detection per class and attributes of an AttriDet",
        "research_use": RESEARCH_USE,
        "recipe": recipe.name,
        "model": recipe.model,
        "checkpoint_sha256": digest_files([checkpoint]),
        "data_set": recipe.fields.dataset,
        "split": split,
        "image_size": recipe.image_size,
        "confidence": CONFIDENCE,
        "suppression_iou": SUPPRESSION_IOU,
        "finds_per_picture": MAX_FINDS,
        "detection": asdict(judgement.detection),
        "attributes": {each.rule: asdict(each) for each in judgement.attributes},
    }


def require_classes(model: nn.Module, fields: LabelledSet, checkpoint: Path) -> None:
    """Refuses a checkpoint for other classes or attributes than those of labelled pictures.

    Raises:
        DataError: it is.
    """
    own: Any = model
    names = tuple(own.names[place] for place in sorted(own.names))
    if names != fields.classes:
        raise DataError(
            f"checkpoint {checkpoint}: its classes are {', '.join(names)}; "
            f"{fields.name} has {', '.join(fields.classes)}"
        )
    if isinstance(model, AttriDetModel) and model.schema != fields.attributes:
        has = "none" if fields.attributes is None else repr(fields.attributes.name)
        raise DataError(
            f"checkpoint {checkpoint}: its attribute head is for schema {model.schema.name!r}, "
            f"or another version of it; {fields.name} has {has}"
        )


class _Runner:
    """Collects labels and finds, picture by picture."""

    def __init__(self, model: nn.Module, size: int, device: str, fields: LabelledSet) -> None:
        self._model: Any = model
        self._fields, self._device = fields, device
        self._input = InputSpec(
            name="images", width=size, height=size, scale=1 / 255, pad_value=114
        )
        self._truth: list[ClassedCells] = []
        self._found: list[ClassedCells] = []
        self._labelled: list[FieldTruth] = []
        self._described: list[FoundCells] = []
        self._oracle: list[Int64Array] = []

    def see(self, images: tuple[LabelledImage, ...]) -> None:
        """One batch of pictures."""
        tensors, windows, boxes = [], [], []
        for each in images:
            try:
                pixels = read_image(each.image)
            except FrameError as error:
                raise DataError(f"{each.image}: {error}; copy the data again") from error
            height, width = pixels.shape[:2]
            window = fit_window(width, height, self._input)
            tensors.append(tensor_of(pixels, window, self._input))
            windows.append(window)
            boxes.append(xywhn_to_xyxy(each.boxes_xywhn, width, height))
        with torch.no_grad():
            answer = self._model(torch.from_numpy(np.concatenate(tensors)).to(self._device))
            finds = non_max_suppression(
                answer[0],
                conf_thres=CONFIDENCE,
                iou_thres=SUPPRESSION_IOU,
                multi_label=True,
                max_det=MAX_FINDS,
                nc=len(self._fields.classes),
                # Past its limit it leaves the rest of a batch without finds, with a warning.
                max_time_img=3600.0,
            )
            for place, each in enumerate(images):
                self._add(answer[1], place, each, boxes[place], windows[place], finds[place])

    def _add(
        self,
        outputs: dict[str, Any],
        place: int,
        image: LabelledImage,
        boxes: Float32Array,
        window: Window,
        finds: Tensor,
    ) -> None:
        rows = finds.float().cpu().numpy()
        cells = ClassedCells(window.to_frame(rows[:, :4]), rows[:, 5].astype(np.int64), rows[:, 4])
        self._truth.append(ClassedCells(boxes, image.class_ids, np.ones(len(image), np.float32)))
        self._found.append(cells)
        if not isinstance(self._model, AttriDetModel):
            return
        maps = [each[place : place + 1] for each in outputs["attribute_maps"]]
        values = np.full((len(rows), image.attributes.shape[1]), MISSING, np.int64)
        wanted = _comparable(boxes, cells.boxes_xyxy)
        # Through the frame and back: finds may reach past the picture, cells cannot.
        values[wanted] = self._values(maps, window.to_input(cells.boxes_xyxy[wanted]))
        self._labelled.append(FieldTruth(boxes, image.attributes))
        self._described.append(FoundCells(cells.boxes_xyxy, cells.scores, values))
        self._oracle.append(self._values(maps, window.to_input(boxes)))

    def _values(self, maps: list[Tensor], boxes: Float32Array) -> Int64Array:
        """Predicted value indices ``(n, attributes)`` of boxes in one picture's input."""
        parts = [np.zeros((0, len(self._model.widths)), np.int64)]
        for start in range(0, len(boxes), _CELLS_AT_ONCE):
            part = torch.from_numpy(boxes[start : start + _CELLS_AT_ONCE]).to(self._device)
            index = torch.zeros(len(part), device=self._device)
            logits = self._model.attribute_logits(maps, part, index)
            parts.append(chosen_values(logits, self._model.widths)[0].cpu().numpy())
        return np.concatenate(parts)

    def judgement(self) -> Judgement:
        """The figures over everything seen."""
        detection = evaluate_classes(self._fields.classes, self._truth, self._found)
        counted = count_finds(self._fields.classes, self._truth, self._found)
        schema = self._fields.attributes
        if not self._described or schema is None:
            return Judgement(detection, (), counted)
        truth = np.concatenate([each.values for each in self._labelled])
        return Judgement(
            detection,
            (
                evaluate_on_finds(schema, self._labelled, self._described, rule="nearest"),
                evaluate_on_finds(schema, self._labelled, self._described, rule="one_to_one"),
                evaluate_on_labelled_boxes(schema, truth, np.concatenate(self._oracle)),
            ),
            counted,
        )


def _comparable(boxes: Float32Array, finds: Float32Array) -> Int64Array:
    """Finds that a rule may compare with a labelled cell; the head need not see the others.

    Those are a cell's nearest finds, all of them where several are equally near, and those
    that overlap one enough to be its own.
    """
    if len(boxes) == 0 or len(finds) == 0:
        return np.zeros(0, np.int64)
    overlap = iou_matrix(finds, boxes)
    nearest = overlap >= overlap.max(axis=0, keepdims=True)
    chosen: Int64Array = np.flatnonzero((nearest | (overlap >= MATCH_IOU)).any(axis=1))
    return chosen


def require_one_device(device: str) -> str:
    """The device of torch for measuring, which takes one.

    Raises:
        SettingsError: several, or none such here.
    """
    from train.trainer import chosen_device

    chosen = chosen_device(device, torch)
    if "," in chosen:
        raise SettingsError(f"--device {device}: measuring takes one device; give its index")
    return f"cuda:{chosen}" if chosen.isdigit() else chosen
