"""A camera that stays open between films, so that a person can focus before one begins.

Owns handing the pictures of one open live camera to whoever looks: the preview, or a film. Does
not own cameras (see ``edge_runtime.cameras``) nor when they are opened (see ``session``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Literal

from typing_extensions import Self

from edge_runtime.cameras import Camera, LiveCamera, is_live, is_moved, shows_motion
from edge_runtime.types import CameraGap, CameraSession, Frame, SkippedFrame, UInt8Image

# Opens a source, with a limit of fields or None: ``cameras.open_camera``.
OpenSource = Callable[..., Camera]


class SharedCamera:
    """One open source. Iterated by one thread at a time; the rest may be called from any.

    Args:
        source: as for ``leukoscope run``.
        open_source: ``cameras.open_camera``.
        limit: most fields of a film.

    Attributes:
        source: what it was opened for.

    Raises:
        CameraError: it cannot be opened.
    """

    def __init__(self, source: str, open_source: OpenSource, *, limit: int | None = None) -> None:
        self.source = source
        self._limit = limit
        self._open = ExitStack()
        # A live camera goes on after a film, so the limit is each film's and not the camera's.
        live_limit = None if _is_live_source(source) else limit
        camera = open_source(source, limit=live_limit)
        self._camera = self._open.enter_context(camera)
        self._live: LiveCamera | None = self._camera if is_live(self._camera) else None
        self._frames = iter(self._camera) if self._live is not None else iter(())

    @property
    def live(self) -> bool:
        """Whether it shows pictures when no film runs."""
        return self._live is not None

    @property
    def moved_by_hand(self) -> bool:
        """Whether its fields overlap and can be put together; separate pictures cannot."""
        return is_moved(self._camera)

    @property
    def shows_motion(self) -> bool:
        """Whether frames follow each other in time."""
        return shows_motion(self._camera)

    @property
    def open_gap(self) -> CameraGap | None:
        """The gap that lasts; None while pictures come."""
        return None if self._live is None else self._live.open_gap

    def next_picture(self) -> Frame | SkippedFrame | None:
        """The next picture of a live camera, for the preview; None when none will come."""
        return next(self._frames, None)

    def for_film(self) -> Camera:
        """What a film's runner reads; closing it leaves this open."""
        if self._live is None:
            return self._camera
        return FilmFeed(self._live, self._frames, limit=self._limit)

    def let_go(self) -> None:
        """Ends a wait for a camera that is gone; this then gives no picture any more."""
        if self._live is not None and self._live.open_gap is not None:
            self._live.stop()

    def close(self) -> None:
        """Gives the device back."""
        if self._live is not None:
            self._live.stop()
        self._open.close()


def _is_live_source(source: str) -> bool:
    from edge_runtime.cameras import CAMERAS

    return next((row.live for row in CAMERAS if row.handles(source)), False)


class FilmFeed:
    """A live camera as one film sees it: numbered from 0, with the gaps of its own time only."""

    def __init__(
        self,
        camera: LiveCamera,
        frames: Iterator[Frame | SkippedFrame],
        *,
        limit: int | None = None,
    ) -> None:
        self._camera = camera
        self._frames = frames
        self._limit = limit
        self._stopped = threading.Event()
        self._passed_over_before = camera.frames_passed_over
        self._gaps_before = len(camera.gaps)
        self._sessions_before = max(0, len(camera.sessions) - 1)

    @property
    def live(self) -> Literal[True]:
        """A live camera."""
        return True

    @property
    def frame_count(self) -> int | None:
        """The limit; otherwise nobody knows."""
        return self._limit

    @property
    def frames_passed_over(self) -> int:
        """Pictures that came since the film began and were not yielded."""
        return self._camera.frames_passed_over - self._passed_over_before

    @property
    def gaps(self) -> tuple[CameraGap, ...]:
        """All gaps since the film began, with the one that lasts."""
        return self._camera.gaps[self._gaps_before :]

    @property
    def open_gap(self) -> CameraGap | None:
        """The gap that lasts."""
        gap = self._camera.open_gap
        if gap is not None and self._stopped.is_set():
            # It began after the film was ended, while a picture was still waited for.
            self._camera.stop()
        return gap

    @property
    def sessions(self) -> tuple[CameraSession, ...]:
        """What the device is set to, and each change since the film began."""
        return self._camera.sessions[self._sessions_before :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The camera stays open."""

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        index = 0
        while not self._stopped.is_set() and (self._limit is None or index < self._limit):
            item = next(self._frames, None)
            if item is None or self._stopped.is_set():
                return
            # Numbered anew: the camera has counted the preview's pictures as well.
            name = f"{item.name.rsplit('_', 1)[0]}_{index:06d}"
            yield replace(item, index=index, name=name)
            index += 1

    def stop(self) -> None:
        """Ends the iteration; the camera itself only while it is gone and would be waited for."""
        self._stopped.set()
        if self._camera.open_gap is not None:
            self._camera.stop()

    def still(self) -> Frame:
        """See ``LiveCamera``."""
        return self._camera.still()

    def preview(self) -> UInt8Image:
        """See ``LiveCamera``."""
        return self._camera.preview()
