"""The page's cost is measured with everything on that the figures say is on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("psutil", reason="leukoscope[bench]")
pytest.importorskip("httpx2", reason="leukoscope[bench]")
pytest.importorskip("sqlalchemy", reason="leukoscope[clinic]")
pytest.importorskip("argon2", reason="leukoscope[clinic]")

from benchmarks import clinic
from benchmarks.clinic import ClinicPlan, measure_clinic
from edge_runtime.errors import DataError

PLAN = ClinicPlan(profile="phone", fields=3, seconds=2, rounds=1, threads=1)


@pytest.mark.slow
def test_gate_mosaic_and_store_run_while_it_is_measured() -> None:
    measured = measure_clinic(PLAN)
    row: dict[str, Any] = measured["row"]
    film = row["last_film"]
    assert 0 < film["fields"] == film["fields_placed"] <= film["frames_judged"]
    # Each place is looked at for a second: most fields show nothing new.
    assert 0 < film["fields_at_full_size"] < film["fields"]
    assert 0 < row["rate_of_bare"] < 1.2
    assert row["memory_without_pictures_mb"] < row["memory_mb"]
    assert {each["figure"] for each in measured["targets"]} == {
        "first_result_s",
        "memory_without_pictures_mb",
        "rate_of_bare",
    }


@pytest.mark.slow
def test_a_film_without_gate_and_mosaic_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    put = clinic._put

    def separate(*args: Any) -> Any:
        source, profile = put(*args)
        return source.replace(":hand:", ":"), profile

    monkeypatch.setattr(clinic, "_put", separate)
    with pytest.raises(DataError, match="without gate, mosaic or tally"):
        measure_clinic(replace(PLAN, fields=2))
