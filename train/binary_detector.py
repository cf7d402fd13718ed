"""The first stage: a detector trained on a whole labelled data set of the catalogue.

Owns the recipe, writing the read set as ultralytics' folders, and running its trainer. Does
not own composed training sets (see ``trainer``) nor what happens to the finds (see
``two_stage``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from calibration.labelled_cells import CellSplit
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.types import Detections, UInt8Image
from train.attridet_folder import link_picture
from train.datasets.cell_sources import CellSourceSpec, read_source
from train.datasets.labelled import LabelledSet
from train.recipe_file import read_recipe
from train.run_folder import storing
from train.trainer import chosen_device

Finder = Callable[[UInt8Image], Detections]

_SPLITS: tuple[CellSplit, ...] = ("train", "val", "test")


class BinaryDetectorRecipe(BaseModel):
    """Everything that decides a detector on whole pictures of one data set, but for the data.

    Attributes:
        source: the data set; its mapping gives the detector's classes.
        cells: the one of these that is a cell to be named; the others are found and dropped.
        model: ultralytics model; without ``start_from`` its weights begin at random.
        start_from: local ultralytics checkpoint. It is a pickle: give only trusted ones.
        patience: epochs without a better validation figure after which training stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    purpose: str
    data_root: str = "../shared/data"
    source: CellSourceSpec
    cells: str = "WBC"
    model: str = "yolo11m.yaml"
    start_from: str | None = None
    size: int = Field(default=640, gt=0)
    epochs: int = Field(gt=0)
    patience: int = Field(default=15, gt=0)
    batch: int = Field(default=16, gt=0)
    optimizer: str = "SGD"
    lr0: float = Field(default=0.01, gt=0)
    lrf: float = Field(default=0.01, gt=0)
    degrees: float = Field(default=10.0, ge=0)
    fliplr: float = Field(default=0.5, ge=0, le=1)
    flipud: float = Field(default=0.5, ge=0, le=1)
    mosaic: float = Field(default=1.0, ge=0, le=1)
    seed: int = Field(default=0, ge=0)


def load_binary_recipe(path: str | Path, data_root: Path | None = None) -> BinaryDetectorRecipe:
    """Reads a first-stage detector's recipe, a file or a shipped one by its bare name.

    Raises:
        SettingsError: missing, no YAML, or unknown or bad keys.
    """
    return read_recipe(BinaryDetectorRecipe, "a first-stage detector's recipe", path, data_root)


def write_ultralytics_folder(found: LabelledSet, out: Path) -> Path:
    """Writes a read set as ultralytics reads it: links to the pictures, and label files.

    Args:
        found: with boxes of known extent; pictures held out elsewhere stay out of ``train``
            and ``val``.
        out: folder; its ``images`` and ``labels`` are replaced.

    Returns:
        ``data.yaml`` in it.

    Raises:
        DataError: a split for training or validation is empty, or only centres are known.
        StoreError: the folder cannot be written.
    """
    centres = [each.image for each in found.images if len(each) and not each.extents_known]
    if centres:
        raise DataError(f"{centres[0]}: only the cells' centres are known; no boxes to learn from")
    with storing(out):
        for kind in ("images", "labels"):
            shutil.rmtree(out / kind, ignore_errors=True)
        for split in _SPLITS:
            chosen = found.of_split(split) if split == "test" else found.usable(split)
            if not chosen and split != "test":
                raise DataError(
                    f"{found.root}: no {split} picture; give the source another `validation`"
                )
            images, labels = out / "images" / split, out / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number, each in enumerate(chosen):
                # Numbered: two subsets may name a picture alike.
                stem = f"{number:06d}_{each.image.stem}"
                link_picture(each.image, images / f"{stem}{each.image.suffix}")
                rows = zip(each.class_ids.tolist(), each.boxes_xywhn.tolist(), strict=True)
                text = "".join(
                    f"{class_id} " + " ".join(f"{value:.6f}" for value in box) + "\n"
                    for class_id, box in rows
                )
                (labels / f"{stem}.txt").write_text(text, encoding="utf-8")
        document: dict[str, Any] = {split: f"images/{split}" for split in _SPLITS}
        document |= {"path": str(out.resolve()), "names": dict(enumerate(found.classes))}
        (out / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return out / "data.yaml"


def train_binary_detector(
    recipe: BinaryDetectorRecipe,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    workers: int = 2,
) -> Path:
    """Trains the first stage and leaves its run folder.

    Args:
        recipe: what to train.
        out: run folder: ``data/``, ``run/`` (ultralytics' own) and ``training.json``.
        device: ``auto``, ``cpu``, ``0``, or several indices ``0,1``.
        resume: continue after the last whole epoch.
        workers: processes that load data.

    Returns:
        The best checkpoint.

    Raises:
        DataError: unusable data, or nothing to resume.
        SettingsError: a bad device, model or class, or a folder that holds another run.
        StoreError: the folder cannot be written.
    """
    import torch
    from ultralytics import YOLO
    from ultralytics import __version__ as ultralytics_version

    chosen = chosen_device(device, torch)
    last = out / "run" / "weights" / "last.pt"
    started = datetime.now(timezone.utc)
    if resume:
        if not last.is_file():
            raise DataError(f"{last}: no checkpoint to resume; start without --resume")
        model: Any = YOLO(str(last))
        model.train(resume=True, device=chosen)
        counts = None
    else:
        if last.is_file():
            raise SettingsError(f"{out}: holds a run already; choose another --out, or --resume")
        if recipe.start_from is not None and not Path(recipe.start_from).is_file():
            raise DataError(f"start_from {recipe.start_from}: no such file; mend the recipe")
        found = read_source(recipe.source, Path(recipe.data_root))
        if recipe.cells not in found.classes:
            raise SettingsError(
                f"cells {recipe.cells!r}: not one of {', '.join(found.classes)}; "
                f"mend the recipe or its mapping"
            )
        counts = {split: len(found.of_split(split)) for split in _SPLITS}
        data_yaml = write_ultralytics_folder(found, out / "data")
        try:
            model = YOLO(recipe.model, task="detect")
        except (FileNotFoundError, OSError) as error:
            raise SettingsError(f"model {recipe.model!r}: ultralytics has no such model") from error
        model.train(**_arguments(recipe, data_yaml, out, chosen, workers))
    weights = out / "run" / "weights"
    best = weights / "best.pt" if (weights / "best.pt").is_file() else last
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "pictures": counts,
        "checkpoint": best.name,
        "minutes": round((datetime.now(timezone.utc) - started).total_seconds() / 60, 1),
        "device": chosen,
        "torch": torch.__version__,
        "ultralytics": ultralytics_version,
    }
    with storing(out):
        (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return best


def _arguments(
    recipe: BinaryDetectorRecipe, data_yaml: Path, out: Path, device: str, workers: int
) -> dict[str, Any]:
    return {
        "data": str(data_yaml),
        "project": str(out.resolve()),
        "name": "run",
        "exist_ok": True,
        "device": device,
        "workers": workers,
        "imgsz": recipe.size,
        "pretrained": recipe.start_from or False,
        "seed": recipe.seed,
        "deterministic": True,
        "epochs": recipe.epochs,
        "patience": recipe.patience,
        "batch": recipe.batch,
        "optimizer": recipe.optimizer,
        "lr0": recipe.lr0,
        "lrf": recipe.lrf,
        "degrees": recipe.degrees,
        "fliplr": recipe.fliplr,
        "flipud": recipe.flipud,
        "mosaic": recipe.mosaic,
        "plots": False,
    }


def open_finder(
    checkpoint: Path, *, cells: str, size: int = 640, score: float = 0.25, device: str = "cpu"
) -> Finder:
    """A trained first stage as a function from a picture to the cells found in it.

    Args:
        checkpoint: of an own run. It is a pickle: loading runs what its author put into it.
        cells: class to keep; finds of the others are dropped.
        size: side of the input.
        score: lowest score reported.
        device: ``cpu`` or the index of a GPU.

    Raises:
        DataError: missing, or no ultralytics checkpoint.
        SettingsError: the detector has no such class.
    """
    from train.own_checkpoint import load_own_checkpoint

    load_own_checkpoint(checkpoint)
    from ultralytics import YOLO

    model: Any = YOLO(str(checkpoint), task="detect")
    names = {name: index for index, name in model.names.items()}
    if cells not in names:
        raise SettingsError(f"{checkpoint}: finds {', '.join(names)}, not {cells!r}; mend --cells")

    def find(pixels: UInt8Image) -> Detections:
        # Ultralytics takes arrays in OpenCV's order.
        (result,) = model.predict(
            np.ascontiguousarray(pixels[:, :, ::-1]),
            imgsz=size, conf=score, device=device, classes=[names[cells]], verbose=False,
        )  # fmt: skip
        found = result.boxes
        return Detections(
            found.xyxy.cpu().numpy().astype(np.float32).reshape(-1, 4),
            found.conf.cpu().numpy().astype(np.float32),
            np.zeros(len(found), np.int64),
        )

    return find
