"""A method's training from a recipe: the folder, the phases, the record of the run.

Owns the order of these, and which pictures and labels each phase is given. Does not own the
methods (see ``adapt`` and ``sparse``) nor the trainer (see ``method_trainer``).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import yaml

from calibration.fields import digest_files
from edge_runtime.errors import DataError, SettingsError
from train import THREADS, adapt, sparse
from train.attridet_folder import attribute_section, read_fields
from train.attridet_recipe import Phase
from train.datasets.labelled import LabelledSet
from train.datasets.patches import PATCH_FILE, write_patches
from train.evaluate_attridet import require_classes
from train.method_folder import (
    WRITTEN,
    all_pictures,
    mean_colour,
    read_several,
    require_alike,
    require_apart,
    require_readable,
    target_pictures,
    write_labelled,
    write_pictures,
)
from train.method_recipe import AdaptRecipe, MethodRecipe, SparseRecipe
from train.own_checkpoint import load_own_checkpoint
from train.phase_run import PhaseRun, check_start, phase_arguments
from train.run_folder import RECIPE_NAME, RECORD_NAME, claim_run, storing
from train.step_loss import MethodRow, find_row

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class How:
    """What a run is told beside its recipe.

    Attributes:
        device: ``auto``, ``cpu``, ``0``, or several indices ``0,1``.
        resume: take up an interrupted run of this very recipe after its last whole epoch.
        workers: processes that load data.
        now: the clock, for the record.
        say: told before every phase.
    """

    device: str = "auto"
    resume: bool = False
    workers: int = 2
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    say: Say = lambda line: None


def train_adapted(
    recipe: AdaptRecipe,
    method: str,
    out: Path,
    how: How = How(),
    *,
    source_checkpoint: Path | None = None,
) -> Path:
    """Trains a detector on the source and adapts it to the target.

    Args:
        recipe: what to train.
        method: of ``adapt.METHODS``.
        out: run folder: ``data/``, ``phase1/``, ``phase2/``, ``recipe.json``,
            ``training.json``.
        how: see there.
        source_checkpoint: last checkpoint of a source phase of this recipe that was trained
            already; None trains it.

    Returns:
        The last checkpoint: nothing of the target may choose one.

    Raises:
        DataError: missing or bad data, a target without pictures or with pictures of the
            source, or nothing to resume.
        SettingsError: a bad recipe, method, option or device, or a folder of another run.
        StoreError: the folder cannot be made.
    """
    row = find_row(adapt.METHODS, method)
    options = recipe.options.get(method, {})
    checked = row.options(options)
    run = _Run(recipe, row, options, "adapt", out, how)
    root = Path(recipe.data_root)
    source = read_fields(recipe.source, root, seed=recipe.seed)
    pictures = target_pictures(recipe.target, root, seed=recipe.seed)
    require_alike(source, recipe.target, root)
    require_apart(source, all_pictures(recipe.target, root, seed=recipe.seed), recipe.target)
    checked.require_fit(source.classes)
    start = recipe.start_from
    if source_checkpoint is not None:
        check_start(recipe.model, str(source_checkpoint))
        require_classes(load_own_checkpoint(source_checkpoint), source, source_checkpoint)
        start = str(source_checkpoint)
    last = out / "phase2" / "weights" / "last.pt"
    if run.claim(source_checkpoint):
        return last
    plan = [("phase2", recipe.adapt_phase, row)]
    if source_checkpoint is None:
        plan.insert(0, ("phase1", recipe.source_phase, adapt.METHODS[0]))
    extra: dict[str, Any] = {}
    if row.wants_target and not run.is_done("phase2"):
        require_readable(pictures)
        extra["target"] = str(write_pictures(pictures, out / "data" / "pictures"))
    # All of it before the first phase: bad data of the second must not cost its hours.
    for _, _, used in plan:
        if not (out / "data" / used.learns_from / WRITTEN).is_file():
            labelled = source
            if used.learns_from == "target":
                labelled = _labelled_target(recipe, source)
            _require_readable(labelled)
            write_labelled(labelled, out / "data" / used.learns_from)
    if row.module is not None:
        extra["source_mean"] = mean_colour(source.of_split("train"))
    for name, phase, used in plan:
        folder = out / "data" / used.learns_from
        more = extra if used is row else {}
        run.phase(name, phase, used, folder, source, start=start, extra=more)
        start = str(out / name / "weights" / "last.pt")
    return run.finish(last, source, source_checkpoint)


def _labelled_target(recipe: AdaptRecipe, source: LabelledSet) -> LabelledSet:
    """The target with its labels, for the oracle."""
    labelled = read_fields(recipe.target, Path(recipe.data_root), seed=recipe.seed)
    if labelled.classes != source.classes:
        raise DataError(
            f"{labelled.root}: classes {', '.join(labelled.classes)}; the source "
            f"has {', '.join(source.classes)}"
        )
    return labelled


def _require_readable(fields: LabelledSet) -> None:
    """See ``require_readable``; of the pictures that training opens."""
    require_readable(each.image for each in fields.images if each.split in ("train", "val"))


def train_sparse(
    recipe: SparseRecipe,
    method: str,
    out: Path,
    how: How = How(),
) -> Path:
    """Trains a detector on fields of which one patch each is labelled.

    Args:
        recipe: what to train.
        method: of ``sparse.METHODS``.
        out: run folder, as of ``train_adapted``.
        how: see there.

    Returns:
        The last checkpoint: labels of whole fields, which training does not have, would be
        needed to choose one.

    Raises:
        DataError: missing or bad data, sets with different classes, a patch outside its
            picture, or nothing to resume.
        SettingsError: see ``train_adapted``.
        StoreError: the folder cannot be made.
    """
    row = find_row(sparse.METHODS, method)
    options = recipe.options.get(method, {})
    checked = row.options(options)
    run = _Run(recipe, row, options, "sparse", out, how)
    fields = sparse_fields(recipe)
    if recipe.patch_share is None:
        if row.every_label:
            raise SettingsError(
                f"method {method}: needs every label, and {fields.root} has those in patches "
                "only; fully labelled fields want a patch_share in the recipe"
            )
        require_patches(fields)
    checked.require_fit(fields.classes)
    last = out / "phase2" / "weights" / "last.pt"
    if run.claim(None):
        return last
    with storing(out):
        (out / "data").mkdir(exist_ok=True)
        # Of the pictures as they were read; judging through windows wants their size.
        write_patches(out / "data" / PATCH_FILE, fields.of_split("train"))
    start = recipe.start_from
    plan = [("phase2", recipe.phase, row)]
    if recipe.crops_phase is not None and start is None:
        plan.insert(0, ("phase1", recipe.crops_phase, find_row(sparse.METHODS, "crops")))
    # All of it before the first phase, as in adaptation.
    if not all((_given_folder(out, used) / WRITTEN).is_file() for _, _, used in plan):
        _require_readable(fields)
    for _, _, used in plan:
        if not (_given_folder(out, used) / WRITTEN).is_file():
            given = _as_given(recipe, used, fields, out / "data")
            write_labelled(given, _given_folder(out, used))
    for name, phase, used in plan:
        folder = _given_folder(out, used)
        extra = {"patches": str(folder / PATCH_FILE)} if used.wants_patches else {}
        run.phase(name, phase, used, folder, fields, start=start, extra=extra)
        start = str(out / name / "weights" / "last.pt")
    return run.finish(last, fields, None)


def require_patches(fields: LabelledSet) -> None:
    """Refuses a training picture of which nobody says what part is labelled.

    Raises:
        DataError: there is one; taken as fully labelled it would teach that its unlabelled
            cells are background.
    """
    for each in fields.of_split("train"):
        if each.patch_xyxyn is None:
            raise DataError(
                f"{each.image}: no labelled patch is known of it; give it a row in "
                f"{fields.root / PATCH_FILE}, or draw patches with patch_share in the recipe"
            )


def _given_folder(out: Path, row: MethodRow) -> Path:
    return out / "data" / ("full" if row.every_label else row.pictures)


def _as_given(
    recipe: SparseRecipe, row: MethodRow, fields: LabelledSet, folder: Path
) -> LabelledSet:
    """The fields as a method wants them; new pictures go below ``folder``."""
    if row.every_label:
        return read_several(recipe.fields, Path(recipe.data_root), recipe.seed)
    if row.pictures == "whole":
        return fields
    from train.sparse.given_pictures import crops_of, masked_of

    made = folder / f"{row.pictures}-pictures"
    with storing(made):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        return (masked_of if row.pictures == "masked" else crops_of)(fields, made)


def sparse_fields(recipe: SparseRecipe) -> LabelledSet:
    """The fields of a sparse recipe, their training pictures with patches.

    A label whose centre lies outside its picture's patch is left out, whoever wrote it: some
    methods would learn from it and others not.

    Raises:
        DataError: missing or bad data.
    """
    from train.sparse.draw_patches import draw_patches, with_patch

    fields = read_several(recipe.fields, Path(recipe.data_root), recipe.seed)
    if recipe.patch_share is not None:
        seed = recipe.seed if recipe.patch_seed is None else recipe.patch_seed
        return draw_patches(fields, seed=seed, share=recipe.patch_share)
    images = (
        each
        if each.split != "train" or each.patch_xyxyn is None
        else with_patch(each, each.patch_xyxyn)
        for each in fields.images
    )
    return fields.with_images(tuple(images))


class _Run:
    """What the phases of one run share."""

    def __init__(
        self,
        recipe: MethodRecipe,
        row: MethodRow,
        options: dict[str, Any],
        table: Literal["adapt", "sparse"],
        out: Path,
        how: How,
    ) -> None:
        import torch

        from train.trainer import chosen_device

        self._recipe, self._row, self._options = recipe, row, options
        self._table, self._out, self._how = table, out, how
        self._device = chosen_device(how.device, torch)
        self._started = how.now()
        check_start(recipe.model, recipe.start_from)

    def claim(self, source_checkpoint: Path | None) -> bool:
        """Makes the folder this recipe's and method's; whether all of it is done already."""
        out, how = self._out, self._how
        identity = {
            "recipe": self._recipe.model_dump(mode="json"),
            "method": self._row.name,
            "source": None if source_checkpoint is None else digest_files([source_checkpoint]),
        }
        if not how.resume and (out / "data").exists() and not (out / RECIPE_NAME).is_file():
            raise SettingsError(
                f"{out / 'data'}: is there already, and of no run; choose another --out"
            )
        claim_run(out, json.dumps(identity, sort_keys=True), resume=how.resume)
        if not how.resume:
            # Of a run that was stopped before its first epoch, perhaps of another recipe.
            with storing(out):
                shutil.rmtree(out / "data", ignore_errors=True)
            return False
        done = (out / RECORD_NAME).is_file() and self.is_done("phase2")
        if done:
            how.say(f"{out}: finished already")
        return done

    def is_done(self, name: str) -> bool:
        """Whether a phase was trained to its end by the run that is resumed."""
        return self._how.resume and self._phase_run(name).finished

    def _phase_run(self, name: str) -> PhaseRun:
        channels_last = self._recipe.channels_last
        return PhaseRun(self._out, name, self._device, self._how.workers, THREADS, channels_last)

    def phase(
        self,
        name: str,
        phase: Phase,
        row: MethodRow,
        folder: Path,
        fields: LabelledSet,
        *,
        start: str | None,
        extra: dict[str, Any],
    ) -> None:
        """Trains one phase, unless it is done."""
        recipe, how = self._recipe, self._how
        run = self._phase_run(name)
        if self.is_done(name):
            return
        how.say(f"{name}: {row.title}, {phase.epochs} epochs")
        data_yaml = run.beside("data.yaml")
        document = self._document(row, phase, folder, fields, extra)
        with storing(self._out):
            data_yaml.write_text(yaml.safe_dump(document, sort_keys=False))
        arguments = phase_arguments(
            recipe,
            recipe.hyperparameters(phase),
            data_yaml=data_yaml,
            epochs=phase.epochs,
            start=start or recipe.model.endswith(".pt"),
        )
        run.train(self._kind(), {**arguments, "val": False}, resume=how.resume)

    def _kind(self) -> type[Any]:
        from train.method_trainer import MethodAttriDetTrainer, MethodTrainer

        return MethodTrainer if self._recipe.attributes is False else MethodAttriDetTrainer

    def _document(
        self,
        row: MethodRow,
        phase: Phase,
        folder: Path,
        fields: LabelledSet,
        extra: dict[str, Any],
    ) -> dict[str, Any]:
        recipe = self._recipe
        section: dict[str, Any] = {
            "table": self._table,
            "name": row.name,
            "pictures_every": recipe.pictures_every,
            **{key: list(v) if isinstance(v, tuple) else v for key, v in extra.items()},
        }
        if row is self._row:
            section["options"] = self._options
        document: dict[str, Any] = {
            "path": str(folder.resolve()),
            "train": "images/train",
            "val": "images/val",
            "names": dict(enumerate(fields.classes)),
            "method": section,
        }
        if recipe.attributes is not False:
            document |= attribute_section(recipe.attributes, fields, phase, recipe.name)
        return document

    def finish(self, checkpoint: Path, fields: LabelledSet, source_checkpoint: Path | None) -> Path:
        """Writes the record of the run."""
        import torch
        from ultralytics import __version__ as ultralytics_version

        counts = {split: len(fields.of_split(split)) for split in ("train", "val", "test")}
        record = {
            "recipe": self._recipe.model_dump(mode="json"),
            "kind": self._table,
            "method": self._row.name,
            "options": self._row.options(self._options).model_dump(mode="json"),
            "classes": list(fields.classes),
            "labelled_pictures": counts,
            "checkpoint": checkpoint.relative_to(self._out).as_posix(),
            "checkpoint_sha256": digest_files([checkpoint]),
            "source_checkpoint_sha256": None
            if source_checkpoint is None
            else digest_files([source_checkpoint]),
            "started": self._started.isoformat(timespec="seconds"),
            "minutes": round((self._how.now() - self._started).total_seconds() / 60, 1),
            "resumed": self._how.resume,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, device {self._device}",
            "torch": torch.__version__,
            "ultralytics": ultralytics_version,
        }
        with storing(self._out):
            (self._out / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n")
        return checkpoint
