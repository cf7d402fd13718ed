"""One row of what the doctor says.

Owns the row and the words for sizes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "attention", "missing"]


@dataclass(frozen=True, slots=True)
class DoctorRow:
    """One thing that was looked at.

    Attributes:
        what: its name.
        value: what was found, in one line.
        state: ``attention`` is something a person should know or mend, ``missing`` is not here.
        remedy: a command or an action that mends it.
        stops: no film can run with the wished backend until it is mended.
    """

    what: str
    value: str
    state: State = "good"
    remedy: str | None = None
    stops: bool = False


def gigabytes(size: float) -> str:
    """Such as ``7.4 GB``, of bytes."""
    return f"{size / 1e9:.1f} GB"
