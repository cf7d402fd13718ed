"""``leukoscope bundle``: inspect, verify, diff.

Owns flags and what is printed; what makes and signs bundles is added by
``export.bundle_cli``, where that package is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Look at model bundles, compare, make and sign them. {RESEARCH_USE}",
)
EXIT_DIFFERENT = 1
_LONGEST_VALUE = 60

BundlePath = Annotated[Path, typer.Argument(help="bundle folder or file")]


@app.command()
def inspect(bundle: BundlePath) -> None:
    """Say what is in a bundle, who claims to have signed it, and how it was measured.

    Every file is checked against the manifest; signatures are not (see verify).
    """
    from edge_runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    manifest = opened.manifest
    _say(f"{opened.id}: {manifest.model_card.title}")
    _say(f"sha256 {opened.sha256}")
    claimed = _claimed(opened)
    _say(f"signatures: {', '.join(claimed) or 'none'}{' (not checked)' if claimed else ''}")
    for head, part in (
        ("detector", manifest.detector),
        ("attribute head", manifest.attribute_head),
        ("classifier", manifest.classifier),
    ):
        if part is None:
            continue
        _say(f"{head}: {part.architecture}")
        for artifact in part.artifacts:
            size = len(opened.contents[artifact.path]) / 1e6
            _say(
                f"  {artifact.path}: {artifact.runtime}, {artifact.precision}, {size:.2f} MB, "
                f"{artifact.quantisation}"
            )
    calibration = manifest.calibration
    _say(f"calibration: {calibration.images} pictures, {calibration.method}")
    if manifest.domain is not None:
        _say(f"domains: {', '.join(each.name for each in manifest.domain.domains)}")
    _say(_golden(opened))
    for domain, metrics in manifest.model_card.metrics.items():
        figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        _say(f"measured on {domain}: {figures}")
    _say(f"files: {len(opened.contents)}, {_megabytes(opened):.1f} MB")
    for path, content in sorted(opened.contents.items()):
        _say(f"  {len(content):>10}  {path}")
    _say(RESEARCH_USE)


@app.command()
def verify(
    bundle: BundlePath,
    keys: Annotated[
        Path | None,
        typer.Option(help="folder of trusted public keys [default: setting trusted_keys]"),
    ] = None,
) -> None:
    """Check every file of a bundle, and with trusted keys who signed it."""
    from edge_runtime.bundle import open_bundle
    from edge_runtime.settings import load_settings
    from edge_runtime.signature import load_trusted_keys

    folder = load_settings(None, flags={"trusted_keys": keys}).trusted_keys
    trust = None
    if folder is not None:
        trust = load_trusted_keys(folder, at=datetime.now(timezone.utc))
        for line in trust.problems:
            typer.echo(f"leukoscope: {line}; it does not count", err=True)
    opened = open_bundle(bundle, trust=trust)
    typer.echo(
        f"{opened.id}: {len(opened.contents)} files, {_megabytes(opened):.1f} MB, all as listed"
    )
    typer.echo(f"sha256 {opened.sha256}")
    if opened.signed_by:
        typer.echo(f"signed by {', '.join(opened.signed_by)}")
    elif opened.signatures is None:
        typer.echo("not signed")
    else:
        typer.echo("signatures not checked; name trusted keys with --keys")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="bundle folder or file")],
    second: Annotated[Path, typer.Argument(help="bundle folder or file")],
) -> None:
    """Say how two bundles differ; exit code 0 when they do not, 1 when they do."""
    from edge_runtime.bundle import open_bundle

    lines = list(_differences(open_bundle(first), open_bundle(second)))
    for line in lines:
        _say(line)
    if lines:
        raise typer.Exit(EXIT_DIFFERENT)
    typer.echo("no difference")


def _differences(first: Bundle, second: Bundle) -> Iterator[str]:
    before, after = _flat(first), _flat(second)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
    for path in sorted(first.contents.keys() | second.contents.keys()):
        old, new = first.contents.get(path), second.contents.get(path)
        if old == new:
            continue
        if old is None or new is None:
            yield f"file {path}: {'added' if old is None else 'removed'}"
        else:
            yield f"file {path}: {len(old)} -> {len(new)} bytes, other content"
    if set(_claimed(first)) != set(_claimed(second)):
        old_keys, new_keys = (", ".join(_claimed(each)) or "none" for each in (first, second))
        yield f"signatures (not checked): {old_keys} -> {new_keys}"


def _flat(bundle: Bundle) -> dict[str, Any]:
    """The manifest's leaves by dotted path; files are compared by themselves."""
    document = bundle.manifest.model_dump(mode="json", exclude={"files"})
    leaves: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        where, value = waiting.pop()
        inner = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else None
        )
        if inner is None:
            leaves[where] = value
        else:
            waiting += [(f"{where}.{key}" if where else str(key), each) for key, each in inner]
    return leaves


def _shown(leaves: dict[str, Any], key: str) -> str:
    if key not in leaves:
        return "absent"
    text = json.dumps(leaves[key], ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _claimed(bundle: Bundle) -> list[str]:
    from edge_runtime.signature import parse_signatures

    if bundle.signatures is None:
        return []
    found = parse_signatures(bundle.signatures, where=f"bundle {bundle.id}")
    return [each.key_id for each in found]


def _golden(bundle: Bundle) -> str:
    from edge_runtime.golden import golden_outputs

    if bundle.manifest.golden is None:
        return "golden data: none"
    runs = golden_outputs(bundle).runs
    told = [
        f"{name} ({sum(map(len, run.fields))} cells in {len(run.fields)} fields, {run.backend} "
        f"{run.version} on {run.machine})"
        for name, run in runs.items()
    ]
    return f"golden data: {', '.join(told)}"


def _say(line: str) -> None:
    """Prints one line: what a stranger wrote into a bundle can neither add one nor steer."""
    typer.echo("".join(each if each.isprintable() else "\ufffd" for each in line))


def _megabytes(bundle: Bundle) -> float:
    return sum(map(len, bundle.contents.values())) / 1e6
