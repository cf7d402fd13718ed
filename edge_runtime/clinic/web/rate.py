"""How often somebody may ask.

Owns the buckets only. Does not own what is refused (see ``gate``) nor the brake on one account's
PIN, which the store keeps over restarts (see ``store.users``).
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable

# More addresses than a clinic has; the one that was quiet longest is forgotten.
_MOST_KEYS = 1000


class RateLimit:
    """A bucket for each asker that fills at a steady rate.

    Args:
        burst: how many may be asked at once.
        per_second: how fast the bucket fills.
        monotonic: seconds.
    """

    def __init__(self, burst: int, per_second: float, monotonic: Callable[[], float]) -> None:
        self._burst = float(burst)
        self._rate = per_second
        self._now = monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> int:
        """Takes one; gives 0, or the seconds to wait when none is left."""
        with self._lock:
            now = self._now()
            left, then = self._left.pop(key, (self._burst, now))
            left = min(self._burst, left + (now - then) * self._rate)
            enough = left >= 1
            self._left[key] = (left - 1 if enough else left, now)
            if len(self._left) > _MOST_KEYS:
                self._left.popitem(last=False)
        return 0 if enough else math.ceil((1 - left) / self._rate)
