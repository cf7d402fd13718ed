"""The views ``device`` and ``settings``.

Owns what is shown of the device, and the form of its settings. Does not own their names and
bounds (see ``store.device_settings``).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from edge_runtime import __version__
from edge_runtime.clinic.store.device_settings import ClinicSettings
from edge_runtime.clinic.store.pictures import free_bytes
from edge_runtime.clinic.web.access import AnyUser, Here, Keeper
from edge_runtime.clinic.web.device_facts import ask_doctor, warmest_c
from edge_runtime.clinic.web.language import LANGUAGES
from edge_runtime.clinic.web.pages import after, page

router = APIRouter(tags=["device"])
_CHANGES = 200
Text = Annotated[str, Form(max_length=4000)]


@router.get("/device", response_class=HTMLResponse)
def device(request: Request, clinic: Here, user: AnyUser) -> Response:
    """Bundle, backend, temperature and disk."""
    free = free_bytes(clinic.store.folder)
    temperature = warmest_c(clinic.machine)
    return page(
        request,
        "device.html",
        version=__version__,
        facts=clinic.facts,
        free_mb=free / 1e6,
        needed_mb=clinic.store.settings.current().minimum_free_mb,
        temperature=temperature,
        uuid=clinic.store.uuid,
        recovered=clinic.store.recovered,
    )


@router.get("/device/doctor", response_class=HTMLResponse)
def doctor(request: Request, clinic: Here, user: AnyUser) -> Response:
    """The doctor's rows; takes some seconds."""
    found = ask_doctor(clinic.settings) if clinic.doctor is None else clinic.doctor().to_json()
    return page(request, "doctor.html", found=found)


@router.get("/device/check", response_class=HTMLResponse)
def check(request: Request, clinic: Here, user: Keeper) -> Response:
    """Looks for damage in the store: database, audit trail, every picture."""
    return page(request, "check.html", found=clinic.store.check())


@router.get("/device/trail", response_class=HTMLResponse)
def trail(request: Request, clinic: Here, user: Keeper) -> Response:
    """The newest changes of all."""
    return page(request, "trail.html", changes=clinic.store.trail.newest(_CHANGES))


@router.get("/settings", response_class=HTMLResponse)
def settings(request: Request, clinic: Here, user: Keeper) -> Response:
    """Everything an admin sets for the device."""
    return page(
        request,
        "settings.html",
        settings=clinic.store.settings.current(),
        names=list(ClinicSettings.model_fields),
        all_languages=LANGUAGES,
        due=clinic.store.retention.due(),
    )


@router.post("/settings", response_class=RedirectResponse, status_code=303)
def change_settings(
    request: Request,
    clinic: Here,
    user: Keeper,
    clinic_name: Text = "",
    language: Text = "",
    blast_threshold_percent: Text = "",
    confidence: Text = "",
    extra_classes: Text = "",
    extra_outside: Text = "",
    minimum_free_mb: Text = "",
    keep_frames: Annotated[bool, Form()] = False,
    retention_days: Text = "",
    frame_retention_days: Text = "",
    session_minutes: Text = "",
) -> Response:
    """Changes them; all or none. An empty field keeps its value, or means never."""
    values: dict[str, Any] = {
        "clinic_name": clinic_name,
        "keep_frames": keep_frames,
        "extra_classes": tuple(extra_classes.replace(",", " ").split()),
        "extra_outside": tuple(extra_outside.replace(",", " ").split()),
        "retention_days": retention_days or None,
        "frame_retention_days": frame_retention_days or None,
    }
    kept = {
        "language": language,
        "blast_threshold_percent": blast_threshold_percent.replace(",", "."),
        "confidence": confidence.replace(",", "."),
        "minimum_free_mb": minimum_free_mb,
        "session_minutes": session_minutes,
    }
    values |= {name: value for name, value in kept.items() if value}
    clinic.store.settings.change(user, **values)
    return after(request, "/settings", "settings.changed")


@router.post("/settings/retention", response_class=RedirectResponse, status_code=303)
def run_retention(
    request: Request,
    clinic: Here,
    user: Keeper,
    clock_is_right: Annotated[bool, Form()] = False,
) -> Response:
    """Deletes what is past its time."""
    done = clinic.store.retention.run(user, clock_is_right=clock_is_right)
    return after(
        request, "/settings", "settings.retention_done", films=len(done.films),
        frames=len(done.frames),
    )  # fmt: skip
