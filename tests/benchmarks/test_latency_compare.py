"""Comparing two latency results, and the page of one."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.latency import SCHEMA_VERSION, WHAT
from benchmarks.latency_compare import compare_latency, read_latency
from benchmarks.latency_page import latency_page
from benchmarks.published_latency import TABLES
from edge_runtime.errors import DataError
from edge_runtime.film_report import RESEARCH_USE


def _row(contender: str, backend: str | None, rates: list[float]) -> dict[str, Any]:
    age = {
        "camera_fps": 30.0,
        "frames": 40,
        "fields_per_s": 9.0,
        "p50_ms": 80.0,
        "p95_ms": 100.0,
        "p99_ms": 120.0,
        "most_ms": 130.0,
        "inference_p50_ms": 60.0,
        "bound_ms": 153.3,
        "within_bound": True,
        "growth_ms_per_s": 0.4,
        "passed_over": 3,
    }
    times = {"count": 9, "p50_ms": 60.0, "p95_ms": 70.0, "p99_ms": 75.0}
    return {
        "profile": "phone",
        "contender": contender,
        "backend": backend,
        "about": "",
        "ran": {"detector": {"name": backend, "version": "1", "precision": "int8"}},
        "fields_per_s": sorted(rates)[1],
        "fields_per_s_rounds": rates,
        "windows_per_field": 2.0,
        "windows_per_s": 18.0,
        "cells_per_field": 1.5,
        "stages": {"read": times, "detect": times, "<b>": times},
        "field": times,
        "peak_memory_mb": 200.0,
        "peak_memory_mb_rounds": [199.0, 200.0, 201.0],
        "energy": {"measured": False, "reason": "no sensor"},
        "others_share": 0.02,
        "against": {},
        "crop_write_share": 0.03,
        "live": {"own_rate": age, "overload": dict(age)},
    }


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "what": WHAT,
        "research_use": RESEARCH_USE,
        "schema_version": SCHEMA_VERSION,
        "machine": {
            "processor": "A <script>",
            "cores": 2,
            "memory_gb": 8,
            "python": "3.11",
            "date": "2026-11-21",
            "versions": {"onnxruntime": "1.31.1"},
        },
        "bundle": "demo-1",
        "bundle_sha256": "aa",
        "plan": {"threads": 2, "rounds": 3, "fields_per_round": 3},
        "clocks": {"note": "fixed", "governors": None},
        "how": {"stages": "percentiles"},
        "profiles": {"phone": {"white_cells_per_field": 1.6}},
        "rows": [
            _row("leukoscope", "onnxruntime", [9.0, 10.0, 11.0]),
            _row("plain_loop", None, [20.0, 20.0, 20.0]),
            {
                "profile": "phone",
                "contender": "leukoscope",
                "backend": "tensorrt",
                "not_run": "no GPU",
            },
        ],
    }


def _write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_ratio_has_the_spread_that_its_rounds_allow(result: dict[str, Any]) -> None:
    newer = copy.deepcopy(result)
    newer["rows"][0] |= {"fields_per_s": 15.0, "fields_per_s_rounds": [14.0, 15.0, 16.0]}
    newer["rows"][1] |= {"fields_per_s": 19.0, "fields_per_s_rounds": [18.0, 19.0, 21.0]}
    newer["rows"][0] |= {"peak_memory_mb": 300.0, "peak_memory_mb_rounds": [300.0] * 3}
    found = compare_latency(result, newer)
    rows = {(row.contender, row.figure): row for row in found.rows}
    rate = rows["onnxruntime", "fields/s"]
    assert rate.ratio == pytest.approx(1.5)
    assert rate.low == pytest.approx(14 / 11)
    assert rate.high == pytest.approx(16 / 9)
    assert rate.verdict == "better"
    assert rows["plain_loop", "fields/s"].verdict == "within spread"
    # More memory is worse, where more fields a second are better.
    assert rows["onnxruntime", "peak memory, MB"].verdict == "worse"
    age = rows["onnxruntime", "age p99, ms"]
    assert (age.ratio, age.low, age.verdict) == (1, None, "")
    assert found.warnings == ()
    assert found.differences == ()
    assert found.only_in_one == ()


def test_what_differs_is_said_and_other_machines_are_warned_of(result: dict[str, Any]) -> None:
    other = copy.deepcopy(result)
    other["machine"] |= {"processor": "B", "versions": {"onnxruntime": "1.32", "openvino": "2"}}
    other |= {"bundle_sha256": "bb"}
    other["plan"]["threads"] = 4
    other["rows"][1]["others_share"] = 0.5
    other["rows"][2] = _row("leukoscope", "tensorrt", [1.0, 1.0, 1.0])
    other["rows"].append(_row("leukoscope", "openvino", [1.0, 1.0, 1.0]))
    found = compare_latency(result, other)
    assert found.differences == (
        "machine, processor: A <script> → B",
        "onnxruntime: 1.31.1 → 1.32",
        "openvino: None → 2",
        "bundle: demo-1 → demo-1 (same name, other content)",
        "plan, threads: 2 → 4",
    )
    assert len(found.warnings) == 2
    assert "machines differ" in found.warnings[0]
    assert "in B other programs used up to 50 %" in found.warnings[1]
    assert found.only_in_one == (
        "phone, openvino (not in A)",
        "phone, tensorrt (not run: no GPU)",
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ("[]", "is no latency result"),
        ('{"what": "something"}', "'something' is no latency result"),
        (json.dumps({"what": WHAT, "schema_version": "2.0"}), "schema 2.0"),
        (json.dumps({"what": WHAT, "schema_version": "1.3"}), "is missing"),
    ],
)
def test_what_is_no_result_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(said)):
        read_latency(path)
    with pytest.raises(DataError, match="give a result"):
        read_latency(tmp_path / "gone.json")


def test_a_row_without_its_figures_is_refused(result: dict[str, Any], tmp_path: Path) -> None:
    del result["rows"][0]["fields_per_s_rounds"]
    with pytest.raises(DataError, match="a row is missing or broken"):
        read_latency(_write(tmp_path / "a.json", result))


def test_the_command_compares_and_ends_with_2_for_another_file(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = _write(tmp_path / "a.json", result)
    answer = CliRunner().invoke(app, ["latency", "--compare", str(a), str(a)])
    assert answer.exit_code == 0, answer.output
    assert "are the same" in answer.output
    from edge_runtime.cli import main

    other = _write(tmp_path / "b.json", {"what": "peers"})
    monkeypatch.setattr(
        "sys.argv", ["leukoscope", "bench", "latency", "--compare", str(a), str(other)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_self_contained_and_its_style_is_pinned(result: dict[str, Any]) -> None:
    html = latency_page(result)
    page = _Page()
    page.feed(html)
    assert not [t for t, _ in page.tags if t == "script"]
    assert not [a for _, a in page.tags if "style" in a or (a.get("src") or "").startswith("http")]
    (policy,) = [a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL)
    assert style is not None
    pinned = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"'sha256-{pinned}'" in str(policy["content"])
    text = " ".join(page.text)
    for words in (RESEARCH_USE, "A <script>", "no GPU", "not measured: no sensor", "10.0/s"):
        assert words in text
    assert "finds 1.5 white cells of 1.6" in text


def test_bars_are_as_long_as_their_figures(result: dict[str, Any]) -> None:
    page = _Page()
    page.feed(latency_page(result))
    fills = [a["width"] for t, a in page.tags if t == "rect" and a.get("class") == "part fill"]
    # Rates: 10 and 20 of 20 fields a second; then memory: 200 and 200 of 200 MB.
    assert fills == ["50.0%", "100.0%", "100.0%", "100.0%"]
    spread = [a for t, a in page.tags if t == "rect" and a.get("class") == "part spread"]
    assert (spread[0]["x"], spread[0]["width"]) == ("45.0%", "10.0%")


def test_a_busy_machine_is_said_at_the_top(result: dict[str, Any]) -> None:
    assert "Shared machine." not in latency_page(result)
    result["rows"][0]["others_share"] = 0.4
    assert "up to 40 %" in latency_page(result)


def test_the_readme_tells_what_disturbed_and_what_was_not_run(result: dict[str, Any]) -> None:
    result["machine"]["date"] = "2026-11-21T10:00:00"
    result["rows"][0]["others_share"] = 0.4
    result["rows"][0]["live"]["overload"]["within_bound"] = False
    result["rows"][0]["against"] = {"session_run": {"ratio": 0.9, "low": 0.8, "high": 1.0}}
    table = TABLES["latency"](result)
    assert "used 2 to 40 % of the machine" in table
    assert (
        "| phone | onnxruntime | 10.0 | 2.0 | 1.5 of 1.6 | 60 / 75 | 120 | 120 | 0 | 200 |" in table
    )
    assert "| 0.90 (0.80–1.00) | – |" in table
    assert "in 0 of 1 combinations; 0 gave too few" in table
    assert "measure again" not in table
    for row in result["rows"][:2]:
        row["others_share"] = 0.5
    assert "measure again when it is idle" in TABLES["latency"](result)
    assert "Not run: tensorrt: no GPU." in table
    assert "Energy: not measured, no sensor." in table
