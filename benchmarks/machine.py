"""What a measurement was made on: machine, versions, date, and what else was running.

Owns these facts and the shape of every result file. Does not own what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_runtime.errors import StoreError
from edge_runtime.film_report import RESEARCH_USE

# Everything whose release can move a figure.
_DISTRIBUTIONS = (
    "leukoscope",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "openvino",
    "torch",
    "ultralytics",
)
# Above this share of the machine, other programs decide the result.
BUSY_SHARE = 0.1


def machine_facts(now: datetime) -> dict[str, Any]:
    """Processor, memory, system, versions and load; nothing that says whose machine it is."""
    import psutil

    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _DISTRIBUTIONS},
        "load_average_before": [round(value, 2) for value in psutil.getloadavg()],
        "date": now.astimezone().isoformat(timespec="seconds"),
    }


def write_result(path: Path, what: str, facts: dict[str, Any], body: dict[str, Any]) -> None:
    """One result file: what was measured, on what, then the figures.

    Raises:
        StoreError: it cannot be written.
    """
    document = {"what": what, "research_use": RESEARCH_USE, "machine": facts, **body}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; choose another --out") from error


def require_writable(path: Path) -> None:
    """Refuses a result file that could not be written, before a long measurement.

    Raises:
        StoreError: it is a folder, or cannot be written.
    """
    beside = next(each for each in path.absolute().parents if each.exists())
    if path.is_dir() or not beside.is_dir():
        raise StoreError(
            f"{path}: {'a folder' if path.is_dir() else 'a file is in the way'}; "
            f"choose another --out"
        )
    if not os.access(path if path.exists() else beside, os.W_OK):
        raise StoreError(f"{path}: may not be written; choose another --out")


@dataclass(frozen=True, slots=True)
class WorkMeter:
    """Processor time of the whole machine up to one moment, in core seconds.

    Two of them tell how much of the machine others used in between: their work beside a
    measurement is the commonest reason why it cannot be repeated.
    """

    total_s: float
    busy_s: float
    own_s: float

    @classmethod
    def read(cls) -> WorkMeter:
        """Now; own time is that of this process and of its ended children."""
        import psutil

        times = psutil.cpu_times()._asdict()
        # Linux counts guests in user time as well.
        counted = {name: value for name, value in times.items() if not name.startswith("guest")}
        total = sum(counted.values())
        idle = counted["idle"] + counted.get("iowait", 0.0)
        own = os.times()
        return cls(
            total, total - idle, own.user + own.system + own.children_user + own.children_system
        )

    def others_share_since(self, before: WorkMeter) -> float:
        """Share of the machine, 0 to 1, that other programs used since ``before``."""
        total = self.total_s - before.total_s
        others = (self.busy_s - before.busy_s) - (self.own_s - before.own_s)
        return round(min(1.0, max(0.0, others / total)), 3) if total > 0 else 0.0


def peak_memory_bytes() -> int:
    """Most resident memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would do, but on Linux its figure starts with that of the parent, whose
        # memory a new process shares up to the moment it loads its own program.
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def named_without_machine(path: Path, parts: int = 3) -> str:
    """The end of a path, enough to know a data folder by and no more."""
    return "/".join(path.resolve().parts[1:][-parts:])


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` percent lie, interpolated as NumPy does."""
    import numpy as np

    return float(np.percentile(np.asarray(values, np.float64), share))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            # x86 and Jetson say "model name", Raspberry Pi says "Model" of the board.
            if line.startswith(("model name", "Model\t")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
