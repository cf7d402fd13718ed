"""The two forms of a bundle, a folder and one zip file, as names and bytes.

Owns how files are found in either form, and the one layout of the bundle files that this
program writes. Does not own what the files mean (see ``bundle``).
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from edge_runtime.errors import BundleError

# What the readers raise on a damaged archive; zipfile lets its decoders' own errors through.
UNREADABLE = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
    RuntimeError,
)
# Beside the manifest and not listed in it: it is made over the manifest.
SIGNATURES_NAME = "signatures.json"
LARGEST_SIGNATURES_BYTES = 64 * 1024
# zip counts files in 16 bits and sizes in 32; no bundle comes near either.
LARGEST_BUNDLE_BYTES = 1024**3
_MOST_FILES = 10_000

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s4B4H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION, _UNIX = 20, 3
# 1 January 1980, the earliest date zip can hold; a real one would make equal bundles differ.
_DATE = (1 << 5) | 1
_UTF8_NAME = 0x800
_MODE = 0o100644 << 16


class BundleReader(Protocol):
    """Names, sizes and bytes of a bundle's files."""

    def names(self) -> set[str]:
        """Paths inside the bundle."""

    def size(self, name: str) -> int:
        """Bytes the file says it has."""

    def read(self, name: str) -> bytes:
        """The file, and never many more bytes than ``size``."""


class FolderReader:
    """A bundle folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> set[str]:
        """Paths of all files; a link is refused."""
        found = set()
        for path in self._root.rglob("*"):
            if path.is_symlink():
                raise BundleError(
                    f"bundle {self._root}: {path.name!r} is a link; bundles hold files"
                )
            if path.is_file():
                found.add(path.relative_to(self._root).as_posix())
        return found

    def size(self, name: str) -> int:
        """Bytes on the disk."""
        return (self._root / name).stat().st_size

    def read(self, name: str) -> bytes:
        """All bytes."""
        return (self._root / name).read_bytes()


class ZipReader:
    """Any zip file: whoever puts an unsigned bundle together may compress it."""

    def __init__(self, place: Path, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        # Not is_dir(): it fails on the empty name that a damaged archive can hold.
        entries = [e for e in archive.infolist() if not e.filename.endswith("/")]
        self._sizes = {e.filename: e.file_size for e in entries}
        if len(self._sizes) != len(entries):
            raise BundleError(f"bundle {place}: a file name occurs twice; make the bundle again")

    def names(self) -> set[str]:
        """Names of the entries."""
        return set(self._sizes)

    def size(self, name: str) -> int:
        """Bytes after unpacking, as declared."""
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        """At most one byte more than declared."""
        with self._archive.open(name) as handle:
            return handle.read(self._sizes[name] + 1)


class PlainZipReader:
    """A bundle file laid out exactly as ``plain_zip`` does it, and no other.

    For bundles whose signature counts: nothing is unpacked, so there is no zip bomb, and no
    byte of the file, headers and gaps included, can differ without being noticed.
    """

    def __init__(self, place: Path, handle: BinaryIO, size: int) -> None:
        """Walks the headers.

        Raises:
            BundleError: any header is not the one ``plain_zip`` would have written.
        """
        self._place = place
        self._handle = handle
        self._found: dict[str, tuple[int, int, int]] = {}
        if size > LARGEST_BUNDLE_BYTES:
            raise BundleError(
                f"bundle {place}: {size} bytes, at most {LARGEST_BUNDLE_BYTES} are read; "
                "this is no bundle"
            )
        position, entries = 0, list[_Entry]()
        while True:
            handle.seek(position)
            raw = handle.read(_LOCAL.size)
            if raw[:4] != _LOCAL_MARK or len(raw) < _LOCAL.size:
                break
            crc, length, name_length = _LOCAL.unpack(raw)[6], *_LOCAL.unpack(raw)[8:10]
            name = self._name(handle.read(name_length), entries[-1].name if entries else "")
            entry = _Entry(name, crc, length, position)
            start = position + _LOCAL.size + name_length
            if raw != entry.local_header() or start + length > size or len(entries) >= _MOST_FILES:
                raise self._refusal()
            entries.append(entry)
            self._found[name] = (start, length, crc)
            position = start + length
        handle.seek(position)
        tail = _tail(entries, position)
        if not entries or handle.read(len(tail) + 1) != tail:
            raise self._refusal()

    def names(self) -> set[str]:
        """Names of the entries."""
        return set(self._found)

    def size(self, name: str) -> int:
        """Bytes of the entry."""
        return self._found[name][1]

    def read(self, name: str) -> bytes:
        """All bytes, their checksum compared."""
        start, length, crc = self._found[name]
        self._handle.seek(start)
        content = self._handle.read(length)
        if zlib.crc32(content) != crc:
            raise BundleError(f"bundle {self._place}: {name!r} was altered; copy the bundle again")
        return content

    def _name(self, raw: bytes, before: str) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._refusal() from error
        # In order, each once: one content, one file.
        if name <= before:
            raise self._refusal()
        return name

    def _refusal(self) -> BundleError:
        return BundleError(
            f"bundle {self._place}: not laid out as `leukoscope bundle create` lays it out: "
            "incomplete, altered, or packed by another program; copy it again"
        )


def plain_zip(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """The bytes of a bundle file: entries by name, stored, one date, no gaps.

    Stored, not compressed: int8 weights hardly shrink, and zlib's output has versions.
    Equal files give equal bytes on every machine.
    """
    entries, position = list[_Entry](), 0
    for name in sorted(files):
        content = files[name]
        entry = _Entry(name, zlib.crc32(content), len(content), position)
        header = entry.local_header() + name.encode()
        yield header
        yield content
        entries.append(entry)
        position += len(header) + len(content)
    yield _tail(entries, position)


class _Entry:
    def __init__(self, name: str, crc: int, size: int, offset: int) -> None:
        self.name = name
        self._encoded = name.encode()
        flags = 0 if name.isascii() else _UTF8_NAME
        # Method (stored), time, date, checksum, size packed and unpacked, length of the name.
        self._shared = (flags, 0, 0, _DATE, crc, size, size, len(self._encoded))
        self._offset = offset

    def local_header(self) -> bytes:
        return _LOCAL.pack(_LOCAL_MARK, _VERSION, *self._shared, 0)

    def central_header(self) -> bytes:
        made_by = (_VERSION, _UNIX, _VERSION, 0)
        rest = (0, 0, 0, 0, _MODE, self._offset)
        return _CENTRAL.pack(_CENTRAL_MARK, *made_by, *self._shared, *rest) + self._encoded


def _tail(entries: Iterable[_Entry], position: int) -> bytes:
    headers = [entry.central_header() for entry in entries]
    central = b"".join(headers)
    count = len(headers)
    return central + _END.pack(_END_MARK, 0, 0, count, count, len(central), position, 0)
