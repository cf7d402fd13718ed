"""Smaller pictures, quickly: by halving as often as it goes.

Owns how models and measures see a picture at another size. Does not own which part of it they look
at (see ``preprocess``), nor pictures for people (see ``cameras.device``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from edge_runtime.types import UInt8Image


def halved(pixels: UInt8Image) -> UInt8Image:
    """The mean of every two by two pixels; an odd last row or column is left out."""
    high, wide = pixels.shape[0] // 2, pixels.shape[1] // 2
    return sampled(pixels[: 2 * high, : 2 * wide], wide, high, cv2.INTER_AREA)


def resized(
    view: UInt8Image, width: int, height: int, half: Callable[[], UInt8Image] | None = None
) -> UInt8Image:
    """The picture at another size.

    Averages over areas when shrinking: thin red-cell rims alias under bilinear sampling. Halved as
    often as it goes; what is left, when it is no whole number, is sampled between pixels. Averages
    over parts of pixels would take four times as long.

    Args:
        view: uint8 ``(h, w, 3)`` or ``(h, w)``.
        width: wanted, pixels.
        height: wanted, pixels.
        half: gives the same picture halved, where somebody has made it already.
    """
    shrunk = False
    while True:
        high, wide = view.shape[:2]
        whole = high % height == 0 and wide % width == 0
        # Only whole pairs take the quick way, and an odd number of times is one step.
        pairs = high % 2 == wide % 2 == 0
        if high < 2 * height or wide < 2 * width or not pairs:
            break
        if whole and (high // height) % 2 and (wide // width) % 2:
            break
        view, shrunk = halved(view) if shrunk or half is None else half(), True
    if (high, wide) == (height, width):
        return view
    near = shrunk and high < 2 * height and wide < 2 * width
    shrinks = width < wide and height < high
    area = shrinks and (whole or not near)
    return sampled(view, width, height, cv2.INTER_AREA if area else cv2.INTER_LINEAR)


def sampled(view: UInt8Image, width: int, height: int, method: int) -> UInt8Image:
    """The picture at another size, by one of OpenCV's methods."""
    return np.asarray(cv2.resize(view, (width, height), interpolation=method), np.uint8)
