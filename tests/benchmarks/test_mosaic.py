"""The measurement of the mosaic: what is counted, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import cli, mosaic
from benchmarks.mosaic import measure_mosaic, targets, which_cells
from edge_runtime.types import Detections, Frame
from edge_runtime.virtual_film import FilmSpec, WindowCell

SMALL = FilmSpec(size_um=(300.0, 200.0), pixel_size_um=0.5, white_cells_per_mm2=300.0)


def _blind(frame: Frame) -> Detections:
    """Finds the same box in every field, wherever the stage is: never a cell."""
    box = np.asarray([[2, 2, 8, 8]], np.float32)
    return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))


def test_a_short_film_with_a_good_and_a_useless_detector(tmp_path: Path) -> None:
    picture = tmp_path / "map.svg"
    result = measure_mosaic(frames=20, spec=SMALL, find=_blind, picture=picture)
    truth, blind = result["rows"]["truth"], result["rows"]["detector"]
    assert truth["fields"] == truth["fields_placed"] + truth["fields_lost"] == 20
    assert truth["cells_shown"] == truth["cells_found"] == truth["cells_of_the_film"] > 5
    assert truth["processor_ms_per_field"]["p50"] > 0
    assert blind["cells_found"] == 0
    assert blind["cells_never_found"] == truth["cells_shown"]
    assert blind["cells_that_are_none"] == blind["cells_of_the_film"] > 0
    assert result["film"]["motions"]["step"] > 5
    assert picture.read_text(encoding="utf-8").count(">no cell, cell ") > 0


def test_targets_are_met_or_not() -> None:
    row = {
        "double_share": 0.03,
        "missed_share": 0.03,
        "cell_error_widths": {"max": 0.1},
        "fields_misplaced": 0,
        "fragments_left": 1,
        "processor_ms_per_field": {"p50": 4.0},
    }
    met = {each["name"]: each["met"] for each in targets({"truth": row})}
    assert [name for name, good in met.items() if not good] == ["cells counted twice, truth"]


def test_every_find_is_one_cell_at_most() -> None:
    cells = [
        WindowCell(5, "blast", True, (10, 10, 50, 50), 1.0),
        WindowCell(6, "blast", True, (45, 10, 85, 50), 1.0),
    ]
    boxes = np.asarray(
        [[12, 11, 52, 51], [14, 10, 54, 50], [44, 12, 84, 52], [200, 10, 240, 50]], np.float32
    )
    found = Detections(boxes, np.ones(4, np.float32), np.zeros(4, np.int64))
    assert which_cells(found, cells) == [5, None, 6, None]


def test_the_command_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaic, "_FILM_UM", SMALL.size_um)
    monkeypatch.setattr(mosaic, "_FILM_PIXEL_UM", SMALL.pixel_size_um)
    out = tmp_path / "mosaic.json"
    done = CliRunner().invoke(
        cli.app, ["mosaic", "--frames", "20", "--no-detector", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text(encoding="utf-8"))
    assert set(written["rows"]) == {"truth"}
    assert {target["met"] for target in written["targets"]} <= {True, False}
    assert "cells counted twice, truth" in done.output
