"""The power may go at any file operation: the device starts with the old or the new bundle."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_runtime.device.files import DurableFiles
from edge_runtime.device.install import install, rollback, trust_key
from edge_runtime.device.slots import DeviceRoot, active_bundle
from edge_runtime.errors import BundleError
from export.signing import vouch_for, write_key_file
from tests.signed_bundles import (
    NOW,
    PowerCutError,
    PowerDisk,
    device_at,
    drawn_key,
    operations_of,
    public,
    read_tree,
    signed_files,
    write_tree,
    write_zip,
)

KEY, NEXT_KEY = drawn_key(1), drawn_key(2)
# How often what was not flushed survives by chance, beside all and nothing of it.
CHANCES = 25


@dataclass(frozen=True)
class Scenario:
    """What is installed before, what is done, and what may run after it was cut short."""

    name: str
    before: tuple[str, ...]
    action: Callable[[Path, DurableFiles], object]
    allowed: tuple[str | None, ...]
    wanted: str | None


def put_in(version: str, *, downgrade: bool = False) -> Callable[[Path, DurableFiles], object]:
    def act(top: Path, files: DurableFiles) -> object:
        device = device_at(top / "device", files)
        return install(device, bundle_file(top.parent, version), allow_downgrade=downgrade)

    return act


def go_back(top: Path, files: DurableFiles) -> object:
    return rollback(device_at(top / "device", files))


def new_key(top: Path, files: DurableFiles) -> object:
    path = top.parent / "next.json"
    if not path.exists():
        write_key_file(vouch_for(public(NEXT_KEY, "next"), [KEY]), path)
    return trust_key(device_at(top / "device", files), path)


def bundle_file(folder: Path, version: str) -> Path:
    path = folder / f"{version}.zip"
    return path if path.exists() else write_zip(signed_files(KEY, version=version), path)


SCENARIOS = [
    Scenario("first", (), put_in("1.0.0"), (None, "1.0.0"), "1.0.0"),
    Scenario("third", ("1.0.0", "2.0.0"), put_in("3.0.0"), ("2.0.0", "3.0.0"), "3.0.0"),
    Scenario("downgrade", ("2.0.0",), put_in("1.0.0", downgrade=True), ("1.0.0", "2.0.0"), "1.0.0"),
    Scenario("rollback", ("1.0.0", "2.0.0"), go_back, ("1.0.0", "2.0.0"), "1.0.0"),
    Scenario("key", ("1.0.0",), new_key, ("1.0.0",), "1.0.0"),
]


def make(top: Path, scenario: Scenario) -> Path:
    """A device as it is before, under ``top``, every byte on the disk."""
    (top / "device" / "keys").mkdir(parents=True)
    (top / "device" / "keys" / "lab.json").write_bytes(public(KEY).to_bytes())
    for version in scenario.before:
        put_in(version)(top, PowerDisk(top))
    return top


def running(top: Path) -> str | None:
    """What starts; None when nothing was ever installed, which is said in one line."""
    try:
        return active_bundle(top / "device", say=lambda line: None).manifest.version
    except BundleError as refusal:
        message = str(refusal)
    assert "\n" not in message
    return None


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "lost",
    ["nothing", "all", *(pytest.param(n, marks=pytest.mark.slow) for n in range(CHANCES))],
)
def test_cut_at_every_operation(scenario: Scenario, lost: str | int, tmp_path: Path) -> None:
    top = make(tmp_path / "top", scenario)
    before = read_tree(top)
    operations = operations_of(lambda disk: scenario.action(top, disk), top)
    assert len(operations) > 15
    seen = set()
    for number, operation in enumerate(operations):
        for half in (False, True) if operation.startswith(("write", "append")) else (False,):
            write_tree(top, before)
            disk = PowerDisk(top, number, half=half)
            with pytest.raises(PowerCutError):
                scenario.action(top, disk)
            if lost == "all":
                disk.lose()
            elif lost != "nothing":
                disk.lose(random.Random(f"{scenario.name} {lost} {number} {half}"))
            found = running(top)
            assert found in scenario.allowed, f"{operation}: {found} starts"
            seen.add(found)
            if found == scenario.wanted and scenario.wanted not in scenario.before[-1:]:
                audit = (top / "device" / "audit.jsonl").read_text()
                assert f'"event": "activate", "bundle": "toy-discs-{found}"' in audit
            if lost == "all" and scenario.name != "rollback":
                # Whatever was left behind, the same command again ends well.
                scenario.action(top, PowerDisk(top))
                assert running(top) == scenario.wanted
    assert seen <= set(scenario.allowed)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_what_ended_well_survives_a_power_cut(scenario: Scenario, tmp_path: Path) -> None:
    top = make(tmp_path / "device-top", scenario)
    disk = PowerDisk(top)
    scenario.action(top, disk)
    disk.lose()
    assert running(top) == scenario.wanted
    if scenario.name == "key":
        device = DeviceRoot(top / "device")
        assert NEXT_KEY.key_id in device.trusted_keys(at=NOW).keys


def test_a_root_that_was_not_there_is_on_the_disk_with_everything_above_it(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    key = tmp_path / "lab.json"
    write_key_file(public(KEY), key)
    disk = PowerDisk(top)
    device = device_at(top / "var" / "lib" / "device", disk)
    trust_key(device, key)
    install(device, bundle_file(tmp_path, "1.0.0"))
    disk.lose()
    found = active_bundle(device.root.path, say=lambda line: None)
    assert found.manifest.version == "1.0.0"


def test_the_disk_of_these_tests_loses_what_is_not_flushed(tmp_path: Path) -> None:
    """Otherwise the tests above would prove nothing."""
    disk = PowerDisk(tmp_path)
    for name in ("flushed", "nameless", "unflushed"):
        disk.write(tmp_path / name, [b"content"])
    disk.fsync(tmp_path / "flushed")
    disk.sync_folder(tmp_path)
    disk.write(tmp_path / "late", [b"content"])
    disk.fsync(tmp_path / "late")
    disk.rename(tmp_path / "flushed", tmp_path / "renamed")
    disk.lose()
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == {"flushed": b"content", "nameless": b"", "unflushed": b""}
