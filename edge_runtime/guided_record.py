"""What a film's record says of its guide: refusals, places, each cell once, tally, screening.

Owns the step from what a guide leaves to the report's records. Does not own either (see
``film.guide`` and ``film_report``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.film_report import (
    CellPlaceRecord,
    CellRecord,
    ClassifierRecord,
    CorrectedShareRecord,
    FieldPlaceRecord,
    FieldRecord,
    GateRecord,
    MosaicRecord,
    ScreeningRecord,
    TallyRecord,
    UncountedRecord,
)

if TYPE_CHECKING:
    from edge_runtime.film.guide import FilmGuided, PutTogether
    from edge_runtime.film.screening import ScreeningPlan, ScreeningVerdict
    from edge_runtime.film.tally import TallyState

_PLACE_DECIMALS = 2
_PERCENT_DECIMALS = 2
_PROBABILITY_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Repeat:
    """A find that shows a cell of the film again, and no better: it will never stand for it.

    A hand-moved film has ten times as many of these as of cells; what a cell's record holds of
    classes and attributes would fill a small device's memory.
    """

    field: int
    box_xyxy: tuple[float, float, float, float]
    score: float
    class_name: str


def guided_records(guided: FilmGuided, named: ClassifierRecord | None) -> dict[str, Any]:
    """The report's ``gate``, ``mosaic``, ``tally`` and ``screening``, as far as there are any."""
    told = guided.guidance
    made: dict[str, Any] = {}
    if guided.gate is not None:
        profile = guided.profile
        made["gate"] = GateRecord(
            profile=None if profile is None else profile.name,
            profile_made_at=None if profile is None else profile.made_at,
            limits=guided.gate.limits.model_dump(),
            judged=guided.frames_judged,
            refused=dict(told.refused),
        )
    if told.mosaic is not None and guided.together is not None:
        state = told.mosaic
        made["mosaic"] = MosaicRecord(
            fields=state.fields,
            fields_placed=state.fields_placed,
            lost=dict(state.lost),
            cells=state.cells,
            cells_apart=state.cells_apart,
            fragments=state.fragments,
            finds_without_place=state.finds_without_place,
            repeats=sum(cell.sightings - 1 for cell in guided.together.cells.values()),
            pixel_size_um=guided.together.pixel_size_um,
        )
    if told.tally is not None and named is not None:
        made["tally"] = _tally(told.tally, guided.blasts)
    if told.screening is not None and guided.plan is not None:
        made["screening"] = _screening(told.screening, guided.plan)
    return made


def on_film(
    film: PutTogether,
    fields: Sequence[FieldRecord],
    cells: Sequence[CellRecord | Repeat],
    finds: Sequence[tuple[int, int]],
) -> tuple[list[FieldRecord], list[CellRecord], list[UncountedRecord]]:
    """Fields with their places, the cells that count, and the finds that do not.

    Args:
        film: as it was put together.
        fields: in the camera's order.
        cells: every find.
        finds: field and row of each of them.
    """
    counted, places = film.counted, film.places
    once: list[CellRecord] = []
    left: list[UncountedRecord] = []
    for record, find in zip(cells, finds, strict=True):
        cell, place = counted.cell_of(find), places.place(find[0])
        standing = record if isinstance(record, CellRecord) and counted.counts(find) else None
        if standing is None or cell is None or place is None:
            left.append(
                UncountedRecord(
                    field=record.field,
                    number=find[1] + 1,
                    box_xyxy=record.box_xyxy,
                    score=record.score,
                    class_name=record.class_name,
                    cell=cell,
                )
            )
            continue
        seen = film.cells[cell].sightings
        put = cell_place(cell, find[1] + 1, record.box_xyxy, place, sightings=seen)
        once.append(standing.model_copy(update={"place": put}))
    placed = [
        each
        if each.skipped
        else each.model_copy(
            update={
                "place": field_place(places.place(each.index)),
                "lost": places.lost(each.index),
            }
        )
        for each in fields
    ]
    return placed, once, left


def field_place(place: tuple[int, float, float] | None) -> FieldPlaceRecord | None:
    """A field's fragment and corner as the report has them."""
    if place is None:
        return None
    fragment, x, y = place
    return FieldPlaceRecord(
        fragment=fragment, x=round(x, _PLACE_DECIMALS), y=round(y, _PLACE_DECIMALS)
    )


def cell_place(
    cell: int,
    number: int,
    box_xyxy: tuple[float, float, float, float],
    place: tuple[int, float, float],
    *,
    sightings: int,
) -> CellPlaceRecord:
    """A cell's place, from that of the field that shows it best.

    Args:
        cell: of the film.
        number: of the find in its field, from 1.
        box_xyxy: in the field.
        place: of the field.
        sightings: finds of it.
    """
    fragment, x, y = place
    x1, y1, x2, y2 = box_xyxy
    return CellPlaceRecord(
        cell=cell,
        number=number,
        fragment=fragment,
        x=round(x + (x1 + x2) / 2, _PLACE_DECIMALS),
        y=round(y + (y1 + y2) / 2, _PLACE_DECIMALS),
        sightings=sightings,
    )


def _tally(state: TallyState, blasts: Sequence[str]) -> TallyRecord:
    return TallyRecord(
        cells=state.differential.total,
        tier=state.tier,
        next_tier=state.next_tier,
        cells_to_next=state.cells_to_next,
        blasts=state.blasts,
        blast_classes=list(blasts),
    )


def tally_again(was: TallyRecord, by_class: Mapping[str, int], total: int) -> TallyRecord:
    """The tally after people's corrections.

    Args:
        was: of the run.
        by_class: cells by the class that counts now.
        total: cells of the differential now.
    """
    from edge_runtime.film.tally import tiers_at

    tier, after = tiers_at(total)
    return TallyRecord(
        cells=total,
        tier=tier,
        next_tier=after,
        cells_to_next=0 if after is None else after - total,
        blasts=sum(by_class.get(name, 0) for name in was.blast_classes),
        blast_classes=was.blast_classes,
    )


def _screening(verdict: ScreeningVerdict, plan: ScreeningPlan) -> ScreeningRecord:
    corrected = verdict.corrected
    return ScreeningRecord(
        state=verdict.state,
        text=verdict.text,
        threshold_percent=_percent(plan.threshold),
        confidence=plan.confidence,
        cells=verdict.cells,
        named=verdict.named,
        why=verdict.why,
        more_cells=verdict.more_cells,
        may_settle=verdict.may_settle,
        corrected=None
        if corrected is None
        else CorrectedShareRecord(
            percent=_percent(corrected.share),
            low_percent=_percent(corrected.low),
            high_percent=_percent(corrected.high),
            at_least_threshold=round(corrected.at_least_threshold, _PROBABILITY_DECIMALS),
        ),
        domain_assessed=verdict.domain_assessed,
    )


def _percent(share: float) -> float:
    return round(100 * share, _PERCENT_DECIMALS)
