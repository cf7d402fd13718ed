"""Where contenders run: a process of their own, a clean environment, as many cores as threads.

Owns environment, cores and the way a job file becomes a result file. Does not own what a contender
does, nor rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.errors import LeukoscopeError

# Far above what the slowest board needs; a contender that hangs ends the comparison.
RUN_LIMIT_S = 300
# What a program needs to start at all; nothing that tunes threads or libraries.
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT", "USERPROFILE")


def run_child(
    module: str, job: Mapping[str, Any], scratch: Path, *, name: str, limit_s: float = RUN_LIMIT_S
) -> dict[str, Any]:
    """Runs ``python -m module JOB.json`` and reads what it left in ``job["result"]``.

    Args:
        module: takes a job file; writes a JSON object to the file that the job names.
        job: with ``threads`` and ``result``.
        scratch: a folder of the caller's.
        name: of the contender, for messages.
        limit_s: after so long it hangs.

    Raises:
        LeukoscopeError: it failed, or gave no result in time.
    """
    job_file, result_file = scratch / "job.json", Path(job["result"])
    result_file.unlink(missing_ok=True)
    job_file.write_text(json.dumps(job), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, str(job_file)],
            cwd=scratch,
            env=clean_environment(job["threads"], scratch),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LeukoscopeError(
            f"contender {name}: no result after {limit_s:g} s; it hangs, or give fewer --fields"
        ) from error
    if done.returncode != 0 or not result_file.is_file():
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LeukoscopeError(f"contender {name}: ended with {done.returncode}: {reason}")
    result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
    return result


def clean_environment(threads: int, scratch: Path) -> dict[str, str]:
    """Environment of a contender that may use so many threads."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "OMP_NUM_THREADS": str(threads),
        # Ultralytics: no news from its servers, no installs, and settings of its own that
        # the warm-up run writes, so that no measured run has to.
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(scratch),
    }


@contextmanager
def limited_cores(threads: int) -> Iterator[int | None]:
    """Keeps this process and its children on as many cores as there are threads.

    A contender that reads and decodes beside its inference threads would otherwise use
    cores that its peers leave idle. None where the system cannot do this.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    allowed = set(sorted(before)[:threads])
    os.sched_setaffinity(0, allowed)
    try:
        yield len(allowed)
    finally:
        os.sched_setaffinity(0, before)
