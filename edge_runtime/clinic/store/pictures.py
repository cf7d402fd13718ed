"""Pictures of the store: files named by the SHA-256 of what they hold, a folder per film.

Owns that a picture is whole and on the disk when ``keep`` returns, so that a row may name it,
and the removal of files that no row names. Does not own the rows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from edge_runtime.clinic.atomic_file import store_error
from edge_runtime.device.files import DiskFiles, DurableFiles
from edge_runtime.errors import StoreError

PICTURES_FOLDER = "films"
JPEG, GZIP = ".jpg", ".json.gz"
_NAME = re.compile(r"[0-9a-f]{64}(\.jpg|\.json\.gz)")
_FLAG = "the setting of the store's folder"


def free_bytes(folder: Path) -> int:
    """Bytes that a user may still write on the disk that holds ``folder``."""
    return shutil.disk_usage(folder).free


class Pictures:
    """The pictures of all films of one store.

    Args:
        store: the store's folder.
        files: what changes files; tests lose power behind it.
        free: tells the free bytes.
    """

    def __init__(
        self,
        store: Path,
        files: DurableFiles | None = None,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._folder = store / PICTURES_FOLDER
        self._files = DiskFiles() if files is None else files
        self._free = free
        try:
            self._files.make_folder(self._folder)
            self._files.sync_folder(store)
        except OSError as error:
            raise store_error(self._folder, error, flag=_FLAG) from error

    def open_film(self, film: int) -> None:
        """Makes a film's folder, on the disk when this returns; raises StoreError."""
        folder = self._of(film)
        try:
            self._files.make_folder(folder)
            self._files.sync_folder(self._folder)
        except OSError as error:
            raise store_error(folder, error, flag=_FLAG) from error

    def keep(self, film: int, contents: Sequence[bytes], suffix: str = JPEG) -> list[str]:
        """Writes pictures; each is whole, named and on the disk when this returns.

        Args:
            film: its folder was opened.
            contents: the files' bytes.
            suffix: of their names.

        Returns:
            The file names, in the order of ``contents``.

        Raises:
            StoreError: they cannot be written; none of the names may be used then.
        """
        folder = self._of(film)
        names = [hashlib.sha256(content).hexdigest() + suffix for content in contents]
        new = {
            name: content
            for name, content in zip(names, contents, strict=True)
            if not (folder / name).exists()
        }
        parts = {name: folder / f".{name}.part" for name in new}
        path = folder
        try:
            # All are written before the first is waited for: the disk takes them together.
            for name, content in new.items():
                path = folder / name
                self._files.write(parts[name], [content])
            for name in new:
                path = folder / name
                self._files.fsync(parts[name])
                self._files.rename(parts[name], path)
            path = folder
            self._files.sync_folder(folder)
        except OSError as error:
            for part in parts.values():
                with contextlib.suppress(OSError):
                    self._files.remove(part)
            raise store_error(path, error, flag=_FLAG) from error
        return names

    def read(self, film: int, name: str) -> bytes:
        """A picture's bytes, compared with its name.

        Raises:
            StoreError: it is missing, or no longer what it was.
        """
        path = self.path(film, name)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"picture {path}: {error.strerror}; restore the store") from error
        if hashlib.sha256(content).hexdigest() != name.partition(".")[0]:
            raise StoreError(f"picture {path}: altered or damaged; restore the store from a copy")
        return content

    def path(self, film: int, name: str) -> Path:
        """Where a picture is.

        Raises:
            ValueError: no name of ours; such a name might lead out of the folder.
        """
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"picture {name!r}: not a name of the store")
        return self._of(film) / name

    def sweep(self, film: int, named: Collection[str]) -> int:
        """Removes what a film's rows do not name; how many files those were."""
        return self._remove([each for each in _files_in(self._of(film)) if each.name not in named])

    def remove_film(self, film: int) -> int:
        """Removes a film's folder; how many files it held."""
        folder = self._of(film)
        removed = self._remove(_files_in(folder))
        try:
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
        except OSError as error:
            raise store_error(folder, error, flag=_FLAG) from error
        return removed

    def films(self) -> list[int]:
        """Films that have a folder."""
        return sorted(
            int(each.name)
            for each in self._folder.iterdir()
            if each.name.isdecimal() and each.is_dir()
        )

    def bytes_of(self, film: int) -> int:
        """How much room a film's pictures take."""
        return sum(each.stat().st_size for each in _files_in(self._of(film)))

    def require_room(self, least: int) -> None:
        """The free-disk gate.

        Args:
            least: bytes that must be free.

        Raises:
            StoreError: fewer are.
        """
        try:
            free = self._free(self._folder)
        except OSError as error:
            raise store_error(self._folder, error, flag=_FLAG) from error
        if free < least:
            raise StoreError(
                f"disk of {self._folder}: {free / 1e6:.0f} MB free, {least / 1e6:.0f} MB needed; "
                "free some space, or let retention remove old films"
            )

    def _of(self, film: int) -> Path:
        return self._folder / f"{film:06d}"

    def _remove(self, paths: Iterable[Path]) -> int:
        removed = 0
        for path in paths:
            try:
                self._files.remove(path)
            except OSError as error:
                raise StoreError(
                    f"cannot remove {str(path)!r}: "
                    f"{error.strerror or os.strerror(error.errno or errno.EIO)}; "
                    "its folder must belong to the user who runs Leukoscope"
                ) from error
            removed += 1
        return removed


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_file())
    except FileNotFoundError:
        return []
