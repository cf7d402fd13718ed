"""The seam through which a device's root is changed: few operations, each durable or not.

Owns the operations and how one file takes another's place. Tests put a disk behind it that
loses power before, in and after each of them, and with it everything not yet flushed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class DurableFiles(Protocol):
    """Everything that changes a file under a device's root. Each raises OSError."""

    def make_folder(self, folder: Path) -> None:
        """Makes a folder whose parent is there; one that is there already stays."""

    def write(self, path: Path, parts: Iterable[bytes]) -> None:
        """Writes a file; after a power cut it may be whole, cut short or absent."""

    def append(self, path: Path, content: bytes) -> None:
        """Adds to the end of a file; after a power cut any part of it may be lost."""

    def fsync(self, path: Path) -> None:
        """Waits until a file's bytes are on the disk; says nothing of its name."""

    def rename(self, source: Path, target: Path) -> None:
        """Gives a file another name in the same folder, in one step."""

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""

    def sync_folder(self, folder: Path) -> None:
        """Waits until the names in a folder are on the disk."""


class DiskFiles:
    """The real disk."""

    def make_folder(self, folder: Path) -> None:
        """Makes a folder, unless it is there."""
        folder.mkdir(exist_ok=True)

    def write(self, path: Path, parts: Iterable[bytes]) -> None:
        """Writes a file."""
        with path.open("wb") as file:
            file.writelines(parts)

    def append(self, path: Path, content: bytes) -> None:
        """Adds to a file."""
        with path.open("ab") as file:
            file.write(content)

    def fsync(self, path: Path) -> None:
        """Flushes a file; what an earlier handle wrote is flushed too."""
        _sync(path)

    def rename(self, source: Path, target: Path) -> None:
        """Renames a file."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Flushes the names.

        Unlike in ``clinic.atomic_file``, a file system that cannot is an error: nothing could
        be promised there.
        """
        _sync(folder)


def put(files: DurableFiles, path: Path, parts: Iterable[bytes]) -> None:
    """Writes a file beside ``path`` and lets it take its place; durable when this returns."""
    # One name: what a power cut left behind is overwritten the next time.
    part = path.with_name(f".{path.name}.part")
    try:
        files.write(part, parts)
        files.fsync(part)
        files.rename(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            files.remove(part)
        raise
    files.sync_folder(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
