"""Frames of a live camera, examined while they are young.

Owns when a live camera is asked for its next frame: only when a worker is free for it, so that no
frame grows old in a queue. Does not own the camera (see ``cameras``) nor what is done with results
(see ``pipeline``).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from edge_runtime.cameras import LiveCamera
from edge_runtime.types import Frame, SkippedFrame

R = TypeVar("R")

_POLL_S = 0.1


class LiveFeed(Generic[R]):
    """Examines the frames of a live camera and hands the results on in their order.

    Args:
        camera: open.
        examine: one frame and the seconds it was waited for, to its result; called by as many
            threads at once as there are ``streams``.
        clock: seconds.
        admit: called for every frame, in order, before it is examined; a ``SkippedFrame`` comes
            out in its place. It must be quick: meanwhile no other frame is asked for.
    """

    def __init__(
        self,
        camera: LiveCamera,
        examine: Callable[[Frame, float], R],
        *,
        streams: int,
        clock: Callable[[], float] = time.perf_counter,
        admit: Callable[[Frame], Frame | SkippedFrame] = lambda frame: frame,
    ) -> None:
        self._camera = camera
        self._admit = admit
        self._examine = examine
        self._clock = clock
        self._streams = streams
        self._pace = _Pace(streams)
        self._out: queue.SimpleQueue[Future[R] | SkippedFrame | BaseException | None] = (
            queue.SimpleQueue()
        )

    def results(
        self, should_stop: Callable[[], bool]
    ) -> Generator[Future[R] | SkippedFrame | None, None, None]:
        """Results in order, and None now and then while there is none.

        A result counts as used when the next one is asked for. After ``should_stop`` the frames in
        hand still come. Close the generator (``contextlib.closing``) when leaving early.

        Raises:
            LeukoscopeError: from the camera; the frames before it have come.
        """
        with ThreadPoolExecutor(self._streams, thread_name_prefix="detect") as pool:
            reader = threading.Thread(target=self._read, args=(pool,), name="reader", daemon=True)
            reader.start()
            try:
                while True:
                    if should_stop():
                        self._camera.stop()
                    try:
                        item = self._out.get(timeout=_POLL_S)
                    except queue.Empty:
                        yield None
                        continue
                    if item is None:
                        return
                    if isinstance(item, BaseException):
                        raise item
                    yield item
                    self._pace.used()
            finally:
                self._pace.end()
                self._camera.stop()
                reader.join()

    def _read(self, pool: ThreadPoolExecutor) -> None:
        try:
            frames = iter(self._camera)
            while self._pace.enter():
                before = self._clock()
                item = next(frames, None)
                waited_s = self._clock() - before
                if item is None:
                    break
                if isinstance(item, Frame):
                    item = self._admit(item)
                if isinstance(item, SkippedFrame):
                    self._pace.examined()
                    self._out.put(item)
                else:
                    self._out.put(pool.submit(self._one, item, waited_s))
            self._out.put(None)
        except BaseException as error:  # noqa: BLE001  it is raised again by ``results``
            self._out.put(error)

    def _one(self, frame: Frame, waited_s: float) -> R:
        try:
            return self._examine(frame, waited_s)
        finally:
            self._pace.examined()


class _Pace:
    """Lets a frame in when a worker is free for it and its result will soon be used."""

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._changed = threading.Condition()
        self._in_work = self._in_hand = 0
        self._over = False

    def enter(self) -> bool:
        """Waits for room; False when there will be none."""
        with self._changed:
            # One result may be in use beside those in work: with more, and a slow sink, frames
            # would be examined at once and their results wait.
            self._changed.wait_for(
                lambda: (
                    self._over or (self._in_work < self._streams and self._in_hand <= self._streams)
                )
            )
            self._in_work += 1
            self._in_hand += 1
            return not self._over

    def examined(self) -> None:
        """A worker is free again."""
        with self._changed:
            self._in_work -= 1
            self._changed.notify_all()

    def used(self) -> None:
        """A result is out of hand."""
        with self._changed:
            self._in_hand -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Lets nothing in any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
