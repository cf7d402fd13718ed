"""AttriDet from a recipe: the folder, the phases, the record of the run.

Owns the order of these, and resuming. Does not own the joint network (see
``models.attridet``) nor the loop, AMP, EMA and multi-GPU, which are ultralytics'.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calibration.fields import digest_files
from train import THREADS
from train.attridet_folder import is_written_for, read_fields, write_data_yaml, write_folder
from train.attridet_recipe import AttriDetRecipe
from train.phase_run import PhaseRun, check_start, phase_arguments
from train.run_folder import RECORD_NAME, claim_run


def train_attridet(
    recipe: AttriDetRecipe,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    workers: int = 2,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Trains all phases of a recipe and leaves its run folder.

    Args:
        recipe: what to train.
        out: run folder: ``data/``, ``phase1/`` and so on, ``recipe.json``, ``training.json``.
        device: ``auto``, ``cpu``, ``0``, or several indices ``0,1`` for multi-GPU.
        resume: take up an interrupted run of this very recipe after its last whole epoch.
        workers: processes that load data.
        now: the clock, for the record.
        say: told before every phase.

    Returns:
        The best checkpoint of the last phase.

    Raises:
        DataError: missing or bad data, or nothing to resume.
        SettingsError: a bad recipe or device, a checkpoint of another network, or a folder
            begun with another recipe, or one that holds a run where none is resumed.
        StoreError: the folder cannot be made.
    """
    import torch
    from ultralytics import __version__ as ultralytics_version

    from train.trainer import chosen_device

    chosen = chosen_device(device, torch)
    check_start(recipe.model, recipe.start_from)
    started = now()
    fields = read_fields(recipe.fields, Path(recipe.data_root), seed=recipe.seed)
    claim_run(out, recipe.model_dump_json(), resume=resume)
    if not is_written_for(recipe, out / "data"):
        write_folder(recipe, fields, out / "data")
    for number, phase in enumerate(recipe.phases, start=1):
        run = PhaseRun(out, f"phase{number}", chosen, workers, THREADS)
        if resume and run.finished:
            continue
        say(f"phase {number} of {len(recipe.phases)}: {phase.epochs} epochs")
        data_yaml = write_data_yaml(recipe, fields, out / "data", phase, run.beside("data.yaml"))
        arguments = phase_arguments(
            recipe,
            recipe.hyperparameters(phase),
            data_yaml=data_yaml,
            epochs=phase.epochs,
            start=_start(recipe, number, out),
        )
        run.train(_trainer(recipe), arguments, resume=resume)
    best = run.best
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(fields.classes),
        "attributes": None
        if recipe.attributes is False or fields.attributes is None
        else fields.attributes.model_dump(mode="json"),
        "folder": json.loads((out / "data" / "folder.json").read_text()),
        "checkpoint": best.relative_to(out).as_posix(),
        "checkpoint_sha256": digest_files([best]),
        "started": started.isoformat(timespec="seconds"),
        "minutes": round((now() - started).total_seconds() / 60, 1),
        "resumed": resume,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, device {chosen}",
        "torch": torch.__version__,
        "ultralytics": ultralytics_version,
    }
    (out / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n")
    return best


def _trainer(recipe: AttriDetRecipe) -> type[Any]:
    from ultralytics.models.yolo.detect import DetectionTrainer

    from train.models.attridet import AttriDetTrainer

    return DetectionTrainer if recipe.attributes is False else AttriDetTrainer


def _start(recipe: AttriDetRecipe, number: int, out: Path) -> str | bool:
    if number > 1:
        return str(out / f"phase{number - 1}" / "weights" / "last.pt")
    # A checkpoint itself brings its weights.
    return recipe.start_from or recipe.model.endswith(".pt")
