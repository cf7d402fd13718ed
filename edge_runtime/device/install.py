"""Changing what a device runs: install, roll back, build engines, trust a key.

Owns the order of the steps, which is what makes a power cut harmless: everything new is
written, flushed and proven beside what runs, and one rename of ``state.json`` switches.
Does not own the disk (see ``files``), which slot starts (see ``slots``), engines
(see ``steps``) nor the self-test's verdict (see ``golden``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.bundle_container import plain_zip
from edge_runtime.clinic.atomic_file import store_error
from edge_runtime.device.files import DurableFiles, put
from edge_runtime.device.records import (
    SLOTS,
    AuditLog,
    DeviceState,
    SlotName,
    SlotProof,
    Version,
    sealed,
    version_of,
)
from edge_runtime.device.slots import (
    DeviceRoot,
    DeviceView,
    look_at_device,
    look_at_slot,
    other_slot,
)
from edge_runtime.errors import BundleError, LeukoscopeError, SettingsError, StoreError
from edge_runtime.golden import GoldenResult
from edge_runtime.signature import TrustedKeys, read_key_file

# Builds the engines of a bundle into a folder and says, line by line, what it did.
EngineStep = Callable[[Bundle, Path], Sequence[str]]
SelfTest = Callable[[Bundle], GoldenResult]

# Records, the audit and what the file system itself needs, beside the bundle.
_SPARE_BYTES = 1024 * 1024
_ROOT_FLAG = "--root"


@dataclass(frozen=True, slots=True)
class Device:
    """One device: its root and everything that reaches beyond this program.

    Attributes:
        root: the folder.
        files: the disk.
        clock: the time, with its zone.
        engines: builds engines.
        self_test: runs a bundle's golden data.
        say: takes lines for the person at the device.
        engines_folder: where engines are kept; None means under the root.
    """

    root: DeviceRoot
    files: DurableFiles
    clock: Callable[[], datetime]
    engines: EngineStep
    self_test: SelfTest
    say: Callable[[str], None]
    engines_folder: Path | None = None

    @property
    def audit(self) -> AuditLog:
        """The device's audit."""
        return AuditLog(self.root.audit, self.files)


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation or a rollback ended with.

    Attributes:
        bundle: the active one.
        slot: where it lies.
        changed: False when it was active already.
    """

    bundle: Bundle
    slot: SlotName
    changed: bool


def install(device: Device, source: Path, *, allow_downgrade: bool = False) -> Installed:
    """Verifies a bundle, proves it on this device and makes it the active one.

    Until the last step the running slot is as it was, whatever happens.

    Args:
        device: where.
        source: the bundle, a file or a folder.
        allow_downgrade: take an older version too, or other content under the same one.

    Raises:
        BundleError: no signature counts, it is older, damaged, or fails the self-test.
        BackendError: the backend does not run here, or refuses a model.
        StoreError: the root cannot be written, is full, or another command works on it.
        SettingsError: a key is there twice.
    """
    # Where no key is trusted, nothing is even made.
    device.root.trusted_keys(at=None)
    with _working(device):
        # Read while nobody else changes them: a key may have been revoked a moment ago.
        trust = device.root.trusted_keys(at=device.clock())
        try:
            return _install(device, source, trust, allow_downgrade)
        except (LeukoscopeError, OSError) as error:
            # What stopped it counts, not that it could not be noted down as well.
            with contextlib.suppress(OSError):
                _note(device, "refused", source=str(source), reason=str(error))
            raise


def _install(device: Device, source: Path, trust: TrustedKeys, allow_downgrade: bool) -> Installed:
    bundle = open_bundle(source, trust=trust)
    view = look_at_device(device.root, replace(trust, at=None))
    for line in view.said:
        device.say(line)
    version = version_of(bundle.manifest.version)
    highest = _highest(device, view)
    downgrade = _check_version(bundle, version, highest, view, allow_downgrade)
    running = view.active
    if running is not None and _is_same(view.bundle, bundle) and _said_by_state(view):
        device.say(f"{bundle.id} is active already, in slot {running}")
        return Installed(bundle, running, changed=False)
    slot = other_slot(running)
    facts = _facts(bundle, slot)
    _note(device, "install", **facts, highest=_text(highest), downgrade=downgrade)
    _stage(device, bundle, slot, trust)
    try:
        device.say(f"{bundle.id}, signed by {', '.join(bundle.signed_by)}: copied to slot {slot}")
        lines = list(device.engines(bundle, device.engines_folder or device.root.engines))
        result = device.self_test(bundle)
        for line in (*lines, *result.lines()):
            device.say(line)
        _note(device, "proven", **facts, engines=lines, self_test=result.lines())
        if not result.passed:
            failed = next(each for each in result.parts if not each.passed)
            raise BundleError(
                f"bundle {bundle.id}: the self-test fails on this device: {failed.part}: "
                f"{failed.said}; {_kept(view)}"
            )
    except (LeukoscopeError, OSError):
        with contextlib.suppress(OSError):
            device.files.remove(device.root.incoming(slot))
        raise
    # Its new name is flushed with that of the proof, which lies in the same folder; with the
    # proof of another bundle, or none, the slot does not start.
    device.files.rename(device.root.incoming(slot), device.root.bundle(slot))
    _activate(
        device,
        view,
        slot,
        SlotProof(
            bundle_sha256=bundle.sha256,
            version=bundle.manifest.version,
            sequence=_next_sequence(view),
            installed_at=device.clock().isoformat(timespec="seconds"),
            self_test=tuple(result.lines()),
        ),
        max(version, highest or version),
        {**facts, "downgrade": downgrade},
    )
    return Installed(bundle, slot, changed=True)


def rollback(device: Device) -> Installed:
    """Makes the slot that was active before the active one again.

    The highest version stays as it is: installing something in between is a downgrade.

    Raises:
        BundleError: there is none, or it cannot start.
        StoreError: the root cannot be written, or another command works on it.
    """
    trust = device.root.trusted_keys(at=None)
    with _working(device):
        view = look_at_device(device.root, trust)
        for line in view.said:
            device.say(line)
        if view.active is None:
            raise BundleError(
                f"device {device.root.path}: no installed bundle can start; install one with "
                "`leukoscope device install`"
            )
        slot = other_slot(view.active)
        bundle, proof = view.slots[slot].bundle, view.slots[slot].proof
        if bundle is None or proof is None:
            raise BundleError(
                f"device {device.root.path}: nothing to go back to: slot {slot}: "
                f"{view.slots[slot].problem}"
            )
        highest = _highest(device, view) or version_of(proof.version)
        again = proof.model_copy(update={"sequence": _next_sequence(view)})
        facts = _facts(bundle, slot)
        _note(device, "rollback", **facts)
        _activate(device, view, slot, again, highest, {**facts, "downgrade": True})
        return Installed(bundle, slot, changed=True)


def build_engines(device: Device) -> GoldenResult:
    """Builds the active bundle's engines again and repeats its self-test.

    Raises:
        BundleError: nothing is installed, or the self-test fails.
        BackendError: the engines cannot be built where they are asked for.
        StoreError: the root cannot be written, or another command works on it.
    """
    trust = device.root.trusted_keys(at=None)
    with _working(device):
        view = look_at_device(device.root, trust)
        if view.active is None or view.bundle is None:
            raise BundleError(
                f"device {device.root.path}: no installed bundle can start; install one with "
                "`leukoscope device install`"
            )
        lines = list(device.engines(view.bundle, device.engines_folder or device.root.engines))
        result = device.self_test(view.bundle)
        for line in (*lines, *result.lines()):
            device.say(line)
        facts = _facts(view.bundle, view.active)
        _note(device, "engines", **facts, engines=lines, self_test=result.lines())
        if not result.passed:
            failed = next(each for each in result.parts if not each.passed)
            raise BundleError(
                f"bundle {view.bundle.id}: the self-test fails on this device: {failed.part}: "
                f"{failed.said}; roll back, or install another bundle"
            )
        return result


def trust_key(device: Device, source: Path, *, force: bool = False) -> str:
    """Takes a public key among those that may sign bundles, or a revocation of one.

    The first key is taken as it comes; every later one must be signed by a key that is
    trusted, valid and not revoked. A revoked key stays revoked.

    Args:
        device: where.
        source: the key file.
        force: revoke a key even when no installed bundle can start without it.

    Returns:
        Name and id of the key.

    Raises:
        SettingsError: no key file, no signature that counts, or it would undo a revocation.
        BundleError: the active bundle could not start any more.
        StoreError: the root cannot be written, or another command works on it.
    """
    file = read_key_file(source)
    key = file.key
    with _working(device):
        try:
            trust = device.root.trusted_keys(at=device.clock())
        except BundleError:
            trust = None
        vouched: tuple[str, ...] = ()
        if trust is not None:
            if not file.signatures:
                raise SettingsError(
                    f"key file {source}: keys are trusted here already, so a new one must be "
                    "signed by one of them: `leukoscope bundle sign KEY.json --key TRUSTED.pem`"
                )
            vouched = trust.check(
                key.message(), file.signatures, where=f"key file {source}", error=SettingsError
            )
            known = trust.keys.get(key.key_id)
            if known is not None and known.revoked and not key.revoked:
                raise SettingsError(
                    f"key file {source}: {key} was revoked here and stays so; make a new key"
                )
            _check_start(device, replace(trust, keys={**trust.keys, key.key_id: key}), force)
        _note(device, "trust", key=str(key), revoked=key.revoked, vouched_by=list(vouched))
        # Where it lies already, under whatever name: one key is never in two files.
        known_files = {} if trust is None else trust.files
        path = known_files.get(key.key_id, device.root.keys / f"{key.key_id}.json")
        put(device.files, path, [file.model_copy(update={"signatures": ()}).to_bytes()])
        return str(key)


def _check_start(device: Device, after: TrustedKeys, force: bool) -> None:
    """A device that starts must start with the new keys as well."""
    before = look_at_device(device.root, device.root.trusted_keys(at=None))
    if before.active is None or force:
        return
    slot = look_at_slot(device.root, before.active, replace(after, at=None))
    if slot.problem is not None:
        raise BundleError(
            f"the active bundle could not start any more: {slot.problem}; install one that "
            "another key signed first, or use --force"
        )


@contextlib.contextmanager
def _working(device: Device) -> Iterator[None]:
    """Folders made, one command at a time, and a failing disk said in one line."""
    root = device.root
    try:
        above = [folder for folder in root.path.absolute().parents if not folder.exists()]
        for folder in (
            *reversed(above),
            root.path,
            root.keys,
            root.engines,
            root.slots,
            *map(root.slot, SLOTS),
        ):
            device.files.make_folder(folder)
            device.files.sync_folder(folder.parent)
        handle = os.open(root.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _disk_error(root, error) from error
    try:
        try:
            # Held by the open file: a process that dies lets go of it.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"device {root.path}: another `leukoscope device` works on it; "
                "wait until it is done"
            ) from error
        try:
            yield
        except OSError as error:
            raise _disk_error(root, error) from error
    finally:
        os.close(handle)


def _disk_error(root: DeviceRoot, error: OSError) -> StoreError:
    name = error.filename
    path = Path(os.fsdecode(name)) if isinstance(name, (str, bytes)) else root.path
    return store_error(path, error, flag=_ROOT_FLAG)


def _stage(device: Device, bundle: Bundle, slot: SlotName, trust: TrustedKeys) -> None:
    """The verified bytes, as one file on the disk beside the slot's bundle, read back."""
    root, files = device.root, device.files
    incoming = root.incoming(slot)
    # What a power cut left behind must not take the room of what comes now.
    files.remove(incoming)
    size = sum(map(len, bundle.files.values()))
    free = shutil.disk_usage(root.path).free
    if free < size + _SPARE_BYTES:
        raise StoreError(
            f"device {root.path}: {free / 1e6:.1f} MB free, {bundle.id} needs "
            f"{(size + _SPARE_BYTES) / 1e6:.1f} MB; free some space there"
        )
    try:
        files.write(incoming, plain_zip(bundle.files))
        files.fsync(incoming)
        files.sync_folder(incoming.parent)
        if not _is_same(open_bundle(incoming, trust=trust), bundle):
            raise StoreError(f"{incoming}: the disk gives back other bytes; replace it")
    except (LeukoscopeError, OSError):
        with contextlib.suppress(OSError):
            files.remove(incoming)
        raise


def _activate(
    device: Device,
    view: DeviceView,
    slot: SlotName,
    proof: SlotProof,
    highest: Version,
    facts: Mapping[str, Any],
) -> None:
    """Audit, proof, then the one rename that switches."""
    root, files = device.root, device.files
    # First: with its proof a slot can start where there is no state, and no version may ever
    # have started that has no line in the audit.
    _note(device, "activate", **facts, highest=_text(highest))
    put(files, root.proof(slot), [sealed(proof)])
    state = DeviceState(
        active=slot,
        previous=view.active if view.active != slot else None,
        highest=_text(highest) or proof.version,
        sequence=proof.sequence,
    )
    put(files, root.state, [sealed(state)])


def _check_version(
    bundle: Bundle,
    version: Version,
    highest: Version | None,
    view: DeviceView,
    allow_downgrade: bool,
) -> bool:
    """Whether it is a downgrade; refuses one that is not allowed."""
    if highest is not None and version < highest:
        if allow_downgrade:
            return True
        raise BundleError(
            f"bundle {bundle.id}: older than {_text(highest)}, which was installed here; install a "
            "newer one, or use --allow-downgrade"
        )
    for slot in view.slots.values():
        installed = slot.bundle
        if (
            installed is not None
            and version_of(installed.manifest.version) == version
            and installed.sha256 != bundle.sha256
        ):
            if allow_downgrade:
                return True
            raise BundleError(
                f"bundle {bundle.id}: slot {slot.name} holds {installed.id} with other content; "
                "give the new one a higher version, or use --allow-downgrade"
            )
    return False


def _highest(device: Device, view: DeviceView) -> Version | None:
    told = [each for each in (view.highest, device.audit.highest()) if each is not None]
    return max(told, default=None)


def _next_sequence(view: DeviceView) -> int:
    told = [slot.proof.sequence for slot in view.slots.values() if slot.proof is not None]
    if view.state is not None:
        told.append(view.state.sequence)
    return max(told, default=0) + 1


def _said_by_state(view: DeviceView) -> bool:
    return view.state is not None and view.state.active == view.active


def _is_same(first: Bundle | None, second: Bundle) -> bool:
    return first is not None and first.files == second.files


def _kept(view: DeviceView) -> str:
    return "nothing was installed" if view.bundle is None else f"{view.bundle.id} goes on"


def _text(version: Version | None) -> str | None:
    return None if version is None else ".".join(map(str, version))


def _facts(bundle: Bundle, slot: SlotName) -> dict[str, Any]:
    return {
        "bundle": bundle.id,
        "version": bundle.manifest.version,
        "sha256": bundle.sha256,
        "signed_by": list(bundle.signed_by),
        "slot": slot,
    }


def _note(device: Device, event: str, **facts: Any) -> None:
    device.audit.add(device.clock(), event, **facts)
