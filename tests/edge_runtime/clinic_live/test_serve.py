"""``leukoscope serve`` as a process: what it refuses, a film over it, and its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="leukoscope[clinic]")

import httpx2

from edge_runtime.clinic.store.store import open_store
from edge_runtime.errors import LeukoscopeError, SettingsError, StoreError
from edge_runtime.serve_cli import alone_in, app, listening, require_tls
from tests.clinic_films import PIN, hire
from tests.edge_runtime.film.painted_film import cut
from tests.painted_stage import Stage
from tests.support import write_image


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edge_runtime.cli", "serve", *map(str, arguments)]


def environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("LEUKOSCOPE_")}
    return {**kept, "XDG_CONFIG_HOME": os.devnull, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with people."""
    with open_store(tmp_path / "store") as opened:
        hire(opened)
    return tmp_path / "store"


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """Three fields that overlap."""
    film, place = Stage().film, tmp_path / "fields"
    place.mkdir()
    for index, x in enumerate((60, 64, 68)):
        write_image(place / f"field_{index}.png", cut(film, x, 40, index).pixels)
    return place


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and its address."""
    process = subprocess.Popen(
        command(*arguments, "--port", 0),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"serving (https?://\S+)/", line)
        if found is None:
            raise AssertionError(f"{line!r} {process.communicate(timeout=20)}")
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


class Page:
    """A browser of the operator over a real connection."""

    def __init__(self, address: str, *, verify: Any = True) -> None:
        self.client = httpx2.Client(base_url=address, timeout=30, verify=verify)
        done = self.client.post("/sign-in", data={"name": "Otto Operator", "secret": PIN})
        assert done.status_code == 303, done.text
        html = self.client.get("/live", headers={"accept": "text/html"}).text
        found = re.search(r'name="csrf" content="([^"]+)"', html)
        assert found is not None
        self.csrf = found[1]

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()

    def post(self, path: str, **data: str) -> httpx2.Response:
        return self.client.post(path, data={"csrf": self.csrf, **data})

    def wait_for(self, done: Callable[[dict[str, Any]], bool], s: float = 30.0) -> dict[str, Any]:
        until = time.monotonic() + s
        while time.monotonic() < until:
            self.client.get("/live/picture")
            state: dict[str, Any] = self.client.get("/live/state").json()
            if done(state):
                return state
            time.sleep(0.05)
        raise AssertionError(state)


def film_until_sigterm(
    address: str, process: subprocess.Popen[str], store: Path, fields: int
) -> None:
    with Page(address) as page:
        counted = film_of(page, fields)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with open_store(store) as opened:
        assert opened.recovered == ()
        kept = opened.films.get(1)
        assert kept.state == "interrupted"
        assert kept.finished_at is not None
        # What the page had counted is in the store, and the report was written.
        assert kept.fields >= counted
        assert opened.reports.examined(1).totals.fields == kept.fields
        assert opened.check() == []


def film_of(page: Page, fields: int) -> int:
    """Begins a film; fields that are counted when it has so many."""
    assert page.post("/live/start", slide="S-1").json() == {"film": 1}
    page.wait_for(lambda now: now["phase"] == "running" and now["cells"] >= 1)
    page.wait_for(lambda now: int(re.findall(r"\d+", now["fields"])[0]) >= fields)
    answer = page.client.get("/live/picture?after=0")
    assert answer.status_code == 200
    assert json.loads(answer.headers["x-leukoscope-picture"])["width"] > 100
    counted = page.client.get("/live/state").json()["fields"]
    return int(re.findall(r"\d+", counted)[0])


def test_a_film_over_a_real_connection_until_sigterm(
    folder: Path, fields: Path, naming_bundle_folder: Path
) -> None:
    source = f"paced:20:{fields}"
    with serving(
        "--store", folder, "--source", source, "--bundle", naming_bundle_folder, "--threads", 1
    ) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        # Whoever points a name of his own here is sent away.
        strange = httpx2.get(address, headers={"host": "evil.example"})
        assert strange.status_code == 421
        film_until_sigterm(address, process, folder, fields=3)


@pytest.mark.slow
def test_the_virtual_microscope_over_the_shipped_bundle(folder: Path) -> None:
    source = "paced:10:virtual:hcm_100x_c2:7:hand"
    with serving("--store", folder, "--source", source) as (process, address):
        film_until_sigterm(address, process, folder, fields=10)


@pytest.mark.slow
def test_a_camera_that_is_missing_is_told_on_the_page(
    folder: Path, naming_bundle_folder: Path, tmp_path: Path
) -> None:
    with serving(
        "--store", folder, "--source", tmp_path / "none", "--bundle", naming_bundle_folder
    ) as (process, address):
        with Page(address) as page:
            state = page.wait_for(lambda now: now["phase"] == "failed")
        assert "no such file or folder" in state["headline"]["detail"]
        # A second one on the same store is refused, and says why.
        second = subprocess.run(
            command("--store", folder, "--source", "virtual", "--port", 0),
            capture_output=True, text=True, check=False, env=environment(), timeout=60,
        )  # fmt: skip
        assert second.returncode == 2
        (line,) = second.stderr.splitlines()
        assert "another `leukoscope serve` uses it" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def refused(*arguments: object) -> str:
    with pytest.raises(LeukoscopeError) as error:
        app(args=[str(each) for each in arguments], standalone_mode=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_refused_is_said_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", os.devnull)
    any_port = ("--source", "virtual", "--port", 0)
    new = tmp_path / "new"
    said = refused("--store", new, *any_port)
    assert f"leukoscope clinic user add NAME --role admin --store {new}" in said
    assert "--tls-cert" in refused("--store", folder, *any_port, "--host", "0.0.0.0")
    said = refused("--store", folder, *any_port, "--bundle", tmp_path / "none")
    assert "none" in said
    assert "profile" in refused("--store", folder, *any_port, "--camera-profile", tmp_path / "p")
    assert "no-key" in refused(
        "--store", folder, *any_port, "--tls-cert", tmp_path / "no-cert", "--tls-key",
        tmp_path / "no-key",
    ).replace("no-cert", "no-key")  # fmt: skip


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(SettingsError, match=rf"{port}.*another --port"),
            listening("127.0.0.1", port),
        ):
            pass
    with pytest.raises(SettingsError, match="another --host"), listening("192.0.2.1", 0):
        pass
    with listening("127.0.0.1", 0) as free:
        assert free.getsockname()[1] > 0


def test_a_store_is_served_once(tmp_path: Path) -> None:
    with (
        alone_in(tmp_path / "store"),
        pytest.raises(StoreError, match="another `leukoscope serve`"),
        alone_in(tmp_path / "store"),
    ):
        pass
    with alone_in(tmp_path / "store"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--store"), alone_in(tmp_path / "file" / "store"):
        pass


def test_certificates_are_tried_before_anything_is_served(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    _, other = certificate(tmp_path, "two")
    assert require_tls(cert, key)
    assert not require_tls(None, None)
    for wrong, words in (
        ((cert, None), "--tls-key is missing"),
        ((None, key), "--tls-cert is missing"),
        ((tmp_path / "no.pem", key), "no.pem: No such file"),
        ((cert, other), "belong together"),
        ((key, cert), "belong together"),
    ):
        with pytest.raises(SettingsError, match=words):
            require_tls(*wrong)


@pytest.mark.slow
def test_a_page_over_tls(folder: Path, fields: Path, naming_bundle_folder: Path) -> None:
    cert, key = certificate(folder.parent, "here")
    with serving(
        *("--store", folder, "--source", f"paced:20:{fields}", "--bundle", naming_bundle_folder),
        *("--threads", 1, "--tls-cert", cert, "--tls-key", key),
    ) as (process, address):
        assert address.startswith("https://127.0.0.1:")
        with Page(address, verify=ssl.create_default_context(cafile=str(cert))) as page:
            answer = page.client.get("/live/state")
            assert "strict-transport-security" in answer.headers
            assert "__Host-session" in page.client.cookies
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of this machine, and its key."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


def test_a_page_that_ends_by_itself_is_no_good_end(capsys: pytest.CaptureFixture[str]) -> None:
    from contextlib import asynccontextmanager

    import typer
    from fastapi import FastAPI

    from edge_runtime.serve_cli import _serve

    @asynccontextmanager
    async def fails(app: FastAPI) -> Any:
        (Path("/dev/null") / "none").mkdir()
        yield

    ended: list[str] = []
    with listening("127.0.0.1", 0) as listener, pytest.raises(typer.Exit) as left:
        _serve(
            FastAPI(lifespan=fails),
            listener,
            None,
            None,
            began=lambda: ended.append("began"),
            end_film=lambda: ended.append("film"),
        )
    assert left.value.exit_code == 1
    assert "the page ended by itself" in capsys.readouterr().err
    assert ended == []
