"""Who signed a bundle: signatures, trusted public keys, and what makes one count.

Owns the form of ``signatures.json`` and of public key files, and the check of one against
the other. Does not own private keys: they never come near a device (see
``export.signing``). What is checked here is checked before a manifest is parsed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from edge_runtime.bundle_container import LARGEST_SIGNATURES_BYTES, SIGNATURES_NAME
from edge_runtime.errors import BundleError, LeukoscopeError, SettingsError

# What is signed begins with what it is, so that no signature can be used for another thing.
_MANIFEST_CONTEXT = b"leukoscope-bundle-manifest-v1\0"
_KEY_CONTEXT = b"leukoscope-trusted-key-v1\0"
_LARGEST_KEY_BYTES = 64 * 1024
_PUBLIC_BYTES, _SIGNATURE_BYTES = 32, 64


def manifest_message(manifest: bytes) -> bytes:
    """The bytes that a bundle's signature is made over."""
    return _MANIFEST_CONTEXT + manifest


def key_id_of(public_bytes: bytes) -> str:
    """The name of a key: the first 16 hex digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(public_bytes).hexdigest()[:16]


def _decoded(text: str, length: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    # The last character has bits that no decoder reads; they may not vary either.
    if len(raw) != length or base64.b64encode(raw).decode() != text:
        raise ValueError(f"not {length} bytes in base64")
    return raw


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Signature(_Strict):
    """One signature by one key."""

    key_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    algorithm: Literal["ed25519"] = "ed25519"
    signature: str = Field(description="64 bytes, base64")

    @field_validator("signature")
    @classmethod
    def _sixty_four_bytes(cls, text: str) -> str:
        _decoded(text, _SIGNATURE_BYTES)
        return text


class SignatureFile(_Strict):
    """The signatures of one thing, by key."""

    format: Literal[1] = 1
    signatures: tuple[Signature, ...] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        names = [each.key_id for each in self.signatures]
        if any(first >= second for first, second in pairwise(names)):
            raise ValueError("signatures are not in the order of their keys, each once")
        return self


class PublicKey(_Strict):
    """A public key that may sign bundles between two days, both included, UTC."""

    format: Literal[1] = 1
    name: str = Field(min_length=1, max_length=100, description="whose key it is")
    public_key: str = Field(description="32 bytes, base64")
    not_before: date
    not_after: date
    revoked: bool = False

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str) -> str:
        if not name.strip() or not name.isprintable():
            raise ValueError("not one line of text")
        return name

    @field_validator("public_key")
    @classmethod
    def _thirty_two_bytes(cls, text: str) -> str:
        _decoded(text, _PUBLIC_BYTES)
        return text

    @property
    def raw(self) -> bytes:
        """The 32 bytes."""
        return _decoded(self.public_key, _PUBLIC_BYTES)

    @property
    def key_id(self) -> str:
        """See ``key_id_of``."""
        return key_id_of(self.raw)

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id})"

    def why_not(self, at: datetime | None) -> str | None:
        """Why its signatures do not count, or None.

        Args:
            at: the time, with its zone; None does not ask for the days.
        """
        if self.revoked:
            return "was revoked"
        day = None if at is None else _utc_day(at)
        if day is not None and day > self.not_after:
            return f"expired on {self.not_after.isoformat()}"
        if day is not None and day < self.not_before:
            return f"is not valid before {self.not_before.isoformat()} (is the clock right?)"
        return None

    def message(self) -> bytes:
        """The bytes that are signed when one key vouches for another."""
        return _KEY_CONTEXT + _canonical(self.model_dump(mode="json", exclude={"signatures"}))


class KeyFile(PublicKey):
    """A public key as it travels, perhaps with signatures of keys that vouch for it."""

    signatures: tuple[Signature, ...] = Field(default=(), max_length=16)

    @property
    def key(self) -> PublicKey:
        """The key alone."""
        return PublicKey(**self.model_dump(exclude={"signatures"}))

    def to_bytes(self) -> bytes:
        """The file; without signatures, it is that of a trusted key."""
        return _canonical(self.model_dump(mode="json", exclude=self._left))

    @property
    def _left(self) -> set[str]:
        return set() if self.signatures else {"signatures"}


def signatures_to_bytes(signatures: Iterable[Signature]) -> bytes:
    """The one form of ``signatures.json`` with these signatures."""
    ordered = tuple(sorted(signatures, key=lambda each: each.key_id))
    return _canonical(SignatureFile(signatures=ordered).model_dump(mode="json"))


def parse_signatures(content: bytes, *, where: str) -> tuple[Signature, ...]:
    """Reads ``signatures.json``.

    Raises:
        BundleError: it is none, or not in the one form that the program writes.
    """
    if len(content) > LARGEST_SIGNATURES_BYTES:
        raise BundleError(f"{where}: {SIGNATURES_NAME} is too large to be one; sign it again")
    try:
        found = SignatureFile.model_validate_json(content).signatures
    except ValidationError as error:
        raise BundleError(
            f"{where}: {SIGNATURES_NAME}: {_first(error)}; copy it again, or sign it again"
        ) from error
    # Otherwise bytes between the values could be changed unseen.
    if signatures_to_bytes(found) != content:
        raise BundleError(
            f"{where}: {SIGNATURES_NAME} is not written as the program writes it; sign it again"
        )
    return found


def parse_key_file(content: bytes, *, where: str) -> KeyFile:
    """Reads a public key file, its signatures unchecked.

    Raises:
        SettingsError: it is none.
    """
    try:
        return KeyFile.model_validate_json(content)
    except ValidationError as error:
        raise SettingsError(f"{where}: no public key: {_first(error)}; ask for it again") from error


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys that a signature may come from.

    Attributes:
        keys: by key id.
        at: the time at which they must be valid; None does not ask for their days.
        problems: key files that cannot be read and therefore do not count, one line each.
        files: where each key was read from.
    """

    keys: Mapping[str, PublicKey]
    at: datetime | None
    problems: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    def check_manifest(
        self, manifest: bytes, signatures: bytes | None, *, where: str
    ) -> tuple[str, ...]:
        """Who signed a manifest.

        Args:
            manifest: its bytes, not yet parsed.
            signatures: bytes of ``signatures.json``; None when there is none.
            where: what the message calls it.

        Returns:
            Names and ids of the trusted keys, at least one.

        Raises:
            BundleError: no signature counts, or one of a trusted key does not fit.
        """
        if signatures is None:
            raise BundleError(
                f"{where}: not signed; take a signed one, or sign it with `leukoscope bundle sign`"
            )
        found = parse_signatures(signatures, where=where)
        return self.check(manifest_message(manifest), found, where=where, error=BundleError)

    def check(
        self,
        message: bytes,
        signatures: Sequence[Signature],
        *,
        where: str,
        error: type[LeukoscopeError],
    ) -> tuple[str, ...]:
        """As ``check_manifest``, for any message; refusals are of the class ``error``."""
        counting: list[str] = []
        reasons: list[str] = []
        for each in signatures:
            key = self.keys.get(each.key_id)
            if key is None:
                reasons.append(f"key {each.key_id} is unknown here")
                continue
            if not _fits(key, each, message):
                raise error(
                    f"{where}: the signature of {key} does not fit: it was altered after "
                    "signing; get it again"
                )
            why_not = key.why_not(self.at)
            if why_not is None:
                counting.append(str(key))
            else:
                reasons.append(f"key {key} {why_not}")
        if not counting:
            reason = "; ".join([*reasons, *self.problems]) or "no signature"
            known = ", ".join(map(str, self.keys.values())) or "none"
            raise error(
                f"{where}: no signature that counts: {reason}; trusted here: {known}; have it "
                "signed by a trusted key"
            )
        return tuple(counting)


def load_trusted_keys(folder: Path, *, at: datetime | None) -> TrustedKeys:
    """Reads all ``*.json`` of a folder of public keys.

    A file that cannot be read makes its key untrusted, not the others; it is told in
    ``problems``.

    Args:
        folder: of trusted keys.
        at: see ``TrustedKeys``.

    Raises:
        SettingsError: there is no such folder, or one key is in two files.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise SettingsError(
            f"trusted keys {folder}: {error.strerror}; name a folder of public key files"
        ) from error
    keys: dict[str, PublicKey] = {}
    origin: dict[str, Path] = {}
    problems = []
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            key = read_key_file(path).key
        except SettingsError as error:
            problems.append(str(error))
            continue
        if key.key_id in keys:
            raise SettingsError(
                f"trusted keys {folder}: {origin[key.key_id].name} and {path.name} hold the same "
                "key; remove one"
            )
        keys[key.key_id], origin[key.key_id] = key, path
    return TrustedKeys(keys, at, tuple(problems), origin)


def read_key_file(path: Path) -> KeyFile:
    """Reads one public key file, its signatures unchecked.

    Raises:
        SettingsError: it cannot be read, or is none.
    """
    where = f"key file {path}"
    try:
        with path.open("rb") as handle:
            content = handle.read(_LARGEST_KEY_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{where}: {error.strerror}; name a readable one") from error
    if len(content) > _LARGEST_KEY_BYTES:
        raise SettingsError(f"{where}: too large to be one; ask for it again")
    return parse_key_file(content, where=where)


def _fits(key: PublicKey, signature: Signature, message: bytes) -> bool:
    # Only who asks for signatures waits for the library.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(key.raw)
        public.verify(_decoded(signature.signature, _SIGNATURE_BYTES), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _utc_day(at: datetime) -> date:
    offset = at.utcoffset()
    if offset is None:
        raise ValueError("the time of a check needs its zone")
    return (at - offset).date()


def _canonical(document: Any) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    text = " ".join(str(first["msg"]).split())
    return f"{where}: {text}" if where else text
