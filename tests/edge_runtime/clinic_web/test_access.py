"""Nobody gets in without a session, a token or the right name of the device."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.web import gate
from edge_runtime.clinic.web.app import build_app
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.clinic.web.gate import LARGEST_BODY, is_public
from edge_runtime.clinic.web.sessions import LONGEST_S, Sessions
from edge_runtime.errors import AccessError
from tests.clinic_browser import Browser, Seconds
from tests.clinic_films import PASSWORD, PIN, People

SignIn = Callable[[str], Browser]


def walk(routes: Any) -> Iterator[tuple[str, str]]:
    """Every method and path that the application answers."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from walk(included.routes)
        elif isinstance(route, Mount):
            yield "GET", f"{route.path}/clinic.css"
        elif isinstance(route, Route):
            path = re.sub(r"\{[^}]+\}", "1", route.path)
            for method in sorted(route.methods or ()):
                yield method, path
        else:
            raise AssertionError(f"a route of a kind that nobody thought of: {route}")


def test_no_route_answers_without_a_session(clinic: Clinic, people: People) -> None:
    app = build_app(clinic)
    found = sorted(set(walk(app.routes)))
    assert len(found) > 5
    assert {path for _, path in found} >= {
        re.sub(r"\{[^}]+\}", "1", p) for p in app.openapi()["paths"]
    }
    with TestClient(app, follow_redirects=False) as client:
        for method, path in found:
            answer = client.request(method, path, headers={"accept": "application/json"})
            if is_public(path):
                assert answer.status_code != 401
                continue
            assert answer.status_code == 401, f"{method} {path}"
            assert answer.json() == {"detail": "sign in first"} if method != "HEAD" else True
    public = sorted({path for _, path in found if is_public(path)})
    assert public == ["/sign-in", "/static/clinic.css"]


def test_a_browser_is_led_to_the_form_and_back(anybody: TestClient, people: People) -> None:
    led = anybody.get("/films", headers={"accept": "text/html"})
    assert (led.status_code, led.headers["location"]) == (303, "/sign-in?next=/films")
    done = anybody.post("/sign-in", data={"name": "otto operator", "secret": PIN, "next": "/films"})
    assert (done.status_code, done.headers["location"]) == (303, "/films")


@pytest.mark.parametrize("outside", ["//evil.example", "https://evil.example", "/\\evil", "/a\nb"])
def test_signing_in_leads_nowhere_else(anybody: TestClient, people: People, outside: str) -> None:
    done = anybody.post("/sign-in", data={"name": "Otto Operator", "secret": PIN, "next": outside})
    assert done.headers["location"] == "/"


def test_a_wrong_pin_does_not_tell_which_names_there_are(
    anybody: TestClient, people: People
) -> None:
    known = anybody.post("/sign-in", data={"name": "Otto Operator", "secret": "000111"})
    unknown = anybody.post("/sign-in", data={"name": "Nobody", "secret": "000111"})
    assert known.status_code == unknown.status_code == 403
    assert known.text == unknown.text
    assert "set-cookie" not in known.headers


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(
    clinic: Clinic, people: People
) -> None:
    sign_in = {"name": "Otto Operator", "secret": PIN}
    with TestClient(build_app(clinic), follow_redirects=False) as client:
        plain = client.post("/sign-in", data=sign_in).headers["set-cookie"].lower()
    assert "httponly" in plain
    assert "samesite=strict" in plain
    assert "secure" not in plain
    sealed = dataclasses.replace(clinic, tls=True)
    with TestClient(
        build_app(sealed), base_url="https://testserver", follow_redirects=False
    ) as client:
        answer = client.post("/sign-in", data=sign_in)
        cookie = answer.headers["set-cookie"].lower()
        assert cookie.startswith("__host-session=")
        assert "secure" in cookie
        assert "max-age" in answer.headers["strict-transport-security"]
        assert client.get("/openapi.json").status_code == 200


def test_every_answer_has_the_headers(anybody: TestClient, people: People) -> None:
    for path in ("/sign-in", "/films", "/static/clinic.css", "/nothing"):
        headers = anybody.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    assert anybody.get("/sign-in").headers["cache-control"] == "no-store"
    assert "immutable" in anybody.get("/static/clinic.css").headers["cache-control"]


def test_a_change_needs_the_token(sign_in: SignIn) -> None:
    browser = sign_in("operator")
    assert browser.client.post("/language", data={"language": "es"}).status_code == 403
    wrong = {"language": "es", "csrf": "x" * 43}
    assert browser.client.post("/language", data=wrong).status_code == 403
    header = {"x-csrf-token": browser.csrf}
    assert (
        browser.client.post("/language", data={"language": "es"}, headers=header).status_code == 303
    )
    assert browser.post("/language", {"language": "es"}).status_code == 303
    # Another's token is nobody's.
    other = sign_in("reviewer")
    stolen = {"x-csrf-token": other.csrf}
    assert (
        browser.client.post("/language", data={"language": "es"}, headers=stolen).status_code == 403
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://testserver"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_of_another_site_is_refused(
    sign_in: SignIn, anybody: TestClient, headers: dict[str, str]
) -> None:
    assert sign_in("operator").post("/language", {"language": "es"}, **headers).status_code == 403
    done = anybody.post("/sign-in", data={"name": "Otto Operator", "secret": PIN}, headers=headers)
    assert done.status_code == 403
    assert "set-cookie" not in done.headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "testserver.evil.example", ""])
def test_another_name_for_this_device_is_refused(anybody: TestClient, host: str) -> None:
    assert anybody.get("/sign-in", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"]
)
def test_loopback_by_its_own_names(clinic: Clinic, host: str) -> None:
    loopback = dataclasses.replace(clinic, hosts=Clinic.hosts)
    with TestClient(build_app(loopback)) as client:
        assert client.get("/sign-in", headers={"host": host}).status_code == 200


def test_an_unused_session_ends(sign_in: SignIn, seconds: Seconds, store: ClinicStore) -> None:
    browser = sign_in("operator")
    unused = 60 * store.settings.current().session_minutes
    for _ in range(3):
        seconds.at += unused - 1
        assert browser.get("/openapi.json").status_code == 200
    # A script that asks by itself is not a person.
    seconds.at += unused - 1
    assert browser.get("/openapi.json", **{"x-leukoscope-poll": "1"}).status_code == 200
    seconds.at += 2
    assert browser.get("/openapi.json").status_code == 303


def test_a_session_ends_with_the_shift(sign_in: SignIn, seconds: Seconds) -> None:
    browser = sign_in("operator")
    for _ in range(int(LONGEST_S // 1000)):
        seconds.at += 1000
        assert browser.get("/openapi.json").status_code == 200
    seconds.at += 1000
    assert browser.get("/openapi.json").status_code == 303


@pytest.mark.parametrize("what", ["closed", "role", "secret"])
def test_a_session_ends_when_the_account_changes(
    sign_in: SignIn, store: ClinicStore, people: People, what: str
) -> None:
    browser, admin = sign_in("operator"), sign_in("admin")
    number = people.operator.id
    if what == "closed":
        store.users.set_active(people.admin, number, False)
    elif what == "role":
        store.users.change_role(people.admin, number, "reviewer")
    else:
        store.users.reset_secret(people.admin, number, "314159")
    assert browser.get("/openapi.json").status_code == 303
    assert admin.get("/openapi.json").status_code == 200


def test_signing_out_ends_the_session(sign_in: SignIn) -> None:
    browser = sign_in("operator")
    cookie = browser.client.cookies["session"]
    out = browser.post("/sign-out")
    assert out.status_code == 303
    assert out.headers["clear-site-data"] == '"cache"'
    browser.client.cookies.set("session", cookie)
    assert browser.get("/films").status_code == 303


def test_signing_in_anew_ends_the_session_of_before(sign_in: SignIn) -> None:
    browser = sign_in("operator")
    old = browser.client.cookies["session"]
    browser.client.post(
        "/sign-in", data={"name": "Rosa Reviewer", "secret": PASSWORD, "csrf": browser.csrf}
    )
    assert browser.client.cookies["session"] != old
    browser.client.cookies.clear()
    browser.client.cookies.set("session", old)
    assert browser.get("/films").status_code == 303


def test_guessing_is_slowed_down_over_all_names(
    anybody: TestClient, people: People, seconds: Seconds
) -> None:
    codes = [
        anybody.post("/sign-in", data={"name": f"n{n}", "secret": "999111"}).status_code
        for n in range(12)
    ]
    assert codes == [403] * 10 + [429] * 2
    wait = int(anybody.post("/sign-in", data={}).headers["retry-after"])
    seconds.at += wait
    assert anybody.post("/sign-in", data={}).status_code == 403


def test_too_many_requests_are_refused(
    clinic: Clinic, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_BURST", 20)
    with TestClient(build_app(clinic)) as client:
        codes = {client.get("/static/none.css").status_code for _ in range(20)}
        assert codes == {404}
        refused = client.get("/static/none.css")
        assert refused.status_code == 429
        assert "content-security-policy" in refused.headers
        seconds.at += 1
        assert client.get("/static/none.css").status_code == 404


def test_nothing_large_is_taken_in(sign_in: SignIn) -> None:
    browser = sign_in("operator")
    much = browser.post("/language", {"language": "x" * LARGEST_BODY})
    assert much.status_code == 413


def test_no_socket_is_opened(clinic: Clinic) -> None:
    from starlette.websockets import WebSocketDisconnect

    with (
        TestClient(build_app(clinic)) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/films"),
    ):
        pass


def test_the_interface_is_told_to_whoever_is_signed_in(sign_in: SignIn) -> None:
    document = sign_in("operator").get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert "/sign-in" in document["paths"]


def test_no_documentation_page_with_scripts_from_elsewhere(sign_in: SignIn) -> None:
    for path in ("/docs", "/redoc"):
        assert sign_in("operator").get(path).status_code == 404


def test_the_app_is_a_fastapi(clinic: Clinic) -> None:
    assert isinstance(build_app(clinic), FastAPI)


def test_nobody_ends_the_sessions_of_others_by_signing_in_often(
    store: ClinicStore, people: People, seconds: Seconds
) -> None:
    sessions = Sessions(store, seconds)
    other = sessions.begin(people.reviewer)
    own = []
    for _ in range(100):
        seconds.at += 0.01
        own.append(sessions.begin(people.operator))
    assert sessions.find(other) is not None
    assert [sessions.find(each) is not None for each in own] == [False] * 92 + [True] * 8


def test_failed_tries_of_somebody_else_lock_nobody_out_of_a_known_browser(
    sign_in: SignIn, people: People, seconds: Seconds
) -> None:
    known = sign_in("operator")
    known.post("/sign-out")
    name = people.operator.name

    def tried(client: TestClient, secret: str) -> int:
        seconds.at += 60
        return client.post("/sign-in", data={"name": name, "secret": secret}).status_code

    stranger = TestClient(known.client.app, follow_redirects=False)
    assert [tried(stranger, "999111") for _ in range(8)] == [403] * 8
    assert tried(stranger, PIN) == 403, "locked"
    assert tried(known.client, PIN) == 303
    # It has no more tries than anybody, and knows no other account.
    assert [tried(known.client, "999111") for _ in range(5)] == [403] * 5
    tried(stranger, "999111")
    assert tried(known.client, PIN) == 403


def test_a_mark_is_of_one_account_and_one_secret(store: ClinicStore, people: People) -> None:
    for _ in range(6):
        with pytest.raises(AccessError):
            store.users.sign_in(people.operator.name, "999111")
    of_another = store.users.mark(people.reviewer)
    old = store.users.mark(people.operator)
    for marks in ([of_another], ["x"], ["." * 9], ["é.é"]):
        with pytest.raises(AccessError, match="too many"):
            store.users.sign_in(people.operator.name, PIN, marks=marks)
    known = store.users.sign_in(people.operator.name, PIN, marks=[of_another, old])
    assert known.id == people.operator.id
    store.users.reset_secret(people.admin, people.operator.id, "314159")
    for _ in range(6):
        with pytest.raises(AccessError):
            store.users.sign_in(people.operator.name, "999111")
    with pytest.raises(AccessError, match="too many"):
        store.users.sign_in(people.operator.name, "314159", marks=[old])
