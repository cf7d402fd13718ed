"""A soak: hundreds of films through the live path into a real store, while everything goes wrong.

Owns the run, memory over time and the verdict. Does not own what is looked at (see
``soak_scene``), what goes wrong (``soak_faults``) nor whether it was recorded (``soak_film``).
"""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import WorkMeter
from benchmarks.soak_faults import KINDS, Cable, Disk, WallClock, plan_faults
from benchmarks.soak_film import Outcome, Rig, run_film
from benchmarks.soak_scene import HEIGHT_PX, WIDTH_PX, Scene
from edge_runtime.clinic.store.store import ClinicStore, open_store
from edge_runtime.clinic.store.users import User
from edge_runtime.errors import RecordError, StoreError

GROWTH_MB = 10.0
# Caches, pools and the allocator's own reserves fill at first.
_WARM_UP = 0.1
# Ten films to a day of the store's clock, and a day is kept: the folder stays as it is.
_DAY_S, _FILMS_A_DAY = 86_400.0, 10
_PERIOD_S = 0.008
_PASSWORD = "only of this soak"


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """How much.

    Attributes:
        frames: out of the camera, in all: examined, refused by the gate, or broken.
        film_frames: of each film, at most; a disk's fault ends one before.
        seed: of what goes wrong.
    """

    frames: int
    film_frames: int = 400
    seed: int = 1


@dataclass(slots=True)
class _Sums:
    frames: int = 0
    films: int = 0
    examined: int = 0
    passed_over: int = 0
    cells: int = 0
    begun: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    unasked: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    starts_refused: int = 0
    clock_refusals: int = 0
    told: int = 0
    kept: int = 0
    samples: list[tuple[int, float, int, int]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Counts one film."""
        self.films += 1
        self.frames += outcome.frames
        self.examined += outcome.examined
        self.passed_over += outcome.passed_over
        self.cells += outcome.cells
        self.told += outcome.told
        self.begun.update(fault.kind for fault in outcome.begun)
        self.missed += outcome.missed
        self.unasked.update(
            reason.split(":")[0].rstrip("0123456789. s") for reason in outcome.unasked
        )
        if outcome.error is not None:
            self.ended[type(outcome.error).__name__] += 1


def run_soak(
    plan: SoakPlan,
    folder: Path,
    progress: Callable[[str], None] = lambda line: None,
    *,
    scene: Scene | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Runs films until so many frames have come.

    Args:
        plan: how much.
        folder: empty, for the store; most of it is deleted again by retention.
        progress: takes a line now and then.
        scene: what is looked at; None makes one.
        keep: takes what is known so far as often; a run takes hours.
        clock: seconds.

    Returns:
        Figures and ``targets``.
    """
    rng = np.random.default_rng(plan.seed)
    scene = scene or Scene()
    disk, wall = Disk(), WallClock()
    cable = Cable(scene.pictures, _PERIOD_S)
    sums = _Sums()
    began, before = clock(), WorkMeter.read()
    with open_store(folder, now=wall, files=disk, free=disk.free) as store:
        admin = store.users.add("Soak", "admin", _PASSWORD, None)
        store.settings.change(admin, retention_days=1, keep_frames=False)
        rig = Rig(scene, store, cable, disk, wall)
        while sums.frames < plan.frames:
            _films_end(sums, rig, plan, rng, admin)
            if sums.films % _FILMS_A_DAY == 0:
                _, mb, threads, files = sums.samples[-1]
                others = WorkMeter.read().others_share_since(before)
                keep(_result(plan, sums, clock() - began, others))
                progress(
                    f"{sums.frames} frames, {sums.films} films, {clock() - began:.0f} s, "
                    f"{mb:.1f} MB, {threads} threads, {files} files, "
                    f"{sum(sums.begun.values())} faults, {len(sums.missed)} not on record"
                )
        sums.missed += store.check()
    others = WorkMeter.read().others_share_since(before)
    return _result(plan, sums, clock() - began, others)


def _films_end(
    sums: _Sums, rig: Rig, plan: SoakPlan, rng: np.random.Generator, admin: User
) -> None:
    """One film and what a device does after it."""
    faults = plan_faults(plan.film_frames, rng)
    outcome = run_film(rig, sums.films + 1, plan.film_frames, faults)
    sums.add(outcome)
    moved = sum(each.amount for each in outcome.begun if each.kind == "clock jump")
    _retire(sums, rig.store, admin, moved)
    if rng.random() < 0.05:
        _refused_start(sums, rig)
    # Somebody sets the clock right, and the night goes by.
    rig.clock.jump(_DAY_S / _FILMS_A_DAY - moved)
    if moved:
        rig.store.retention.run(admin, clock_is_right=True)
    sums.samples.append((sums.frames, *_held()))


def _retire(sums: _Sums, store: ClinicStore, admin: User, moved: float) -> None:
    """Films past their time go, but not because a clock jumped."""
    there = {film.id for film in store.films.search(limit=10_000)}
    sums.kept = len(there)
    try:
        store.retention.run(None)
    except RecordError:
        sums.clock_refusals += 1
        return
    gone = there - {film.id for film in store.films.search(limit=10_000)}
    if moved > 60 * _DAY_S and gone:
        sums.missed.append(f"a clock {moved / _DAY_S:.0f} days ahead deleted {len(gone)} films")


def _refused_start(sums: _Sums, rig: Rig) -> None:
    """With a full disk a film does not even begin."""
    rig.disk.low = True
    try:
        rig.store.require_room()
    except StoreError:
        sums.starts_refused += 1
    else:
        sums.missed.append("disk low before a film: it was not refused")
    finally:
        rig.disk.mend()


def _held() -> tuple[float, int, int]:
    """Resident memory in MB, threads, open files."""
    import psutil

    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss / 1e6, threading.active_count(), process.num_fds()


def growth_mb(samples: list[tuple[int, float]]) -> float:
    """How much memory grew from the first sample to the last, by a straight line through all.

    Args:
        samples: frames so far and megabytes.
    """
    if len(samples) < 3:
        return 0.0
    at = np.array([each[0] for each in samples], np.float64)
    slope = float(np.polyfit(at, np.array([each[1] for each in samples]), 1)[0])
    return slope * float(at[-1] - at[0])


def _result(plan: SoakPlan, sums: _Sums, seconds: float, others: float) -> dict[str, Any]:
    warm = [each for each in sums.samples if each[0] >= _WARM_UP * plan.frames]
    grown = growth_mb([(frames, mb) for frames, mb, _, _ in warm])
    every = max(1, len(sums.samples) // 40)
    faults = sum(sums.begun.values())
    return {
        "how": (
            "Films through the live path: watched camera, film loop, gate, mosaic, tally, "
            "screening rule, and the clinic's store in a temporary folder with a day's retention. "
            f"The camera is synthetic: {WIDTH_PX} x {HEIGHT_PX} pixels of a virtual film moved by "
            "hand, one each 8 ms. Detector and classifier are stand-ins that threshold colours, "
            "behind the device's own stages. Faults by chance: unplugged, hung, broken pictures, "
            "the wall clock moved, disk low, disk full in the middle of a picture, database "
            "read-only. Waiting times of the watchdog are shortened (hang after 1 s). Memory is "
            "resident memory after each film and a garbage collection, as a straight line through "
            "all after the first tenth."
        ),
        "frames": sums.frames,
        "frames_wanted": plan.frames,
        "films": sums.films,
        "film_frames": plan.film_frames,
        "seed": plan.seed,
        "examined": sums.examined,
        "skipped": sums.frames - sums.examined,
        "passed_over": sums.passed_over,
        "cells": sums.cells,
        "seconds": round(seconds, 1),
        "frames_per_s": round(sums.frames / seconds, 1),
        "others_share": others,
        "films_in_store": sums.kept,
        "faults": {kind: sums.begun[kind] for kind in KINDS},
        "starts_refused": sums.starts_refused,
        "retention_refused_by_clock": sums.clock_refusals,
        "films_ended_by": dict(sums.ended),
        "gaps_told_while_they_lasted": sums.told,
        "gaps_nobody_asked_for": dict(sums.unasked),
        "not_on_record": sums.missed,
        "memory_mb": {
            "warm": round(warm[0][1], 1) if warm else None,
            "last": round(sums.samples[-1][1], 1),
            "most": round(max(each[1] for each in sums.samples), 1),
            "growth": round(grown, 2),
        },
        "threads": [min(x[2] for x in warm), max(x[2] for x in warm)] if warm else None,
        "open_files": [min(x[3] for x in warm), max(x[3] for x in warm)] if warm else None,
        "samples": [
            {"frames": frames, "memory_mb": round(mb, 1), "threads": threads, "open_files": files}
            for frames, mb, threads, files in sums.samples[::every]
        ],
        "targets": [
            {
                "name": "memory grows by less than 10 MB after warm-up",
                "figure": "growth",
                "at_most": GROWTH_MB,
                "measured": round(grown, 2),
                "met": grown < GROWTH_MB,
            },
            {
                "name": f"every one of {faults} faults is on record, and nothing else is wrong",
                "figure": "not_on_record",
                "at_most": 0,
                "measured": len(sums.missed),
                "met": not sums.missed,
            },
        ],
    }
