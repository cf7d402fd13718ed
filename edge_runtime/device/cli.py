"""``leukoscope device``: install, status, rollback, build-engines, trust.

Owns flags and what is printed. Does not own any step (see ``install``).
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.errors import BundleError, SettingsError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from edge_runtime.device.install import Device
    from edge_runtime.device.slots import DeviceRoot
    from edge_runtime.settings import Settings
    from edge_runtime.signature import TrustedKeys

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Keep signed bundles on a device, in two slots. {RESEARCH_USE}",
)

Root = Annotated[
    Path | None,
    typer.Option(help="folder of the device's bundles and keys [default: setting device_root]"),
]
Backend = Annotated[
    str | None,
    typer.Option(help="what the device runs with [default: setting backend]"),
]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="TOML file with any of the settings")
]


@app.command()
def install(
    bundle: Annotated[Path, typer.Argument(help="signed bundle, file or folder")],
    root: Root = None,
    backend: Backend = None,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="take an older version; the audit says so")
    ] = False,
    settings_file: SettingsFile = None,
) -> None:
    """Verify a bundle, test it on this device and make it the active one.

    When any step fails, what runs stays as it is.
    """
    from edge_runtime.device.install import install as install_bundle

    device = _device(root, backend, settings_file)
    done = install_bundle(device, bundle, allow_downgrade=allow_downgrade)
    if done.changed:
        typer.echo(f"{done.bundle.id} is active, in slot {done.slot}")
    typer.echo(RESEARCH_USE)


@app.command()
def status(root: Root = None, settings_file: SettingsFile = None) -> None:
    """Say what is installed, who signed it and which keys are trusted."""
    from edge_runtime.device.slots import look_at_device

    found = _root(_settings(root, None, settings_file))
    keys = found.trusted_keys(at=None)
    view = look_at_device(found, keys)
    for name, slot in view.slots.items():
        if slot.bundle is None or slot.proof is None:
            typer.echo(f"slot {name}: {slot.problem}")
            continue
        mark = "active" if name == view.active else "previous"
        typer.echo(
            f"slot {name}: {mark}, {slot.bundle.id}, signed by {', '.join(slot.bundle.signed_by)}, "
            f"installed {slot.proof.installed_at}"
        )
        for line in slot.proof.self_test:
            typer.echo(f"  {line}")
    highest = view.highest
    if highest is not None:
        typer.echo(f"highest version: {'.'.join(map(str, highest))}")
    _print_keys(keys)
    for line in view.said:
        typer.echo(f"leukoscope: {line}", err=True)
    if view.active is None:
        raise BundleError(
            f"device {found.path}: no installed bundle can start; install one with "
            "`leukoscope device install`"
        )
    typer.echo(RESEARCH_USE)


@app.command()
def rollback(root: Root = None, settings_file: SettingsFile = None) -> None:
    """Make the bundle that was active before the active one again."""
    from edge_runtime.device.install import rollback as roll_back

    done = roll_back(_device(root, None, settings_file))
    typer.echo(f"{done.bundle.id} is active, in slot {done.slot}")
    typer.echo(RESEARCH_USE)


@app.command(name="build-engines")
def build_engines(
    root: Root = None, backend: Backend = None, settings_file: SettingsFile = None
) -> None:
    """Build the active bundle's engines again, as after an update of TensorRT, and test it."""
    from edge_runtime.device.install import build_engines as build

    build(_device(root, backend, settings_file))
    typer.echo(RESEARCH_USE)


@app.command()
def trust(
    key: Annotated[Path, typer.Argument(help="public key file, JSON")],
    root: Root = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="revoke a key even if the active bundle cannot start then"),
    ] = False,
    settings_file: SettingsFile = None,
) -> None:
    """Trust a public key, or take a revocation of one.

    The first key is taken as it is: compare its id with what its owner tells you. Every later
    one must be signed by a key trusted already.
    """
    from edge_runtime.device.install import trust_key

    device = _device(root, None, settings_file)
    taken = trust_key(device, key, force=force)
    typer.echo(f"taken: {taken}")
    _print_keys(device.root.trusted_keys(at=None))


def _print_keys(keys: TrustedKeys) -> None:
    now = _now()
    for key in keys.keys.values():
        why_not = key.why_not(now)
        days = f"{key.not_before.isoformat()} to {key.not_after.isoformat()}"
        typer.echo(f"key {key}: {'trusted' if why_not is None else why_not}, {days}")


def _device(root: Path | None, backend: str | None, settings_file: Path | None) -> Device:
    return device_of(_settings(root, backend, settings_file))


def device_of(settings: Settings) -> Device:
    """The device of these settings, on the real disk; engines and self-test use one folder.

    Raises:
        SettingsError: the settings name no root.
    """
    from edge_runtime.device.files import DiskFiles
    from edge_runtime.device.install import Device
    from edge_runtime.device.steps import engines_for, self_test_on
    from edge_runtime.film_run import engines_folder

    return Device(
        root=_root(settings),
        files=DiskFiles(),
        clock=_now,
        engines=engines_for(settings.backend, typer.echo),
        self_test=self_test_on(settings.backend, engines_folder(settings)),
        say=typer.echo,
        engines_folder=settings.engines,
    )


def _settings(root: Path | None, backend: str | None, file: Path | None) -> Settings:
    from edge_runtime.settings import load_settings

    return load_settings(file, flags={"device_root": root, "backend": backend})


def _root(settings: Settings) -> DeviceRoot:
    from edge_runtime.device.slots import DeviceRoot

    if settings.device_root is None:
        raise SettingsError("no device root; give --root, or set LEUKOSCOPE_DEVICE_ROOT")
    return DeviceRoot(settings.device_root)


def _now() -> datetime:
    return datetime.now(timezone.utc)
