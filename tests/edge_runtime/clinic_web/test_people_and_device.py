"""Accounts, settings and the device, through the page and from the console."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_runtime.clinic.cli import app as command
from edge_runtime.clinic.store.store import ClinicStore, open_store
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.clinic.web.device_facts import ask_doctor, warmest_c
from edge_runtime.device.doctor.machine import Machine
from edge_runtime.device.doctor.rows import DoctorRow
from edge_runtime.errors import AccessError, LeukoscopeError, RecordError
from edge_runtime.settings import Settings
from tests.clinic_browser import Browser
from tests.clinic_films import PASSWORD, PIN, People

SignIn = Callable[[str], Browser]


def test_an_admin_keeps_the_accounts(sign_in: SignIn, store: ClinicStore, people: People) -> None:
    browser, number = sign_in("admin"), people.operator.id
    made = {"name": "Nina New", "role": "operator", "secret": "314159"}
    assert browser.post("/users", made).status_code == 303
    assert "Nina New was added." in browser.get("/users").text
    assert store.users.sign_in("Nina New", "314159").role == "operator"
    assert browser.post("/users", made).status_code == 409
    assert browser.post("/users", {**made, "name": "N2", "secret": "111111"}).status_code == 409
    assert browser.post("/users", {**made, "name": "N3", "role": "king"}).status_code == 422
    assert browser.post(f"/users/{number}/role", {"role": "reviewer"}).status_code == 303
    assert browser.post(f"/users/{number}/secret", {"secret": "161803"}).status_code == 303
    assert browser.post(f"/users/{number}/active", {"active": "false"}).status_code == 303
    found = store.users.get(number)
    assert (found.role, found.active) == ("reviewer", False)
    assert browser.post("/users/999/role", {"role": "reviewer"}).status_code == 404
    # The last admin cannot lock everybody out.
    own = f"/users/{people.admin.id}/active"
    assert browser.post(own, {"active": "false"}).status_code == 409


@pytest.mark.parametrize("role", ["operator", "reviewer"])
def test_nobody_else_does(sign_in: SignIn, store: ClinicStore, people: People, role: str) -> None:
    browser, number = sign_in(role), people.operator.id
    before = store.users.all()
    for path in ("/users", "/settings", "/device/check", "/device/trail"):
        assert browser.get(path).status_code == 403
    new = {"name": "Eve", "role": "admin", "secret": "314159265"}
    assert browser.post("/users", new).status_code == 403
    assert browser.post(f"/users/{number}/role", {"role": "admin"}).status_code == 403
    assert browser.post(f"/users/{number}/secret", {"secret": "161803"}).status_code == 403
    assert browser.post(f"/users/{number}/active", {"active": "false"}).status_code == 403
    assert browser.post("/settings", {"session_minutes": 1}).status_code == 403
    assert browser.post("/settings/retention").status_code == 403
    assert store.users.all() == before


def test_a_user_changes_the_own_secret(sign_in: SignIn) -> None:
    browser, elsewhere = sign_in("operator"), sign_in("operator")
    wrong = {"old": "000111", "new": "314159"}
    assert browser.post("/account/secret", wrong).status_code == 403
    assert browser.post("/account/secret", {"old": PIN, "new": "12"}).status_code == 409
    assert browser.post("/account/secret", {"old": PIN, "new": "314159"}).status_code == 303
    # This session goes on, every other one ends.
    assert browser.get("/films").status_code == 200
    assert elsewhere.get("/films").status_code == 303


def test_settings(sign_in: SignIn, store: ClinicStore) -> None:
    browser = sign_in("admin")
    form = {
        "clinic_name": "Clínica <1>", "language": "es", "blast_threshold_percent": "12,5",
        "confidence": "0.9", "extra_classes": "blast, myelocyte", "extra_outside": "",
        "minimum_free_mb": "700", "retention_days": "90", "frame_retention_days": "",
        "session_minutes": "15",
    }  # fmt: skip
    assert browser.post("/settings", form).status_code == 303
    now = store.settings.current()
    assert (now.clinic_name, now.language, now.blast_threshold_percent) == (
        "Clínica <1>", "es", 12.5,
    )  # fmt: skip
    assert now.extra_classes == ("blast", "myelocyte")
    assert now.extra_outside == ()
    assert (now.keep_frames, now.retention_days, now.frame_retention_days) == (False, 90, None)
    assert store.trail.newest(1)[0].action == "settings_changed"
    refused = browser.post("/settings", {**form, "confidence": "2"})
    assert refused.status_code == 422
    assert store.settings.current() == now
    assert "&lt;1&gt;" in browser.get("/settings").text


def test_the_language_holds_for_the_answer_to_its_change(sign_in: SignIn) -> None:
    browser = sign_in("admin")
    assert browser.post("/settings", {"language": "es"}).status_code == 303
    assert "Guardado." in browser.get("/settings").text
    assert browser.post("/settings", {"language": "en"}).status_code == 303
    assert "Saved." in browser.get("/settings").text


def test_what_is_past_its_time_goes_when_an_admin_says_so(
    sign_in: SignIn, store: ClinicStore, people: People, film: int, clock: Any
) -> None:
    store.settings.change(people.admin, retention_days=10)
    clock.move(days=20)
    browser = sign_in("admin")
    assert "1 films to delete" in browser.get("/settings").text
    assert browser.post("/settings/retention", {"clock_is_right": "true"}).status_code == 303
    assert store.films.search() == []


def test_the_device(sign_in: SignIn, clinic: Clinic, tmp_path: Path) -> None:
    zone = tmp_path / "sys" / "class" / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("51500\n")
    text = sign_in("operator").get("/device").text
    assert "No bundle is loaded" in text
    assert clinic.store.uuid in text
    assert warmest_c(Machine(root=tmp_path)) == 51.5
    assert warmest_c(Machine(root=tmp_path / "none")) is None


def test_the_doctor_is_asked_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, sign_in: SignIn
) -> None:
    asked: dict[str, Any] = {}
    row = asdict(DoctorRow("disk", "full", "missing", "free <some>", stops=True))

    class Done:
        stdout = json.dumps({"can_run": False, "rows": [row]})

    def run(words: list[str], **more: Any) -> Done:
        asked.update(more, words=words)
        return Done()

    monkeypatch.setattr("subprocess.run", run)
    text = sign_in("operator").get("/device/doctor").text
    assert "No film can run here" in text
    assert "free &lt;some&gt;" in text
    assert asked["words"][-2:] == ["doctor", "--json"]
    ask_doctor(Settings(backend="openvino"))
    assert asked["env"]["LEUKOSCOPE_BACKEND"] == "openvino"
    Done.stdout = "no json"
    with pytest.raises(LeukoscopeError, match="leukoscope doctor"):
        ask_doctor(Settings())


def test_the_store_is_looked_through(sign_in: SignIn, store: ClinicStore, film: int) -> None:
    browser = sign_in("admin")
    assert "The store is sound." in browser.get("/device/check").text
    name = store.films.cells(film)[0].crop_file
    assert name is not None
    store.pictures.path(film, name).write_bytes(b"x")
    assert "Damage was found" in browser.get("/device/check").text
    assert browser.get(f"/films/{film}/pictures/{name}").status_code == 503


def test_a_fault_of_the_program_shows_nothing_of_it(
    sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = sign_in("operator")

    def broken(*values: object, **more: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("edge_runtime.clinic.store.films.Films.search", broken)
    with pytest.raises(RuntimeError, match="secret detail"):
        browser.get("/films")
    browser.client._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
    answer = browser.get("/films")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "content-security-policy" in answer.headers


def call(*words: str, given: str = "") -> str:
    done = CliRunner().invoke(command, list(words), input=given)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_accounts_from_the_console(tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "s"))
    stdin = "--pin-stdin"
    assert "no account yet" in call("user", "list", *store)
    with pytest.raises(RecordError, match="first user must be an admin"):
        call("user", "add", "Otto", "--role", "operator", *store, stdin, given=f"{PIN}\n")
    assert (
        call("user", "add", "Ada", *store, stdin, given=f"{PASSWORD}\n") == "Ada: admin, password\n"
    )
    with pytest.raises(AccessError, match="--by"):
        call("user", "add", "Otto", "--role", "operator", *store, stdin, given=f"{PIN}\n")
    with pytest.raises(AccessError):
        call("user", "add", "Otto", "--by", "Ada", *store, stdin, given=f"wrong\n{PIN}\n")
    call(
        "user", "add", "Otto", "--role", "operator", "--by", "ada", *store, stdin,
        given=f"{PASSWORD}\n{PIN}\n",
    )  # fmt: skip
    call("user", "reset", "otto", *store, stdin, given="314159\n")
    call("user", "disable", "Otto", "--by", "Ada", *store, stdin, given=f"{PASSWORD}\n")
    assert call("user", "list", *store).splitlines() == [
        "Ada: admin, password",
        "Otto: operator, pin, closed",
    ]
    with pytest.raises(RecordError, match="no such account"):
        call("user", "reset", "Nobody", *store, stdin, given="314159\n")
    with pytest.raises(RecordError, match="standard input"):
        call("user", "reset", "Otto", *store, stdin)
    with pytest.raises(RecordError, match="--pin-stdin"):
        call("user", "reset", "Otto", *store, given="314159\n")
    with open_store(tmp_path / "s") as opened:
        changes = {each.action: each.user for each in opened.trail.newest()}
        assert changes["secret_reset"] is None
        assert changes["user_closed"] == "Ada"
