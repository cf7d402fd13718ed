"""Films through bundles with heads: what the report says, whatever the order and the threads."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from edge_runtime.backends import BACKENDS
from edge_runtime.bundle import UNCLASSIFIED, Bundle, open_bundle
from edge_runtime.cameras import Camera
from edge_runtime.clinic.report_files import CsvSink, JsonSink, csv_columns
from edge_runtime.errors import BackendError, BundleError
from edge_runtime.film.differential import exact_interval
from edge_runtime.film_report import RESEARCH_USE, FilmReport, film_json_schema
from edge_runtime.film_run import film_runner, load_bundle
from edge_runtime.settings import Settings
from edge_runtime.sinks import Sink
from edge_runtime.types import Frame
from tests.support import paint_field
from tests.toy_heads import (
    CLASSES,
    CLASSIFIER_NAME,
    HEAD_NAME,
    classifier_part,
    head_part,
    toy_attribute_head,
    toy_classifier,
    write_toy_bundle,
)

PARTS: dict[str, dict[str, Any]] = {
    "detector": {},
    "detector and head": {"head": head_part()},
    "detector and classifier": {"classifier": classifier_part()},
    "all three": {"head": head_part(), "classifier": classifier_part()},
}
CARD: dict[str, Any] = {
    "title": "Stains",
    "summary": "Names discs by their stain.",
    "limits": ["It has never seen a cell."],
    "licence": "AGPL-3.0-or-later",
    "training_data": ["none"],
    "metrics": {"discs": {"accuracy": 1.0}},
    "metrics_of": "nothing",
}
# Twelve violet, eight navy, four plum cells, two in a field, in both sizes.
KINDS = ["violet"] * 12 + ["navy"] * 8 + ["plum"] * 4


def fields() -> list[Frame]:
    frames = []
    for index in range(len(KINDS) // 2):
        stained: dict[str, list[tuple[float, float, float]]] = {}
        for place, kind in enumerate(KINDS[2 * index : 2 * index + 2]):
            stained.setdefault(kind, []).append((45.0 + 90 * place, 50.0, 26.0 + 22 * place))
        frames.append(Frame(index, 0, paint_field(180, 130, stained=stained), f"f{index}"))
    return frames


class Frames:
    """A camera that gives these frames, numbered anew."""

    def __init__(self, frames: list[Frame]) -> None:
        self.frames = frames
        self.frame_count = len(frames)

    def __iter__(self) -> Iterator[Frame]:
        for index, frame in enumerate(self.frames):
            yield Frame(index, 0, frame.pixels, frame.name)


def film(
    bundle: Bundle,
    frames: list[Frame],
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    sinks: tuple[Sink, ...] = (),
) -> FilmReport:
    settings = Settings(backend=backend, threads=threads)
    with load_bundle(bundle, settings) as loaded:
        camera = cast(Camera, Frames(frames))
        runner = film_runner(loaded, camera, source="painted", settings=settings, sinks=sinks)
        return runner.run()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: open_bundle(write_toy_bundle(folder / name, **parts)) for name, parts in PARTS.items()
    }


def steady(report: FilmReport) -> dict[str, Any]:
    """A report without what differs from run to run."""
    document = report.model_dump(mode="json")
    for key in ("started_at", "duration_s", "timings", "settings", "backend"):
        del document[key]
    for key in ("classifier", "attribute_head"):
        if document[key] is not None:
            del document[key]["backend"]
    return document


# The toy bundles' artifacts are made for processors.
@pytest.mark.parametrize(
    "row", [row for row in BACKENDS if row.runtime == "cpu"], ids=lambda row: row.name
)
@pytest.mark.parametrize("parts", PARTS)
def test_every_bundle_of_heads_runs_on_every_backend(
    bundles: dict[str, Bundle], parts: str, row: Any, tmp_path: Path
) -> None:
    reason = import_module(row.module).unsupported_reason()
    if reason is not None:
        pytest.skip(reason)
    head, named = "head" in PARTS[parts], "classifier" in PARTS[parts]
    report = film(bundles[parts], fields(), backend=row.name, sinks=(JsonSink(tmp_path),))
    document = json.loads((tmp_path / "film.json").read_bytes())
    jsonschema.Draft202012Validator(film_json_schema()).validate(document)
    assert report.totals.cells == len(KINDS)
    stages = ["read", "detect", "attributes", "classify", "crop", "write"]
    expected = [s for s in stages if (s != "attributes" or head) and (s != "classify" or named)]
    assert [stage.stage for stage in report.timings] == expected
    for record, there, file in (
        (report.attribute_head, head, HEAD_NAME),
        (report.classifier, named, CLASSIFIER_NAME),
    ):
        assert (record is not None) == there
        if record is not None:
            assert (record.backend.name, record.backend.artifact) == (row.name, file)
            assert record.backend.precision == "float32"
    assert (report.differential is not None) == named
    assert (report.morphology is not None) == (report.description is not None) == (head or named)
    for cell, kind in zip(sorted_cells(report), KINDS, strict=True):
        assert cell.class_name == (kind if named else "wbc")
        assert cell.best_class == (kind if named else None)
        assert (cell.class_probabilities is not None) == named
        assert (cell.attributes is not None) == head
        if cell.attributes is not None:
            redness = cell.attributes["redness"]
            assert redness is not None
            assert redness.value == {"navy": "none", "violet": "some", "plum": "much"}[kind]
            assert redness.probability > 0.5
    expected_counts = {name: KINDS.count(name) for name in CLASSES} | {UNCLASSIFIED: 0}
    assert report.totals.cells_by_class == (expected_counts if named else {"wbc": len(KINDS)})


def sorted_cells(report: FilmReport) -> list[Any]:
    return sorted(report.cells, key=lambda cell: (cell.field, cell.box_xyxy[0]))


def test_the_report_of_a_film_with_all_heads(bundles: dict[str, Bundle]) -> None:
    report = film(bundles["all three"], fields())
    assert report.differential is not None
    assert (report.differential.total, report.differential.unclassified) == (24, 0)
    shares = {each.class_name: each for each in report.differential.classes}
    assert list(shares) == list(CLASSES)
    assert (shares["violet"].count, shares["violet"].percent) == (12, 50.0)
    low, high = exact_interval(8, 24)
    assert shares["navy"].low_percent == pytest.approx(100 * low, abs=0.006)
    assert shares["navy"].high_percent == pytest.approx(100 * high, abs=0.006)
    assert report.morphology is not None
    dominant = report.morphology.dominant
    assert (dominant.answer, dominant.votes, dominant.of) == ("violet", 12, 24)
    votes = {vote.subject: vote for vote in report.morphology.attributes}
    assert (votes["redness"].answer, votes["redness"].votes) == ("some", 12)
    # Six small and six large violet cells: the first value, and it is told that it is a tie.
    assert (votes["size"].answer, votes["size"].votes, votes["size"].tied) == ("small", 6, True)
    counts = {each.class_name: each.attributes for each in report.morphology.types}
    assert counts["plum"]["redness"] == {"none": 0, "some": 0, "much": 4}
    assert report.description is not None
    assert report.description.template == "english-1"
    assert report.description.sentences == report.description.text.split("\n")
    assert "Most frequent white cell type: violet (12 of 24 cells)." in report.description.text
    assert report.description.sentences[-1] == RESEARCH_USE
    for cell in report.cells:
        assert cell.class_probabilities is not None
        assert list(cell.class_probabilities) == list(CLASSES)
        assert cell.class_probability == max(cell.class_probabilities.values())


def test_few_cells_are_not_assessable_and_why_is_told(bundles: dict[str, Bundle]) -> None:
    report = film(bundles["all three"], fields()[:3])
    assert report.morphology is not None
    assert report.description is not None
    assert report.morphology.dominant.answer is None
    assert report.morphology.dominant.not_assessable == "too few cells"
    assert {vote.not_assessable for vote in report.morphology.attributes} == {"too few cells"}
    assert "not assessable (6 cells counted, 20 needed)" in report.description.text


def test_an_empty_film_counts_nothing(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    empty = [Frame(0, 0, paint_field(160, 120), "empty")]
    report = film(bundles["all three"], empty, sinks=(JsonSink(tmp_path), CsvSink(tmp_path)))
    assert report.differential is not None
    assert report.differential.total == 0
    assert {each.percent for each in report.differential.classes} == {None}
    text = (tmp_path / "cells.csv").read_text(encoding="utf-8")
    assert text.strip().split(",")[-4:] == [
        "attribute:size",
        "attribute:size:probability",
        "attribute:redness",
        "attribute:redness:probability",
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_report(bundles: dict[str, Bundle], threads: int) -> None:
    bundle = bundles["all three"]
    alone = steady(film(bundle, fields(), threads=1))
    assert steady(film(bundle, fields(), threads=threads)) == alone


def test_neither_order_nor_parts_change_what_a_film_shows(bundles: dict[str, Bundle]) -> None:
    bundle, frames = bundles["all three"], fields()
    whole = film(bundle, frames)
    turned = film(bundle, frames[::-1])
    for key in ("differential", "morphology", "description", "totals"):
        assert getattr(whole, key) == getattr(turned, key), key
    parts = [film(bundle, frames[:5]), film(bundle, frames[5:])]
    counts = [part.totals.cells_by_class for part in parts]
    summed = {name: sum(part[name] for part in counts) for name in counts[0]}
    assert summed == whole.totals.cells_by_class
    tables = [part.morphology.types for part in parts if part.morphology is not None]
    assert whole.morphology is not None
    for first, second, both in zip(*tables, whole.morphology.types, strict=True):
        assert first.cells + second.cells == both.cells
        for name, values in both.attributes.items():
            for value, count in values.items():
                assert first.attributes[name][value] + second.attributes[name][value] == count


def test_cells_below_the_abstention_bound_are_unclassified(tmp_path: Path) -> None:
    """A blunt model is never sure; its best class is told all the same."""
    folder = write_toy_bundle(
        tmp_path / "bundle",
        classifier=classifier_part(abstain_below=0.6, outside_differential=["plum"]),
        models={CLASSIFIER_NAME: toy_classifier(sharpness=1.0)},
    )
    report = film(open_bundle(folder), fields(), sinks=(CsvSink(tmp_path),))
    assert {cell.class_name for cell in report.cells} == {UNCLASSIFIED}
    assert [cell.best_class for cell in sorted_cells(report)] == KINDS
    assert report.totals.cells_by_class == dict.fromkeys(CLASSES, 0) | {UNCLASSIFIED: 24}
    assert report.differential is not None
    assert (report.differential.total, report.differential.unclassified) == (0, 24)
    assert report.morphology is not None
    assert (report.morphology.cells, report.morphology.unclassified) == (0, 24)
    rows = (tmp_path / "cells.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].endswith("class_name,class_probability,best_class")
    probability = sorted_cells(report)[0].class_probability
    assert rows[1].endswith(f",unclassified,{probability},violet")


def test_classes_outside_the_differential_are_counted_beside_it(tmp_path: Path) -> None:
    part = classifier_part(outside_differential=["plum"])
    report = film(open_bundle(write_toy_bundle(tmp_path, classifier=part)), fields())
    assert report.differential is not None
    assert report.differential.total == 20
    assert report.differential.outside == {"plum": 4}
    assert [each.class_name for each in report.differential.classes] == ["navy", "violet"]
    assert report.morphology is not None
    assert (report.morphology.cells, report.morphology.outside) == (20, 4)


def test_cells_csv_has_a_pair_of_columns_for_each_attribute(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    report = film(bundles["detector and head"], fields(), sinks=(CsvSink(tmp_path),))
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == csv_columns(report)
    for row, cell in zip(rows, report.cells, strict=True):
        assert cell.attributes is not None
        for name, judged in cell.attributes.items():
            assert judged is not None
            assert row[f"attribute:{name}"] == judged.value
            assert float(row[f"attribute:{name}:probability"]) == judged.probability
        assert (row["class_probability"], row["best_class"]) == ("", "")


def test_classes_without_attributes_are_empty_in_every_file(tmp_path: Path) -> None:
    folder = write_toy_bundle(
        tmp_path / "bundle",
        classifier=classifier_part(),
        head=head_part(not_for_classes=["navy"]),
        head_cards={"classifier": CARD},
    )
    report = film(open_bundle(folder), fields(), sinks=(CsvSink(tmp_path), JsonSink(tmp_path)))
    for cell, kind in zip(sorted_cells(report), KINDS, strict=True):
        assert cell.attributes is not None
        assert all((judged is None) == (kind == "navy") for judged in cell.attributes.values())
    assert report.morphology is not None
    navy = report.morphology.types[0]
    assert (navy.cells, navy.attributes["size"]) == (8, {"small": 0, "large": 0})
    assert report.head_cards["classifier"].title == "Stains"
    assert report.attribute_head is not None
    assert report.attribute_head.not_for_classes == ["navy"]
    lines = (tmp_path / "cells.csv").read_text(encoding="utf-8").splitlines()
    assert sum(line.endswith(",navy,,,,") for line in lines) == 8


def test_the_bundles_own_template_speaks(tmp_path: Path) -> None:
    text = (Path(import_module("edge_runtime.film").__path__[0]) / "description.toml").read_text(
        encoding="utf-8"
    )
    own = text.replace('name = "english-1"', 'name = "own-7"').replace(
        "Most frequent white cell type", "Mostly"
    )
    folder = write_toy_bundle(
        tmp_path / "own",
        classifier=classifier_part(),
        models={"description.toml": own.encode()},
        description="description.toml",
    )
    description = film(open_bundle(folder), fields()).description
    assert description is not None
    assert description.template == "own-7"
    assert description.sentences[0] == "Mostly: violet (12 of 24 cells)."
    for number, broken in enumerate(
        (b"\xff\xfe", b"name = ", own.replace("{answer}", "").encode())
    ):
        folder = write_toy_bundle(
            tmp_path / f"broken{number}",
            classifier=classifier_part(),
            models={"description.toml": broken},
            description="description.toml",
        )
        with pytest.raises(BundleError, match=r"description\.toml") as refusal:
            film(open_bundle(folder), fields())
        assert "\n" not in str(refusal.value)


def test_the_detector_can_be_loaded_alone(bundles: dict[str, Bundle]) -> None:
    with load_bundle(bundles["all three"], Settings(threads=1), detector_only=True) as loaded:
        assert (loaded.attribute_head, loaded.classifier, loaded.head_records) == (None, None, {})
        settings = Settings(threads=1)
        camera = cast(Camera, Frames(fields()))
        report = film_runner(loaded, camera, source="x", settings=settings).run()
    assert report.totals.cells_by_class == {"wbc": 24}


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "schema of another width": (
        {"head": head_part(), "models": {HEAD_NAME: toy_attribute_head(widths=(2, 4))}},
        BackendError,
        "attribute schema 'toy-2'",
    ),
    "classes of another number": (
        {"classifier": classifier_part(), "models": {CLASSIFIER_NAME: toy_classifier(classes=4)}},
        BackendError,
        "each of its 3 classes",
    ),
    "crops of another size": (
        {"classifier": classifier_part(), "models": {CLASSIFIER_NAME: toy_classifier(32)}},
        BackendError,
        "'crops'",
    ),
    "one cell at a time": (
        {"classifier": classifier_part(), "models": {CLASSIFIER_NAME: toy_classifier(batch=1)}},
        BackendError,
        "any number of cells",
    ),
    "a head of one cell": (
        {"head": head_part(), "models": {HEAD_NAME: toy_attribute_head(boxes=1)}},
        BackendError,
        "any number of cells",
    ),
    "a head that is none": (
        {"head": head_part(), "models": {HEAD_NAME: b"no model"}},
        BackendError,
        "refuses the model",
    ),
    "a head that reads something else": (
        {
            "head": head_part(),
            "models": {HEAD_NAME: toy_attribute_head(maps=(("early", 4), ("later", 16)))},
        },
        BackendError,
        "'later'",
    ),
    "a class called unclassified": (
        {"classifier": classifier_part(classes=["navy", "violet", UNCLASSIFIED])},
        BundleError,
        "unclassified",
    ),
    "a class without a name": (
        {"classifier": classifier_part(classes=["navy", "violet", ""])},
        BundleError,
        "a class has no name",
    ),
    "a temperature that no number stands": (
        {"classifier": classifier_part(temperature=1e-320)},
        BundleError,
        "classifier.temperature",
    ),
    "a value without a name": (
        {
            "head": head_part(
                attributes={"name": "s", "attributes": [{"name": "a", "values": ["", "b"]}]}
            )
        },
        BundleError,
        "attribute 'a': a value has no name",
    ),
    "a class outside that is none": (
        {"classifier": classifier_part(outside_differential=["smudge"])},
        BundleError,
        "'smudge' is no class",
    ),
    "no artifact for the family": (
        {
            "classifier": classifier_part(
                artifacts=[
                    {
                        "path": CLASSIFIER_NAME,
                        "runtime": "tensorrt",
                        "precision": "int8",
                        "quantisation": "none",
                    }
                ]
            )
        },
        BundleError,
        "no classifier artifact for cpu",
    ),
}


@pytest.mark.parametrize(
    ("case", "backend"), list(itertools.product(BAD, ("onnxruntime", "openvino")))
)
def test_a_bundle_whose_parts_disagree_is_refused_in_one_line(
    case: str, backend: str, tmp_path: Path
) -> None:
    module = next(row.module for row in BACKENDS if row.name == backend)
    if import_module(module).unsupported_reason() is not None:
        pytest.skip(f"no {backend} here")
    parts, kind, words = BAD[case]
    with pytest.raises(kind) as refusal:
        film(open_bundle(write_toy_bundle(tmp_path, **parts)), fields(), backend=backend)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
