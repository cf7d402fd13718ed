"""A browser's part towards the clinic's page: a session, and the token with every change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import httpx2
from starlette.testclient import TestClient


@dataclass
class Seconds:
    """A stop watch that tests move."""

    at: float = 1000.0

    def __call__(self) -> float:
        return self.at


class Browser:
    """A client with a session, which sends the token with every change."""

    def __init__(self, client: TestClient, name: str, secret: str) -> None:
        self.client = client
        done = client.post("/sign-in", data={"name": name, "secret": secret})
        assert done.status_code == 303, done.text
        found = re.search(r'name="csrf" content="([^"]+)"', self.get("/films").text)
        assert found is not None
        self.csrf = found[1]

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.client.get(path, headers={"accept": "text/html", **headers})

    def post(
        self, path: str, data: Mapping[str, object] | None = None, **headers: str
    ) -> httpx2.Response:
        return self.client.post(path, data={"csrf": self.csrf, **(data or {})}, headers=headers)
