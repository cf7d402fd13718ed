from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.published import fill_readme
from edge_runtime.errors import DataError


def accuracy(ap50: float) -> dict[str, Any]:
    row = {
        "images": 50,
        "cells": 52,
        "ap": 0.8,
        "ap50": ap50,
        "ar": 0.85,
        "recall": 1.0,
        "precision": 0.98,
        "false_cells": 1,
    }
    return {
        "bundle": "b-1.0.0",
        "backend": {
            "artifact": "d.onnx",
            "precision": "int8",
            "name": "onnxruntime",
            "version": "1",
        },
        "operating_score": 0.5,
        "machine": "m",
        "date": "2026-01-01",
        "sets": {"bccd": row},
    }


def test_a_table_follows_its_result_file(tmp_path: Path) -> None:
    readme = "before\n<!-- accuracy -->\nold\n<!-- /accuracy -->\nafter\n"
    (tmp_path / "accuracy.json").write_text(json.dumps(accuracy(0.9871)))
    filled = fill_readme(readme, tmp_path)
    assert "| bccd, test split | 50 | 52 | 0.800 | 0.987 | 0.850 | 1.000 | 0.980 | 1 |" in filled
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert fill_readme(filled, tmp_path) == filled


def test_what_has_no_result_is_not_measured(tmp_path: Path) -> None:
    readme = "<!-- folds -->\n0.99\n<!-- /folds -->\n"
    assert fill_readme(readme, tmp_path) == ("<!-- folds -->\nNot measured yet.\n<!-- /folds -->\n")


def test_wrong_markers_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="weather"):
        fill_readme("<!-- weather -->\n<!-- /weather -->\n", tmp_path)
    with pytest.raises(DataError, match="not closed"):
        fill_readme("<!-- folds -->\n", tmp_path)


def test_the_readme_shows_the_committed_results(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert fill_readme(readme, repository / "benchmarks" / "results") == readme
