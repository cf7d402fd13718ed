"""Energy that a machine took meanwhile, where it has a sensor for it.

Owns reading the two kinds of sensors that Linux shows: the counters of x86 packages (RAPL, below
``class/powercap``) and the INA3221 power monitors of Jetson boards (hwmon). Does not own what is
measured. All figures are of the whole package or board: what else ran is in them.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sysfs import SYSFS, sysfs_text

# An INA3221 is set to averages of some tens of milliseconds; twice as often says no more.
_SAMPLE_S = 0.05
# The board's whole input where it has such a rail: Orin Nano, Orin NX, older Jetsons.
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0_IN")


@dataclass(slots=True)
class Energy:
    """What one block took.

    Attributes:
        sensor: its name; None when there is none.
        reason: why nothing was measured; empty when it was.
        joules: filled in at the end of the block.
    """

    sensor: str | None = None
    reason: str = ""
    joules: float | None = None
    seconds: float = 0.0

    def record(self, fields: int) -> dict[str, Any]:
        """As the result file has it, for so many fields."""
        if self.joules is None or fields == 0:
            return {"measured": False, "reason": self.reason or "no field was examined"}
        return {
            "measured": True,
            "sensor": self.sensor,
            "joules_per_field": round(self.joules / fields, 4),
            "watts": round(self.joules / self.seconds, 3) if self.seconds > 0 else None,
        }


@contextmanager
def energy_of_block(sysfs: Path = SYSFS) -> Iterator[Energy]:
    """Measures with whatever sensor is here; without one says why not."""
    sensor = find_sensor(sysfs)
    if isinstance(sensor, str):
        yield Energy(reason=sensor)
        return
    with sensor.measuring() as energy:
        yield energy


def find_sensor(sysfs: Path = SYSFS) -> Rapl | Ina3221 | str:
    """The board's or the processor's sensor, or why there is none."""
    rails = _ina_rails(sysfs)
    if rails:
        return Ina3221(rails)
    packages = _rapl_packages(sysfs)
    if not packages:
        return "no power sensor here: neither RAPL (class/powercap) nor INA3221 (hwmon)"
    closed = [each for each in packages if not os.access(each / "energy_uj", os.R_OK)]
    if closed:
        return (
            f"RAPL is here, but {closed[0].name}/energy_uj may not be read; "
            "run as root or let this user read it"
        )
    return Rapl(packages)


def _rapl_packages(sysfs: Path) -> list[Path]:
    """Whole packages only: their cores and memory are inside them, and psys has them again."""
    return [
        zone
        for zone in sorted((sysfs / "class" / "powercap").glob("intel-rapl:*"))
        if sysfs_text(zone / "name").startswith("package")
    ]


class Rapl:
    """Energy counters of x86 packages, Intel's and AMD's."""

    def __init__(self, packages: list[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._packages = packages
        self._clock = clock

    @property
    def name(self) -> str:
        """How many packages."""
        return f"RAPL, {len(self._packages)} package(s): processor only"

    @contextmanager
    def measuring(self) -> Iterator[Energy]:
        """Counters at both ends. They run over about once an hour at full load."""
        energy = Energy(self.name)
        before, began = self._read(), self._clock()
        yield energy
        energy.seconds = self._clock() - began
        joules = 0.0
        for zone, start, end in zip(self._packages, before, self._read(), strict=True):
            ran_over = int(sysfs_text(zone / "max_energy_range_uj") or 0) if end < start else 0
            joules += (end + ran_over - start) / 1e6
        energy.joules = joules

    def _read(self) -> list[int]:
        return [int(sysfs_text(zone / "energy_uj") or 0) for zone in self._packages]


@dataclass(frozen=True, slots=True)
class _Rail:
    label: str
    volts: Path
    amperes: Path

    def watts(self) -> float:
        return int(sysfs_text(self.volts) or 0) * int(sysfs_text(self.amperes) or 0) / 1e6


def _ina_rails(sysfs: Path) -> list[_Rail]:
    rails = []
    for chip in sorted((sysfs / "class" / "hwmon").glob("hwmon*")):
        if sysfs_text(chip / "name") != "ina3221":
            continue
        for number in (1, 2, 3):
            rail = _Rail(
                sysfs_text(chip / f"in{number}_label"),
                chip / f"in{number}_input",
                chip / f"curr{number}_input",
            )
            if rail.label and rail.volts.is_file() and rail.amperes.is_file():
                rails.append(rail)
    whole = [each for each in rails if each.label in _WHOLE_BOARD]
    return whole[:1] or rails


@dataclass(slots=True)
class Ina3221:
    """Power monitors of a Jetson board, sampled and summed up over time."""

    rails: list[_Rail]
    clock: Callable[[], float] = time.monotonic
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """The rails that are summed."""
        return "INA3221: " + ", ".join(each.label for each in self.rails)

    @contextmanager
    def measuring(self) -> Iterator[Energy]:
        """Trapezoids between samples."""
        energy = Energy(self.name)
        samples = [self._sample()]
        self._over.clear()

        def collect() -> None:
            while not self._over.wait(_SAMPLE_S):
                samples.append(self._sample())

        thread = threading.Thread(target=collect, name="energy", daemon=True)
        thread.start()
        try:
            yield energy
        finally:
            self._over.set()
            thread.join()
        samples.append(self._sample())
        energy.seconds = samples[-1][0] - samples[0][0]
        energy.joules = sum(
            (late - early) * (before + after) / 2
            for (early, before), (late, after) in itertools.pairwise(samples)
        )

    def _sample(self) -> tuple[float, float]:
        return self.clock(), sum(each.watts() for each in self.rails)
