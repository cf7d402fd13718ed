"""What a bundle's manifest says: preprocessing, classes, thresholds, tensor names, files.

Owns the manifest's fields and what must hold between them. Does not own reading and
verifying a bundle (see ``bundle``, which hands these names on) nor writing one (see
``export.bundle_writer``).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from edge_runtime.attributes import AttributeSchema

BUNDLE_SCHEMA = 1
# Three numbers that compare; a device takes nothing else.
VERSION_PATTERN = r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$"
# What a cell is called that no class of the classifier is probable enough for.
UNCLASSIFIED = "unclassified"

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


class GoldenTolerance(_Part):
    """How far the answers of a self-test may lie from the kept ones."""

    box_iou: float = Field(gt=0, le=1, description="least overlap of a cell with the kept one")
    score: float = Field(ge=0, lt=1, description="of the detector's scores, up or down")
    probability: float = Field(ge=0, lt=1, description="of classes and attributes, up or down")


class GoldenSpec(_Part):
    """Drawn fields and what the artifacts said of them when the bundle was made.

    A device runs the same fields and compares, before it lets a bundle work.
    """

    fields: tuple[str, ...] = Field(min_length=1, description="files, pictures")
    pixel_size_um: float | None = Field(default=None, gt=0, description="of all fields")
    outputs: str = Field(description="file, JSON; see golden.GoldenOutputs")
    same_runtime: GoldenTolerance = Field(description="for the runtime that gave the outputs")
    other_runtime: GoldenTolerance

    @model_validator(mode="after")
    def _listed_once(self) -> Self:
        if len(set(self.fields)) != len(self.fields):
            raise ValueError("a field is listed twice")
        return self


class Manifest(_Part):
    """Everything a device must know of a bundle, and the hash of every file."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(pattern=VERSION_PATTERN)
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
    golden: GoldenSpec | None = Field(
        default=None, description="what a device's self-test compares with"
    )
    calibration: CalibrationSummary
    parity: tuple[ParityRecord, ...] = Field(
        default=(), description="verdicts of the accuracy gate that it was written under"
    )
    model_card: ModelCard
    head_cards: dict[HeadName, ModelCard] = Field(
        default_factory=dict, description="of the classifier and the attribute head"
    )

    @property
    def heads(self) -> tuple[HeadName | None, ...]:
        """What the bundle has models of: None is the detector, then its other heads."""
        there: dict[HeadName, object] = {
            "attribute_head": self.attribute_head,
            "classifier": self.classifier,
        }
        return (None, *(name for name, spec in there.items() if spec is not None))

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
