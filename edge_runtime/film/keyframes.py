"""The fields that others are placed by, and the search for a place that was seen before.

Owns keyframes with their fragments, and tying fragments together. Does not own how two fields
are compared (see ``registration``) nor how the stage is followed (see ``track``).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest

from edge_runtime.film.registration import FieldPicture, Match, glance, match, match_near

# The peak of a half-size look that deserves a closer one.
_GLANCE = 5.5
# Keyframes, the newest first, that a lost field is compared with: it begins a fragment if none
# fits, and that is compared with all of them later.
_WHEN_LOST = 32
_CLOSER_LOOKS = 3
# What a closer look costs, in glances.
_CLOSER_LOOK = 4
# Pairs of keyframes that wait to be compared; the oldest are given up first.
_PAIRS = 40_000
# Fields whose transforms are kept, 0.4 MB each.
_READY = 12
# A tie that no second pair of fields can bear out must be as good as this.
_SURE_PATCHES = 24
_SURE_SHARE = 0.7
_WITNESS_OVERLAP = 0.3
_WITNESSES = 4
_WITNESS_REACH_PX = 6


@dataclass(slots=True, eq=False)
class Keyframe:
    """A field with its place.

    Attributes:
        index: of its frame.
        picture: what it is recognised by.
        fragment: whose coordinates these are.
        x, y: upper left corner, picture pixels.
    """

    index: int
    picture: FieldPicture
    fragment: int
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Tie:
    """A fragment that turned out to lie in another; ``x``, ``y`` of its origin, picture pixels."""

    fragment: int
    into: int
    x: float
    y: float


class Keyframes:
    """All keyframes of a film."""

    def __init__(self) -> None:
        self._all: list[Keyframe] = []
        self._fragments = 0
        self._pairs: deque[tuple[Keyframe, Keyframe]] = deque(maxlen=_PAIRS)
        self._ready: OrderedDict[int, FieldPicture] = OrderedDict()

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def fragments(self) -> tuple[int, ...]:
        """Those that are not part of another one, oldest first."""
        return tuple(sorted({key.fragment for key in self._all}))

    @property
    def pairs_waiting(self) -> int:
        """Pairs of fields of different fragments that were not compared yet."""
        return len(self._pairs)

    def new_fragment(self) -> int:
        """A number for one."""
        self._fragments += 1
        return self._fragments - 1

    def add(self, key: Keyframe) -> None:
        """Takes one in; it is to be compared with all of other fragments."""
        for other in self._all:
            if other.fragment != key.fragment:
                self._pairs.append((key, other))
        self._all.append(key)

    def near(self, fragment: int, x: float, y: float, count: int) -> list[Keyframe]:
        """The nearest of a fragment, nearest first."""
        inside = (key for key in self._all if key.fragment == fragment)
        return nsmallest(count, inside, key=lambda key: (key.x - x) ** 2 + (key.y - y) ** 2)

    def overlapping(
        self, fragment: int, x: float, y: float, shape: tuple[int, int], least: float
    ) -> list[tuple[Keyframe, float]]:
        """Those that share at least ``least`` of a field's area with it, largest share first."""
        height, width = shape
        found = []
        for key in self._all:
            wide = width - abs(key.x - x)
            if wide <= 0 or key.fragment != fragment:
                continue
            high = height - abs(key.y - y)
            if high > 0 and wide * high >= least * width * height:
                found.append((key, wide * high / (width * height)))
        return sorted(found, key=lambda each: -each[1])

    def used(self, picture: FieldPicture) -> FieldPicture:
        """The same, with its transforms kept as long as it is among the last ones used."""
        self._ready[id(picture)] = picture
        self._ready.move_to_end(id(picture))
        if len(self._ready) > _READY:
            self._ready.popitem(last=False)[1].forget()
        return picture

    def recognise(self, picture: FieldPicture) -> tuple[Keyframe, Match] | None:
        """A keyframe that shows the same place, if there is one among the newest."""
        newest = self._all[-_WHEN_LOST:]
        looks = [(self._glance(picture, key), at) for at, key in enumerate(newest)]
        for peak, at in sorted(looks, reverse=True)[:_CLOSER_LOOKS]:
            if peak < _GLANCE:
                break
            found = match(self.used(newest[at].picture), self.used(picture))
            if isinstance(found, Match):
                return newest[at], found
        return None

    def tie(self, glances: int) -> list[Tie]:
        """Compares pairs of fields of different fragments, newest first, at most so many."""
        ties: list[Tie] = []
        while glances > 0 and self._pairs:
            key, other = self._pairs.pop()
            if key.fragment == other.fragment:
                continue
            glances -= 1
            if self._glance(self.used(key.picture), other) < _GLANCE:
                continue
            glances -= _CLOSER_LOOK
            found = match(self.used(other.picture), self.used(key.picture))
            if isinstance(found, Match):
                made = self._tied(key, other, found)
                if made is not None:
                    ties.append(made)
        return ties

    def _glance(self, picture: FieldPicture, key: Keyframe) -> float:
        peak = glance(key.picture, picture)
        if id(key.picture) not in self._ready:
            key.picture.forget()
        return peak

    def _tied(self, key: Keyframe, other: Keyframe, found: Match) -> Tie | None:
        x = other.x + found.shift_px[0] - key.x
        y = other.y + found.shift_px[1] - key.y
        if not self._borne_out(key, other, found, x, y):
            return None
        if other.fragment < key.fragment:
            gone, into = key.fragment, other.fragment
        else:
            gone, into, x, y = other.fragment, key.fragment, -x, -y
        for each in self._all:
            if each.fragment == gone:
                each.fragment, each.x, each.y = into, each.x + x, each.y + y
        return Tie(gone, into, x, y)

    def _borne_out(self, key: Keyframe, other: Keyframe, found: Match, x: float, y: float) -> bool:
        """Whether more fields of both fragments fit, with the one moved by ``x``, ``y``."""
        asked = agreed = 0
        for each in self._all:
            if each.fragment != key.fragment or asked == _WITNESSES:
                continue
            around = self.overlapping(
                other.fragment, each.x + x, each.y + y, each.picture.shape, _WITNESS_OVERLAP
            )
            for there, _ in around[:2]:
                if each is key and there is other:
                    continue
                expected = (each.x + x - there.x, each.y + y - there.y)
                asked += 1
                agreed += (
                    match_near(
                        self.used(there.picture),
                        self.used(each.picture),
                        expected,
                        _WITNESS_REACH_PX,
                    )
                    is not None
                )
        if asked == 0:
            return found.patches >= _SURE_PATCHES and found.share >= _SURE_SHARE
        return 2 * agreed >= asked
