"""How the report page shows what guided a film: verdict, tally, map, refusals, the live camera.

Owns wording and what is a warning. Does not own the numbers (see ``film_report``), the map's
drawing (see ``film.mosaic_map``) nor the markup (see ``templates``).
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.film.mosaic_map import FilmMap, map_of_places
from edge_runtime.film_report import (
    FilmReport,
    GateRecord,
    LiveRecord,
    MosaicRecord,
    ScreeningRecord,
    TallyRecord,
)

_GAP_ROWS = 100
_STATES = {
    "enough: below": "Enough cells: below the threshold",
    "enough: above": "Enough cells: at or above the threshold",
    "keep scanning": "Not enough cells",
    "unsettled": "Not settled",
    "abstains": "No verdict",
}


@dataclass(frozen=True, slots=True)
class Told:
    """One part of the page.

    Attributes:
        heading: the answer in a few words.
        text: the same in a sentence; empty when the heading says all.
        warning: it is one.
        facts: names and values behind it.
    """

    heading: str
    text: str
    warning: bool
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without a picture."""

    at: str
    seconds: str
    reason: str


def warnings_of(report: FilmReport) -> list[tuple[str, str]]:
    """What must stand at the top of the page: a heading and a sentence each."""
    made = []
    mosaic, live = report.mosaic, report.live
    if mosaic is not None and mosaic.lost:
        lost = sum(mosaic.lost.values())
        made.append(
            (
                "Track lost.",
                f"Nobody knows where {lost:,} of {mosaic.fields:,} fields lie on the film. "
                f"{_finds(mosaic.finds_without_place)} not counted: "
                "they may have been counted elsewhere.",
            )
        )
    if mosaic is not None and mosaic.cells_apart:
        made.append(
            (
                "Parts not joined.",
                f"The fields lie in {mosaic.fragments:,} parts of which nobody knows how they lie "
                f"to each other. Of the {mosaic.cells_apart:,} cells outside the largest part some "
                "may be counted twice.",
            )
        )
    if live is not None and live.gaps:
        seconds = sum(gap.seconds for gap in live.gaps)
        times = "once" if len(live.gaps) == 1 else f"{len(live.gaps):,} times"
        made.append(
            (
                "Camera lost.",
                f"The camera gave no picture {times}, for {seconds:.1f} s in all. What lay under "
                "it then was not seen.",
            )
        )
    return made


def screening_view(screening: ScreeningRecord, tally: TallyRecord | None) -> Told:
    """The stop rule's verdict with the numbers it rests on."""
    facts = [
        (
            "Asked",
            f"are {screening.threshold_percent:g} % or more of the white cells blasts? Either "
            f"error at most {100 * (1 - screening.confidence):.2g} %",
        ),
        ("White cells", f"{screening.cells:,}, {screening.named:,} of them named blasts"),
    ]
    if screening.corrected is not None:
        share = screening.corrected
        facts.append(
            (
                "Share of blasts",
                f"{share.percent:.1f} % ({100 * screening.confidence:g} % interval "
                f"{share.low_percent:.1f} to {share.high_percent:.1f} %), corrected for the "
                "classifier's measured errors",
            )
        )
    if not screening.domain_assessed:
        facts.append(("Domain", "not assessed; the errors above are declared for films within it"))
    if tally is not None:
        facts.append(("Count reached", say_tier(tally)))
    return Told(
        _STATES.get(screening.state, screening.state),
        screening.text,
        screening.state == "unsettled",
        tuple(facts),
    )


def say_tier(tally: TallyRecord) -> str:
    """How far the differential came."""
    reached = "below the first" if tally.tier is None else f"{tally.tier} cells"
    if tally.next_tier is None:
        return f"{reached}, the last"
    return f"{reached}; {tally.cells_to_next:,} more to {tally.next_tier}"


def mosaic_view(mosaic: MosaicRecord) -> Told:
    """How the fields were put together."""
    facts = [
        ("Fields with a place", f"{mosaic.fields_placed:,} of {mosaic.fields:,}"),
        ("Cells", f"{mosaic.cells:,}, each once; {mosaic.repeats:,} finds showed one again"),
    ]
    if mosaic.lost:
        why = ", ".join(f"{count:,} {reason}" for reason, count in mosaic.lost.items())
        facts.append(("Fields without a place", why))
        facts.append(("Finds not counted", f"{mosaic.finds_without_place:,}"))
    facts.append(("Parts of the film", f"{mosaic.fragments:,}"))
    return Told("Map of the film", "", bool(mosaic.lost or mosaic.cells_apart), tuple(facts))


def gate_view(gate: GateRecord) -> Told:
    """What was refused before it was examined."""
    refused = sum(gate.refused.values())
    facts = [(reason, f"{count:,}") for reason, count in sorted(gate.refused.items())]
    if gate.profile is None:
        limits = "those that suit no camera well: nobody has set this camera up"
    else:
        limits = f"profile {gate.profile} of {gate.profile_made_at}"
    facts.append(("limits", limits))
    return Told(
        f"{refused:,} of {gate.judged:,} fields refused before they were examined",
        "",
        gate.profile is None,
        tuple(facts),
    )


def live_view(live: LiveRecord) -> Told:
    """How old pictures were at their results, and what the camera was set to."""
    facts = []
    age = live.frame_age
    if age is not None:
        facts.append(
            (
                "Age at the result",
                f"half of the fields below {age.p50_ms:.0f} ms, 95 % below {age.p95_ms:.0f} ms, "
                f"99 % below {age.p99_ms:.0f} ms, the oldest {age.most_ms:.0f} ms",
            )
        )
    facts.append(("Newer picture taken instead", f"{live.frames_passed_over:,} times"))
    for session in live.sessions:
        rate = "" if session.fps is None else f", {session.fps:g} pictures per second"
        facts.append(
            (
                "Camera",
                f"{session.driver} {session.device}, {session.width} × {session.height} px, "
                f"{session.pixel_format}{rate}",
            )
        )
        facts += [(f"Not locked: {name}", why) for name, why in session.not_locked.items()]
        if session.clock == "arrival":
            facts.append(("Clock", "time of arrival: pictures look younger than they were"))
    return Told("Live camera", "", bool(live.gaps), tuple(facts))


def gaps_of(live: LiveRecord) -> tuple[list[Gap], int]:
    """The longest gaps in the order of the film, and how many there were."""
    longest = sorted(live.gaps, key=lambda gap: -gap.seconds)[:_GAP_ROWS]
    rows = [
        Gap(f"{gap.at_s:,.1f} s", f"{gap.seconds:,.1f} s", gap.reason)
        for gap in sorted(longest, key=lambda gap: gap.at_s)
    ]
    return rows, len(live.gaps)


def report_map(report: FilmReport) -> FilmMap | None:
    """The map of a report; None where fields were not put together."""
    mosaic = report.mosaic
    if mosaic is None:
        return None
    placed = [each for each in report.fields if each.place is not None]
    return map_of_places(
        [
            (each.place.cell, each.field, each.box_xyxy, each.class_name)
            for each in report.cells
            if each.place is not None
        ],
        {
            each.index: (each.place.fragment, each.place.x, each.place.y)
            for each in placed
            if each.place is not None
        },
        {each.index: (each.width or 0, each.height or 0) for each in placed},
        pixel_size_um=mosaic.pixel_size_um,
        lost_fields=sum(mosaic.lost.values()),
    )


def _finds(count: int) -> str:
    return "The one find in them is" if count == 1 else f"The {count:,} finds in them are"
