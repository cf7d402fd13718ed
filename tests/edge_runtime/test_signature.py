"""A signature counts when a trusted key made it over these very bytes, in its days."""

from __future__ import annotations

import base64
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import bundle as bundle_module
from edge_runtime.bundle import open_bundle
from edge_runtime.bundle_container import SIGNATURES_NAME, plain_zip
from edge_runtime.errors import BundleError, SettingsError
from edge_runtime.signature import (
    TrustedKeys,
    load_trusted_keys,
    manifest_message,
    parse_key_file,
    signatures_to_bytes,
)
from export.signing import write_key_file
from tests.signed_bundles import (
    FILES,
    NOW,
    drawn_key,
    public,
    signed_files,
    trusting,
    write_zip,
)
from tests.support import MODEL_NAME

KEY, OTHER, STRANGER = drawn_key(1), drawn_key(2), drawn_key(3)
TRUST = trusting(public(KEY, "lab"), public(OTHER, "other lab"))


def refusal(path: Path, trust: TrustedKeys = TRUST) -> str:
    """The message, after checking that it is one line that names the bundle."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path, trust=trust)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def refused(files: Mapping[str, bytes], path: Path, trust: TrustedKeys = TRUST) -> str:
    return refusal(write_zip(files, path), trust)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return tmp_path / "made.zip"


def as_folder(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_signed_bundle_says_who_signed_it(made: Path, tmp_path: Path) -> None:
    files = signed_files(KEY)
    for path in (write_zip(files, made), as_folder(files, tmp_path / "folder")):
        opened = open_bundle(path, trust=TRUST)
        assert opened.signed_by == (f"lab ({KEY.key_id})",)
        assert opened.contents == FILES
        assert opened.files == files
        # Nobody asked: nobody is named.
        assert open_bundle(path).signed_by == ()


def test_a_bundle_file_has_the_bytes_that_zipfile_reads_and_writes(made: Path) -> None:
    files = signed_files(KEY) | {"größe.txt": b"x", "empty": b""}
    write_zip(files, made)
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files
    other = made.with_name("zipfile.zip")
    with zipfile.ZipFile(other, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.create_system = 0o100644 << 16, 3
            archive.writestr(entry, content)
    assert other.read_bytes() == made.read_bytes()


def test_several_signatures_need_one_that_counts(made: Path) -> None:
    write_zip(signed_files(STRANGER, OTHER, KEY), made)
    assert set(open_bundle(made, trust=TRUST).signed_by) == {
        f"lab ({KEY.key_id})",
        f"other lab ({OTHER.key_id})",
    }
    only = trusting(public(OTHER, "other lab"))
    assert open_bundle(made, trust=only).signed_by == (f"other lab ({OTHER.key_id})",)


def test_an_unsigned_bundle_is_refused(made: Path, tmp_path: Path) -> None:
    assert "not signed" in refused(signed_files(), made)
    assert "not signed" in refusal(as_folder(signed_files(), tmp_path / "folder"))


def test_an_unknown_key_is_named_beside_those_trusted(made: Path) -> None:
    message = refused(signed_files(STRANGER), made)
    assert f"key {STRANGER.key_id} is unknown here" in message
    assert f"lab ({KEY.key_id})" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"revoked": True}, "was revoked"),
        ({"not_after": date(2026, 5, 31)}, "expired on 2026-05-31"),
        ({"not_before": date(2026, 6, 2)}, "not valid before 2026-06-02"),
    ],
)
def test_a_key_that_does_not_count_says_why(
    made: Path, changes: dict[str, Any], words: str
) -> None:
    trust = trusting(public(KEY, "lab", **changes))
    assert words in refused(signed_files(KEY), made, trust)
    # Another key that counts is enough.
    both = trusting(public(KEY, "lab", **changes), public(OTHER))
    assert open_bundle(write_zip(signed_files(KEY, OTHER), made), trust=both).signed_by


@pytest.mark.parametrize(
    ("at", "counts"),
    [
        (datetime(2026, 5, 31, 23, 59, tzinfo=timezone.utc), False),
        (datetime(2026, 6, 1, tzinfo=timezone.utc), True),
        (datetime(2026, 6, 3, 23, 59, tzinfo=timezone.utc), True),
        (datetime(2026, 6, 4, tzinfo=timezone.utc), False),
        # 4 June there is still 3 June in UTC.
        (datetime.fromisoformat("2026-06-04T01:00:00+02:00"), True),
    ],
)
def test_days_are_whole_and_utc(made: Path, at: datetime, counts: bool) -> None:
    days = public(KEY, not_before=date(2026, 6, 1), not_after=date(2026, 6, 3))
    write_zip(signed_files(KEY), made)
    trust = trusting(days, at=at)
    if counts:
        assert open_bundle(made, trust=trust).signed_by
    else:
        refusal(made, trust)
    # Without a time the days are not asked for, a revocation is.
    assert open_bundle(made, trust=trusting(days, at=None)).signed_by
    refusal(made, trusting(public(KEY, revoked=True), at=None))


def test_a_signature_over_another_manifest_is_refused(made: Path) -> None:
    files = signed_files(KEY)
    files[SIGNATURES_NAME] = signed_files(KEY, version="9.0.0")[SIGNATURES_NAME]
    assert "does not fit" in refused(files, made)


def test_a_trusted_signature_that_does_not_fit_counts_against_the_bundle(made: Path) -> None:
    """Even beside one that fits: somebody changed something."""
    files = signed_files(KEY)
    message = manifest_message(files["manifest.json"])
    wrong = OTHER.sign(message + b" ")
    files[SIGNATURES_NAME] = signatures_to_bytes([KEY.sign(message), wrong])
    assert "other lab" in refused(files, made)


def test_a_signature_made_for_something_else_does_not_count(made: Path) -> None:
    files = signed_files()
    bare = KEY.sign(files["manifest.json"])
    assert "does not fit" in refused(files | {SIGNATURES_NAME: signatures_to_bytes([bare])}, made)


def test_the_signature_is_checked_before_the_manifest_is_parsed(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []
    real = bundle_module._parse_manifest

    def counted(place: Path, raw: bytes) -> Any:
        parsed.append(raw)
        return real(place, raw)

    monkeypatch.setattr(bundle_module, "_parse_manifest", counted)
    open_bundle(write_zip(signed_files(KEY), made), trust=TRUST)
    assert len(parsed) == 1
    for files in (signed_files(), signed_files(STRANGER)):
        refused(files, made)
    assert len(parsed) == 1


def test_a_swapped_file_is_refused(made: Path) -> None:
    files = signed_files(KEY)
    files[MODEL_NAME], files["notes/card.txt"] = files["notes/card.txt"], files[MODEL_NAME]
    refused(files, made)


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "..\\secret", "a/../../x"])
def test_a_signed_path_out_of_the_bundle_is_refused(made: Path, path: str) -> None:
    files = signed_files(KEY, files={**FILES, path: b"secret"})
    assert "leaves the bundle" in refused(files, made)


@pytest.mark.parametrize("listed", ["manifest.json", SIGNATURES_NAME])
def test_a_bundle_cannot_list_what_is_made_over_it(made: Path, listed: str) -> None:
    files = signed_files(KEY, files={**FILES, listed: b"x"})
    assert "cannot list itself" in refused(files, made)


def packed(files: Mapping[str, bytes], path: Path, compression: int) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, compression)
    return path


def test_a_compressed_bundle_is_not_unpacked_where_signatures_count(made: Path) -> None:
    """So there is nothing that could unpack to more than it is."""
    bomb = signed_files(KEY, files={**FILES, "zeros": bytes(30_000_000)})
    packed(bomb, made, zipfile.ZIP_DEFLATED)
    assert made.stat().st_size < 100_000
    assert "not laid out" in refusal(made)


def test_files_that_are_too_large_together_are_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "LARGEST_BUNDLE_BYTES", 1000)
    assert "larger than 1000 bytes together" in refused(signed_files(KEY), made)
    packed(signed_files(KEY), made, zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="larger than 1000 bytes together"):
        open_bundle(made)


def test_a_size_beyond_the_file_is_refused(made: Path) -> None:
    write_zip(signed_files(KEY), made)
    raw = bytearray(made.read_bytes())
    raw[18:26] = struct.pack("<II", 0xFFFF_FFFF, 0xFFFF_FFFF)
    made.write_bytes(raw)
    assert "not laid out" in refusal(made)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_every_flipped_byte_is_refused(made: Path, tmp_path: Path, kind: str) -> None:
    """Headers, gaps, signatures, white space: all bytes of the file, each twice."""
    tiny = {MODEL_NAME: b"a model", "card.txt": b"a card"}
    files = signed_files(KEY, files=tiny)
    if kind == "file":
        write_zip(files, made)
        victims = [made]
    else:
        made = as_folder(files, tmp_path / "folder")
        victims = [made / name for name in files]
    assert open_bundle(made, trust=TRUST).files == files
    for victim in victims:
        whole = victim.read_bytes()
        rng = random.Random(1)
        # A step through the middle of long files keeps this quick; ends are taken whole.
        for position in range(0, len(whole), 1 if len(whole) < 600 else 7):
            changed = bytearray(whole)
            changed[position] ^= 1 << rng.randrange(8)
            victim.write_bytes(changed)
            refusal(made)
        victim.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.replace(b"\n", b"\t", 1), "not written as"),
        (lambda raw: raw + b" ", "not written as"),
        (lambda raw: raw.replace(b"ed25519", b"ed25518"), "algorithm"),
        (lambda raw: raw.replace(b'"format": 1', b'"format": 2'), "format"),
        (lambda raw: raw.replace(b"==", b"=="[:1]), "base64"),
        (lambda raw: b"{}", "signatures"),
        (lambda raw: b"", SIGNATURES_NAME),
        (lambda raw: b"[" * 60_000, SIGNATURES_NAME),
        (lambda raw: raw + bytes(70_000), "too large"),
        (lambda raw: b'{"format": 1, "signatures": []}', "signatures"),
    ],
)
def test_signatures_have_one_form(made: Path, change: Callable[[bytes], bytes], words: str) -> None:
    files = signed_files(KEY)
    files[SIGNATURES_NAME] = change(files[SIGNATURES_NAME])
    assert words in refused(files, made)


def test_the_last_character_of_a_signature_has_no_spare_bits(made: Path) -> None:
    files = signed_files(KEY)
    document = json.loads(files[SIGNATURES_NAME])
    text = document["signatures"][0]["signature"]
    spare = text[:-3] + chr(ord(text[-3]) + 1) + "=="
    assert base64.b64decode(spare) == base64.b64decode(text)
    files[SIGNATURES_NAME] = files[SIGNATURES_NAME].replace(text.encode(), spare.encode())
    assert "base64" in refused(files, made)


def test_keys_come_from_a_folder(tmp_path: Path, made: Path) -> None:
    for key, name in ((KEY, "lab"), (OTHER, "other lab")):
        write_key_file(public(key, name), tmp_path / f"{name}.json")
    (tmp_path / "README.txt").write_text("no key")
    (tmp_path / "broken.json").write_text("{}")
    trust = load_trusted_keys(tmp_path, at=NOW)
    assert set(trust.keys) == {KEY.key_id, OTHER.key_id}
    assert len(trust.problems) == 1
    assert open_bundle(write_zip(signed_files(KEY), made), trust=trust).signed_by
    # A key that cannot be read is told where it may be the reason.
    assert "broken.json" in refused(signed_files(STRANGER), made, trust)


def test_one_key_in_two_files_is_refused(tmp_path: Path) -> None:
    write_key_file(public(KEY, revoked=True), tmp_path / "a.json")
    write_key_file(public(KEY), tmp_path / "b.json")
    with pytest.raises(SettingsError, match=r"a\.json and b\.json hold the same key"):
        load_trusted_keys(tmp_path, at=NOW)


def test_no_folder_of_keys_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="name a folder"):
        load_trusted_keys(tmp_path / "absent", at=NOW)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("name", ""),
        ("name", "two\nlines"),
        ("public_key", "AAAA"),
        ("public_key", "not base64"),
        ("not_before", "soon"),
        ("not_before", 5),
        ("revoked", "no"),
        ("surprise", 1),
    ],
)
def test_a_bad_key_file_is_one_line(key: str, value: Any) -> None:
    document = json.loads(public(KEY).to_bytes()) | {key: value}
    with pytest.raises(SettingsError) as caught:
        parse_key_file(json.dumps(document).encode(), where="key file k.json")
    assert "\n" not in str(caught.value)
    assert key in str(caught.value)


def test_a_key_that_is_no_point_of_the_curve_signs_nothing(made: Path) -> None:
    files = signed_files(KEY)
    odd = public(KEY).model_copy(update={"public_key": base64.b64encode(b"\xff" * 32).decode()})
    trust = TrustedKeys({KEY.key_id: odd.key}, NOW)
    assert "does not fit" in refused(files, made, trust)


def test_a_bundle_that_is_gone_or_unreadable_is_one_line(tmp_path: Path, made: Path) -> None:
    refusal(made)
    made.write_bytes(b"")
    assert "not laid out" in refusal(made)
    shutil.copy(write_zip(signed_files(KEY), made), tmp_path / "cut.zip")
    (tmp_path / "cut.zip").write_bytes(made.read_bytes()[:-1])
    assert "not laid out" in refusal(tmp_path / "cut.zip")
    made.write_bytes(made.read_bytes() + b"\0")
    assert "not laid out" in refusal(made)


def test_names_out_of_order_are_another_file(made: Path) -> None:
    parts = list(plain_zip({"a": b"1", "b": b"2"}))
    made.write_bytes(b"".join([*parts[2:4], *parts[:2], *parts[4:]]))
    assert "not laid out" in refusal(made)


def test_a_name_that_stands_twice_in_a_signed_file_is_refused(tmp_path: Path) -> None:
    class Twice(dict[str, bytes]):
        def __iter__(self) -> Iterator[str]:
            return iter([*self.keys(), max(self.keys())])

    files = Twice(signed_files(KEY))
    place = tmp_path / "twice.zip"
    place.write_bytes(b"".join(plain_zip(files)))
    with pytest.raises(BundleError, match="not laid out"):
        open_bundle(place, trust=TRUST)
