"""The machine as files, commands and a clock.

Owns how they are read, so that a test can draw a machine as a folder and a table of
answers. Reads only. Does not own what any of it means (see ``board``, ``gpu``, ``cameras``).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

# A camera tool asks the sensor, which takes a second or two; more means that it hangs.
_COMMAND_SECONDS = 8
_LARGEST_FILE_BYTES = 64 * 1024


def run_command(words: Sequence[str]) -> str | None:
    """What a command prints; None when it is absent, fails or hangs."""
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode != 0:
        return None
    # What tools print about devices goes to either stream.
    return (done.stdout + done.stderr).decode("utf-8", errors="replace")


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where everything about the machine comes from.

    Attributes:
        root: folder that holds ``proc``, ``sys``, ``etc``, ``dev`` and ``run``.
        run: runs a command.
        clock: the time, with its zone.
        processor: such as ``x86_64`` or ``aarch64``.
        free_bytes: space left in the file system of a folder that is there.
        may_use: whether this user may read and write a device node.
    """

    root: Path = Path("/")
    run: Callable[[Sequence[str]], str | None] = run_command
    clock: Callable[[], datetime] = _now
    processor: str = platform.machine()
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    may_use: Callable[[Path], bool] = _may_use

    def there(self, path: str) -> bool:
        """Whether a file is there; ``path`` is relative to the root."""
        return (self.root / path).exists()

    def text(self, path: str) -> str | None:
        """A small file's text without zero bytes and outer spaces; None when unreadable.

        A sensor that is asleep answers with an error, like a file that is not there.
        """
        try:
            with (self.root / path).open("rb") as file:
                raw = file.read(_LARGEST_FILE_BYTES)
        except OSError:
            return None
        return raw.decode("utf-8", errors="replace").replace("\0", " ").strip()

    def number(self, path: str) -> int | None:
        """A file that holds one whole number; None when it does not."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def matching(self, pattern: str) -> list[str]:
        """Paths relative to the root that fit a pattern, in natural order."""
        found = [path.relative_to(self.root).as_posix() for path in self.root.glob(pattern)]
        return sorted(found, key=lambda path: (len(path), path))

    def package(self, name: str) -> str | None:
        """Version of an installed Debian package, or None."""
        said = self.run(["dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", name]) or ""
        status, _, version = said.strip().partition(" ")
        return version if status == "installed" and version else None

    @property
    def board(self) -> str | None:
        """The model as the device tree or the firmware names it."""
        for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
            model = self.text(path)
            if model:
                return model
        vendor = self.text("sys/class/dmi/id/sys_vendor")
        product = self.text("sys/class/dmi/id/product_name")
        return " ".join(part for part in (vendor, product) if part) or None

    @property
    def is_jetson(self) -> bool:
        """Whether it is an NVIDIA Jetson."""
        return "Jetson" in (self.board or "") or self.there("etc/nv_tegra_release")

    @property
    def is_raspberry_pi(self) -> bool:
        """Whether it is a Raspberry Pi."""
        return "Raspberry Pi" in (self.board or "")
