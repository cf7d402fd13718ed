"""AttriDet from a recipe: the folder, the phases, the record of the run.

Owns the order of these, and resuming. Does not own the joint network (see
``models.attridet``) nor the loop, AMP, EMA and multi-GPU, which are ultralytics'.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calibration.fields import digest_files
from edge_runtime.errors import DataError, SettingsError
from train.attridet_folder import is_written_for, read_fields, write_data_yaml, write_folder
from train.attridet_recipe import AttriDetRecipe, Phase
from train.own_checkpoint import load_own_checkpoint, require_same_architecture
from train.run_folder import LAST, storing

RECIPE_NAME = "recipe.json"
RECORD_NAME = "training.json"


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
    # Ultralytics asks its servers for news at import unless it is told not to.
    os.environ.setdefault("YOLO_OFFLINE", "true")
    # Read before ultralytics is imported: it sets the variable to 1.
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    import torch
    from ultralytics import __version__ as ultralytics_version

    from train.trainer import chosen_device

    chosen = chosen_device(device, torch)
    _check_model(recipe)
    started = now()
    fields = read_fields(recipe.fields, Path(recipe.data_root), seed=recipe.seed)
    _claim(recipe, out, resume=resume)
    if not is_written_for(recipe, out / "data"):
        write_folder(recipe, fields, out / "data")
    for number, phase in enumerate(recipe.phases, start=1):
        run = _PhaseRun(recipe, phase, number, out, chosen, workers, threads)
        if resume and run.finished:
            continue
        say(f"phase {number} of {len(recipe.phases)}: {phase.epochs} epochs")
        data_yaml = write_data_yaml(recipe, fields, out / "data", phase, run.folder("data.yaml"))
        run.train(data_yaml, resume=resume)
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


def _check_model(recipe: AttriDetRecipe) -> None:
    """Refuses what ultralytics would try to download, and weights that fit badly."""
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    if recipe.model.endswith(".pt"):
        load_own_checkpoint(Path(recipe.model))
        return
    try:
        document = yaml_model_load(recipe.model)
    except (FileNotFoundError, OSError, ValueError, AttributeError) as error:
        raise SettingsError(f"model {recipe.model!r}: ultralytics has no such model") from error
    if recipe.start_from is not None:
        own = load_own_checkpoint(Path(recipe.start_from))
        plain = DetectionModel(document, verbose=False)
        require_same_architecture(own, plain, Path(recipe.start_from), recipe.model)


def _claim(recipe: AttriDetRecipe, out: Path, *, resume: bool) -> None:
    """Makes the folder this recipe's, or finds that it is."""
    file = out / RECIPE_NAME
    mine = recipe.model_dump_json()
    if resume:
        if not file.is_file():
            raise DataError(f"{out}: no run to resume; start without --resume")
        if file.read_text() != mine:
            raise SettingsError(f"{out}: begun with another recipe; choose another folder")
        return
    if any((out / name).is_file() for name in (RECORD_NAME, LAST)):
        raise SettingsError(f"{out}: holds a finished run already; choose another --out")
    if file.is_file() and any(out.glob("phase[0-9]*/weights/last.pt")):
        raise SettingsError(f"{out}: holds a run already; choose another --out, or --resume")
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
        # What a run that was stopped before its first epoch left.
        for old in out.glob("phase[0-9]*") if file.is_file() else ():
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
        file.write_text(mine)


class _PhaseRun:
    """One phase's run of the trainer."""

    def __init__(
        self,
        recipe: AttriDetRecipe,
        phase: Phase,
        number: int,
        out: Path,
        device: str,
        workers: int,
        threads: int,
    ) -> None:
        self._recipe, self._phase, self._number = recipe, phase, number
        self._out, self._device, self._workers, self._threads = out, device, workers, threads
        self._weights = out / f"phase{number}" / "weights"

    @property
    def finished(self) -> bool:
        """Whether all its epochs are done."""
        return self._done.is_file()

    @property
    def best(self) -> Path:
        """The best checkpoint on validation pictures, or the last one."""
        best = self._weights / "best.pt"
        return best if best.is_file() else self._weights / "last.pt"

    @property
    def _done(self) -> Path:
        return self._out / f"phase{self._number}" / "done"

    def folder(self, name: str) -> Path:
        """A file beside the phase's, by name; not in it, for multi-GPU runs empty that."""
        return self._out / f"phase{self._number}-{name}"

    def train(self, data_yaml: Path, *, resume: bool) -> None:
        """All epochs, or those that are left."""
        from ultralytics.models.yolo.detect import DetectionTrainer

        from train.models.attridet import AttriDetTrainer

        kind = DetectionTrainer if self._recipe.attributes is False else AttriDetTrainer
        last = self._weights / "last.pt"
        if resume and last.is_file():
            overrides: dict[str, Any] = {
                "resume": str(last),
                "device": self._device,
                "workers": self._workers,
            }
        else:
            overrides = self._arguments(data_yaml)
        trainer: Any = kind(overrides=overrides)
        threads = self._threads

        def tune(running: Any) -> None:
            # Ultralytics leaves one core idle for loading data, and on a processor loads
            # in the same process.
            if running.device.type == "cpu":
                import torch

                torch.set_num_threads(threads)

        # A multi-GPU run sends its callbacks to other processes: none there.
        if "," not in self._device:
            trainer.add_callback("on_pretrain_routine_end", tune)
        trainer.train()
        self._done.write_text("")

    def _arguments(self, data_yaml: Path) -> dict[str, Any]:
        recipe = self._recipe
        start: str | bool = recipe.start_from or False
        if self._number > 1:
            start = str(self._out / f"phase{self._number - 1}" / "weights" / "last.pt")
        elif recipe.model.endswith(".pt"):
            # The checkpoint itself brings its weights.
            start = True
        return {
            **recipe.hyperparameters(self._phase).model_dump(),
            "model": recipe.model,
            "data": str(data_yaml),
            "epochs": self._phase.epochs,
            "imgsz": recipe.image_size,
            "batch": recipe.batch,
            "cache": recipe.cache,
            "device": self._device,
            "workers": self._workers,
            "seed": recipe.seed,
            "deterministic": True,
            "pretrained": start,
            "project": str(self._out.resolve()),
            "name": f"phase{self._number}",
            "exist_ok": True,
            "plots": False,
            # The authors' overlap in suppression; ultralytics' own is 0.7.
            "iou": 0.6,
        }
