"""The live view: the picture under the microscope, and where its film stands.

Owns the routes and the words of a state, in the asker's language. Does not own the session at the
microscope nor which of several things is said first (see ``clinic.live``).

The page asks again and again, a picture at a time: that needs no connection that stays open, so
sessions, roles and the content policy hold for each picture, and who looks away costs nothing.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from edge_runtime.clinic.live.session import LiveSession
from edge_runtime.clinic.live.view import LiveView, Message, Phase, Tone, of_screening, why_refused
from edge_runtime.clinic.live.viewfinder import LivePicture
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.web.access import AnyUser, Examiner, Here
from edge_runtime.clinic.web.language import Catalogue
from edge_runtime.clinic.web.pages import catalogue_of, page
from edge_runtime.errors import RecordError
from edge_runtime.film.tally import TIERS, TallyState
from edge_runtime.types import RunStatus

router = APIRouter(prefix="/live", tags=["live"])

# Of the header that says what is in a picture; a field with more cells shows the surest ones.
_MOST_BOXES = 100


def live_of(clinic: Here) -> LiveSession:
    """The session at the microscope.

    Raises:
        RecordError: none is served here.
    """
    if clinic.live is None:
        raise RecordError("no microscope is served here; start `leukoscope serve` with --source")
    live: LiveSession = clinic.live
    return live


Microscope = Annotated[LiveSession, Depends(live_of)]


class SaidMessage(BaseModel):
    """A message in the asker's language."""

    text: str
    detail: str | None
    tone: Tone


class ClassRow(BaseModel):
    """One class of the differential; percents as text, in the language's signs."""

    name: str
    count: int
    percent: str | None
    low: float
    high: float
    interval: str


class LiveState(BaseModel):
    """Where the microscope stands, in the asker's language.

    Attributes:
        picture: number of the newest picture; it changes when there is another.
        gate: what to do about the newest frame; None while it is good.
        focus: 0 to 1, good from 0.5 on; None when unknown.
        cells: counted on the film.
        progress: share of the last tier.
        notes: what else must be known of the count.
    """

    phase: Phase
    film: int | None
    last_film: int | None
    headline: SaidMessage
    gate: SaidMessage | None
    focus: float | None
    cells: int
    cells_text: str
    progress: float
    to_next: str
    screening: SaidMessage | None
    differential: list[ClassRow]
    outside: list[tuple[str, int]]
    fields: str
    fields_done: int
    fields_skipped: int
    age: str
    notes: list[str]


class FilmNumber(BaseModel):
    """A film's number."""

    film: int | None


@router.get("", response_class=HTMLResponse)
def show_live(request: Request, user: AnyUser, live: Microscope) -> HTMLResponse:
    """The page."""
    state = state_of(live.view(), catalogue_of(request))
    return page(request, "live.html", state=state, tiers=TIERS, most=TIERS[-1])


@router.get("/state")
def state(request: Request, user: AnyUser, live: Microscope) -> LiveState:
    """Where it stands."""
    return state_of(live.view(), catalogue_of(request))


@router.get(
    "/picture",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 204: {"description": "no newer picture"}},
)
def picture(
    request: Request, user: AnyUser, live: Microscope, after: int | None = None
) -> Response:
    """The newest frame, JPEG; its header ``x-leukoscope-picture`` has number, age and boxes.

    ``after`` is the number of the picture that the asker has: 204 while there is no other.
    """
    newest = live.picture()
    if newest is None or newest.number == after:
        return Response(status_code=204)
    facts = _facts(newest, catalogue_of(request))
    return Response(newest.jpeg, media_type="image/jpeg", headers={"x-leukoscope-picture": facts})


@router.post("/start")
def start(
    user: Examiner,
    live: Microscope,
    slide: Annotated[str, Form(max_length=200)],
    patient: Annotated[str, Form(max_length=200)] = "",
    note: Annotated[str, Form(max_length=4000)] = "",
) -> FilmNumber:
    """Begins a film; answers once the store has it."""
    return FilmNumber(film=live.start(NewFilm(slide, patient or None, note or None), by=user))


@router.post("/stop")
def stop(user: Examiner, live: Microscope) -> FilmNumber:
    """Ends the film that runs, after the fields in hand; its number."""
    film = live.view().film
    live.stop(user)
    return FilmNumber(film=film)


def state_of(view: LiveView, spoken: Catalogue) -> LiveState:
    """A view in words."""
    guidance = view.guidance
    tally = None if guidance is None else guidance.tally
    counted = _counted(view)
    runs = view.phase in ("running", "ending")
    gate = None if view.sight is None else why_refused(view.sight)
    shown = view.status is not None and (runs or view.phase in ("idle", "failed"))
    screening = None
    if shown and guidance is not None and tally is not None:
        screening = say(spoken, of_screening(guidance.screening, view.threshold_percent))
    return LiveState(
        phase=view.phase,
        film=view.film,
        last_film=view.last_film,
        headline=say(spoken, view.headline),
        gate=None if gate is None else say(spoken, gate),
        focus=view.focus,
        cells=counted,
        cells_text=spoken.number(counted),
        progress=min(1.0, counted / TIERS[-1]),
        to_next=_to_next(spoken, counted),
        screening=screening,
        differential=[] if tally is None else _rows(spoken, tally),
        outside=[] if tally is None else _outside(spoken, tally),
        fields="" if view.status is None else _fields(spoken, view.status),
        fields_done=0 if view.status is None else view.status.fields_done,
        fields_skipped=0 if view.status is None else view.status.fields_skipped,
        age=_age(spoken, view.status) if runs else "",
        notes=_notes(spoken, view),
    )


def say(spoken: Catalogue, message: Message) -> SaidMessage:
    """A message in a language."""
    detail = message.detail
    if isinstance(detail, Message):
        detail = say(spoken, detail).text
    values = {name: _value(spoken, value) for name, value in message.values.items()}
    return SaidMessage(text=spoken.text(message.id, **values), detail=detail, tone=message.tone)


def _value(spoken: Catalogue, value: Any) -> str:
    if isinstance(value, (int, float)):
        return spoken.number(value, 0 if float(value).is_integer() else 1)
    return str(value)


def _counted(view: LiveView) -> int:
    """Cells of the differential where there is one, else all that were found."""
    guidance = view.guidance
    if guidance is None:
        return 0 if view.status is None else view.status.cells_found
    return guidance.cells_counted if guidance.tally is None else guidance.tally.differential.total


def _to_next(spoken: Catalogue, counted: int) -> str:
    tier = next((tier for tier in TIERS if tier > counted), None)
    if tier is None:
        return spoken.text("live.all_tiers", tier=TIERS[-1])
    return spoken.text("live.to_next", cells=spoken.number(tier - counted), tier=tier)


def _rows(spoken: Catalogue, tally: TallyState) -> list[ClassRow]:
    return [
        ClassRow(
            name=spoken.class_name(each.name),
            count=each.count,
            percent=None if each.share is None else spoken.number(100 * each.share, 1),
            low=round(each.low, 4),
            high=round(each.high, 4),
            interval=f"{spoken.number(100 * each.low)} – {spoken.number(100 * each.high)}",
        )
        for each in tally.differential.classes
    ]


def _outside(spoken: Catalogue, tally: TallyState) -> list[tuple[str, int]]:
    counted = tally.differential
    beside = [(spoken.class_name(name), count) for name, count in counted.outside]
    return [*beside, (spoken.class_name("unclassified"), counted.unclassified)]


def _fields(spoken: Catalogue, status: RunStatus) -> str:
    return spoken.text(
        "live.fields",
        done=spoken.number(status.fields_done),
        skipped=spoken.number(status.fields_skipped),
    )


def _age(spoken: Catalogue, status: RunStatus | None) -> str:
    if status is None or status.frame_age_ms is None:
        return ""
    return spoken.text("live.age", ms=spoken.number(status.frame_age_ms))


def _notes(spoken: Catalogue, view: LiveView) -> list[str]:
    mosaic = None if view.guidance is None else view.guidance.mosaic
    notes: list[str] = []
    if mosaic is not None and mosaic.cells_apart:
        notes.append(
            spoken.text(
                "live.apart", cells=spoken.number(mosaic.cells_apart), parts=mosaic.fragments
            )
        )
    if mosaic is not None and mosaic.finds_without_place:
        notes.append(spoken.text("live.unplaced", cells=spoken.number(mosaic.finds_without_place)))
    return notes


def _facts(newest: LivePicture, spoken: Catalogue) -> str:
    """What is in a picture, as JSON of ASCII signs only: a header takes no others."""
    boxes = sorted(newest.boxes or (), key=lambda each: -each.score)[:_MOST_BOXES]
    return json.dumps(
        {
            "number": newest.number,
            "age_ms": round((time.monotonic_ns() - newest.captured_at_ns) / 1e6),
            "width": newest.width,
            "height": newest.height,
            "boxes": [[*each.box_xyxy, spoken.class_name(each.class_name)] for each in boxes],
        },
        separators=(",", ":"),
    )
