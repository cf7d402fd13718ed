"""Reading one image file, or saying in one line why it cannot be used.

Owns which files count as a usable field: whole, in colour, eight bits a channel.
Decoders return grey filling for the lost part of a truncated JPEG without a word, so
completeness is checked on the bytes before anything is decoded.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edge_runtime.errors import FrameError
from edge_runtime.types import UInt8Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_SMALLEST_SIDE = 32
# Channels of a colour picture differ somewhere; these differ by no more than JPEG noise.
_GREY_SPREAD = 4
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
# The last chunk's name and checksum, the same in every PNG; more may lie behind it.
_PNG_END = b"IEND\xaeB`\x82"
_PNG_EXIF, _WEBP_EXIF = b"eXIf", b"EXIF"
_TIFF_STARTS = (b"II*\x00", b"MM\x00*")
_BMP_HEADER_BYTES = 26


def read_image(path: Path) -> UInt8Image:
    """The pixels of an image file, RGB uint8 ``(H, W, 3)``, EXIF orientation applied.

    Raises:
        FrameError: why this file cannot be used, without its name.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FrameError(f"cannot be read: {error.strerror}") from error
    return decode_image(content)


def decode_image(content: bytes) -> UInt8Image:
    """Like ``read_image``, from the file's bytes."""
    if not content:
        raise FrameError("empty file (0 bytes)")
    jpeg = content.startswith(_JPEG_START)
    if jpeg:
        _check_jpeg(content)
    elif content.startswith(_PNG_START) and _PNG_END not in content:
        raise FrameError("truncated PNG: its end is missing")
    elif content.startswith(b"BM") and len(content) >= _BMP_HEADER_BYTES:
        _check_bmp(content)
    flags = cv2.IMREAD_COLOR if jpeg else cv2.IMREAD_UNCHANGED
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise FrameError(f"cannot be decoded: {' '.join(str(error).split())}") from error
    if decoded is None:
        if content.startswith((_PNG_START, *_TIFF_STARTS)) or content[8:12] == b"WEBP":
            raise FrameError("truncated or damaged image: its decoder gives up")
        raise FrameError("not an image in a known format (JPEG, PNG, BMP, TIFF, WebP)")
    pixels = _as_rgb(np.asarray(decoded))
    if not jpeg and _may_be_turned(content):
        # As it is stored until here; only so are its channels known.
        turned = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if turned is None:
            raise FrameError("truncated or damaged image: its decoder gives up")
        pixels = np.asarray(cv2.cvtColor(turned, cv2.COLOR_BGR2RGB), np.uint8)
    return pixels


def _may_be_turned(content: bytes) -> bool:
    """Whether a PNG or WebP holds an EXIF part; the decoder itself heeds that of a TIFF."""
    if content.startswith(_PNG_START):
        return _PNG_EXIF in content
    return content[8:12] == b"WEBP" and _WEBP_EXIF in content


def _as_rgb(decoded: np.ndarray) -> UInt8Image:
    if decoded.dtype != np.uint8:
        raise FrameError(
            f"{decoded.dtype.itemsize * 8}-bit channels; save it with 8 bits per channel"
        )
    if decoded.ndim == 2 or decoded.shape[2] == 1:
        raise FrameError("grey image; stains need colour, save it as RGB")
    if decoded.shape[2] == 4:
        if int(decoded[:, :, 3].min()) < 255:
            raise FrameError("transparent image (alpha below 255); save it without alpha")
        decoded = decoded[:, :, :3]
    if decoded.shape[2] != 3:
        raise FrameError(f"{decoded.shape[2]} channels; save it as RGB")
    height, width = decoded.shape[:2]
    if min(height, width) < _SMALLEST_SIDE:
        raise FrameError(f"only {width} x {height} px; no cell can be told in it")
    sample = decoded[:: max(1, height // 64), :: max(1, width // 64)].astype(np.int16)
    if int((sample.max(axis=2) - sample.min(axis=2)).max()) <= _GREY_SPREAD:
        raise FrameError("image without colour; stains need colour, save it as RGB")
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(decoded), cv2.COLOR_BGR2RGB), np.uint8)


def _check_jpeg(content: bytes) -> None:
    """Walks the segments up to the picture data, then looks for its end marker.

    The end marker is searched behind the start of the picture data only: an embedded
    thumbnail has an end marker of its own, and phones append data behind the end.
    """
    position = 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            raise FrameError("damaged JPEG: a segment is broken")
        marker = content[position + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD7:
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        frame_header = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if frame_header and position + 10 <= len(content) and content[position + 9] == 1:
            raise FrameError("grey image; stains need colour, save it as RGB")
        if marker == 0xDA:
            # Inside picture data every 0xFF byte is followed by 0x00 or a restart marker.
            if content.find(_JPEG_END, position + 2 + length) < 0:
                raise FrameError("truncated JPEG: its end is missing")
            return
        position += 2 + length
    raise FrameError("truncated JPEG: it holds no picture data")


def _check_bmp(content: bytes) -> None:
    declared = int.from_bytes(content[2:6], "little")
    if len(content) < declared:
        raise FrameError(f"truncated BMP: {len(content)} of {declared} bytes")
