"""Films as they come in and as they are looked for.

Owns writing a film field by field, ending it, and searching. A field's pictures are on the
disk before the row that names them is, and field and cells are one transaction: after a power
cut a field is there whole, or not at all. Does not own corrections nor signatures.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy import Connection, func, insert, or_, select, update

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.atomic_file import utf8
from edge_runtime.clinic.store import rows
from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.device_settings import ClinicSettings
from edge_runtime.clinic.store.on_film import apply_update, film_map_of, place_values
from edge_runtime.clinic.store.pictures import GZIP, Pictures
from edge_runtime.clinic.store.records import (
    NewFilm,
    ReviewState,
    StoredCell,
    StoredField,
    StoredFilm,
    StoredState,
    stamp,
)
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.tables import cells, fields, films, signatures
from edge_runtime.clinic.store.trail import record
from edge_runtime.clinic.store.users import User, Users
from edge_runtime.errors import RecordError, StoreError
from edge_runtime.film_report import FilmReport
from edge_runtime.types import CellFinding, FieldResult, SkippedFrame

if TYPE_CHECKING:
    from edge_runtime.film.mosaic import MosaicUpdate
    from edge_runtime.film.mosaic_map import FilmMap

_TEXT_CHARACTERS = 200
_NOTE_CHARACTERS = 4000
# A wall clock that differs by more from a film's own length was set meanwhile; the last write of a
# film on a slow disk stays below.
_CLOCK_MOVED_S = 30.0


@dataclass(frozen=True, slots=True)
class FilmClasses:
    """What a cell of a film may be named, fixed when the film began.

    Attributes:
        names: the classifier's (or detector's), then those of the device's settings.
        outside: those counted beside the differential.
    """

    names: tuple[str, ...]
    outside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _End:
    """How a film ended, ready to be written."""

    state: StoredState
    at: datetime
    header: dict[str, Any]
    report_file: str | None
    scores: Mapping[int, float]
    duration_s: float


class Films:
    """The films of one store."""

    def __init__(
        self, database: Database, pictures: Pictures, people: Users, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._pictures = pictures
        self._users = people
        self._now = now
        # Films whose end could not be written; see ``end_left_over``.
        self._left: dict[int, _End] = {}
        self._lock = threading.Lock()

    def start(
        self,
        film: NewFilm,
        header: FilmReport,
        settings: ClinicSettings,
        *,
        by: User | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> int:
        """Begins a film; gives its number.

        Args:
            film: what a person says of it.
            header: a report of no field yet: bundle, backend, heads, settings.
            settings: the device's, for the classes a person may give.
            by: who examines it.
            template: the bundle's own of the description.

        Raises:
            AccessError: ``by`` may not examine films.
            RecordError: the slide is not named, or a text is too long.
            StoreError: it cannot be written.
        """
        label = _label(film)
        self.end_left_over()
        with self._database.writing() as connection:
            if by is not None:
                require(self._users.in_transaction(connection, by), "examine")
            done = connection.execute(
                insert(films).values(
                    **label,
                    state="running",
                    operator=None if by is None else by.id,
                    started_at=stamp(self._now()),
                    bundle=header.bundle.id,
                    header=_header(header),
                    classes=_classes(header, settings),
                    template=None if template is None else dict(template),
                )
            )
            (number,) = done.inserted_primary_key or (0,)
            actor = None if by is None else by.id
            record(connection, self._now(), actor, "film_started", film=number)
        self._pictures.open_film(number)
        return int(number)

    def add_field(self, film: int, result: FieldResult, *, keep_frame: bool = True) -> None:
        """Keeps one examined field; on the disk when this returns. Raises StoreError."""
        # A repeat that is no better look has no picture.
        pictures = [cell.crop_jpeg for cell in result.cells if cell.crop_jpeg]
        full = result.frame_jpeg if keep_frame else None
        contents = [each for each in (*pictures, result.preview_jpeg, full) if each]
        kept = iter(self._pictures.keep(film, contents) if contents else ())
        crops = [next(kept) if cell.crop_jpeg else None for cell in result.cells]
        preview = next(kept) if result.preview_jpeg else None
        frame = next(kept) if full else None
        with self._database.writing() as connection:
            connection.execute(
                insert(fields).values(
                    film=film,
                    index=result.index,
                    name=_text(result.name),
                    width=result.width,
                    height=result.height,
                    tiles=result.tiles,
                    preview_file=preview,
                    preview_scale=result.preview_scale,
                    frame_file=frame,
                    stored_at=stamp(self._now()),
                    age_ms=result.age_ms,
                    pixel_size_um=result.pixel_size_um,
                    **({} if result.mosaic is None else place_values(result.mosaic.place)),
                )
            )
            found = [
                _cell_row(film, result.index, number, cell, crop)
                for number, (cell, crop) in enumerate(
                    zip(result.cells, crops, strict=True), start=1
                )
            ]
            if result.mosaic is not None:
                for row in found:
                    row["counts"] = False
                for seen in result.mosaic.sightings:
                    if seen.frame == result.index:
                        found[seen.row].update(film_cell=seen.cell, counts=seen.new)
            if found:
                connection.execute(insert(cells), found)
            if result.mosaic is not None:
                apply_update(connection, film, result.mosaic, self._now())

    def settle(self, film: int, update: MosaicUpdate) -> None:
        """Keeps what only the film's end showed of its cells. Raises StoreError."""
        with self._database.writing() as connection:
            apply_update(connection, film, update, self._now())

    def add_skipped(self, film: int, skipped: SkippedFrame) -> None:
        """Keeps that a field could not be looked at. Raises StoreError."""
        with self._database.writing() as connection:
            connection.execute(
                insert(fields).values(
                    film=film,
                    index=skipped.index,
                    name=_text(skipped.name),
                    tiles=0,
                    reason=_text(skipped.reason),
                    frames=skipped.frames,
                    stored_at=stamp(self._now()),
                )
            )

    def finish(self, film: int, report: FilmReport) -> None:
        """Ends a film with the report of its run.

        Raises:
            StoreError: the report cannot be written, and the film ends without it; or not even
                its end can, and is written as soon as something can be.
        """
        failure: StoreError | None = None
        report_file: str | None = None
        try:
            document = json.dumps(report.model_dump(mode="json"), ensure_ascii=False)
            packed = gzip.compress(utf8(document), mtime=0)
            (report_file,) = self._pictures.keep(film, [packed], GZIP)
        except StoreError as error:
            # The disk may be full; the fields are kept, and the report can be made of them.
            failure = error
        scores = {
            each.index: each.domain_score for each in report.fields if each.domain_score is not None
        }
        end = _End(
            report.state, self._now(), _header(report), report_file, scores, report.duration_s
        )
        try:
            self._write_end(film, end)
        except StoreError:
            with self._lock:
                self._left[film] = end
            raise
        if failure is not None:
            raise failure

    def note_stop(self, film: int, by: User) -> None:
        """Writes into the trail who ended a film that ran.

        Raises:
            AccessError: ``by`` may not examine films.
            StoreError: it cannot be written.
        """
        with self._database.writing() as connection:
            require(self._users.in_transaction(connection, by), "examine")
            record(connection, self._now(), by.id, "film_stopped", film=film)

    def end_left_over(self) -> list[int]:
        """Ends films whose end could not be written, as on a full disk; gives their numbers.

        Until then they count as running. Done before each new film, and when the store closes.

        Raises:
            StoreError: it still cannot.
        """
        with self._lock:
            left = dict(self._left)
        for film, end in left.items():
            self._write_end(film, end)
            with self._lock:
                self._left.pop(film, None)
        return list(left)

    def _write_end(self, film: int, end: _End) -> None:
        with self._database.writing() as connection:
            started = connection.execute(
                select(films.c.started_at).where(films.c.id == film, films.c.state == "running")
            ).scalar()
            if started is None:
                return
            # The film's length is counted by a clock that nobody sets.
            moved_s = (end.at - datetime.fromisoformat(started)).total_seconds() - end.duration_s
            moved = round(moved_s) if abs(moved_s) > _CLOCK_MOVED_S else None
            _end(connection, film, end.state, end.at, end.header, end.report_file, moved)
            for index, score in end.scores.items():
                connection.execute(
                    update(fields)
                    .where(fields.c.film == film, fields.c.index == index)
                    .values(domain_score=score)
                )

    def recover(self) -> list[int]:
        """Ends films that a power cut left running, and removes files that no row names.

        Only while no other process may be examining. Gives the films ended so.
        """
        with self._database.writing() as connection:
            left = [
                int(number)
                for (number,) in connection.execute(
                    select(films.c.id).where(films.c.state == "running")
                )
            ]
            for film in left:
                _end(connection, film, "interrupted", self._now(), None, None)
            kept = {int(number) for (number,) in connection.execute(select(films.c.id))}
            named = {film: rows.named_files(connection, film) for film in left}
        for film in self._pictures.films():
            if film not in kept:
                self._pictures.remove_film(film)
            elif film in named:
                self._pictures.sweep(film, named[film])
        return left

    def get(self, film: int) -> StoredFilm:
        """One film; RecordError when there is none of this number."""
        with self._database.reading() as connection:
            return rows.get_film(connection, film)

    def search(
        self,
        words: str = "",
        *,
        state: StoredState | None = None,
        review: ReviewState | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[StoredFilm]:
        """Films whose slide, patient or note hold every word, newest first.

        Args:
            words: parted by spaces; a number is a film's number as well.
            state: only such.
            review: only such.
            before: only films of a smaller number, to page on.
            limit: at most so many.
        """
        query = rows.film_query().order_by(films.c.id.desc()).limit(limit)
        for word in words.split():
            places = [
                column.contains(word, autoescape=True)
                for column in (films.c.slide, films.c.patient, films.c.note)
            ]
            if word.isascii() and word.isdecimal() and len(word) < 18:
                places.append(films.c.id == int(word))
            query = query.where(or_(*places))
        if state is not None:
            query = query.where(films.c.state == state)
        if review is not None:
            standing = (
                select(signatures.c.id)
                .where(signatures.c.film == films.c.id, signatures.c.withdrawn_at.is_(None))
                .exists()
            )
            query = query.where(standing if review == "final" else ~standing)
        if before is not None:
            query = query.where(films.c.id < before)
        with self._database.reading() as connection:
            return [rows.film_of(row) for row in connection.execute(query)]

    def fields(self, film: int) -> list[StoredField]:
        """A film's fields, in their order."""
        with self._database.reading() as connection:
            return rows.get_fields(connection, film)

    def cells(
        self, film: int, field: int | None = None, *, every: bool = False
    ) -> list[StoredCell]:
        """A film's cells, or a field's, rejected ones too.

        Args:
            film: its number.
            field: only those whose best look is in it.
            every: all finds: repeats of cells, and those in fields of which nobody knows the
                place, neither of which count.
        """
        with self._database.reading() as connection:
            return rows.get_cells(connection, film, field, every=every)

    def cell(self, cell: int) -> StoredCell:
        """One cell, whatever its film; RecordError when there is none of this number."""
        with self._database.reading() as connection:
            return rows.get_cell(connection, cell)

    def counted_as(self, cell: int) -> StoredCell:
        """The cell that a find counts as: itself, unless it turned out to be a repeat.

        Raises:
            RecordError: no such cell.
        """
        with self._database.reading() as connection:
            return rows.counted_as(connection, rows.get_cell(connection, cell))

    def map_of(self, film: int) -> FilmMap | None:
        """Where the film's cells lie, by the class that counts, without rejected ones.

        The mark of a cell is named by its id in the store.

        Returns:
            None where fields were not put together.

        Raises:
            RecordError: no such film.
        """
        with self._database.reading() as connection:
            rows.get_film(connection, film)
            return film_map_of(rows.get_fields(connection, film), rows.get_cells(connection, film))

    def counts(self, film: int) -> dict[str, int]:
        """Cells by the class that counts, each once, rejected ones left out."""
        shown = func.coalesce(cells.c.given_class, cells.c.class_name)
        query = (
            select(shown, func.count())
            .where(cells.c.film == film, cells.c.counts, ~cells.c.rejected)
            .group_by(shown)
        )
        with self._database.reading() as connection:
            return {name: int(count) for name, count in connection.execute(query)}

    def classes(self, film: int) -> FilmClasses:
        """What a cell of the film may be named."""
        with self._database.reading() as connection:
            return film_classes(connection, film)

    def relabel(self, film: int, new: NewFilm, by: User) -> StoredFilm:
        """Changes slide, patient and note of a film that is not signed.

        Raises:
            AccessError: ``by`` may not.
            RecordError: the film is signed or not there, or a text will not do.
        """
        label = _label(new)
        with self._database.writing() as connection:
            require(self._users.in_transaction(connection, by), "examine")
            old = rows.get_open_film(connection, film)
            changed = sorted(name for name in label if getattr(old, name) != label[name])
            if changed:
                connection.execute(update(films).where(films.c.id == film).values(**label))
                # The trail outlives the film, so the texts themselves are not in it.
                after = {"changed": changed}
                record(connection, self._now(), by.id, "label_changed", film=film, after=after)
            return rows.get_film(connection, film)

    def header(self, film: int) -> FilmReport:
        """The report without fields and cells, as it is known so far.

        Raises:
            RecordError: no such film.
            StoreError: what is stored is no such report.
        """
        with self._database.reading() as connection:
            return read_header(connection, film)


def film_classes(connection: Connection, film: int) -> FilmClasses:
    """What a cell of the film may be named; RecordError when there is no such film."""
    found = connection.execute(select(films.c.classes).where(films.c.id == film)).scalar()
    if found is None:
        raise RecordError(f"film {film}: no such film; it may have been deleted")
    return FilmClasses(tuple(found["names"]), tuple(found["outside"]))


def read_header(connection: Connection, film: int) -> FilmReport:
    """See ``Films.header``."""
    found = connection.execute(select(films.c.header).where(films.c.id == film)).scalar()
    if found is None:
        raise RecordError(f"film {film}: no such film; it may have been deleted")
    try:
        return FilmReport.model_validate({**found, "fields": [], "cells": []})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"film {film}: its stored report is not one of this program: {where}: {first['msg']}; "
            "update Leukoscope"
        ) from error


def _header(report: FilmReport) -> dict[str, Any]:
    document = report.model_dump(mode="json", exclude={"fields", "cells"})
    plain: dict[str, Any] = json.loads(utf8(json.dumps(document, ensure_ascii=False)))
    return plain


def _classes(header: FilmReport, settings: ClinicSettings) -> dict[str, list[str]]:
    named = header.classifier
    own = list(header.totals.cells_by_class) if named is None else list(named.classes)
    own = [name for name in own if name != UNCLASSIFIED]
    outside = [] if named is None else list(named.outside_differential)
    more_outside = [name for name in settings.extra_outside if name not in own]
    more = [name for name in settings.extra_classes if name not in (*own, *more_outside)]
    return {
        "names": [*own, *more, *more_outside, UNCLASSIFIED],
        "outside": [*outside, *more_outside],
    }


def _label(film: NewFilm) -> dict[str, str | None]:
    slide = " ".join(film.slide.split())
    patient = " ".join((film.patient or "").split()) or None
    note = (film.note or "").strip() or None
    if not slide:
        raise RecordError("film: name its slide, so that it can be found again")
    for what, text, most in (
        ("slide", slide, _TEXT_CHARACTERS),
        ("patient", patient, _TEXT_CHARACTERS),
        ("note", note, _NOTE_CHARACTERS),
    ):
        if text is not None and len(text) > most:
            raise RecordError(f"{what}: {len(text)} characters; at most {most}")
    return {"slide": slide, "patient": patient, "note": note}


def _cell_row(
    film: int, field: int, number: int, cell: CellFinding, crop: str | None
) -> dict[str, Any]:
    x1, y1, x2, y2 = cell.box_xyxy
    # Of a repeat nobody asks for more than its class, and there are many.
    judged = None if cell.repeats else cell.attributes
    shares = None if cell.repeats else cell.class_probabilities
    return {
        "film": film,
        "field": field,
        "number": number,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "score": cell.score,
        "class_name": cell.class_name,
        "best_class": cell.best_class,
        "class_probability": cell.class_probability,
        "class_probabilities": None if shares is None else dict(shares),
        "attributes": None
        if judged is None
        else {
            name: None if each is None else [each.value, each.probability]
            for name, each in judged.items()
        },
        "crop_file": crop,
        "rejected": False,
        "film_cell": None,
        "counts": True,
    }


def _end(
    connection: Connection,
    film: int,
    state: StoredState,
    at: datetime,
    header: dict[str, Any] | None,
    report_file: str | None,
    clock_moved_s: int | None = None,
) -> None:
    values: dict[str, Any] = {
        "state": state,
        "finished_at": stamp(at),
        "report_file": report_file,
    }
    if header is not None:
        values["header"] = header
    connection.execute(update(films).where(films.c.id == film).values(**values))
    action = "film_finished" if header is not None else "film_recovered"
    after: dict[str, Any] = {"state": state}
    if clock_moved_s is not None:
        after["clock_moved_s"] = clock_moved_s
    record(connection, at, None, action, film=film, after=after)


def _text(text: str) -> str:
    """A file name may hold bytes that are no text; a database takes none such."""
    return utf8(text).decode("utf-8")
