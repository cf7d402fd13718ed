"""The gallery of a film's cells and its fields, and every correction.

Owns what is shown there and the changes that scripts send. Does not own the corrections
themselves (see ``store.corrections``), each of which is an entry of the audit trail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.film_view import chips
from edge_runtime.clinic.store.films import FilmClasses
from edge_runtime.clinic.store.records import StoredCell, StoredField, StoredFilm
from edge_runtime.clinic.store.roles import may
from edge_runtime.clinic.store.users import User
from edge_runtime.clinic.web.access import AnyUser, Corrector, Here
from edge_runtime.clinic.web.asked import AskedCell, AskedFilm, FieldIndex
from edge_runtime.clinic.web.pages import page

router = APIRouter(tags=["gallery"])
# A box for a tap, where a film has no cells to take the size from: of the field's short side.
_TAP_SHARE = 0.08
# Readable when a field is as wide as a phone.
_TEXT_SHARE = 0.03
_LARGEST_PX = 100_000.0
REJECTED = "rejected"
Pixels = Annotated[float, Form(ge=-_LARGEST_PX, le=_LARGEST_PX, allow_inf_nan=False)]


class CellState(BaseModel):
    """What a correction made of a cell; ``given``: a person named it."""

    model_config = ConfigDict(frozen=True)

    id: int
    field: int
    class_name: str
    rejected: bool
    given: bool
    crop: str | None


class Undone(BaseModel):
    """What was taken back; ``what`` is null when there was nothing left."""

    what: str | None
    cell: CellState | None = None
    field: int | None = None


class Checked(BaseModel):
    """Whether a person says that every white cell of the field has its box."""

    field: int
    checked: bool


@router.get("/films/{film}/gallery", response_class=HTMLResponse)
def gallery(request: Request, clinic: Here, user: AnyUser, found: AskedFilm) -> Response:
    """Every cell by class, the least sure first; rejected finds last."""
    cells = clinic.store.films.cells(found.id)
    classes = clinic.store.films.classes(found.id)
    return page(
        request,
        "gallery.html",
        film=found,
        groups=_groups(cells, classes),
        classes=classes,
        chips=lambda cell: chips(cell.attributes),
        may_correct=_may_correct(found, user),
    )


@router.get("/films/{film}/fields", response_class=HTMLResponse)
def fields(request: Request, clinic: Here, user: AnyUser, found: AskedFilm) -> Response:
    """Every field as a small picture, to be looked through and checked."""
    every = clinic.store.films.fields(found.id)
    shown = [each for each in every if each.shown]
    # What is seen in a field, whether it counts there or, as a repeat, elsewhere.
    finds = clinic.store.films.cells(found.id, every=True)
    cells = Counter(each.field for each in finds if not each.rejected)
    others = sum(each.reason is None for each in every) - len(shown)
    return page(request, "fields.html", film=found, fields=shown, others=others, cells=cells)


@router.get("/films/{film}/fields/{field}", response_class=HTMLResponse)
def field(
    request: Request, clinic: Here, user: AnyUser, found: AskedFilm, field: FieldIndex
) -> Response:
    """One field with its boxes."""
    shown = [each for each in clinic.store.films.fields(found.id) if each.shown]
    at = next((n for n, each in enumerate(shown) if each.index == field), None)
    if at is None:
        raise HTTPException(404, f"film {found.id}: no examined field {field} with a picture")
    counted = clinic.store.films.cells(found.id)
    return page(
        request,
        "field.html",
        film=found,
        field=shown[at],
        at=at,
        fields=shown,
        boxes=_boxes(clinic.store.films.cells(found.id, field, every=True), counted),
        tap_side=_tap_side(counted, shown[at]),
        text_size=round(_TEXT_SHARE * (shown[at].width or 0)),
        classes=clinic.store.films.classes(found.id),
        may_correct=_may_correct(found, user),
    )


@router.post("/cells/{cell}/class")
def give_class(
    clinic: Here,
    user: Corrector,
    found: AskedCell,
    class_name: Annotated[str, Form(max_length=100)],
) -> CellState:
    """Names a cell."""
    return _state(clinic.store.corrections.give_class(found.id, class_name, user))


@router.post("/cells/{cell}/reject")
def reject(clinic: Here, user: Corrector, found: AskedCell) -> CellState:
    """Says that a find is no white cell."""
    return _state(clinic.store.corrections.reject(found.id, user))


@router.post("/cells/{cell}/restore")
def restore(clinic: Here, user: Corrector, found: AskedCell) -> CellState:
    """Says that a rejected find is a cell after all."""
    return _state(clinic.store.corrections.restore(found.id, user))


@router.post("/films/{film}/undo")
def undo(clinic: Here, user: Corrector, found: AskedFilm) -> Undone:
    """Takes back the user's newest correction."""
    change = clinic.store.corrections.undo(found.id, user)
    if change is None:
        return Undone(what=None)
    if change.cell is None:
        return Undone(what=change.action, field=int((change.after or {})["field"]))
    cell = clinic.store.films.counted_as(change.cell)
    return Undone(what=change.action, cell=_state(cell), field=cell.field)


@router.post("/films/{film}/fields/{field}/check")
def check_field(
    clinic: Here,
    user: Corrector,
    found: AskedFilm,
    field: FieldIndex,
    checked: Annotated[bool, Form()],
) -> Checked:
    """Says that every white cell of a field has its box, or takes that back."""
    clinic.store.corrections.check_field(found.id, field, user, checked=checked)
    return Checked(field=field, checked=checked)


@router.post("/films/{film}/fields/{field}/cells")
def add_cell(
    clinic: Here,
    user: Corrector,
    found: AskedFilm,
    field: FieldIndex,
    x1: Pixels,
    y1: Pixels,
    x2: Pixels,
    y2: Pixels,
    class_name: Annotated[str, Form(max_length=100)],
) -> CellState:
    """Adds a cell that the model missed; the box is frame pixels."""
    box = (x1, y1, x2, y2)
    return _state(clinic.store.corrections.add_cell(found.id, field, box, class_name, user))


def _may_correct(film: StoredFilm, user: User) -> bool:
    return film.review == "preliminary" and may(user.role, "correct")


def _groups(
    cells: Sequence[StoredCell], classes: FilmClasses
) -> list[tuple[str, list[StoredCell]]]:
    """Unclassified first: those wait for a person. Rejected finds are the last group."""
    names = [UNCLASSIFIED, *(name for name in classes.names if name != UNCLASSIFIED)]
    names += sorted({each.shown_class for each in cells} - set(names))
    made: list[tuple[str, list[StoredCell]]] = []
    for name in names:
        members = [each for each in cells if each.shown_class == name and not each.rejected]
        made.append((name, sorted(members, key=_sureness)))
    made.append((REJECTED, [each for each in cells if each.rejected]))
    return made


def _sureness(cell: StoredCell) -> float:
    """What a person said is sure; else the model's probability, else its score."""
    if cell.given_class is not None:
        return 2.0
    return cell.class_probability if cell.class_probability is not None else cell.score or 1.0


def _boxes(
    finds: Sequence[StoredCell], counted: Sequence[StoredCell]
) -> list[tuple[StoredCell, StoredCell]]:
    """Every find with the cell that it counts as: itself, or the best look at the same cell."""
    standing: dict[int | None, StoredCell] = {
        each.film_cell: each for each in counted if each.film_cell is not None
    }
    return [(each, each if each.counts else standing.get(each.film_cell, each)) for each in finds]


def _tap_side(cells: Sequence[StoredCell], field: StoredField) -> float:
    sides = [max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (each.box_xyxy for each in cells)]
    if sides:
        return round(median(sides), 1)
    return round(_TAP_SHARE * min(field.width or 0, field.height or 0), 1)


def _state(cell: StoredCell) -> CellState:
    return CellState(
        id=cell.id,
        field=cell.field,
        class_name=cell.shown_class,
        rejected=cell.rejected,
        given=cell.given_class is not None,
        crop=cell.crop_file,
    )
