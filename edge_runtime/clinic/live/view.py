"""Where the microscope stands, as one frozen record, and the one thing to say about it.

Owns which of several things that are true at once is said in large letters. Does not own words:
they are ids of messages with their values, for any catalogue (see ``clinic.web.language``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edge_runtime.clinic.live.viewfinder import Sight
from edge_runtime.film.camera_profile import GateLimits
from edge_runtime.film.gate import Refusal
from edge_runtime.film.guide import Guidance
from edge_runtime.film.screening import ScreeningVerdict
from edge_runtime.types import CameraGap, RunStatus

Phase = Literal["idle", "starting", "running", "ending", "failed"]
Tone = Literal["calm", "good", "warn", "bad"]

# A stage that is moved is in motion, and every such frame is refused; only what lasts is said.
LASTS_S = 1.0
# A focus of 1 on the meter: edges of half the width that is still accepted.
_BEST_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message's id and what it is filled with.

    Attributes:
        id: in the catalogue.
        values: by name; numbers are numbers.
        detail: said as it is beneath, such as an error's own line; None when there is none.
    """

    id: str
    values: Mapping[str, Any] = field(default_factory=dict)
    tone: Tone = "calm"
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class LiveView:
    """A moment of the live session.

    Attributes:
        phase: ``failed`` after an error, until a film is started or the camera is back.
        source: of the pictures.
        film: number of the film that runs; None when none does.
        last_film: number of the film that ended last; None before the first.
        status: of the film that runs or ended last.
        sight: the gate's verdict on the newest frame, also when no film runs.
        limits: by which it was judged.
        gap: in which the camera is, also when no film runs.
        error: the newest failure in one line; None once it is over.
        headline: the one thing to say.
        preview: whether the source shows pictures when no film runs.
    """

    phase: Phase
    source: str
    film: int | None
    last_film: int | None
    status: RunStatus | None
    sight: Sight | None
    limits: GateLimits
    gap: CameraGap | None
    error: str | None
    preview: bool

    @property
    def guidance(self) -> Guidance | None:
        """What the film's guide says; None without one."""
        return None if self.status is None else self.status.guidance

    @property
    def headline(self) -> Message:
        """The one thing to say now."""
        return headline(self)

    @property
    def focus(self) -> float | None:
        """How sharp the newest frame is, 0 to 1, 0.5 being just good enough; None if unknown."""
        return None if self.sight is None else focus_share(self.sight, self.limits)


def focus_share(sight: Sight, limits: GateLimits) -> float | None:
    """A focus meter's value, 0 to 1; 0.5 is the limit. None without a gate.

    Args:
        sight: of a frame.
        limits: of its camera.
    """
    if sight.verdict is None:
        return None
    seen = sight.verdict.measures
    if seen.edge_slope < limits.slope_least:
        # Nothing to focus on: the width of edges that are noise says nothing.
        return 0.0
    if seen.blur_um is not None:
        ratio = limits.blur_um / max(seen.blur_um, 1e-6)
    else:
        ratio = limits.blur_share * sight.longer_side / max(seen.blur_px, 1e-6)
    return round(min(1.0, ratio / _BEST_RATIO), 3)


_ADVICE: Mapping[Refusal, tuple[str, Tone]] = {
    "too dark": ("live.say.too_dark", "warn"),
    "too bright": ("live.say.too_bright", "warn"),
    "empty field": ("live.say.empty_field", "warn"),
    "too thick": ("live.say.too_thick", "warn"),
    "in motion": ("live.say.in_motion", "warn"),
    "out of focus": ("live.say.out_of_focus", "warn"),
}


def headline(view: LiveView) -> Message:
    """The one thing to say of a view; what keeps cells from being counted comes first."""
    if view.gap is not None and view.phase in ("idle", "running", "starting"):
        seconds = int(view.gap.seconds)
        return Message("live.say.unplugged", {"seconds": seconds}, "bad", view.gap.reason)
    if view.phase == "failed":
        return Message("live.say.failed", {}, "bad", view.error)
    if view.phase == "starting":
        return Message("live.say.starting")
    if view.phase == "ending":
        return Message("live.say.ending")
    if view.phase == "running" and view.guidance is not None and view.guidance.lost is not None:
        return Message("live.say.lost", {}, "bad", view.guidance.lost)
    refused = _lasting_refusal(view.sight)
    if refused is not None:
        return refused
    if view.phase == "running":
        return _of_screening(None if view.guidance is None else view.guidance.screening)
    return Message("live.say.ready" if view.preview else "live.say.no_preview")


def _lasting_refusal(sight: Sight | None) -> Message | None:
    verdict = None if sight is None else sight.verdict
    if sight is None or verdict is None or verdict.refusal is None or sight.refused_s < LASTS_S:
        return None
    message, tone = _ADVICE[verdict.refusal]
    return Message(message, {}, tone, verdict.reason)


def _of_screening(verdict: ScreeningVerdict | None) -> Message:
    if verdict is None or verdict.state == "abstains":
        return Message("live.say.counting")
    if verdict.state == "enough: below":
        return Message("live.say.enough_below", {}, "good")
    if verdict.state == "enough: above":
        return Message("live.say.enough_above", {}, "good")
    if verdict.state == "unsettled":
        return Message("live.say.unsettled", {}, "warn")
    # Asked for in round numbers, as the verdict's own words do: the forecast is no better.
    about = max(10, -(-verdict.more_cells // 10) * 10)
    if verdict.may_settle:
        return Message("live.say.keep_scanning", {"cells": about})
    return Message("live.say.may_stay_open", {"cells": verdict.more_cells})
