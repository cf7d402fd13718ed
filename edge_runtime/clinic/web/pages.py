"""Templates, and what every page needs.

Owns the template environment, the choice of language and one-time notices. Does not own any
view's content (see the ``*_routes``) nor words (see ``language``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse

from edge_runtime.clinic.store.roles import may
from edge_runtime.clinic.web.access import clinic_of, session_of
from edge_runtime.clinic.web.language import LANGUAGES, Catalogue, catalogue

if TYPE_CHECKING:
    import jinja2

LANGUAGE_COOKIE = "language"
_TEMPLATES = Path(__file__).parent.parent / "templates" / "web"
STATIC_FOLDER = Path(__file__).parent / "static"


def catalogue_of(request: Request) -> Catalogue:
    """The language of this browser, else of the device."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    if chosen not in LANGUAGES:
        session = session_of(request)
        known = None if session is None else session.settings
        chosen = (known or clinic_of(request).store.settings.current()).language
    return catalogue(chosen)


def page(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """A view as HTML.

    Args:
        request: asked for it.
        template: in ``templates/web``.
        status: of the answer.
        context: what the template shows; beside it there are ``t`` (a message), ``user``,
            ``csrf``, ``allowed`` (a right), ``live`` (whether there is a microscope) and more.
    """
    spoken, session = catalogue_of(request), session_of(request)
    notices, user = [], None
    if session is not None:
        user, notices, session.notices = session.user, session.notices, []
    allowed: Callable[[Any], bool] = lambda right: user is not None and may(user.role, right)  # noqa: E731
    html = (
        _environment()
        .get_template(template)
        .render(
            t=spoken.text,
            tn=spoken.count,
            one_of=spoken.one_of,
            say_class=spoken.class_name,
            number=spoken.number,
            language=spoken.language,
            languages=LANGUAGES,
            js_texts=json.dumps(spoken.starting("js."), ensure_ascii=False),
            user=user,
            csrf="" if session is None else session.csrf,
            allowed=allowed,
            notices=notices,
            live=clinic_of(request).live is not None,
            path=request.url.path,
            static=static_name,
            when=_when,
            now=clinic_of(request).store.now(),
            **context,
        )
    )
    return HTMLResponse(html, status, {"vary": "cookie"})


def _when(moment: datetime) -> str:
    """A time as the clinic's clock shows it, the same in every language."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def after(
    request: Request, path: str, message: str | None = None, **values: Any
) -> RedirectResponse:
    """Sends the browser on after a change, with a message of what was done."""
    session = session_of(request)
    if session is not None and message is not None:
        # The language may be what was changed.
        session.settings = None
        session.notices.append(("done", catalogue_of(request).text(message, **values)))
    return RedirectResponse(path, 303)


def local_path(wanted: str) -> str:
    """A path of this page, as a form gave it; the start where it leads anywhere else."""
    safe = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    plain = all(" " < sign < "\x7f" and sign != "\\" for sign in wanted)
    return wanted if safe and plain else "/"


@cache
def static_name(name: str) -> str:
    """The path of a static file; it changes with the content, so a browser may keep it."""
    import hashlib

    digest = hashlib.sha256((STATIC_FOLDER / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
