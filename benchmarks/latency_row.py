"""Rows of the latency result: figures of one combination, out of its runs.

Owns which figures there are and what each means. Does not own the runs (see ``latency_run``).
Percentiles are of all fields of all rounds together; rates and memory are medians of rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.latency_run import PLAIN_LOOP, SESSION_RUN, ULTRALYTICS
from benchmarks.machine import percentile

ABOUT = {
    "leukoscope": "leukoscope run with all stages and its report; fields read from files",
    PLAIN_LOOP: "a loop as written around cv2.VideoCapture over a source that queues: read, "
    "session.run of the shipped detector on the whole field, read; no windows, no heads",
    SESSION_RUN: "bare session.run of the shipped detector on tensors that lie ready, one call "
    "on all threads",
    ULTRALYTICS: "Ultralytics predict(stream=True) with the float detector, on the same files; no "
    "windows, no heads",
}
_PEERS = (SESSION_RUN, PLAIN_LOOP, ULTRALYTICS)
HOW = {
    "fields_per_s": "examined fields by the film's time; crops and previews for its report "
    "are made in it, the page itself afterwards; median of rounds",
    "cells_per_field": "white cells found, true or not; white_cells_per_field of the profile are "
    "those at least half visible, so cut cells are in the first alone; Ultralytics reports from "
    "score 0.25 on, the others from the bundle's",
    "windows_per_s": "looks of the detector a second; a peer looks once a field",
    "stages": "percentiles over all fields of all rounds; as many fields at once as the backend "
    "has streams, so stages of different fields overlap",
    "field": "all stages of one field but reading",
    "live": "the film loop on a paced camera; age from capture to result, report not written yet",
    "own_rate": "at the camera's own frame rate",
    "overload": "at twice the rate of the fastest contender of the profile in its trial",
    "bound_ms": "twice the median time in inference, plus one frame period of the camera",
    "growth_ms_per_s": "median age of the last tenth of frames less that of the first, by the time",
    "peak_memory_mb": "largest resident memory of the combination's own process, before its live "
    "runs, 10^6 bytes",
    "crop_write_share": "cropping, encoding and writing, as a share of the film's time; one "
    "thread does it beside the others",
    "energy": "of the whole board or package during the film, other programs' included",
    "others_share": "share of the machine that other programs used meanwhile; median of rounds",
    "against": "ratio of windows_per_s to a peer's, round by round: median, lowest, highest",
    "fields": "rendered before, uncompressed files; no pixel size is told, as by a camera that was "
    "not set up: the detector finds the scale itself",
}


@dataclass(frozen=True, slots=True)
class Combination:
    """One row: a contender on a profile's fields."""

    profile: str
    contender: str
    backend: str | None = None

    @property
    def name(self) -> str:
        """For a person."""
        who = self.contender if self.backend is None else f"{self.contender} on {self.backend}"
        return f"{self.profile}, {who}"


def row_of(
    each: Combination, runs: Mapping[Combination, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Everything but the identity of one row.

    Args:
        each: which one.
        runs: of all combinations, round by round.
    """
    own = runs[each]
    stages: dict[str, list[float]] = {}
    for run in own:
        for stage, seconds in run["stage_seconds"].items():
            stages.setdefault(stage, []).extend(seconds)
    busy = [values for stage, values in stages.items() if stage != "read"]
    rates = [run["fields"] / run["seconds"] for run in own]
    row: dict[str, Any] = {
        "about": ABOUT[each.contender],
        "ran": own[0]["ran"],
        "fields_per_s": round(median(rates), 3),
        "fields_per_s_rounds": [round(value, 3) for value in rates],
        "windows_per_field": round(
            sum(r["windows"] for r in own) / sum(r["fields"] for r in own), 3
        ),
        "cells_per_field": _rounded(own[0]["cells_per_field"]),
        "windows_per_s": round(median(r["windows"] / r["seconds"] for r in own), 3),
        "stages": {stage: percentiles(values) for stage, values in stages.items()},
        "field": percentiles([sum(parts) for parts in zip(*busy, strict=True)]),
        "peak_memory_mb": round(median(r["peak_memory_bytes"] for r in own) / 1e6, 1),
        "peak_memory_mb_rounds": [round(r["peak_memory_bytes"] / 1e6, 1) for r in own],
        "energy": _energy([r["energy"] for r in own if "energy" in r]),
        "others_share": round(median(r["others_share"] for r in own), 3),
        "against": {
            peer: _ratio(each, Combination(each.profile, peer), runs)
            for peer in _PEERS
            if peer != each.contender and Combination(each.profile, peer) in runs
        },
    }
    if {"crop", "write"} <= stages.keys():
        spent = sum(stages["crop"]) + sum(stages["write"])
        row["crop_write_share"] = round(spent / sum(r["seconds"] for r in own), 4)
    if own[0]["live"]:
        row["live"] = {
            name: _live([run["live"][place] for run in own])
            for place, name in enumerate(("own_rate", "overload"))
        }
    return row


def percentiles(seconds: Sequence[float]) -> dict[str, Any]:
    """Count, 50th, 95th and 99th percentile in ms."""
    return {
        "count": len(seconds),
        **{f"p{share}_ms": round(percentile(seconds, share) * 1000, 3) for share in (50, 95, 99)},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _live(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ages = [age for run in runs for age in run["ages_ms"]]
    inference = [each for run in runs for each in run["inference_ms"]]
    grown = [run["growth_ms_per_s"] for run in runs if run["growth_ms_per_s"] is not None]
    fps = runs[0]["camera_fps"]
    if not ages:
        return {"camera_fps": fps, "frames": 0}
    bound = 2 * percentile(inference, 50) + 1000 / fps
    p99 = percentile(ages, 99)
    return {
        "camera_fps": fps,
        "frames": len(ages),
        "fields_per_s": round(median(len(run["ages_ms"]) / run["seconds"] for run in runs), 3),
        "p50_ms": round(percentile(ages, 50), 2),
        "p95_ms": round(percentile(ages, 95), 2),
        "p99_ms": round(p99, 2),
        "most_ms": round(max(ages), 2),
        "inference_p50_ms": round(percentile(inference, 50), 2),
        "bound_ms": round(bound, 2),
        "within_bound": p99 <= bound,
        "growth_ms_per_s": round(median(grown), 2) if grown else None,
        "passed_over": sum(run["passed_over"] or 0 for run in runs),
    }


def _ratio(
    each: Combination, peer: Combination, runs: Mapping[Combination, Sequence[Mapping[str, Any]]]
) -> dict[str, float]:
    def rate(run: Mapping[str, Any]) -> float:
        return float(run["windows"] / run["seconds"])

    ratios = [rate(a) / rate(b) for a, b in zip(runs[each], runs[peer], strict=True)]
    return {
        "ratio": round(median(ratios), 4),
        "low": round(min(ratios), 4),
        "high": round(max(ratios), 4),
    }


def _energy(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not runs:
        return {"measured": False, "reason": "only the film loop's is measured"}
    measured = [run for run in runs if run["measured"]]
    if not measured:
        return dict(runs[0])
    return {
        "measured": True,
        "sensor": measured[0]["sensor"],
        "joules_per_field": round(median(run["joules_per_field"] for run in measured), 4),
        "watts": round(median(run["watts"] or 0.0 for run in measured), 3),
    }
