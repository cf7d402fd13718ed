"""A film of the store as the self-contained page ``report.html``, as it stands after corrections.

Owns giving the stored fields to the report's sink, one at a time. Does not own the page (see
``html_report``) nor the numbers (see ``store.corrected``).
"""

from __future__ import annotations

import tempfile
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.clinic.exports.fhir import status
from edge_runtime.clinic.html_report import REPORT_HTML, HtmlSink, ReviewShown
from edge_runtime.clinic.paper import words
from edge_runtime.clinic.store.records import Signature, StoredCell, StoredField
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User
from edge_runtime.errors import RecordError
from edge_runtime.film_report import CellRecord
from edge_runtime.types import CellFinding, FieldResult, JudgedAttribute

_NO_PICTURE = b""
_TRIES = 3
_BADGES = {"preliminary": words.PRELIMINARY, "final": words.FINAL, "amended": words.AMENDED}


def film_html(store: ClinicStore, film: int, by: User | None) -> bytes:
    """A film's report as one HTML file.

    Args:
        store: open.
        film: its number.
        by: who exports; None when it is the device's owner on the command line.

    Returns:
        UTF-8.

    Raises:
        AccessError: ``by`` may not export.
        RecordError: no such film.
        StoreError: what is stored cannot be read.
    """
    if by is not None:
        require(by, "export")
    for _ in range(_TRIES):
        content = store.review.content(film)
        page = _page(store, film)
        # Somebody may be correcting it: signature and numbers must be of one state.
        if store.review.content(film) == content:
            store.note_export(film, by, "HTML report")
            return page
    raise RecordError(f"film {film}: it is being changed; export it when that is done")


def _page(store: ClinicStore, film: int) -> bytes:
    report = store.reports.corrected(film)
    # The report's cells are those that are not rejected, in the same order.
    records = iter(report.cells)
    with tempfile.TemporaryDirectory(prefix="leukoscope-") as folder:
        sink = HtmlSink(Path(folder), review=_review(store, film))
        sink.start()
        for field in store.films.fields(film):
            if field.reason is not None:
                continue
            cells = [each for each in store.films.cells(film, field.index) if not each.rejected]
            sink.append(_result(store, field, [(each, next(records)) for each in cells]))
        sink.finish(report)
        return (Path(folder) / REPORT_HTML).read_bytes()


def _review(store: ClinicStore, film: int) -> ReviewShown:
    """As the printed report has it, in its words."""
    found, signatures = store.films.get(film), store.review.signatures(film)
    content = store.review.content(film)
    standing = next((x for x in reversed(signatures) if x.withdrawn_at is None), None)
    badge = _BADGES[status(found)]
    if standing is None:
        banner = words.PRELIMINARY_MEANS
    else:
        banner = words.SIGNED_BY.format(user=standing.user, when=_moment(standing.signed_at))
        if found.amended:
            banner += f" {words.AMENDED_MEANS}"
        if standing.content_sha256 != content:
            banner += f" {words.NO_LONGER}"
    return ReviewShown(
        badge=badge.capitalize(),
        banner=banner,
        warning=standing is None or standing.content_sha256 != content,
        content=content,
        signatures=tuple(_signature(each, content) for each in signatures),
    )


def _signature(each: Signature, content: str) -> tuple[tuple[str, str], ...]:
    rows = [
        (words.REVIEWED_BY, each.user),
        (words.SIGNED, _moment(each.signed_at)),
        (words.CONTENT, each.content_sha256),
    ]
    if each.comment:
        rows.append((words.COMMENT, each.comment))
    if each.withdrawn_at is None:
        holds = each.content_sha256 == content
        rows.append(("Stored", words.CONTENT_HOLDS if holds else words.CONTENT_DIFFERS))
    else:
        said = words.WITHDRAWN_BY.format(
            when=_moment(each.withdrawn_at), user=each.withdrawn_by, why=each.withdrawn_why
        )
        rows.append((words.WITHDRAWN, said))
    return tuple(rows)


def _moment(at: datetime) -> str:
    """In UTC, as on paper."""
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _result(
    store: ClinicStore, field: StoredField, cells: list[tuple[StoredCell, CellRecord]]
) -> FieldResult:
    return FieldResult(
        index=field.index,
        name=field.name,
        width=field.width or 0,
        height=field.height or 0,
        cells=tuple(_finding(store, stored, record) for stored, record in cells),
        preview_jpeg=_picture(store, field.film, field.preview_file),
        preview_scale=field.preview_scale or 1.0,
        tiles=field.tiles,
    )


def _finding(store: ClinicStore, stored: StoredCell, record: CellRecord) -> CellFinding:
    judged = record.attributes
    return CellFinding(
        box_xyxy=stored.box_xyxy,
        score=record.score,
        class_name=record.class_name,
        crop_jpeg=_picture(store, stored.film, stored.crop_file),
        best_class=record.best_class,
        class_probability=record.class_probability,
        class_probabilities=record.class_probabilities,
        attributes=None
        if judged is None
        else {
            name: None if each is None else JudgedAttribute(each.value, each.probability)
            for name, each in judged.items()
        },
    )


def _picture(store: ClinicStore, film: int, name: str | None) -> bytes:
    return _NO_PICTURE if name is None else store.pictures.read(film, name)
