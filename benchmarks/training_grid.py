"""Many small trainings at once, each in a process of its own, taken up where they stopped.

Owns the order, the processes and their logs, and the means over seeds. Does not own what a
training is (see ``one_training``) nor which ones an experiment needs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import DataError
from train.run_folder import RECIPE_NAME

FIGURES = "figures.json"
# Of a recipe: where the data and the checkpoint to begin with lie decides no figure.
_PLACES = ("data_root", "start_from")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GridRun:
    """One training and what it is told.

    Attributes:
        name: folder of the run below the experiment's, such as ``seed0/confmix``.
        kind: of ``one_training``.
        arguments: for that kind, as JSON allows.
        after: name of the run whose files it needs.
    """

    name: str
    kind: str
    arguments: dict[str, Any]
    after: str | None = None


def run_grid(runs: Sequence[GridRun], work: Path, *, jobs: int, say: Say) -> None:
    """Runs what has no figures yet.

    Args:
        runs: each after the one that it needs.
        work: folder of the experiment; each run's ``figures.json`` and ``log.txt`` go into its
            own.
        jobs: trainings at once; the processor's cores are shared among them.
        say: told of every beginning and end.

    Raises:
        DataError: a training failed, or was done with another recipe; what others have done
            is kept.
    """
    require_same_recipes(runs, work)
    names = {run.name for run in runs}
    done = {run.name for run in runs if (work / run.name / FIGURES).is_file()}
    waiting = [run for run in runs if run.name not in done]
    if done:
        say(f"{len(done)} of {len(runs)} runs are there already")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    stopped = threading.Event()
    busy: dict[Future[None], GridRun] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or busy:
            for run in list(waiting):
                ready = run.after is None or run.after not in names or run.after in done
                if ready and len(busy) < jobs and not stopped.is_set():
                    waiting.remove(run)
                    say(f"{run.name}: begins, {len(waiting)} waiting")
                    busy[pool.submit(_one, run, work, threads)] = run
            if not busy:
                break
            for finished in wait(busy, return_when=FIRST_COMPLETED).done:
                run = busy.pop(finished)
                error = finished.exception()
                if error is not None:
                    stopped.set()
                    raise error
                done.add(run.name)


def require_same_recipes(runs: Sequence[GridRun], work: Path) -> None:
    """Refuses figures of an earlier recipe, which would stand in one table with those of now.

    Raises:
        DataError: a run's folder was begun with another recipe or method.
    """
    for run in runs:
        file = work / run.name / RECIPE_NAME
        if "recipe" not in run.arguments or not file.is_file():
            continue
        try:
            begun = json.loads(file.read_text(encoding="utf-8"))
            then, now = begun["recipe"], run.arguments["recipe"]
            same = begun["method"] == run.arguments["method"]
            both = [key for key in then if key in now and key not in _PLACES]
            differing = [key for key in both if then[key] != now[key]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: damaged; remove its folder") from error
        if differing or not same:
            what = ", ".join(differing) or "method"
            raise DataError(
                f"{work / run.name}: done with another recipe ({what} differs); remove it, or "
                "choose another --work"
            )


def _one(run: GridRun, work: Path, threads: int) -> None:
    place = work / run.name
    place.mkdir(parents=True, exist_ok=True)
    arguments = {"kind": run.kind, "out": str(place), **run.arguments}
    log = place / "log.txt"
    if run_module("benchmarks.one_training", arguments, log, threads=threads) != 0:
        raise DataError(f"run {run.name}: failed; see {log}")


def run_module(module: str, arguments: dict[str, Any], log: Path, *, threads: int) -> int:
    """Runs a module with one JSON argument in a process of its own; returns its exit status.

    Args:
        module: by name.
        arguments: for it.
        log: file for what it prints.
        threads: of torch in it.
    """
    with log.open("w") as handle:
        return subprocess.run(
            [sys.executable, "-m", module, json.dumps(arguments)],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=handle,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


def read_figures(work: Path, name: str) -> dict[str, Any] | None:
    """The figures of one run, None where there are none yet."""
    file = work / name / FIGURES
    if not file.is_file():
        return None
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return figures


def over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, sample standard deviation and the values themselves; None where there is none."""
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "deviation": statistics.stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }
