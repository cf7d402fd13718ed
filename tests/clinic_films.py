"""Films for the clinic's store: set-ups, fields with real pictures, and people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from edge_runtime.attributes import Attribute, AttributeSchema
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User
from edge_runtime.film_record import FilmRecord, FilmSetup
from edge_runtime.film_report import (
    AttributeHeadRecord,
    BackendRecord,
    BundleRecord,
    ClassifierRecord,
    FilmReport,
    ModelCardSummary,
)
from edge_runtime.postprocess import cut_crop, encode_jpeg
from edge_runtime.settings import Settings
from edge_runtime.types import CellFinding, FieldResult, JudgedAttribute, SkippedFrame
from tests.support import paint_field

BACKEND = BackendRecord(
    name="toy", version="0", device="CPU", precision="float32", artifact="a.onnx", threads=1
)
CLASSES = ("neutrophil", "lymphocyte", "eosinophil", "erythroblast")
SCHEMA = AttributeSchema(name="toy", attributes=(Attribute(name="size", values=("small", "big")),))
SETUP = FilmSetup(
    source="virtual",
    bundle=BundleRecord(id="toy-1.0.0", sha256="ab" * 32),
    backend=BACKEND,
    model_card=ModelCardSummary(title="t", summary="s", limits=[], licence="l", metrics={}),
    class_names=("WBC",),
    settings=Settings(),
    version="0.1",
    classifier=ClassifierRecord(
        architecture="toy",
        backend=BACKEND,
        classes=list(CLASSES),
        abstain_below=0.45,
        outside_differential=["erythroblast"],
    ),
    attribute_head=AttributeHeadRecord(
        architecture="toy",
        backend=BACKEND,
        schema_name="toy",
        attributes={"size": ["small", "big"]},
        not_for_classes=["erythroblast"],
    ),
    attribute_schema=SCHEMA,
)
DETECTOR_SETUP = dataclasses.replace(
    SETUP, classifier=None, attribute_head=None, attribute_schema=None
)
WIDTH, HEIGHT = 200, 150
PIN, PASSWORD = "271828", "correct horse"


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    at: datetime = datetime(2026, 7, 25, 12, 0, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


@dataclass
class Disk:
    """Tells how much is free."""

    bytes: int = 10**12

    def __call__(self, folder: Path) -> int:
        return self.bytes


def field_of(
    index: int,
    classes: tuple[str, ...] = ("neutrophil",),
    *,
    name: str = "",
    seed: int | None = None,
) -> FieldResult:
    """A field of up to six cells; the picture of each seed is unlike every other."""
    seed = index if seed is None else seed
    rng = np.random.default_rng(seed)
    places = [(30.0 + 60 * (n % 3), 40.0 + 70 * (n // 3), 28.0) for n in range(len(classes))]
    pixels = paint_field(WIDTH, HEIGHT, places, seed=seed)
    # Coarse stains, so that no two fields are near-copies.
    for _ in range(12):
        left, top = int(rng.integers(0, WIDTH - 30)), int(rng.integers(0, HEIGHT - 30))
        pixels[top : top + 30, left : left + 30] //= 2
    cells = []
    for number, (class_name, (x, y, side)) in enumerate(zip(classes, places, strict=True)):
        box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
        crop = cut_crop(pixels, np.array(box, np.float32))
        shares = dict.fromkeys(CLASSES, 0.1) | {class_name: 0.7}
        size = JudgedAttribute("big" if number % 2 else "small", 0.9)
        cells.append(
            CellFinding(
                box,
                round(0.9 - 0.01 * number, 4),
                class_name,
                encode_jpeg(crop, quality=85),
                best_class=class_name,
                class_probability=0.7,
                class_probabilities=shares,
                attributes={"size": None if class_name == "erythroblast" else size},
            )
        )
    frame = encode_jpeg(pixels, quality=95)
    small = encode_jpeg(np.ascontiguousarray(pixels[::2, ::2]), quality=85)
    return FieldResult(
        index, name or f"field_{index}", WIDTH, HEIGHT, tuple(cells), small, 0.5, 1, frame
    )


def keep_film(
    store: ClinicStore,
    fields: Sequence[FieldResult | SkippedFrame],
    *,
    film: NewFilm | None = None,
    by: User | None = None,
    setup: FilmSetup = SETUP,
) -> int:
    """Puts a film through the sink, without a report of what was in it; gives its number."""
    sink = StoreSink(store, film or NewFilm("S-1"), setup, by)
    sink.start()
    for each in fields:
        if isinstance(each, SkippedFrame):
            sink.skip(each)
        else:
            sink.append(each)
    sink.finish(bare_report(setup, store.now()))
    return sink.film


def bare_report(setup: FilmSetup = SETUP, at: datetime | None = None) -> FilmReport:
    """A complete report that names no field."""
    return FilmRecord(setup).report("complete", at or Clock().at, 1.0)


@dataclass(frozen=True)
class People:
    """One user of each role."""

    admin: User
    reviewer: User
    operator: User


def hire(store: ClinicStore) -> People:
    """Makes the three."""
    admin = store.users.add("Ada Admin", "admin", PASSWORD, None)
    return People(
        admin,
        store.users.add("Rosa Reviewer", "reviewer", PASSWORD, admin),
        store.users.add("Otto Operator", "operator", PIN, admin),
    )
