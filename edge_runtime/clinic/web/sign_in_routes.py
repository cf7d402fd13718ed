"""Signing in and out, and the choice of language.

Owns the cookies. Does not own sessions (see ``sessions``) nor checking secrets (see
``store.users``).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from edge_runtime.clinic.web.access import AnyUser, Here, session_of, sessions_of
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.clinic.web.gate import SIGN_IN, session_cookie
from edge_runtime.clinic.web.language import LANGUAGES
from edge_runtime.clinic.web.pages import LANGUAGE_COOKIE, after, local_path, page
from edge_runtime.clinic.web.sessions import LONGEST_S
from edge_runtime.errors import AccessError

router = APIRouter(tags=["sign-in"])
# A cookie for each account that signed in with this browser; sent to the form alone.
_KNOWN, _MOST_MARKS = "known_", 50
_KNOWN_S = 90 * 24 * 3600
_A_YEAR_S = 365 * 24 * 3600


@router.get("/", response_class=RedirectResponse, status_code=303)
def start(user: AnyUser, clinic: Here) -> str:
    """Where a person begins: at the microscope if there is one, else with the films."""
    return "/live" if clinic.live is not None else "/films"


@router.get(SIGN_IN, response_class=HTMLResponse)
def show_sign_in(request: Request, clinic: Here, next: str = "/") -> Response:
    """The form; with no account yet, how the first is made."""
    if session_of(request) is not None:
        return RedirectResponse(local_path(next), 303)
    return page(
        request, "sign_in.html", next=local_path(next), first=clinic.store.users.is_empty(),
        failed=None,
    )  # fmt: skip


@router.post(SIGN_IN, response_class=HTMLResponse)
def sign_in(
    request: Request,
    clinic: Here,
    name: Annotated[str, Form(max_length=200)] = "",
    secret: Annotated[str, Form(max_length=400)] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Begins a session."""
    try:
        marks = [mark for each, mark in request.cookies.items() if each.startswith(_KNOWN)]
        user = clinic.store.users.sign_in(name, secret, marks=marks[:_MOST_MARKS])
    except AccessError as error:
        first = clinic.store.users.is_empty()
        return page(
            request, "sign_in.html", status=403, next=local_path(next), first=first,
            failed=str(error),
        )  # fmt: skip
    sessions, cookie = sessions_of(request), session_cookie(clinic)
    # A session of before belongs to whoever sat here then.
    sessions.end(request.cookies.get(cookie, ""))
    response = RedirectResponse(local_path(next), 303)
    set_session(response, clinic, sessions.begin(user))
    response.set_cookie(
        f"{_KNOWN}{user.id}", clinic.store.users.mark(user), max_age=_KNOWN_S, path=SIGN_IN,
        secure=clinic.tls, httponly=True, samesite="strict",
    )  # fmt: skip
    return response


@router.post("/sign-out", response_class=RedirectResponse, status_code=303)
def sign_out(request: Request, user: AnyUser, clinic: Here) -> Response:
    """Ends the session, and what the browser kept of it."""
    cookie = session_cookie(clinic)
    sessions_of(request).end(request.cookies.get(cookie, ""))
    response = RedirectResponse(SIGN_IN, 303, {"clear-site-data": '"cache"'})
    response.delete_cookie(cookie, path="/", secure=clinic.tls, httponly=True, samesite="strict")
    return response


@router.post("/language", response_class=RedirectResponse, status_code=303)
def choose_language(
    request: Request,
    user: AnyUser,
    clinic: Here,
    language: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Changes the language of this browser."""
    response = after(request, local_path(next))
    if language in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE, language, max_age=_A_YEAR_S, path="/", secure=clinic.tls,
            httponly=True, samesite="strict",
        )  # fmt: skip
    return response


def set_session(response: Response, clinic: Clinic, token: str) -> None:
    """Gives the browser the cookie of a session; no script can read it, no other site send it."""
    response.set_cookie(
        session_cookie(clinic),
        token,
        max_age=int(LONGEST_S),
        path="/",
        secure=clinic.tls,
        httponly=True,
        samesite="strict",
    )
