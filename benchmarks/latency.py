"""Latency by camera profile and backend, beside peers, in interleaved rounds.

Owns the plan, the fields, the order of runs, the check that what ran is what was asked, and the
rows of the result. Does not own what a contender does (see ``latency_run``), the table and page
(see ``latency_cli``, ``latency_page``) nor comparing two results (see ``latency_compare``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from benchmarks.child_process import limited_cores, run_child
from benchmarks.clocks import clock_facts
from benchmarks.latency_row import HOW, Combination, row_of
from benchmarks.latency_run import OURS, PLAIN_LOOP, SESSION_RUN, ULTRALYTICS
from benchmarks.machine import WorkMeter
from edge_runtime.backends import BackendRow, row_named
from edge_runtime.bundle import Bundle, HeadName, open_bundle
from edge_runtime.errors import BackendError, DataError, LeukoscopeError, SettingsError
from edge_runtime.virtual_film import PROFILES, OpticalProfile

WHAT = "latency by camera profile and backend"
SCHEMA_VERSION = "1.0"
# Fields that differ; a longer film shows them again.
_DISTINCT_FIELDS = 24
_FILM_SEED = 7
# Above the fastest contender by this much no reader keeps up.
_OVERLOAD = 2.0
_PEERS = (PLAIN_LOOP, SESSION_RUN, ULTRALYTICS)
# Their tensors or files lie ready.
_NO_CAMERA = (SESSION_RUN, ULTRALYTICS)


@dataclass(frozen=True, slots=True)
class LatencyPlan:
    """What is measured, and how often.

    Attributes:
        profiles: names of optical profiles.
        backends: names out of the table of backends.
        bundle: bundle folder or file.
        checkpoint: of the bundle's detector, for Ultralytics; None leaves it out with that reason.
        threads: processor threads of every contender, and processor cores.
        rounds: how often all are walked through.
        fields: of a film, per round.
        seconds: of each live run, per round.
        warm_up: fields in front of every measured film.
        precision: of the bundle's artifacts; None takes what the runtime prefers.
        engines: folder of built engines.
        peers: whether the peers run too.
    """

    profiles: tuple[str, ...]
    backends: tuple[str, ...]
    bundle: Path
    checkpoint: Path | None = None
    threads: int = 2
    rounds: int = 3
    fields: int = 48
    seconds: float = 4.0
    warm_up: int = 4
    precision: str | None = None
    engines: Path | None = None
    peers: bool = True


def measure_latency(
    plan: LatencyPlan, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Runs every combination in every round, and puts rows together.

    Raises:
        SettingsError: an unknown profile.
        BackendError: an unknown backend, or another one ran than was asked.
        BundleError: the bundle does not verify.
        LeukoscopeError: a contender that could run failed later.
    """
    profiles = [_profile(name) for name in dict.fromkeys(plan.profiles)]
    backends = [row_named(name) for name in dict.fromkeys(plan.backends)]
    bundle = open_bundle(plan.bundle)
    began = time.monotonic()
    before = WorkMeter.read()
    with (
        tempfile.TemporaryDirectory(prefix="leukoscope-latency-") as scratch,
        limited_cores(plan.threads) as cores,
    ):
        bench = _Bench(plan, bundle, Path(scratch), progress)
        for profile in profiles:
            progress(f"rendering fields of {profile.name}")
            bench.render(profile)
        combinations = [
            each for profile in profiles for each in _combinations(plan, profile.name, backends)
        ]
        not_run, trials = _try_all(combinations, bench, progress)
        able = [each for each in combinations if each not in not_run]
        runs = _rounds(able, bench, trials, plan.rounds, progress)
    rounds = len(next(iter(runs.values()), []))
    rows = [
        {"not_run": not_run[each], **_identity(each)}
        if each in not_run
        else {**_identity(each), **row_of(each, runs)}
        for each in combinations
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": bundle.id,
        "bundle_sha256": bundle.sha256,
        "plan": {
            "threads": plan.threads,
            "cores_allowed": cores,
            "rounds": rounds,
            "rounds_planned": plan.rounds,
            "fields_per_round": plan.fields,
            "distinct_fields": min(plan.fields, _DISTINCT_FIELDS),
            "live_seconds": plan.seconds,
            "warm_up_fields": plan.warm_up,
            "precision": plan.precision,
            # Above 0 on a shared machine others go first.
            "niceness": os.nice(0) if hasattr(os, "nice") else None,
        },
        "clocks": clock_facts(),
        "others_share": WorkMeter.read().others_share_since(before),
        "seconds": round(time.monotonic() - began, 1),
        "how": HOW,
        "profiles": {
            profile.name: {
                "resolution_px": list(profile.resolution),
                "frame_rate_hz": profile.frame_rate_hz,
                "pixel_size_um": profile.pixel_size_um,
                "white_cells_per_field": bench.white_cells[profile.name],
                "overload_fps": trials.get(profile.name),
            }
            for profile in profiles
        },
        "rows": rows,
    }


def _try_all(
    combinations: Sequence[Combination], bench: _Bench, progress: Callable[[str], None]
) -> tuple[dict[Combination, str], dict[str, float]]:
    """What cannot run, with the reason, and for each profile a camera's rate that overloads all."""
    not_run: dict[Combination, str] = {}
    fastest: dict[str, float] = {}
    same_anywhere: dict[str, str | None] = {}
    for each in combinations:
        reason = bench.unable(each)
        if reason is None and each.contender in same_anywhere:
            reason = same_anywhere[each.contender]
        elif reason is None:
            progress(f"trying {each.name}")
            found = bench.trial(each)
            if isinstance(found, str):
                reason = found
            else:
                fastest[each.profile] = max(fastest.get(each.profile, 0.0), found)
            if each.contender in _NO_CAMERA:
                same_anywhere[each.contender] = reason
        if reason is not None:
            not_run[each] = reason
            progress(f"{each.name}: not run: {reason}")
    return not_run, fastest


def _rounds(
    combinations: Sequence[Combination],
    bench: _Bench,
    overload_fps: Mapping[str, float],
    rounds: int,
    progress: Callable[[str], None],
) -> dict[Combination, list[dict[str, Any]]]:
    """All runs, interleaved. Ctrl-C keeps the whole rounds that are done."""
    runs: dict[Combination, list[dict[str, Any]]] = {each: [] for each in combinations}
    try:
        for number in range(1, rounds + 1):
            for each, done in runs.items():
                done.append(bench.run(each, overload_fps.get(each.profile, 0.0)))
                rate = done[-1]["fields"] / done[-1]["seconds"]
                progress(f"round {number}/{rounds}  {each.name}: {rate:.1f} fields/s")
    except KeyboardInterrupt:
        whole = min((len(done) for done in runs.values()), default=0)
        if whole == 0:
            raise
        progress(f"interrupted: {whole} of {rounds} rounds are kept")
        return {each: done[:whole] for each, done in runs.items()}
    return runs


class _Bench:
    """Fields, models and children of one measurement."""

    def __init__(
        self, plan: LatencyPlan, bundle: Bundle, scratch: Path, progress: Callable[[str], None]
    ) -> None:
        from benchmarks.precision_rate import finds_only

        self._plan = plan
        self._bundle = bundle
        self._scratch = scratch
        self._film: Any = None
        self.white_cells: dict[str, float] = {}
        artifact = bundle.artifact_for("cpu")
        self._precision = artifact.precision
        self._shipped = scratch / "shipped.onnx"
        self._shipped.write_bytes(
            finds_only(bundle.contents[artifact.path], bundle.manifest.detector.output.name)
        )
        self._float: Path | None = None
        if plan.peers and plan.checkpoint is not None:
            from benchmarks.float_model import float_onnx

            progress("exporting the float model for Ultralytics")
            self._float = float_onnx(plan.checkpoint, bundle, scratch)

    def render(self, profile: OpticalProfile) -> None:
        """Fields as uncompressed files: decoding them costs about what copying them does."""
        import cv2

        from edge_runtime.cameras.virtual import VirtualCamera
        from edge_runtime.virtual_film import VirtualFilm

        if self._film is None:
            self._film = VirtualFilm.build(_FILM_SEED)
        plan, distinct = self._plan, min(self._plan.fields, _DISTINCT_FIELDS)
        film, short = self._folder(profile.name, "film"), self._folder(profile.name, "short")
        film.mkdir(parents=True)
        short.mkdir()
        camera = VirtualCamera(self._film, profile, distinct)
        white = [each for i in range(distinct) for each in camera.truth(i) if each.is_white_cell]
        self.white_cells[profile.name] = round(len(white) / distinct, 3)
        for index in range(plan.fields):
            place = film / f"field_{index:06d}.bmp"
            if index < distinct:
                pixels = camera.frame(index).pixels
                if not cv2.imwrite(str(place), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)):
                    raise DataError(f"{place.name}: cannot be written; free some disk space")
            else:
                _link(film / f"field_{index % distinct:06d}.bmp", place)
            if index < plan.warm_up:
                _link(place, short / place.name)

    def unable(self, each: Combination) -> str | None:
        """Why it cannot run here, as far as that is known without trying."""
        if each.backend is not None:
            reason: str | None = import_module(row_named(each.backend).module).unsupported_reason()
            return reason
        if each.contender == ULTRALYTICS and self._float is None:
            return "it needs the detector's checkpoint; give --checkpoint"
        return None

    def trial(self, each: Combination) -> float | str:
        """A short film: the camera's rate that overloads it, or why it cannot run."""
        try:
            result = self._child(each, "short", fields=self._plan.warm_up, camera_fps=[])
        except BackendError:
            raise
        except LeukoscopeError as error:
            return str(error)
        if each.contender in _NO_CAMERA:
            return 0.0
        rate = float(result["fields"]) / float(result["seconds"])
        own = PROFILES[each.profile].frame_rate_hz
        return round(max(_OVERLOAD * rate, own), 1)

    def run(self, each: Combination, overload_fps: float) -> dict[str, Any]:
        """One measured run."""
        fps = [PROFILES[each.profile].frame_rate_hz, overload_fps]
        if each.contender in _NO_CAMERA:
            fps = []
        before = WorkMeter.read()
        result = self._child(each, "film", fields=self._plan.fields, camera_fps=fps)
        result["others_share"] = WorkMeter.read().others_share_since(before)
        if result["skipped"]:
            raise DataError(f"{each.name}: {result['skipped']} fields skipped")
        return result

    def _child(
        self, each: Combination, film: str, *, fields: int, camera_fps: list[float]
    ) -> dict[str, Any]:
        plan, spec = self._plan, self._bundle.manifest.detector.input
        floats = each.contender == ULTRALYTICS
        report = self._scratch / "report"
        job = {
            "contender": each.contender,
            "backend": each.backend,
            "precision": plan.precision,
            "engines": None if plan.engines is None else str(plan.engines.resolve()),
            "bundle": str(plan.bundle.resolve()),
            "onnx": str(self._float if floats else self._shipped),
            "onnx_precision": "float32" if floats else self._precision,
            "images": str(self._folder(each.profile, film)),
            "fields": fields + (plan.warm_up if each.contender == SESSION_RUN else 0),
            "distinct": min(fields, _DISTINCT_FIELDS),
            "side_px": spec.width,
            "threads": plan.threads,
            "warm_up": plan.warm_up if film == "film" else 1,
            "camera_fps": camera_fps,
            "seconds": plan.seconds,
            "report": str(report),
            "result": str(self._scratch / "result.json"),
        }
        result = run_child("benchmarks.latency_run", job, self._scratch, name=each.name)
        shutil.rmtree(report, ignore_errors=True)
        if "refused" in result:
            raise LeukoscopeError(result["refused"])
        if each.backend is not None:
            check_what_ran(self._bundle, row_named(each.backend), plan.precision, result["ran"])
        return result

    def _folder(self, profile: str, film: str) -> Path:
        return self._scratch / profile / film


def check_what_ran(
    bundle: Bundle, asked: BackendRow, precision: Any, ran: Mapping[str, Mapping[str, Any]]
) -> None:
    """Compares what the loaded backends say of themselves with what was asked.

    Args:
        bundle: gives the artifact that each head should have run.
        asked: the backend.
        precision: as asked; None for the runtime's own choice.
        ran: a backend record for ``detector`` and for every head.

    Raises:
        BackendError: it is not the same.
    """
    for part, record in ran.items():
        head = None if part == "detector" else cast("HeadName", part)
        wanted = bundle.artifact_for(asked.runtime, head, precision)
        told = {
            "backend": (asked.name, record["name"]),
            "artifact": (wanted.path, record["artifact"]),
            "precision": (wanted.precision, record["precision"]),
        }
        for what, (should, did) in told.items():
            if should != did:
                raise BackendError(
                    f"{part}: {what} {should!r} was asked and {did!r} ran; its figures would be "
                    "another's, so nothing is written"
                )
        if asked.runtime != "cpu" and "cpu" in str(record["device"]).lower():
            raise BackendError(
                f"{part}: backend {asked.name} runs on {record['device']!r}, not on a GPU; nothing "
                "is written"
            )


def _combinations(
    plan: LatencyPlan, profile: str, backends: Sequence[BackendRow]
) -> Iterator[Combination]:
    for row in backends:
        yield Combination(profile, OURS, row.name)
    if plan.peers:
        for peer in _PEERS:
            yield Combination(profile, peer)


def _identity(each: Combination) -> dict[str, Any]:
    return {"profile": each.profile, "contender": each.contender, "backend": each.backend}


def _profile(name: str) -> OpticalProfile:
    if name not in PROFILES:
        raise SettingsError(f"--profiles {name!r}: unknown; choose of {', '.join(PROFILES)}")
    return PROFILES[name]


def _link(place: Path, name: Path) -> None:
    try:
        os.link(place, name)
    except OSError:
        # File systems without hard links.
        shutil.copyfile(place, name)
