"""Built engines in one folder: found by what they were built from and for.

Owns names, records and checks of the files there. Does not own building (see ``builder``).

An engine belongs to one artifact, one compute capability (or several, where the library
builds for several), one library and release, one platform and one profile; all of these
make its key. ``<key>.engine`` is what the library wrote, ``<key>.json`` says what it is and
holds its SHA-256. The record is written last, so an engine without one is none. The check
finds damage and mix-ups; against a person who may write to the folder it protects nothing,
for such a person can change both.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform as machine_platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.clinic.atomic_file import prepare_folder, replacing
from edge_runtime.engines.builder import CellCounts
from edge_runtime.engines.layers import ConvolutionRow, EngineLayer
from edge_runtime.engines.tensorrt_api import FlavourName
from edge_runtime.errors import BackendError

FOLDER_VARIABLE = "LEUKOSCOPE_ENGINES"
# What chooses the folder on the command line.
_FLAG = "--engines"
_OWN_NAMES = re.compile(r"[0-9a-f]{32}\.(json|engine)|tensorrt(-rtx)?-.+-[0-9.+]+\.timing")
# What distinguishes a Jetson's libraries from a server's of the same processor.
_TEGRA_MARK = Path("etc/nv_tegra_release")


class EngineRecord(BaseModel):
    """What an engine is, kept beside it.

    Attributes:
        key: of the file names.
        flavour: the library.
        version: its release.
        platform: operating system and processor, as ``platform_here`` says it.
        capabilities: compute capabilities it was built for.
        artifact: path of the model in its bundle, or another word for it.
        artifact_sha256: of the ONNX bytes.
        cells: smallest, usual and largest number of cells.
        sha256: of the engine file.
        size: of the engine file, bytes.
        built_at: UTC, ISO 8601.
        seconds: how long it took.
        strongly_typed: whether the library was held to the graph's types.
        layers: of the engine; empty when nothing told them.
        layers_from: what told them, or why nothing did.
        convolutions: what became of each convolution of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=1, ge=1, le=1)
    key: str = Field(pattern=r"^[0-9a-f]{32}$")
    flavour: FlavourName
    version: str
    platform: str
    capabilities: tuple[str, ...] = Field(min_length=1)
    artifact: str
    artifact_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    cells: tuple[int, int, int]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    built_at: str
    seconds: float = Field(ge=0)
    strongly_typed: bool
    layers: tuple[EngineLayer, ...]
    layers_from: str
    convolutions: tuple[ConvolutionRow, ...]


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """All that an engine's key is made of."""

    flavour: FlavourName
    version: str
    platform: str
    capabilities: tuple[str, ...]
    artifact_sha256: str
    cells: CellCounts

    @property
    def key(self) -> str:
        """32 hex digits; the same for the same identity on every machine."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def platform_here(root: Path = Path("/"), processor: str | None = None) -> str:
    """Such as ``linux-x86_64`` or ``linux-aarch64-tegra``.

    Args:
        root: of the file system.
        processor: None means the one that runs this.
    """
    tegra = "-tegra" if (root / _TEGRA_MARK).exists() else ""
    return f"{sys.platform}-{processor or machine_platform.machine()}{tegra}"


def default_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where engines lie unless said otherwise.

    ``LEUKOSCOPE_ENGINES``, or ``leukoscope/engines`` in the user's cache folder.
    """
    given = os.environ if environment is None else environment
    named = given.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    cache = given.get("XDG_CACHE_HOME") or Path(given.get("HOME") or Path.home(), ".cache")
    return Path(cache, "leukoscope", "engines")


class EngineCache:
    """The engines in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def records(self) -> tuple[EngineRecord, ...]:
        """Of all engines, the newest last; unreadable records are left out."""
        found = [self._record(path) for path in self._files("*.json")]
        there = [record for record in found if record is not None]
        return tuple(sorted(there, key=lambda record: (record.built_at, record.key)))

    def unreadable(self) -> tuple[str, ...]:
        """Names of records that are none, and of engines without one."""
        bad = [path.name for path in self._files("*.json") if self._record(path) is None]
        bad += [
            path.name for path in self._files("*.engine") if not path.with_suffix(".json").is_file()
        ]
        return tuple(sorted(bad))

    def at(self, identity: EngineIdentity) -> EngineRecord | None:
        """The record of exactly this engine, or None."""
        return self._record(self.folder / f"{identity.key}.json")

    def serving(self, identity: EngineIdentity) -> EngineRecord | None:
        """An engine that runs what ``identity`` asks for.

        It may have been built for more compute capabilities than the ones asked for.
        """
        wanted = asdict(identity)
        for record in reversed(self.records()):
            have = asdict(_identity_of(record))
            able = set(wanted["capabilities"]) <= set(have["capabilities"])
            if able and {**have, "capabilities": ()} == {**wanted, "capabilities": ()}:
                return record
        return None

    def load(self, record: EngineRecord) -> bytes:
        """The engine's bytes, checked.

        Raises:
            BackendError: the file is missing or is not the one that was written.
        """
        path = self.folder / f"{record.key}.engine"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BackendError(
                f"engine {path}: {error.strerror}; run leukoscope engine build again"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != record.sha256:
            raise BackendError(
                f"engine {path}: altered (SHA-256 {found[:12]}…, its record says "
                f"{record.sha256[:12]}…); run leukoscope engine build again"
            )
        return content

    def store(self, record: EngineRecord, content: bytes) -> None:
        """Writes an engine, then its record.

        Raises:
            StoreError: the folder cannot be written.
        """
        prepare_folder(self.folder, flag=_FLAG)
        with replacing(self.folder / f"{record.key}.engine", flag=_FLAG) as file:
            file.write(content)
        with replacing(self.folder / f"{record.key}.json", flag=_FLAG) as file:
            file.write(record.model_dump_json(indent=1).encode() + b"\n")

    def timing_cache(self, name: str) -> bytes:
        """Kernel times of earlier builds, or nothing."""
        try:
            return self._timing_path(name).read_bytes()
        except OSError:
            return b""

    def store_timing_cache(self, name: str, content: bytes) -> None:
        """Keeps kernel times for the next build.

        Raises:
            StoreError: the folder cannot be written.
        """
        prepare_folder(self.folder, flag=_FLAG)
        with replacing(self._timing_path(name), flag=_FLAG) as file:
            file.write(content)

    def remove(self, keys: Sequence[str] | None = None) -> tuple[str, ...]:
        """Removes engines, by key or all; with all, kernel times and damaged files as well.

        Returns:
            Names of the removed files.

        Raises:
            BackendError: a file cannot be removed.
        """
        patterns = ("*.json", "*.engine", "*.timing")
        doomed = [path for pattern in patterns for path in self._files(pattern)]
        if keys is not None:
            doomed = [path for path in doomed if path.stem in keys and path.suffix != ".timing"]
        for path in doomed:
            try:
                path.unlink()
            except OSError as error:
                raise BackendError(
                    f"engine {path}: cannot be removed ({error.strerror})"
                ) from error
        return tuple(path.name for path in doomed)

    def _timing_path(self, name: str) -> Path:
        return self.folder / f"{name}.timing"

    def _files(self, pattern: str) -> list[Path]:
        # No other name is of the cache: a wrong --engines must not clear somebody's JSON files.
        found = self.folder.glob(pattern) if self.folder.is_dir() else ()
        return sorted(path for path in found if _OWN_NAMES.fullmatch(path.name))

    def _record(self, path: Path) -> EngineRecord | None:
        try:
            record = EngineRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        # A record under another's name would vouch for the wrong engine.
        same = record.key == path.stem == _identity_of(record).key
        return record if same else None


def _identity_of(record: EngineRecord) -> EngineIdentity:
    return EngineIdentity(
        record.flavour,
        record.version,
        record.platform,
        record.capabilities,
        record.artifact_sha256,
        CellCounts(*record.cells),
    )
