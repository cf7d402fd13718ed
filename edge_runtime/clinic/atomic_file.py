"""Writing a file so that it is either the whole new one or still the old one.

Owns the temporary file, the flush to the disk, and the wording of what went wrong
there. Does not own what is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import StoreError

_FREE_SPACE = "free some space there, or choose another folder with"
_OTHER_FOLDER = "choose another folder with"
_OWN_FOLDER = "choose a folder you may write to with"
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EACCES: _OWN_FOLDER,
    errno.EPERM: _OWN_FOLDER,
    errno.EROFS: _OWN_FOLDER,
}
_IN_THE_WAY = {
    errno.EEXIST: "a file is in the way",
    errno.ENOTDIR: "a file is in the way",
    errno.EISDIR: "a folder is in the way",
}
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def store_error(path: Path, error: OSError, *, flag: str = "--out") -> StoreError:
    """One line that names ``path``, the reason and the remedy, ``flag`` in it."""
    code = error.errno if error.errno is not None else -1
    reason = _IN_THE_WAY.get(code) or error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(code, _OTHER_FOLDER)
    return StoreError(f"cannot write {str(path)!r}: {reason}; {remedy} {flag}")


def prepare_folder(folder: Path, file_names: tuple[str, ...] = (), *, flag: str = "--out") -> None:
    """Create ``folder`` and prove, before any work is done, that files fit into it.

    Args:
        folder: created with its parents when missing.
        file_names: files that will be written there later; none may be a folder now.
        flag: what chooses the folder on the command line.

    Raises:
        StoreError: the folder cannot be made or written, or a name is taken by a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _beside(folder / "probe")
        try:
            # One real byte: an empty file can be made on a full disk.
            probe.write_bytes(b"\n")
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
    except OSError as error:
        raise store_error(folder, error, flag=flag) from error
    for name in file_names:
        if (folder / name).is_dir():
            taken = IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            raise store_error(folder / name, taken, flag=flag)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, flag: str = "--out") -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends well.

    The bytes go to a hidden file in the same folder. When the block fails, that file is
    removed and ``path`` stays as it was.

    Args:
        path: the file to write; its folder must exist.
        durable: wait until the bytes are on the disk before the old file goes.
        flag: what chooses the folder on the command line.

    Yields:
        The open file, binary.

    Raises:
        StoreError: the file cannot be written, e.g. because the disk is full.
    """
    part = _beside(path)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise store_error(path, error, flag=flag) from error
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Ask the disk to remember the names in ``folder``; some file systems cannot."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def utf8(text: str) -> bytes:
    """UTF-8 of ``text``.

    A file name that was no valid UTF-8 reaches us with lone surrogates, which no strict
    reader of JSON or HTML accepts; each becomes U+FFFD.
    """
    return _LONE_SURROGATES.sub("\ufffd", text).encode("utf-8")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
