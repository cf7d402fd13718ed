"""Whether the machine's clocks stand still: a figure measured while they move cannot be repeated.

Owns reading them. Does not set anything.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.sysfs import SYSFS, sysfs_text

_FIXED_GOVERNORS = {"performance", "userspace"}
_ASK_LIMIT_S = 10.0


def _nvpmodel() -> str | None:
    """What ``nvpmodel -q`` says; None where there is none."""
    program = shutil.which("nvpmodel")
    if program is None:
        return None
    try:
        said = subprocess.run(
            [program, "-q"], capture_output=True, text=True, timeout=_ASK_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvpmodel does not answer: {error}"
    return " ".join((said.stdout or said.stderr).split())


def clock_facts(
    sysfs: Path = SYSFS, nvpmodel: Callable[[], str | None] = _nvpmodel
) -> dict[str, Any]:
    """Governors, turbo and the Jetson power mode, each None where the machine does not tell.

    Returns:
        ``governors`` with the number of cores of each, ``turbo``, ``range_mhz`` of the first core,
        ``nvpmodel``, ``fixed`` and ``note``, a sentence for a person.
    """
    cores = sorted((sysfs / "devices" / "system" / "cpu").glob("cpu[0-9]*/cpufreq"))
    governors = Counter(
        each for each in (sysfs_text(c / "scaling_governor") for c in cores) if each
    )
    lowest, highest = (
        [int(text) for text in (sysfs_text(c / name) for c in cores[:1]) if text.isdigit()]
        for name in ("scaling_min_freq", "scaling_max_freq")
    )
    no_turbo = sysfs_text(sysfs / "devices" / "system" / "cpu" / "intel_pstate" / "no_turbo")
    boost = sysfs_text(sysfs / "devices" / "system" / "cpu" / "cpufreq" / "boost")
    turbo = {"0": True, "1": False}.get(no_turbo, {"1": True, "0": False}.get(boost))
    pinned = bool(lowest) and lowest == highest
    fixed = None
    if governors:
        fixed = (pinned or set(governors) <= _FIXED_GOVERNORS) and turbo is not True
    return {
        "governors": dict(governors) or None,
        "range_mhz": [lowest[0] / 1000, highest[0] / 1000] if lowest and highest else None,
        "turbo": turbo,
        "nvpmodel": nvpmodel(),
        "fixed": fixed,
        "note": _note(dict(governors), fixed, turbo),
    }


def _note(governors: dict[str, int], fixed: bool | None, turbo: bool | None) -> str:
    if fixed is None:
        return (
            "the system does not show its clocks (a virtual machine, as a rule): whether they "
            "were fixed is not known"
        )
    said = ", ".join(f"{name} on {cores} cores" for name, cores in sorted(governors.items()))
    if fixed:
        return f"clocks fixed: governor {said}"
    why = "turbo is on" if turbo else "the governor changes them"
    return (
        f"clocks not fixed: governor {said}; {why}; for figures to keep, choose the performance "
        "governor without turbo (Jetson: nvpmodel, then jetson_clocks)"
    )
