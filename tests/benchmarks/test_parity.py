"""What int8 costs on test splits: which models are compared, and what the table says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import parity
from benchmarks.published import _TABLES
from edge_runtime.bundle import Bundle, open_bundle, shipped_bundle_path
from edge_runtime.errors import DataError

pytest.importorskip("onnx")
MACHINE = {"processor": "some", "date": "2026-01-02T03:04:05+00:00"}


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(shipped_bundle_path())


def test_every_artifact_is_held_against_float(
    shipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "runs_here", lambda backend: backend == "openvino")
    asked: list[tuple[str, str]] = []
    names = {content: path for path, content in shipped.contents.items()} | {b"float": "float"}

    def measure(backend: str, model: bytes) -> dict[str, float]:
        asked.append((backend, names[model]))
        cost = {"onnxruntime": 0.004, "openvino": 0.006}[backend] if model != b"float" else 0.0
        return {"a": 0.9 - cost, "b": 0.8}

    said: list[str] = []
    found = parity._rows(shipped, None, b"float", measure, 0.5, said.append)
    assert asked == [
        ("onnxruntime", "float"),
        ("onnxruntime", "detector.cpu.int8.onnx"),
        ("openvino", "detector.cpu.int8.onnx"),
        ("onnxruntime", "detector.tensorrt.int8.onnx"),
    ]
    assert len(said) == 4
    cpu, openvino, tensorrt = found["rows"]
    assert cpu["domains"]["a"] == {"float": 0.9, "int8": 0.896, "lost_points": 0.4}
    assert cpu["domains"]["b"]["lost_points"] == 0
    assert [row["within"] for row in (cpu, openvino, tensorrt)] == [True, False, True]
    # The goal of the detector: nine tenths of the convolutions' work.
    assert all(row["quantised_share"] >= 0.9 for row in (cpu, tensorrt))


def test_figures_of_other_domains_are_not_compared() -> None:
    with pytest.raises(DataError, match="float on"):
        parity._lost({"a": 0.5}, {"a": 0.5, "b": 0.4})


def test_the_last_of_several_trainings_counts(repository: Path, tmp_path: Path) -> None:
    record = repository / "models" / "wbc-detector.training.json"
    run = parity.recorded_run(record, tmp_path)
    assert run.name == json.loads(record.read_text())[-1]["recipe"]["name"]
    for text in ("[]", "no JSON", "{}"):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(DataError):
            parity.recorded_run(tmp_path / "r.json", tmp_path)
    with pytest.raises(DataError, match="unreadable"):
        parity.recorded_run(tmp_path / "none.json", tmp_path)


def test_the_table_says_what_went_too_far() -> None:
    def head(lost: float, within: bool) -> dict[str, Any]:
        domains = {"a": {"float": 0.9, "int8": 0.9 - lost / 100, "lost_points": lost}}
        row = {
            "artifact": "x.cpu.int8.onnx",
            "backend": "openvino",
            "quantised_share": 0.98,
            "domains": domains,
            "within": within,
        }
        return {"figure": "AP50-95", "allowed_points": 0.5, "rows": [row]}

    result = {
        "machine": MACHINE,
        "bundle": "b-1.0.0",
        "detector": head(0.1, True),
        "classifier": head(0.7, False),
        "attribute_head": head(-0.2, True),
    }
    text = _TABLES["parity"](result)
    assert "a: 0.900 → 0.899 (+0.10) | 0.5 |" in text
    assert "(+0.70) | 0.5, exceeded |" in text
    assert "98.0 %" in text
