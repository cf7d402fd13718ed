"""The views ``films`` and ``film``, and the pictures of a film.

Owns searching, what is shown of one film, its label and its deletion. Does not own correcting cells
(see ``gallery_routes``), signing (see ``review_routes``) nor exports (see ``export_routes``).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from edge_runtime.clinic.film_view import skip_reason
from edge_runtime.clinic.store.records import NewFilm
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.web.access import AnyUser, Deleter, Examiner, Here
from edge_runtime.clinic.web.asked import AskedFilm
from edge_runtime.clinic.web.language import Catalogue
from edge_runtime.clinic.web.pages import after, catalogue_of, page
from edge_runtime.clinic.web.sessions import LONGEST_S

if TYPE_CHECKING:
    from edge_runtime.film_report import FilmReport

router = APIRouter(tags=["films"])
_ON_A_PAGE = 40
# A trail of a film that was corrected cell by cell is long; the rest is in the JSON export.
_CHANGES = 200
_SKIPPED_REASONS = 12
Which = Literal["", "preliminary", "final"]


@router.get("/films", response_class=HTMLResponse)
def films(
    request: Request,
    clinic: Here,
    user: AnyUser,
    words: Annotated[str, Query(max_length=200)] = "",
    review: Which = "",
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> Response:
    """Films that hold every word, newest first, a page of them."""
    found = clinic.store.films.search(
        words, review=review or None, before=before, limit=_ON_A_PAGE + 1
    )
    shown = found[:_ON_A_PAGE]
    return page(
        request,
        "films.html",
        films=shown,
        words=words,
        review=review,
        before=before,
        older=shown[-1].id if len(found) > _ON_A_PAGE else None,
    )


@router.get("/films/{film}", response_class=HTMLResponse)
def film(request: Request, clinic: Here, user: AnyUser, found: AskedFilm) -> Response:
    """One film: differential, description, map, signatures and what was changed."""
    store = clinic.store
    report = store.reports.corrected(found.id)
    signatures = store.review.signatures(found.id)
    standing = [each for each in signatures if each.withdrawn_at is None]
    changes = store.trail.of_film(found.id)
    reasons = Counter[str]()
    for each in report.fields:
        if each.skipped:
            reasons[skip_reason(each.reason or "")] += each.frames
    return page(
        request,
        "film.html",
        film=found,
        report=report,
        screening=report.screening,
        map_svg=_map(store, report, found.id, catalogue_of(request)),
        reasons=reasons.most_common(_SKIPPED_REASONS),
        signatures=signatures,
        holds=all(store.review.holds(each) for each in standing),
        changes=changes[::-1][:_CHANGES],
        more_changes=max(0, len(changes) - _CHANGES),
    )


@router.get(
    "/films/{film}/pictures/{name}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
def picture(
    clinic: Here,
    user: AnyUser,
    found: AskedFilm,
    name: Annotated[str, Path(pattern=r"^[0-9a-f]{64}\.jpg$")],
) -> Response:
    """A crop or a field, by the hash of what it holds."""
    if not clinic.store.pictures.path(found.id, name).is_file():
        raise HTTPException(404, f"film {found.id}: no such picture")
    content = clinic.store.pictures.read(found.id, name)
    # What a name stands for never changes. Kept for a session and no longer: without TLS a browser
    # does not drop it on signing out, and a film may be deleted.
    kept = {"cache-control": f"private, max-age={LONGEST_S:.0f}, immutable"}
    return Response(content, media_type="image/jpeg", headers=kept)


@router.post("/films/{film}/label", response_class=RedirectResponse, status_code=303)
def label(
    request: Request,
    clinic: Here,
    user: Examiner,
    found: AskedFilm,
    slide: Annotated[str, Form(max_length=500)] = "",
    patient: Annotated[str, Form(max_length=500)] = "",
    note: Annotated[str, Form(max_length=10000)] = "",
) -> Response:
    """Changes slide, patient and note."""
    clinic.store.films.relabel(found.id, NewFilm(slide, patient, note), user)
    return after(request, f"/films/{found.id}", "film.label_changed")


@router.post("/films/{film}/delete", response_class=RedirectResponse, status_code=303)
def delete(request: Request, clinic: Here, user: Deleter, found: AskedFilm) -> Response:
    """Deletes a film with its pictures."""
    clinic.store.retention.delete_film(found.id, user)
    return after(request, "/films", "film.deleted", film=found.id)


def _map(store: ClinicStore, report: FilmReport, film: int, spoken: Catalogue) -> Any:
    from markupsafe import Markup

    from edge_runtime.clinic.film_view import class_order
    from edge_runtime.film.mosaic_map import MapWords, draw_map

    found = store.films.map_of(film)
    # An SVG without scripts and styles, its texts escaped where it is drawn.
    if found is None:
        return None
    words = MapWords(
        class_name=spoken.class_name,
        count=spoken.number,
        title=lambda cells, parts: spoken.text(
            "map.title", cells=spoken.number(cells), parts=spoken.number(parts)
        ),
        cell=lambda name, number: spoken.text("map.cell", name=name, number=number),
        another_part=spoken.text("map.another_part"),
        lost=lambda fields: spoken.count("map.lost", fields),
        nowhere=spoken.text("map.nowhere"),
        research=spoken.text("base.research"),
    )
    return Markup(draw_map(found, order=class_order(report), words=words))
