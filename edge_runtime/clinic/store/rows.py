"""Rows of films, fields and cells as records.

Owns the reading queries that several parts of the store share, each within the caller's
transaction. Does not own writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, select

from edge_runtime.clinic.store.records import (
    Signature,
    StoredCell,
    StoredField,
    StoredFilm,
)
from edge_runtime.clinic.store.tables import cells, fields, films, signatures, users
from edge_runtime.errors import RecordError
from edge_runtime.types import JudgedAttribute


def film_query() -> Select[Any]:
    """Films with their counts and signatures; add ``where`` and order."""
    done = select(func.count()).where(fields.c.film == films.c.id, fields.c.reason.is_(None))
    skipped = select(func.coalesce(func.sum(fields.c.frames), 0)).where(
        fields.c.film == films.c.id, fields.c.reason.is_not(None)
    )
    found = select(func.count()).where(
        cells.c.film == films.c.id, cells.c.counts, ~cells.c.rejected
    )
    standing = select(func.count()).where(
        signatures.c.film == films.c.id, signatures.c.withdrawn_at.is_(None)
    )
    withdrawn = select(func.count()).where(
        signatures.c.film == films.c.id, signatures.c.withdrawn_at.is_not(None)
    )
    return select(
        films,
        users.c.name.label("operator_name"),
        done.scalar_subquery().label("field_count"),
        skipped.scalar_subquery().label("skipped_count"),
        found.scalar_subquery().label("cell_count"),
        standing.scalar_subquery().label("standing"),
        withdrawn.scalar_subquery().label("withdrawn"),
    ).outerjoin(users, films.c.operator == users.c.id)


def film_of(row: Row[Any]) -> StoredFilm:
    """A row of ``film_query``."""
    return StoredFilm(
        id=row.id,
        state=row.state,
        review="final" if row.standing else "preliminary",
        amended=bool(row.withdrawn),
        slide=row.slide,
        patient=row.patient,
        note=row.note,
        operator=row.operator_name,
        started_at=datetime.fromisoformat(row.started_at),
        finished_at=None if row.finished_at is None else datetime.fromisoformat(row.finished_at),
        bundle=row.bundle,
        fields=row.field_count,
        skipped=row.skipped_count,
        cells=row.cell_count,
    )


def get_film(connection: Connection, film: int) -> StoredFilm:
    """One film; RecordError when there is none of this number."""
    row = connection.execute(film_query().where(films.c.id == film)).first()
    if row is None:
        raise RecordError(f"film {film}: no such film; it may have been deleted")
    return film_of(row)


def get_open_film(connection: Connection, film: int) -> StoredFilm:
    """One film that may be changed; RecordError when it is signed, or not there."""
    found = get_film(connection, film)
    if found.review == "final":
        raise RecordError(f"film {film}: signed; a reviewer must reopen it before it is changed")
    return found


def get_fields(connection: Connection, film: int) -> list[StoredField]:
    """A film's fields, in their order."""
    query = select(fields).where(fields.c.film == film).order_by(fields.c.index)
    return [
        StoredField(
            film=row.film,
            index=row._mapping["index"],
            name=row.name,
            width=row.width,
            height=row.height,
            tiles=row.tiles,
            reason=row.reason,
            domain_score=row.domain_score,
            preview_file=row.preview_file,
            preview_scale=row.preview_scale,
            frame_file=row.frame_file,
            checked=row.checked_by is not None,
            age_ms=row.age_ms,
            place=None if row.fragment is None else (row.fragment, row.film_x, row.film_y),
            lost=row.lost,
            pixel_size_um=row.pixel_size_um,
            frames=row.frames,
        )
        for row in connection.execute(query)
    ]


def get_cells(
    connection: Connection, film: int, field: int | None = None, *, every: bool = False
) -> list[StoredCell]:
    """A film's cells, or a field's, in the order of the report; with ``every`` all finds."""
    query = select(cells).where(cells.c.film == film).order_by(cells.c.field, cells.c.number)
    if not every:
        query = query.where(cells.c.counts)
    if field is not None:
        query = query.where(cells.c.field == field)
    return [cell_of(row) for row in connection.execute(query)]


def get_cell(connection: Connection, cell: int) -> StoredCell:
    """One cell; RecordError when there is none of this number."""
    row = connection.execute(select(cells).where(cells.c.id == cell)).first()
    if row is None:
        raise RecordError(f"cell {cell}: no such cell; its film may have been deleted")
    return cell_of(row)


def counted_as(connection: Connection, cell: StoredCell) -> StoredCell:
    """The cell that a find counts as: itself, unless it turned out to be a repeat of another."""
    if cell.counts or cell.film_cell is None:
        return cell
    same = and_(cells.c.film == cell.film, cells.c.film_cell == cell.film_cell, cells.c.counts)
    row = connection.execute(select(cells).where(same)).first()
    return cell if row is None else cell_of(row)


def cell_of(row: Row[Any]) -> StoredCell:
    """A row of the table ``cells``."""
    judged = row.attributes
    return StoredCell(
        id=row.id,
        film=row.film,
        field=row.field,
        number=row.number,
        box_xyxy=(row.x1, row.y1, row.x2, row.y2),
        score=row.score,
        class_name=row.class_name,
        best_class=row.best_class,
        class_probability=row.class_probability,
        class_probabilities=row.class_probabilities,
        attributes=None
        if judged is None
        else {
            name: None if pair is None else JudgedAttribute(*pair) for name, pair in judged.items()
        },
        crop_file=row.crop_file,
        given_class=row.given_class,
        rejected=bool(row.rejected),
        film_cell=row.film_cell,
        counts=bool(row.counts),
    )


def get_signatures(connection: Connection, film: int) -> list[Signature]:
    """A film's signatures, withdrawn ones too, oldest first."""
    withdrawer = users.alias("withdrawer")
    query = (
        select(
            signatures, users.c.name.label("user_name"), withdrawer.c.name.label("withdrawer_name")
        )
        .join(users, signatures.c.user == users.c.id)
        .outerjoin(withdrawer, signatures.c.withdrawn_by == withdrawer.c.id)
        .where(signatures.c.film == film)
        .order_by(signatures.c.id)
    )
    return [
        Signature(
            id=row.id,
            film=row.film,
            user=row.user_name,
            signed_at=datetime.fromisoformat(row.signed_at),
            comment=row.comment,
            content_sha256=row.content_sha256,
            withdrawn_at=None
            if row.withdrawn_at is None
            else datetime.fromisoformat(row.withdrawn_at),
            withdrawn_by=row.withdrawer_name,
            withdrawn_why=row.withdrawn_why,
        )
        for row in connection.execute(query)
    ]


def named_files(connection: Connection, film: int) -> set[str]:
    """Every picture that a film's rows name."""
    queries: Sequence[Select[Any]] = (
        select(fields.c.preview_file).where(fields.c.film == film),
        select(fields.c.frame_file).where(fields.c.film == film),
        select(cells.c.crop_file).where(cells.c.film == film),
        select(films.c.report_file).where(films.c.id == film),
    )
    return {name for query in queries for (name,) in connection.execute(query) if name is not None}


def field_exists(connection: Connection, film: int, index: int) -> bool:
    """Whether a film has an examined field of this index."""
    query = select(fields.c.film).where(
        and_(fields.c.film == film, fields.c.index == index, fields.c.reason.is_(None))
    )
    return connection.execute(query).first() is not None
