"""Each cell once, measured: a hand-moved virtual film, whose cells and places are known.

Owns the run, the comparison with the truth and the targets. Does not own the mosaic
(``edge_runtime.film.mosaic``) nor the path (``edge_runtime.virtual_film.hand_path``).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import WorkMeter
from edge_runtime.cameras.virtual import VirtualCamera
from edge_runtime.clinic.atomic_file import replacing, utf8
from edge_runtime.film.film_cells import Box
from edge_runtime.film.mosaic import FilmMosaic, MosaicUpdate
from edge_runtime.film.mosaic_map import draw_map, film_map
from edge_runtime.film.track import FragmentTie, Lost, Placed
from edge_runtime.types import Detections, Frame
from edge_runtime.virtual_film import (
    PROFILES,
    FilmSpec,
    HandStep,
    OpticalProfile,
    VirtualFilm,
    WindowCell,
    hand_path,
)

SEED = 11
FRAMES = 500
JUMPS = 4
# A field of a 100x objective at the width that the registration target names.
WIDTH_PX, HEIGHT_PX = 640, 400
DOUBLE_SHARE, MISSED_SHARE, HALF_CELL, FRAME_MS = 0.02, 0.03, 0.5, 5.0
# A find and a cell of the truth are the same above this overlap (intersection over union).
_SAME_IOU = 0.35
_MIN_VISIBLE = 0.5
# So large that a path of 500 fields seldom comes to the same place twice; no finer than the
# camera's pixels, which is all it would see.
_FILM_UM, _FILM_PIXEL_UM = (1400.0, 1000.0), 0.24

Find = Callable[[Frame], Detections]


@dataclass(slots=True)
class Tracked:
    """A mosaic with what the truth says of every step.

    Attributes:
        seen: film ids of the truth by cell id of the mosaic, one for every sighting; None where
            the find is no white cell of the truth.
        found: film ids that some field's finds had, also a lost one's.
        places: of the placed frames, in coordinates after all ties.
        lost: frames without a place, with the reason.
        told: how often each reason was told, also of frames that got their place later.
    """

    mosaic: FilmMosaic = field(default_factory=FilmMosaic)
    seen: dict[int, list[int | None]] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)
    places: dict[int, Placed] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)
    ties: list[FragmentTie] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _truth: dict[tuple[int, int], int | None] = field(default_factory=dict)

    def add(self, frame: Frame, found: Detections, truth: Sequence[int | None]) -> MosaicUpdate:
        """Takes a field; ``truth`` is the film id of every find."""
        self._truth.update({(frame.index, row): each for row, each in enumerate(truth)})
        self.found.update(each for each in truth if each is not None)
        began = time.thread_time()
        update = self.mosaic.add(frame, found)
        self.seconds.append(time.thread_time() - began)
        for sighting in update.sightings:
            which = self._truth[sighting.frame, sighting.row]
            self.seen.setdefault(sighting.cell, []).append(which)
        if update.earlier is not None:
            self.places[update.earlier.index] = update.earlier
            del self.lost[update.earlier.index]
        if isinstance(update.place, Lost):
            self.lost[frame.index] = update.place.reason
            self.told[update.place.reason.split(":")[0]] += 1
        elif update.place is not None:
            self.places[frame.index] = update.place
        self._apply(update.ties, [(each.cell, each.into) for each in update.merges])
        return update

    def finish(self) -> None:
        """Ends the film."""
        ties, merges = self.mosaic.finish()
        self._apply(ties, [(each.cell, each.into) for each in merges])

    def _apply(self, ties: Sequence[FragmentTie], merges: Sequence[tuple[int, int]]) -> None:
        self.ties += ties
        for tie in ties:
            for index, place in self.places.items():
                if place.fragment == tie.fragment:
                    x, y = place.x + tie.x, place.y + tie.y
                    self.places[index] = replace(place, fragment=tie.into, x=x, y=y)
        for gone, into in merges:
            self.seen[into] += self.seen.pop(gone)


@dataclass(frozen=True, slots=True)
class Scan:
    """A camera along a hand's path."""

    camera: VirtualCamera
    path: tuple[HandStep, ...]

    @classmethod
    def over(
        cls, film: VirtualFilm, profile: OpticalProfile, frames: int, *, seed: int, jumps: int
    ) -> Scan:
        """A hand's path over a film."""
        path = hand_path(film.size_um, profile.field_um, frames, seed, jumps=jumps)
        centres = [step.centre_um for step in path]
        return cls(VirtualCamera(film, profile, centres_um=centres), path)

    def corner_um(self, index: int) -> tuple[float, float]:
        """Upper left corner of a field in film µm."""
        (x, y), (wide, high) = self.path[index].centre_um, self.camera.profile.field_um
        return (x - wide / 2, y - high / 2)

    def cells(self, index: int) -> list[WindowCell]:
        """White cells that a field shows, half of each at least."""
        return [cell for cell in self.camera.truth(index, _MIN_VISIBLE) if cell.is_white_cell]


def profile_of(width: int = WIDTH_PX, height: int = HEIGHT_PX) -> OpticalProfile:
    """A cheap 100x microscope whose field of 122 µm is ``width`` pixels wide."""
    usual = PROFILES["lcm_100x_c2"]
    return replace(usual, pixel_size_um=usual.field_um[0] / width, resolution=(width, height))


def perfect_finds(cells: Sequence[WindowCell]) -> tuple[Detections, list[int | None]]:
    """What a detector without fault would find, and which cells these are."""
    boxes = np.asarray([cell.box_xyxy for cell in cells], np.float32).reshape(-1, 4)
    scores = np.asarray([cell.visible for cell in cells], np.float32)
    found = Detections(boxes, scores, np.zeros(len(cells), np.int64))
    return found, [cell.film_id for cell in cells]


def which_cells(found: Detections, cells: Sequence[WindowCell]) -> list[int | None]:
    """The cell of the truth that every find is, each at most once; None for what is no cell."""
    pairs = sorted(
        (
            (-_iou(tuple(float(v) for v in box), cell.box_xyxy), row, cell.film_id)
            for row, box in enumerate(found.boxes_xyxy)
            for cell in cells
        ),
    )
    named: dict[int, int] = {}
    for iou, row, film_id in pairs:
        if -iou >= _SAME_IOU and row not in named and film_id not in named.values():
            named[row] = film_id
    return [named.get(row) for row in range(len(found))]


def run_scan(
    scan: Scan, find: Find | None = None, progress: Callable[[str], None] = lambda line: None
) -> Tracked:
    """Looks at every field of a path; without ``find`` with a detector without fault."""
    tracked = Tracked()
    for index in range(len(scan.path)):
        frame = scan.camera.frame(index)
        if find is None:
            found, truth = perfect_finds(scan.cells(index))
        else:
            found = find(frame)
            # A find of a cell of which less than half is shown is a find of that cell.
            shown = [c for c in scan.camera.truth(index, 0.1) if c.is_white_cell]
            truth = which_cells(found, shown)
        tracked.add(frame, found, truth)
        if (index + 1) % 100 == 0:
            progress(f"{index + 1} fields, {len(tracked.lost)} lost")
    tracked.finish()
    return tracked


def score(scan: Scan, tracked: Tracked) -> dict[str, Any]:
    """Doubles, misses and errors of a mosaic against the truth."""
    mosaic, px = tracked.mosaic, scan.camera.profile.pixel_size_um
    shown = {cell.film_id for index in range(len(scan.path)) for cell in scan.cells(index)}
    named: dict[int, int] = {}
    others = strangers = 0
    for cell_id, sightings in tracked.seen.items():
        votes = Counter(each for each in sightings if each is not None)
        if not votes:
            strangers += 1
            continue
        named[cell_id] = votes.most_common(1)[0][0]
        others += len(votes) > 1
    counted = Counter(named.values())
    doubles = sum(count - 1 for count in counted.values())
    missed = tracked.found - set(counted)
    origins = _origins(scan, tracked)
    errors, halves = [], []
    truths = {cell.id: cell for cell in scan.camera.film.cells}
    for cell_id, film_id in named.items():
        cell = mosaic[cell_id]
        if not cell.best.whole:
            continue
        x, y = cell.middle
        origin = origins[cell.fragment]
        truth = truths[film_id]
        away = math.dist((x * px + origin[0], y * px + origin[1]), truth.centre_um)
        errors.append(away)
        halves.append(away / (_side(truth.box_um_xyxy)))
    frames = [
        math.dist(
            (
                place.x * px + origins[place.fragment][0],
                place.y * px + origins[place.fragment][1],
            ),
            scan.corner_um(index),
        )
        for index, place in tracked.places.items()
    ]
    state = mosaic.state()
    ms = [1000 * each for each in tracked.seconds]
    return {
        "fields": len(scan.path),
        "fields_placed": len(tracked.places),
        "fields_lost": len(tracked.lost),
        "lost_by_reason": state.lost,
        "loss_told": dict(sorted(tracked.told.items())),
        "found_again": sum(place.found_again for place in tracked.places.values()),
        "jumps": sum(step.motion == "jump" for step in scan.path),
        "fragments_tied": len(tracked.ties),
        "fragments_left": state.fragments,
        "cells_shown": len(shown),
        "cells_found": len(tracked.found),
        "cells_never_found": len(shown - tracked.found),
        "cells_of_the_film": state.cells,
        "doubles": doubles,
        "double_share": round(doubles / max(1, len(tracked.found)), 4),
        "missed": len(missed),
        "missed_share": round(len(missed) / max(1, len(tracked.found)), 4),
        "cells_that_are_two": others,
        "cells_that_are_none": strangers,
        "sightings": sum(len(each) for each in tracked.seen.values()),
        "cell_error_um": _spread(errors),
        "cell_error_widths": _spread(halves),
        "field_error_um": _spread(frames),
        "fields_misplaced": sum(error > 5 for error in frames),
        "processor_ms_per_field": _spread(ms),
    }


def measure_mosaic(
    *,
    frames: int = FRAMES,
    spec: FilmSpec | None = None,
    find: Find | None = None,
    picture: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """A long film with a detector without fault, and with a real one.

    Args:
        frames: of the hand's path.
        spec: another film than one that is large enough for 500 fields.
        find: the real detector; None leaves it out.
        picture: where to draw the map of the last run, SVG.
        progress: takes a line now and then.

    Raises:
        StoreError: the map cannot be written.
    """
    film = VirtualFilm.build(SEED, spec or FilmSpec(size_um=_FILM_UM, pixel_size_um=_FILM_PIXEL_UM))
    profile = profile_of()
    progress(f"film of {len(film.cells)} cells and artefacts rendered")
    scan = Scan.over(film, profile, frames, seed=SEED, jumps=max(1, round(frames * JUMPS / FRAMES)))
    rows: dict[str, Any] = {}
    finders: dict[str, Find | None] = {"truth": None}
    if find is not None:
        finders["detector"] = find
    for name, each in finders.items():
        before = WorkMeter.read()
        tracked = run_scan(scan, each, progress)
        busy = WorkMeter.read().others_share_since(before)
        rows[name] = {**score(scan, tracked), "others_share": busy}
    if picture is not None:
        with replacing(picture) as file:
            file.write(
                utf8(draw_map(film_map(tracked.mosaic, named(film, tracked), unnamed="no cell")))
            )
    motions = Counter(step.motion for step in scan.path)
    return {
        "film": {
            "seed": SEED,
            "size_um": [round(side, 1) for side in film.size_um],
            "white_cells": sum(cell.is_white_cell for cell in film.cells),
            "field_um": [round(side, 1) for side in profile.field_um],
            "field_px": list(profile.resolution),
            "motions": dict(sorted(motions.items())),
        },
        "how": {
            "truth": "finds are the boxes of the virtual film, of cells shown by half or more",
            "detector": "finds are those of the bundle's detector",
            "fields_lost": "without a place in the end; loss_told: without one at first",
            "doubles": "cells of the mosaic beyond the first for the same cell of the film",
            "missed": "cells that some field's finds had and that are no cell of the mosaic",
            "error": "from the place that the first field of the fragment gives",
            "processor_ms_per_field": "of one thread, placing and merging, without finding",
        },
        "targets": targets(rows),
        "rows": rows,
    }


def named(film: VirtualFilm, tracked: Tracked) -> dict[int, str]:
    """The true class of every cell of a mosaic that is one."""
    classes = {cell.id: cell.class_name for cell in film.cells}
    votes = {
        cell: Counter(each for each in seen if each is not None)
        for cell, seen in tracked.seen.items()
    }
    return {cell: classes[count.most_common(1)[0][0]] for cell, count in votes.items() if count}


def targets(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached, and what was."""
    wanted: list[tuple[str, str, Callable[[dict[str, Any]], float], float]] = [
        ("cells counted twice", "share", lambda row: row["double_share"], DOUBLE_SHARE),
        ("cells missed", "share", lambda row: row["missed_share"], MISSED_SHARE),
        (
            "largest error of a cell",
            "widths",
            lambda row: row["cell_error_widths"]["max"],
            HALF_CELL,
        ),
        ("fields put in a wrong place", "fields", lambda row: row["fields_misplaced"], 0),
        ("fragments left apart", "fragments", lambda row: row["fragments_left"], 1),
        (
            "processor time of a field, median",
            "ms",
            lambda row: row["processor_ms_per_field"]["p50"],
            FRAME_MS,
        ),
    ]
    return [
        {
            "name": f"{name}, {finds}",
            "unit": unit,
            "at_most": limit,
            "measured": figure(row),
            "met": figure(row) <= limit,
        }
        for finds, row in rows.items()
        for name, unit, figure, limit in wanted
    ]


def _origins(scan: Scan, tracked: Tracked) -> dict[int, tuple[float, float]]:
    """Where every fragment's origin lies on the film, by the first of its fields."""
    px = scan.camera.profile.pixel_size_um
    origins: dict[int, tuple[float, float]] = {}
    for index in sorted(tracked.places):
        place = tracked.places[index]
        x, y = scan.corner_um(index)
        origins.setdefault(place.fragment, (x - place.x * px, y - place.y * px))
    return origins


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}
    p50, p95, p99 = (float(v) for v in np.percentile(np.asarray(values), (50, 95, 99)))
    return {
        "p50": round(p50, 3),
        "p95": round(p95, 3),
        "p99": round(p99, 3),
        "max": round(max(values), 3),
    }


def _side(box: Box) -> float:
    return math.sqrt(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))


def _iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, wide) * max(0.0, high)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return both / max(areas - both, 1e-9)
