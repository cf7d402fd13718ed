"""Which pictures an epoch shows: the site's, repeated as needed, and replayed ones.

Owns the counts and the draw. Does not own the pictures (see ``folder``) nor showing them (see
``training``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import DataError
from edge_runtime.types import Int64Array

# So that 200 / (1 + 0.25) and its like do not lose a picture to rounding.
_HAIR = 1e-9


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The pictures of every epoch, the same for the same seed.

    Attributes:
        site: fields of the site to train on, numbers 0 to ``site - 1``.
        replay: source pictures to draw from, the numbers after those.
        shown_site: pictures of the site in an epoch.
        shown_replay: replayed pictures in an epoch.
    """

    site: int
    replay: int
    shown_site: int
    shown_replay: int
    seed: int

    @property
    def pictures(self) -> int:
        """All pictures of an epoch."""
        return self.shown_site + self.shown_replay

    def epoch(self, number: int) -> Int64Array:
        """Picture numbers ``(pictures,)`` of one epoch, counted from 0.

        Every field of the site comes equally often, give or take one. Source pictures come
        in a drawn order over the epochs, none again before all had their turn.
        """
        whole, extra = divmod(self.shown_site, self.site)
        parts = [np.repeat(np.arange(self.site), whole), self._turns("site", number, extra)]
        if self.shown_replay:
            parts.append(self.site + self._turns("replay", number, self.shown_replay))
        return np.concatenate(parts).astype(np.int64)

    def _turns(self, kind: str, epoch: int, count: int) -> Int64Array:
        """The ``count`` next ones of an endless row of shuffled decks."""
        size = self.site if kind == "site" else self.replay
        first = epoch * count
        decks = range(first // size, (first + max(count, 1) - 1) // size + 1)
        row = np.concatenate(
            [np.random.default_rng([self.seed, *kind.encode(), d]).permutation(size) for d in decks]
        )
        start = first - decks[0] * size
        return row[start : start + count].astype(np.int64)


def plan_epochs(
    site: int, replay: int, *, ratio: float | None, pictures: int, seed: int
) -> EpochPlan:
    """Counts of an epoch.

    Args:
        site: fields of the site to train on.
        replay: source pictures to draw from.
        ratio: pictures of the site for each replayed one; None replays nothing.
        pictures: of an epoch, at least; more where every field of the site would not come.
        seed: of all draws.

    Raises:
        DataError: no field, or no source picture to replay.
    """
    if site < 1:
        raise DataError("site: no field to train on; label more fields")
    if ratio is None:
        return EpochPlan(site, replay, max(pictures, site), 0, seed)
    if replay < 1:
        raise DataError("replay: no source picture to show; give --replay a set with a train split")
    whole = max(pictures, math.ceil(site * (1 + ratio) / ratio - _HAIR))
    replayed = math.floor(whole / (1 + ratio) + _HAIR)
    if replayed == 0:
        # A ratio that asks for less than one picture: one it is, and the site loses none.
        replayed, whole = 1, max(whole, site + 1)
    return EpochPlan(site, replay, whole - replayed, replayed, seed)
