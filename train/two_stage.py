"""The two-stage pipeline: cells found, cropped and named; its figures, and new laboratories.

Owns measuring a classifier end to end behind a detector, drawing the share of a target data
set to adapt to, and adapting. Does not own training either stage (see ``binary_detector``
and ``classify``) nor the crops' geometry (``edge_runtime.preprocess``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from calibration.accuracy import pair_cells
from calibration.classification_metrics import (
    NO_ANSWER,
    ClassificationMetrics,
    evaluate_classification,
    probabilities,
)
from calibration.labelled_cells import CellPicture, CellSplit, LabelledCells
from edge_runtime.bundle import CropInputSpec
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.preprocess import crop_tensor
from train.binary_detector import Finder
from train.classify import CELLS_NAME, ClassifyRecipe, Phase, judge, torch_device, train_classifier
from train.datasets.cell_sources import CellSourceSpec, cell_picture, read_source
from train.judging import metrics_of, open_run, recipe_of, write_classification
from train.models.cell_classifier import CHECKPOINT_NAME, load_classifier
from train.recipe_file import read_recipe
from train.run_folder import make_folder, storing

AdaptationMode = Literal["sequential", "joint"]


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """A classifier behind a detector.

    Attributes:
        metrics: over all labelled cells; one that was not found counts as wrong.
        found: labelled cells with a find of their own, IoU at least 0.5.
        false_finds: finds that belong to no labelled cell.
    """

    metrics: ClassificationMetrics
    found: int
    false_finds: int


def judge_end_to_end(
    network: nn.Module,
    pictures: Sequence[CellPicture],
    root: Path,
    classes: tuple[str, ...],
    spec: CropInputSpec,
    find: Finder,
    *,
    device: torch.device | str = "cpu",
) -> EndToEnd:
    """Names the cells that a detector finds, and compares with the labels.

    Args:
        network: a classifier.
        pictures: labelled.
        root: what their files are relative to.
        classes: of the classifier and the labels.
        spec: of the crops.
        find: the first stage.
        device: of torch.

    Raises:
        DataError: no labelled cell.
    """
    network.eval()
    truth: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    confidence: list[np.ndarray] = []
    found = false_finds = 0
    for picture in pictures:
        pixels = picture.read(root)
        labelled = picture.boxes_xyxy(pixels.shape[1], pixels.shape[0])
        finds = find(pixels)
        own = pair_cells(labelled, finds.boxes_xyxy, finds.scores)
        taken = own[own >= 0]
        found += len(taken)
        false_finds += len(finds) - len(taken)
        answer, sure = np.full(len(own), NO_ANSWER, np.int64), np.zeros(len(own), np.float32)
        if len(taken):
            crops = crop_tensor(pixels, finds.boxes_xyxy[taken], spec) / np.float32(spec.scale)
            batch = torch.from_numpy(np.rint(crops)).to(device) / 255
            with torch.no_grad():
                shares = probabilities(network(batch).float().cpu().numpy())
            answer[own >= 0], sure[own >= 0] = shares.argmax(1), shares.max(1)
        truth.append(picture.class_ids)
        answers.append(answer)
        confidence.append(sure)
    if not truth:
        raise DataError("end to end: no labelled cell to measure on; choose another split")
    metrics = evaluate_classification(
        classes, np.concatenate(truth), np.concatenate(answers), np.concatenate(confidence)
    )
    return EndToEnd(metrics, found, false_finds)


def judge_two_stage(
    run: Path,
    find: Finder,
    split: CellSplit,
    out: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
) -> tuple[ClassificationMetrics, EndToEnd]:
    """Measures a classifier on labelled boxes and behind a detector, side by side.

    Args:
        run: folder of ``train_classifier``.
        find: the first stage, see ``binary_detector.open_finder``.
        split: pictures to measure on; those without a cell of the classes are not among them.
        out: folder for ``labelled-boxes/``, ``end-to-end/`` and ``two-stage.json``.
        data: the data root; None takes the one that the classifier was trained with.
        device: as ``train_classifier`` takes it.

    Raises:
        DataError: no finished run, or no cell in the split.
        StoreError: ``out`` cannot be written.
    """
    chosen = torch_device(device)
    checkpoint, network, opened = open_run(run, data)
    make_folder(out)
    network = network.to(chosen)
    pictures = opened.cells.of_split(split)
    labelled = metrics_of(
        judge(network, pictures, opened.root, checkpoint.input, device=chosen), checkpoint.classes
    )
    whole = judge_end_to_end(
        network, pictures, opened.root, checkpoint.classes, checkpoint.input, find, device=chosen
    )
    about = {"run": opened.cells.name, "split": split}
    write_classification(labelled, out / "labelled-boxes", about | {"crops": "labelled boxes"})
    counts = {"found": whole.found, "false_finds": whole.false_finds}
    write_classification(whole.metrics, out / "end-to-end", about | {"crops": "finds", **counts})
    document = {
        **about,
        "cells": labelled.cells,
        **counts,
        "labelled_boxes": _short(labelled),
        "end_to_end": _short(whole.metrics),
        "notice": RESEARCH_USE,
    }
    _write_json(document, out / "two-stage.json")
    return labelled, whole


class AdaptationRecipe(BaseModel):
    """Adapting a trained classifier to a share of another laboratory's cells.

    Attributes:
        target: its data set, with the mapping to the classifier's classes.
        share: of its cells' pictures that are learnt from; the others are measured on.
        seeds: one draw and one training each.
        mode: ``sequential`` trains on from the classifier with the share alone; ``joint``
            trains anew, as the classifier was, with the share among its training cells.
        phases: of the sequential training; the joint one takes the classifier's own.
        batch: of the sequential training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    purpose: str
    data_root: str = "../shared/data"
    target: CellSourceSpec
    share: float = Field(default=0.1, gt=0, lt=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    mode: AdaptationMode = "sequential"
    phases: tuple[Phase, ...] = Field(min_length=1)
    batch: int = Field(default=64, gt=1)


class AdaptationIndex(BaseModel):
    """Which target pictures are learnt from and which are measured on, relative to the root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    share: float
    adapt: tuple[str, ...]
    test: tuple[str, ...]


def load_adaptation_recipe(path: str | Path, data_root: Path | None = None) -> AdaptationRecipe:
    """Reads an adaptation's recipe, a file or a shipped one by its bare name.

    Raises:
        SettingsError: missing, no YAML, or unknown or bad keys.
    """
    return read_recipe(AdaptationRecipe, "an adaptation's recipe", path, data_root)


def draw_index(files: Sequence[str], *, share: float, seed: int) -> AdaptationIndex:
    """Draws the share to adapt to; the files' order does not matter.

    Raises:
        DataError: too few files for one on either side.
    """
    ordered = sorted(set(files))
    count = round(share * len(ordered))
    if not 0 < count < len(ordered):
        raise DataError(f"adaptation: {share:g} of {len(ordered)} pictures leaves one side empty")
    places = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    return AdaptationIndex(
        seed=seed,
        share=share,
        adapt=tuple(file for place, file in enumerate(ordered) if place in places),
        test=tuple(file for place, file in enumerate(ordered) if place not in places),
    )


def fixed_index(file: Path, files: Sequence[str], *, share: float, seed: int) -> AdaptationIndex:
    """The index in a file, or a new one written there: a repeated run learns from the same.

    Raises:
        DataError: the file is no index, or one of other pictures, another share or seed.
        StoreError: it cannot be written.
    """
    if not file.is_file():
        drawn = draw_index(files, share=share, seed=seed)
        with storing(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(drawn.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return drawn
    try:
        index = AdaptationIndex.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{file}: not an index of adapted pictures; remove it") from error
    both = (*index.adapt, *index.test)
    if len(set(both)) != len(both) or set(both) != set(files):
        raise DataError(f"{file}: not of these {len(set(files))} pictures; choose another --out")
    if (index.share, index.seed) != (share, seed):
        raise DataError(
            f"{file}: share {index.share:g}, seed {index.seed}; the recipe says {share:g}, {seed}"
        )
    return index


def target_pictures(recipe: AdaptationRecipe, classes: tuple[str, ...]) -> tuple[CellPicture, ...]:
    """All pictures of the target with a cell of the classes, in their fixed order.

    Raises:
        DataError: the folder is not the data set, or no cell is of the classes.
        SettingsError: no such data set or mapping.
    """
    root = Path(recipe.data_root)
    found = read_source(recipe.target, root)
    rows = [
        cell_picture(each, found, recipe.target, "test", root, classes) for each in found.images
    ]
    kept = tuple(row for row in rows if row.cells)
    if not kept:
        raise DataError(f"{root / recipe.target.path}: no cell of {', '.join(classes)}")
    return kept


def adapt(
    recipe: AdaptationRecipe,
    base_run: Path,
    out: Path,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Adapts a classifier once a seed, and measures before and after on the same cells.

    Args:
        recipe: what to adapt to, and how.
        base_run: folder of ``train_classifier``.
        out: folder: ``index-<seed>.json``, ``seed-<seed>/`` (a run folder each), and
            ``adaptation.json``.
        device: as ``train_classifier`` takes it.
        say: told once an epoch.

    Returns:
        What ``adaptation.json`` holds: by seed ``zero_shot`` and ``adapted`` on the cells held
        back, ``zero_shot_all`` on every target cell, means and deviations over seeds.

    Raises:
        DataError: no finished base run, or an unusable target.
        SettingsError: ``out`` holds runs already.
        StoreError: ``out`` cannot be written.
    """
    chosen = torch_device(device)
    root = Path(recipe.data_root)
    checkpoint, network = load_classifier(base_run / CHECKPOINT_NAME)
    base = _base_recipe(base_run)
    classes = checkpoint.classes
    pictures = target_pictures(recipe, classes)
    network = network.to(chosen)
    _check_unseen(base_run, pictures)

    def figures(model: nn.Module, part: tuple[CellPicture, ...]) -> ClassificationMetrics:
        return metrics_of(judge(model, part, root, checkpoint.input, device=chosen), classes)

    everything = figures(network, pictures)
    seeds: dict[str, Any] = {}
    for seed in recipe.seeds:
        files = [each.file for each in pictures]
        index = fixed_index(out / f"index-{seed}.json", files, share=recipe.share, seed=seed)
        learnt = set(index.adapt)
        held = tuple(each for each in pictures if each.file not in learnt)
        taken = [each for each in pictures if each.file in learnt]
        cells = _cells_to_learn(recipe, base_run, base, classes, taken)
        run = out / f"seed-{seed}"
        update: dict[str, Any] = {
            "name": f"{recipe.name}-{seed}", "seed": seed, "data_root": recipe.data_root,
            "sources": (*base.sources, recipe.target),
        }  # fmt: skip
        start: Path | None = None
        if recipe.mode == "sequential":
            update["sources"] = (recipe.target,)
            update |= {"phases": recipe.phases, "batch": min(recipe.batch, max(2, len(taken)))}
            start = base_run / CHECKPOINT_NAME
        file = train_classifier(
            base.model_copy(update=update), run, device=device, start_from=start, cells=cells,
            say=say,
        )  # fmt: skip
        adapted = figures(load_classifier(file)[1].to(chosen), held)
        about = {"run": f"{recipe.name}-{seed}", "split": "held back", "crops": "labelled boxes"}
        write_classification(adapted, run / "held-back", about)
        seeds[str(seed)] = {
            "learnt_from": len(taken),
            "held_back": len(held),
            "zero_shot": _short(figures(network, held)),
            "adapted": _short(adapted),
        }
    document = {
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(classes),
        "target_cells": {each.name: each.cells for each in everything.classes},
        "zero_shot_all": _short(everything),
        "seeds": seeds,
        "over_seeds": {
            when: _over_seeds([each[when] for each in seeds.values()])
            for when in ("zero_shot", "adapted")
        },
        "notice": RESEARCH_USE,
    }
    _write_json(document, out / "adaptation.json")
    return document


def _check_unseen(base_run: Path, pictures: tuple[CellPicture, ...]) -> None:
    try:
        known = LabelledCells.model_validate_json((base_run / CELLS_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{base_run / CELLS_NAME}: no record of its cells; train again") from error
    learnt = {each.file for each in known.pictures if each.split != "test"}
    seen = sum(each.file in learnt for each in pictures)
    if seen:
        raise DataError(
            f"{base_run}: was trained on {seen} of the target's pictures; adapt to another target"
        )


def _base_recipe(base_run: Path) -> ClassifyRecipe:
    try:
        return ClassifyRecipe.model_validate(recipe_of(base_run))
    except ValidationError as error:
        raise DataError(f"{base_run}: not the run of a classifier; give one") from error


def _cells_to_learn(
    recipe: AdaptationRecipe,
    base_run: Path,
    base: ClassifyRecipe,
    classes: tuple[str, ...],
    taken: list[CellPicture],
) -> LabelledCells:
    """The record to train on; nothing that is measured on stands in it."""
    learnt = tuple(each.model_copy(update={"split": "train"}) for each in taken)
    if recipe.mode == "sequential":
        # Without validation cells the last epoch is taken: the held-back ones choose nothing.
        return LabelledCells(name=recipe.name, classes=classes, attributes=None, pictures=learnt)
    if Path(base.data_root).resolve() != Path(recipe.data_root).resolve():
        raise SettingsError(
            f"joint adaptation: {base_run} was trained on {base.data_root}, the target lies in "
            f"{recipe.data_root}; one data root must hold both"
        )
    own = open_run(base_run, Path(recipe.data_root))[2].cells
    kept = tuple(each for each in own.pictures if each.split != "test")
    return own.model_copy(update={"name": recipe.name, "pictures": (*kept, *learnt)})


def _short(metrics: ClassificationMetrics) -> dict[str, Any]:
    return {
        "cells": metrics.cells,
        "accuracy": metrics.accuracy,
        "macro_f1": metrics.macro_f1,
        "macro_f1_all": metrics.macro_f1_all,
        "f1": {each.name: each.f1 for each in metrics.classes},
    }


def _over_seeds(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    summary: dict[str, dict[str, float | None]] = {}
    for key in ("accuracy", "macro_f1", "macro_f1_all"):
        values = [float(row[key]) for row in rows]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary[key] = {"mean": float(np.mean(values)), "deviation": deviation}
    return summary


def _write_json(document: dict[str, Any], file: Path) -> None:
    with storing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
