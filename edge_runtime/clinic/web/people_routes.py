"""The views ``users`` and ``account``.

Owns the forms. Does not own accounts (see ``store.users``).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from edge_runtime.clinic.store.roles import ROLES, Role
from edge_runtime.clinic.store.users import User
from edge_runtime.clinic.web.access import AnyUser, Here, Keeper, sessions_of
from edge_runtime.clinic.web.asked import UserNumber
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.clinic.web.pages import after, page
from edge_runtime.clinic.web.sign_in_routes import set_session
from edge_runtime.errors import RecordError

router = APIRouter(tags=["users"])
Secret = Annotated[str, Form(max_length=400)]


@router.get("/users", response_class=HTMLResponse)
def users(request: Request, clinic: Here, user: Keeper) -> Response:
    """Every account."""
    return page(request, "users.html", users=clinic.store.users.all(), roles=ROLES)


@router.post("/users", response_class=RedirectResponse, status_code=303)
def add(
    request: Request,
    clinic: Here,
    user: Keeper,
    name: Annotated[str, Form(max_length=200)],
    role: Annotated[Role, Form()],
    secret: Secret,
) -> Response:
    """Makes an account."""
    made = clinic.store.users.add(name, role, secret, user)
    return after(request, "/users", "users.added", name=made.name)


@router.post("/users/{number}/role", response_class=RedirectResponse, status_code=303)
def change_role(
    request: Request,
    clinic: Here,
    user: Keeper,
    number: UserNumber,
    role: Annotated[Role, Form()],
) -> Response:
    """Gives an account another role; its sessions end."""
    _there(clinic, number)
    changed = clinic.store.users.change_role(user, number, role)
    return after(request, "/users", "users.changed", name=changed.name)


@router.post("/users/{number}/secret", response_class=RedirectResponse, status_code=303)
def reset_secret(
    request: Request, clinic: Here, user: Keeper, number: UserNumber, secret: Secret
) -> Response:
    """Gives an account another PIN or password; its sessions end."""
    _there(clinic, number)
    changed = clinic.store.users.reset_secret(user, number, secret)
    return after(request, "/users", "users.changed", name=changed.name)


@router.post("/users/{number}/active", response_class=RedirectResponse, status_code=303)
def set_active(
    request: Request,
    clinic: Here,
    user: Keeper,
    number: UserNumber,
    active: Annotated[bool, Form()],
) -> Response:
    """Closes an account or opens it again."""
    _there(clinic, number)
    changed = clinic.store.users.set_active(user, number, active)
    return after(request, "/users", "users.changed", name=changed.name)


@router.get("/account", response_class=HTMLResponse)
def account(request: Request, user: AnyUser) -> Response:
    """A user's own account."""
    return page(request, "account.html")


@router.post("/account/secret", response_class=RedirectResponse, status_code=303)
def change_secret(
    request: Request, clinic: Here, user: AnyUser, old: Secret, new: Secret
) -> Response:
    """A user's own change; every other session of the account ends, this one goes on."""
    changed = clinic.store.users.change_secret(user, old, new)
    response = RedirectResponse("/", 303)
    set_session(response, clinic, sessions_of(request).begin(changed))
    return response


def _there(clinic: Clinic, number: int) -> User:
    try:
        return clinic.store.users.get(number)
    except RecordError as error:
        raise HTTPException(404, str(error)) from error
