"""Keys, small signed bundles and a disk that loses power, for tests of devices.

The bundles' models are any bytes: verification never looks into one, and where a self-test
matters a test brings its own.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from edge_runtime.bundle_container import SIGNATURES_NAME, plain_zip
from edge_runtime.device.install import Device
from edge_runtime.device.slots import DeviceRoot
from edge_runtime.golden import GoldenResult, PartResult
from edge_runtime.signature import KeyFile, TrustedKeys, manifest_message, signatures_to_bytes
from export.signing import SigningKey
from tests.support import MODEL_NAME, manifest_of

NOW = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
FIRST_DAY, LAST_DAY = date(2026, 1, 1), date(2027, 12, 31)
FILES = {MODEL_NAME: bytes(range(256)) * 4, "notes/card.txt": b"what it has seen"}


def drawn_key(seed: int) -> SigningKey:
    """A key that is the same for the same seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    raw = hashlib.sha256(f"key {seed}".encode()).digest()
    return SigningKey(Ed25519PrivateKey.from_private_bytes(raw))


def public(key: SigningKey, name: str = "lab", **changes: Any) -> KeyFile:
    """Its key file, valid at ``NOW``."""
    return key.public_key(name, FIRST_DAY, LAST_DAY).model_copy(update=changes)


def trusting(*files: KeyFile, at: datetime | None = NOW) -> TrustedKeys:
    return TrustedKeys({file.key_id: file.key for file in files}, at)


def signed_files(
    *keys: SigningKey, version: str = "1.0.0", files: Mapping[str, bytes] = FILES, **changes: Any
) -> dict[str, bytes]:
    """Everything in a signed bundle; ``changes`` are keys of its manifest."""
    document = manifest_of(files) | {"version": version} | changes
    manifest = json.dumps(document, indent=1).encode()
    made = {**files, "manifest.json": manifest}
    if keys:
        message = manifest_message(manifest)
        made[SIGNATURES_NAME] = signatures_to_bytes([key.sign(message) for key in keys])
    return made


def write_zip(files: Mapping[str, bytes], path: Path) -> Path:
    path.write_bytes(b"".join(plain_zip(files)))
    return path


def passing(said: str = "as kept") -> GoldenResult:
    return GoldenResult("toy 1", "toy 1", True, (PartResult("detector", True, said),))


def device_at(root: Path, files: Any, said: list[str] | None = None, **changes: Any) -> Device:
    """A device whose engines and self-test are made up."""
    parts: dict[str, Any] = {
        "root": DeviceRoot(root),
        "files": files,
        "clock": lambda: NOW,
        "engines": lambda bundle, folder: [f"no engine for {bundle.id}"],
        "self_test": lambda bundle: passing(),
        "say": (said if said is not None else []).append,
    }
    return Device(**(parts | changes))


def read_tree(top: Path) -> dict[Path, bytes | None]:
    """Every path under a folder with its bytes; None for folders."""
    return {
        path.relative_to(top): None if path.is_dir() else path.read_bytes()
        for path in sorted(top.rglob("*"))
    }


def write_tree(top: Path, wanted: Mapping[Path, bytes | None]) -> None:
    """Makes a folder hold exactly this; what is as wanted already is not touched."""
    have = read_tree(top)
    for path in sorted(have.keys() - wanted.keys(), reverse=True):
        (top / path).rmdir() if have[path] is None else (top / path).unlink()
    for path, content in wanted.items():
        if path not in have or have[path] != content:
            (top / path).mkdir() if content is None else (top / path).write_bytes(content)


class PowerCutError(BaseException):
    """The power is gone: nothing that catches errors may catch this."""


class _Inode:
    """A file's bytes as far as they are on the disk; None before the first flush."""

    def __init__(self, flushed: bytes | None, *, folder: bool = False) -> None:
        self.flushed = flushed
        self.folder = folder


class PowerDisk:
    """Real files under one folder, and a model of what of them is on the disk.

    Operation number ``cut_at`` is cut: not begun, or half done where there is a half. After
    it nothing works any more. ``lose`` then leaves only what would survive.
    """

    def __init__(self, top: Path, cut_at: int | None = None, *, half: bool = False) -> None:
        self.top = top
        self.operations: list[str] = []
        self._cut_at, self._half = cut_at, half
        self._names: dict[Path, _Inode] = {}
        for path in sorted(top.rglob("*")):
            folder = path.is_dir()
            self._names[path] = _Inode(None if folder else path.read_bytes(), folder=folder)
        self._flushed_names = dict(self._names)

    def make_folder(self, folder: Path) -> None:
        self._begin(f"make_folder {folder.name}")
        if not folder.exists():
            folder.mkdir()
            self._names[folder] = _Inode(None, folder=True)

    def write(self, path: Path, parts: Iterable[bytes]) -> None:
        self._put(path, b"", b"".join(parts), f"write {path.name}")

    def append(self, path: Path, content: bytes) -> None:
        before = path.read_bytes() if path.exists() else b""
        self._put(path, before, content, f"append {path.name}")

    def fsync(self, path: Path) -> None:
        self._begin(f"fsync {path.name}")
        self._names[path].flushed = path.read_bytes()

    def rename(self, source: Path, target: Path) -> None:
        self._begin(f"rename {target.name}")
        source.replace(target)
        self._names[target] = self._names.pop(source)

    def remove(self, path: Path) -> None:
        self._begin(f"remove {path.name}")
        path.unlink(missing_ok=True)
        self._names.pop(path, None)

    def sync_folder(self, folder: Path) -> None:
        self._begin(f"sync_folder {folder.name}")
        for names in (self._flushed_names, self._names):
            for path in [each for each in names if each.parent == folder]:
                if names is self._flushed_names:
                    del names[path]
                else:
                    self._flushed_names[path] = names[path]

    def lose(self, rng: random.Random | None = None) -> None:
        """Leaves what was flushed; with ``rng``, and by chance some of what was not."""
        survivors: dict[Path, bytes | None] = {}
        for path in sorted({*self._names, *self._flushed_names}):
            inode = self._flushed_names.get(path)
            if rng is not None and rng.random() < 0.5:
                inode = self._names.get(path)
            if inode is None or (path.parent != self.top and path.parent not in survivors):
                continue
            survivors[path] = None if inode.folder else self._content(inode, rng)
        write_tree(self.top, {path.relative_to(self.top): raw for path, raw in survivors.items()})

    def _content(self, inode: _Inode, rng: random.Random | None) -> bytes:
        flushed = inode.flushed or b""
        if rng is None:
            return flushed
        now = next((p.read_bytes() for p, i in self._names.items() if i is inode), flushed)
        if now == flushed:
            return flushed
        # Of what was not flushed anything may have arrived: nothing, all, a part, or zeros.
        kept = rng.randrange(len(now) + 1)
        return rng.choice([flushed, now, now[:kept], now[:kept] + bytes(len(now) - kept)])

    def _put(self, path: Path, before: bytes, content: bytes, what: str) -> None:
        halves = len(self.operations) == self._cut_at and self._half
        if not halves:
            self._begin(what)
        path.write_bytes(before + (content[: len(content) // 2] if halves else content))
        self._names.setdefault(path, _Inode(None))
        if halves:
            self._begin(what)

    def _begin(self, what: str) -> None:
        if self._cut_at is not None and len(self.operations) >= self._cut_at:
            raise PowerCutError(what)
        self.operations.append(what)


def operations_of(action: Callable[[PowerDisk], object], top: Path) -> Sequence[str]:
    """What an action does to the disk when nothing goes wrong."""
    disk = PowerDisk(top)
    action(disk)
    return disk.operations
