"""Reading what Linux shows of a machine below ``/sys``.

Owns one line of text from one file. Does not own what it means (see ``clocks``, ``energy``).
"""

from __future__ import annotations

from pathlib import Path

SYSFS = Path("/sys")


def sysfs_text(path: Path) -> str:
    """The file's text without white space at its ends; empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
