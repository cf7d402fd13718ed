"""A film of the store as the self-contained page ``report.html``, as it stands after corrections.

Owns giving the stored fields to the report's sink, one at a time. Does not own the page (see
``html_report``) nor the numbers (see ``store.corrected``).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from edge_runtime.clinic.html_report import REPORT_HTML, HtmlSink
from edge_runtime.clinic.store.records import StoredCell, StoredField
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User
from edge_runtime.film_report import CellRecord
from edge_runtime.types import CellFinding, FieldResult, JudgedAttribute

_NO_PICTURE = b""


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
    report = store.reports.corrected(film)
    # The report's cells are those that are not rejected, in the same order.
    records = iter(report.cells)
    with tempfile.TemporaryDirectory(prefix="leukoscope-") as folder:
        sink = HtmlSink(Path(folder))
        sink.start()
        for field in store.films.fields(film):
            if field.reason is not None:
                continue
            cells = [each for each in store.films.cells(film, field.index) if not each.rejected]
            sink.append(_result(store, field, [(each, next(records)) for each in cells]))
        sink.finish(report)
        content = (Path(folder) / REPORT_HTML).read_bytes()
    store.note_export(film, by, "HTML report")
    return content


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
