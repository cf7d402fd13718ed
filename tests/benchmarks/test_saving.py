"""Cropping and saving are timed on films that are really kept."""

from __future__ import annotations

import pytest

pytest.importorskip("psutil", reason="leukoscope[bench]")
pytest.importorskip("sqlalchemy", reason="leukoscope[clinic]")

from benchmarks import saving
from edge_runtime.bundle import open_bundle, shipped_bundle_path


@pytest.mark.slow
def test_every_way_of_keeping_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the same kind, and quick.
    monkeypatch.setattr(saving, "_SIDES_PX", (640, 480))
    monkeypatch.setattr(saving, "_PIXEL_SIZE_UM", 0.2)
    plan = saving.SavingPlan(fields=2, rounds=1, threads=1, session_s=2.5)
    found = saving.measure_saving(open_bundle(shipped_bundle_path()), plan)
    rows = {row["kept_as"]: row for row in found["rows"]}
    sessions = {"session, store", "session, store, full size"}
    assert set(rows) == {"report", "store", "store, full size"} | sessions
    for row in rows.values():
        assert 0 < row["share"] < 1
        assert 0 < row["busy"] < 1
        assert row["met"] == (row["share"] <= saving.AT_MOST_SHARE)
        assert row["ms_per_field"] <= 1000 * row["seconds_per_field"]
        # Rounds are kept one by one, so that figures can be checked.
        assert row["shares"] == [row["share"]]
        bare = found["nothing_kept"][
            "session, nothing" if row["kept_as"] in sessions else "nothing"
        ]
        (kept_s,), (bare_s,) = row["seconds_of_rounds"], bare["seconds_of_rounds"]
        assert row["added"] == pytest.approx(1 - bare_s / kept_s, abs=0.01)
        # What is kept costs processor time of the thread that keeps it.
        assert row["cpu_ms_per_field"] > 0
    for name in sessions:
        # Most pictures show a field that was seen before.
        assert 0 < rows[name]["fields_with_pictures"] < rows[name]["fields"]
    assert rows["store"]["cells_per_field"] == rows["report"]["cells_per_field"]
