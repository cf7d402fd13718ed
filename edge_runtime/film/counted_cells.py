"""Which find stands for which cell of the film, and where its fields lie, while it grows.

Owns following a mosaic's updates. Does not own deciding what is the same cell (see ``mosaic``) nor
counting (see ``tally``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edge_runtime.film.mosaic import MosaicUpdate
from edge_runtime.film.track import Lost, Placed

# Index of the frame and row in its detections.
FindKey = tuple[int, int]


class CountedCells:
    """The find that stands for each cell: the one whose crop is kept, and whose class counts."""

    def __init__(self) -> None:
        self._names: dict[FindKey, str] = {}
        self._stands: dict[int, FindKey] = {}
        self._cell: dict[FindKey, int] = {}
        self._into: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._stands)

    @property
    def standing(self) -> Mapping[int, FindKey]:
        """By cell, the find that stands for it."""
        return self._stands

    @property
    def class_names(self) -> dict[int, str]:
        """By cell, what it is counted as."""
        return {cell: self._names[find] for cell, find in self._stands.items()}

    def name(self, frame: int, class_names: Sequence[str]) -> None:
        """Notes the classes of one field's finds, before the update it brings."""
        self._names.update({(frame, row): name for row, name in enumerate(class_names)})

    def cell_of(self, find: FindKey) -> int | None:
        """The cell of the film that a find shows; None while its field has no place."""
        cell = self._cell.get(find)
        while cell in self._into:
            cell = self._into[cell]
        return cell

    def counts(self, find: FindKey) -> bool:
        """Whether the find stands for its cell."""
        cell = self.cell_of(find)
        return cell is not None and self._stands[cell] == find

    def apply(self, update: MosaicUpdate) -> Iterator[tuple[str | None, str | None]]:
        """Follows one update; exhaust it.

        Yields:
            For each cell that changed, what it was counted as before and is now; None where it
            was not counted, or is no more.
        """
        for seen in update.sightings:
            find = (seen.frame, seen.row)
            self._cell[find] = seen.cell
            if seen.new:
                self._stands[seen.cell] = find
                yield None, self._names[find]
            elif seen.best:
                yield self._stand(seen.cell, find)
            else:
                # Never asked for again, and there are many.
                self._names.pop(find, None)
        for merge in update.merges:
            gone = self._stands.pop(merge.cell)
            self._into[merge.cell] = merge.into
            yield self._names[gone], None
            yield self._stand(merge.into, (merge.best.frame, merge.best.row))

    def _stand(self, cell: int, find: FindKey) -> tuple[str, str]:
        before, self._stands[cell] = self._stands[cell], find
        return self._names[before], self._names[find]


class FieldPlaces:
    """Where every field lies, or why nobody knows."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[int, float, float]] = {}
        self._lost: dict[int, str] = {}

    def place(self, field: int) -> tuple[int, float, float] | None:
        """Fragment and upper left corner, frame pixels; None when it is not known."""
        return self._places.get(field)

    def lost(self, field: int) -> str | None:
        """Why a field has no place; None when it has one, or never came."""
        return self._lost.get(field)

    def apply(self, update: MosaicUpdate) -> None:
        """Follows one update."""
        place = update.place
        if isinstance(place, Lost):
            self._lost[place.index] = place.reason
        for each in (place, update.earlier):
            if isinstance(each, Placed):
                self._places[each.index] = (each.fragment, each.x, each.y)
                self._lost.pop(each.index, None)
        for tie in update.ties:
            for index, (fragment, x, y) in self._places.items():
                if fragment == tie.fragment:
                    self._places[index] = (tie.into, x + tie.x, y + tie.y)
