"""What lies where under a device's root, and which slot starts.

Owns the layout and the rule that finds a slot that starts: the active one; if the state
says nothing usable, what the slots themselves prove. Changes nothing (see ``install``).

::

    root/keys/*.json                  public keys that bundles may be signed with
    root/slots/a/bundle.zip           a bundle, as one file
    root/slots/a/proof.json           that it passed every step, and when
    root/slots/b/...                  the other one
    root/state.json                   which slot is active
    root/audit.jsonl                  what was done
    root/engines/                     engines built here
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.device.records import (
    SLOTS,
    DeviceState,
    SlotName,
    SlotProof,
    Version,
    read_sealed,
    version_of,
)
from edge_runtime.errors import BundleError, LeukoscopeError, StoreError
from edge_runtime.signature import TrustedKeys, load_trusted_keys


@dataclass(frozen=True, slots=True)
class DeviceRoot:
    """The paths under one root."""

    path: Path

    @property
    def keys(self) -> Path:
        """Folder of trusted public keys."""
        return self.path / "keys"

    @property
    def engines(self) -> Path:
        """Folder of engines."""
        return self.path / "engines"

    @property
    def state(self) -> Path:
        """File that names the active slot."""
        return self.path / "state.json"

    @property
    def audit(self) -> Path:
        """File that tells what was done."""
        return self.path / "audit.jsonl"

    @property
    def slots(self) -> Path:
        """Folder of both slots."""
        return self.path / "slots"

    def slot(self, name: SlotName) -> Path:
        """Folder of one slot."""
        return self.slots / name

    def bundle(self, name: SlotName) -> Path:
        """A slot's bundle."""
        return self.slot(name) / "bundle.zip"

    def incoming(self, name: SlotName) -> Path:
        """Where a bundle waits until it has passed every step."""
        return self.slot(name) / "incoming.zip"

    def proof(self, name: SlotName) -> Path:
        """A slot's proof."""
        return self.slot(name) / "proof.json"

    def trusted_keys(self, *, at: datetime | None) -> TrustedKeys:
        """The device's keys.

        Raises:
            BundleError: there is none.
        """
        keys = load_trusted_keys(self.keys, at=at) if self.keys.is_dir() else None
        if keys is None or not (keys.keys or keys.problems):
            raise BundleError(
                f"device {self.path}: no key is trusted here; bring one in with "
                "`leukoscope device trust KEY.json`"
            )
        return keys


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot.

    Attributes:
        bundle: verified and proven; None when the slot cannot start.
        proof: its proof, when it fits the bundle.
        problem: why it cannot start; None when it can.
    """

    name: SlotName
    bundle: Bundle | None
    proof: SlotProof | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as it is.

    Attributes:
        state: None when it is absent or damaged.
        slots: both.
        active: the slot that starts; None when neither can.
        said: what a person must know, one line each.
    """

    state: DeviceState | None
    slots: dict[SlotName, SlotView]
    active: SlotName | None
    said: tuple[str, ...]

    @property
    def bundle(self) -> Bundle | None:
        """The bundle that starts."""
        return None if self.active is None else self.slots[self.active].bundle

    @property
    def highest(self) -> Version | None:
        """The highest version that state and slots tell of."""
        told = [slot.proof.version for slot in self.slots.values() if slot.proof is not None]
        if self.state is not None:
            told.append(self.state.highest)
        return max(map(version_of, told), default=None)


def other_slot(name: SlotName | None) -> SlotName:
    """The slot that is not ``name``."""
    return SLOTS[1] if name == SLOTS[0] else SLOTS[0]


def look_at_device(root: DeviceRoot, trust: TrustedKeys) -> DeviceView:
    """Opens both slots and finds the one that starts.

    Args:
        root: the device's.
        trust: its keys. For a start, not asked for their days: what was installed while its
            key was valid goes on working when the key expires, or a clock has stopped.
    """
    said = list(trust.problems)
    state = None
    try:
        state = read_sealed(DeviceState, root.state)
    except StoreError as error:
        said.append(f"{error}; what the slots prove counts")
    slots = {name: look_at_slot(root, name, trust) for name in SLOTS}
    able = [view for view in slots.values() if view.problem is None and view.proof is not None]
    # The one made active last; only counts when the state does not say.
    able.sort(key=lambda view: -1 if view.proof is None else -view.proof.sequence)
    if state is not None:
        active = state.active
        able.sort(key=lambda view: view.name != active)
    first = able[0].name if able else None
    if state is not None and first != state.active:
        problem = slots[state.active].problem
        instead = "nothing else can start" if first is None else f"slot {first} starts instead"
        said.append(f"the active slot {state.active} cannot start ({problem}); {instead}")
    elif state is None and first is not None:
        if not root.state.exists():
            said.append(f"{root.state} is missing; what the slots prove counts")
        said.append(f"slot {first} starts: it was made active last")
    return DeviceView(state, slots, first, tuple(said))


def look_at_slot(root: DeviceRoot, name: SlotName, trust: TrustedKeys) -> SlotView:
    """One slot: its bundle verified again, and its proof compared with it."""
    if not root.bundle(name).exists():
        return SlotView(name, None, None, "empty")
    try:
        bundle = open_bundle(root.bundle(name), trust=trust)
        proof = read_sealed(SlotProof, root.proof(name))
    except LeukoscopeError as error:
        return SlotView(name, None, None, str(error))
    if proof is None or proof.bundle_sha256 != bundle.sha256:
        return SlotView(name, None, None, "its bundle did not pass every step of an installation")
    return SlotView(name, bundle, proof, None)


def active_bundle(root: Path, *, say: Callable[[str], None]) -> Bundle:
    """The bundle a device starts with, its signature checked again.

    Args:
        root: the device's.
        say: takes what a person must know, as when another slot than the active one starts.

    Raises:
        BundleError: no key is trusted, or no slot can start.
        SettingsError: a key is there twice.
    """
    device = DeviceRoot(root)
    trust = device.trusted_keys(at=None)
    quick = _as_the_state_says(device, trust)
    if quick is not None:
        return quick
    view = look_at_device(device, trust)
    for line in view.said:
        say(line)
    if view.bundle is None:
        reasons = "; ".join(f"slot {each.name}: {each.problem}" for each in view.slots.values())
        raise BundleError(
            f"device {root}: no installed bundle can start ({reasons}); install one with "
            "`leukoscope device install`"
        )
    return view.bundle


def _as_the_state_says(root: DeviceRoot, trust: TrustedKeys) -> Bundle | None:
    """The active slot's bundle, the other slot left alone; None when anything is amiss."""
    try:
        state = read_sealed(DeviceState, root.state)
    except StoreError:
        return None
    if state is None or trust.problems:
        return None
    return look_at_slot(root, state.active, trust).bundle
