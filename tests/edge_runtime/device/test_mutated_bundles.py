"""Whatever is done to a signed bundle, a device takes the very same one or refuses in one line."""

from __future__ import annotations

import json
import random
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle_container import SIGNATURES_NAME, plain_zip
from edge_runtime.device.files import DiskFiles
from edge_runtime.device.install import Device, install
from edge_runtime.errors import BundleError, LeukoscopeError
from edge_runtime.signature import manifest_message, signatures_to_bytes
from tests.signed_bundles import device_at, drawn_key, public, read_tree, signed_files
from tests.support import MODEL_NAME

KEY, STRANGER = drawn_key(1), drawn_key(2)
FILES = {MODEL_NAME: bytes(range(256)), "notes/card.txt": b"what it has seen", "empty": b""}
WHOLE = signed_files(KEY, version="2.0.0", files=FILES)

Mutation = Callable[[random.Random], bytes]


def zipped(files: dict[str, bytes]) -> bytes:
    return b"".join(plain_zip(files))


PACKED = zipped(WHOLE)


def change_bytes(rng: random.Random) -> bytes:
    """The file as a bad disk or line gives it back."""
    raw = bytearray(PACKED)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(raw))
        kind = rng.choice(["set", "flip", "cut", "insert", "zero", "repeat"])
        length = min(rng.choice([1, 1, 2, 16, 300]), len(raw) - start)
        part = slice(start, start + length)
        if kind == "set":
            raw[part] = rng.randbytes(length)
        elif kind == "flip":
            raw[start] ^= 1 << rng.randrange(8)
        elif kind == "cut" and length < len(raw):
            del raw[part]
        elif kind == "insert":
            raw[start:start] = rng.randbytes(length)
        elif kind == "zero":
            raw[part] = bytes(length)
        else:
            raw[part] = raw[part] * 2
    return bytes(raw)


def cut_off(rng: random.Random) -> bytes:
    return PACKED[: rng.randrange(len(PACKED))]


def change_a_file(rng: random.Random) -> bytes:
    """Laid out well, checksums right: only hashes and signature can tell."""
    files = dict(WHOLE)
    name = rng.choice(sorted(files))
    raw = bytearray(files[name] or b"x")
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    files[name] = bytes(raw)
    return zipped(files)


def swap_files(rng: random.Random) -> bytes:
    files = dict(WHOLE)
    first, second = rng.sample(sorted(files), 2)
    files[first], files[second] = files[second], files[first]
    return zipped(files)


def rename_a_file(rng: random.Random) -> bytes:
    files = dict(WHOLE)
    names = [
        "../x",
        "/x",
        "..\\x",
        "x",
        "a/../../x",
        ".",
        "..",
        "",
        "x" * 70,
        "\u202e",
        "manifest.json ",
    ]
    files[rng.choice(names)] = files.pop(rng.choice(sorted(files)))
    return zipped(files)


def add_a_file(rng: random.Random) -> bytes:
    name = rng.choice(
        ["../../etc/x", "new", "notes", "notes/card.txt/x", ".hidden", "manifest.JSON"]
    )
    return zipped({**WHOLE, name: rng.randbytes(rng.randrange(9))})


def drop_a_file(rng: random.Random) -> bytes:
    files = dict(WHOLE)
    del files[rng.choice(sorted(files))]
    return zipped(files)


def resign(rng: random.Random) -> bytes:
    """Consistent in itself, signed by nobody who counts, or with half a signature."""
    kind = rng.choice(["stranger", "other version", "claimed", "none", "older", "twice"])
    if kind == "stranger":
        return zipped(signed_files(STRANGER, version="3.0.0", files=FILES))
    if kind == "older":
        return zipped(signed_files(KEY, version=f"0.{rng.randrange(9)}.0", files=FILES))
    files = dict(WHOLE)
    message = manifest_message(files["manifest.json"])
    if kind == "other version":
        files |= {"manifest.json": files["manifest.json"].replace(b'"2.0.0"', b'"3.0.0"')}
    elif kind == "claimed":
        forged = STRANGER.sign(message).model_copy(update={"key_id": KEY.key_id})
        files[SIGNATURES_NAME] = signatures_to_bytes([forged])
    elif kind == "none":
        files[SIGNATURES_NAME] = b'{"format": 1, "signatures": []}'
    else:
        document = json.loads(files[SIGNATURES_NAME])
        document["signatures"] *= 2
        files[SIGNATURES_NAME] = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    return zipped(files)


def odd_signatures(rng: random.Random) -> bytes:
    """Any JSON in any place of signatures.json."""
    document: Any = json.loads(WHOLE[SIGNATURES_NAME])
    odd: Any = rng.choice(
        [None, True, -1, 1e308, "", "x" * 99, [], {}, [[]], {"a": 1}, "AAAA", 10**40]
    )
    place = rng.choice(["format", "signatures", "key_id", "algorithm", "signature", "whole"])
    if place == "whole":
        document = odd
    elif place in document:
        document[place] = odd
    else:
        document["signatures"][0][place] = odd
    return zipped({**WHOLE, SIGNATURES_NAME: json.dumps(document, indent=1).encode()})


def other_packing(rng: random.Random) -> bytes:
    """The same files, or a bomb, packed by a common zip program."""
    import io

    out = io.BytesIO()
    files = dict(WHOLE)
    if rng.random() < 0.3:
        files["zeros"] = bytes(200_000)
    kinds = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(out, "w", rng.choice(kinds)) as archive:
        for name in rng.sample(sorted(files), len(files)):
            archive.writestr(name, files[name])
        archive.comment = rng.randbytes(rng.randrange(3))
    return out.getvalue()


def mended_checksums(rng: random.Random) -> bytes:
    """A byte of a file changed, and every checksum of the layout made to fit."""
    raw = bytearray(PACKED)
    name = rng.choice([name for name in sorted(WHOLE) if WHOLE[name]])
    content = WHOLE[name]
    start = raw.index(content, raw.index(name.encode()))
    raw[start + rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    before = zlib.crc32(content).to_bytes(4, "little")
    after = zlib.crc32(raw[start : start + len(content)]).to_bytes(4, "little")
    return bytes(raw).replace(before, after)


MUTATIONS: tuple[Mutation, ...] = (
    change_bytes,
    change_bytes,
    cut_off,
    change_a_file,
    swap_files,
    rename_a_file,
    add_a_file,
    drop_a_file,
    resign,
    odd_signatures,
    other_packing,
    mended_checksums,
)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    made = device_at(tmp_path / "device", DiskFiles())
    made.root.keys.mkdir(parents=True)
    (made.root.keys / "lab.json").write_bytes(public(KEY).to_bytes())
    source = tmp_path / "first.zip"
    source.write_bytes(zipped(signed_files(KEY, version="1.0.0", files=FILES)))
    install(made, source)
    return made


def no_audit(*args: Any, **facts: Any) -> None:
    """Ten thousand flushed lines would only measure the disk."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mutated_bundle_is_refused_in_one_line(
    device: Device, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.device.install._note", no_audit)
    quiet = replace(device, files=NothingChanges())
    before = read_tree(device.root.path / "slots")
    place = tmp_path / "mutated.zip"
    refused = 0
    for number in range(count):
        rng = random.Random(number)
        mutate = MUTATIONS[number % len(MUTATIONS)]
        raw = mutate(rng)
        if raw == PACKED:
            continue
        place.write_bytes(raw)
        with pytest.raises(BundleError) as error:
            install(quiet, place)
        message = str(error.value)
        assert "\n" not in message, (mutate.__name__, number)
        assert len(message) < 1000
        refused += 1
    assert refused > 0.97 * count
    assert read_tree(device.root.path / "slots") == before
    # And the whole one is taken: it was the changes that were refused.
    place.write_bytes(PACKED)
    assert install(device, place).bundle.manifest.version == "2.0.0"


class NothingChanges(DiskFiles):
    """A disk on which a refused bundle must not change anything."""

    def make_folder(self, folder: Path) -> None:
        assert folder.is_dir()

    def write(self, path: Path, parts: Any) -> None:
        raise AssertionError(f"{path} was written")

    def rename(self, source: Path, target: Path) -> None:
        raise AssertionError(f"{target} was replaced")

    def sync_folder(self, folder: Path) -> None:
        pass


def test_a_refusal_is_a_refusal_of_the_house(device: Device, tmp_path: Path) -> None:
    """Things that are no bundle at all."""
    for name, raw in (("text", b"hello"), ("zip", b"PK\x05\x06" + bytes(18)), ("none", b"")):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(LeukoscopeError, match=name):
            install(device, tmp_path / name)
    for odd in (tmp_path / "absent", tmp_path / ("x" * 300), Path("/dev/null")):
        with pytest.raises(LeukoscopeError):
            install(device, odd)
