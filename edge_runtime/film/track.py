"""Where every field lies on the film, and when nobody can tell.

Owns following the stage, and loss of track. Does not own how two fields are compared (see
``registration``), the fields seen before (see ``keyframes``) nor what lies in them (see
``film_cells``).

A field is placed by the one before it and by the keyframes around, so that errors do not add up
along the way. A field that fits nowhere is lost, and said to be. When the next one fits to it, the
two begin a new fragment of the film with coordinates of its own; fragments are tied together when
the same place is recognised in both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edge_runtime.film.keyframes import Keyframe, Keyframes, Tie
from edge_runtime.film.registration import FieldEye, FieldPicture, Match, match, match_near
from edge_runtime.types import UInt8Image

# A field that shares less than this with every keyframe becomes one.
_NEW_KEYFRAME_BELOW = 0.6
# Keyframes that a placed field is checked against, largest overlap first, and the least overlap
# at which the check can tell anything.
_CHECKS = 2
_CHECK_OVERLAP = 0.25
# Picture pixels by which the check may move a field; more is a contradiction.
_TOLERANCE_PX = 4.0
# Keyframes around the last place that are tried when a field does not fit to the one before it.
_NEAR_TRIES = 5
# A field that shares so much with one whose place is certain, and is so much like it, is that field
# seen again: it needs no search and no check, and has no second place if the other one had none.
_SAME_OVERLAP = 0.9
_SAME_CORRELATION = 0.8
_SAME_REACH_PX = 4
# Looks per field at pairs of different fragments; each takes a third of a millisecond.
_GLANCES_PER_FIELD = 8


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a field lies.

    Attributes:
        index: of the frame.
        fragment: whose coordinates these are; how fragments lie to each other is not known.
        x, y: of the field's upper left corner, frame pixels, right and down from the upper left
            corner of the fragment's first field.
        overlap: share of its area that it has in common with the field it was placed by; 0 for
            the first one.
        correlation: with that field; 0 for the first one.
        checks: how many more keyframes bore it out.
        found_again: track was lost before this field, or the stage jumped to a known place.
        shows_new: a good part of it was in no field before.
    """

    index: int
    fragment: int
    x: float
    y: float
    overlap: float = 0.0
    correlation: float = 0.0
    checks: int = 0
    found_again: bool = False
    shows_new: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """A field of which nobody knows the place.

    Attributes:
        index: of the frame.
        reason: for the operator; its first word is one of ``dark``, ``empty``, ``apart``,
            ``repeats``, ``disagree`` and ``size``.
        may_be_found: the next field may tell its place yet.
    """

    index: int
    reason: str
    may_be_found: bool = False


@dataclass(frozen=True, slots=True)
class FragmentTie:
    """A fragment turned out to lie in another one, and is now part of it.

    Attributes:
        fragment: which is no more.
        into: the other one.
        x, y: of the old fragment's origin in the other one, frame pixels.
    """

    fragment: int
    into: int
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Step:
    """What one field changed.

    Attributes:
        place: of this field, in coordinates from before the ties.
        earlier: an earlier field that was lost, and whose place is known now; the same.
        ties: fragments that were tied together.
    """

    place: Placed | Lost
    earlier: Placed | None = None
    ties: tuple[FragmentTie, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fix:
    """Where a field was found, picture pixels, by what, and whether it was sought everywhere."""

    fragment: int
    x: float
    y: float
    match: Match
    by: FieldPicture
    checks: int = 0
    sought: bool = True


class FilmTrack:
    """Follows the stage. Fields must come in the order in which they were captured."""

    def __init__(self) -> None:
        self.keyframes = Keyframes()
        self._eye = FieldEye()
        self._size: tuple[int, int] | None = None
        self._scale = 1.0
        self._last: Keyframe | None = None
        # The last field that was searched for everywhere, and found in one place only.
        self._sure: Keyframe | None = None
        # A lost field that the next one may fit to.
        self._waiting: Keyframe | None = None
        self._lost = False

    @property
    def frame_pixels(self) -> float:
        """Frame pixels per picture pixel."""
        return self._scale

    def place(self, index: int, pixels: UInt8Image) -> Step:
        """Where the field RGB uint8 ``(H, W, 3)`` lies."""
        size = (pixels.shape[1], pixels.shape[0])
        if self._size is not None and size != self._size:
            was = f"{self._size[0]} x {self._size[1]}"
            return self._not_placed(
                index, f"size: {size[0]} x {size[1]} pixels instead of {was}; begin a new film"
            )
        picture = self._eye.look(pixels)
        if isinstance(picture, str):
            return self._not_placed(index, picture)
        if self._last is None:
            self._size = size
            self._scale = max(size) / max(picture.shape)
            first = Keyframe(index, picture, self.keyframes.new_fragment(), 0.0, 0.0)
            self._remember(first)
            self._last, again, self._lost = first, self._lost, False
            return Step(Placed(index, first.fragment, 0.0, 0.0, found_again=again, shows_new=True))
        found = self._found(picture)
        if isinstance(found, _Fix):
            return self._settled(index, picture, found)
        waiting = self._waiting
        if waiting is not None:
            joined = self._match(waiting.picture, picture)
            if joined is not None:
                return self._second_of_fragment(index, picture, waiting, joined)
        if not found.startswith("disagree"):
            known = self._recognised(picture)
            if known is not None:
                # It did not follow from the field before: the stage jumped, to a known place.
                self._lost = True
                return self._settled(index, picture, known)
        self._waiting = Keyframe(index, picture, -1, 0.0, 0.0)
        return self._not_placed(index, found, may_be_found=True)

    def tie(self, glances: int) -> tuple[FragmentTie, ...]:
        """Searches on for places that two fragments share, as while nobody waits."""
        return tuple(self._adopt(tie) for tie in self.keyframes.tie(glances))

    def _not_placed(self, index: int, reason: str, *, may_be_found: bool = False) -> Step:
        self._lost = True
        return Step(Lost(index, reason, may_be_found), ties=self.tie(_GLANCES_PER_FIELD))

    def _match(self, known: FieldPicture, picture: FieldPicture) -> Match | None:
        found = match(self.keyframes.used(known), self.keyframes.used(picture))
        return found if isinstance(found, Match) else None

    def _found(self, picture: FieldPicture) -> _Fix | str:
        """The field's place by the one before it, else by the keyframes around."""
        last = self._last
        assert last is not None
        seen_again = self._seen_again(picture, last)
        if seen_again is not None:
            return seen_again
        keys = self.keyframes
        around = [last, *keys.near(last.fragment, last.x, last.y, _NEAR_TRIES)]
        for known in {id(key.picture): key for key in around}.values():
            found = match(keys.used(known.picture), keys.used(picture))
            if isinstance(found, Match):
                return self._checked(picture, _fix(known, found))
            if found.reason == "repeats":
                # What repeats itself here does so in the fields around.
                return "repeats: the field fits in several places"
        return "apart: too little in common with any field around"

    def _seen_again(self, picture: FieldPicture, last: Keyframe) -> _Fix | None:
        """The place of a field that a stage at rest shows once more."""
        sure = self._sure
        if sure is None or sure.fragment != last.fragment:
            return None
        expected = (last.x - sure.x, last.y - sure.y)
        keys = self.keyframes
        one, other = keys.used(sure.picture), keys.used(picture)
        found = match_near(one, other, expected, _SAME_REACH_PX)
        if found is None or found.overlap < _SAME_OVERLAP:
            return None
        if found.correlation < _SAME_CORRELATION:
            return None
        return replace(_fix(sure, found), sought=False)

    def _recognised(self, picture: FieldPicture) -> _Fix | None:
        known = self.keyframes.recognise(picture)
        if known is None:
            return None
        checked = self._checked(picture, _fix(*known))
        return checked if isinstance(checked, _Fix) else None

    def _checked(self, picture: FieldPicture, fix: _Fix) -> _Fix | str:
        """The place after the keyframes that lie there were asked; or that they disagree."""
        keys = self.keyframes
        places, weights = [(fix.x, fix.y)], [fix.match.overlap]
        around = keys.overlapping(fix.fragment, fix.x, fix.y, picture.shape, _CHECK_OVERLAP)
        asked = [each for each in around if each[0].picture is not fix.by][:_CHECKS]
        for key, overlap in asked:
            expected = (fix.x - key.x, fix.y - key.y)
            near = match_near(keys.used(key.picture), keys.used(picture), expected)
            if near is not None:
                x, y = near.shift_px
                if np.hypot(x - expected[0], y - expected[1]) <= _TOLERANCE_PX:
                    places.append((key.x + x, key.y + y))
                    weights.append(overlap)
                    continue
            # Out of focus, perhaps; but if it fits elsewhere, one of the two places is wrong.
            if self._match(key.picture, picture) is not None:
                return "disagree: the fields around put this one in different places"
        x, y = np.average(np.asarray(places), axis=0, weights=weights)
        return replace(fix, x=float(x), y=float(y), checks=len(places) - 1)

    def _second_of_fragment(
        self, index: int, picture: FieldPicture, first: Keyframe, joined: Match
    ) -> Step:
        first.fragment = self.keyframes.new_fragment()
        self._remember(first)
        self._waiting = None
        earlier = Placed(first.index, first.fragment, 0.0, 0.0, found_again=True, shows_new=True)
        return self._settled(index, picture, _fix(first, joined), earlier)

    def _settled(
        self, index: int, picture: FieldPicture, fix: _Fix, earlier: Placed | None = None
    ) -> Step:
        here = Keyframe(index, picture, fix.fragment, fix.x, fix.y)
        earlier = earlier or self._earlier(here)
        around = self.keyframes.overlapping(
            fix.fragment, fix.x, fix.y, picture.shape, _NEW_KEYFRAME_BELOW
        )
        placed = replace(self._placed(here, fix, self._lost), shows_new=not around)
        if not around:
            self._remember(here)
        if fix.sought:
            self._sure = here
        self._last, self._lost = here, False
        return Step(placed, earlier, self.tie(_GLANCES_PER_FIELD))

    def _earlier(self, here: Keyframe) -> Placed | None:
        """The lost field's place, when this one tells."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        found = self._match(here.picture, waiting.picture)
        if found is None:
            return None
        fix = self._checked(waiting.picture, _fix(here, found))
        if isinstance(fix, str):
            return None
        waiting.fragment, waiting.x, waiting.y = fix.fragment, fix.x, fix.y
        return self._placed(waiting, fix, True)

    def _placed(self, here: Keyframe, fix: _Fix, again: bool) -> Placed:
        return Placed(
            here.index,
            here.fragment,
            here.x * self._scale,
            here.y * self._scale,
            round(fix.match.overlap, 4),
            round(fix.match.correlation, 4),
            fix.checks,
            again,
        )

    def _remember(self, here: Keyframe) -> None:
        self.keyframes.add(here)
        self._eye.learn()

    def _adopt(self, tie: Tie) -> FragmentTie:
        # Keyframes were moved already; these are two of them, or not, or the same.
        for each in (self._last, self._sure):
            if each is not None and each.fragment == tie.fragment:
                each.fragment, each.x, each.y = tie.into, each.x + tie.x, each.y + tie.y
        return FragmentTie(tie.fragment, tie.into, tie.x * self._scale, tie.y * self._scale)


def _fix(known: Keyframe, found: Match) -> _Fix:
    return _Fix(
        known.fragment,
        known.x + found.shift_px[0],
        known.y + found.shift_px[1],
        found,
        known.picture,
    )
