"""``leukoscope bundle``: create, key, sign, beside the device side's inspect, verify, diff.

Owns flags, prompts and what is printed. Does not own signing (see ``signing``), golden data
(see ``golden``) nor writing (see ``bundle_writer``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.bundle_cli import app
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle
    from export.bundle_writer import BundleDraft
    from export.signing import SigningKey

__all__ = ["app"]

_CALIBRATION_FILES = ("calibration.html", "calibration_report.json")
_CALIBRATION_FOLDER = "calibration"
# Larger detectors than the shipped one, and the golden fields; what a device reads is more.
_LARGEST_MB = 256.0
_LARGEST_PASSPHRASE_BYTES = 4096

Keys = Annotated[
    list[Path] | None,
    typer.Option("--key", help="private key, PEM; may be given again [default: not signed]"),
]
Passphrase = Annotated[
    Path | None, typer.Option(help="file with the passphrase of all keys, in its first line")
]


@app.command()
def create(
    bundle: Annotated[Path, typer.Argument(help="bundle that `leukoscope export` wrote")],
    out: Annotated[Path, typer.Option(help="bundle file, ending in .zip")],
    key: Keys = None,
    passphrase_file: Passphrase = None,
    version: Annotated[
        str | None, typer.Option(help="version of the new bundle [default: as it is]")
    ] = None,
    calibration_report: Annotated[
        Path | None, typer.Option(help="folder that `leukoscope calibrate report` wrote")
    ] = None,
    golden_fields: Annotated[
        Path | None,
        typer.Option(help="folder of pictures for the self-test [default: drawn ones]"),
    ] = None,
    new_golden: Annotated[
        bool, typer.Option("--new-golden", help="make golden data anew where there are some")
    ] = False,
    largest_mb: Annotated[
        float, typer.Option(min=0, help="larger bundles are refused")
    ] = _LARGEST_MB,
) -> None:
    """Make the one file that devices install: with golden data, a calibration report, signed.

    Golden data are what ONNX Runtime says of a few drawn fields here; a device compares. The
    same inputs give the same bytes.
    """
    from edge_runtime.bundle import open_bundle
    from export.bundle_writer import draft_of, refuse_foreign, write_bundle
    from export.cards import with_card
    from export.signing import sign_manifest

    if out.suffix != ".zip":
        raise SettingsError(f"--out {out}: devices install one file; give a name ending in .zip")
    refuse_foreign(out)
    keys = _read_keys(key or [], passphrase_file)
    report = {} if calibration_report is None else _calibration_files(calibration_report)
    source = open_bundle(bundle)
    keeps = source.manifest.golden is not None and not new_golden and golden_fields is None
    draft = draft_of(source, keep_golden=keeps)
    if version is not None:
        # The card names the version.
        draft = with_card(replace(draft, version=version))
    if not keeps:
        draft = _with_golden(draft, source, golden_fields)
    draft = replace(draft, contents={**draft.contents, **report})
    written = write_bundle(
        draft,
        out,
        largest_bytes=int(largest_mb * 1e6),
        sign=(lambda manifest: sign_manifest(manifest, keys)) if keys else None,
    )
    typer.echo(f"{out}: {written.id}, {out.stat().st_size / 1e6:.1f} MB, sha256 {written.sha256}")
    typer.echo(
        f"signed by {', '.join(each.key_id for each in keys)}"
        if keys
        else "not signed; devices take it after `leukoscope bundle sign`"
    )
    typer.echo(RESEARCH_USE)


@app.command(name="key")
def make_key(
    private: Annotated[Path, typer.Argument(help="private key to write, PEM; keep it secret")],
    public: Annotated[Path, typer.Option(help="public key file to write, JSON")],
    name: Annotated[str, typer.Option(help="whose key it is, as devices will say")],
    days: Annotated[int, typer.Option(min=1, max=36500, help="how long it is valid")] = 730,
    first_day: Annotated[
        str | None, typer.Option(help="first valid day, YYYY-MM-DD [default: today]")
    ] = None,
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="no new key: write the revocation of the one in PRIVATE"),
    ] = False,
    passphrase_file: Passphrase = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="leave the new key unprotected in its file")
    ] = False,
) -> None:
    """Make a key pair: the private half stays here, the public half goes to devices."""
    from edge_runtime.clinic.atomic_file import prepare_folder
    from export.signing import (
        new_signing_key,
        read_private_key,
        vouch_for,
        write_key_file,
        write_private_key,
    )

    begins = _day(first_day)
    try:
        ends = begins + timedelta(days=days)
    except OverflowError as error:
        raise SettingsError(f"--days {days}: beyond the calendar; give fewer") from error
    if public.exists():
        raise SettingsError(f"--public {public}: exists and is not overwritten; name another")
    if public.absolute() == private.absolute():
        raise SettingsError(f"--public {public}: the private key's own file; name another")
    # Before there is a private key whose public half could not be written.
    prepare_folder(public.parent, flag="--public")
    if revoke:
        made = read_private_key(private, _passphrase(passphrase_file, private))
        # It vouches for its own revocation; another trusted key may do so as well.
        told = made.public_key(name, begins, ends).model_copy(update={"revoked": True})
        write_key_file(vouch_for(told, [made]), public)
        typer.echo(f"{public}: revocation of key {made.key_id}")
        return
    secret = None if no_passphrase else _new_passphrase(passphrase_file)
    made = new_signing_key()
    file = made.public_key(name, begins, ends)
    write_private_key(made, private, secret)
    write_key_file(file, public)
    typer.echo(f"{private}: private key{'' if secret else ', not protected by a passphrase'}")
    typer.echo(f"{public}: public key {file.key}, valid {begins} to {ends}")


@app.command()
def sign(
    target: Annotated[Path, typer.Argument(help="bundle, or public key file of another key")],
    key: Annotated[list[Path], typer.Option(help="private key, PEM; may be given again")],
    out: Annotated[
        Path | None, typer.Option(help="where to write [default: in the place of TARGET]")
    ] = None,
    passphrase_file: Passphrase = None,
) -> None:
    """Add signatures to a bundle, or vouch for another public key; earlier ones stay."""
    from edge_runtime.bundle import SIGNATURES_NAME, open_bundle
    from edge_runtime.signature import parse_signatures, read_key_file
    from export.bundle_writer import write_files
    from export.signing import sign_manifest, vouch_for, write_key_file

    keys = _read_keys(key, passphrase_file)
    if target.suffix == ".json" and target.is_file():
        vouched = vouch_for(read_key_file(target), keys)
        write_key_file(vouched, out or target)
        ids = ", ".join(each.key_id for each in vouched.signatures)
        typer.echo(f"{out or target}: key {vouched.key}, signed by {ids}")
        return
    opened = open_bundle(target)
    kept = (
        ()
        if opened.signatures is None
        else parse_signatures(opened.signatures, where=f"bundle {target}")
    )
    signatures = sign_manifest(opened.manifest_bytes, keys, kept=kept)
    written = write_files({**opened.files, SIGNATURES_NAME: signatures}, out or target)
    ids = ", ".join(each.key_id for each in parse_signatures(signatures, where=str(target)))
    typer.echo(f"{out or target}: {written.id}, signed by {ids}")


def _with_golden(draft: BundleDraft, source: Bundle, folder: Path | None) -> BundleDraft:
    from export.golden import drawn_fields, fields_of, make_golden

    fields, pixel_size_um = drawn_fields() if folder is None else (fields_of(folder), None)
    spec, files = make_golden(source, fields, pixel_size_um, say=_say)
    return replace(draft, golden=spec, contents={**draft.contents, **files})


def _calibration_files(folder: Path) -> dict[str, bytes]:
    files = {}
    for name in _CALIBRATION_FILES:
        try:
            files[f"{_CALIBRATION_FOLDER}/{name}"] = (folder / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"calibration report {folder}: {name}: {error.strerror}; write it with "
                "`leukoscope calibrate report`"
            ) from error
    return files


def _read_keys(paths: Sequence[Path], passphrase_file: Path | None) -> list[SigningKey]:
    from export.signing import read_private_key

    return [read_private_key(path, _passphrase(passphrase_file, path)) for path in paths]


def _passphrase(file: Path | None, key: Path) -> bytes | None:
    """Of an existing key: from a file, or asked for when the key is protected."""
    if file is not None:
        return _first_line(file)
    try:
        protected = b"ENCRYPTED" in key.read_bytes()[:100]
    except OSError:
        # Reading the key itself says what is wrong.
        return None
    if protected and sys.stdin.isatty():
        return str(typer.prompt(f"passphrase of {key}", hide_input=True, err=True)).encode()
    return None


def _new_passphrase(file: Path | None) -> bytes:
    if file is not None:
        return _first_line(file)
    if not sys.stdin.isatty():
        raise SettingsError(
            "a passphrase for the new key: give --passphrase-file, or --no-passphrase where the "
            "file is protected otherwise"
        )
    asked = typer.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return str(asked).encode()


def _first_line(file: Path) -> bytes:
    try:
        with file.open("rb") as handle:
            line = handle.read(_LARGEST_PASSPHRASE_BYTES).split(b"\n")[0].rstrip(b"\r")
    except OSError as error:
        raise SettingsError(
            f"--passphrase-file {file}: {error.strerror}; name a readable file"
        ) from error
    if not line:
        raise SettingsError(f"--passphrase-file {file}: its first line is empty")
    return line


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(timezone.utc).date()
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"--first-day {text!r}: give it as YYYY-MM-DD") from error


def _say(line: str) -> None:
    typer.echo(line, err=True)
