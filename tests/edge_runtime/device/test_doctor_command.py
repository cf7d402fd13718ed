"""``leukoscope doctor`` as a process: its exit codes, its JSON, and what it does not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.film_report import RESEARCH_USE

# What a slow or a training library would show up as.
REPORT_LOADED = """
import sys
from edge_runtime import cli
try:
    cli.main()
finally:
    print(sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.fixture
def environment(repository: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LEUKOSCOPE_")}
    return kept | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}


def doctor(
    environment: dict[str, str], folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", REPORT_LOADED, "doctor", *arguments],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_shipped_bundle_runs_on_this_very_machine(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = doctor(environment, tmp_path, "--json")
    assert done.returncode == 0, done
    document = json.loads(done.stdout)
    assert document["can_run"] is True
    rows = {row["what"]: row for row in document["rows"]}
    assert rows["models"]["value"].startswith("detector, attribute head, classifier loaded on")
    assert document["research_use"] == RESEARCH_USE
    loaded = done.stderr.splitlines()[-1]
    assert "'onnxruntime'" in loaded
    assert not any(
        f"'{name}'" in loaded for name in ("torch", "ultralytics", "tensorrt", "openvino")
    )
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_cannot_run_a_film_says_so(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = doctor(environment, tmp_path, "--root", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "NO film can run here on backend onnxruntime; see keys, bundle" in done.stdout
    assert RESEARCH_USE in done.stdout
    assert "-> leukoscope device trust KEY.json" in done.stdout


def test_a_bad_setting_is_one_line_and_code_2(environment: dict[str, str], tmp_path: Path) -> None:
    done = doctor(environment, tmp_path, "--backend", "abacus")
    assert done.returncode == 2
    assert "leukoscope: backend 'abacus': unknown" in done.stderr
