"""What every request must pass before a route sees it.

Owns, in this order: the host's name, how often one asks, the size of what is sent, the session
and the token against forged requests. Everything is refused that is not named public here, so
a new route is shut until somebody opens it. Does not own roles (see ``access``).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import parse_qs, quote

from anyio import move_on_after, to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.clinic.web.rate import RateLimit
from edge_runtime.clinic.web.sessions import Session, Sessions

SIGN_IN = "/sign-in"
STATIC = "/static"
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
# A script that asks by itself says so; such requests do not keep a session alive.
POLL_HEADER = "x-leukoscope-poll"
# The longest note is 4000 characters; nothing is uploaded.
LARGEST_BODY = 64 * 1024
# Who sends slower than this holds one of the few places for requests.
BODY_S = 15.0
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM = "application/x-www-form-urlencoded"
# A gallery asks for hundreds of crops at once, a live page for a few pictures each second.
_BURST, _PER_SECOND = 1500, 100.0
# Beside the store's brake on one account: who tries all names is slowed down too.
_SIGN_IN_BURST, _SIGN_IN_PER_SECOND = 10, 0.2

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With "no-referrer" a browser would send our own forms with the origin "null".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), usb=(), payment=()",
}


def session_cookie(clinic: Clinic) -> str:
    """The cookie's name; with TLS a browser takes it only as secure and of this very host."""
    return "__Host-session" if clinic.tls else "session"


def is_public(path: str) -> bool:
    """Whether a path needs no session: signing in, and the files of its look."""
    return path == SIGN_IN or path.startswith(f"{STATIC}/")


class Gate:
    """Wraps the application.

    Args:
        app: the routes.
        clinic: what is served.
        sessions: who is signed in.
    """

    def __init__(self, app: ASGIApp, clinic: Clinic, sessions: Sessions) -> None:
        self._app = app
        self._clinic = clinic
        self._sessions = sessions
        self._rate = RateLimit(_BURST, _PER_SECOND, clinic.monotonic)
        self._sign_in_rate = RateLimit(_SIGN_IN_BURST, _SIGN_IN_PER_SECOND, clinic.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There is no socket here that anybody could want.
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        sending = _Sending(send, tls=self._clinic.tls)
        refused = self._refused_at_once(request)
        if refused is None:
            refused, receive = await self._admit(request, receive)
        try:
            await (refused or self._app)(scope, receive, sending)
        except Exception:
            # A fault of the program: the log gets the whole of it, the browser nothing.
            if not sending.began:
                said = PlainTextResponse("a fault of the program; it is in the log", 500)
                await said(scope, receive, sending)
            raise

    def _refused_at_once(self, request: Request) -> Response | None:
        if not self._is_our_name(request.headers.get("host", "")):
            return PlainTextResponse("this device does not go by that name", 421)
        asker = _asker(request.client.host if request.client else "")
        wait = self._rate.take(asker)
        if not wait and request.url.path == SIGN_IN and request.method not in _SAFE:
            wait = self._sign_in_rate.take(asker)
        if wait:
            return PlainTextResponse(
                f"too many requests; wait {wait} s", 429, {"retry-after": str(wait)}
            )
        return None

    async def _admit(self, request: Request, receive: Receive) -> tuple[Response | None, Receive]:
        token = request.cookies.get(session_cookie(self._clinic))
        session: Session | None = None
        if token is not None:
            polling = POLL_HEADER in request.headers
            session = await to_thread.run_sync(lambda: self._sessions.find(token, polling=polling))
        request.scope.setdefault("state", {})["session"] = session
        if session is None and not is_public(request.url.path):
            return _sign_in_first(request), receive
        if request.method in _SAFE:
            return None, receive
        body: bytes | None = None
        with move_on_after(BODY_S) as waiting:
            body = await _body(request)
        if waiting.cancelled_caught:
            return PlainTextResponse(f"not sent within {BODY_S:g} s", 408), receive
        if body is None:
            return PlainTextResponse(f"more than {LARGEST_BODY} bytes", 413), receive
        if not self._same_origin(request):
            return _forged(), receive
        if session is not None and not _has_token(request, body, session.csrf):
            return _forged(), receive
        return None, _replay(body, receive)

    def _is_our_name(self, host: str) -> bool:
        if self._clinic.hosts is None:
            return True
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return name.lower() in self._clinic.hosts

    def _same_origin(self, request: Request) -> bool:
        """Whether the browser says that one of our own pages sent this."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = request.headers.get("origin")
        scheme = "https" if self._clinic.tls else "http"
        return origin is None or origin == f"{scheme}://{request.headers.get('host', '')}"


def _asker(address: str) -> str:
    """Whom a bucket is for: with IPv6 a whole network, of which one machine has every address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    mapped = found.ipv4_mapped
    return str(ip_network((found, 64), strict=False)) if mapped is None else str(mapped)


def _sign_in_first(request: Request) -> Response:
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        path = request.url.path
        query = f"?next={quote(path)}" if path != "/" else ""
        return RedirectResponse(f"{SIGN_IN}{query}", 303)
    return JSONResponse({"detail": "sign in first"}, 401)


def _forged() -> Response:
    return JSONResponse({"detail": "this form is out of date; load the page again"}, 403)


def _has_token(request: Request, body: bytes, wanted: str) -> bool:
    given = request.headers.get(CSRF_HEADER, "")
    if not given and request.headers.get("content-type", "").partition(";")[0].strip() == _FORM:
        try:
            fields = parse_qs(body.decode(errors="replace"), max_num_fields=1000)
        except ValueError:
            return False
        given = fields.get(CSRF_FIELD, [""])[0]
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


async def _body(request: Request) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read once more, then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


class _Sending:
    """Puts the headers on whatever is answered.

    Attributes:
        began: the browser has the first of it.
    """

    def __init__(self, send: Send, *, tls: bool) -> None:
        self._send = send
        self._tls = tls
        self.began = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            # Pages hold patients' numbers; what may be kept says so itself.
            headers.setdefault("cache-control", "no-store")
            if self._tls:
                headers.setdefault("strict-transport-security", "max-age=31536000")
        await self._send(message)
