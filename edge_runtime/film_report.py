"""``film.json``: the stable, published record of one examined film.

Owns the document's fields and its schema version. Does not own how it is shown
(see ``clinic.report``) nor the in-memory types of the pipeline (see ``types``).
Later versions add fields; a field never changes its meaning within a major version.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.5"
RESEARCH_USE = "For research use only. Not for use in diagnostic procedures."

FilmState = Literal["complete", "interrupted"]


class _Record(BaseModel):
    # Built on first use: a film's first result should not wait for its last page.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class BundleRecord(_Record):
    """Which model bundle looked at the film."""

    id: str = Field(description="name and version, e.g. wbc-demo-1.0.0")
    sha256: str = Field(description="SHA-256 of the manifest, which holds every file's SHA-256")
    signed_by: list[str] = Field(
        default_factory=list,
        description="trusted keys whose signatures were checked; empty when none was asked for",
    )


class BackendRecord(_Record):
    """What really ran, as the backend itself reports it after loading the model."""

    name: str = Field(description="onnxruntime, openvino, ...")
    version: str
    device: str = Field(description="execution provider or device, e.g. CPUExecutionProvider")
    precision: str = Field(description="precision of the artifact that ran, e.g. int8")
    artifact: str = Field(description="file inside the bundle")
    threads: int = Field(description="concurrent inference calls times threads of each")


class FieldPlaceRecord(_Record):
    """Where a field lies on the film, in frame pixels, right and down."""

    fragment: int = Field(
        description="part of the film whose coordinates these are; how parts lie to each other is "
        "not known"
    )
    x: float = Field(description="of the field's upper left corner")
    y: float


class FieldRecord(_Record):
    """One field of view, in the order in which the camera gave it."""

    index: int
    name: str
    width: int | None = Field(description="pixels; null when the field could not be read")
    height: int | None = Field(description="pixels; null when the field could not be read")
    skipped: bool
    reason: str | None = Field(description="why it was skipped; null otherwise")
    cells: int = Field(description="white cells found")
    tiles: int = Field(description="windows the detector looked at; 0 when skipped")
    domain_score: float | None = Field(
        default=None, description="as domain.score, of this field; null when not assessed"
    )
    age_ms: float | None = Field(
        default=None, description="from capture to result; null when the camera is not live"
    )
    place: FieldPlaceRecord | None = Field(
        default=None, description="null without a mosaic, and where nobody knows"
    )
    lost: str | None = Field(
        default=None,
        description="why nobody knows the place of this field, whose cells are not counted; null "
        "otherwise",
    )
    frames: int = Field(
        default=1,
        description="how many frames of a live camera a skipped field stands for, refused for the "
        "same reason with no examined field between them; index, name and reason are the first's",
    )


class AttributeRecord(_Record):
    """What the attribute head says of one attribute of one cell."""

    value: str
    probability: float = Field(ge=0, le=1)


class CellPlaceRecord(_Record):
    """Which cell of the film this is, and where it lies, as the mosaic has it."""

    cell: int = Field(description="number of the cell on its film")
    number: int = Field(description="of this find among all of its field, from 1")
    fragment: int = Field(description="as of a field's place")
    x: float = Field(description="of the middle of its box on the film, frame pixels")
    y: float
    sightings: int = Field(description="how often it was found")


class CellRecord(_Record):
    """One found white cell; with a mosaic each cell of the film once, as in its best look."""

    field: int = Field(description="index of its field")
    box_xyxy: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2 in pixels of the original field"
    )
    score: float = Field(ge=0, le=1)
    class_name: str = Field(
        description="the classifier's class, or unclassified; the detector's without a classifier"
    )
    best_class: str | None = Field(
        default=None, description="most probable class, also of an unclassified cell"
    )
    class_probability: float | None = Field(
        default=None, ge=0, le=1, description="of best_class; null without a classifier"
    )
    class_probabilities: dict[str, float] | None = Field(
        default=None, description="of every class; null without a classifier"
    )
    attributes: dict[str, AttributeRecord | None] | None = Field(
        default=None,
        description="by name, null where not judged; null without an attribute head",
    )
    place: CellPlaceRecord | None = Field(default=None, description="null without a mosaic")


class UncountedRecord(_Record):
    """A find that is not counted: a repeat, or in a field of which nobody knows the place."""

    field: int = Field(description="index of its field")
    number: int = Field(description="among all finds of its field, from 1")
    box_xyxy: tuple[float, float, float, float] = Field(description="as of a cell")
    score: float = Field(ge=0, le=1)
    class_name: str
    cell: int | None = Field(
        description="the film's cell that it repeats; null when its field has no place"
    )


class TotalsRecord(_Record):
    """Counts over the film."""

    fields: int = Field(description="examined fields, without skipped ones")
    fields_skipped: int = Field(description="every refused frame of a live camera is one")
    cells: int
    cells_by_class: dict[str, int] = Field(description="by class_name, unclassified ones too")


class StageTiming(_Record):
    """Wall time of one stage per field, in milliseconds."""

    stage: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class ModelCardSummary(_Record):
    """What a reader of the report should know of the model, from the bundle."""

    title: str
    summary: str
    limits: list[str]
    licence: str
    metrics: dict[str, dict[str, float]] = Field(
        description="per evaluation domain: metric name to value"
    )


class ClassifierRecord(_Record):
    """The classifier that named the cells."""

    architecture: str
    backend: BackendRecord
    classes: list[str]
    abstain_below: float = Field(
        description="a cell whose best class is less probable is unclassified"
    )
    outside_differential: list[str] = Field(
        description="classes counted beside the white cells of the differential"
    )


class AttributeHeadRecord(_Record):
    """The attribute head that described the cells."""

    architecture: str
    backend: BackendRecord
    schema_name: str
    attributes: dict[str, list[str]] = Field(description="every attribute and its values")
    not_for_classes: list[str] = Field(description="cells of these classes are not described")


class ClassShareRecord(_Record):
    """One class of the differential."""

    class_name: str
    count: int
    percent: float | None = Field(description="of the differential's total; null without a cell")
    low_percent: float = Field(description="exact interval, lower end")
    high_percent: float = Field(description="exact interval, upper end")


class DifferentialRecord(_Record):
    """Counts per class, each share with an exact binomial interval.

    The intervals hold for cells drawn at random and named without error: what the classifier
    gets wrong is not in them.
    """

    total: int = Field(description="cells of all classes that count")
    confidence: float = Field(description="of each interval by itself, e.g. 0.95")
    classes: list[ClassShareRecord]
    outside: dict[str, int] = Field(description="classes counted beside the differential")
    unclassified: int = Field(description="cells without a sure class; not in the total")


class VoteRecord(_Record):
    """The most frequent answer to one question, and the numbers it rests on."""

    subject: str = Field(description="type, or an attribute's name")
    answer: str | None = Field(description="null when not assessable")
    votes: int = Field(description="cells that gave the most frequent answer")
    of: int = Field(description="cells that gave any answer")
    needed: int = Field(description="cells that had to give one")
    tied: bool = Field(description="another answer is as frequent; the first one is named")
    not_assessable: str | None = Field(description="why not; null when assessable")


class TypeCountsRecord(_Record):
    """One cell type's share of the film."""

    class_name: str
    outside: bool = Field(description="counted beside the white cells; it does not vote")
    cells: int
    attributes: dict[str, dict[str, int]] = Field(description="cells by attribute and value")


class MorphologyRecord(_Record):
    """What the cells of the film show, counted and put to the vote."""

    minimum_score: float = Field(description="cells of a lower score are left out")
    cells: int = Field(description="cells that count")
    outside: int = Field(description="cells of classes outside the differential")
    unclassified: int
    below_score: int
    types: list[TypeCountsRecord]
    dominant: VoteRecord = Field(description="vote on the cell type")
    attributes: list[VoteRecord] = Field(description="votes within the most frequent type")


class DescriptionRecord(_Record):
    """The film in a few sentences, filled into a template from the votes."""

    template: str
    sentences: list[str]
    text: str = Field(description="the sentences, one a line")


class DomainRecord(_Record):
    """Whether the film looks like those on which the bundle's figures were measured.

    It says nothing of how many cells were missed or named wrong.
    """

    score: float | None = Field(
        description="median over the fields of the distance to the nearest validated domain, in "
        "units of that domain's border; null without an examined field"
    )
    threshold: float = Field(description="a film of a higher score is outside")
    outside: bool | None = Field(description="null without an examined field")
    nearest: str | None = Field(description="domain that most fields are nearest to")
    fields_outside: int = Field(description="examined fields whose own score is above threshold")
    distance: str = Field(description="mahalanobis or standardised_euclidean")
    quantile: float = Field(description="share of held-out fields of a domain inside its border")
    domains: list[str] = Field(description="the validated domains")


class CameraSessionRecord(_Record):
    """What a live camera was really set to."""

    driver: str
    device: str
    width: int
    height: int
    pixel_format: str = Field(description="as it comes from the device, e.g. MJPG")
    fps: float | None = Field(description="as the device states it")
    exposure_ms: float | None = Field(description="null when the device does not tell, as the next")
    gain: float | None = Field(description="in the device's own units")
    white_balance_k: float | None
    colour_gains: tuple[float, float] | None = Field(description="of red and blue")
    locked: list[str] = Field(description="of exposure, gain, white_balance, focus: what stays")
    not_locked: dict[str, str] = Field(description="what may change during the film, and why")
    clock: str = Field(
        description="what tells when a picture was captured: driver, sensor, or arrival (ages then "
        "lack the time that a picture took to come)"
    )


class CameraGapRecord(_Record):
    """A time in which a live camera gave no picture."""

    at_s: float = Field(description="since the film's start; negative when it began before")
    seconds: float = Field(description="until the next picture, or the film's end")
    reason: str


class FrameAgeRecord(_Record):
    """Age of the examined fields in milliseconds, from capture to result."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    most_ms: float


class LiveRecord(_Record):
    """What only a live camera has to tell."""

    sessions: list[CameraSessionRecord] = Field(
        description="one for each time the settings changed; normally one"
    )
    frames_passed_over: int = Field(description="pictures not examined, as newer ones had come")
    frame_age: FrameAgeRecord | None = Field(description="null without an examined field")
    gaps: list[CameraGapRecord]


class GateRecord(_Record):
    """Which fields were refused before they were examined."""

    profile: str | None = Field(
        description="name of the camera's profile; null when nobody has set the camera up, and the "
        "limits are those that suit no camera well"
    )
    profile_made_at: str | None = Field(description="ISO 8601 with offset")
    limits: dict[str, float]
    judged: int = Field(description="frames of the camera")
    refused: dict[str, int] = Field(description="by what was wrong with them")


class MosaicRecord(_Record):
    """How the fields were put together, so that each cell counts once."""

    fields: int = Field(description="examined fields")
    fields_placed: int = Field(description="those with a place")
    lost: dict[str, int] = Field(description="fields without one, by the reason's first word")
    cells: int = Field(description="of the film, each once")
    cells_apart: int = Field(
        description="of these, cells in fragments other than the largest: some may be counted twice"
    )
    fragments: int = Field(description="parts of which nobody knows how they lie to each other")
    finds_without_place: int = Field(description="finds in lost fields; not counted")
    repeats: int = Field(description="finds that showed a cell again; not counted")
    pixel_size_um: float | None = Field(description="µm per frame pixel; null when unknown")


class TallyRecord(_Record):
    """How far the count came."""

    cells: int = Field(description="cells of the differential")
    tier: int | None = Field(description="highest of 100, 200 and 400 reached; null below")
    next_tier: int | None = Field(description="null from the last on")
    cells_to_next: int
    blasts: int = Field(description="cells named a blast of any kind")
    blast_classes: list[str]


class CorrectedShareRecord(_Record):
    """The share of blasts, corrected for the classifier's measured confusion."""

    percent: float
    low_percent: float
    high_percent: float
    at_least_threshold: float = Field(description="posterior probability of that")


class ScreeningRecord(_Record):
    """What the stop rule said at the film's end, of the classes that the model gave.

    It says when to stop scanning, never what a patient has.
    """

    state: str = Field(
        description="enough: below, enough: above, keep scanning, unsettled or abstains"
    )
    text: str = Field(description="one line for the operator")
    threshold_percent: float
    confidence: float
    cells: int = Field(description="white cells, unclassified ones too")
    named: int = Field(description="those named blasts")
    why: str | None = Field(description="why it abstains; null otherwise")
    more_cells: int = Field(description="about how many more are needed; 0 when enough")
    may_settle: bool
    corrected: CorrectedShareRecord | None = Field(description="null when it abstains")
    domain_assessed: bool


class FilmReport(_Record):
    """The whole record of one film."""

    schema_version: str = SCHEMA_VERSION
    research_use: str = RESEARCH_USE
    state: FilmState
    source: str
    started_at: str = Field(description="ISO 8601 with offset")
    duration_s: float
    leukoscope_version: str
    bundle: BundleRecord
    backend: BackendRecord
    model_card: ModelCardSummary
    settings: dict[str, Any] = Field(description="every setting in force, with its value")
    fields: list[FieldRecord]
    cells: list[CellRecord]
    totals: TotalsRecord
    timings: list[StageTiming]
    classifier: ClassifierRecord | None = Field(default=None, description="null without one")
    attribute_head: AttributeHeadRecord | None = Field(default=None, description="null without one")
    head_cards: dict[str, ModelCardSummary] = Field(
        default_factory=dict, description="of the classifier and the attribute head"
    )
    differential: DifferentialRecord | None = Field(
        default=None, description="null without a classifier"
    )
    morphology: MorphologyRecord | None = Field(
        default=None, description="null when the bundle neither names nor describes cells"
    )
    description: DescriptionRecord | None = Field(
        default=None, description="null when there is no morphology"
    )
    domain: DomainRecord | None = Field(
        default=None, description="null when the bundle has no statistics: not assessed"
    )
    live: LiveRecord | None = Field(default=None, description="null when the camera is not live")
    gate: GateRecord | None = Field(default=None, description="null when no field was judged")
    mosaic: MosaicRecord | None = Field(
        default=None, description="null when fields were not put together: every find counts"
    )
    not_counted: list[UncountedRecord] = Field(
        default_factory=list, description="empty without a mosaic"
    )
    tally: TallyRecord | None = Field(default=None, description="null when nobody was guided")
    screening: ScreeningRecord | None = Field(
        default=None, description="null when nobody was guided, or without a classifier"
    )


def film_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``film.json``, as published under ``docs/reference``."""
    schema = FilmReport.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"Leukoscope film report {SCHEMA_VERSION}"
    return schema


def film_json_schema_text() -> str:
    """The published schema file, byte for byte."""
    return json.dumps(film_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    # python -m edge_runtime.film_report > docs/reference/film.schema.json
    print(film_json_schema_text(), end="")
