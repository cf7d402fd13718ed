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
from edge_runtime.film.screening import ScreeningVerdict, WhyAbstain
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
        detail: what is said beneath; an error's own line as it is.
    """

    id: str
    values: Mapping[str, Any] = field(default_factory=dict)
    tone: Tone = "calm"
    detail: Message | str | None = None


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
        threshold_percent: share of blasts that the screening asks about.
        lost: why the track was lost, while it is and some seconds on: the next field may begin
            another part of the film, and nobody would see that there was a loss.
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
    threshold_percent: float
    lost: str | None = None

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


# What to do, and what was seen.
_ADVICE: Mapping[Refusal, tuple[str, str]] = {
    "too dark": ("live.say.too_dark", "live.why.too_dark"),
    "too bright": ("live.say.too_bright", "live.why.too_bright"),
    "empty field": ("live.say.empty_field", "live.why.empty_field"),
    "too thick": ("live.say.too_thick", "live.why.too_thick"),
    "in motion": ("live.say.in_motion", "live.why.in_motion"),
    "out of focus": ("live.say.out_of_focus", "live.why.out_of_focus"),
}
# By the first word of the track's reason (see ``film.track.Lost``).
_LOST: Mapping[str, str] = {
    "dark": "live.lost.dark",
    "empty": "live.lost.empty",
    "apart": "live.lost.apart",
    "repeats": "live.lost.repeats",
    "disagree": "live.lost.disagree",
    "size": "live.lost.size",
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
    guidance = view.guidance if view.phase == "running" else None
    lost = None if guidance is None else guidance.lost or view.lost
    if lost is not None:
        return Message("live.say.lost", {}, "bad", why_lost(lost))
    sight = view.sight
    if sight is not None and sight.refused_s >= LASTS_S:
        refused = why_refused(sight)
        if refused is not None:
            return refused
    if view.phase == "running":
        verdict = None if guidance is None else guidance.screening
        said = of_screening(verdict, view.threshold_percent)
        tally = None if guidance is None else guidance.tally
        if tally is not None and tally.next_tier is None and said.tone == "calm":
            # Nobody counts beyond the last tier, with or without a verdict on blasts.
            return Message("live.say.all_counted", {"cells": tally.tier}, "good", said.detail)
        return said
    return Message("live.say.ready" if view.preview else "live.say.no_preview")


def why_refused(sight: Sight) -> Message | None:
    """What to do about the newest frame, and why; None when it is good."""
    if sight.verdict is None or sight.verdict.refusal is None:
        return None
    advice, why = _ADVICE[sight.verdict.refusal]
    return Message(advice, {}, "warn", Message(why))


def why_lost(reason: str) -> Message | str:
    """Why a field has no place on the film; the track's own words where no message has them."""
    known = _LOST.get(reason.split(":", 1)[0])
    return reason if known is None else Message(known)


def of_screening(verdict: ScreeningVerdict | None, threshold_percent: float) -> Message:
    """Whether it is enough, or how many cells more."""
    if verdict is None or verdict.state == "abstains":
        why = None if verdict is None or verdict.why is None else Message(_ABSTAINS[verdict.why])
        return Message("live.say.counting", detail=why)
    values: dict[str, Any] = {"percent": threshold_percent}
    if verdict.state == "enough: below":
        return Message("live.say.enough_below", values, "good")
    if verdict.state == "enough: above":
        return Message("live.say.enough_above", values, "good")
    if verdict.state == "unsettled":
        return Message("live.say.unsettled", values, "warn")
    if not verdict.may_settle:
        return Message("live.say.may_stay_open", values | {"cells": verdict.more_cells})
    # Asked for in round numbers, as the verdict's own words do: the forecast is no better.
    return Message("live.say.keep_scanning", {"cells": max(10, -(-verdict.more_cells // 10) * 10)})


_ABSTAINS: Mapping[WhyAbstain, str] = {
    "out of domain": "live.abstains.out_of_domain",
    "no blast class": "live.abstains.no_blast_class",
    "no figures of blasts": "live.abstains.no_figures",
    "figures too poor": "live.abstains.poor_figures",
    "too many unclassified": "live.abstains.unclassified",
}
