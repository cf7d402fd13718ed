"""Who is signed in, in this process.

Owns sessions and when they end: unused for too long, at the end of a shift, or when the account's
secret, role or state changed. They are not stored: after a restart everybody signs in again.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_runtime.clinic.store.device_settings import ClinicSettings
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.store.users import User

# A shift. A page that polls must not keep a forgotten session alive for ever.
LONGEST_S = 12 * 3600.0
# More screens and phones than one person uses; the person's own one unused longest ends. A limit
# over all people would let one of them end the sessions of the others.
_MOST_OF_A_USER = 8


@dataclass
class Session:
    """One sign-in.

    Attributes:
        user: as of the newest request.
        settings: the device's, as of the same; None before the first one.
        csrf: a page's forms and scripts must send it with every change.
        notices: one-time messages for the next page: kind and words.
    """

    user: User
    csrf: str
    began: float
    used: float
    settings: ClinicSettings | None = None
    notices: list[tuple[str, str]] = field(default_factory=list)


class Sessions:
    """The sessions of one page.

    Args:
        store: knows accounts and how long an unused session lasts.
        monotonic: seconds.
        new_token: makes what nobody can guess.
    """

    def __init__(
        self,
        store: ClinicStore,
        monotonic: Callable[[], float],
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self._store = store
        self._now = monotonic
        self._new_token = new_token
        # By hash: who reads this memory by a slip of ours still has no cookie.
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def begin(self, user: User) -> str:
        """Begins a session; gives the cookie's value."""
        token, now = self._new_token(), self._now()
        with self._lock:
            self._sessions[_key(token)] = Session(user, self._new_token(), now, now)
            own = [key for key, each in self._sessions.items() if each.user.id == user.id]
            if len(own) > _MOST_OF_A_USER:
                # The newest has just been used, so it is never the oldest of several.
                del self._sessions[min(own[:-1], key=lambda key: self._sessions[key].used)]
        return token

    def find(self, token: str, *, polling: bool = False) -> Session | None:
        """The session of a cookie; None when there is none, or it is over.

        Args:
            token: the cookie's value.
            polling: no person asked, so the session counts as unused.
        """
        key = _key(token)
        with self._lock:
            session = self._sessions.get(key)
        if session is None:
            return None
        now = self._now()
        settings, user = self._store.settings.current_with(session.user.id)
        if (
            user is None
            or not user.active
            or user.epoch != session.user.epoch
            or now - session.used > 60.0 * settings.session_minutes
            or now - session.began > LONGEST_S
        ):
            self.end(token)
            return None
        session.user, session.settings = user, settings
        if not polling:
            session.used = now
        return session

    def end(self, token: str) -> None:
        """Ends a session, if there is one."""
        with self._lock:
            self._sessions.pop(_key(token), None)


def _key(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
