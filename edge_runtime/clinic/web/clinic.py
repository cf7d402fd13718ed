"""What the page is built on: the open store, the device and the clocks.

Owns the record that every route reads. Does not own opening any of it (see ``serve_cli``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_runtime.clinic.store.store import ClinicStore
from edge_runtime.device.doctor.machine import Machine

if TYPE_CHECKING:
    from edge_runtime.device.doctor.examine import Examination
    from edge_runtime.settings import Settings

# Names by which a page is reached that only this very machine serves.
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What looks at the films; said on the page ``device``.

    Attributes:
        bundle: id of the model bundle.
        bundle_sha256: of its content.
        backend: name, version, precision and device, as they really run.
        source: the camera.
    """

    bundle: str
    bundle_sha256: str
    backend: str
    source: str | None = None


@dataclass(frozen=True)
class Clinic:
    """Everything that a route may use.

    Attributes:
        store: open as long as the page is served.
        settings: of a run, from file, environment and flags.
        facts: None where no bundle was loaded, as when only films are reviewed.
        live: the session at the microscope; None where there is none.
        hosts: names that a request may give in its header ``Host``, without a port; None: any.
            Bound to loopback, a name that is not of this machine is a page of somebody else
            that points its own name here.
        tls: whether the page is served with a certificate.
        monotonic: seconds that only go forward.
        doctor: looks at the device; None: the device's own doctor.
        machine: tells the temperature.
    """

    store: ClinicStore
    settings: Settings
    facts: DeviceFacts | None = None
    live: Any = None
    hosts: frozenset[str] | None = LOOPBACK_HOSTS
    tls: bool = False
    monotonic: Callable[[], float] = field(default=time.monotonic)
    doctor: Callable[[], Examination] | None = None
    machine: Machine = field(default_factory=Machine)
