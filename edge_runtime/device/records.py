"""What is written beside the bundles of a device: its state, each slot's proof, the audit.

Owns the three forms and how damage in them shows. Does not own which slot starts
(see ``slots``) nor when something is written (see ``install``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.device.files import DurableFiles
from edge_runtime.errors import BundleError, StoreError
from edge_runtime.manifest import VERSION_PATTERN

SlotName = Literal["a", "b"]
SLOTS: tuple[SlotName, SlotName] = ("a", "b")
_LARGEST_RECORD_BYTES = 64 * 1024
_SEAL = "seal"

Version = tuple[int, int, int]
Record = TypeVar("Record", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DeviceState(_Strict):
    """Which slot starts.

    Attributes:
        active: that slot.
        previous: the one that was active before, for a rollback.
        highest: version that no later bundle may be below.
        sequence: grows with every switch.
    """

    format: Literal[1] = 1
    active: SlotName
    previous: SlotName | None
    highest: str = Field(pattern=VERSION_PATTERN)
    sequence: int = Field(ge=1)


class SlotProof(_Strict):
    """That a slot's bundle passed every step, and when it was last made active."""

    format: Literal[1] = 1
    bundle_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    version: str = Field(pattern=VERSION_PATTERN)
    sequence: int = Field(ge=1)
    installed_at: str
    self_test: tuple[str, ...]


def version_of(text: str) -> Version:
    """A version as numbers that compare.

    Raises:
        BundleError: it is none, or its numbers are beyond reason.
    """
    parts = text.split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) <= 9 for p in parts):
        raise BundleError(f"version {text[:40]!r}: not three numbers of at most nine digits")
    return int(parts[0]), int(parts[1]), int(parts[2])


def sealed(record: BaseModel) -> bytes:
    """A record with a hash of itself: a disk that changes one digit must not go unnoticed."""
    document = record.model_dump(mode="json")
    return _canonical({**document, _SEAL: hashlib.sha256(_canonical(document)).hexdigest()})


def read_sealed(kind: type[Record], path: Path) -> Record | None:
    """A record, or None when there is no such file.

    Raises:
        StoreError: it cannot be read, is damaged, or is none.
    """
    try:
        with path.open("rb") as handle:
            raw = handle.read(_LARGEST_RECORD_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; make it readable") from error
    try:
        document: Any = json.loads(raw)
        seal = document.pop(_SEAL)
        if seal != hashlib.sha256(_canonical(document)).hexdigest():
            raise StoreError(f"{path}: damaged: its hash does not fit")
        return kind.model_validate_json(json.dumps(document))
    except (
        ValidationError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as e:
        raise StoreError(f"{path}: damaged: not what the program writes") from e


class AuditLog:
    """``audit.jsonl``: what was done to a device, one JSON object a line, only ever added to."""

    def __init__(self, path: Path, files: DurableFiles) -> None:
        self._path = path
        self._files = files

    def add(self, at: datetime, event: str, **facts: Any) -> None:
        """Adds a line; durable when this returns.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps({"at": at.isoformat(timespec="seconds"), "event": event, **facts})
        begun = self._unfinished()
        # A power cut may have left half a line; it stays as it is, on its own.
        self._files.append(self._path, (("\n" if begun else "") + line + "\n").encode())
        self._files.fsync(self._path)
        self._files.sync_folder(self._path.parent)

    def lines(self) -> list[Mapping[str, Any]]:
        """Every whole line; half ones are left out."""
        try:
            text = self._path.read_bytes().decode("utf-8", errors="replace")
        except OSError:
            return []
        found: list[Mapping[str, Any]] = []
        for line in text.splitlines():
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                found.append(document)
        return found

    def highest(self) -> Version | None:
        """The highest version that was ever made active, as far as the lines tell."""
        versions = []
        for line in self.lines():
            if line.get("event") == "activate":
                try:
                    versions.append(version_of(str(line.get("version"))))
                except BundleError:
                    continue
        return max(versions, default=None)

    def _unfinished(self) -> bool:
        try:
            with self._path.open("rb") as handle:
                if handle.seek(0, 2) == 0:
                    return False
                handle.seek(-1, 2)
                return handle.read(1) != b"\n"
        except OSError:
            return False


def _canonical(document: Any) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
