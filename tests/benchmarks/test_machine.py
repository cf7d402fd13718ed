from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from benchmarks.machine import (
    WorkMeter,
    machine_facts,
    named_without_machine,
    peak_memory_bytes,
    require_writable,
    write_result,
)
from edge_runtime.errors import StoreError
from edge_runtime.film_report import RESEARCH_USE

NOW = datetime(2026, 3, 4, 5, 6, tzinfo=timezone.utc)


def test_the_facts_tell_machine_and_versions() -> None:
    facts = machine_facts(NOW)
    assert facts["logical_cores"] == os.cpu_count()
    assert facts["versions"]["numpy"].count(".") == 2
    assert datetime.fromisoformat(facts["date"]) == NOW
    assert str(Path.home()) not in json.dumps(facts)


def test_a_data_folder_is_named_by_its_end_only(tmp_path: Path) -> None:
    folder = tmp_path / "hcm" / "images" / "test"
    folder.mkdir(parents=True)
    assert named_without_machine(folder) == "hcm/images/test"
    assert named_without_machine(Path("/data")) == "data"


def test_a_result_file_says_what_it_is_for(tmp_path: Path) -> None:
    out = tmp_path / "new" / "result.json"
    write_result(out, "something", {"cores": 2}, {"rows": [1]})
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document == {
        "what": "something",
        "research_use": RESEARCH_USE,
        "machine": {"cores": 2},
        "rows": [1],
    }


def test_a_result_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="choose another --out"):
        write_result(tmp_path / "file" / "result.json", "something", {}, {})


def test_work_of_others_is_what_neither_idles_nor_is_ours() -> None:
    before = WorkMeter(total_s=100, busy_s=40, own_s=5)
    # Of 20 core seconds 12 were busy, 7 of them ours.
    assert WorkMeter(120, 52, 12).others_share_since(before) == 0.25
    # Clocks of different grain may make others negative, or no time pass at all.
    assert WorkMeter(120, 46, 12).others_share_since(before) == 0
    assert before.others_share_since(before) == 0


def test_own_work_is_not_taken_for_work_of_others() -> None:
    before = WorkMeter.read()
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    after = WorkMeter.read()
    assert after.own_s - before.own_s > 0.1
    assert after.total_s > before.total_s


def test_peak_memory_is_of_the_process_alone() -> None:
    # getrusage in a child of a large process gives the parent's peak: this must not.
    ballast = bytearray(os.urandom(1 << 20)) * 300
    said = subprocess.run(
        [sys.executable, "-c", "from benchmarks.machine import *; print(peak_memory_bytes())"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert len(ballast) == 300 << 20
    assert 5e6 < int(said.stdout) < 200e6
    assert peak_memory_bytes() > len(ballast)


def test_a_result_file_is_looked_at_before_the_measurement(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "result.json")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    for bad in (tmp_path, tmp_path / "file" / "result.json"):
        with pytest.raises(StoreError, match="choose another --out"):
            require_writable(bad)
