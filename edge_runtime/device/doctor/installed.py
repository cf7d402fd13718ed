"""Rows on what is installed: device root, keys, bundle, engines, models, disk.

Owns what of them a film needs. Does not own which slot starts (see ``device.slots``), what a
key's days mean (see ``signature``) nor engines (see ``engines.cache``).
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from edge_runtime.backends import BackendRow
from edge_runtime.bundle import Artifact, Bundle
from edge_runtime.device.doctor.machine import Machine
from edge_runtime.device.doctor.rows import DoctorRow, gigabytes
from edge_runtime.device.doctor.software import Software
from edge_runtime.device.slots import DeviceRoot, look_at_device
from edge_runtime.errors import LeukoscopeError
from edge_runtime.film_run import bundle_to_run, engines_folder
from edge_runtime.settings import Settings
from edge_runtime.signature import TrustedKeys, load_trusted_keys

# Enough time to have a bundle signed by the next key.
_RENEW_DAYS = 30
# Two bundles, their engines, and the report of a film with every field kept at full size.
_SPARE_DISK_BYTES = 2_000_000_000
_SHOWN_PATHS = 3


def installed_rows(
    machine: Machine, software: Software, settings: Settings, wished: BackendRow
) -> Iterator[DoctorRow]:
    """Rows on root, keys and bundle, then on the bundle's engines and models."""
    yield from _root_rows(settings)
    yield from _key_rows(machine, settings)
    yield _disk(machine, settings)
    said: list[str] = []
    try:
        bundle = bundle_to_run(None, settings, say=said.append)
    except LeukoscopeError as error:
        yield DoctorRow("bundle", str(error), "missing", _bundle_remedy(settings), stops=True)
        return
    if bundle.signed_by:
        signed = f"signed by {', '.join(bundle.signed_by)}"
    else:
        signed = "the shipped demonstration, signature not asked for"
    yield DoctorRow(
        "bundle", "; ".join([f"{bundle.id}, {signed}", *said]), "attention" if said else "good",
        _bundle_remedy(settings) if said else None,
    )  # fmt: skip
    reason = software.why_not(wished)
    if reason is not None:
        yield DoctorRow(
            "models", f"not tried: backend {wished.name} does not run here", "missing", stops=True
        )
        return
    try:
        artifacts = _artifacts(bundle, wished)
    except LeukoscopeError as error:
        yield DoctorRow(
            "models", str(error), "missing",
            "have the bundle exported with artifacts for this backend, or choose another",
            stops=True,
        )  # fmt: skip
        return
    if wished.runs_engines:
        engines = _engines(machine, software, settings, wished, bundle, artifacts)
        yield engines
        if engines.stops:
            return
    try:
        yield DoctorRow("models", software.open_models(bundle, settings, wished))
    except LeukoscopeError as error:
        yield DoctorRow(
            "models", str(error), "missing", _models_remedy(settings, wished), stops=True
        )


def _root_rows(settings: Settings) -> Iterator[DoctorRow]:
    if settings.device_root is None:
        yield DoctorRow(
            "device root", "not set: no signed bundle is asked for", "attention",
            "set device_root in the settings file, or LEUKOSCOPE_DEVICE_ROOT",
        )  # fmt: skip
        return
    root = DeviceRoot(settings.device_root)
    if not root.path.is_dir():
        yield DoctorRow(
            "device root", f"{root.path} is not there", "missing",
            f"leukoscope device trust KEY.json --root {root.path}",
        )  # fmt: skip
        return
    # Whoever can write a key here can have any bundle trusted, and an engine is run as it is.
    inside = sorted(root.path.rglob("*"))
    loose = [str(path) for path in (root.path, *inside) if _others_may_write(path)]
    if loose:
        shown = ", ".join(loose[:_SHOWN_PATHS])
        rest = len(loose) - _SHOWN_PATHS
        more = f" and {rest} more" if rest > 0 else ""
        yield DoctorRow(
            "device root", f"{root.path}: others may write to {shown}{more}", "attention",
            f"sudo chmod -R go-w {root.path}",
        )  # fmt: skip
    else:
        yield DoctorRow("device root", str(root.path))
    try:
        view = look_at_device(root, root.trusted_keys(at=None))
    except LeukoscopeError:
        # No keys: the row on keys says so.
        return
    told = []
    for name, slot in view.slots.items():
        if slot.bundle is None or slot.proof is None:
            told.append(f"{name}: {slot.problem}")
        else:
            mark = "active" if name == view.active else "previous"
            told.append(f"{name}: {mark}, {slot.bundle.id}, installed {slot.proof.installed_at}")
    yield DoctorRow(
        "slots", "; ".join([*told, *view.said]), "attention" if view.said else "good",
        "leukoscope device install BUNDLE.zip" if view.said else None,
    )  # fmt: skip


def _others_may_write(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    except OSError:
        return False


def _key_rows(machine: Machine, settings: Settings) -> Iterator[DoctorRow]:
    root = settings.device_root
    folder = settings.trusted_keys
    if folder is None and root is None:
        return
    remedy = f"leukoscope device trust KEY.json{'' if root is None else f' --root {root}'}"
    try:
        keys: TrustedKeys = (
            load_trusted_keys(folder, at=None)
            if folder is not None
            else DeviceRoot(root or Path()).trusted_keys(at=None)
        )
    except LeukoscopeError as error:
        yield DoctorRow("keys", str(error), "missing", remedy, stops=True)
        return
    for problem in keys.problems:
        yield DoctorRow("keys", problem, "attention", remedy)
    now = machine.clock()
    for key in keys.keys.values():
        why_not = key.why_not(now)
        if why_not is not None:
            yield DoctorRow(f"key {key}", f"{why_not}: installs nothing", "attention", remedy)
            continue
        left = key.not_after - now.date()
        days = f"trusted {key.not_before.isoformat()} to {key.not_after.isoformat()}"
        soon = left < timedelta(days=_RENEW_DAYS)
        yield DoctorRow(
            f"key {key}", f"{days}, {left.days} days left", "attention" if soon else "good",
            f"ask for the next key, signed by this one, then {remedy}" if soon else None,
        )  # fmt: skip


def _bundle_remedy(settings: Settings) -> str:
    if settings.device_root is None:
        return "leukoscope run with --bundle FILE, signed by a trusted key, or set device_root"
    return f"leukoscope device install BUNDLE.zip --root {settings.device_root}"


def _artifacts(bundle: Bundle, wished: BackendRow) -> list[Artifact]:
    return [bundle.artifact_for(wished.runtime, head) for head in bundle.manifest.heads]


def _engines(
    machine: Machine,
    software: Software,
    settings: Settings,
    wished: BackendRow,
    bundle: Bundle,
    artifacts: list[Artifact],
) -> DoctorRow:
    from edge_runtime.engines.builder import CellCounts
    from edge_runtime.engines.cache import (
        EngineCache,
        EngineIdentity,
        default_folder,
        platform_here,
    )
    from edge_runtime.engines.tensorrt_api import flavour_named

    remedy = _models_remedy(settings, wished)
    try:
        gpu, release = software.gpu(), software.engine_library(wished)
    except LeukoscopeError as error:
        return DoctorRow("engines", str(error), "missing", remedy, stops=True)
    cache = EngineCache(engines_folder(settings) or default_folder())
    lacking = []
    for artifact in artifacts:
        wanted = EngineIdentity(
            flavour_named(wished.name).name,
            release,
            platform_here(machine.root, machine.processor),
            (gpu.capability,),
            hashlib.sha256(bundle.contents[artifact.path]).hexdigest(),
            CellCounts(),
        )
        record = cache.serving(wanted)
        try:
            if record is None:
                lacking.append(artifact.path)
            else:
                cache.load(record)
        except LeukoscopeError as error:
            lacking.append(f"{artifact.path} ({error})")
    here = f"{gpu.name} ({gpu.capability}) with {wished.name} {release} in {cache.folder}"
    if lacking:
        return DoctorRow(
            "engines", f"none of {', '.join(lacking)} for {here}", "missing", remedy, stops=True
        )
    return DoctorRow("engines", f"{len(artifacts)} of {len(artifacts)} for {here}")


def _models_remedy(settings: Settings, wished: BackendRow) -> str | None:
    if not wished.runs_engines:
        return None
    if settings.device_root is None:
        return f"leukoscope engine build --flavour {wished.name}"
    return f"leukoscope device build-engines --root {settings.device_root} --backend {wished.name}"


def _disk(machine: Machine, settings: Settings) -> DoctorRow:
    wanted = (settings.device_root or Path()).absolute()
    folder = next(each for each in (wanted, *wanted.parents) if each.is_dir())
    try:
        free = machine.free_bytes(folder)
    except OSError as error:
        return DoctorRow("disk", f"{folder}: {error.strerror}", "attention")
    said = f"{gigabytes(free)} free in {folder}"
    if free < _SPARE_DISK_BYTES:
        return DoctorRow("disk", said, "attention", "remove reports of films that are done with")
    return DoctorRow("disk", said)
