"""A virtual film moved by hand, from camera to report, table, page and store: each cell once."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="leukoscope[clinic]")

from benchmarks.mosaic import Scan, perfect_finds, profile_of
from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.cameras.virtual import VirtualCamera
from edge_runtime.classifier import CellClasses
from edge_runtime.clinic.report_files import CsvSink, JsonSink
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.sink import StoreSink
from edge_runtime.clinic.store.store import ClinicStore, open_store
from edge_runtime.film import track
from edge_runtime.film.guide import FilmGuide
from edge_runtime.film.mosaic import FilmMosaic
from edge_runtime.film.screening import ScreeningPlan, ScreeningRule
from edge_runtime.film.tally import RunningTally
from edge_runtime.film_record import FilmSetup
from edge_runtime.film_report import FilmReport
from edge_runtime.pipeline import FilmRunner
from edge_runtime.sinks import Sink
from edge_runtime.stages import Examined
from edge_runtime.types import FieldResult, Float32Array, Frame, RunStatus, SkippedFrame, UInt8Image
from edge_runtime.virtual_film import FilmSpec, VirtualFilm
from edge_runtime.virtual_film.hand_path import HandStep
from tests.clinic_films import SETUP, Clock, Disk

# What a detector calls a cell that the field's border cuts: only a whole look tells its class.
CUT = "cut"
# Middles of the fields in µm; each is 122 x 76 µm. Along the film, knocked to a place that is never
# seen again, knocked to its right end, back and on until both parts meet, and below back.
ALONG = [(61, 50), (106, 48), (151, 52), (196, 50)]
KNOCKED = (480, 195)
RIGHT = [(499, 55), (454, 52), (409, 55)]
ON = [(241, 52), (286, 49), (331, 52), (376, 54)]
BELOW = [(376, 88), (316, 90), (256, 88), (196, 91), (136, 90), (76, 88)]
WAY = [*ALONG, KNOCKED, *RIGHT, *ON, *BELOW]
LOST = len(ALONG)


@dataclass
class Truth:
    """A detector and a classifier without fault, and which cell every find was."""

    scan: Scan
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.ids: dict[tuple[int, int], int] = {}
        self._named: dict[bytes, list[int]] = {}

    def examine(self, frame: Frame, describe: object = None, watch: object = None) -> Examined:
        cells = self.scan.cells(frame.index)
        found, ids = perfect_finds(cells)
        for row, each in enumerate(ids):
            self.ids[frame.index, row] = cast(int, each)
        names = [cell.class_name if cell.visible > 0.999 else CUT for cell in cells]
        self._named[found.boxes_xyxy.tobytes()] = [self.classes.index(name) for name in names]
        return Examined(found, 1)

    def classify(self, pixels: UInt8Image, boxes: Float32Array) -> CellClasses:
        ids = np.array(self._named[boxes.tobytes()], np.int64)
        shares = np.full((len(ids), len(self.classes)), 0.01, np.float32)
        shares[np.arange(len(ids)), ids] = 0.9
        return CellClasses(ids, shares, np.zeros(len(ids), np.bool_))

    def class_of(self, film_id: int) -> str:
        return next(c.class_name for c in self.scan.camera.film.cells if c.id == film_id)


class CutShort(StoreSink):
    """The power goes before the film's report is written."""

    def finish(self, report: FilmReport) -> None:
        """Nothing is written any more."""


@dataclass
class Run:
    """A film that is over."""

    truth: Truth
    report: FilmReport
    statuses: list[RunStatus]
    results: list[FieldResult]
    out: Path
    store: ClinicStore
    film: int
    cut_short: int

    def ids(self, report: FilmReport) -> list[int]:
        """The true cell of each that a report counts."""
        places = [(cell.field, cell.place) for cell in report.cells]
        return [self.truth.ids[field, place.number - 1] for field, place in places if place]


class Keep:
    """Keeps what the sinks get."""

    def __init__(self) -> None:
        self.results: list[FieldResult] = []

    def start(self) -> None:
        """Nothing."""

    def append(self, result: FieldResult) -> None:
        self.results.append(result)

    def skip(self, skipped: SkippedFrame) -> None:
        """Nothing."""

    def finish(self, report: FilmReport) -> None:
        """Nothing."""


def setup_of(classes: tuple[str, ...]) -> FilmSetup:
    assert SETUP.classifier is not None
    named = SETUP.classifier.model_copy(
        update={"classes": list(classes), "outside_differential": []}
    )
    return replace(SETUP, classifier=named, attribute_head=None, attribute_schema=None)


@pytest.fixture(scope="module")
def scan() -> Scan:
    spec = FilmSpec(size_um=(560.0, 240.0), pixel_size_um=0.4, white_cells_per_mm2=800.0)
    centres = [(float(x), float(y)) for x, y in WAY]
    camera = VirtualCamera(VirtualFilm.build(5, spec), profile_of(320, 200), centres_um=centres)
    return Scan(camera, tuple(HandStep(centre, "step") for centre in centres))


@pytest.fixture(scope="module", params=["ties on the way", "ties at the end"])
def run(
    request: pytest.FixtureRequest, scan: Scan, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    from edge_runtime.clinic.html_report import HtmlSink

    folder = tmp_path_factory.mktemp("film")
    kinds = sorted({cell.class_name for cell in scan.camera.film.cells if cell.is_white_cell})
    truth = Truth(scan, (*kinds, CUT))
    guide = FilmGuide(
        mosaic=FilmMosaic(),
        tally=RunningTally(truth.classes, unclassified=UNCLASSIFIED),
        rule=lambda wait: ScreeningRule(ScreeningPlan(), knows_blasts=False),
    )
    setup, statuses, keep = setup_of(truth.classes), list[RunStatus](), Keep()
    with (
        pytest.MonkeyPatch.context() as patch,
        open_store(folder / "store", now=Clock(), free=Disk()) as store,
    ):
        if request.param == "ties at the end":
            patch.setattr(track, "_GLANCES_PER_FIELD", 0)
        kept, lost = (kind(store, NewFilm("S-1"), setup) for kind in (StoreSink, CutShort))
        sinks: list[Sink] = [JsonSink(folder), CsvSink(folder), HtmlSink(folder), kept, lost, keep]
        report = FilmRunner(
            camera=scan.camera,
            detector=cast(Any, truth),
            classifier=cast(Any, truth),
            streams=1,
            sinks=sinks,
            setup=setup,
            guide=guide,
            on_status=statuses.append,
        ).run()
        yield Run(truth, report, statuses, keep.results, folder, store, kept.film, lost.film)


def test_two_parts_were_joined_on_the_way_or_at_the_end(
    run: Run, request: pytest.FixtureRequest
) -> None:
    parts = [
        status.guidance.mosaic.fragments
        for status in run.statuses
        if status.guidance and status.guidance.mosaic
    ]
    at_the_end = "ties at the end" in request.node.name
    assert max(parts) == 2
    assert parts[-2] == (2 if at_the_end else 1)
    assert parts[-1] == 1
    merged = sum(len(result.mosaic.merges) for result in run.results if result.mosaic)
    assert (merged == 0) == at_the_end
    counts = [status.cells_found for status in run.statuses]
    assert (counts[-1] < counts[-2]) == at_the_end


def test_each_cell_of_the_film_is_counted_once(run: Run) -> None:
    found = run.ids(run.report)
    assert len(found) > 30
    assert len(run.truth.ids) > 2 * len(found)
    assert len(set(found)) == len(found)
    placed = {field.index for field in run.report.fields if field.place is not None}
    assert set(found) == {each for (field, _), each in run.truth.ids.items() if field in placed}


def test_a_cell_is_what_its_best_look_says(run: Run) -> None:
    """The tally is mended when a better look comes, and when two cells turn out to be one."""
    assert CUT in {cell.class_name for result in run.results for cell in result.cells}
    counts = Counter(cell.class_name for cell in run.report.cells)
    whole = {
        run.truth.ids[find.field, find.number - 1]
        for find in run.report.not_counted
        if find.class_name != CUT
    }
    for cell, film_id in zip(run.report.cells, run.ids(run.report), strict=True):
        expected = run.truth.class_of(film_id)
        assert cell.class_name == expected or (cell.class_name == CUT and film_id not in whole)
    last = run.statuses[-1].guidance
    assert last is not None
    assert last.tally is not None
    told = {each.name: each.count for each in last.tally.differential.classes}
    assert told == {name: counts[name] for name in run.truth.classes}
    assert run.report.differential is not None
    assert {x.class_name: x.count for x in run.report.differential.classes} == told
    assert run.report.morphology is not None
    assert run.report.morphology.cells == len(run.report.cells)


def test_places_are_those_of_the_film(run: Run) -> None:
    """Up to where the first field lay: half a cell is about 6 µm."""
    px = run.truth.scan.camera.profile.pixel_size_um
    left, top = run.truth.scan.corner_um(0)
    middles = {cell.id: cell.centre_um for cell in run.truth.scan.camera.film.cells}
    for cell, film_id in zip(run.report.cells, run.ids(run.report), strict=True):
        assert cell.place is not None
        assert cell.place.fragment == 0
        if cell.class_name != CUT:
            x, y = middles[film_id]
            assert abs(cell.place.x * px + left - x) < 3
            assert abs(cell.place.y * px + top - y) < 3


def test_the_record_adds_up(run: Run) -> None:
    report, mosaic, tally = run.report, run.report.mosaic, run.report.tally
    assert mosaic is not None
    assert tally is not None
    assert report.totals.cells == mosaic.cells == len(report.cells) == tally.cells
    assert mosaic.fragments == 1
    assert mosaic.cells_apart == 0
    finds = sum(field.cells for field in report.fields)
    assert finds == len(run.truth.ids)
    assert len(report.not_counted) == finds - len(report.cells)
    assert mosaic.repeats + mosaic.finds_without_place == len(report.not_counted)
    seen = Counter(find.cell for find in report.not_counted)
    for cell in report.cells:
        assert cell.place is not None
        assert cell.place.sightings == 1 + seen[cell.place.cell]
    lost = [field for field in report.fields if field.lost is not None]
    assert len(lost) == sum(mosaic.lost.values()) == mosaic.fields - mosaic.fields_placed
    assert [field.index for field in lost] == [LOST]
    assert seen[None] == lost[0].cells > 0
    assert report.screening is not None
    assert report.screening.why == "no blast class"


def test_the_person_is_told_all_the_way(run: Run) -> None:
    told = [status.guidance for status in run.statuses]
    assert all(each is not None for each in told)
    counts = [each.cells_counted for each in told if each is not None]
    assert counts[0] == 0
    assert counts[-1] == run.report.totals.cells
    assert [status.cells_found for status in run.statuses] == counts
    # The stage was knocked twice: said aloud, then found again.
    lost = [each is not None and (each.lost or "").startswith("apart") for each in told[1:]]
    assert [index for index, each in enumerate(lost) if each][:2] == [LOST, LOST + 1]
    assert not lost[-1]


def test_file_and_table_hold_the_same(run: Run) -> None:
    document = json.loads((run.out / "film.json").read_text(encoding="utf-8"))
    assert document == json.loads(run.report.model_dump_json())
    with (run.out / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["film_cell"] for row in rows] == [
        str(cell["place"]["cell"]) for cell in document["cells"]
    ]
    assert [(int(row["field"]), int(row["cell"])) for row in rows] == [
        (cell["field"], cell["place"]["number"]) for cell in document["cells"]
    ]


def test_the_page_shows_each_cell_once_and_the_map(run: Run) -> None:
    page = (run.out / "report.html").read_text(encoding="utf-8")
    gallery = page[page.index('<section id="gallery"') : page.index('<section id="distribution"')]
    links = re.findall(r'href="#(f\d+c\d+)"', gallery)
    shown = {(cell.field, cell.place.number) for cell in run.report.cells if cell.place}
    assert len(links) == len(shown)
    assert set(links) == {f"f{field}c{number}" for field, number in shown}
    drawn = page[page.index('<section id="map"') :]
    assert len(re.findall(r' id="cell-\d+"', drawn)) == len(shown)
    assert page.count('class="cell passed"') == len(run.report.not_counted)


def test_the_store_keeps_each_cell_once(run: Run) -> None:
    films = run.store.films
    cells = films.cells(run.film)
    expected = {(cell.field, cell.place.number) for cell in run.report.cells if cell.place}
    assert {(cell.field, cell.number) for cell in cells} == expected
    assert films.get(run.film).cells == len(cells) == len(expected)
    assert sum(films.counts(run.film).values()) == len(cells)
    assert all(cell.crop_file for cell in cells)
    every = films.cells(run.film, every=True)
    assert len(every) == len(run.truth.ids)
    assert len({cell.film_cell for cell in cells}) == len(cells)
    drawn = films.map_of(run.film)
    assert drawn is not None
    assert {cell.id for cell in drawn.cells} == {cell.id for cell in cells}
    assert {view[0] for view in drawn.views} == {0}


def test_what_is_stored_gives_the_report_of_the_run(run: Run) -> None:
    """Also of a film whose report was never written."""
    for film in (run.film, run.cut_short):
        for made in (run.store.reports.examined(film), run.store.reports.corrected(film)):
            assert by_place(made) == by_place(run.report)
            assert made.totals.cells_by_class == run.report.totals.cells_by_class
            assert made.mosaic == run.report.mosaic
            assert made.differential == run.report.differential
            assert {(x.field, x.number, x.cell) for x in made.not_counted} == {
                (x.field, x.number, x.cell) for x in run.report.not_counted
            }


def by_place(report: FilmReport) -> list[Any]:
    return [
        (cell.field, cell.place.number, cell.class_name, cell.place.sightings, cell.place.cell)
        for cell in report.cells
        if cell.place is not None
    ]


def test_fields_that_show_nothing_new_are_not_kept_at_full_size(scan: Scan, tmp_path: Path) -> None:
    """Every part of the film is at full size in one field, and every cell at its best."""
    kinds = sorted({cell.class_name for cell in scan.camera.film.cells if cell.is_white_cell})
    # The stage rests in each place, and comes back to the first one.
    steps = [scan.path[at] for at in (0, 0, 0, 1, 1, 0)]
    rests = Scan(
        VirtualCamera(
            scan.camera.film, profile_of(320, 200), centres_um=[each.centre_um for each in steps]
        ),
        tuple(steps),
    )
    kept: dict[bool, Keep] = {}
    for every in (True, False):
        truth = Truth(rests, (*kinds, CUT))
        setup = setup_of(truth.classes)
        setup = replace(setup, settings=setup.settings.model_copy(update={"save_frames": True}))
        kept[every] = Keep()
        FilmRunner(
            camera=rests.camera,
            detector=cast(Any, truth),
            classifier=cast(Any, truth),
            streams=1,
            sinks=[kept[every]],
            setup=setup,
            guide=FilmGuide(mosaic=FilmMosaic()),
            every_frame=every,
        ).run()
    assert all(each.frame_jpeg for each in kept[True].results)
    for result in kept[False].results:
        assert result.mosaic is not None
        news = result.mosaic.shows_new or any(cell.counts for cell in result.cells)
        assert (result.frame_jpeg is not None) == news
        assert bool(result.preview_jpeg) == news
    sizes = [each.frame_jpeg is not None for each in kept[False].results]
    assert (sizes[0], sizes[3]) == (True, True)
    assert sum(sizes) < len(sizes)
