"""The live view through a browser's requests: pictures, words, and who may do what."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="leukoscope[clinic]")

from fastapi import FastAPI
from starlette.testclient import TestClient

from edge_runtime.clinic.live.session import LiveSession
from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.clinic.web.app import build_app
from edge_runtime.clinic.web.clinic import Clinic
from tests.clinic_browser import Browser
from tests.clinic_films import PASSWORD, PIN, People
from tests.edge_runtime.clinic_live.conftest import SETTINGS
from tests.edge_runtime.film.painted_film import HIGH, WIDE
from tests.painted_stage import Stage


@pytest.fixture
def app(store: ClinicStore, session: LiveSession) -> Iterator[FastAPI]:
    made = build_app(Clinic(store, SETTINGS, live=session, hosts=frozenset({"testserver"})))
    with TestClient(made):
        yield made


@pytest.fixture
def operator(app: FastAPI, people: People) -> Browser:
    return Browser(TestClient(app, follow_redirects=False), people.operator.name, PIN)


@pytest.fixture
def admin(app: FastAPI, people: People) -> Browser:
    return Browser(TestClient(app, follow_redirects=False), people.admin.name, PASSWORD)


def state(browser: Browser) -> dict[str, Any]:
    answer = browser.client.get("/live/state", headers={"x-leukoscope-poll": "1"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def wait_for(
    browser: Browser, done: Callable[[dict[str, Any]], bool], s: float = 8.0
) -> dict[str, Any]:
    until = time.monotonic() + s
    while time.monotonic() < until:
        now = state(browser)
        if done(now):
            return now
        browser.client.get("/live/picture")
        time.sleep(0.03)
    raise AssertionError(state(browser))


def test_the_page_shows_pictures_with_their_boxes(operator: Browser, stage: Stage) -> None:
    page = operator.get("/live")
    assert page.status_code == 200
    assert "For research use only" in page.text
    assert 'id="start"' in page.text
    stage.at = (120, 30)
    started = operator.post("/live/start", {"slide": "S-9", "patient": "", "note": ""})
    assert started.json() == {"film": 1}
    wait_for(operator, lambda now: now["cells"] == 2)
    number = 0
    until = time.monotonic() + 8
    while time.monotonic() < until:
        answer = operator.client.get(f"/live/picture?after={number}")
        if answer.status_code == 204:
            assert answer.content == b""
            time.sleep(0.03)
            continue
        facts = json.loads(answer.headers["x-leukoscope-picture"])
        assert facts["number"] > number
        number = facts["number"]
        if len(facts["boxes"]) == 2:
            break
    else:
        raise AssertionError("no boxes")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "no-store"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[:2] == (HIGH, WIDE) == (facts["height"], facts["width"])
    assert 0 <= facts["age_ms"] < 5000
    assert {box[4] for box in facts["boxes"]} == {"violet"}
    middles = sorted((box[0] + box[2]) / 2 for box in facts["boxes"])
    assert middles == pytest.approx([200 - 120, 420 - 120], abs=4)


def test_a_film_in_words_of_two_languages(operator: Browser, stage: Stage) -> None:
    now = wait_for(operator, lambda now: now["focus"] is not None)
    assert now["headline"] == {"text": "Ready", "detail": None, "tone": "calm"}
    operator.post("/live/start", {"slide": "S-9"})
    now = wait_for(operator, lambda now: now["cells"] == 1)
    assert now["phase"] == "running"
    assert now["film"] == 1
    assert now["headline"]["text"] == "Counting"
    assert "the model knows no blasts" in now["headline"]["detail"]
    assert now["to_next"] == "99 more to 100"
    assert now["progress"] == pytest.approx(1 / 400)
    (violet,) = [each for each in now["differential"] if each["count"]]
    assert (violet["name"], violet["percent"]) == ("violet", "100.0")
    assert "ms after the picture" in now["age"]
    stage.blur_px = 5.0
    now = wait_for(operator, lambda now: now["headline"]["tone"] == "warn")
    assert now["headline"]["text"] == "Turn the fine focus"
    assert now["gate"]["text"] == "Turn the fine focus"
    assert now["focus"] < 0.5
    operator.client.cookies.set("language", "es")
    assert state(operator)["headline"]["text"] == "Gire el enfoque fino"
    assert "Terminar el frotis" in operator.get("/live").text
    stage.blur_px, stage.plugged = 0.0, False
    now = wait_for(operator, lambda now: now["headline"]["tone"] == "bad")
    assert now["headline"]["text"] == "Cámara desconectada"
    stage.plugged = True
    stopped = operator.post("/live/stop")
    assert stopped.json() == {"film": 1}
    now = wait_for(operator, lambda now: now["phase"] == "idle")
    assert (now["film"], now["last_film"]) == (None, 1)


def test_a_lost_track_is_said_loudly(operator: Browser, stage: Stage) -> None:
    operator.post("/live/start", {"slide": "S-9"})
    wait_for(operator, lambda now: now["cells"] == 1)
    # Knocked to where nothing was seen before.
    stage.at = (560, 190)
    now = wait_for(operator, lambda now: now["headline"]["tone"] == "bad")
    assert now["headline"]["text"] == "Track lost: go back to a place already seen"
    stage.at = (60, 40)
    wait_for(operator, lambda now: now["headline"]["tone"] == "calm")


def test_who_watches_may_not_start(admin: Browser, operator: Browser) -> None:
    page = admin.get("/live").text
    assert 'id="start"' not in page
    assert 'id="stop"' not in page
    assert state(admin)["phase"] == "idle"
    assert admin.post("/live/start", {"slide": "S"}).status_code == 403
    operator.post("/live/start", {"slide": "S"})
    assert admin.post("/live/stop").status_code == 403
    again = operator.post("/live/start", {"slide": "T"})
    assert again.status_code == 409
    assert "already" in again.json()["detail"]


def test_what_cannot_be_started_is_said_in_one_line(operator: Browser, stage: Stage) -> None:
    assert operator.post("/live/start", {"slide": "  "}).status_code == 409
    assert operator.post("/live/start", {}).status_code == 422
    assert operator.client.post("/live/start", data={"slide": "S"}).status_code == 403
    stage.plugged = False
    answer = operator.post("/live/start", {"slide": "S"})
    assert answer.status_code == 400
    assert "plug it in" in answer.json()["detail"]
    now = state(operator)
    assert (now["phase"], now["headline"]["tone"]) == ("failed", "bad")
    assert "plug it in" in now["headline"]["detail"]


def test_without_a_microscope_the_page_says_so(store: ClinicStore, people: People) -> None:
    made = build_app(Clinic(store, SETTINGS, hosts=frozenset({"testserver"})))
    with TestClient(made, follow_redirects=False) as client:
        browser = Browser(client, people.operator.name, PIN)
        answer = browser.client.get("/live/state")
        assert answer.status_code == 409
        assert "--source" in answer.json()["detail"]
