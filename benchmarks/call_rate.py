"""How often something can be called per second, from several threads at once.

Owns the calling and the clock. Does not own what is called.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_WARM_UP_CALLS = 3
_FEWEST_CALLS = 5


def call_rate(
    call: Callable[[], object], *, callers: int, seconds: float
) -> tuple[list[float], float]:
    """Calls from ``callers`` threads at once for so long.

    Args:
        call: what is measured; safe to be called from so many threads.
        callers: threads.
        seconds: each calls for so long, but a few times at least.

    Returns:
        Latencies of all calls in s, and calls per second of all threads together.
    """
    for _ in range(_WARM_UP_CALLS):
        call()
    gate = threading.Barrier(callers)

    def caller(_: int) -> tuple[list[float], float, float]:
        gate.wait()
        began = time.perf_counter()
        latencies: list[float] = []
        now = began
        while now - began < seconds or len(latencies) < _FEWEST_CALLS:
            call()
            ended = time.perf_counter()
            latencies.append(ended - now)
            now = ended
        return latencies, began, now

    with ThreadPoolExecutor(callers) as pool:
        done = list(pool.map(caller, range(callers)))
    latencies = [value for each, _, _ in done for value in each]
    wall = max(ended for _, _, ended in done) - min(began for _, began, _ in done)
    return latencies, len(latencies) / wall
