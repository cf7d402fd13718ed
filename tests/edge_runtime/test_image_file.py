"""Which image files are a field, and in what words the others are refused."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import FrameError
from edge_runtime.image_file import IMAGE_SUFFIXES, decode_image, read_image
from edge_runtime.types import UInt8Image
from tests.support import paint_field

FIELD = paint_field(180, 120, [(60, 60, 40), (130, 70, 30)], red_cells=[(20, 20, 15)])


def encoded(suffix: str, pixels: np.ndarray = FIELD, *options: int) -> bytes:
    """File bytes; three and four channels are given as RGB and RGBA."""
    if pixels.ndim == 3:
        order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[pixels.shape[2]]
        pixels = cv2.cvtColor(pixels, order)
    done, data = cv2.imencode(suffix, pixels, list(options))
    assert done
    return bytes(data.tobytes())


def refusal(content: bytes) -> str:
    with pytest.raises(FrameError) as refused:
        decode_image(content)
    message = str(refused.value)
    assert message
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.fixture(scope="module", autouse=True)
def quiet_decoders() -> Iterator[None]:
    """As the command line does: a decoder's own words about a broken file are not wanted."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    yield
    cv2.utils.logging.setLogLevel(before)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_lossless_formats_come_back_as_rgb(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"field{suffix}"
    path.write_bytes(encoded(suffix))
    pixels = read_image(path)
    assert np.array_equal(pixels, FIELD)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_known_ending_can_be_read(suffix: str) -> None:
    pixels = decode_image(encoded(suffix))
    assert pixels.shape == FIELD.shape
    assert float(np.abs(pixels.astype(int) - FIELD).mean()) < 4


@pytest.mark.parametrize(
    "option",
    [
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
        (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ],
    ids=["progressive", "restart markers", "optimised", "444"],
)
def test_jpeg_dialects_are_read_and_their_ends_are_missed(option: tuple[int, int]) -> None:
    content = encoded(".jpg", FIELD, *option)
    assert decode_image(content).shape == FIELD.shape
    for share in (0.3, 0.6, 0.95):
        assert "truncated JPEG" in refusal(content[: int(share * len(content))])


def test_a_jpeg_is_refused_at_every_length_but_the_whole() -> None:
    content = encoded(".jpg", paint_field(48, 40, [(20, 20, 20)]))
    decode_image(content)
    for length in range(2, len(content)):
        assert "JPEG" in refusal(content[:length])


def test_a_jpeg_whose_rest_is_zeros_is_refused() -> None:
    """What a card that was pulled out leaves: the right size, no more data."""
    content = encoded(".jpg")
    half = len(content) // 2
    assert "its end is missing" in refusal(content[:half] + bytes(len(content) - half))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_other_formats_are_refused_at_any_length_but_the_whole(suffix: str) -> None:
    content = encoded(suffix)
    lengths = {int(share * len(content)) for share in np.linspace(0.001, 0.999, 60)}
    for length in sorted(lengths | {len(content) - missing for missing in range(1, 9)}):
        refusal(content[:length])
    half = refusal(content[: len(content) // 2])
    assert "truncated" in half


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_data_behind_the_end_is_no_fault(suffix: str) -> None:
    content = encoded(suffix)
    assert np.array_equal(decode_image(content + b"appended " * 50), decode_image(content))


def test_a_thumbnail_inside_is_neither_taken_for_the_end_nor_for_the_picture() -> None:
    thumbnail = encoded(".jpg", paint_field(64, 48))
    segment = b"Exif\x00\x00" + thumbnail
    whole = encoded(".jpg")
    content = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]
    assert np.array_equal(decode_image(content), decode_image(whole))
    # Cut behind the thumbnail, whose own end marker is there.
    start = 6 + len(segment)
    for length in (start, start + 40, len(content) - 2, len(content) - 1):
        assert "truncated JPEG" in refusal(content[:length])


def test_a_second_picture_behind_the_first_is_left_alone() -> None:
    """Phones append one (multi-picture format)."""
    whole = encoded(".jpg")
    content = whole + encoded(".jpg", paint_field(64, 48))
    assert np.array_equal(decode_image(content), decode_image(whole))


# EXIF that says: the camera was held upright, turn the picture by a quarter.
_TURN = b"MM\x00*\x00\x00\x00\x08\x00\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)


def turned_jpeg() -> bytes:
    segment = b"Exif\x00\x00" + _TURN
    whole = encoded(".jpg")
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]


def turned_png(*, opaque: bool = False) -> bytes:
    alpha = np.full((*FIELD.shape[:2], 1), 255, np.uint8)
    whole = encoded(".png", np.concatenate([FIELD, alpha], axis=2) if opaque else FIELD)
    chunk = b"eXIf" + _TURN
    chunk = struct.pack(">I", len(_TURN)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    # Behind the start and the header's chunk.
    return whole[:33] + chunk + whole[33:]


def turned_webp() -> bytes:
    height, width = FIELD.shape[:2]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    picture = encoded(".webp", FIELD, cv2.IMWRITE_WEBP_QUALITY, 101)[12:]
    exif = b"EXIF" + struct.pack("<I", len(_TURN)) + _TURN
    body: bytes = b"WEBPVP8X" + struct.pack("<II", 10, 0x08) + size + picture + exif
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("make", [turned_jpeg, turned_png, turned_webp])
def test_a_turned_picture_is_turned_back(make: Callable[[], bytes]) -> None:
    pixels = decode_image(make())
    assert pixels.shape == (180, 120, 3)
    # As every other decoder of a training sees it.
    usual = cv2.imdecode(np.frombuffer(make(), np.uint8), cv2.IMREAD_COLOR)
    assert usual is not None
    assert np.array_equal(pixels, usual[:, :, ::-1])
    if make is not turned_jpeg:
        assert np.array_equal(pixels, np.rot90(FIELD, -1))


def test_a_turned_picture_with_an_opaque_alpha_is_turned_back() -> None:
    assert np.array_equal(decode_image(turned_png(opaque=True)), np.rot90(FIELD, -1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"\x00", "not an image"),
        (b"just a text file, renamed\n" * 20, "not an image in a known format"),
        (b"<html><body>404 not found</body></html>", "not an image in a known format"),
        (b"%PDF-1.7 " + bytes(200), "not an image in a known format"),
        (bytes(5000), "not an image"),
        (b"\xff\xd8", "truncated JPEG"),
        (b"\xff\xd8" + b"text behind a JPEG start", "damaged JPEG"),
        (b"\xff\xd8\xff\xe0\x00\x00" * 50, "JPEG"),
    ],
    ids=["empty", "byte", "text", "html", "pdf", "zeros", "two bytes", "no segments", "no length"],
)
def test_what_is_no_image_is_told(content: bytes, words: str, tmp_path: Path) -> None:
    assert words in refusal(content)
    path = tmp_path / "field.jpg"
    path.write_bytes(content)
    with pytest.raises(FrameError):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_refused_with_the_remedy(suffix: str) -> None:
    content = encoded(suffix, FIELD.astype(np.uint16) * 257)
    assert refusal(content) == "16-bit channels; save it with 8 bits per channel"


def test_float_pixels_are_refused() -> None:
    assert "32-bit channels" in refusal(encoded(".tif", FIELD.astype(np.float32) / 255))


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_grey_is_refused(suffix: str) -> None:
    grey = cv2.cvtColor(FIELD, cv2.COLOR_RGB2GRAY)
    assert "save it as RGB" in refusal(encoded(suffix, grey))


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_grey_saved_as_rgb_is_refused(suffix: str) -> None:
    grey = cv2.cvtColor(FIELD, cv2.COLOR_RGB2GRAY)
    assert "without colour" in refusal(encoded(suffix, np.dstack([grey] * 3)))


def test_a_pale_field_is_not_taken_for_grey() -> None:
    pale = np.full((100, 100, 3), (244, 240, 236), np.uint8)
    assert np.array_equal(decode_image(encoded(".png", pale)), pale)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_opaque_alpha_is_dropped(suffix: str) -> None:
    opaque = np.dstack([FIELD, np.full(FIELD.shape[:2], 255, np.uint8)])
    assert np.array_equal(decode_image(encoded(suffix, opaque)), FIELD)


def test_opaque_alpha_of_a_webp_is_dropped() -> None:
    opaque = np.dstack([FIELD, np.full(FIELD.shape[:2], 255, np.uint8)])
    # Above 100: lossless.
    assert np.array_equal(
        decode_image(encoded(".webp", opaque, cv2.IMWRITE_WEBP_QUALITY, 101)), FIELD
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [0, 254])
def test_one_transparent_pixel_is_told(suffix: str, alpha: int) -> None:
    see_through = np.dstack([FIELD, np.full(FIELD.shape[:2], 255, np.uint8)])
    see_through[77, 33, 3] = alpha
    assert "transparent" in refusal(encoded(suffix, see_through))


@pytest.mark.parametrize(("width", "height"), [(31, 200), (200, 31), (1, 1), (8, 8)])
def test_a_tiny_image_is_refused_with_its_size(width: int, height: int) -> None:
    message = refusal(encoded(".png", paint_field(width, height)))
    assert message.startswith(f"only {width} x {height} px")


def test_the_smallest_image_that_counts() -> None:
    assert decode_image(encoded(".png", paint_field(32, 32))).shape == (32, 32, 3)


def test_twelve_megapixels_are_read_in_full() -> None:
    assert decode_image(encoded(".jpg", paint_field(4000, 3000))).shape == (3000, 4000, 3)


def test_a_png_that_claims_to_be_huge_is_refused_without_the_memory_for_it() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    header = struct.pack(">IIBBBBB", 1_000_000, 1_000_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    refusal(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b""))


def test_a_broken_file_is_told_by_us_alone(capfd: pytest.CaptureFixture[str]) -> None:
    for suffix in (".jpg", ".png", ".bmp", ".tif", ".webp"):
        refusal(encoded(suffix)[:900])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["absent", "folder", "denied"])
def test_a_file_that_cannot_be_read_is_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "field.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "denied":

        def denied(self: Path) -> bytes:
            raise PermissionError(13, os.strerror(13), str(self))

        monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(FrameError, match="cannot be read: "):
        read_image(path)


@settings(max_examples=60, deadline=None)
@given(
    suffix=st.sampled_from([".jpg", ".png", ".bmp", ".tif", ".webp"]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_damaged_file_is_a_field_or_a_frame_error(
    suffix: str, changes: list[tuple[float, int]]
) -> None:
    """No other error, whatever byte is hit: one bad file must not end the film."""
    content = bytearray(encoded(suffix, FIELD[:48, :64]))
    for place, value in changes:
        content[int(place * len(content))] = value
    try:
        pixels: UInt8Image = decode_image(bytes(content))
    except FrameError:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.dtype == np.uint8


@pytest.mark.realdata
def test_every_real_field_is_accepted(shared_data: Path) -> None:
    """One in eight of the test splits, and one of each kind of other picture there is."""
    images = sorted(shared_data.glob("wbc-domains/*/images/test/*"))[::8]
    images += sorted(shared_data.glob("pbc-attributes/images/**/*.jpg"))[:5]
    images += sorted(shared_data.glob("wbc-masks/images/**/*.*"))[:5]
    assert len(images) > 15
    for path in images:
        pixels = read_image(path)
        assert min(pixels.shape[:2]) >= 32


@pytest.mark.realdata
def test_a_real_jpeg_that_was_cut_is_refused(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("wbc-domains/*/images/test/*"))[::20]:
        content = path.read_bytes()
        for share in (0.1, 0.5, 0.9, 0.99):
            refusal(content[: int(share * len(content))])
        assert decode_image(content).size
