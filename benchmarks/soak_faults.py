"""What goes wrong in a soak: a camera on its cable, a disk that fills, a clock that jumps.

Owns when a fault begins and ends, and the stand-ins that suffer it. Does not own whether it was
recorded (see ``soak``).
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import override

from edge_runtime.cameras.device import CameraDevice, DeviceLost, shrink
from edge_runtime.device.files import DiskFiles
from edge_runtime.errors import CameraError, FrameError
from edge_runtime.types import CameraSession, UInt8Image

Kind = Literal[
    "unplug", "hang", "corrupt frame", "corrupt burst", "clock jump",
    "disk low", "disk full", "database read-only",
]  # fmt: skip
CAMERA: tuple[Kind, ...] = ("unplug", "hang", "corrupt burst")
DISK: tuple[Kind, ...] = ("disk low", "disk full", "database read-only")
KINDS: tuple[Kind, ...] = (*CAMERA, "corrupt frame", "clock jump", *DISK)
_OPENINGS_REFUSED = 2
# A driver that hangs gives up in the end.
_DRIVER_TIMEOUT_S = 6.0
_PLENTY, _NEXT_TO_NOTHING = 10**12, 10**6


@dataclass(frozen=True, slots=True)
class Fault:
    """Something to go wrong once the film has come to frame ``at``.

    Attributes:
        amount: seconds that the clock moves; frames that come corrupt; for a full disk 1 when it
            stays full, 0 when a single write fails.
    """

    kind: Kind
    at: int
    amount: float = 0.0


class Cable:
    """A camera that gives a picture every ``period_s``, and what is done to it.

    Attributes:
        position: of the stage, which picture is seen.
        broken: pictures that could not be decoded so far.
    """

    def __init__(self, pictures: Sequence[UInt8Image], period_s: float) -> None:
        self.pictures = pictures
        self.period_s = period_s
        self.position = 0
        self.broken = 0
        self._lock = threading.Lock()
        self._refusing = 0
        self._unplugged = self._hanging = False
        self._breaking: Literal["not", "for now", "until opened"] = "not"
        self._freed = threading.Event()

    def open(self, before: CameraSession | None) -> CameraDevice:
        """See ``OpenDevice``."""
        with self._lock:
            if self._refusing:
                self._refusing -= 1
                raise CameraError("no such device; is it plugged in?")
            self._unplugged = False
            if self._breaking == "until opened":
                self._breaking = "not"
        return _Device(self)

    def unplug(self) -> None:
        """It is gone for the next attempts to open it."""
        with self._lock:
            self._unplugged, self._refusing = True, _OPENINGS_REFUSED

    def hang(self) -> None:
        """The opened device gives no more pictures."""
        with self._lock:
            self._hanging = True
            self._freed.clear()

    def break_pictures(self, how: Literal["not", "for now", "until opened"]) -> None:
        """Pictures come broken from now on, or whole again."""
        with self._lock:
            self._breaking = how

    def let_go(self) -> None:
        """Ends what hangs, as the driver's time-out would in the end."""
        self._freed.set()

    def answer(self) -> None:
        """Raises, or blocks, as the device would when a picture is grabbed."""
        with self._lock:
            if self._unplugged:
                raise DeviceLost("the camera gives no picture: unplugged")
            hanging, self._hanging = self._hanging, False
        if hanging:
            self._freed.wait(_DRIVER_TIMEOUT_S)
            raise DeviceLost("the camera gives no picture: its driver timed out")

    def breaks_one(self) -> bool:
        """Whether the grabbed picture is broken."""
        with self._lock:
            broken = self._breaking != "not"
            self.broken += broken
            return broken


class _Device:
    """One opened device."""

    def __init__(self, cable: Cable) -> None:
        self._cable = cable
        self._due_s = time.monotonic()
        height, width = cable.pictures[0].shape[:2]
        self.session = CameraSession(
            driver="soak",
            device="soak",
            width=width,
            height=height,
            pixel_format="RGB",
            fps=round(1 / cable.period_s, 3),
            exposure_ms=None,
            gain=None,
            white_balance_k=None,
            colour_gains=None,
            locked=("exposure", "gain", "white_balance"),
            not_locked={},
            clock="arrival",
        )

    def grab(self) -> int:
        """See ``CameraDevice``."""
        self._cable.answer()
        self._due_s = max(self._due_s + self._cable.period_s, time.monotonic() + 0.0015)
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        return time.monotonic_ns()

    def retrieve(self) -> UInt8Image:
        """See ``CameraDevice``."""
        if self._cable.breaks_one():
            raise FrameError("the picture came broken and cannot be decoded; check cable and hub")
        return np.array(self._cable.pictures[self._cable.position % len(self._cable.pictures)])

    def preview(self) -> UInt8Image:
        """See ``CameraDevice``."""
        return shrink(self.retrieve())

    def still(self) -> tuple[int, UInt8Image]:
        """See ``CameraDevice``."""
        return self.grab(), self.retrieve()

    def close(self) -> None:
        """Nothing is held."""


class WallClock:
    """The time of day, as somebody or a network sets it; safe from any thread."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def __call__(self) -> datetime:
        """Now."""
        return datetime.now(timezone.utc) + self._offset

    def jump(self, seconds: float) -> None:
        """It is another time at once."""
        self._offset += timedelta(seconds=seconds)


@dataclass
class Disk(DiskFiles):
    """The real disk, until it is full.

    Attributes:
        low: the free space that is told is next to nothing.
        full: no picture file can be written; 1: the next one, -1: none.
    """

    low: bool = False
    full: int = 0
    refused: int = field(default=0)

    def free(self, folder: Path) -> int:
        """Free bytes, as they are told."""
        return _NEXT_TO_NOTHING if self.low else _PLENTY

    @override
    def write(self, path: Path, parts: Iterable[bytes]) -> None:
        """Writes a file, or a part of it."""
        if self.full:
            self.full -= self.full > 0
            self.refused += 1
            super().write(path, [next(iter(parts))[:100]])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        super().write(path, parts)

    def mend(self) -> None:
        """There is room again."""
        self.low, self.full = False, 0


def plan_faults(frames: int, rng: np.random.Generator) -> list[Fault]:
    """What goes wrong in one film of so many frames, in order; a disk's fault comes last."""
    faults: list[Fault] = []
    places = sorted(int(x) for x in rng.integers(round(0.1 * frames), round(0.85 * frames), 4))
    wanted: list[tuple[Kind, float]] = []
    if rng.random() < 0.4:
        wanted.append(("unplug", 0))
    if rng.random() < 0.2:
        wanted.append(("hang", 0))
    if rng.random() < 0.2:
        wanted.append(("corrupt burst", 0))
    if rng.random() < 0.5:
        wanted.append(("corrupt frame", float(rng.integers(1, 4))))
    if rng.random() < 0.3:
        wanted.append(("clock jump", float(rng.choice([-86400 * 3, -7200, 7200, 86400 * 200]))))
    order = rng.permutation(len(wanted))[: len(places)]
    # So far apart that the picture is back before the next.
    for at, number in zip(places, order, strict=False):
        kind, amount = wanted[number]
        begins = max(at, faults[-1].at + 12 if faults else 0)
        if begins < frames - 20:
            faults.append(Fault(kind, begins, amount))
    if rng.random() < 0.2:
        last = max([round(0.5 * frames), *(each.at + 12 for each in faults)])
        if last < frames - 20:
            kind = DISK[int(rng.integers(len(DISK)))]
            faults.append(Fault(kind, last, float(rng.integers(2))))
    return faults
