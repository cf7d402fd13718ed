"""A film's report on paper: one PDF, A4, the same byte for byte from the same film.

Owns what the report says, in which order, and which crops it shows. The numbers are those of the
store's corrected report. Does not own wording nor layout (see ``paper``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.exports.fhir import status
from edge_runtime.clinic.film_view import class_order, say, say_probability, skip_reason
from edge_runtime.clinic.paper import words
from edge_runtime.clinic.paper.words import Translate, in_english
from edge_runtime.clinic.report_view import say_number
from edge_runtime.clinic.store.records import Signature, StoredCell, StoredField, StoredFilm
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.errors import RecordError, StoreError
from edge_runtime.film.blasts import blast_classes
from edge_runtime.film_report import (
    BackendRecord,
    DifferentialRecord,
    FilmReport,
)

if TYPE_CHECKING:
    from edge_runtime.clinic.paper.sheet import Sheet, Tone
    from edge_runtime.film.mosaic_map import FilmMap

# Two rows of a class; of blasts as many as a reviewer wants to see before signing.
_CROPS_PER_ROW = 10
_CROPS_OF_CLASS, _CROPS_OF_BLASTS = 20, 60
_CROP_MM, _CROP_GAP_MM = 16.0, 1.8
_FEW_CELLS = 100
_SKIPPED_REASONS = 12
_TRIES = 3
_AXES = (10, 25, 50, 100)
_TONE: dict[str, tuple[str, Tone]] = {
    "preliminary": (words.PRELIMINARY, "warn"),
    "final": (words.FINAL, "good"),
    "amended": (words.AMENDED, "good"),
}
_VERDICTS = {
    "enough: below": words.SCREENING_BELOW,
    "enough: above": words.SCREENING_ABOVE,
    "keep scanning": words.SCREENING_GO_ON,
    "unsettled": words.SCREENING_UNSETTLED,
    "abstains": words.SCREENING_ABSTAINS,
}


@dataclass(frozen=True, slots=True)
class _Paper:
    """Everything of a film that its report needs, read at one state of it."""

    film: StoredFilm
    report: FilmReport
    fields: Sequence[StoredField]
    cells: Sequence[StoredCell]
    signatures: Sequence[Signature]
    film_map: FilmMap | None
    content: str

    @property
    def standing(self) -> Signature | None:
        """The signature that holds, if any."""
        kept = [each for each in self.signatures if each.withdrawn_at is None]
        return kept[-1] if kept else None


def film_pdf(
    store: ClinicStore, film: int, *, t: Translate = in_english, language: str = "en"
) -> bytes:
    """A film's report as a PDF file.

    Dates are those of the film and its signature, never the clock's: the same film gives the
    same bytes. It changes nothing, the audit trail included; whoever hands the file out says so
    with ``store.note_export``, after seeing to it that the person may have it.

    Args:
        store: open.
        film: its number; it has ended.
        t: says the messages of ``paper.words`` in the reader's language.
        language: that language, e.g. ``es``.

    Raises:
        RecordError: no such film, or it still runs.
        StoreError: what is stored cannot be read.
    """
    # A second to load, and only who prints needs it.
    from edge_runtime.clinic.paper.sheet import Sheet

    paper = _read(store, film)
    signed = paper.standing
    moment = paper.film.finished_at or paper.film.started_at
    sheet = Sheet(
        title=t(words.TITLE_OF, slide=paper.film.slide),
        subject=t(words.SUBJECT),
        language=language,
        moment=moment if signed is None else signed.signed_at,
        program=f"Leukoscope {paper.report.leukoscope_version}",
        research=t(words.RESEARCH),
        foot=t(words.FOOT, film=film, slide=paper.film.slide),
        page=lambda page, pages: t(words.PAGE, page=page, pages=pages),
    )
    _head(sheet, paper, t)
    _film(sheet, paper, t)
    _differential(sheet, paper, t)
    _screening(sheet, paper, t)
    _description(sheet, paper, t)
    _map(sheet, paper, t)
    _pictures(sheet, store, paper, t)
    _skipped(sheet, paper, t)
    _model(sheet, paper, t)
    _review(sheet, paper, t)
    return sheet.document()


def _read(store: ClinicStore, film: int) -> _Paper:
    """The film between two looks at its content that agree: somebody may be correcting it."""
    for _ in range(_TRIES):
        content = store.review.content(film)
        paper = _Paper(
            film=store.films.get(film),
            report=store.reports.corrected(film),
            fields=store.films.fields(film),
            cells=store.films.cells(film),
            signatures=store.review.signatures(film),
            film_map=store.films.map_of(film),
            content=content,
        )
        if paper.film.state == "running":
            raise RecordError(f"film {film}: still running; end it before it is printed")
        if store.review.content(film) == content:
            return paper
    raise RecordError(f"film {film}: it is being changed; print it when that is done")


def _head(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    badge, tone = _TONE[status(paper.film)]
    signed = paper.standing
    if signed is not None and signed.content_sha256 != paper.content:
        tone = "warn"
    sheet.masthead(t(words.TITLE), t(badge), tone)
    if signed is None:
        sheet.banner(t(words.PRELIMINARY_MEANS), "warn")
    else:
        line = t(words.SIGNED_BY, user=signed.user, when=_moment(signed.signed_at))
        if paper.film.amended:
            line += " " + t(words.AMENDED_MEANS)
        sheet.banner(line, "good")
        if signed.content_sha256 != paper.content:
            sheet.banner(t(words.NO_LONGER), "warn")
    if paper.film.state != "complete":
        sheet.banner(t(words.PARTIAL), "warn")
    domain = paper.report.domain
    if domain is not None and domain.outside and domain.score is not None:
        said = t(
            words.OUTSIDE_DOMAIN,
            score=say_number(domain.score),
            threshold=f"{domain.threshold:g}",
        )
        sheet.banner(said, "warn")
    for said in _unseen(paper.report, t):
        sheet.banner(said, "warn")


def _unseen(report: FilmReport, t: Translate) -> Iterator[str]:
    """What of the film was not seen, or may have been counted twice."""
    mosaic, live = report.mosaic, report.live
    if mosaic is not None and mosaic.lost:
        yield t(
            words.TRACK_LOST,
            lost=sum(mosaic.lost.values()),
            fields=mosaic.fields,
            finds=mosaic.finds_without_place,
        )
    if mosaic is not None and mosaic.cells_apart:
        yield t(words.PARTS_APART, parts=mosaic.fragments, cells=mosaic.cells_apart)
    if live is not None and live.gaps:
        seconds = f"{sum(gap.seconds for gap in live.gaps):.1f}"
        yield t(words.CAMERA_LOST, times=len(live.gaps), seconds=seconds)


def _film(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    film, cells = paper.film, paper.cells
    rows = [
        (t(words.SLIDE), film.slide),
        (t(words.PATIENT), film.patient or t(words.NOT_GIVEN)),
        (t(words.FILM), str(film.id)),
        (t(words.STARTED), _moment(film.started_at)),
        (t(words.FINISHED), _moment(film.finished_at)),
        (t(words.EXAMINED_BY), film.operator or t(words.NOBODY)),
        (t(words.FIELDS), t(words.FIELDS_COUNT, examined=film.fields, skipped=film.skipped)),
        (t(words.CELLS), t(words.CELLS_COUNT, cells=paper.report.totals.cells)),
    ]
    renamed = sum(x.corrected and not x.rejected and not x.added for x in cells)
    rejected = sum(x.rejected and not x.added for x in cells)
    added = sum(x.added and not x.rejected for x in cells)
    said = t(words.CORRECTIONS_COUNT, renamed=renamed, rejected=rejected, added=added)
    rows.append((t(words.CORRECTIONS), said if renamed or rejected or added else t(words.NONE)))
    if film.note:
        rows.append((t(words.NOTE), film.note))
    sheet.facts(rows)


def _differential(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    from edge_runtime.clinic.paper.sheet import Column

    sheet.heading(t(words.DIFFERENTIAL), keep=34)
    differential = paper.report.differential
    if differential is None:
        counts = sorted(paper.report.totals.cells_by_class.items())
        sheet.table(
            [Column(t(words.CLASS), 70), Column(t(words.COUNT), 20, "R")],
            [(t(say(name)), f"{count:,}") for name, count in counts],
        )
        sheet.gap(1.5)
        sheet.note(t(words.NO_CLASSIFIER))
        return
    confidence = f"{100 * differential.confidence:g}"
    columns = [
        Column(t(words.CLASS), 52),
        Column(t(words.COUNT), 16, "R"),
        Column(t(words.PERCENT), 15, "R"),
        Column(t(words.INTERVAL, confidence=confidence), 30, "R"),
    ]
    rows = [
        (
            t(say(each.class_name)),
            f"{each.count:,}",
            "–" if each.percent is None else f"{each.percent:.1f}",
            f"{each.low_percent:.1f} – {each.high_percent:.1f}",
        )
        for each in differential.classes
    ]
    axis = _axis(differential)
    rows.append((t(words.TOTAL), f"{differential.total:,}", "", ""))

    def draw(number: int, x: float, top: float, height: float) -> None:
        from edge_runtime.clinic.paper.sheet import MARGIN, RULE, WIDTH

        left, right = x + 3, MARGIN + WIDTH - 3
        per_percent = (right - left) / axis
        if number == len(differential.classes):
            for percent in (0, axis // 2, axis):
                at = left + percent * per_percent
                sheet.label(f"{percent} %", at - 8, top + 0.5, align="C", width=16)
            return
        for percent in (0, axis // 2, axis):
            at = left + percent * per_percent
            sheet.line(at, top, at, top + height, RULE)
        each = differential.classes[number]
        middle = top + height / 2
        sheet.bar(left, middle - 1.5, (each.percent or 0.0) * per_percent, 3)
        low, high = (left + end * per_percent for end in (each.low_percent, each.high_percent))
        sheet.line(low, middle, high, middle)
        for end in (low, high):
            sheet.line(end, middle - 0.8, end, middle + 0.8)

    sheet.table(columns, rows, draw=draw, strong_last=True)
    sheet.gap(1.5)
    beside = [*differential.outside.items(), (words.UNCLASSIFIED, differential.unclassified)]
    said = ", ".join(f"{t(say(name))} {count:,}" for name, count in beside)
    sheet.facts([(t(words.BESIDE), said)], label_width=52)
    if not paper.report.totals.cells:
        sheet.note(t(words.NO_CELLS))
    elif differential.total < _FEW_CELLS:
        sheet.note(t(words.FEW_CELLS))
    sheet.note(t(words.INTERVALS_MEAN))


def _axis(differential: DifferentialRecord) -> int:
    """The chart's end: a differential of ten classes would be lost on 100 percent."""
    most = max((each.high_percent for each in differential.classes), default=0.0)
    return next(end for end in _AXES if most <= end)


def _screening(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    judged = paper.report.screening
    if judged is None:
        return
    sheet.heading(t(words.SCREENING), keep=22)
    message = _VERDICTS.get(judged.state, words.SCREENING_ABSTAINS)
    sheet.text(t(message, threshold=f"{judged.threshold_percent:g}"), bold=True)
    sheet.gap(1)
    said = t(words.SCREENING_OF, named=f"{judged.named:,}", cells=f"{judged.cells:,}")
    rows = [(t(words.SCREENING_COUNTED), said)]
    if judged.corrected is not None:
        share = judged.corrected
        said = t(
            words.SCREENING_SHARE,
            percent=f"{share.percent:.1f}",
            confidence=f"{100 * judged.confidence:g}",
            low=f"{share.low_percent:.1f}",
            high=f"{share.high_percent:.1f}",
        )
        rows.append((t(words.SCREENING_SHARE_NAME), said))
    if judged.why is not None:
        rows.append((t(words.SCREENING_WHY), t(judged.why)))
    sheet.facts(rows)
    sheet.note(t(words.SCREENING_MEANS))


def _map(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    film = paper.film_map
    if film is None or not film.views:
        return
    from edge_runtime.clinic.paper.film_map import draw_film_map, height_of_first

    sheet.heading(t(words.MAP), keep=height_of_first(film) + 20)
    sheet.note(t(words.MAP_IS, cells=f"{len(film.cells):,}"))
    draw_film_map(sheet, film, class_order(paper.report), t)


def _description(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    described = paper.report.description
    if described is None:
        return
    sheet.heading(t(words.DESCRIPTION))
    for sentence in described.sentences:
        # It stands at the foot of this very page.
        if sentence != words.RESEARCH:
            sheet.text(sentence)


def _pictures(sheet: Sheet, store: ClinicStore, paper: _Paper, t: Translate) -> None:
    by_class: dict[str, list[StoredCell]] = {}
    for cell in paper.cells:
        if not cell.rejected:
            by_class.setdefault(cell.shown_class, []).append(cell)
    if not by_class:
        return
    row = sheet.picture_row_height(_CROP_MM)
    sheet.heading(t(words.CELL_PICTURES), keep=18 + row)
    sheet.note(t(words.CELL_PICTURES_ARE))
    blasts = blast_classes(list(by_class))
    order = [name for name in class_order(paper.report) if name in by_class]
    order += sorted(set(by_class) - set(order))
    unread = 0
    for name in order:
        cells = by_class[name]
        shown = sample_cells(cells, _CROPS_OF_BLASTS if name in blasts else _CROPS_OF_CLASS)
        label = t(words.UNCLASSIFIED) if name == UNCLASSIFIED else t(say(name))
        count = t(words.CELLS_SHOWN, shown=f"{len(shown):,}", count=f"{len(cells):,}")
        title = f"{label}: {count}"
        for at in range(0, len(shown), _CROPS_PER_ROW):
            fresh = sheet.room(row + (5 if at == 0 else 0))
            if at == 0 or fresh:
                again = t(words.CONTINUED, what=label)
                sheet.text(title if at == 0 else again, bold=True)
                sheet.gap(0.8)
            pictures = []
            for cell in shown[at : at + _CROPS_PER_ROW]:
                jpeg = _crop(store, cell)
                unread += jpeg is None and cell.crop_file is not None
                said = t(words.CELL_ALT, class_name=label, number=cell.number, field=cell.field)
                pictures.append((jpeg, said, _caption(cell, t)))
            sheet.row_of_pictures(
                pictures, side=_CROP_MM, gap=_CROP_GAP_MM, absent=t(words.NO_PICTURE)
            )
        sheet.gap(1)
    if unread:
        sheet.banner(t(words.UNREADABLE, count=unread), "warn")


def sample_cells(cells: Sequence[StoredCell], most: int) -> list[StoredCell]:
    """At most ``most`` cells, spread evenly from the surest to the least sure."""
    ranked = sorted(
        cells,
        key=lambda each: (
            -2.0 if _named_by_person(each) else -(each.class_probability or each.score or 0.0),
            each.field,
            each.number,
        ),
    )
    if len(ranked) <= most:
        return ranked
    return [ranked[round(at * (len(ranked) - 1) / (most - 1))] for at in range(most)]


def _named_by_person(cell: StoredCell) -> bool:
    return cell.added or cell.given_class is not None


def _crop(store: ClinicStore, cell: StoredCell) -> bytes | None:
    if cell.crop_file is None:
        return None
    try:
        return store.pictures.read(cell.film, cell.crop_file)
    except StoreError:
        # A report must come all the same; it says how many pictures it lacks.
        return None


def _caption(cell: StoredCell, t: Translate) -> str:
    probable = cell.class_probability if cell.class_probability is not None else cell.score
    sure = "✓" if _named_by_person(cell) or probable is None else say_probability(probable)
    return f"{t(words.CELL_PLACE, field=cell.field, number=cell.number)}   {sure}"


def _skipped(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    from edge_runtime.clinic.paper.sheet import Column

    reasons = Counter[str]()
    for field in paper.fields:
        if field.reason is not None:
            reasons[skip_reason(field.reason)] += field.frames
    if not reasons:
        return
    sheet.heading(t(words.SKIPPED))
    ranked = sorted(reasons.items(), key=lambda each: (-each[1], each[0]))
    shown, rest = ranked[:_SKIPPED_REASONS], ranked[_SKIPPED_REASONS:]
    rows = [(t(reason), f"{count:,}") for reason, count in shown]
    if rest:
        more = sum(count for _, count in rest)
        rows.append((t(words.MORE_REASONS, count=len(rest)), f"{more:,}"))
    sheet.table([Column(t(words.REASON), 150), Column(t(words.FIELDS), 20, "R")], rows)


def _model(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    report = paper.report
    sheet.heading(t(words.MODEL))
    rows = [
        (t(words.BUNDLE), report.bundle.id),
        (t(words.DIGEST), report.bundle.sha256),
        (t(words.BUNDLE_SIGNED), ", ".join(report.bundle.signed_by) or t(words.NOT_CHECKED)),
        (t(words.DETECTOR), _ran(report.backend, t)),
    ]
    if report.classifier is not None:
        rows.append((t(words.CLASSIFIER), _ran(report.classifier.backend, t)))
    if report.attribute_head is not None:
        rows.append((t(words.ATTRIBUTES), _ran(report.attribute_head.backend, t)))
    rows.append((t(words.DOMAIN), _domain(report, t)))
    rows.append((t(words.PROGRAM), f"Leukoscope {report.leukoscope_version}"))
    sheet.facts(rows)
    cards = [report.model_card, *report.head_cards.values()]
    if any(card.limits for card in cards):
        sheet.gap(1.5)
        sheet.room(12)
        sheet.text(t(words.LIMITS), bold=True)
    for card in cards:
        for limit in card.limits:
            sheet.text(f"• {limit}", size=8.5)


def _ran(backend: BackendRecord, t: Translate) -> str:
    return t(
        words.RAN,
        artifact=backend.artifact,
        precision=backend.precision,
        name=backend.name,
        version=backend.version,
        device=backend.device,
    )


def _domain(report: FilmReport, t: Translate) -> str:
    domain = report.domain
    if domain is None or domain.score is None:
        return t(words.DOMAIN_UNKNOWN)
    message = words.DOMAIN_OUTSIDE if domain.outside else words.DOMAIN_INSIDE
    return t(message, score=say_number(domain.score), threshold=f"{domain.threshold:g}")


def _review(sheet: Sheet, paper: _Paper, t: Translate) -> None:
    sheet.heading(t(words.REVIEW), keep=30)
    for each in paper.signatures:
        sheet.room(24)
        holds = each.content_sha256 == paper.content
        rows = [
            (t(words.REVIEWED_BY), each.user),
            (t(words.SIGNED), _moment(each.signed_at)),
            (t(words.CONTENT), each.content_sha256),
        ]
        if each.withdrawn_at is None:
            rows.append(("", t(words.CONTENT_HOLDS if holds else words.CONTENT_DIFFERS)))
        if each.comment:
            rows.append((t(words.COMMENT), each.comment))
        if each.withdrawn_at is not None:
            said = t(
                words.WITHDRAWN_BY,
                when=_moment(each.withdrawn_at),
                user=each.withdrawn_by or "–",
                why=each.withdrawn_why or "–",
            )
            rows.append((t(words.WITHDRAWN), said))
        sheet.facts(rows)
        sheet.gap(1.5)
    if paper.standing is None:
        sheet.facts([(t(words.CONTENT), paper.content)])
        sheet.room(26)
        sheet.note(t(words.UNSIGNED))
        sheet.sign_here([t(words.REVIEWED_BY), t(words.DATE), t(words.REMARKS)])
    sheet.gap(1)
    sheet.note(t(words.CONTENT_MEANS))
    if sheet.undrawn:
        points = ", ".join(sorted(f"U+{ord(each):04X}" for each in sheet.undrawn))
        sheet.note(t(words.UNDRAWN, characters=points))


def _moment(at: datetime | None) -> str:
    """To the minute, in UTC, so that the same film reads alike wherever it is printed."""
    return "–" if at is None else f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
