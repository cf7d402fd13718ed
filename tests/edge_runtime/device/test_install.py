"""What a device takes, what it refuses in one line, and what it starts with afterwards."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.device.files import DiskFiles
from edge_runtime.device.install import Device, build_engines, install, rollback, trust_key
from edge_runtime.device.records import DeviceState, SlotProof, read_sealed, version_of
from edge_runtime.device.slots import active_bundle, look_at_device
from edge_runtime.errors import (
    BackendError,
    BundleError,
    LeukoscopeError,
    SettingsError,
    StoreError,
)
from edge_runtime.golden import GoldenResult, PartResult
from export.signing import SigningKey, vouch_for, write_key_file
from tests.signed_bundles import (
    FILES,
    NOW,
    device_at,
    drawn_key,
    public,
    read_tree,
    signed_files,
    write_tree,
    write_zip,
)

KEY, NEXT_KEY, STRANGER = drawn_key(1), drawn_key(2), drawn_key(3)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def device(tmp_path: Path, said: list[str]) -> Device:
    """A device that trusts ``KEY`` and has nothing installed."""
    made = device_at(tmp_path / "device", DiskFiles(), said)
    made.root.keys.mkdir(parents=True)
    (made.root.keys / "lab.json").write_bytes(public(KEY).to_bytes())
    return made


def bundle_of(
    tmp_path: Path, version: str, *keys: SigningKey, name: str = "", **changes: Any
) -> Path:
    files = signed_files(*(keys or (KEY,)), version=version, **changes)
    return write_zip(files, tmp_path / f"{name or version}.zip")


def put_in(device: Device, version: str, **changes: Any) -> Bundle:
    return install(device, bundle_of(device.root.path.parent, version, **changes)).bundle


def running(device: Device, said: list[str] | None = None) -> str:
    heard: list[str] = [] if said is None else said
    return active_bundle(device.root.path, say=heard.append).manifest.version


def audit(device: Device) -> list[dict[str, Any]]:
    return [dict(line) for line in device.audit.lines()]


def unchanged(device: Device) -> dict[Path, Any]:
    """Everything but the audit, which tells of refusals too."""
    tree = read_tree(device.root.path)
    return {path: raw for path, raw in tree.items() if path.name not in ("audit.jsonl", "lock")}


def one_line(error: pytest.ExceptionInfo[LeukoscopeError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_slots_take_turns(device: Device, said: list[str]) -> None:
    for number, (version, slot) in enumerate([("1.0.0", "a"), ("1.0.1", "b"), ("2.0.0", "a")]):
        done = install(device, bundle_of(device.root.path.parent, version))
        assert (done.slot, done.changed) == (slot, True)
        assert running(device) == version
        state = read_sealed(DeviceState, device.root.state)
        assert state is not None
        assert (state.active, state.highest, state.sequence) == (slot, version, number + 1)
    assert any("signed by lab" in line for line in said)
    assert "no engine for toy-discs-2.0.0" in said
    assert not device.root.incoming("a").exists()
    events = [line["event"] for line in audit(device)]
    assert events == ["install", "proven", "activate"] * 3


def test_the_slot_holds_the_bundle_as_it_came(device: Device) -> None:
    source = bundle_of(device.root.path.parent, "1.0.0")
    install(device, source)
    assert device.root.bundle("a").read_bytes() == source.read_bytes()


def test_a_folder_becomes_one_file(device: Device, tmp_path: Path) -> None:
    files = signed_files(KEY)
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    install(device, tmp_path / "folder")
    whole = write_zip(files, tmp_path / "file.zip").read_bytes()
    assert device.root.bundle("a").read_bytes() == whole


def test_the_active_bundle_is_not_installed_again(device: Device, said: list[str]) -> None:
    put_in(device, "1.0.0")
    before = unchanged(device)
    done = install(device, bundle_of(device.root.path.parent, "1.0.0"))
    assert (done.slot, done.changed) == ("a", False)
    assert unchanged(device) == before
    assert said[-1] == "toy-discs-1.0.0 is active already, in slot a"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (signed_files(version="2.0.0"), "not signed"),
        (signed_files(STRANGER, version="2.0.0"), "unknown here"),
        (signed_files(KEY, version="0.9.9"), "older than 1.0.0"),
        (signed_files(KEY, version="1.0.0", model_card={}), "model_card"),
        (signed_files(KEY, version="1.0.0", files=FILES | {"x": b"x"}), "with other content"),
        (signed_files(KEY, version="9999999999.0.0"), "version: String should match pattern"),
        ({"manifest.json": b"{}"}, "not signed"),
    ],
    ids=["unsigned", "unknown", "older", "manifest", "same version", "huge version", "bare"],
)
def test_what_is_refused_leaves_everything_as_it_was(
    device: Device, tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    put_in(device, "1.0.0")
    before = unchanged(device)
    with pytest.raises(BundleError) as error:
        install(device, write_zip(files, tmp_path / "bad.zip"))
    assert words in one_line(error)
    assert unchanged(device) == before
    last = audit(device)[-1]
    assert last["event"] == "refused"
    assert words in last["reason"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"revoked": True}, "was revoked"),
        ({"not_after": date(2026, 5, 31)}, "expired"),
        ({"not_before": date(2026, 6, 2)}, "is the clock right"),
    ],
)
def test_a_key_that_does_not_count_installs_nothing(
    device: Device, changes: dict[str, Any], words: str
) -> None:
    (device.root.keys / "lab.json").write_bytes(public(KEY, **changes).to_bytes())
    with pytest.raises(BundleError) as error:
        put_in(device, "1.0.0")
    assert words in one_line(error)


def test_what_was_installed_outlives_its_key_but_not_a_revocation(device: Device) -> None:
    put_in(device, "1.0.0")
    key = device.root.keys / "lab.json"
    key.write_bytes(public(KEY, not_after=date(2026, 1, 2)).to_bytes())
    assert running(device) == "1.0.0"
    key.write_bytes(public(KEY, revoked=True).to_bytes())
    with pytest.raises(BundleError, match="was revoked") as error:
        running(device)
    one_line(error)


def test_without_a_key_nothing_is_installed_or_made(tmp_path: Path) -> None:
    absent = device_at(tmp_path / "absent", DiskFiles())
    with pytest.raises(BundleError, match="leukoscope device trust"):
        install(absent, bundle_of(tmp_path, "1.0.0"))
    assert not absent.root.path.exists()
    with pytest.raises(BundleError, match="no key is trusted"):
        running(absent)


def test_an_allowed_downgrade_is_in_the_audit_and_lowers_nothing(device: Device) -> None:
    put_in(device, "2.0.0")
    source = bundle_of(device.root.path.parent, "1.0.0")
    install(device, source, allow_downgrade=True)
    assert running(device) == "1.0.0"
    last = audit(device)[-1]
    assert (last["event"], last["downgrade"], last["highest"]) == ("activate", True, "2.0.0")
    with pytest.raises(BundleError, match=r"older than 2\.0\.0"):
        put_in(device, "1.5.0")


def test_versions_compare_as_numbers(device: Device) -> None:
    put_in(device, "1.9.0")
    put_in(device, "1.10.0")
    with pytest.raises(BundleError, match=r"older than 1\.10\.0"):
        put_in(device, "1.9.9")
    for text in ("1.0", "1.0.0.0", "1.0.x", "1.0.-1", "1.0.\u0661", "9" * 5000 + ".0.0"):
        with pytest.raises(BundleError, match="not three numbers"):
            version_of(text)


def failing(bundle: Bundle) -> GoldenResult:
    return GoldenResult("toy", "toy", True, (PartResult("classifier", False, "off by 0.9"),))


def refusing(bundle: Bundle) -> GoldenResult:
    raise BackendError("onnxruntime refuses the model: odd")


def no_engine(bundle: Bundle, folder: Path) -> list[str]:
    raise BackendError("no TensorRT here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"self_test": failing}, "classifier: off by 0.9; toy-discs-1.0.1 goes on"),
        ({"self_test": refusing}, "refuses the model"),
        ({"engines": no_engine}, "no TensorRT here"),
    ],
)
def test_a_failed_step_keeps_both_slots(device: Device, change: Any, words: str) -> None:
    put_in(device, "1.0.0")
    put_in(device, "1.0.1")
    before = unchanged(device)
    with pytest.raises(LeukoscopeError) as error:
        put_in(replace(device, **change), "2.0.0")
    assert words in one_line(error)
    assert unchanged(device) == before
    assert audit(device)[-1]["event"] == "refused"
    # What failed was not active: it raises no bar.
    put_in(device, "1.0.2")


def test_rollback_goes_back_and_forth(device: Device) -> None:
    put_in(device, "1.0.0")
    with pytest.raises(BundleError, match="nothing to go back to"):
        rollback(device)
    put_in(device, "2.0.0")
    assert rollback(device).bundle.manifest.version == "1.0.0"
    assert running(device) == "1.0.0"
    # The newer one is the highest still: what lies between is a downgrade.
    with pytest.raises(BundleError, match="older than"):
        put_in(device, "1.5.0")
    assert rollback(device).bundle.manifest.version == "2.0.0"
    rollback(device)
    put_in(device, "2.0.0")
    assert running(device) == "2.0.0"


def test_engines_are_built_again_and_tested(device: Device, said: list[str]) -> None:
    with pytest.raises(BundleError, match="no installed bundle"):
        build_engines(device)
    put_in(device, "1.0.0")
    assert build_engines(device).passed
    assert audit(device)[-1]["event"] == "engines"
    with pytest.raises(BundleError, match="self-test fails"):
        build_engines(replace(device, self_test=failing))


@pytest.mark.parametrize("damage", ["gone", "empty", "text", "digit", "deep"])
def test_a_damaged_state_falls_back_to_what_the_slots_prove(device: Device, damage: str) -> None:
    put_in(device, "1.0.0")
    put_in(device, "2.0.0")
    rollback(device)
    state = device.root.state
    if damage == "gone":
        state.unlink()
    elif damage == "digit":
        # Still JSON, still a state: only its hash tells.
        text = state.read_text()
        assert '"highest": "2.0.0"' in text
        state.write_text(text.replace('"highest": "2.0.0"', '"highest": "0.0.0"'))
    else:
        state.write_bytes({"empty": b"", "text": b"\xff{", "deep": b"[" * 60_000}[damage])
    heard: list[str] = []
    # Not the higher version: the one that was made active last.
    assert running(device, heard) == "1.0.0"
    assert any("what the slots prove counts" in line for line in heard)
    with pytest.raises(BundleError, match=r"older than 2\.0\.0"):
        put_in(device, "1.5.0")
    put_in(device, "3.0.0")
    heard.clear()
    assert running(device, heard) == "3.0.0"
    assert heard == []


def test_the_audit_remembers_what_slots_and_state_have_lost(device: Device) -> None:
    put_in(device, "5.0.0")
    install(device, bundle_of(device.root.path.parent, "1.0.0"), allow_downgrade=True)
    install(device, bundle_of(device.root.path.parent, "1.1.0"), allow_downgrade=True)
    device.root.state.unlink()
    with pytest.raises(BundleError, match=r"older than 5\.0\.0"):
        put_in(device, "2.0.0")


@pytest.mark.parametrize("victim", ["bundle", "proof", "bundle gone", "proof of another"])
def test_a_damaged_active_slot_gives_way_to_the_other(device: Device, victim: str) -> None:
    put_in(device, "1.0.0")
    put_in(device, "2.0.0")
    root = device.root
    if victim == "bundle gone":
        root.bundle("b").unlink()
    elif victim == "proof of another":
        shutil.copy(root.proof("a"), root.proof("b"))
    else:
        path = root.bundle("b") if victim == "bundle" else root.proof("b")
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    heard: list[str] = []
    assert running(device, heard) == "1.0.0"
    assert "slot a starts instead" in heard[0]
    # The same one again mends it.
    put_in(device, "2.0.0")
    assert running(device) == "2.0.0"


def test_a_bundle_beside_the_slots_rules_does_not_start(device: Device) -> None:
    """Copied into a slot by hand, it has passed no step."""
    put_in(device, "1.0.0")
    write_zip(signed_files(KEY, version="9.0.0"), device.root.bundle("b"))
    view = look_at_device(device.root, device.root.trusted_keys(at=None))
    assert view.active == "a"
    assert "did not pass every step" in str(view.slots["b"].problem)
    with pytest.raises(BundleError, match="nothing to go back to"):
        rollback(device)


def test_both_slots_damaged_is_one_line(device: Device) -> None:
    put_in(device, "1.0.0")
    device.root.bundle("a").write_bytes(b"")
    with pytest.raises(BundleError, match="no installed bundle can start") as error:
        running(device)
    one_line(error)


def test_one_command_at_a_time(device: Device) -> None:
    put_in(device, "1.0.0")
    before = unchanged(device)
    with (device.root.path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for act in (lambda: put_in(device, "2.0.0"), lambda: rollback(device)):
            with pytest.raises(StoreError, match="another `leukoscope device`"):
                act()
        # Who only starts does not wait.
        assert running(device) == "1.0.0"
    assert unchanged(device) == before
    put_in(device, "2.0.0")


class FullDisk(DiskFiles):
    """A disk that is full from operation number ``room`` on; removing still works."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked = 0

    def write(self, path: Path, parts: Iterable[bytes]) -> None:
        self._ask(path)
        super().write(path, parts)

    def append(self, path: Path, content: bytes) -> None:
        self._ask(path)
        super().append(path, content)

    def _ask(self, path: Path) -> None:
        self.asked += 1
        if self.asked > self.room:
            path.write_bytes(b"cut sh")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_disk_that_fills_up_keeps_what_runs(device: Device) -> None:
    put_in(device, "1.0.0")
    before = read_tree(device.root.path)
    counting = FullDisk(99)
    put_in(replace(device, files=counting), "2.0.0")
    assert counting.asked > 4
    for room in range(counting.asked):
        write_tree(device.root.path, before)
        with pytest.raises(StoreError) as error:
            put_in(replace(device, files=FullDisk(room)), "2.0.0")
        assert "No space left on device; free some space" in one_line(error)
        assert running(device) == "1.0.0"
        assert not list(device.root.path.rglob("*.part"))
        put_in(device, "2.0.0")
        assert running(device) == "2.0.0"


def test_too_little_room_is_said_before_anything_is_written(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(device, "1.0.0")
    before = unchanged(device)
    room = shutil.disk_usage(device.root.path)._replace(free=1000)
    monkeypatch.setattr("edge_runtime.device.install.shutil.disk_usage", lambda path: room)
    with pytest.raises(StoreError, match=r"0\.0 MB free"):
        put_in(device, "2.0.0")
    assert unchanged(device) == before


def test_what_a_power_cut_left_takes_no_room(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(device, "1.0.0")
    device.root.incoming("b").write_bytes(bytes(5_000_000))
    usage = shutil.disk_usage(device.root.path)

    def room(path: Path) -> Any:
        held = sum(each.stat().st_size for each in device.root.path.rglob("*") if each.is_file())
        return usage._replace(free=5_000_000 - held)

    monkeypatch.setattr("edge_runtime.device.install.shutil.disk_usage", room)
    put_in(device, "2.0.0")
    assert running(device) == "2.0.0"


def test_a_key_revoked_while_the_command_began_does_not_count(device: Device) -> None:
    class Revoking(DiskFiles):
        def make_folder(self, folder: Path) -> None:
            super().make_folder(folder)
            revoked = public(KEY).model_copy(update={"revoked": True})
            (device.root.keys / "lab.json").write_bytes(revoked.to_bytes())

    with pytest.raises(BundleError, match="was revoked"):
        install(replace(device, files=Revoking()), bundle_of(device.root.path.parent, "1.0.0"))


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path, device: Device) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = device_at(tmp_path / "file" / "device", DiskFiles())
    key = tmp_path / "key.json"
    write_key_file(public(KEY), key)
    with pytest.raises(StoreError, match="--root") as error:
        trust_key(blocked, key)
    one_line(error)

    class ReadOnly(DiskFiles):
        def make_folder(self, folder: Path) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    with pytest.raises(StoreError, match="Read-only file system; choose a folder"):
        put_in(replace(device, files=ReadOnly()), "1.0.0")


def test_half_an_audit_line_stays_alone(device: Device) -> None:
    put_in(device, "1.0.0")
    with device.root.audit.open("ab") as log:
        log.write(b'{"at": "2026')
    put_in(device, "2.0.0")
    lines = device.root.audit.read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines[4:]] == ["install", "proven", "activate"]
    assert len(audit(device)) == 6


def key_file(tmp_path: Path, key: SigningKey, *vouching: SigningKey, **changes: Any) -> Path:
    path = tmp_path / f"{key.key_id}-{len(vouching)}{len(changes)}.json"
    file = public(key, "next", **changes)
    write_key_file(vouch_for(file, vouching) if vouching else file, path)
    return path


def test_the_first_key_is_taken_and_later_ones_need_a_signature(
    tmp_path: Path, said: list[str]
) -> None:
    device = device_at(tmp_path / "fresh", DiskFiles(), said)
    assert trust_key(device, key_file(tmp_path, KEY)) == f"next ({KEY.key_id})"
    put_in(device, "1.0.0")
    with pytest.raises(SettingsError, match="must be signed by one of them"):
        trust_key(device, key_file(tmp_path, NEXT_KEY))
    with pytest.raises(SettingsError, match="unknown here"):
        trust_key(device, key_file(tmp_path, NEXT_KEY, STRANGER))
    trust_key(device, key_file(tmp_path, NEXT_KEY, KEY))
    put_in(device, "2.0.0")
    install(device, bundle_of(tmp_path, "3.0.0", NEXT_KEY))
    assert running(device) == "3.0.0"
    assert [line["event"] for line in audit(device)].count("trust") == 2


def test_a_signed_key_file_that_was_changed_is_refused(device: Device, tmp_path: Path) -> None:
    path = key_file(tmp_path, NEXT_KEY, KEY)
    document = json.loads(path.read_text())
    document["not_after"] = "2099-01-01"
    path.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match="does not fit"):
        trust_key(device, path)


def test_an_expired_key_vouches_for_nobody(device: Device, tmp_path: Path) -> None:
    later = replace(device, clock=lambda: NOW + timedelta(days=1000))
    with pytest.raises(SettingsError, match="expired"):
        trust_key(later, key_file(tmp_path, NEXT_KEY, KEY))


def test_a_revoked_key_stays_revoked(device: Device, tmp_path: Path) -> None:
    trust_key(device, key_file(tmp_path, NEXT_KEY, KEY))
    trust_key(device, key_file(tmp_path, NEXT_KEY, KEY, revoked=True))
    with pytest.raises(BundleError, match="was revoked"):
        install(device, bundle_of(tmp_path, "1.0.0", NEXT_KEY))
    with pytest.raises(SettingsError, match="stays so"):
        trust_key(device, key_file(tmp_path, NEXT_KEY, KEY))


def test_a_revocation_that_would_stop_the_device_needs_force(
    device: Device, tmp_path: Path
) -> None:
    put_in(device, "1.0.0")
    revocation = key_file(tmp_path, KEY, KEY, revoked=True)
    before = unchanged(device)
    with pytest.raises(BundleError, match="could not start any more") as error:
        trust_key(device, revocation)
    one_line(error)
    assert unchanged(device) == before
    trust_key(device, key_file(tmp_path, NEXT_KEY, KEY))
    install(device, bundle_of(tmp_path, "2.0.0", NEXT_KEY))
    trust_key(device, revocation)
    assert running(device) == "2.0.0"


def test_the_proof_says_what_the_self_test_said(device: Device) -> None:
    put_in(device, "1.0.0")
    proof = read_sealed(SlotProof, device.root.proof("a"))
    assert proof is not None
    assert proof.self_test == ("self-test on toy 1 (tight tolerance)", "detector: passed, as kept")
    assert proof.installed_at == "2026-06-01T12:00:00+00:00"
