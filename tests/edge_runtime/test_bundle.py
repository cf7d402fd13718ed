"""A bundle is used exactly as it was written, or not at all."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime import bundle as bundle_module
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import BundleError
from tests.support import MODEL_NAME, manifest_of, write_bundle, zip_bundle

# Verification never looks into a model, so any bytes will do here.
FILES = {
    MODEL_NAME: bytes(range(256)) * 8,
    "notes/card.txt": b"what it has seen",
    "empty.bin": b"",
}
QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", FILES)


@pytest.fixture(params=["folder", "zip"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], Path]:
    """Turns a bundle folder into the form under test."""
    if request.param == "folder":
        return lambda made: made
    return lambda made: zip_bundle(made, tmp_path / "made.bundle")


def refused(path: Path, *words: str) -> str:
    """The message, after checking that it is one line that names bundle and words."""
    with pytest.raises(BundleError) as refusal:
        open_bundle(path)
    message = str(refusal.value)
    assert "\n" not in message
    assert path.name in message
    for word in words:
        assert word in message
    return message


def opened_or_refused(path: Path) -> Bundle | None:
    """The bundle, or None after a refusal in one line; any other error is a failure."""
    try:
        return open_bundle(path)
    except BundleError as error:
        message = str(error)
    assert "\n" not in message
    return None


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Changes the manifest, keeping it consistent JSON."""
    document = manifest_of(FILES)
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


def test_a_bundle_comes_back_as_it_was_written(folder: Path, pack: Callable[[Path], Path]) -> None:
    opened = open_bundle(pack(folder))
    assert opened.contents == FILES
    assert opened.id == "toy-discs-0.1.0"
    manifest = (folder / "manifest.json").read_bytes()
    assert opened.sha256 == hashlib.sha256(manifest).hexdigest()
    assert opened.manifest.detector.classes == ("wbc",)
    assert opened.artifact_for("cpu").path == MODEL_NAME


def test_folder_and_file_are_the_same_bundle(folder: Path, tmp_path: Path) -> None:
    for number, compression in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)):
        packed = zip_bundle(folder, tmp_path / f"{number}.bundle", compression)
        assert open_bundle(packed) == open_bundle(str(folder))


def test_an_artifact_for_another_runtime_is_not_made_up(folder: Path) -> None:
    with pytest.raises(BundleError, match="no detector artifact for tensorrt; it has cpu float32"):
        open_bundle(folder).artifact_for("tensorrt")


def test_an_artifact_of_the_wished_precision(tmp_path: Path) -> None:
    files = {name: name.encode() for name in ("a", "b", "c", "d")}
    document = manifest_of({**files, MODEL_NAME: b"-"})
    kinds = (
        ("a", "cpu", "int8"),
        ("b", "tensorrt", "int8"),
        ("c", "tensorrt", "float16"),
        ("d", "cpu", "float32"),
    )
    document["detector"]["artifacts"] = [
        {"path": path, "runtime": runtime, "precision": precision, "quantisation": "some"}
        for path, runtime, precision in kinds
    ]
    opened = open_bundle(write_bundle(tmp_path / "b", {**files, MODEL_NAME: b"-"}, document))
    assert opened.artifact_for("cpu").path == "a"
    assert opened.artifact_for("tensorrt").path == "b"
    assert opened.artifact_for("tensorrt", None, "float16").path == "c"
    assert opened.artifact_for("cpu", None, "float32").path == "d"
    # Float32 is plain ONNX and runs anywhere.
    assert opened.artifact_for("tensorrt", None, "float32").path == "d"
    with pytest.raises(BundleError, match="no detector artifact for cpu in float16; it has cpu"):
        opened.artifact_for("cpu", None, "float16")


@pytest.mark.parametrize("name", [MODEL_NAME, "notes/card.txt"])
@pytest.mark.parametrize("place", [0.0, 0.31, 0.77, 0.9999])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_changed_byte_is_told(
    folder: Path, pack: Callable[[Path], Path], name: str, place: float, bit: int
) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (folder / name).write_bytes(content)
    refused(pack(folder), repr(name), "was altered", "copy the bundle again")


def test_every_changed_byte_of_the_manifest_is_refused_or_pinned(folder: Path) -> None:
    """What still parses is another manifest, and says so by its own hash."""
    path = folder / "manifest.json"
    whole = path.read_bytes()
    original = open_bundle(folder)
    accepted = 0
    # Every 5th byte with two changes each: every key, value, digit and bracket is hit.
    for position in range(0, len(whole), 5):
        for mask in (0x01, 0x80):
            changed = bytearray(whole)
            changed[position] ^= mask
            path.write_bytes(changed)
            opened = opened_or_refused(folder)
            if opened is not None:
                accepted += 1
                assert opened.sha256 != original.sha256
                assert opened.contents == original.contents
    # Free text and thresholds may change into others; hashes, sizes and keys may not.
    assert accepted < len(whole) // 5


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_hash_that_was_changed_with_its_manifest_does_not_fit(folder: Path, name: str) -> None:
    def change(document: dict[str, Any]) -> None:
        entry = next(e for e in document["files"] if e["path"] == name)
        entry["sha256"] = hashlib.sha256(b"other").hexdigest()

    refused(rewrite(folder, change), repr(name), "was altered")


@pytest.mark.parametrize("name", [*sorted(FILES), "manifest.json"])
def test_a_missing_file_is_named(folder: Path, pack: Callable[[Path], Path], name: str) -> None:
    (folder / name).unlink()
    refused(pack(folder), name, "is missing")


@pytest.mark.parametrize("name", ["other.onnx", "notes/other.txt", ".hidden"])
def test_a_file_that_is_not_listed_is_refused(
    folder: Path, pack: Callable[[Path], Path], name: str
) -> None:
    (folder / name).write_bytes(b"x")
    refused(pack(folder), repr(name), "not in the manifest")


@pytest.mark.parametrize("size", [-1, 1])
def test_a_wrong_size_is_told(folder: Path, pack: Callable[[Path], Path], size: int) -> None:
    def change(document: dict[str, Any]) -> None:
        document["files"][0]["size"] += size

    refused(pack(rewrite(folder, change)), "bytes, the manifest says")


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "a/../../secret", "..\\secret"])
def test_a_path_out_of_the_bundle_is_never_read(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_bytes(b"secret")

    def change(document: dict[str, Any]) -> None:
        content = b"secret"
        document["files"].append(
            {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        )

    refused(rewrite(folder, change), "leaves the bundle")


def test_a_path_out_of_a_zip_is_never_read(folder: Path, tmp_path: Path) -> None:
    content = b"secret"

    def change(document: dict[str, Any]) -> None:
        document["files"].append(
            {"path": "../x", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        )

    packed = zip_bundle(rewrite(folder, change), tmp_path / "made.bundle")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("../x", content)
    refused(packed, "leaves the bundle")


@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_is_refused(folder: Path, tmp_path: Path, target: str) -> None:
    aim = tmp_path / "aim"
    if target == "file":
        aim.write_bytes(FILES[MODEL_NAME])
        (folder / MODEL_NAME).unlink()
        (folder / MODEL_NAME).symlink_to(aim)
    else:
        if target == "folder":
            aim.mkdir()
        (folder / "more").symlink_to(aim)
    refused(folder, "is a link")


def test_a_name_that_occurs_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    packed = zip_bundle(folder, tmp_path / "made.bundle")
    with (
        zipfile.ZipFile(packed, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr(MODEL_NAME, b"the other one")
    refused(packed, "occurs twice")


def test_an_entry_that_unpacks_to_more_than_it_says_is_not_unpacked(
    folder: Path, tmp_path: Path
) -> None:
    """The declared size is right, the stream holds far more: only so much is read."""
    true = FILES[MODEL_NAME]
    (folder / MODEL_NAME).write_bytes(true + bytes(50_000_000))
    packed = zip_bundle(folder, tmp_path / "made.bundle")
    assert packed.stat().st_size < 200_000
    raw = bytearray(packed.read_bytes())
    # Both headers of the entry state the size it ought to have.
    whole = struct.pack("<I", len(true) + 50_000_000)
    assert raw.count(whole) == 2
    packed.write_bytes(bytes(raw).replace(whole, struct.pack("<I", len(true))))
    refused(packed)


def test_a_manifest_of_unlikely_size_is_not_parsed(
    folder: Path, pack: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "_LARGEST_MANIFEST_BYTES", 100)
    refused(pack(folder), "too large")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_half_a_bundle_file_is_refused(folder: Path, tmp_path: Path, share: float) -> None:
    packed = zip_bundle(folder, tmp_path / "made.bundle")
    packed.write_bytes(packed.read_bytes()[: int(share * packed.stat().st_size)])
    refused(packed, "copy it again")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no JSON",
        b'{"schema_version": 1',
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"schema_version": 1, "name": ' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "text", "cut", "bytes", "bom", "deep list", "deep object", "long number"],
)
def test_a_manifest_that_is_no_json_is_refused(
    folder: Path, pack: Callable[[Path], Path], text: bytes
) -> None:
    (folder / "manifest.json").write_bytes(text)
    refused(pack(folder))


@pytest.mark.parametrize("document", [[], None, 1, "text", {}])
def test_json_that_is_no_manifest_is_refused(folder: Path, document: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(document))
    refused(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_names_both_versions(folder: Path, version: Any) -> None:
    def change(document: dict[str, Any]) -> None:
        document["schema_version"] = version

    refused(rewrite(folder, change), repr(version), "reads 1", "install")


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("surprise",), 1, "surprise"),
        (("detector", "surprise"), 1, "detector.surprise"),
        (("detector", "input", "colour"), "BGR", "detector.input.colour"),
        (("detector", "input", "width"), 0, "detector.input.width"),
        (("detector", "input", "scale"), float("nan"), "detector.input.scale"),
        (("detector", "working_scale", "cell_px"), float("inf"), "working_scale.cell_px"),
        (("detector", "classes"), [], "detector.classes"),
        (("detector", "classes"), ["wbc", "wbc"], "detector: Value error, a class is listed twice"),
        (("detector", "classes"), [" "], "detector: Value error, a class has no name"),
        (("detector", "artifacts"), [], "detector.artifacts"),
        (("detector", "thresholds", "score"), 1.5, "detector.thresholds.score"),
        (("model_card", "metrics"), {"d": {"ap50": float("nan")}}, "model_card.metrics"),
        (("name",), "../x", "name"),
        (("version",), "1", "version"),
        (("files", 0, "sha256"), "0" * 63, "files.0.sha256"),
        (("files", 0, "size"), -1, "files.0.size"),
    ],
)
def test_a_bad_field_is_named(folder: Path, keys: tuple[Any, ...], value: Any, named: str) -> None:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    refused(rewrite(folder, change), "manifest.json", named)


@pytest.mark.parametrize("key", sorted(manifest_of(FILES)))
def test_a_missing_field_is_named(folder: Path, key: str) -> None:
    def change(document: dict[str, Any]) -> None:
        del document[key]

    refused(rewrite(folder, change), "schema version" if key == "schema_version" else key)


def test_an_artifact_must_be_among_the_files(folder: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["detector"]["artifacts"][0]["path"] = "absent.onnx"

    refused(rewrite(folder, change), "'absent.onnx'", "not among")


@pytest.mark.parametrize("name", ["absent", "x" * 300, "a/b/c"])
def test_no_bundle_at_all_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="--bundle") as refusal:
        open_bundle(tmp_path / name)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_anything_misses_its_manifest(tmp_path: Path) -> None:
    refused(tmp_path, "manifest.json is missing")


def test_an_unreadable_file_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    refused(folder, "Permission denied")


def test_nothing_is_parsed_as_a_model_before_it_is_verified(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Through the real run path: the backend sees no byte of an altered bundle."""
    from edge_runtime import film_run
    from edge_runtime.cli import app

    seen: list[bytes] = []

    def spy(row: object, model: bytes, *, threads: int, engines: Path | None) -> None:
        seen.append(model)
        raise ZeroDivisionError

    monkeypatch.setattr(film_run, "open_backend", spy)
    source = tmp_path / "film"
    source.mkdir()
    (source / "a.png").write_bytes(b"x")
    arguments = ["run", "--source", str(source), "--out", str(tmp_path / "out")]
    arguments += ["--bundle", str(folder)]
    # Whole, it gets as far as the backend: the test would notice.
    with pytest.raises(ZeroDivisionError):
        app(arguments)
    assert seen == [FILES[MODEL_NAME]]

    seen.clear()
    (folder / "notes/card.txt").write_bytes(b"what it has SEEN")
    with pytest.raises(BundleError):
        app(arguments)
    assert not seen


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made = write_bundle(tmp_path_factory.mktemp("whole"), FILES)
    return zip_bundle(made, tmp_path_factory.mktemp("zip") / "made.bundle").read_bytes()


def opens_identical_or_not_at_all(path: Path, original: Bundle) -> None:
    opened = opened_or_refused(path)
    assert opened is None or opened == original


@QUICK
@given(data=st.data())
def test_a_damaged_bundle_file_is_the_same_bundle_or_none(
    packed: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Names, sizes, offsets, methods, streams: whatever is hit, no other bundle comes out."""
    place = tmp_path_factory.getbasetemp() / "mutated.bundle"
    place.write_bytes(packed)
    original = open_bundle(place)
    mutated = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "swap"]))
        if kind == "set":
            mutated[position] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del mutated[position : position + data.draw(st.integers(1, 64))]
        elif kind == "insert":
            mutated[position:position] = data.draw(st.binary(max_size=16))
        else:
            other = data.draw(st.integers(0, max(0, len(mutated) - 1)))
            if position < len(mutated):
                mutated[position], mutated[other] = mutated[other], mutated[position]
        if not mutated:
            break
    place.write_bytes(mutated)
    opens_identical_or_not_at_all(place, original)


def test_every_byte_of_the_zip_headers_may_be_damaged(packed: bytes, tmp_path: Path) -> None:
    """The headers are where zipfile lets its own errors through: all bytes, not a sample."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        start = archive.start_dir
    place = tmp_path / "mutated.bundle"
    place.write_bytes(packed)
    original = open_bundle(place)
    for position in [*range(64), *range(start, len(packed))]:
        for value in (0x00, 0xFF, packed[position] ^ 1):
            mutated = bytearray(packed)
            mutated[position] = value
            place.write_bytes(mutated)
            opens_identical_or_not_at_all(place, original)


@QUICK
@given(seed=st.integers(0, 2**32))
def test_a_damaged_folder_is_the_same_bundle_or_none(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    made = tmp_path_factory.getbasetemp() / "mutated-folder"
    shutil.rmtree(made, ignore_errors=True)
    write_bundle(made, FILES)
    original = open_bundle(made)
    victim = made / rng.choice(sorted(FILES))
    action = rng.choice(["change", "cut", "grow", "remove", "rename", "add", "none"])
    content = victim.read_bytes()
    if action == "change" and content:
        position = rng.randrange(len(content))
        changed = bytes([content[position] ^ rng.randrange(1, 256)])
        victim.write_bytes(content[:position] + changed + content[position + 1 :])
    elif action == "cut" and content:
        victim.write_bytes(content[: rng.randrange(len(content))])
    elif action == "grow":
        victim.write_bytes(content + rng.randbytes(rng.randrange(1, 9)))
    elif action == "remove":
        victim.unlink()
    elif action == "rename":
        victim.rename(made / f"renamed-{rng.randrange(100)}")
    elif action == "add":
        (made / f"added-{rng.randrange(100)}").write_bytes(rng.randbytes(3))
    opens_identical_or_not_at_all(made, original)


@QUICK
@given(data=st.data())
def test_a_manifest_with_odd_values_is_valid_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any JSON value in any place: a bundle or a BundleError, never another error."""
    made = tmp_path_factory.getbasetemp() / "odd-folder"
    if not made.exists():
        write_bundle(made, FILES)
    document: Any = copy.deepcopy(manifest_of(FILES))
    inner = document
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(inner[key], (dict, list)) and len(inner[key]) > 0
        if not deeper or data.draw(st.booleans()):
            break
        inner = inner[key]
    odd = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
    inner[key] = data.draw(odd)
    (made / "manifest.json").write_text(json.dumps(document))
    opened = opened_or_refused(made)
    assert opened is None or set(opened.contents) <= set(FILES)
