"""Who asks, and whether the role allows it, for the routes.

Owns the dependencies that routes name. Does not own the session's checks (see ``gate``), nor the
rights (see ``store.roles``); the store asks for them again where it changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, cast

from fastapi import Depends, Request

from edge_runtime.clinic.store.roles import Right, require
from edge_runtime.clinic.store.users import User
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.clinic.web.sessions import Session, Sessions
from edge_runtime.errors import AccessError


def clinic_of(request: Request) -> Clinic:
    """What the page is built on."""
    return cast(Clinic, request.app.state.clinic)


def sessions_of(request: Request) -> Sessions:
    """Who is signed in."""
    return cast(Sessions, request.app.state.sessions)


def session_of(request: Request) -> Session | None:
    """The session that the gate found; None on the public paths alone."""
    return cast("Session | None", request.state.session)


def signed_in(right: Right | None = None) -> Callable[[Request], User]:
    """A dependency that gives the user.

    Args:
        right: what the role must allow.

    Raises:
        AccessError: when called: nobody is signed in, or the role does not allow it.
    """

    def user(request: Request) -> User:
        session = session_of(request)
        if session is None:
            raise AccessError("sign in first")
        if right is not None:
            require(session.user, right)
        return session.user

    return user


Here = Annotated[Clinic, Depends(clinic_of)]
AnyUser = Annotated[User, Depends(signed_in())]
Examiner = Annotated[User, Depends(signed_in("examine"))]
Corrector = Annotated[User, Depends(signed_in("correct"))]
Signer = Annotated[User, Depends(signed_in("sign"))]
Exporter = Annotated[User, Depends(signed_in("export"))]
Deleter = Annotated[User, Depends(signed_in("delete"))]
Keeper = Annotated[User, Depends(signed_in("manage"))]
