"""The cells of a film, each once: where they lie, how often they were seen, the best look.

Owns merging the finds of overlapping fields. Does not own where the fields lie (see ``track``),
classes, nor the pictures of cells: a caller keeps the crop of the sighting that is named best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from edge_runtime.types import Detections, UInt8Image

Box = tuple[float, float, float, float]

# Two finds are one cell when their middles are nearer than this share of the cell's width.
SAME_CELL = 0.5
# A find that ends so near to the frame's border may be cut by it.
_CUT_PX = 2.0
# Less of a box than this in common with another field's view says nothing about where it is.
_LEAST_SHOWN = 0.2
# A repeat must be sharper by so much to take the crop's place: noise alone moves the figure by
# some per cent, and every change is a write.
_SHARPER = 1.05
# Larger crops are shrunk before their sharpness is measured: beyond, there is only noise.
_SHARPNESS_SIDE_PX = 64
# Cells are looked up by squares of this side, wider than any cell.
_SQUARE_PX = 256.0


@dataclass(frozen=True, slots=True)
class Find:
    """One box of one field, with what does not depend on the field's place.

    Attributes:
        frame: index of its frame.
        row: in the field's detections.
        box_xyxy: frame pixels.
        score: of the detector.
        sharpness: of its crop; comparable within one film only.
        whole: the frame's border does not cut it.
    """

    frame: int
    row: int
    box_xyxy: Box
    score: float
    sharpness: float
    whole: bool


@dataclass(frozen=True, slots=True)
class FilmCell:
    """One cell of the film.

    Attributes:
        id: running number on its film; never used again.
        fragment: whose coordinates these are.
        box_xyxy: frame pixels, in the fragment's coordinates.
        best: the find whose crop is kept, and whose box this is.
        sightings: how often it was found.
        in_view: how often its place lay wholly in a field; a cell that was found in few of
            these may be none.
        lowest_score, highest_score, mean_score: over its sightings.
    """

    id: int
    fragment: int
    box_xyxy: Box
    best: Find
    sightings: int = 1
    in_view: int = 1
    lowest_score: float = 0.0
    highest_score: float = 0.0
    mean_score: float = 0.0

    @property
    def middle(self) -> tuple[float, float]:
        """Of its box."""
        x1, y1, x2, y2 = self.box_xyxy
        return ((x1 + x2) / 2, (y1 + y2) / 2)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A find became a cell, or was recognised as one.

    Attributes:
        cell: id of the film's cell.
        frame, row: the find; the frame may be an earlier one, whose place was not known then.
        new: it is to be counted; else it is a repeat.
        best: its crop is the one to keep.
        score: of this find.
    """

    cell: int
    frame: int
    row: int
    new: bool
    best: bool
    score: float


@dataclass(frozen=True, slots=True)
class CellMerge:
    """Two cells of fragments that were tied together are one.

    Attributes:
        cell: id that is no more; it was counted once too often.
        into: the other one.
        best: the find whose crop is to be kept from now on.
    """

    cell: int
    into: int
    best: Find


def finds_of(index: int, pixels: UInt8Image, detections: Detections) -> list[Find]:
    """The boxes of one frame RGB uint8 ``(H, W, 3)`` with sharpness and whether they are cut."""
    height, width = pixels.shape[:2]
    found = []
    for row, box in enumerate(detections.boxes_xyxy):
        x1, y1, x2, y2 = (float(side) for side in box)
        whole = min(x1, y1) > _CUT_PX and x2 < width - _CUT_PX and y2 < height - _CUT_PX
        crop = pixels[
            max(0, int(y1)) : max(1, math.ceil(y2)), max(0, int(x1)) : max(1, math.ceil(x2)), 1
        ]
        found.append(
            Find(
                index,
                row,
                (x1, y1, x2, y2),
                float(detections.scores[row]),
                round(_sharpness(np.ascontiguousarray(crop)), 3),
                whole,
            )
        )
    return found


class FilmCells:
    """All cells of a film, by fragment."""

    def __init__(self) -> None:
        self._cells: dict[int, FilmCell] = {}
        # Where the field of the best find lay: a box that its border cut is known only there.
        self._seen_in: dict[int, Box] = {}
        self._squares: dict[tuple[int, int, int], set[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[FilmCell]:
        return iter(self._cells.values())

    def __getitem__(self, cell: int) -> FilmCell:
        return self._cells[cell]

    def add(self, finds: Sequence[Find], fragment: int, view: Box) -> list[Sighting]:
        """Takes the finds of one field in.

        Args:
            finds: of one frame.
            fragment: where the field lies.
            view: its corners in the fragment's coordinates, frame pixels.
        """
        known = list(self._around(fragment, view))
        boxes = [_moved(find.box_xyxy, view[0], view[1]) for find in finds]
        pairs = self._pairs([(box, view) for box in boxes], known)
        taken = dict(pairs)
        for cell in known:
            if _inside(cell.box_xyxy, view):
                self._cells[cell.id] = replace(cell, in_view=cell.in_view + 1)
        return [
            self._repeat(taken[at], find, box, view)
            if at in taken
            else self._new(find, box, fragment, view)
            for at, (find, box) in enumerate(zip(finds, boxes, strict=True))
        ]

    def tie(self, fragment: int, into: int, x: float, y: float) -> list[CellMerge]:
        """Moves the cells of a fragment into another one; those that are there already merge."""
        moving = [cell for cell in self._cells.values() if cell.fragment == fragment]
        there = [cell for cell in self._cells.values() if cell.fragment == into]
        boxes = [(_moved(c.box_xyxy, x, y), _moved(self._seen_in[c.id], x, y)) for c in moving]
        taken = dict(self._pairs(boxes, there))
        merges = []
        for at, cell in enumerate(moving):
            box, view = boxes[at]
            self._forget(cell)
            if at not in taken:
                self._keep(replace(cell, fragment=into, box_xyxy=box), view)
                continue
            other = self._cells[taken[at]]
            joined = _joined(other, cell)
            if _better(cell.best, other.best):
                self._forget(other)
                self._keep(replace(joined, box_xyxy=box, best=cell.best), view)
            else:
                self._cells[other.id] = joined
            merges.append(CellMerge(cell.id, other.id, self._cells[other.id].best))
        return merges

    def _around(self, fragment: int, view: Box) -> Iterator[FilmCell]:
        """Cells whose middle lies in or near a view."""
        x1, y1, x2, y2 = (math.floor(side / _SQUARE_PX) for side in view)
        for column in range(x1 - 1, x2 + 2):
            for row in range(y1 - 1, y2 + 2):
                for cell in self._squares.get((fragment, column, row), ()):
                    yield self._cells[cell]

    def _pairs(
        self, boxes: Sequence[tuple[Box, Box]], known: Sequence[FilmCell]
    ) -> list[tuple[int, int]]:
        """Which box is which known cell, nearest first, each at most once.

        Args:
            boxes: each with the view it was seen in.
            known: cells that they may be.
        """
        near: list[tuple[float, int, int]] = []
        for at, (box, view) in enumerate(boxes):
            reach = max(box[2] - box[0], box[3] - box[1])
            for cell in known:
                other = cell.box_xyxy
                reach_too = max(reach, other[2] - other[0], other[3] - other[1])
                # A cut box has its middle up to half a cell from that of the whole one.
                if abs(box[0] + box[2] - other[0] - other[2]) > 2 * reach_too:
                    continue
                if abs(box[1] + box[3] - other[1] - other[3]) > 2 * reach_too:
                    continue
                away = _distance(box, view, cell.box_xyxy, self._seen_in[cell.id])
                if away < SAME_CELL:
                    near.append((away, at, cell.id))
        boxes_left, cells_left = set(range(len(boxes))), {cell.id for cell in known}
        pairs = []
        for _, at, cell_id in sorted(near):
            if at in boxes_left and cell_id in cells_left:
                boxes_left.remove(at)
                cells_left.remove(cell_id)
                pairs.append((at, cell_id))
        return pairs

    def _new(self, find: Find, box: Box, fragment: int, view: Box) -> Sighting:
        score = find.score
        cell = FilmCell(self._next, fragment, box, find, 1, 1, score, score, score)
        self._next += 1
        self._keep(cell, view)
        return Sighting(cell.id, find.frame, find.row, True, True, score)

    def _repeat(self, cell_id: int, find: Find, box: Box, view: Box) -> Sighting:
        cell = self._cells[cell_id]
        seen = replace(
            cell,
            sightings=cell.sightings + 1,
            lowest_score=min(cell.lowest_score, find.score),
            highest_score=max(cell.highest_score, find.score),
            mean_score=cell.mean_score + (find.score - cell.mean_score) / (cell.sightings + 1),
        )
        better = _better(find, cell.best)
        if better:
            self._forget(cell)
            self._keep(replace(seen, box_xyxy=box, best=find), view)
        else:
            self._cells[cell_id] = seen
        return Sighting(cell_id, find.frame, find.row, False, better, find.score)

    def _keep(self, cell: FilmCell, view: Box) -> None:
        self._cells[cell.id] = cell
        self._seen_in[cell.id] = view
        self._squares.setdefault(_square(cell), set()).add(cell.id)

    def _forget(self, cell: FilmCell) -> None:
        del self._cells[cell.id], self._seen_in[cell.id]
        self._squares[_square(cell)].discard(cell.id)


def _joined(one: FilmCell, other: FilmCell) -> FilmCell:
    sightings = one.sightings + other.sightings
    total = one.mean_score * one.sightings + other.mean_score * other.sightings
    return replace(
        one,
        sightings=sightings,
        in_view=one.in_view + other.in_view,
        lowest_score=min(one.lowest_score, other.lowest_score),
        highest_score=max(one.highest_score, other.highest_score),
        mean_score=total / sightings,
    )


def _better(find: Find, than: Find) -> bool:
    """Whole before cut; then the sharper one."""
    if find.whole != than.whole:
        return find.whole
    return find.sharpness > _SHARPER * than.sharpness


def _distance(one: Box, one_view: Box, other: Box, other_view: Box) -> float:
    """How far two boxes lie apart, in cell widths, by what both views show of them.

    A box that one frame's border cuts has its middle elsewhere than the whole one; cut by the
    same border, both have it in the same place.
    """
    both = _common(one_view, other_view)
    a, b = _common(one, both), _common(other, both)
    if _area(a) < _LEAST_SHOWN * _area(one) or _area(b) < _LEAST_SHOWN * _area(other):
        return math.inf
    away = math.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2
    return away / math.sqrt(max(1.0, (_area(one) + _area(other)) / 2))


def _sharpness(crop: UInt8Image) -> float:
    """Variance of the Laplacian, which blur takes away first."""
    largest = max(crop.shape)
    if largest > _SHARPNESS_SIDE_PX:
        scale = _SHARPNESS_SIDE_PX / largest
        crop = np.asarray(
            cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
        )
    _, spread = cv2.meanStdDev(cv2.Laplacian(crop, cv2.CV_16S))
    return float(spread[0, 0]) ** 2


def _moved(box: Box, x: float, y: float) -> Box:
    return (box[0] + x, box[1] + y, box[2] + x, box[3] + y)


def _common(one: Box, other: Box) -> Box:
    return (
        max(one[0], other[0]),
        max(one[1], other[1]),
        min(one[2], other[2]),
        min(one[3], other[3]),
    )


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _inside(box: Box, view: Box) -> bool:
    return _common(box, view) == box


def _square(cell: FilmCell) -> tuple[int, int, int]:
    x, y = cell.middle
    return (cell.fragment, math.floor(x / _SQUARE_PX), math.floor(y / _SQUARE_PX))
