"""The soak: every fault is found on record, and one that is not would be told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("sqlalchemy", reason="leukoscope[clinic]")
pytest.importorskip("argon2", reason="leukoscope[clinic]")
pytest.importorskip("psutil", reason="leukoscope[bench]")

from benchmarks.cli import app
from benchmarks.soak import SoakPlan, growth_mb, run_soak
from benchmarks.soak_faults import DISK, KINDS, Cable, Disk, Fault, Kind, WallClock, plan_faults
from benchmarks.soak_film import Rig, run_film
from benchmarks.soak_scene import Scene
from edge_runtime.cameras.watchdog import WatchedCamera
from edge_runtime.clinic.store import users
from edge_runtime.clinic.store.store import open_store
from edge_runtime.errors import SettingsError, StoreError


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(positions=24, film_um=(300.0, 200.0))


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_MEMORY_KIB", 8)
    monkeypatch.setattr(users, "_PASSES", 1)


@pytest.fixture
def rig(scene: Scene, tmp_path: Path) -> Iterator[Rig]:
    disk, clock = Disk(), WallClock()
    cable = Cable(scene.pictures, 0.004)
    with open_store(tmp_path / "store", now=clock, files=disk, free=disk.free) as store:
        yield Rig(scene, store, cable, disk, clock)


def test_camera_and_clock_fail_and_all_of_it_is_on_record(rig: Rig) -> None:
    faults = [
        Fault("corrupt frame", 6, 2),
        Fault("unplug", 16),
        Fault("clock jump", 28, -7200),
        Fault("corrupt burst", 34),
    ]
    outcome = run_film(rig, 1, 56, faults)
    assert outcome.missed == []
    assert outcome.begun == faults
    assert outcome.frames == 56
    assert outcome.error is None
    report = rig.store.reports.examined(outcome.film or 0)
    assert report.live is not None
    assert len(report.live.gaps) == 2 + len(outcome.unasked)
    # A gap shorter than the wait between two looks at the camera is told only afterwards.
    assert outcome.told >= 1
    # The gate refused the looks in motion, the others were examined and put on the map.
    assert 10 < outcome.examined < 46
    assert report.mosaic is not None
    assert report.mosaic.fields_placed > 5
    assert rig.store.check() == []


@pytest.mark.parametrize("kind", DISK)
def test_a_full_disk_ends_the_film_and_the_next_one_runs(rig: Rig, kind: Kind) -> None:
    outcome = run_film(rig, 1, 60, [Fault(kind, 12, 1)])
    assert outcome.missed == []
    assert isinstance(outcome.error, StoreError)
    assert outcome.frames < 60
    assert rig.store.films.get(outcome.film or 0).state == "interrupted"
    after = run_film(rig, 2, 12, [])
    assert (after.missed, after.error, after.frames) == ([], None, 12)


def test_a_gap_that_is_not_on_record_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchedCamera, "gaps", property(lambda self: ()))
    outcome = run_film(rig, 1, 24, [Fault("unplug", 6)])
    assert outcome.missed == ["unplug at frame 6: no gap says 'unplugged'", *outcome.missed[1:]]


def test_fields_that_are_not_stored_are_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(rig.store.films), "add_skipped", lambda self, film, skipped: None)
    outcome = run_film(rig, 1, 12, [])
    assert any("fields stored of" in line for line in outcome.missed)


def test_a_short_soak_has_its_figures(scene: Scene, tmp_path: Path) -> None:
    lines: list[str] = []
    result = run_soak(
        SoakPlan(frames=100, film_frames=60, seed=14), tmp_path / "store", lines.append, scene=scene
    )
    assert result["not_on_record"] == []
    assert result["frames"] >= 100
    assert result["frames"] == result["examined"] + result["skipped"]
    assert set(result["faults"]) == set(KINDS)
    assert [each["figure"] for each in result["targets"]] == ["growth", "not_on_record"]
    assert result["memory_mb"]["most"] >= result["memory_mb"]["last"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_soak_of_thousands_of_frames(scene: Scene, tmp_path: Path) -> None:
    result = run_soak(SoakPlan(frames=6000, film_frames=200), tmp_path / "store", scene=scene)
    assert result["not_on_record"] == []
    assert all(result["faults"][kind] for kind in ("unplug", "hang", "corrupt frame", "clock jump"))
    # So short a run is still warming up; what leaks with every frame would show all the same.
    assert result["memory_mb"]["growth"] < 30
    first, last = result["threads"]
    assert last - first <= 2


def test_growth_is_the_slope_and_not_the_noise() -> None:
    rng = np.random.default_rng(0)
    flat = [(n * 100, 150 + float(rng.normal(0, 2))) for n in range(400)]
    leak = [(frames, mb + frames * 0.0005) for frames, mb in flat]
    assert abs(growth_mb(flat)) < 1
    assert growth_mb(leak) == pytest.approx(20, abs=1)


def test_faults_are_far_apart_and_of_every_kind() -> None:
    rng = np.random.default_rng(1)
    films = [plan_faults(400, rng) for _ in range(300)]
    assert {fault.kind for film in films for fault in film} == set(KINDS)
    for film in films:
        places = [fault.at for fault in film]
        assert all(b - a >= 12 for a, b in pairwise(places))
        # A disk's fault ends the film.
        assert not any(fault.kind in DISK for fault in film[:-1])


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["soak", "--folder", str(tmp_path / "no")])
    assert isinstance(done.exception, SettingsError)
    assert "no such folder" in str(done.exception)
