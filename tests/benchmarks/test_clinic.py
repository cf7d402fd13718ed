"""The page's cost is measured with everything on that the figures say is on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
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
    # One caller on one thread is the same either way, but for the turns' chance.
    assert 0 < row["rate_of_bare"] < 1.4
    assert 0 < row["rate_of_callers"] < 1.4
    assert row["memory_without_pictures_mb"] < row["memory_mb"]
    assert {each["figure"] for each in measured["targets"]} == {
        "first_result_s",
        "memory_without_pictures_mb",
        "rate_of_bare",
        "rate_of_callers",
    }


def test_the_bare_loops_call_the_same_models_as_often() -> None:
    plan = replace(PLAN, fields=2)
    frames = clinic._frames(plan)
    own = clinic._one_call_on_all(plan)
    with clinic._bare_calls(plan, frames) as (calls, looks):
        assert len(calls) == 2
        stages = [each.stage for each in calls[0]]
        assert stages.count("detector") == looks
        assert {"detector"} < set(stages) <= set(own)
        for session in own.values():
            assert session.get_session_options().intra_op_num_threads == plan.threads
        again = clinic._run_by(own, calls)
        for one, other in zip(calls[0], again[0], strict=True):
            told, same = one.run(one.arrays), other.run(other.arrays)
            for mine, theirs in zip(told.values(), same, strict=True):
                assert np.allclose(mine, theirs, atol=1e-4)


@pytest.mark.slow
def test_a_film_without_gate_and_mosaic_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    put = clinic._put

    def separate(*args: Any) -> Any:
        source, profile = put(*args)
        return source.replace(":hand:", ":"), profile

    monkeypatch.setattr(clinic, "_put", separate)
    with pytest.raises(DataError, match="without gate, mosaic or tally"):
        measure_clinic(replace(PLAN, fields=2))
