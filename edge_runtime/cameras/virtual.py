"""The virtual microscope as a camera: fields of a rendered film, with their truth.

Owns the source's spelling and the order of fields. Does not own the film, the optics nor a hand's
way over the film (``edge_runtime.virtual_film``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
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
    hand_path,
    truth_in_window,
)

DEFAULT_PROFILE = "hcm_100x_c2"
DEFAULT_SEED = 7
DEFAULT_FRAMES = 40
HAND = "hand"
_SPELLING = "virtual[:profile[:seed[:hand]]]"


class VirtualCamera:
    """Scans a virtual film line by line, to and fro, or along a path that is given.

    The same film, profile and number of fields give the same pixels, in whatever order and
    however often frames are asked for.

    Attributes:
        film: the film under the microscope, with its cells in film coordinates.
        profile: the microscope and camera.
        by_hand: the stage is moved by hand, so that fields overlap.
    """

    def __init__(
        self,
        film: VirtualFilm,
        profile: OpticalProfile,
        frames: int = DEFAULT_FRAMES,
        *,
        centres_um: Sequence[tuple[float, float]] | None = None,
        by_hand: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Nothing is rendered yet.

        Args:
            film: rendered.
            profile: the microscope and camera.
            frames: how many fields, spread over the film.
            centres_um: the middle of every field in film µm, instead of ``frames``.
            by_hand: whether that is the way of a hand.
            clock: monotonic, in ns.
        """
        self.film = film
        self.profile = profile
        self.by_hand = by_hand
        self._optics = Optics(profile)
        self._clock = clock
        self._centres = _scan(film, profile, frames) if centres_um is None else tuple(centres_um)

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


def _parse(source: str) -> tuple[OpticalProfile, int, bool]:
    """Profile, seed and whether a hand moves the stage."""
    scheme, *words = source.split(":")
    if scheme != "virtual" or len(words) > 3 or (len(words) == 3 and words[2] != HAND):
        raise CameraError(f"source {source!r}: write {_SPELLING}")
    name = words[0] if words and words[0] else DEFAULT_PROFILE
    profile = PROFILES.get(name)
    if profile is None:
        raise CameraError(
            f"source {source!r}: no optical profile {name!r}; known: {', '.join(PROFILES)}"
        )
    by_hand = len(words) == 3
    if len(words) < 2 or (by_hand and not words[1]):
        return profile, DEFAULT_SEED, by_hand
    if not (words[1].isascii() and words[1].isdigit()):
        raise CameraError(f"source {source!r}: seed {words[1]!r} is not a whole number from 0 up")
    return profile, int(words[1]), by_hand


def open_camera(
    source: str,
    *,
    limit: int | None = None,
    spec: FilmSpec | None = None,
    clock: Callable[[], int] = time.monotonic_ns,
) -> VirtualCamera:
    """The camera for ``virtual``, ``virtual:profile``, with ``:seed`` and with ``:hand``.

    With ``hand`` the fields overlap, as under a stage moved by hand, and the stage is knocked
    once in about 150 fields. Renders the whole film first, which takes seconds. ``limit``
    replaces the default number of fields; ``spec`` asks for another film than the default.

    Raises:
        CameraError: unknown profile, malformed seed or source, ``limit`` below 1, or a film too
            small to be moved under a field of the profile.
    """
    profile, seed, by_hand = _parse(source)
    if limit is not None and limit < 1:
        raise CameraError(f"source {source!r}: limit {limit} leaves no field; give 1 or more")
    frames = DEFAULT_FRAMES if limit is None else limit
    film = VirtualFilm.build(seed, spec)
    if not by_hand:
        return VirtualCamera(film, profile, frames, clock=clock)
    try:
        path = hand_path(film.size_um, profile.field_um, frames, seed, jumps=frames // 150)
    except ValueError as error:
        raise CameraError(f"source {source!r}: {error}; take a 100x profile") from error
    centres = [step.centre_um for step in path]
    return VirtualCamera(film, profile, centres_um=centres, by_hand=True, clock=clock)
