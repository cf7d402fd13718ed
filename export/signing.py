"""Private keys: making them, keeping them, signing with them.

Owns everything a private key touches. It happens on the integrator's side only: devices
hold public keys (see ``edge_runtime.signature``), and nothing here runs on one.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.clinic.atomic_file import replacing, store_error, sync_folder
from edge_runtime.errors import SettingsError
from edge_runtime.signature import (
    KeyFile,
    PublicKey,
    Signature,
    key_id_of,
    manifest_message,
    read_key_file,
    signatures_to_bytes,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_OWNER_ONLY = 0o600
_LARGEST_KEY_BYTES = 64 * 1024


class SigningKey:
    """One private key in memory."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @property
    def public_bytes(self) -> bytes:
        """The 32 bytes of its public half."""
        return self._private.public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        """See ``edge_runtime.signature.key_id_of``."""
        return key_id_of(self.public_bytes)

    def sign(self, message: bytes) -> Signature:
        """The signature of a message; the same message, the same bytes."""
        raw = self._private.sign(message)
        return Signature(key_id=self.key_id, signature=base64.b64encode(raw).decode())

    def public_key(self, name: str, not_before: date, not_after: date) -> KeyFile:
        """Its public half as a key file.

        Raises:
            SettingsError: the name is not one line of text, or the days are the wrong way round.
        """
        if not_after < not_before:
            raise SettingsError(
                f"key {name!r}: it would end on {not_after} before it begins on {not_before}; "
                "give a later day"
            )
        if not name.strip() or not name.isprintable() or len(name) > 100:
            raise SettingsError(f"key name {name!r}: give one line of at most 100 characters")
        encoded = base64.b64encode(self.public_bytes).decode()
        return KeyFile(name=name, public_key=encoded, not_before=not_before, not_after=not_after)


def new_signing_key() -> SigningKey:
    """A key from the system's own randomness."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SigningKey(Ed25519PrivateKey.generate())


def write_private_key(key: SigningKey, path: Path, passphrase: bytes | None) -> None:
    """Writes PEM (PKCS 8) that only its owner may read.

    Raises:
        SettingsError: there is a file already; a key is never overwritten.
        StoreError: it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization

    protection: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    content = key._private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    try:
        # Never readable by others, not even for the moment before a chmod.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError as error:
        raise SettingsError(f"key {path}: exists and is not overwritten; name another") from error
    except OSError as error:
        raise store_error(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise store_error(path, error) from error
    sync_folder(path.parent)


def read_private_key(path: Path, passphrase: bytes | None) -> SigningKey:
    """Reads a private key.

    Raises:
        SettingsError: it cannot be read, others may read it too, it is no Ed25519 key in PEM, or
            the passphrase is missing or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            content = handle.read(_LARGEST_KEY_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"key {path}: {error.strerror}; name a readable file") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError(
            f"key {path}: others may read or write it (mode {stat.S_IMODE(mode):o}); "
            f"chmod 600 {path}, and make a new key if somebody did"
        )
    try:
        private = load_pem_private_key(content, passphrase)
    except TypeError as error:
        # Said of a passphrase that is missing, or given for a key without one.
        needs = "is protected; give --passphrase-file" if passphrase is None else "has none"
        raise SettingsError(f"key {path}: passphrase: the key {needs}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"key {path}: no private key in PEM, or the wrong passphrase; make one with "
            "`leukoscope bundle key`"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise SettingsError(
            f"key {path}: another kind of key; bundles are signed with Ed25519, make one with "
            "`leukoscope bundle key`"
        )
    return SigningKey(private)


def sign_manifest(
    manifest: bytes, keys: Sequence[SigningKey], *, kept: Sequence[Signature] = ()
) -> bytes:
    """``signatures.json`` for a manifest.

    Args:
        manifest: its bytes.
        keys: who signs.
        kept: signatures of other keys that stay.
    """
    made = {each.key_id: each for each in kept}
    made |= {key.key_id: key.sign(manifest_message(manifest)) for key in keys}
    return signatures_to_bytes(made.values())


def vouch_for(file: KeyFile, keys: Sequence[SigningKey]) -> KeyFile:
    """A public key file signed by keys that devices trust already; earlier signatures stay."""
    made = {each.key_id: each for each in file.signatures}
    made |= {key.key_id: key.sign(file.key.message()) for key in keys}
    return KeyFile(
        **PublicKey.model_dump(file.key), signatures=tuple(made[name] for name in sorted(made))
    )


def write_key_file(file: KeyFile, path: Path) -> None:
    """Writes a public key file.

    Raises:
        SettingsError: something other than a public key file is there, such as a private key.
        StoreError: it cannot be written.
    """
    if path.exists():
        try:
            read_key_file(path)
        except SettingsError as error:
            raise SettingsError(
                f"{path}: exists, is no public key file and is not overwritten; name another"
            ) from error
    with replacing(path) as handle:
        handle.write(file.to_bytes())
