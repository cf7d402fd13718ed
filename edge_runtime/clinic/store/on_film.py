"""Where stored fields lie on the film, and which stored finds count as its cells.

Owns following a mosaic's updates in the rows, and reading them as a map. A cell's row keeps its id
and what people said of it, whichever find turns out to show it best. Does not own transactions
(see ``films``) nor deciding what is the same cell (see ``film.mosaic``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, and_, bindparam, select, update

from edge_runtime.clinic.store.records import StoredCell, StoredField
from edge_runtime.clinic.store.tables import cells, fields
from edge_runtime.clinic.store.trail import record
from edge_runtime.film_report import CellRecord, MosaicRecord, UncountedRecord
from edge_runtime.guided_record import cell_place

if TYPE_CHECKING:
    from edge_runtime.film.film_cells import Sighting
    from edge_runtime.film.mosaic import MosaicUpdate
    from edge_runtime.film.mosaic_map import FilmMap
    from edge_runtime.film.track import Lost, Placed

# What the model found; the rest of a row is the cell's own, and what people say of it.
_FOUND = (
    "field",
    "number",
    "x1",
    "y1",
    "x2",
    "y2",
    "score",
    "class_name",
    "best_class",
    "class_probability",
    "class_probabilities",
    "attributes",
    "crop_file",
)


def place_values(place: Placed | Lost | None) -> dict[str, Any]:
    """Of a field's row: where it lies, or why nobody knows."""
    from edge_runtime.film.track import Lost

    if place is None:
        return {}
    if isinstance(place, Lost):
        return {"lost": place.reason}
    return {"lost": None, "fragment": place.fragment, "film_x": place.x, "film_y": place.y}


def apply_update(connection: Connection, film: int, change: MosaicUpdate, at: datetime) -> None:
    """Follows one update; its field is there with its place, and its finds with their cells.

    Args:
        connection: within a writing transaction.
        film: its number.
        change: of the next field, or of the film's end.
        at: time of the audit trail's entries.
    """
    if change.earlier is not None:
        _put(connection, film, change.earlier.index, **place_values(change.earlier))
    here = None if change.place is None else change.place.index
    _see(connection, film, [seen for seen in change.sightings if seen.frame != here])
    for seen in change.sightings:
        if seen.best and not seen.new:
            standing = _counting(connection, film, seen.cell)
            assert standing is not None, "a cell of the film that no earlier field showed"
            _swap(connection, standing, _find(film, seen.frame, seen.row))
    for tie in change.ties:
        connection.execute(
            update(fields)
            .where(fields.c.film == film, fields.c.fragment == tie.fragment)
            .values(
                fragment=tie.into,
                film_x=fields.c.film_x + tie.x,
                film_y=fields.c.film_y + tie.y,
            )
        )
    for merge in change.merges:
        gone = _counting(connection, film, merge.cell)
        stays = _counting(connection, film, merge.into)
        shows_the_cell = and_(cells.c.film == film, cells.c.film_cell == merge.cell)
        if gone is None or stays is None:
            # The field that showed one of them first could not be kept, as on a full disk, and
            # with it went the film: the other one stands for the cell.
            connection.execute(update(cells).where(shows_the_cell).values(film_cell=merge.into))
            continue
        connection.execute(
            update(cells).where(shows_the_cell).values(film_cell=merge.into, counts=False)
        )
        if (gone.field, gone.number) == (merge.best.frame, merge.best.row + 1):
            _swap(connection, stays, cells.c.id == gone.id)
        _carry(connection, film, gone, stays, at)


def _see(connection: Connection, film: int, sightings: Sequence[Sighting]) -> None:
    """Says of finds of an earlier field which cells they show."""
    if not sightings:
        return
    connection.execute(
        update(cells)
        .where(
            cells.c.film == film,
            cells.c.field == bindparam("of_field"),
            cells.c.number == bindparam("of_number"),
        )
        .values(film_cell=bindparam("shows"), counts=bindparam("is_new")),
        [
            {
                "of_field": seen.frame,
                "of_number": seen.row + 1,
                "shows": seen.cell,
                "is_new": seen.new,
            }
            for seen in sightings
        ],
    )


def film_map_of(found: Sequence[StoredField], counted: Sequence[StoredCell]) -> FilmMap | None:
    """The map of a film from its rows; None where fields were not put together.

    Args:
        found: all fields.
        counted: cells that count, by whose ids the marks can be found; rejected ones are left out.
    """
    from edge_runtime.film.mosaic_map import map_of_places

    if not any(each.place or each.lost for each in found):
        return None
    places = {each.index: each.place for each in found if each.place is not None}
    sizes = [each.pixel_size_um for each in found if each.place and each.pixel_size_um]
    return map_of_places(
        [
            (
                each.id,
                each.field,
                each.box_xyxy,
                each.shown_class,
            )
            for each in counted
            if not each.rejected and each.field in places
        ],
        places,
        {each.index: (each.width or 0, each.height or 0) for each in found},
        pixel_size_um=sizes[0] if sizes else None,
        lost_fields=sum(each.lost is not None for each in found),
    )


def together(
    stored: Sequence[StoredField], found: Sequence[StoredCell], counted: Sequence[CellRecord]
) -> dict[str, Any]:
    """A report's ``cells`` with places, ``mosaic`` and ``not_counted``; nothing without a mosaic.

    Args:
        stored: all fields.
        found: finds of the report, those that do not count too.
        counted: records of those that do, in their order.
    """
    if not any(each.place or each.lost for each in stored):
        return {}
    places = {each.index: each.place for each in stored if each.place is not None}
    standing = {each.film_cell for each in found if each.counts}
    looks = Counter(each.film_cell for each in found)
    left = [
        UncountedRecord(
            field=each.field,
            number=each.number,
            box_xyxy=each.box_xyxy,
            score=1.0 if each.score is None else each.score,
            class_name=each.shown_class,
            cell=each.film_cell,
        )
        for each in found
        # A repeat of a cell that was rejected shows nothing.
        if not each.counts and (each.film_cell is None or each.film_cell in standing)
    ]
    cells = [
        record
        if each.film_cell is None
        else record.model_copy(
            update={
                "place": cell_place(
                    each.film_cell,
                    each.number,
                    each.box_xyxy,
                    places[each.field],
                    sightings=looks[each.film_cell],
                )
            }
        )
        for record, each in zip(counted, (x for x in found if x.counts), strict=True)
    ]
    apart = Counter(each.place.fragment for each in cells if each.place is not None)
    lost = Counter(each.lost.split(":", 1)[0] for each in stored if each.lost is not None)
    sizes = [each.pixel_size_um for each in stored if each.place and each.pixel_size_um]
    without = sum(each.cell is None for each in left)
    return {
        "cells": cells,
        "not_counted": left,
        "mosaic": MosaicRecord(
            fields=sum(each.reason is None for each in stored),
            fields_placed=len(places),
            lost=dict(lost),
            cells=len(cells),
            cells_apart=apart.total() - max(apart.values(), default=0),
            fragments=len({fragment for fragment, _, _ in places.values()}),
            finds_without_place=without,
            repeats=len(left) - without,
            pixel_size_um=sizes[0] if sizes else None,
        ),
    }


def _put(connection: Connection, film: int, index: int, **values: Any) -> None:
    where = and_(fields.c.film == film, fields.c.index == index)
    connection.execute(update(fields).where(where).values(**values))


def _find(film: int, field: int, row: int) -> Any:
    return and_(cells.c.film == film, cells.c.field == field, cells.c.number == row + 1)


def _counting(connection: Connection, film: int, cell: int) -> Row[Any] | None:
    where = and_(cells.c.film == film, cells.c.film_cell == cell, cells.c.counts)
    return connection.execute(select(cells).where(where)).one_or_none()


def _swap(connection: Connection, cell: Row[Any], find: Any) -> None:
    """The cell's row takes what the model found in another one, which takes the cell's."""
    other = connection.execute(select(cells).where(find)).one()
    mine = {name: cell._mapping[name] for name in _FOUND}
    others = {name: other._mapping[name] for name in _FOUND}
    # No two rows of a film may have the same field and number, not even for a moment.
    for row, values in ((other, {"number": -other.id}), (cell, others), (other, mine)):
        connection.execute(update(cells).where(cells.c.id == row.id).values(**values))


def _carry(
    connection: Connection, film: int, gone: Row[Any], stays: Row[Any], at: datetime
) -> None:
    """What people said of a cell that is no more holds for the one it is, unless they said more."""
    if stays.given_class is not None or stays.rejected:
        return
    if gone.given_class is None and not gone.rejected:
        return
    before = {"given_class": stays.given_class, "rejected": bool(stays.rejected)}
    after = {"given_class": gone.given_class, "rejected": bool(gone.rejected)}
    connection.execute(update(cells).where(cells.c.id == stays.id).values(**after))
    record(
        connection, at, None, "cells_merged", film=film, cell=stays.id, before=before, after=after
    )
