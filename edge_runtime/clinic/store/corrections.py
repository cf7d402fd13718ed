"""What people correct: the class of a cell, finds that are none, cells that were missed.

Owns the corrections and taking them back. Each is one entry of the audit trail with the values
before and after. Does not own what a film's report says afterwards (see ``corrected``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from edge_runtime.clinic.store import rows
from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.films import film_classes
from edge_runtime.clinic.store.pictures import Pictures
from edge_runtime.clinic.store.records import Change, StoredCell, StoredField
from edge_runtime.clinic.store.roles import require
from edge_runtime.clinic.store.tables import cells, fields
from edge_runtime.clinic.store.trail import changes, record
from edge_runtime.clinic.store.users import User, Users
from edge_runtime.errors import RecordError

_UNDOABLE = ("class_given", "cell_rejected", "cell_restored", "cell_added", "field_checked")
# Narrower than any white cell at any magnification: a slip of the finger.
_NARROWEST_PX = 4.0
_CROP_MARGIN, _CROP_SIDE_PX, _CROP_QUALITY = 0.15, 224, 85


class Corrections:
    """Corrections of one store's films; a signed film takes none."""

    def __init__(
        self, database: Database, pictures: Pictures, people: Users, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._pictures = pictures
        self._users = people
        self._now = now

    def give_class(self, cell: int, class_name: str, by: User) -> StoredCell:
        """Names a cell; naming it as the model did confirms it.

        Raises:
            AccessError: ``by`` may not correct.
            RecordError: no such cell or class, or the film is signed.
        """
        with self._database.writing() as connection:
            found = self._open_cell(connection, cell, by)
            _require_class(connection, found.film, class_name)
            # Whoever names a cell says that it is one.
            values = {"given_class": class_name, "rejected": False}
            self._change(connection, found, "class_given", values, by)
            return rows.get_cell(connection, cell)

    def reject(self, cell: int, by: User) -> StoredCell:
        """Says that a find is no white cell; raises as ``give_class`` does."""
        with self._database.writing() as connection:
            found = self._open_cell(connection, cell, by)
            self._change(connection, found, "cell_rejected", {"rejected": True}, by)
            return rows.get_cell(connection, cell)

    def restore(self, cell: int, by: User) -> StoredCell:
        """Says that a rejected find is a cell after all; raises as ``give_class`` does."""
        with self._database.writing() as connection:
            found = self._open_cell(connection, cell, by)
            self._change(connection, found, "cell_restored", {"rejected": False}, by)
            return rows.get_cell(connection, cell)

    def add_cell(
        self,
        film: int,
        field: int,
        box_xyxy: tuple[float, float, float, float],
        class_name: str,
        by: User,
    ) -> StoredCell:
        """Adds a cell that the model missed.

        Args:
            film: not signed.
            field: index of an examined field.
            box_xyxy: frame pixels; cut at the field's border.
            class_name: what it is.
            by: may correct.

        Raises:
            AccessError: ``by`` may not correct.
            RecordError: no such field or class, a box without size, or the film is signed.
            StoreError: the field's picture is damaged.
        """
        with self._database.reading() as connection:
            place = _examined(connection, film, field)
        box = _within(box_xyxy, place)
        crop = self._crop(place, box)
        crop_file = None if crop is None else self._pictures.keep(film, [crop])[0]
        with self._database.writing() as connection:
            require(self._users.in_transaction(connection, by), "correct")
            rows.get_open_film(connection, film)
            _require_class(connection, film, class_name)
            _examined(connection, film, field)
            last = connection.execute(
                select(func.max(cells.c.number)).where(cells.c.film == film, cells.c.field == field)
            ).scalar()
            done = connection.execute(
                insert(cells).values(
                    film=film,
                    field=field,
                    number=(last or 0) + 1,
                    **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
                    crop_file=crop_file,
                    given_class=class_name,
                    rejected=False,
                )
            )
            (number,) = done.inserted_primary_key or (0,)
            # To take it back is to reject it: its number stays in the trail.
            record(
                connection,
                self._now(),
                by.id,
                "cell_added",
                film=film,
                cell=number,
                before={"rejected": True},
                after={"rejected": False},
            )
            return rows.get_cell(connection, number)

    def check_field(self, film: int, field: int, by: User, *, checked: bool = True) -> None:
        """Says that every white cell of a field has its box, or takes that back.

        Raises:
            AccessError: ``by`` may not correct.
            RecordError: no such examined field, or the film is signed.
        """
        with self._database.writing() as connection:
            require(self._users.in_transaction(connection, by), "correct")
            rows.get_open_film(connection, film)
            place = _examined(connection, film, field)
            if place.checked == checked:
                return
            self._set_checked(connection, film, field, by.id if checked else None)
            record(
                connection,
                self._now(),
                by.id,
                "field_checked",
                film=film,
                before={"field": field, "checked": not checked},
                after={"field": field, "checked": checked},
            )

    def undo(self, film: int, by: User) -> Change | None:
        """Takes back the newest correction of a film that ``by`` made and did not take back.

        Returns:
            The correction taken back; None when there is none left.

        Raises:
            AccessError: ``by`` may not correct.
            RecordError: somebody else changed the same since, or the film is signed.
        """
        with self._database.writing() as connection:
            require(self._users.in_transaction(connection, by), "correct")
            rows.get_open_film(connection, film)
            own = [
                each
                for each in changes(connection, film)
                if each.user == by.name and each.action in _UNDOABLE and not each.undone
            ]
            if not own:
                return None
            newest = own[-1]
            before, after = newest.before or {}, newest.after or {}
            target = newest.cell
            if newest.cell is None:
                place = _examined(connection, film, int(after["field"]))
                _require_same(newest, {"checked": place.checked}, {"checked": after["checked"]})
                holder = by.id if before["checked"] else None
                self._set_checked(connection, film, place.index, holder)
            else:
                cell = rows.get_cell(connection, newest.cell)
                _require_same(newest, {name: getattr(cell, name) for name in after}, after)
                connection.execute(update(cells).where(cells.c.id == newest.cell).values(**before))
                target = _carried_to(connection, cell)
                if target != newest.cell:
                    connection.execute(update(cells).where(cells.c.id == target).values(**before))
            record(
                connection,
                self._now(),
                by.id,
                "change_undone",
                film=film,
                cell=target,
                before=after,
                after=before,
                undoes=newest.id,
            )
            return newest

    def _open_cell(self, connection: Connection, cell: int, by: User) -> StoredCell:
        require(self._users.in_transaction(connection, by), "correct")
        found = rows.get_cell(connection, cell)
        rows.get_open_film(connection, found.film)
        counted = rows.counted_as(connection, found)
        if counted.id != found.id:
            # Said of a repeat it would be kept and count for nothing.
            raise RecordError(
                f"cell {cell}: it has turned out to be cell {counted.id}, seen again; load the "
                "page again and correct that one"
            )
        return found

    def _change(
        self,
        connection: Connection,
        cell: StoredCell,
        action: str,
        values: Mapping[str, Any],
        by: User,
    ) -> None:
        before = {name: getattr(cell, name) for name in values}
        if before == dict(values):
            return
        connection.execute(update(cells).where(cells.c.id == cell.id).values(**values))
        record(
            connection,
            self._now(),
            by.id,
            action,
            film=cell.film,
            cell=cell.id,
            before=before,
            after=values,
        )

    def _set_checked(self, connection: Connection, film: int, field: int, by: int | None) -> None:
        connection.execute(
            update(fields)
            .where(fields.c.film == film, fields.c.index == field)
            .values(checked_by=by)
        )

    def _crop(self, field: StoredField, box: tuple[float, float, float, float]) -> bytes | None:
        """The cell cut from the best picture there is; None where there is none."""
        import numpy as np

        from edge_runtime.image_file import decode_image
        from edge_runtime.postprocess import cut_crop, encode_jpeg

        scale = 1.0
        name = field.frame_file
        if name is None:
            name, scale = field.preview_file, field.preview_scale or 1.0
        if name is None:
            return None
        pixels = decode_image(self._pictures.read(field.film, name))
        scaled = np.array(box, np.float32) * np.float32(scale)
        crop = cut_crop(pixels, scaled, margin=_CROP_MARGIN, largest_side=_CROP_SIDE_PX)
        return encode_jpeg(crop, quality=_CROP_QUALITY)


def _examined(connection: Connection, film: int, field: int) -> StoredField:
    rows.get_film(connection, film)
    found = next((x for x in rows.get_fields(connection, film) if x.index == field), None)
    if found is None or found.reason is not None:
        raise RecordError(f"film {film}: no examined field {field}")
    return found


def _carried_to(connection: Connection, cell: StoredCell) -> int:
    """Where what was said of a cell stands now: with the cell that it turned out to be.

    Only where it was carried over and nobody has said anything of that one since.
    """
    counted = rows.counted_as(connection, cell)
    if counted.id != cell.id:
        told = [each for each in changes(connection, cell.film) if each.cell == counted.id]
        as_said = (counted.given_class, counted.rejected) == (cell.given_class, cell.rejected)
        if told and told[-1].action == "cells_merged" and as_said:
            return counted.id
    return cell.id


def _require_class(connection: Connection, film: int, class_name: str) -> None:
    names = film_classes(connection, film).names
    if class_name not in names:
        raise RecordError(
            f"class {class_name!r}: not one of this film's: {', '.join(names)}; an admin can add "
            "classes for later films"
        )


def _require_same(change: Change, now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    if dict(now) != dict(then):
        what = "the field" if change.cell is None else f"cell {change.cell}"
        raise RecordError(f"{what}: changed again by somebody else; correct it anew")


def _within(
    box: tuple[float, float, float, float], field: StoredField
) -> tuple[float, float, float, float]:
    width, height = field.width or 0, field.height or 0
    x1, x2 = (min(max(float(x), 0.0), float(width)) for x in (box[0], box[2]))
    y1, y2 = (min(max(float(y), 0.0), float(height)) for y in (box[1], box[3]))
    # Written so that a box that is no number is refused too.
    if not (x2 - x1 >= _NARROWEST_PX and y2 - y1 >= _NARROWEST_PX):
        raise RecordError(
            f"box {box}: within the field of {width} x {height} px it is narrower than "
            f"{_NARROWEST_PX:g} px; draw it from corner to corner"
        )
    return round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2)
