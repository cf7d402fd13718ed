"""The view ``review``: signing a film and reopening it.

Owns what a reviewer has before the eyes when signing. Does not own the signature (see
``store.review``).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from edge_runtime.bundle import UNCLASSIFIED
from edge_runtime.clinic.web.access import AnyUser, Here, Signer
from edge_runtime.clinic.web.asked import AskedFilm
from edge_runtime.clinic.web.pages import after, page

router = APIRouter(tags=["review"])
# Blasts and what stays unclassified are looked at before signing; more are in the gallery.
_CROPS = 60


@router.get("/films/{film}/review", response_class=HTMLResponse)
def review(request: Request, clinic: Here, user: AnyUser, found: AskedFilm) -> Response:
    """What is signed: counts, what is still in doubt, and blasts."""
    from edge_runtime.film.blasts import blast_classes

    store = clinic.store
    # Read before everything else: what changes meanwhile is then refused, not signed unseen.
    content = store.review.content(found.id)
    report = store.reports.corrected(found.id)
    cells = [each for each in store.films.cells(found.id) if not each.rejected]
    blasts = set(blast_classes(sorted({each.shown_class for each in cells})))
    fields = [each for each in store.films.fields(found.id) if each.shown]
    signatures = store.review.signatures(found.id)
    standing = [each for each in signatures if each.withdrawn_at is None]
    return page(
        request,
        "review.html",
        film=found,
        report=report,
        screening=report.screening,
        content=content,
        cells=len(cells),
        unclassified=[x for x in cells if x.shown_class == UNCLASSIFIED][:_CROPS],
        corrected=sum(each.corrected for each in cells),
        blasts=[each for each in cells if each.shown_class in blasts][:_CROPS],
        checked=sum(each.checked for each in fields),
        fields=len(fields),
        signatures=signatures,
        standing=standing[-1] if standing else None,
        holds=all(store.review.holds(each) for each in standing),
    )


@router.post("/films/{film}/sign", response_class=RedirectResponse, status_code=303)
def sign(
    request: Request,
    clinic: Here,
    user: Signer,
    found: AskedFilm,
    content_sha256: Annotated[str, Form(pattern="^[0-9a-f]{64}$")],
    comment: Annotated[str, Form(max_length=10000)] = "",
) -> Response:
    """Makes the report final; refused when the film changed since it was shown."""
    clinic.store.review.sign(found.id, user, content_sha256=content_sha256, comment=comment or None)
    return after(request, f"/films/{found.id}", "review.signed")


@router.post("/films/{film}/reopen", response_class=RedirectResponse, status_code=303)
def reopen(
    request: Request,
    clinic: Here,
    user: Signer,
    found: AskedFilm,
    why: Annotated[str, Form(max_length=10000)] = "",
) -> Response:
    """Withdraws the signature, with the reason."""
    clinic.store.review.reopen(found.id, user, why)
    return after(request, f"/films/{found.id}/review", "review.reopened")
