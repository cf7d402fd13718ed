"""A model bundle: a manifest and files, verified before any of them is used.

Owns the manifest's fields, verification and reading. It is the one place that knows
preprocessing, class list, thresholds and tensor names. Does not own running a model
(see ``backends``) nor writing bundles (see ``export.bundle_writer``).

A bundle is a folder, or one zip file with the same content. Every file is read once
into memory, hashed, and only those very bytes are handed on, so that nothing can be
exchanged between check and use.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from edge_runtime.attributes import AttributeSchema
from edge_runtime.errors import BundleError

MANIFEST_NAME = "manifest.json"
BUNDLE_SCHEMA = 1
# What a cell is called that no class of the classifier is probable enough for.
UNCLASSIFIED = "unclassified"
# A detector for these devices is a few MB; anything far beyond is not one of ours.
_LARGEST_FILE_BYTES = 512 * 1024 * 1024
_LARGEST_MANIFEST_BYTES = 4 * 1024 * 1024

# What the readers raise on a damaged archive; zipfile lets its decoders' own errors through.
_UNREADABLE = (
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

Runtime = Literal["cpu", "tensorrt"]
Precision = Literal["float32", "float16", "int8"]
HeadName = Literal["classifier", "attribute_head"]
Decode = Literal["xywh_scores", "xyxy_score_class"]
DistanceKind = Literal["mahalanobis", "standardised_euclidean"]


class _Part(BaseModel):
    # JSON as Python reads it knows NaN and Infinity; no field here means anything with them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BundledFile(_Part):
    """One file of the bundle."""

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class InputSpec(_Part):
    """How a frame becomes the model's input tensor."""

    name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    colour: Literal["RGB"] = "RGB"
    layout: Literal["NCHW"] = "NCHW"
    scale: float = Field(description="pixel value times this is the tensor value")
    pad_value: int = Field(ge=0, le=255, description="grey around a fitted field")


class OutputSpec(_Part):
    """What the model's output tensor means."""

    name: str
    decode: Decode = Field(
        description="xywh_scores: (1, 4 + classes, anchors), centre x, y, width, height in input "
        "pixels, scores; xyxy_score_class: (1, finds, 6), corners in input pixels, score, class, "
        "of a head that names every cell once"
    )


class Thresholds(_Part):
    """The operating point the bundle was measured at."""

    score: float = Field(ge=0, le=1)
    nms_iou: float = Field(gt=0, le=1)
    max_cells: int = Field(gt=0)


class WorkingScale(_Part):
    """At which size, in input pixels, cells are found best.

    A field whose cells appear smaller than ``min_cell_px`` when fitted to the input is
    looked at again through overlapping windows in which they are ``cell_px`` wide.
    """

    cell_px: float = Field(gt=0)
    min_cell_px: float = Field(gt=0)
    cell_um: float = Field(gt=0, description="typical white cell, for cameras of known scale")
    probe_score: float = Field(ge=0, le=1, description="score of finds that may set the scale")
    max_windows: int = Field(gt=0)


class Artifact(_Part):
    """One file that a backend can run."""

    path: str
    runtime: Runtime
    precision: Precision
    quantisation: str = Field(description="how the numbers were made, in one line")


class FeatureMapSpec(_Part):
    """An early feature map that the detector puts out beside its finds.

    Its tensor is float32 ``(1, channels, input height / stride, input width / stride)``.
    """

    name: str
    channels: int = Field(gt=0)
    stride: int = Field(gt=0)


def _check_classes(classes: tuple[str, ...]) -> None:
    if len(set(classes)) != len(classes):
        raise ValueError("a class is listed twice")
    if not all(name.strip() for name in classes):
        raise ValueError("a class has no name")


class DetectorSpec(_Part):
    """The white-cell detector."""

    architecture: str
    classes: tuple[str, ...] = Field(min_length=1)
    input: InputSpec
    output: OutputSpec
    feature_maps: tuple[FeatureMapSpec, ...] = ()
    thresholds: Thresholds
    working_scale: WorkingScale
    artifacts: tuple[Artifact, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        _check_classes(self.classes)
        return self


class CropInputSpec(_Part):
    """How a found cell becomes one picture of the classifier's input batch.

    The crop is a square around the box's centre, its side the box's longer side times
    ``1 + 2 * margin`` plus ``2 * margin_px``, cut from the frame's own pixels and resized;
    what lies outside the frame is ``pad_value``.
    """

    name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    colour: Literal["RGB"] = "RGB"
    layout: Literal["NCHW"] = "NCHW"
    scale: float = Field(description="pixel value times this is the tensor value")
    pad_value: int = Field(ge=0, le=255)
    margin: float = Field(ge=0, description="share of the box's longer side, each side")
    margin_px: float = Field(default=0, ge=0, description="frame pixels, each side")


class ClassifierSpec(_Part):
    """Names cells from their crops.

    Its output is float32 ``(n, classes)``, logits; probabilities are the softmax of the
    logits divided by ``temperature``.
    """

    architecture: str
    classes: tuple[str, ...] = Field(min_length=2)
    input: CropInputSpec
    output: str
    # Far below any fitted one; logits divided by less could leave the numbers.
    temperature: float = Field(default=1.0, ge=1e-3)
    abstain_below: float = Field(
        ge=0, le=1, description="cells whose best class is less probable stay unclassified"
    )
    outside_differential: tuple[str, ...] = Field(
        default=(),
        description="classes counted beside the white cells, such as erythroblasts or artefacts",
    )
    blasts: tuple[str, ...] = Field(
        default=(), description="classes that count as blasts; their recall has its own gate"
    )
    artifacts: tuple[Artifact, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        _check_classes(self.classes)
        if UNCLASSIFIED in self.classes:
            raise ValueError(f"{UNCLASSIFIED!r} is what cells without a class are called")
        for key in ("outside_differential", "blasts"):
            unknown = set(getattr(self, key)) - set(self.classes)
            if unknown:
                raise ValueError(f"{key}: {min(unknown)!r} is no class")
        both = set(self.blasts) & set(self.outside_differential)
        if both:
            raise ValueError(f"{min(both)!r} cannot be a blast and outside the differential")
        return self


class AttributeHeadSpec(_Part):
    """Describes cells from the detector's feature maps.

    Its inputs are those of the detector's feature maps that it ``reads``, under the same
    names, and ``boxes``: float32 ``(n, 4)``, corners in pixels of the detector's input. Its
    output is float32 ``(n, logits)``. With outputs ``per_value`` there is one logit for each
    value of each attribute, in the schema's order. Trained each by itself (``sigmoid``), an
    attribute's probabilities are the sigmoids of its values over their sum; trained against
    each other (``softmax``), they are the values' softmax. With ``per_attribute``, for
    attributes of two values, there is one logit each, whose sigmoid is the second value's.
    """

    architecture: str
    attributes: AttributeSchema
    outputs: Literal["per_value", "per_attribute"] = "per_value"
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    reads: tuple[str, ...] = Field(min_length=1)
    boxes: str
    output: str
    not_for_classes: tuple[str, ...] = Field(
        default=(),
        description="classifier's classes that training had no attributes of: shown without",
    )
    artifacts: tuple[Artifact, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _outputs_fit(self) -> Self:
        if self.outputs == "per_attribute":
            for each in self.attributes.attributes:
                if len(each.values) != 2:
                    raise ValueError(
                        f"attribute {each.name!r} has {len(each.values)} values, "
                        "one output per attribute needs two"
                    )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Logits per attribute."""
        if self.outputs == "per_attribute":
            return (1,) * len(self.attributes.attributes)
        return self.attributes.widths


class ValidatedDomain(_Part):
    """One kind of film on which the bundle's figures were shown to hold.

    Its mean, spread and whitening matrix are in the statistics file.
    """

    name: str = Field(min_length=1)
    training_fields: int = Field(gt=1)
    validation_fields: int = Field(gt=0)
    shrinkage: float = Field(ge=0, le=1, description="weight of the diagonal in the covariance")
    borders: dict[DistanceKind, float] = Field(
        description="distance within which its held-out fields lie, but for 1 - quantile of them"
    )

    @model_validator(mode="after")
    def _borders_usable(self) -> Self:
        bad = [kind for kind, border in self.borders.items() if border <= 0]
        if bad:
            raise ValueError(f"domain {self.name!r}: the border of {bad[0]} is not above 0")
        return self


class DomainSpec(_Part):
    """How far a field may look from the films the bundle was validated on.

    A field's vector is the mean and the standard deviation of every channel of the feature
    maps it ``reads``, over the part of the whole view that shows the field. Its score is the
    least, over the domains, of its distance to a domain divided by that domain's border; a
    film's score is the median of its fields'. Above ``threshold`` either is outside.
    """

    reads: tuple[str, ...] = Field(min_length=1)
    pooling: Literal["mean_std"] = "mean_std"
    statistics: str = Field(description="file, float32; see domain_score.DomainStatistics")
    distance: DistanceKind = "mahalanobis"
    threshold: float = Field(default=1.0, gt=0)
    quantile: float = Field(gt=0, lt=1, description="share of held-out fields inside a border")
    fitted_on: str = Field(description="artifact whose maps gave means and covariances")
    borders_hold_for: tuple[str, ...] = Field(
        min_length=1, description="artifacts whose maps were inside at the stated quantile"
    )
    domains: tuple[ValidatedDomain, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _domains_usable(self) -> Self:
        names = [each.name for each in self.domains]
        if len(set(names)) != len(names):
            raise ValueError("a domain is listed twice")
        if len(set(self.reads)) != len(self.reads):
            raise ValueError("a feature map is read twice")
        for each in self.domains:
            if self.distance not in each.borders:
                raise ValueError(f"domain {each.name!r} has no border of {self.distance}")
        return self


class CalibrationSummary(_Part):
    """Which pictures set the int8 ranges."""

    digest: str
    images: int
    domains: dict[str, int]
    method: str


class ParityFigures(_Part):
    """One figure of one domain, in float and after rounding, 0..1."""

    float_figure: float = Field(ge=0, le=1)
    rounded_figure: float = Field(ge=0, le=1)


class ParityRecord(_Part):
    """What an artifact lost to rounding against float, as the export measured it."""

    artifact: str
    backend: str = Field(description="what ran it")
    figure: str = Field(description="AP50-95, macro-F1 or blast recall")
    allowed_points: float = Field(ge=0, description="a domain may lose so much; 1 point = 0.01")
    domains: dict[str, ParityFigures] = Field(min_length=1)


class ModelCard(_Part):
    """What people should know of the model."""

    title: str
    summary: str
    limits: tuple[str, ...]
    licence: str
    training_data: tuple[str, ...]
    metrics: dict[str, dict[str, float]] = Field(
        description="per evaluation domain, of the artifact the metrics name"
    )
    metrics_of: str = Field(description="artifact, machine and date of the metrics")


class Manifest(_Part):
    """Everything a device must know of a bundle, and the hash of every file."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    research_use: str
    files: tuple[BundledFile, ...]
    detector: DetectorSpec
    classifier: ClassifierSpec | None = None
    attribute_head: AttributeHeadSpec | None = None
    description: str | None = Field(
        default=None, description="file with the film description's sentences, TOML"
    )
    domain: DomainSpec | None = Field(
        default=None, description="which films the figures hold for, by how they look"
    )
    calibration: CalibrationSummary
    parity: tuple[ParityRecord, ...] = Field(
        default=(), description="verdicts of the accuracy gate that it was written under"
    )
    model_card: ModelCard
    head_cards: dict[HeadName, ModelCard] = Field(
        default_factory=dict, description="of the classifier and the attribute head"
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        head = self.attribute_head
        given = {each.name for each in self.detector.feature_maps}
        if self.domain is not None:
            absent = [name for name in self.domain.reads if name not in given]
            if absent:
                raise ValueError(f"domain reads {absent[0]!r}, which the detector does not put out")
        if head is not None:
            strange = [name for name in head.reads if name not in given]
            if strange:
                raise ValueError(
                    f"attribute_head reads {strange[0]!r}, which the detector does not put out"
                )
            if self.classifier is not None:
                unknown = set(head.not_for_classes) - set(self.classifier.classes)
                if unknown:
                    raise ValueError(
                        f"attribute_head is not for {min(unknown)!r}, which is no class"
                    )
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. Obtain one through ``open_bundle`` only.

    Attributes:
        manifest: the checked manifest.
        sha256: SHA-256 of the manifest bytes; pins every file through it.
        contents: the bytes of every file, exactly those that were hashed.
    """

    manifest: Manifest
    sha256: str
    contents: dict[str, bytes]

    @property
    def id(self) -> str:
        """Name and version."""
        return f"{self.manifest.name}-{self.manifest.version}"

    def artifact_for(self, runtime: Runtime, head: HeadName | None = None) -> Artifact:
        """The first artifact made for a runtime family.

        Args:
            runtime: the family.
            head: of which head; None means the detector.

        Raises:
            BundleError: the bundle has no such head, or none for that family.
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
            if artifact.runtime == runtime:
                return artifact
        have = sorted({a.runtime for a in part.artifacts})
        raise BundleError(
            f"bundle {self.id}: no {head or 'detector'} artifact for {runtime}; it has {have}"
        )


def open_bundle(path: str | Path) -> Bundle:
    """Reads and verifies a bundle folder or file.

    Raises:
        BundleError: it is missing, a file is missing, altered or not listed, or the
            manifest does not fit the schema.
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
        return _verify(place, _FolderReader(place))
    if is_file:
        try:
            archive = zipfile.ZipFile(place)
        except _UNREADABLE as error:
            raise BundleError(
                f"bundle {place}: neither a folder nor a whole bundle file; copy it again"
            ) from error
        with archive:
            return _verify(place, _ZipReader(place, archive))
    raise BundleError(f"bundle {place}: no such file or folder; give --bundle an existing one")


def shipped_bundle_path() -> Path:
    """Where the demonstration bundle lies in this installation."""
    return Path(__file__).parent / "demo_bundle"


class _FolderReader:
    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> set[str]:
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
        return (self._root / name).stat().st_size

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()


class _ZipReader:
    def __init__(self, place: Path, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        # Not is_dir(): it fails on the empty name that a damaged archive can hold.
        entries = [e for e in archive.infolist() if not e.filename.endswith("/")]
        self._sizes = {e.filename: e.file_size for e in entries}
        if len(self._sizes) != len(entries):
            raise BundleError(f"bundle {place}: a file name occurs twice; make the bundle again")

    def names(self) -> set[str]:
        return set(self._sizes)

    def size(self, name: str) -> int:
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        with self._archive.open(name) as handle:
            return handle.read(self._sizes[name] + 1)


def _verify(place: Path, reader: _FolderReader | _ZipReader) -> Bundle:
    try:
        names = reader.names()
        if MANIFEST_NAME not in names:
            raise BundleError(f"bundle {place}: {MANIFEST_NAME} is missing; copy the bundle again")
        if reader.size(MANIFEST_NAME) > _LARGEST_MANIFEST_BYTES:
            raise BundleError(f"bundle {place}: {MANIFEST_NAME} is too large to be one")
        raw = reader.read(MANIFEST_NAME)
        manifest = _parse_manifest(place, raw)
        contents: dict[str, bytes] = {}
        for listed in manifest.files:
            contents[listed.path] = _checked_file(place, reader, names, listed)
    except _UNREADABLE as error:
        raise BundleError(f"bundle {place}: unreadable ({error}); copy the bundle again") from error
    extra = sorted(names - set(contents) - {MANIFEST_NAME})
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
    return Bundle(manifest, hashlib.sha256(raw).hexdigest(), contents)


def _named_files(manifest: Manifest) -> list[str]:
    parts = (manifest.detector, manifest.classifier, manifest.attribute_head)
    paths = [each.path for part in parts if part is not None for each in part.artifacts]
    if manifest.domain is not None:
        paths.append(manifest.domain.statistics)
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


def _checked_file(
    place: Path, reader: _FolderReader | _ZipReader, names: set[str], listed: BundledFile
) -> bytes:
    pure = PurePosixPath(listed.path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in listed.path:
        raise BundleError(f"bundle {place}: file name {listed.path!r} leaves the bundle")
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
