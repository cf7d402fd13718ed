"""What the page tells of the device: disk, temperature, the doctor's rows.

Owns asking for them. Does not own the doctor's rows (see ``device.doctor``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from edge_runtime.device.doctor.machine import Machine
from edge_runtime.errors import LeukoscopeError, StoreError
from edge_runtime.settings import ENVIRONMENT_PREFIX, Settings

_DOCTOR_S = 120
# It loads models, so one at a time.
_one_doctor = threading.Lock()


def warmest_c(machine: Machine) -> float | None:
    """The warmest of the machine's sensors in °C; None where nothing tells."""
    zones = machine.matching("sys/class/thermal/thermal_zone*")
    heats = [machine.number(f"{zone}/temp") for zone in zones]
    return max((heat / 1000 for heat in heats if heat is not None), default=None)


def ask_doctor(settings: Settings) -> Mapping[str, Any]:
    """What ``leukoscope doctor --json`` says, in a process of its own: it loads every model.

    Raises:
        StoreError: it does not answer, or another one is at work.
    """
    if not _one_doctor.acquire(blocking=False):
        raise StoreError("doctor: already at work; look again in a minute")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge_runtime.cli", "doctor", "--json"],
            env=_environment(settings),
            capture_output=True,
            text=True,
            timeout=_DOCTOR_S,
            check=False,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise StoreError(f"doctor: no answer in {_DOCTOR_S} s; run it on the console") from error
    except (OSError, ValueError) as error:
        raise StoreError(
            "doctor: it did not run; run `leukoscope doctor` on the console"
        ) from error
    finally:
        _one_doctor.release()
    if not isinstance(found, dict):
        raise LeukoscopeError("doctor: an answer of another kind; run it on the console")
    return found


def _environment(settings: Settings) -> dict[str, str]:
    """Every setting that is not the default, as the command reads it."""
    given = settings.model_dump(mode="json", exclude_defaults=True)
    own = {f"{ENVIRONMENT_PREFIX}{name.upper()}": str(value) for name, value in given.items()}
    path = os.pathsep.join(each for each in sys.path if each)
    return {**os.environ, **own, "PYTHONPATH": path}
