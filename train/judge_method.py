"""Measuring a method's run on the fields that its recipe names.

Owns which fields are measured: of both microscopes for adaptation, whole fields for sparse
training. Does not own the figures (see ``calibration.class_accuracy``) nor finding cells (see
``evaluate_attridet`` and ``sparse.windows``).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from calibration.fields import digest_files
from edge_runtime.errors import DataError
from edge_runtime.film_report import RESEARCH_USE
from train import adapt, sparse
from train.attridet_recipe import Split
from train.datasets.labelled import LabelledImage, LabelledSet
from train.evaluate_attridet import Judgement, judge_pictures, require_classes
from train.method_folder import read_several
from train.method_recipe import AdaptRecipe, SparseRecipe
from train.own_checkpoint import load_own_checkpoint
from train.run_folder import RECORD_NAME
from train.step_loss import MethodRow, find_row


def open_method_run(
    run: Path, data_root: Path | None = None
) -> tuple[AdaptRecipe | SparseRecipe, MethodRow, Path]:
    """Recipe, method and last checkpoint of a finished run.

    Raises:
        DataError: no finished run.
    """
    try:
        record = json.loads((run / RECORD_NAME).read_text(encoding="utf-8"))
        kind = AdaptRecipe if record["kind"] == "adapt" else SparseRecipe
        recipe = kind.model_validate(record["recipe"])
        rows = adapt.METHODS if record["kind"] == "adapt" else sparse.METHODS
        row = find_row(rows, record["method"])
        checkpoint = run / record["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{run}: no finished run of leukoscope train adapt or sparse") from error
    if data_root is not None:
        recipe = recipe.model_copy(update={"data_root": str(data_root)})
    return recipe, row, checkpoint


def judge_method(
    run: Path, split: Split = "test", *, data_root: Path | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Figures of a run on held-back fields, as a JSON document.

    Args:
        run: folder of ``train_adapted`` or ``train_sparse``.
        split: of every set; nothing was fitted to ``test``.
        data_root: another place of the data.
        device: of torch.

    Returns:
        ``fields``: for adaptation ``source`` and ``target``, for sparse training one entry
        per set and ``all``; each with AP per class and overall.

    Raises:
        DataError: no finished run, or missing or bad data.
    """
    recipe, row, checkpoint = open_method_run(run, data_root)
    model = load_own_checkpoint(checkpoint)
    root = Path(recipe.data_root)
    sets = (
        {"source": recipe.source, "target": recipe.target}
        if isinstance(recipe, AdaptRecipe)
        else {spec.path: spec for spec in recipe.fields}
    )
    read = {name: read_several([spec], root, recipe.seed) for name, spec in sets.items()}
    if isinstance(recipe, SparseRecipe) and len(read) > 1:
        read["all"] = read_several(recipe.fields, root, recipe.seed)
    window = None
    if row.pictures == "crops" and isinstance(recipe, SparseRecipe):
        window = _window_share(run)
    figures: dict[str, Any] = {}
    for name, fields in read.items():
        require_classes(model, fields, checkpoint)
        images = fields.of_split(split)
        if not images:
            raise DataError(f"{fields.root}: no picture in split {split!r}")
        judged = _judge(model, fields, images, recipe.image_size, device, window)
        figures[name] = {
            "detection": asdict(judged.detection),
            "counted": [asdict(each) for each in judged.counted],
            "attributes": {each.rule: asdict(each) for each in judged.attributes},
        }
    return {
        "what": "detection per class of a method's run",
        "research_use": RESEARCH_USE,
        "recipe": recipe.name,
        "method": row.name,
        "seed": recipe.seed,
        "split": split,
        "image_size": recipe.image_size,
        "windows": window,
        "checkpoint_sha256": digest_files([checkpoint]),
        "fields": figures,
    }


def _judge(
    model: Any,
    fields: LabelledSet,
    images: tuple[LabelledImage, ...],
    size: int,
    device: str,
    window: tuple[float, float] | None,
) -> Judgement:
    if window is None:
        return judge_pictures(model, fields, images, size=size, device=device)
    from train.sparse.windows import judge_through_windows

    return judge_through_windows(
        model, fields, images, window_share=window, size=size, device=device
    )


def _window_share(run: Path) -> tuple[float, float]:
    """Median width and height of the training patches, as shares of their pictures.

    Raises:
        DataError: the run has no list of its patches.
    """
    from train.datasets.patches import PATCH_FILE

    file = run / "data" / PATCH_FILE
    try:
        rows = np.loadtxt(file, delimiter=",", skiprows=1, usecols=(2, 3, 4, 5), ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    if not len(rows):
        raise DataError(f"{file}: no patch in it")
    return (float(np.median(rows[:, 2] - rows[:, 0])), float(np.median(rows[:, 3] - rows[:, 1])))
