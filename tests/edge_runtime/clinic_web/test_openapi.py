"""Requests made up from the page's own OpenAPI document: whatever comes, no fault of the program.

Every role asks for every route, with values that fit the document and values that do not; films are
signed, reopened and deleted on the way, as it happens. A session ends when its user's secret or
role changes or the user signs out: it is begun again then.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("schemathesis", reason="leukoscope[test]")

import schemathesis
from starlette.testclient import TestClient

from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.web.app import build_app
from edge_runtime.clinic.web.clinic import Clinic
from tests.clinic_browser import Browser, Seconds
from tests.clinic_films import PASSWORD, PIN, People, field_of, keep_film

ROLES = {"admin": PASSWORD, "reviewer": PASSWORD, "operator": PIN}


class Asker:
    """Sends made-up requests as one of the people."""

    def __init__(self, app: Any, role: str, people: People, seconds: Seconds) -> None:
        self.app, self.role, self.people, self.seconds = app, role, people, seconds
        self.browser = self._come_in()
        self.answers: dict[int, int] = {}

    def _come_in(self) -> Browser:
        # Far enough that no rate limit is in the way; sessions last longer.
        self.seconds.at += 30
        client = TestClient(self.app, follow_redirects=False, raise_server_exceptions=False)
        return Browser(client, getattr(self.people, self.role).name, ROLES[self.role])

    def ask(self, case: Any, number: int | None) -> None:
        self.seconds.at += 1
        path = case.operation.path
        for name, value in (case.path_parameters or {}).items():
            # Made-up numbers hardly ever name what is there.
            taken = str(number) if number is not None and isinstance(value, int) else str(value)
            path = path.replace("{" + name + "}", quote(taken, safe=""))
        sent: dict[str, Any] = {}
        if isinstance(case.body, dict):
            sent["data"] = {k: _text(v) for k, v in case.body.items()}
        elif isinstance(case.body, bytes):
            sent["content"] = case.body
        elif isinstance(case.body, (str, int, float, list)):
            sent["content"] = json.dumps(case.body)
        query = {k: _text(v) for k, v in dict(case.query or {}).items()}
        answer = self.browser.client.request(
            case.method, path, params=query,
            headers={"x-csrf-token": self.browser.csrf, "accept": "text/html"}, **sent,
        )  # fmt: skip
        self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (case.method, path, query, sent, answer.text[:500])
        if answer.status_code == 303 and "sign-in" in answer.headers["location"]:
            self.browser = self._come_in()


def _text(value: Any) -> Any:
    return value if isinstance(value, (str, list)) else json.dumps(value)


SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("role", "examples"),
    [("reviewer", 3), *(pytest.param(role, 100, marks=SLOW) for role in ROLES)],
)
def test_no_request_is_a_fault_of_the_program(
    clinic: Clinic,
    store: ClinicStore,
    people: People,
    seconds: Seconds,
    film: int,
    role: str,
    examples: int,
) -> None:
    for index in range(3):
        keep_film(store, [field_of(index, ("neutrophil", "monocyte"))], by=people.operator)
    app = build_app(clinic)
    with TestClient(app):
        asker = Asker(app, role, people, seconds)
        document = asker.browser.get("/openapi.json").json()
        # Everybody's way in, which the other tests go.
        ends = {"/sign-out", "/account", "/sign-in"}
        document["paths"] = {k: v for k, v in document["paths"].items() if k not in ends}
        asked = 0
        for found in schemathesis.openapi.from_dict(document).get_all_operations():
            operation: Any = found.ok()  # type: ignore[union-attr]
            modes: Any = schemathesis.GenerationMode
            cases = st.one_of(operation.as_strategy(modes.POSITIVE), _odd(operation, modes))
            asked += 1

            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=cases, number=st.none() | st.integers(1, 8))
            def ask(case: Any, number: int | None) -> None:
                asker.ask(case, number)

            ask()
    assert asked == sum(len(methods) for methods in document["paths"].values()) > 20
    assert asker.answers.get(200, 0) > 5 * examples, asker.answers


def _odd(operation: Any, modes: Any) -> Any:
    """Values that do not fit, where anything can be made not to fit."""
    if not (operation.path_parameters or operation.query or operation.body):
        return operation.as_strategy(modes.POSITIVE)
    return operation.as_strategy(modes.NEGATIVE)
