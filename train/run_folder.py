"""A training's run folder: beginning it, taking it up again, and writing into it whole.

Owns the rules for which folder may be used and what a failed write says. Does not own what
the trainings leave there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edge_runtime.errors import DataError, SettingsError, StoreError
from train.models.cell_classifier import load_weights

LAST = "last.pt"
RECIPE_NAME = "recipe.json"
RECORD_NAME = "training.json"


def begin_run(out: Path, *, resume: bool) -> None:
    """Makes the folder, or sees that there is something in it to resume.

    Raises:
        DataError: nothing to resume.
        SettingsError: the folder holds a run and ``resume`` was not asked for.
        StoreError: it cannot be made.
    """
    last = out / LAST
    if resume:
        if not last.is_file():
            raise DataError(f"{out}: no {LAST} to resume from; start without --resume")
        return
    if last.is_file():
        raise SettingsError(f"{out}: holds a run already; choose another --out, or --resume")
    make_folder(out)


def claim_run(out: Path, identity: str, *, resume: bool) -> None:
    """Makes a folder of phases that of one recipe, or finds that it is.

    Args:
        out: the folder; its phases' folders are called ``phase1`` and so on.
        identity: the recipe as text, kept in ``recipe.json``.
        resume: whether an interrupted run is taken up.

    Raises:
        DataError: nothing to resume.
        SettingsError: begun with another recipe, or it holds a run where none is resumed.
        StoreError: it cannot be made.
    """
    file = out / RECIPE_NAME
    if resume:
        if not file.is_file():
            raise DataError(f"{out}: no run to resume; start without --resume")
        if file.read_text() != identity:
            raise SettingsError(
                f"{out}: begun with another recipe or method; choose another folder"
            )
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
        file.write_text(identity)


def make_folder(out: Path) -> None:
    """Makes a folder for results, before the long work that they come from.

    Raises:
        StoreError: it cannot be made or written to.
    """
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise StoreError(f"{out}: may not be written; change --out")


def require_new_file(file: Path) -> None:
    """Refuses a result file that could not be written, before the work that it comes from.

    Raises:
        StoreError: it is a folder, or cannot be written.
    """
    if file.is_dir():
        raise StoreError(f"{file}: is a folder; give --out a file in it")
    make_folder(file.parent)
    if file.exists() and not os.access(file, os.W_OK):
        raise StoreError(f"{file}: may not be written; change --out")


def read_last(out: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """What ``LAST`` holds of an interrupted run.

    Raises:
        DataError: it is damaged, or the run of another kind of training.
    """
    saved = load_weights(out / LAST)
    absent = [key for key in keys if not isinstance(saved, dict) or key not in saved]
    if absent:
        raise DataError(
            f"{out / LAST}: the run of another kind of training ({absent[0]!r} is missing); "
            f"choose another --out"
        )
    found: dict[str, Any] = saved
    return found


@contextmanager
def storing(out: Path) -> Iterator[None]:
    """Turns a failed write into one line.

    Raises:
        StoreError: the disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"{out}: cannot be written: {reason}; free space or change --out"
        ) from error
    except RuntimeError as error:
        # So torch says that a disk is full.
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise StoreError(f"{out}: cannot be written; free space or change --out") from error


def save_whole(document: dict[str, Any], file: Path) -> None:
    """Writes weights so that a file of that name is always a whole one.

    Raises:
        StoreError: see ``storing``.
    """
    partial = file.with_name(f"{file.name}.partial")
    with storing(file.parent):
        torch.save(document, partial)
        partial.replace(file)
