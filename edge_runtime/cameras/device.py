"""One opened camera device, as its reader thread sees it, and how sources spell its options.

Owns the role only. Does not own threads (see ``newest_frame``) nor reopening (see ``watchdog``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl

from edge_runtime.errors import CameraError
from edge_runtime.types import CameraSession, UInt8Image

# Longest side of a preview: fills a 7-inch screen, costs little to encode.
PREVIEW_SIDE_PX = 800
# Larger than any camera sensor; a typing mistake should not ask a driver for terabytes.
_LARGEST_SIDE_PX = 20_000


class DeviceLost(Exception):  # noqa: N818  not an error of the program: devices come and go
    """The device gives no more pictures; the message says why, in one line."""


class CameraDevice(Protocol):
    """One opened device. All calls come from the thread that opened it."""

    @property
    def session(self) -> CameraSession:
        """What it was really set to."""

    def grab(self) -> int:
        """Waits for the next picture; when it was captured, monotonic ns.

        Raises:
            DeviceLost: none will come.
        """

    def retrieve(self) -> UInt8Image:
        """The grabbed picture, decoded, RGB ``(H, W, 3)``, memory of its own.

        Raises:
            FrameError: it cannot be decoded; the next one may be.
        """

    def preview(self) -> UInt8Image:
        """The grabbed picture, small; otherwise as ``retrieve``."""

    def still(self) -> tuple[int, UInt8Image]:
        """A picture at full resolution and when it was captured; then the stream goes on.

        Raises:
            FrameError: it cannot be had.
            DeviceLost: and the device is gone.
        """

    def close(self) -> None:
        """Gives the device back; harmless when it is lost."""


# Opens a device. Given a session, exposure, gain and white balance are set as they were in it.
# Raises CameraError when it cannot be opened.
OpenDevice = Callable[[CameraSession | None], CameraDevice]


@dataclass(slots=True)
class SourceOptions:
    """The words of ``kind:place?name=value&name=value``, each taken once.

    Attributes:
        source: the whole, for messages.
        place: between the first colon and the question mark; may be empty.
    """

    source: str
    place: str
    _left: dict[str, str] = field(default_factory=dict)
    _asked: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, source: str) -> SourceOptions:
        """Splits a source.

        Raises:
            CameraError: an option has no value, or is given twice.
        """
        head, _, query = source.partition("?")
        _, _, place = head.partition(":")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as error:
            raise CameraError(f"source {source!r}: write options as ?name=value&...") from error
        left: dict[str, str] = {}
        for name, value in pairs:
            if name in left or not value:
                why = "is given twice" if name in left else "has no value"
                raise CameraError(f"source {source!r}: option {name!r} {why}; give it once")
            left[name] = value
        return cls(source, place, left)

    def word(self, name: str, choices: Mapping[str, object]) -> str | None:
        """One of several words, or None when it is not given."""
        text = self._take(name)
        if text is not None and text not in choices:
            raise self._bad(name, text, f"one of {', '.join(choices)}")
        return text

    def whole(self, name: str, least: int, most: int) -> int | None:
        """A whole number, or None when it is not given."""
        text = self._take(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()) or not least <= int(text[:12]) <= most:
            raise self._bad(name, text, f"a whole number from {least} to {most}")
        return int(text)

    def number(self, name: str, above: float, most: float) -> float | None:
        """A number, or None when it is not given."""
        text = self._take(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not above < value <= most:
            raise self._bad(name, text, f"a number above {above:g}, at most {most:g}")
        return value

    def side(self, name: str) -> int | None:
        """A picture's width or height in pixels."""
        return self.whole(name, 16, _LARGEST_SIDE_PX)

    def size(self, name: str) -> tuple[int, int] | None:
        """``WIDTHxHEIGHT``, or None when it is not given."""
        text = self._take(name)
        if text is None:
            return None
        width, _, height = text.partition("x")
        sides = [int(side[:12]) for side in (width, height) if side.isascii() and side.isdigit()]
        if len(sides) != 2 or not all(16 <= side <= _LARGEST_SIDE_PX for side in sides):
            raise self._bad(name, text, "WIDTHxHEIGHT in pixels, such as 4000x3000")
        return sides[0], sides[1]

    def finish(self) -> None:
        """Refuses what nobody asked for."""
        for name in self._left:
            raise CameraError(
                f"source {self.source!r}: unknown option {name!r}; known: {', '.join(self._asked)}"
            )

    def _take(self, name: str) -> str | None:
        self._asked.append(name)
        return self._left.pop(name, None)

    def _bad(self, name: str, text: str, wanted: str) -> CameraError:
        return CameraError(f"source {self.source!r}: {name} = {text!r} is not {wanted}")


@dataclass(frozen=True, slots=True)
class WishedLight:
    """Exposure and the like as a person wants them; None leaves it to the device, once.

    What is left to the device is settled by its automatic when it is first opened, then locked.
    """

    exposure_ms: float | None = None
    gain: float | None = None
    white_balance_k: float | None = None

    def or_as(self, before: CameraSession | None) -> WishedLight:
        """The same, and what is left open as it was in the session before."""
        if before is None:
            return self

        def kept(wish: float | None, was: float | None, name: str) -> float | None:
            return wish if wish is not None or name not in before.locked else was

        return WishedLight(
            kept(self.exposure_ms, before.exposure_ms, "exposure"),
            kept(self.gain, before.gain, "gain"),
            kept(self.white_balance_k, before.white_balance_k, "white_balance"),
        )


def shrink(
    pixels: UInt8Image,
    longest: int = PREVIEW_SIDE_PX,
    half: Callable[[], UInt8Image] | None = None,
) -> UInt8Image:
    """The picture with its longest side at most so many pixels, to be looked at by a person.

    Quartered and halved as often as it goes, then sampled between pixels: a tenth of the time that
    averaging over parts of pixels takes, which costs more than the JPEG after it.

    Args:
        pixels: RGB uint8 ``(H, W, 3)``.
        longest: side wanted, pixels.
        half: gives the same picture halved, where somebody has made it already.
    """
    import cv2
    import numpy as np

    from edge_runtime.shrinking import halved

    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    def goes(times: int) -> bool:
        return bool(pixels.shape[1] >= times * size[0] and pixels.shape[0] >= times * size[1])

    if half is not None and goes(2):
        pixels = half()
    # Of sixteen pixels the middle four are enough to look at, and half the work.
    while half is None and goes(4):
        # Only whole blocks take the quick way.
        part = (pixels.shape[1] // 4, pixels.shape[0] // 4)
        pixels = np.asarray(cv2.resize(pixels[: part[1] * 4, : part[0] * 4], part), np.uint8)
    while goes(2):
        pixels = halved(pixels)
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
