"""What a film's record says of its live camera.

Owns the step from the camera's own account to the report's records. Does not own either (see
``cameras`` and ``film_report``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from edge_runtime.cameras import LiveCamera
from edge_runtime.film_report import (
    CameraGapRecord,
    CameraSessionRecord,
    FrameAgeRecord,
    LiveRecord,
)


def live_record(camera: LiveCamera, ages_ms: Sequence[float], *, started_ns: int) -> LiveRecord:
    """The camera's account of a film.

    Args:
        camera: open.
        ages_ms: of all examined fields.
        started_ns: monotonic time of the film's start.
    """
    return LiveRecord(
        sessions=[CameraSessionRecord(**asdict(each)) for each in camera.sessions],
        frames_passed_over=camera.frames_passed_over,
        frame_age=_ages(ages_ms),
        gaps=[
            CameraGapRecord(
                at_s=round((gap.at_ns - started_ns) / 1e9, 3),
                seconds=round(gap.seconds, 3),
                reason=gap.reason,
            )
            for gap in camera.gaps
        ],
    )


def _ages(ages_ms: Sequence[float]) -> FrameAgeRecord | None:
    if not ages_ms:
        return None
    p50, p95, p99, most = (round(float(x), 3) for x in np.percentile(ages_ms, [50, 95, 99, 100]))
    return FrameAgeRecord(p50_ms=p50, p95_ms=p95, p99_ms=p99, most_ms=most)
