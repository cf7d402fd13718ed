"""``film.json``: the stable, published record of one examined film.

Owns the document's fields and its schema version. Does not own how it is shown
(see ``clinic.report``) nor the in-memory types of the pipeline (see ``types``).
Later versions add fields; a field never changes its meaning within a major version.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.0"
RESEARCH_USE = "For research use only. Not for use in diagnostic procedures."

FilmState = Literal["complete", "interrupted"]


class _Record(BaseModel):
    # Built on first use: a film's first result should not wait for its last page.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class BundleRecord(_Record):
    """Which model bundle looked at the film."""

    id: str = Field(description="name and version, e.g. wbc-demo-1.0.0")
    sha256: str = Field(description="SHA-256 of the manifest, which holds every file's SHA-256")


class BackendRecord(_Record):
    """What really ran, as the backend itself reports it after loading the model."""

    name: str = Field(description="onnxruntime, openvino, ...")
    version: str
    device: str = Field(description="execution provider or device, e.g. CPUExecutionProvider")
    precision: str = Field(description="precision of the artifact that ran, e.g. int8")
    artifact: str = Field(description="file inside the bundle")
    threads: int = Field(description="concurrent inference calls times threads of each")


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


class CellRecord(_Record):
    """One found white cell."""

    field: int = Field(description="index of its field")
    box_xyxy: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2 in pixels of the original field"
    )
    score: float = Field(ge=0, le=1)
    class_name: str


class TotalsRecord(_Record):
    """Counts over the film."""

    fields: int = Field(description="examined fields, without skipped ones")
    fields_skipped: int
    cells: int
    cells_by_class: dict[str, int]


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
