"""``leukoscope doctor``: whether a device can run a film, what is missing, and what mends it.

``machine`` is the seam to files, commands and clock, ``software`` that to the libraries
here; ``board``, ``gpu``, ``cameras`` and ``installed`` each draw rows from them, ``examine``
puts them in order and gives the verdict, ``cli`` prints it. Nothing here changes a device.
"""

from __future__ import annotations

from edge_runtime.device.doctor.examine import Examination, examine
from edge_runtime.device.doctor.rows import DoctorRow, State

__all__ = ["DoctorRow", "Examination", "State", "examine"]
