"""Who connects and asks nothing does not keep the others out."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn", reason="leukoscope[clinic]")

import httpx2
import uvicorn
from starlette.testclient import TestClient

from edge_runtime.clinic.web import connections, gate
from edge_runtime.clinic.web.app import build_app
from edge_runtime.clinic.web.clinic import Clinic
from edge_runtime.clinic.web.connections import MOST_OF_AN_ADDRESS, PatientProtocol
from edge_runtime.clinic.web.gate import _asker
from edge_runtime.serve_cli import _names


@contextmanager
def served(clinic: Clinic) -> Iterator[int]:
    """The page at a port, in a thread."""
    config = uvicorn.Config(
        build_app(dataclasses.replace(clinic, hosts=None)),
        port=0,
        http=PatientProtocol,
        log_config=None,
        limit_concurrency=64,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def answered(port: int) -> int:
    return int(httpx2.get(f"http://127.0.0.1:{port}/sign-in").status_code)


def is_closed(connection: socket.socket, within_s: float = 3) -> bool:
    connection.settimeout(within_s)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n"])
def test_a_connection_that_does_not_ask_ends(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(connections, "ASK_S", 0.3)
    with served(clinic) as port:
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.sendall(said)
            assert is_closed(idle)
        assert answered(port) == 200


def test_one_address_does_not_hold_every_connection(clinic: Clinic) -> None:
    with served(clinic) as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(MOST_OF_AN_ADDRESS)]
        with socket.create_connection(("127.0.0.1", port)) as more:
            assert is_closed(more)
        for each in held:
            each.close()
        for _ in range(100):
            if not PatientProtocol._held:
                break
            time.sleep(0.02)
        assert answered(port) == 200


def test_a_form_that_does_not_come_is_not_waited_for(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BODY_S", 0.3)
    with served(clinic) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST /sign-in HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\nname=")
        slow.settimeout(3)
        assert b" 408 " in slow.recv(100)


def test_one_network_is_one_asker() -> None:
    assert _asker("2001:db8:1:2::7") == _asker("2001:db8:1:2:ffff::1") != _asker("2001:db8:1:3::7")
    assert _asker("::ffff:192.0.2.1") == _asker("192.0.2.1") == "192.0.2.1"
    assert _asker("fe80::1%eth0") == _asker("fe80::2%eth0")
    assert _asker("testclient") == "testclient"


def test_an_ipv6_address_is_a_name_as_browsers_write_it(clinic: Clinic) -> None:
    hosts = _names("fd00::5", ["clinic.local"])
    app = build_app(dataclasses.replace(clinic, hosts=hosts))
    with TestClient(app, follow_redirects=False) as client:
        for host in ("[fd00::5]:8080", "[fd00::5]", "Clinic.Local"):
            assert client.get("/sign-in", headers={"host": host}).status_code == 200, host
        assert client.get("/sign-in", headers={"host": "fd00"}).status_code == 421
