"""The page as one application.

Owns putting gate, routes and static files together, and what a person sees of an error. Does not
own any view (one module each in ``ROUTERS``) nor serving (see ``serve_cli``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from edge_runtime import __version__
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.clinic.web.export_routes import sweep_left_over
from edge_runtime.clinic.web.gate import STATIC, Gate
from edge_runtime.clinic.web.pages import STATIC_FOLDER, page
from edge_runtime.clinic.web.sessions import Sessions
from edge_runtime.errors import (
    AccessError,
    LeukoscopeError,
    RecordError,
    SettingsError,
    StoreError,
)
from edge_runtime.film_report import RESEARCH_USE

# A view is one module with a ``router`` and one row here.
ROUTERS: tuple[str, ...] = (
    "sign_in_routes",
    "live_routes",
    "film_routes",
    "gallery_routes",
    "review_routes",
    "export_routes",
    "people_routes",
    "device_routes",
)
# Each thread may hold a connection and a report; the device has few processors anyway.
_THREADS = 8
_STATUS: tuple[tuple[type[LeukoscopeError], int], ...] = (
    (AccessError, 403),
    (RecordError, 409),
    (SettingsError, 422),
    (StoreError, 503),
)


def build_app(clinic: Clinic) -> FastAPI:
    """The page over an open store.

    Routes are plain functions, so that each runs in a thread of the pool: the store's functions
    wait for the disk.

    Args:
        clinic: used for as long as the application is served.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweep_left_over(clinic.store.folder)
        to_thread.current_default_thread_limiter().total_tokens = _THREADS
        yield

    app = FastAPI(
        title="Leukoscope",
        version=__version__,
        summary=RESEARCH_USE,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    sessions = Sessions(clinic.store, clinic.monotonic)
    app.state.clinic = clinic
    app.state.sessions = sessions
    for name in ROUTERS:
        app.include_router(import_module(f"{__package__}.{name}").router)
    app.mount(STATIC, _KeptFiles(directory=STATIC_FOLDER), name="static")
    app.add_exception_handler(LeukoscopeError, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_middleware(Gate, clinic=clinic, sessions=sessions)
    return app


class _KeptFiles(StaticFiles):
    """Static files; their addresses change with their content."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response


def _refused(request: Request, error: Exception) -> Response:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 400)
    return _answer(request, status, str(error))


def _not_served(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else ""
    return _answer(request, status, str(detail))


def _not_valid(request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    words = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found)
    return _answer(request, 422, words)


def _answer(request: Request, status: int, detail: str) -> Response:
    """As a page for a person, as JSON for a script."""
    if "text/html" in request.headers.get("accept", ""):
        return page(request, "problem.html", status=status, code=status, detail=detail)
    return JSONResponse({"detail": detail}, status)
