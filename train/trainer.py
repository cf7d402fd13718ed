"""Detector training through ultralytics' own trainer.

Owns turning a recipe into one ultralytics run: composed data, model with the recipe's
activation, device choice, resume. Does not own the loop, EMA, AMP or logging: those are
ultralytics'. Multi-GPU runs start with several device indices, as ultralytics takes them.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from calibration.fields import digest_files
from edge_runtime.errors import DataError, SettingsError
from train import THREADS
from train.datasets.compose import Progress, what_decides_pictures, write_composed
from train.recipe import Recipe

_ACTIVATIONS = {"relu": "torch.nn.ReLU()", "silu": "torch.nn.SiLU()"}


def train_detector(
    recipe: Recipe,
    out: Path,
    *,
    start_from: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> Path:
    """Composes the data if it is not there yet, trains, and returns the best checkpoint.

    Args:
        recipe: what to train.
        out: run folder; holds ``data/``, ``run/`` and ``training.json`` afterwards.
        start_from: checkpoint of an own earlier run whose weights to begin with.
        device: ``auto``, ``cpu``, ``0``, or several indices ``0,1`` for multi-GPU.
        resume: continue an interrupted run of the same folder from its last epoch.
        workers: processes that compose and load data.
        progress: called with pictures composed and pictures wanted.

    Raises:
        DataError: the data is missing or malformed, or there is nothing to resume.
        SettingsError: the device does not exist here, or what training with int8 rounding
            needs is missing.
    """
    if recipe.train.qat:
        _check_qat(recipe, start_from, resume=resume)
    import torch
    from ultralytics import YOLO
    from ultralytics import __version__ as ultralytics_version

    chosen = chosen_device(device, torch)
    last = out / "run" / "weights" / "last.pt"
    started = datetime.now(timezone.utc)
    if resume:
        if not last.is_file():
            raise DataError(f"{last}: no checkpoint to resume; start without --resume")
        model = YOLO(str(last))
        _tune_for_cpu(model, recipe, THREADS)
        model.train(resume=True, device=chosen)
    else:
        data_yaml = out / "data" / "data.yaml"
        if not _is_composed_for(recipe, out / "data"):
            data_yaml = write_composed(recipe, out / "data", workers=workers, progress=progress)
        model = YOLO(str(_write_model_yaml(recipe, out)), task="detect")
        if start_from is not None and not start_from.is_file():
            raise DataError(f"checkpoint {start_from}: no such file; mend --start-from")
        _tune_for_cpu(model, recipe, THREADS)
        model.train(**_arguments(recipe, data_yaml, out, chosen, workers, start_from))
    if recipe.train.qat:
        _require_alive(last)
    weights = out / "run" / "weights"
    best = weights / "best.pt" if (weights / "best.pt").is_file() else last
    compose = json.loads((out / "data" / "compose.json").read_text())
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "compose": compose,
        "checkpoint": best.name,
        "start_from": None if start_from is None else digest_files([start_from]),
        "started": started.isoformat(timespec="seconds"),
        "minutes": round((datetime.now(timezone.utc) - started).total_seconds() / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, device {chosen}",
        "torch": torch.__version__,
        "ultralytics": ultralytics_version,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return best


def _check_qat(recipe: Recipe, start_from: Path | None, *, resume: bool) -> None:
    """Before anything is composed or loaded.

    Raises:
        SettingsError: no checkpoint to begin with, or a package is missing.
    """
    if start_from is None and not resume:
        raise SettingsError(
            f"recipe {recipe.name}: train.qat takes its int8 scales from a finished detector; "
            "train one without it first and give its best.pt as --start-from"
        )
    for module in ("modelopt", "huggingface_hub"):
        if find_spec(module) is None:
            raise SettingsError(
                f"recipe {recipe.name}: train.qat needs {module}; pip install 'leukoscope[qat]'"
            )


def _require_alive(checkpoint: Path) -> None:
    """Rounding with scales of next to nothing ends in weights that are no numbers.

    Ultralytics writes those as zeros and goes on.

    Raises:
        DataError: a convolution has lost all its weights.
    """
    from train.own_checkpoint import load_own_checkpoint

    for name, values in load_own_checkpoint(checkpoint).state_dict().items():
        if name.endswith("conv.weight") and not values.any():
            raise DataError(
                f"{checkpoint}: training with int8 rounding diverged, {name} is zero; begin with "
                "a checkpoint that was trained longer, or with a smaller train.lr0"
            )


def chosen_device(device: str, torch: Any) -> str:
    """What ultralytics takes as device for a command's ``--device``.

    Raises:
        SettingsError: no such device here.
    """
    if device == "auto":
        return "0" if torch.cuda.is_available() else "cpu"
    wanted = [part for part in device.split(",") if part.isascii() and part.strip().isdigit()]
    if wanted and len(wanted) == len(device.split(",")):
        found = torch.cuda.device_count()
        if any(int(part) >= found for part in wanted):
            raise SettingsError(f"--device {device}: {found} CUDA devices here; try --device cpu")
    elif device not in ("cpu", "mps"):
        raise SettingsError(f"--device {device!r}: use auto, cpu, 0 or 0,1")
    elif device == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("--device mps: no such device here; try --device cpu")
    return device


def _is_composed_for(recipe: Recipe, data: Path) -> bool:
    record = data / "compose.json"
    if not record.is_file():
        return False
    known = json.loads(record.read_text())
    return bool(known.get("ordered") == what_decides_pictures(recipe))


def _write_model_yaml(recipe: Recipe, out: Path) -> Path:
    """The ultralytics model with one class and the recipe's activation, beside the run.

    Raises:
        SettingsError: no such model.
    """
    from ultralytics.nn.tasks import yaml_model_load

    try:
        document = yaml_model_load(recipe.model)
    except (FileNotFoundError, OSError) as error:
        raise SettingsError(f"model {recipe.model!r}: ultralytics has no such model") from error
    document = {key: value for key, value in document.items() if key not in ("yaml_file",)}
    document |= {"nc": 1, "activation": _ACTIVATIONS[recipe.activation]}
    # Ultralytics reads the size letter from the file name.
    path = out / f"{Path(recipe.model).stem}-{recipe.activation}.yaml"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _arguments(
    recipe: Recipe,
    data_yaml: Path,
    out: Path,
    device: str,
    workers: int,
    start_from: Path | None,
) -> dict[str, Any]:
    spec = recipe.train
    return {
        "data": str(data_yaml),
        "project": str(out.resolve()),
        "name": "run",
        "exist_ok": True,
        "device": device,
        "workers": workers,
        "imgsz": recipe.compose.size,
        "cache": "ram",
        "pretrained": False if start_from is None else str(start_from),
        "seed": recipe.seed,
        "deterministic": True,
        "epochs": spec.epochs,
        "batch": spec.batch,
        "optimizer": spec.optimizer,
        "lr0": spec.lr0,
        "lrf": spec.lrf,
        "cos_lr": True,
        "momentum": 0.9,
        "warmup_epochs": spec.warmup_epochs,
        "warmup_bias_lr": 0.0,
        "weight_decay": spec.weight_decay,
        "box": spec.box,
        "cls": spec.cls,
        "dfl": spec.dfl,
        "quantize": 8 if spec.qat else None,
        "val": spec.validate_every_epoch,
        "plots": False,
        "save_period": -1,
        # Geometry and stain are in the composed pictures; only what costs nothing is left.
        "mosaic": 0.0,
        "mixup": 0.0,
        "degrees": 0.0,
        "shear": 0.0,
        "perspective": 0.0,
        "scale": 0.15,
        "translate": 0.08,
        "fliplr": 0.5,
        "flipud": 0.5,
        "hsv_h": 0.02,
        "hsv_s": 0.4,
        "hsv_v": 0.3,
        "erasing": 0.0,
        "auto_augment": None,
    }


def _tune_for_cpu(model: Any, recipe: Recipe, threads: int) -> None:
    """All cores, and convolutions in channels-last order: same numbers, less time.

    Ultralytics leaves one core idle for loading data, which costs half of a two-core machine.
    OMP_NUM_THREADS, where set, is the limit, so that several runs can share a machine.
    """
    import torch

    def tune(trainer: Any) -> None:
        if trainer.device.type == "cpu":
            torch.set_num_threads(threads)
        if recipe.train.channels_last:
            trainer.model.to(memory_format=torch.channels_last)

    model.add_callback("on_pretrain_routine_end", tune)
