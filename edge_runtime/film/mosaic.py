"""Each cell once: fields are put in their places on the film, and their finds become its cells.

Owns the way from a frame and its detections to cells of the film, and what happened on it. Does
not own the placing (see ``track``), the merging (see ``film_cells``), counting (see ``tally``) nor
the picture of the film (see ``mosaic_map``).

Coordinates are frame pixels, right and down from the upper left corner of the first field; a
camera's µm per pixel turn them into µm.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edge_runtime.film.film_cells import (
    Box,
    CellMerge,
    FilmCell,
    FilmCells,
    Find,
    Sighting,
    finds_of,
)
from edge_runtime.film.track import FilmTrack, FragmentTie, Lost, Placed
from edge_runtime.types import Detections, Frame

# Looks at pairs of fields when a film ends: about ten seconds of a small device.
_LAST_GLANCES = 10_000


@dataclass(frozen=True, slots=True)
class MosaicUpdate:
    """What one field changed; to be applied in this order.

    Attributes:
        place: of the field, or that it is lost and why; None at the film's end, which brings ties
            and merges alone.
        earlier: an earlier field that was lost and has its place now.
        sightings: finds of this field, after those of the earlier one. Of a lost field there are
            none: its cells are not counted as long as its place is not known.
        ties: fragments that were tied together.
        merges: cells that turned out to be others; each was counted once too often.
    """

    place: Placed | Lost | None
    earlier: Placed | None = None
    sightings: tuple[Sighting, ...] = ()
    ties: tuple[FragmentTie, ...] = ()
    merges: tuple[CellMerge, ...] = ()

    @property
    def new_cells(self) -> tuple[int, ...]:
        """Ids of cells that are to be counted."""
        return tuple(each.cell for each in self.sightings if each.new)

    @property
    def shows_new(self) -> bool:
        """The field shows a part of the film that no other one shows, or nobody can tell."""
        return isinstance(self.place, Lost) or (self.place is not None and self.place.shows_new)

    @property
    def loses_track(self) -> bool:
        """The field has no place: the operator should be told."""
        return isinstance(self.place, Lost)


@dataclass(frozen=True, slots=True)
class MosaicState:
    """Where the mosaic stands.

    Attributes:
        fields: how many came.
        fields_placed: those with a place.
        lost: fields without a place, by the first word of the reason.
        cells: of the film, each once.
        cells_apart: of these, cells in fragments other than the largest one: should such a
            fragment show a place that another one shows too, its cells are counted twice.
        fragments: parts of the film whose places to each other are not known; 1 when all is well.
        finds_without_place: finds in lost fields, not counted.
    """

    fields: int
    fields_placed: int
    lost: dict[str, int]
    cells: int
    cells_apart: int
    fragments: int
    finds_without_place: int


class FilmMosaic:
    """The cells of one film, from fields in the order in which they were captured.

    Not for several threads at once.
    """

    def __init__(self) -> None:
        self.cells = FilmCells()
        self._track = FilmTrack()
        self._fields = self._placed = 0
        self._lost: Counter[str] = Counter()
        self._without_place = 0
        # Of the last lost field, which the next one may bring its place.
        self._waiting: tuple[int, str, list[Find]] | None = None
        self._size = (0, 0)
        self._pixel_size_um: float | None = None

    @property
    def field_size(self) -> tuple[int, int]:
        """Width and height of the fields, frame pixels; zero before the first one."""
        return self._size

    @property
    def pixel_size_um(self) -> float | None:
        """µm per pixel, as the first placed frame says; None when unknown."""
        return self._pixel_size_um

    def add(self, frame: Frame, detections: Detections) -> MosaicUpdate:
        """Puts a field in its place and its finds among the film's cells."""
        step = self._track.place(frame.index, frame.pixels)
        finds = finds_of(frame.index, frame.pixels, detections)
        self._fields += 1
        sightings: list[Sighting] = []
        if isinstance(step.place, Placed) and self._placed == 0:
            self._size, self._pixel_size_um = (frame.width, frame.height), frame.pixel_size_um
        if step.earlier is not None and self._waiting is not None:
            index, reason, earlier = self._waiting
            assert index == step.earlier.index
            self._lost[reason] -= 1
            self._without_place -= len(earlier)
            self._placed += 1
            sightings += self.cells.add(earlier, step.earlier.fragment, self._view(step.earlier))
        if isinstance(step.place, Placed):
            self._placed += 1
            self._waiting = None
            sightings += self.cells.add(finds, step.place.fragment, self._view(step.place))
        else:
            reason = step.place.reason.split(":", 1)[0]
            self._lost[reason] += 1
            self._without_place += len(finds)
            if step.place.may_be_found:
                self._waiting = (frame.index, reason, finds)
        place, earlier_place = step.place, step.earlier
        merges: list[CellMerge] = []
        for tie in step.ties:
            merges += self.cells.tie(tie.fragment, tie.into, tie.x, tie.y)
        return MosaicUpdate(place, earlier_place, tuple(sightings), step.ties, tuple(merges))

    def finish(self) -> tuple[tuple[FragmentTie, ...], tuple[CellMerge, ...]]:
        """Compares what was left over; to be called once, when the film ends.

        Returns:
            Fragments that were tied together, and cells that turned out to be others.
        """
        ties = self._track.tie(_LAST_GLANCES)
        merges: list[CellMerge] = []
        for tie in ties:
            merges += self.cells.tie(tie.fragment, tie.into, tie.x, tie.y)
        return ties, tuple(merges)

    def state(self) -> MosaicState:
        """Where the mosaic stands."""
        by_fragment = Counter(cell.fragment for cell in self.cells)
        largest = max(by_fragment.values(), default=0)
        return MosaicState(
            fields=self._fields,
            fields_placed=self._placed,
            lost={reason: count for reason, count in self._lost.items() if count},
            cells=len(self.cells),
            cells_apart=len(self.cells) - largest,
            fragments=len(self._track.keyframes.fragments),
            finds_without_place=self._without_place,
        )

    def views(self) -> list[tuple[int, Box]]:
        """Fragment and corners of the fields that together show all that was seen."""
        scale = self._track.frame_pixels
        width, height = self._size
        return [
            (
                key.fragment,
                (key.x * scale, key.y * scale, key.x * scale + width, key.y * scale + height),
            )
            for key in self._track.keyframes
        ]

    def __getitem__(self, cell: int) -> FilmCell:
        return self.cells[cell]

    def _view(self, place: Placed) -> Box:
        return (place.x, place.y, place.x + self._size[0], place.y + self._size[1])
