"""All rows in order, and the verdict.

Owns the order, the rows on backends, and when a device counts as able to run a film.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from platform import python_version
from typing import Any

from edge_runtime import __version__
from edge_runtime.backends import BACKENDS, BackendRow, row_named
from edge_runtime.device.doctor.board import board_rows
from edge_runtime.device.doctor.cameras import camera_rows
from edge_runtime.device.doctor.gpu import gpu_rows
from edge_runtime.device.doctor.installed import installed_rows
from edge_runtime.device.doctor.machine import Machine
from edge_runtime.device.doctor.rows import DoctorRow
from edge_runtime.device.doctor.software import Software
from edge_runtime.errors import LeukoscopeError
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found.

    Attributes:
        backend: the wished one.
        rows: everything, in order.
    """

    backend: str
    rows: tuple[DoctorRow, ...]

    @property
    def stopping(self) -> tuple[DoctorRow, ...]:
        """What must be mended before a film can run."""
        return tuple(row for row in self.rows if row.stops)

    @property
    def can_run(self) -> bool:
        """Whether a film can run with the wished backend."""
        return not self.stopping

    @property
    def verdict(self) -> str:
        """One line."""
        if self.can_run:
            return f"a film can run here, on backend {self.backend}"
        reasons = ", ".join(dict.fromkeys(row.what for row in self.stopping))
        return f"NO film can run here on backend {self.backend}; see {reasons}"

    def to_json(self) -> dict[str, Any]:
        """The same, for programs."""
        return {
            "format": 1,
            "version": __version__,
            "research_use": RESEARCH_USE,
            "backend": self.backend,
            "can_run": self.can_run,
            "verdict": self.verdict,
            "rows": [asdict(row) for row in self.rows],
        }


def examine(machine: Machine, software: Software, settings: Settings) -> Examination:
    """Looks at everything; changes nothing.

    Args:
        machine: files, commands, clock.
        software: the libraries here.
        settings: backend, device root, engines, keys.

    Raises:
        BackendError: the settings name an unknown backend.
    """
    wished = row_named(settings.backend)
    rows = [
        DoctorRow("Leukoscope", f"{__version__}, Python {python_version()}"),
        *board_rows(machine),
        *gpu_rows(machine, software, wished),
        *_backend_rows(software, wished),
        *camera_rows(machine, software),
        *installed_rows(machine, software, settings, wished),
    ]
    return Examination(wished.name, tuple(rows))


def _backend_rows(software: Software, wished: BackendRow) -> Iterator[DoctorRow]:
    version = software.version("onnxruntime")
    if version is None:
        yield DoctorRow("ONNX Runtime", "not installed", "missing", "pip install onnxruntime")
    else:
        try:
            providers = ", ".join(software.providers())
        except LeukoscopeError as error:
            yield DoctorRow(
                "ONNX Runtime", str(error), "missing", "pip install --force-reinstall onnxruntime"
            )
        else:
            yield DoctorRow("ONNX Runtime", f"{version or 'release not told'}: {providers}")
    openvino = software.version("openvino")
    yield DoctorRow(
        "OpenVINO",
        "not installed" if openvino is None else openvino or "release not told",
    )
    for row in BACKENDS:
        reason = software.why_not(row)
        is_wished = row is wished
        what = f"backend {row.name}"
        if reason is None:
            yield DoctorRow(what, "runs here" + (", is the wished one" if is_wished else ""))
            continue
        problem, _, remedy = reason.partition("; ")
        if is_wished:
            yield DoctorRow(what, f"{problem}; is the wished one", "missing", remedy, stops=True)
        else:
            yield DoctorRow(what, problem, "missing", remedy or None)
