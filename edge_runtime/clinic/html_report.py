"""The sink that writes report.html: one file that opens anywhere, without a network.

Owns which crops and pictures the page keeps, so that a long film needs no more memory
than a short one, and how the page is put together. Does not own its words and charts
(see ``report_view``) nor its markup (see ``templates``).
"""

from __future__ import annotations

import base64
import hashlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge_runtime.clinic import film_view, guided_view, report_view
from edge_runtime.clinic.atomic_file import prepare_folder, replacing, utf8
from edge_runtime.film.mosaic_map import draw_map
from edge_runtime.film_report import CellRecord, FilmReport, UncountedRecord
from edge_runtime.types import FieldResult, SkippedFrame

REPORT_HTML = "report.html"
# More than the 400 cells of the longest differential a person would check by eye.
GALLERY_CELLS = 600
# A long session of the practice is about a hundred fields; a browser still scrolls this well.
FIELD_PICTURES = 300
SKIPPED_ROWS = 500
# What the page may hold in memory until the film ends, whatever the pictures' size.
_GALLERY_BYTES = 8 * 2**20
_PICTURE_BYTES = 24 * 2**20
_NO_CELL = -1.0  # ranks a field without cells below every field with one

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReviewShown:
    """How far a film's review is, where its report is of the store.

    Attributes:
        badge: the state in a word.
        banner: what it means, in a sentence.
        warning: the banner is one.
        content: SHA-256 of what is stored.
        signatures: names and values of each, withdrawn ones too, oldest first.
    """

    badge: str
    banner: str
    warning: bool
    content: str
    signatures: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True, slots=True)
class _GalleryCell:
    anchor: str
    field: int
    field_name: str
    number: int
    score: float
    class_name: str
    best_class: str | None
    class_probability: float | None
    chips: tuple[film_view.Chip, ...]
    crop_jpeg: bytes
    film_cell: int | None


@dataclass(frozen=True, slots=True)
class _FieldPicture:
    index: int
    jpeg: bytes


class _Highest(Generic[T]):
    """The items of highest rank, at most ``count`` of them and ``size`` bytes in all."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._held = 0
        self._offers = 0
        self._heap: list[tuple[float, int, int, T]] = []

    def offer(self, rank: float, size: int, item: T) -> None:
        """Keep ``item`` if it ranks high enough; of equals the earlier one stays."""
        self._offers += 1
        heapq.heappush(self._heap, (rank, -self._offers, size, item))
        self._held += size
        while len(self._heap) > self._count or self._held > self._size:
            self._held -= heapq.heappop(self._heap)[2]

    def drop(self, unwanted: Callable[[T], bool]) -> None:
        """Forget the items that a better one replaces."""
        kept = [each for each in self._heap if not unwanted(each[3])]
        if len(kept) < len(self._heap):
            self._held = sum(each[2] for each in kept)
            self._heap = kept
            heapq.heapify(self._heap)

    def ranked(self) -> list[T]:
        """What was kept, highest rank first."""
        return [item for _, _, _, item in sorted(self._heap, key=lambda kept: kept[:2])][::-1]


class HtmlSink:
    """Writes ``report.html`` when the film ends.

    The gallery keeps the cells of highest score, the fields' section the pictures of the
    fields that hold them; the page says how many of how many it shows.

    Args:
        out: folder of the report.
        gallery_cells: largest number of cell crops.
        field_pictures: largest number of field pictures.
        review: of a film of the store; None where nobody can review it.
    """

    def __init__(
        self,
        out: Path,
        *,
        gallery_cells: int = GALLERY_CELLS,
        field_pictures: int = FIELD_PICTURES,
        review: ReviewShown | None = None,
    ) -> None:
        self._review = review
        self._path = out / REPORT_HTML
        self._gallery: _Highest[_GalleryCell] = _Highest(gallery_cells, _GALLERY_BYTES)
        self._pictures: _Highest[_FieldPicture] = _Highest(field_pictures, _PICTURE_BYTES)

    def start(self) -> None:
        """Make the folder; raise StoreError when it cannot be written."""
        prepare_folder(self._path.parent, (self._path.name,))

    def append(self, result: FieldResult) -> None:
        """Keep the crops and the picture if they rank high enough so far."""
        best = max((cell.score for cell in result.cells), default=_NO_CELL)
        self._forget_worse_looks(result)
        for number, cell in enumerate(result.cells, start=1):
            if cell.repeats:
                continue
            self._gallery.offer(
                cell.score,
                len(cell.crop_jpeg),
                _GalleryCell(
                    report_view.cell_anchor(result.index, number),
                    result.index,
                    result.name,
                    number,
                    cell.score,
                    cell.class_name,
                    cell.best_class,
                    cell.class_probability,
                    film_view.chips(cell.attributes),
                    cell.crop_jpeg,
                    cell.film_cell,
                ),
            )
        if result.preview_jpeg:
            self._pictures.offer(
                best, len(result.preview_jpeg), _FieldPicture(result.index, result.preview_jpeg)
            )

    def _forget_worse_looks(self, result: FieldResult) -> None:
        if result.mosaic is None:
            return
        better = {seen.cell for seen in result.mosaic.sightings if seen.best and not seen.new}
        if better:
            self._gallery.drop(lambda kept: kept.film_cell in better)

    def skip(self, skipped: SkippedFrame) -> None:
        """Nothing to keep: the report holds every skipped field."""

    def finish(self, report: FilmReport) -> None:
        """Write the page; raise StoreError when it cannot be written."""
        gallery = self._gallery.ranked()
        if report.mosaic is not None:
            # What was found to be a repeat, or never got a place, since it was kept.
            counts = {(x.field, x.place.number) for x in report.cells if x.place is not None}
            gallery = [kept for kept in gallery if (kept.field, kept.number) in counts]
        pieces = _page(report, gallery, self._pictures.ranked(), self._review)
        with replacing(self._path) as file:
            for piece in pieces:
                file.write(utf8(piece))


def _page(
    report: FilmReport,
    gallery: list[_GalleryCell],
    pictures: list[_FieldPicture],
    review: ReviewShown | None,
) -> Iterator[str]:
    """The page in pieces, so that its pictures never stand in memory all at once."""
    import jinja2  # slow to load; only a finished film needs it
    from markupsafe import Markup

    def data_uri(jpeg: bytes) -> Markup:
        return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = data_uri
    environment.filters["say_score"] = report_view.say_score
    environment.filters["say_number"] = report_view.say_number
    environment.filters["say_probability"] = film_view.say_probability
    environment.filters["say"] = film_view.say
    templates = Path(__file__).parent / "templates"
    style = (templates / "report.css").read_text(encoding="utf-8")
    script = (templates / "report.js").read_text(encoding="utf-8")
    context: dict[str, Any] = {
        "report": report,
        "review": review,
        "date": report_view.say_date(report.started_at),
        "film_name": Path(report.source).name or report.source,
        "figures": report_view.total_figures(report),
        "domain": report_view.domain_view(report),
        "charts": [
            (
                "Cells per field" if report.mosaic is None else "Finds per field",
                report_view.cells_per_field_chart(report),
            ),
            ("Scores", report_view.score_chart(report)),
        ],
        "gallery": gallery,
        "lowest_score": int(min((cell.score for cell in gallery), default=0.0) * 100) / 100,
        "fields": _shown_fields(report, gallery, pictures),
        "pictures": len(pictures),
        "skipped": [field for field in report.fields if field.skipped],
        "skipped_rows": SKIPPED_ROWS,
        "metrics": report_view.metric_tables(report.model_card.metrics),
        "settings": report_view.setting_rows(report.settings),
        "style": Markup(style),
        "script": Markup(script),
        **_findings(report, gallery),
        **_guided(report),
        # Nothing but this very style and script may act in the page, whatever a file
        # name or a bundle brought into it.
        "style_hash": Markup(_csp_hash(style)),
        "script_hash": Markup(_csp_hash(script)),
    }
    return environment.get_template("report.html.j2").generate(context)


def _findings(report: FilmReport, gallery: list[_GalleryCell]) -> dict[str, Any]:
    """What classifier and attribute head add to the page."""
    differential, morphology = report.differential, report.morphology
    return {
        "groups": film_view.groups(report, gallery),
        "class_order": film_view.class_order(report),
        "described": any(cell.chips for cell in gallery),
        "unsure_below": film_view.UNSURE_BELOW,
        "differential": film_view.differential_rows(differential) if differential else [],
        "beside": film_view.beside_differential(differential) if differential else [],
        "votes": film_view.vote_rows(morphology) if morphology else [],
        "counts": film_view.count_table(morphology) if morphology else ([], []),
        "heads": [
            (head, report_view.metric_tables(head.card.metrics) if head.card else [])
            for head in film_view.head_views(report)
        ],
    }


def _guided(report: FilmReport) -> dict[str, Any]:
    """What guide and live camera add to the page."""
    from markupsafe import Markup

    film, order = guided_view.report_map(report), film_view.class_order(report)
    gaps, gap_count = ([], 0) if report.live is None else guided_view.gaps_of(report.live)
    return {
        "warnings": guided_view.warnings_of(report),
        "screening": None
        if report.screening is None
        else guided_view.screening_view(report.screening, report.tally),
        "mosaic": None if report.mosaic is None else guided_view.mosaic_view(report.mosaic),
        # Drawn here, every text in it escaped.
        "map": None if film is None else Markup(draw_map(film, order=order)),
        "gate": None if report.gate is None else guided_view.gate_view(report.gate),
        "live": None if report.live is None else guided_view.live_view(report.live),
        "gaps": gaps,
        "gap_count": gap_count,
    }


def _shown_fields(
    report: FilmReport, gallery: list[_GalleryCell], pictures: list[_FieldPicture]
) -> list[report_view.ShownField]:
    """In film order: fields with a picture, and fields that a crop leads to without one."""
    jpegs = {picture.index: picture.jpeg for picture in pictures}
    wanted = jpegs.keys() | {cell.field for cell in gallery}
    cells: dict[int, list[CellRecord]] = {index: [] for index in wanted}
    for cell in report.cells:
        if cell.field in wanted:
            cells[cell.field].append(cell)
    anchors = {
        cell.place.cell: report_view.cell_anchor(cell.field, cell.place.number)
        for cell in report.cells
        if cell.place is not None and cell.field in wanted
    }
    passed: dict[int, list[tuple[UncountedRecord, str | None]]] = {index: [] for index in wanted}
    for find in report.not_counted:
        if find.field in wanted:
            target = None if find.cell is None else anchors.get(find.cell)
            passed[find.field].append((find, target))
    return [
        report_view.show_field(
            field.index,
            field.name,
            (field.width, field.height),
            cells[field.index],
            jpegs.get(field.index),
            passed[field.index],
            field.lost,
        )
        for field in report.fields
        if field.index in wanted and field.width and field.height
    ]


def _csp_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
