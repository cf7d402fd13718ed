"""From labelled films to a checkpoint, and a checkpoint's accuracy per domain.

Owns recipes, training data, models, losses and evaluation. Does not own quantisation or
bundles (see ``export``). Of this repository it imports ``edge_runtime`` alone, so that a
frame becomes a tensor in training exactly as it does on the device.
"""

from __future__ import annotations

import os

# Ultralytics settles both for whoever has not, at the moment it is imported: it asks its
# servers for news, and gives OpenMP one thread. So they are settled here, before any module
# of this package can import it.
os.environ.setdefault("YOLO_OFFLINE", "true")
_GIVEN = os.environ.get("OMP_NUM_THREADS", "")
# What trainings on a processor may use: the user's limit, else every core.
THREADS = int(_GIVEN) if _GIVEN.isdecimal() and int(_GIVEN) > 0 else os.cpu_count() or 1
