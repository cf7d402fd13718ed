"""The virtual microscope as a camera: fields of a rendered film, with their truth.

Owns the source's spelling and the path over the film. Does not own the film nor the optics
(``edge_runtime.virtual_film``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import numpy as np
from typing_extensions import Self

from edge_runtime.errors import CameraError
from edge_runtime.types import Frame
from edge_runtime.virtual_film import (
    PROFILES,
    FilmSpec,
    OpticalProfile,
    Optics,
    VirtualFilm,
    WindowCell,
    truth_in_window,
)

DEFAULT_PROFILE = "hcm_100x_c2"
DEFAULT_SEED = 7
DEFAULT_FRAMES = 40


class VirtualCamera:
    """Scans a virtual film line by line, to and fro, as a person does.

    The same film, profile and number of fields give the same pixels, in whatever order and
    however often frames are asked for.

    Attributes:
        film: the film under the microscope, with its cells in film coordinates.
        profile: the microscope and camera.
    """

    def __init__(
        self,
        film: VirtualFilm,
        profile: OpticalProfile,
        frames: int = DEFAULT_FRAMES,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.film = film
        self.profile = profile
        self._optics = Optics(profile)
        self._clock = clock
        self._centres = _scan(film, profile, frames)

    @property
    def frame_count(self) -> int | None:
        """How many fields will come."""
        return len(self._centres)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self._centres)):
            yield self.frame(index)

    def centre_um(self, index: int) -> tuple[float, float]:
        """The middle of one field in film µm."""
        return self._centres[index]

    def frame(self, index: int) -> Frame:
        """One field, ``index`` from 0.

        Raises:
            IndexError: there is no such field.
        """
        centre = self._centres[index]
        # Each field has its own stream: its noise does not depend on what was read before.
        rng = np.random.Generator(np.random.PCG64([self.film.seed, index]))
        pixels = self._optics.capture(self.film, centre, rng)
        return Frame(
            index=index,
            captured_at_ns=self._clock(),
            pixels=pixels,
            name=f"field_{index:04d}",
            pixel_size_um=self.profile.pixel_size_um,
        )

    def truth(self, index: int, min_visible: float = 0.5) -> list[WindowCell]:
        """What really lies in one field: cells of which at least ``min_visible`` is shown."""
        return truth_in_window(self.film, self.profile, self._centres[index], min_visible)


def _scan(
    film: VirtualFilm, profile: OpticalProfile, frames: int
) -> tuple[tuple[float, float], ...]:
    """Centres of ``frames`` fields in µm, spread over the whole film in a meander.

    Fields overlap only where the film is too small to hold them side by side.
    """
    width, height = film.size_um
    field_width, field_height = profile.field_um
    room_x, room_y = max(0.0, width - field_width), max(0.0, height - field_height)
    # As many columns as make steps to the right and down equally large in fields.
    aspect = (width / field_width) / (height / field_height)
    columns = max(1, min(frames, round(math.sqrt(frames * aspect))))
    rows = math.ceil(frames / columns)
    columns = math.ceil(frames / rows)
    centres: list[tuple[float, float]] = []
    for index in range(frames):
        row, step = divmod(index, columns)
        column = step if row % 2 == 0 else columns - 1 - step
        x = room_x * (column / (columns - 1) if columns > 1 else 0.5)
        y = room_y * (row / (rows - 1) if rows > 1 else 0.5)
        centres.append(((width - room_x) / 2 + x, (height - room_y) / 2 + y))
    return tuple(centres)


def _parse(source: str) -> tuple[OpticalProfile, int]:
    """Profile and seed from ``virtual[:profile[:seed]]``."""
    scheme, *words = source.split(":")
    if scheme != "virtual" or len(words) > 2:
        raise CameraError(f"source {source!r}: write virtual[:profile[:seed]]")
    name = words[0] if words and words[0] else DEFAULT_PROFILE
    profile = PROFILES.get(name)
    if profile is None:
        raise CameraError(
            f"source {source!r}: no optical profile {name!r}; known: {', '.join(PROFILES)}"
        )
    if len(words) < 2:
        return profile, DEFAULT_SEED
    if not (words[1].isascii() and words[1].isdigit()):
        raise CameraError(f"source {source!r}: seed {words[1]!r} is not a whole number from 0 up")
    return profile, int(words[1])


def open_camera(
    source: str,
    *,
    limit: int | None = None,
    spec: FilmSpec | None = None,
    clock: Callable[[], int] = time.monotonic_ns,
) -> VirtualCamera:
    """The camera for ``virtual``, ``virtual:profile`` or ``virtual:profile:seed``.

    Renders the whole film first, which takes seconds. ``limit`` replaces the default
    number of fields; ``spec`` asks for another film than the default.

    Raises:
        CameraError: unknown profile, malformed seed or source, or ``limit`` below 1.
    """
    profile, seed = _parse(source)
    if limit is not None and limit < 1:
        raise CameraError(f"source {source!r}: limit {limit} leaves no field; give 1 or more")
    frames = DEFAULT_FRAMES if limit is None else limit
    return VirtualCamera(VirtualFilm.build(seed, spec), profile, frames, clock=clock)
