"""A training's run folder: beginning it, taking it up again, and writing into it whole.

Owns the rules for which folder may be used and what a failed write says. Does not own what
the trainings leave there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edge_runtime.errors import DataError, SettingsError, StoreError
from train.models.cell_classifier import load_weights

LAST = "last.pt"


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


def make_folder(out: Path) -> None:
    """Makes a folder for results, before the long work that they come from.

    Raises:
        StoreError: it cannot be made or written to.
    """
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise StoreError(f"{out}: may not be written; change --out")


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
