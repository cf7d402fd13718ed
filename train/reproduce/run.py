"""Running a table row, and its document of measured beside published figures.

Owns the order of training and measuring for every kind of row. Does not own the trainings
themselves (see ``attridet_run``, ``classify`` and ``method_rows``) nor the rows (see ``rows``).
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from calibration.labelled_cells import CellPicture, CellRow, LabelledCells
from edge_runtime.errors import DataError, SettingsError, StoreError
from edge_runtime.film_report import RESEARCH_USE
from train.attridet_folder import read_fields
from train.attridet_recipe import FieldsSpec
from train.classify import ClassifyRecipe, judge, torch_device, train_classifier
from train.datasets.labelled import LabelledImage, LabelledSet
from train.datasets.splits import VALIDATION_SHARE, hold_out_at_random
from train.models.cell_classifier import load_classifier
from train.reproduce.figures import detection_figures, percent
from train.reproduce.method_rows import method_figures
from train.reproduce.rows import SOURCES, AnyRun, ClassifyRun, Column, DetectorRun, Row, Target
from train.run_folder import LAST, RECIPE_NAME

Scale = Literal["paper", "smoke"]
RESULT_NAME = "result.json"
SMOKE_WARNING = (
    "Smoke scale: other data, a tiny network and hardly any training. The figures show that "
    "the code runs; they cannot be compared with the published ones."
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _How:
    """What every training of a row is told."""

    device: str
    resume: bool
    seed: int
    say: Say

    def goes_on(self, folder: Path) -> bool:
        """Whether a classifier's training in a folder is taken up."""
        return self.resume and (folder / LAST).is_file()

    @property
    def measured_on(self) -> str:
        """Measuring takes one device of those that train."""
        return str(torch_device(self.device.split(",", maxsplit=1)[0]))


def reproduce(
    row: Row,
    out: Path,
    *,
    scale: Scale,
    data_root: Path,
    only: str | None = None,
    weights: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    seed: int = 0,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Trains and measures a row, and writes ``result.json``.

    Args:
        row: which.
        out: folder of the runs and the result.
        scale: the paper's, or a small version on the data at hand.
        data_root: folder of the data sets.
        only: one column; None takes all that can be run. At smoke scale there is one run.
        weights: file to start a classifier from, where the row needs one; for a training
            method the checkpoint to take in place of its first phase.
        device: as the trainings take it.
        resume: take up trainings that were begun in ``out``; begin the others.
        seed: of everything.
        now: the clock.
        say: told what is going on.

    Returns:
        The document, as written.

    Raises:
        DataError: data is missing; the line names it and where users get it.
        SettingsError: the row cannot be run, or has no such column.
        StoreError: the result cannot be written.
    """
    plan = row.run if scale == "paper" else row.smoke
    if plan is None:
        raise SettingsError(f"row {row.id}: published figures only: {row.not_built}")
    columns = _columns(row, only)
    started, how = now(), _How(device, resume, seed, say)
    measured: list[dict[str, Any]] = []
    if scale == "smoke":
        say(SMOKE_WARNING)
        figures = _measure(plan, row, None, out / "smoke", data_root, weights, how)
        measured = [{"figures": figures}] * len(columns)
    else:
        for column in columns:
            _require_data(row, plan, column, data_root)
        for column in columns:
            say(f"{row.id}, {column.name}")
            place = out / _folder_name(column)
            figures = _measure(plan, row, column, place, data_root, weights, how)
            measured.append({"figures": figures})
    document = {
        "what": "measured beside published",
        "research_use": RESEARCH_USE,
        "row": row.id,
        "paper": row.paper,
        "table": row.table,
        "method": row.method,
        "scale": scale,
        "comparable": scale == "paper",
        "warning": SMOKE_WARNING if scale == "smoke" else None,
        "smoke_note": row.smoke_note if scale == "smoke" else None,
        "notes": list(row.notes),
        "plan": plan.model_dump(mode="json"),
        "seed": seed,
        "columns": [
            {"name": column.name, "published": column.published, "measured": each["figures"]}
            for column, each in zip(columns, measured, strict=True)
        ],
        "not_run": {each.name: each.not_run for each in row.columns if each.not_run},
        "started": started.isoformat(timespec="seconds"),
        "minutes": round((now() - started).total_seconds() / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, device {device}",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / RESULT_NAME).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}; choose another --out") from error
    return document


def _columns(row: Row, only: str | None) -> list[Column]:
    can = [each for each in row.columns if each.not_run is None]
    if only is None:
        return can
    chosen = [each for each in row.columns if each.name == only]
    if not chosen:
        names = ", ".join(each.name for each in row.columns)
        raise SettingsError(f"--column {only!r}: row {row.id} has {names}")
    if chosen[0].not_run is not None:
        raise SettingsError(f"--column {only!r}: not run here: {chosen[0].not_run}")
    return chosen


def _folder_name(column: Column) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", column.name).strip("_")


def _require_data(row: Row, plan: AnyRun, column: Column, data_root: Path) -> None:
    """One line for data that is not there, before anything is trained."""
    for each in plan.data(column.path):
        if not (data_root / each.path).is_dir():
            source = SOURCES.get(each.dataset, "its authors")
            raise DataError(
                f"row {row.id}: data set {each.dataset} is not in {data_root / each.path}; "
                f"get it from: {source}; then give --data its parent folder, "
                "or --scale smoke to run on the data at hand"
            )


def _measure(
    plan: AnyRun,
    row: Row,
    column: Column | None,
    out: Path,
    data_root: Path,
    weights: Path | None,
    how: _How,
) -> dict[str, float | None]:
    if isinstance(plan, ClassifyRun):
        return _classifier(plan, row, out, data_root, weights, how)
    path = None if column is None else column.path
    if isinstance(plan, DetectorRun):
        return _detector(plan, row, path, out, data_root, how)
    from train.method_run import How

    told = How(how.device, resume=how.resume and (out / RECIPE_NAME).is_file(), say=how.say)
    recipe = plan.made(row.id, str(data_root), path).model_copy(update={"seed": how.seed})
    return method_figures(
        recipe, plan.method, out, how=told, weights=weights, judged_on=how.measured_on
    )


def _detector(
    plan: DetectorRun,
    row: Row,
    path: str | None,
    out: Path,
    data_root: Path,
    how: _How,
) -> dict[str, float | None]:
    from train.attridet_run import train_attridet
    from train.evaluate_attridet import judge_attridet, judgement_document

    recipe = plan.made(row.id, str(data_root), path)
    recipe = recipe.model_copy(update={"seed": how.seed})
    begun = how.resume and (out / RECIPE_NAME).is_file()
    best = train_attridet(recipe, out, device=how.device, resume=begun, say=how.say)
    judged = judge_attridet(recipe, best, "test", device=how.measured_on)
    document = judgement_document(judged, recipe, best, "test")
    (out / "figures.json").write_text(json.dumps(document, indent=1) + "\n")
    return detection_figures(document)


def _classifier(
    plan: ClassifyRun,
    row: Row,
    out: Path,
    data_root: Path,
    weights: Path | None,
    how: _How,
) -> dict[str, float | None]:
    if plan.weights is not None and weights is None:
        raise SettingsError(
            f"row {row.id}: starts from {plan.weights}; give the file with --weights "
            "(docs/how-to/reproduce-a-table.md says where it comes from)"
        )
    fields = read_fields(plan.fields, data_root, seed=how.seed)
    recipe = plan.made(row.id, str(data_root), fields.classes)
    recipe = recipe.model_copy(update={"seed": how.seed})
    target = None if plan.target is None else target_set(plan.target, data_root, how.seed)
    if target is not None and target.classes != fields.classes:
        raise SettingsError(
            f"row {row.id}: {target.name} gives the classes {', '.join(target.classes)}, "
            f"training has {', '.join(fields.classes)}; mend the mapping"
        )
    trained = train_classifier(
        recipe,
        out / "trained",
        device=how.device,
        resume=how.goes_on(out / "trained"),
        start_from=weights,
        cells=labelled_cells(fields, data_root, row.id),
        say=how.say,
    )
    if plan.target is None or target is None:
        return judged_figures(trained, fields, data_root, how.device, row.id)
    if plan.target.adapt > 0:
        how.say(f"goes on with {plan.target.adapt:.0%} of {target.name}")
        trained = train_classifier(
            _adapting(recipe, plan.target),
            out / "adapted",
            device=how.device,
            resume=how.goes_on(out / "adapted"),
            start_from=trained,
            cells=labelled_cells(target, data_root, row.id),
            say=how.say,
        )
    return judged_figures(trained, target, data_root, how.device, row.id)


def _adapting(recipe: ClassifyRecipe, target: Target) -> ClassifyRecipe:
    phase = {"epochs": target.epochs, "lr": target.lr, "backbone_lr": target.backbone_lr}
    last = recipe.phases[-1].model_copy(update={**phase, "frozen_backbone": False})
    return recipe.model_copy(update={"phases": (last,)})


def target_set(target: Target, data_root: Path, seed: int) -> LabelledSet:
    """The target's cells: a share to learn from, a fifth of it for validation; test is the rest.

    Published splits are joined first, so that the share is one of everything. Pictures that
    another data set tests on are left out.
    """
    whole = FieldsSpec.model_validate({**target.fields.model_dump(), "most": {}})
    fields = read_fields(whole, data_root, seed=seed)
    images: tuple[LabelledImage, ...] = tuple(replace(each, split="test") for each in fields.images)
    images = hold_out_at_random(
        images, share=target.adapt, seed=seed, source="test", target="train"
    )
    images = hold_out_at_random(
        images, share=VALIDATION_SHARE, seed=seed, source="train", target="val"
    )
    return fields.with_images(images)


def labelled_cells(fields: LabelledSet, data_root: Path, name: str) -> LabelledCells:
    """The record that the classifier's training takes, without attributes."""
    pictures = []
    for split in ("train", "val", "test"):
        for each in fields.of_split(split):
            rows = tuple(
                CellRow(box_xywhn=(box[0], box[1], box[2], box[3]), class_id=label)
                for box, label in zip(
                    each.boxes_xywhn.tolist(), each.class_ids.tolist(), strict=True
                )
            )
            if rows:
                pictures.append(
                    CellPicture(
                        file=each.image.relative_to(data_root).as_posix(),
                        split=split,
                        domain=fields.name,
                        cells=rows,
                    )
                )
    return LabelledCells(
        name=name, classes=fields.classes, attributes=None, pictures=tuple(pictures)
    )


def judged_figures(
    checkpoint: Path, fields: LabelledSet, data_root: Path, device: str, name: str
) -> dict[str, float | None]:
    """Accuracy and macro F1, in percent, on the test split's labelled boxes."""
    read, network = load_classifier(checkpoint)
    chosen = torch_device(device)
    pictures = labelled_cells(fields, data_root, name).of_split("test")
    if not pictures:
        raise DataError(f"{fields.root}: no test cell; check the data set")
    judged = judge(network.to(chosen), pictures, data_root, read.input, device=chosen)
    return {
        "macro_f1": percent(judged.macro_f1),
        "accuracy": percent(judged.accuracy),
        "cells": float(len(judged.truth)),
    }
