"""A model bundle: a manifest and files, verified before any of them is used.

Owns verification and reading. Does not own the manifest's fields (see ``manifest``), the two
forms a bundle comes in (``bundle_container``), keys and signatures (``signature``), running
a model (``backends``) nor writing bundles (``export.bundle_writer``).

A bundle is a folder, or one zip file with the same content. Every file is read once
into memory, hashed, and only those very bytes are handed on, so that nothing can be
exchanged between check and use. Where a signature counts, it is checked before the
manifest is parsed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edge_runtime.bundle_container import (
    LARGEST_BUNDLE_BYTES,
    LARGEST_SIGNATURES_BYTES,
    SIGNATURES_NAME,
    UNREADABLE,
    BundleReader,
    FolderReader,
    PlainZipReader,
    ZipReader,
)
from edge_runtime.errors import BundleError
from edge_runtime.manifest import (
    BUNDLE_SCHEMA,
    UNCLASSIFIED,
    Artifact,
    AttributeHeadSpec,
    BundledFile,
    CalibrationSummary,
    ClassifierSpec,
    CropInputSpec,
    Decode,
    DetectorSpec,
    DistanceKind,
    DomainSpec,
    FeatureMapSpec,
    GoldenSpec,
    GoldenTolerance,
    HeadName,
    InputSpec,
    Manifest,
    ModelCard,
    OutputSpec,
    ParityFigures,
    ParityRecord,
    Precision,
    Runtime,
    Thresholds,
    ValidatedDomain,
    WorkingScale,
)

if TYPE_CHECKING:
    from edge_runtime.signature import TrustedKeys

__all__ = [
    "BUNDLE_SCHEMA",
    "MANIFEST_NAME",
    "SIGNATURES_NAME",
    "UNCLASSIFIED",
    "Artifact",
    "AttributeHeadSpec",
    "Bundle",
    "BundledFile",
    "CalibrationSummary",
    "ClassifierSpec",
    "CropInputSpec",
    "Decode",
    "DetectorSpec",
    "DistanceKind",
    "DomainSpec",
    "FeatureMapSpec",
    "GoldenSpec",
    "GoldenTolerance",
    "HeadName",
    "InputSpec",
    "Manifest",
    "ModelCard",
    "OutputSpec",
    "ParityFigures",
    "ParityRecord",
    "Precision",
    "Runtime",
    "Thresholds",
    "ValidatedDomain",
    "WorkingScale",
    "open_bundle",
    "shipped_bundle_path",
]

MANIFEST_NAME = "manifest.json"
# A detector for these devices is a few MB; anything far beyond is not one of ours.
_LARGEST_FILE_BYTES = 512 * 1024 * 1024
_LARGEST_MANIFEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. Obtain one through ``open_bundle`` only.

    Attributes:
        manifest: the checked manifest.
        sha256: SHA-256 of the manifest bytes; pins every file through it.
        contents: the bytes of every file, exactly those that were hashed.
        manifest_bytes: those that were hashed, and that signatures are made over.
        signatures: the bytes of ``signatures.json``; None when there is none.
        signed_by: name and id of every trusted key whose signature was checked and counts;
            empty when nobody asked, or the bundle is unsigned.
    """

    manifest: Manifest
    sha256: str
    contents: dict[str, bytes]
    manifest_bytes: bytes
    signatures: bytes | None = None
    signed_by: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Name and version."""
        return f"{self.manifest.name}-{self.manifest.version}"

    @property
    def files(self) -> dict[str, bytes]:
        """Everything the bundle consists of, manifest and signatures included."""
        signed = {} if self.signatures is None else {SIGNATURES_NAME: self.signatures}
        return {MANIFEST_NAME: self.manifest_bytes, **signed, **self.contents}

    def artifact_for(
        self,
        runtime: Runtime,
        head: HeadName | None = None,
        precision: Precision | None = None,
    ) -> Artifact:
        """The first artifact made for a runtime family.

        Args:
            runtime: the family.
            head: of which head; None means the detector.
            precision: only one of that precision; float32 runs on any family.

        Raises:
            BundleError: the bundle has no such head, or none for that family and precision.
        """
        manifest = self.manifest
        parts = {
            None: manifest.detector,
            "classifier": manifest.classifier,
            "attribute_head": manifest.attribute_head,
        }
        part = parts[head]
        if part is None:
            raise BundleError(f"bundle {self.id}: it has no {head}")
        for artifact in part.artifacts:
            family = artifact.runtime == runtime or precision == artifact.precision == "float32"
            if family and precision in (None, artifact.precision):
                return artifact
        have = sorted({f"{each.runtime} {each.precision}" for each in part.artifacts})
        wanted = runtime if precision is None else f"{runtime} in {precision}"
        raise BundleError(
            f"bundle {self.id}: no {head or 'detector'} artifact for {wanted}; it has "
            f"{', '.join(have)}"
        )


def open_bundle(path: str | Path, *, trust: TrustedKeys | None = None) -> Bundle:
    """Reads and verifies a bundle folder or file.

    Args:
        path: folder or file.
        trust: keys of which one must have signed it. A file must then be laid out exactly
            as ``bundle_container.plain_zip`` does it. None checks hashes only.

    Raises:
        BundleError: it is missing, a file is missing, altered or not listed, the manifest
            does not fit the schema, or no signature counts.
    """
    place = Path(path)
    try:
        is_folder, is_file = place.is_dir(), place.is_file()
    except OSError as error:
        # A name too long for the system, or a folder above it that may not be entered.
        raise BundleError(
            f"bundle {place}: {error.strerror}; give --bundle a readable one"
        ) from error
    if is_folder:
        return _verify(place, FolderReader(place), trust)
    if not is_file:
        raise BundleError(f"bundle {place}: no such file or folder; give --bundle an existing one")
    if trust is not None:
        return _verify_plain(place, trust)
    try:
        archive = zipfile.ZipFile(place)
    except UNREADABLE as error:
        raise BundleError(
            f"bundle {place}: neither a folder nor a whole bundle file; copy it again"
        ) from error
    with archive:
        return _verify(place, ZipReader(place, archive), trust)


def shipped_bundle_path() -> Path:
    """Where the demonstration bundle lies in this installation."""
    return Path(__file__).parent / "demo_bundle"


def _verify_plain(place: Path, trust: TrustedKeys) -> Bundle:
    try:
        with place.open("rb") as handle:
            size = handle.seek(0, io.SEEK_END)
            return _verify(place, PlainZipReader(place, handle, size), trust)
    except OSError as error:
        raise BundleError(f"bundle {place}: {error.strerror}; copy the bundle again") from error


def _verify(place: Path, reader: BundleReader, trust: TrustedKeys | None) -> Bundle:
    signed_by: tuple[str, ...] = ()
    try:
        names = reader.names()
        raw = _small_file(place, reader, names, MANIFEST_NAME, _LARGEST_MANIFEST_BYTES)
        if raw is None:
            raise BundleError(f"bundle {place}: {MANIFEST_NAME} is missing; copy the bundle again")
        signatures = _small_file(place, reader, names, SIGNATURES_NAME, LARGEST_SIGNATURES_BYTES)
        if trust is not None:
            # Before a byte of the manifest is parsed.
            signed_by = trust.check_manifest(raw, signatures, where=f"bundle {place}")
        manifest = _parse_manifest(place, raw)
        if sum(each.size for each in manifest.files) > LARGEST_BUNDLE_BYTES:
            raise BundleError(
                f"bundle {place}: its files are larger than {LARGEST_BUNDLE_BYTES} bytes together; "
                "this is no bundle"
            )
        contents: dict[str, bytes] = {}
        for listed in manifest.files:
            contents[listed.path] = _checked_file(place, reader, names, listed)
    except UNREADABLE as error:
        raise BundleError(f"bundle {place}: unreadable ({error}); copy the bundle again") from error
    extra = sorted(names - set(contents) - {MANIFEST_NAME, SIGNATURES_NAME})
    if extra:
        raise BundleError(
            f"bundle {place}: {extra[0]!r} is not in the manifest; remove it or copy again"
        )
    for path in _named_files(manifest):
        if path not in contents:
            raise BundleError(f"bundle {place}: {path!r} is not among the manifest's files")
    if manifest.domain is not None:
        # Only bundles that have statistics load NumPy to look at them.
        from edge_runtime.domain_score import statistics_of

        statistics_of(manifest, contents, where=f"bundle {place}")
    digest = hashlib.sha256(raw).hexdigest()
    return Bundle(manifest, digest, contents, raw, signatures, signed_by)


def _small_file(
    place: Path, reader: BundleReader, names: set[str], name: str, largest: int
) -> bytes | None:
    if name not in names:
        return None
    if reader.size(name) > largest:
        raise BundleError(f"bundle {place}: {name} is too large to be one; copy the bundle again")
    return reader.read(name)


def _named_files(manifest: Manifest) -> list[str]:
    parts = (manifest.detector, manifest.classifier, manifest.attribute_head)
    paths = [each.path for part in parts if part is not None for each in part.artifacts]
    if manifest.domain is not None:
        paths.append(manifest.domain.statistics)
    if manifest.golden is not None:
        paths += [*manifest.golden.fields, manifest.golden.outputs]
    return paths if manifest.description is None else [*paths, manifest.description]


def _parse_manifest(place: Path, raw: bytes) -> Manifest:
    try:
        document: Any = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(
            f"bundle {place}: {MANIFEST_NAME} is not JSON ({error}); copy the bundle again"
        ) from error
    if isinstance(document, dict) and document.get("schema_version") != BUNDLE_SCHEMA:
        raise BundleError(
            f"bundle {place}: schema version {document.get('schema_version')!r}, this program "
            f"reads {BUNDLE_SCHEMA}; install the matching Leukoscope"
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(
            f"bundle {place}: {MANIFEST_NAME}: {where}: {first['msg']}; copy the bundle again"
        ) from error


def _checked_file(place: Path, reader: BundleReader, names: set[str], listed: BundledFile) -> bytes:
    pure = PurePosixPath(listed.path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in listed.path:
        raise BundleError(f"bundle {place}: file name {listed.path!r} leaves the bundle")
    if listed.path in (MANIFEST_NAME, SIGNATURES_NAME):
        raise BundleError(f"bundle {place}: {listed.path} cannot list itself; make it again")
    if listed.path not in names:
        raise BundleError(f"bundle {place}: {listed.path!r} is missing; copy the bundle again")
    size = reader.size(listed.path)
    if size != listed.size or size > _LARGEST_FILE_BYTES:
        raise BundleError(
            f"bundle {place}: {listed.path!r} has {size} bytes, the manifest says {listed.size}; "
            "copy the bundle again"
        )
    content = reader.read(listed.path)
    found = hashlib.sha256(content).hexdigest()
    if found != listed.sha256:
        raise BundleError(
            f"bundle {place}: {listed.path!r} was altered (SHA-256 {found[:12]}…, expected "
            f"{listed.sha256[:12]}…); copy the bundle again"
        )
    return content
