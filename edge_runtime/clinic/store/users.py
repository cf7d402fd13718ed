"""Who uses the device: accounts, argon2 hashes of PINs and passwords, sign-in with a brake.

Owns accounts and sign-in. Does not own rights (see ``roles``) nor sessions, which the page
keeps: it must end one whose ``epoch`` is no longer the account's.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, insert, select, update

from edge_runtime.clinic.store.database import Database
from edge_runtime.clinic.store.records import SecretKind, stamp
from edge_runtime.clinic.store.roles import ROLES, Role, require
from edge_runtime.clinic.store.tables import users
from edge_runtime.clinic.store.trail import record
from edge_runtime.errors import AccessError, RecordError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

# OWASP's smallest Argon2id setting: a small device has no 64 MiB to spare for each sign-in.
_MEMORY_KIB, _PASSES, _LANES = 19_456, 2, 1
# A PIN has few values; what protects it is the brake below, not the hash.
PIN_DIGITS = (6, 12)
PASSWORD_CHARACTERS = (10, 200)
_NAME_CHARACTERS = 60
# Five tries cost nothing, then 30 s, doubling up to 15 minutes: a million PINs take decades.
_FREE_TRIES = 5
_FIRST_WAIT_S, _LONGEST_WAIT_S = 30, 900


@dataclass(frozen=True, slots=True)
class User:
    """One account.

    Attributes:
        epoch: counts up with the secret, the role and closing; ends older sessions.
    """

    id: int
    name: str
    role: Role
    secret_kind: SecretKind
    active: bool
    epoch: int


class Users:
    """The accounts of one store."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        # One hash at a time: each takes its memory.
        self._hashing = threading.Lock()
        # One try at a time: tries that run at once would all be before the brake.
        self._trying = threading.Lock()
        # Failed tries of browsers that know the account, by their mark.
        self._marked_failures: Counter[str] = Counter()

    def is_empty(self) -> bool:
        """Whether there is no account yet; then anybody may make the first."""
        with self._database.reading() as connection:
            return connection.execute(select(users.c.id).limit(1)).first() is None

    def add(self, name: str, role: Role, secret: str, by: User | None) -> User:
        """Makes an account; only the first, an admin's, may be made by nobody.

        Args:
            name: as it is shown and signed with.
            role: what it may do.
            secret: a PIN of digits, or a password.
            by: an admin.

        Raises:
            AccessError: ``by`` may not.
            RecordError: the name is taken, or name, role or secret will not do.
        """
        name = " ".join(name.split())
        if not 0 < len(name) <= _NAME_CHARACTERS:
            raise RecordError(f"user name {name!r}: wanted 1 to {_NAME_CHARACTERS} characters")
        if role not in ROLES:
            raise RecordError(f"role {role!r}: unknown; choose one of {', '.join(ROLES)}")
        kind = _kind(secret)
        hashed = self._hash(secret)
        with self._database.writing() as connection:
            if by is not None:
                require(self.in_transaction(connection, by), "manage")
            elif connection.execute(select(users.c.id).limit(1)).first() is not None:
                raise AccessError(f"user {name!r}: only an admin adds users; sign in as one")
            elif role != "admin":
                raise RecordError(f"user {name!r}: the first user must be an admin")
            taken = select(users.c.id).where(users.c.name_key == _key(name))
            if connection.execute(taken).first() is not None:
                raise RecordError(f"user {name!r}: the name is taken; choose another")
            done = connection.execute(
                insert(users).values(
                    name=name,
                    name_key=_key(name),
                    role=role,
                    secret_kind=kind,
                    secret_hash=hashed,
                    active=True,
                    failures=0,
                    epoch=1,
                    created_at=stamp(self._now()),
                )
            )
            (number,) = done.inserted_primary_key or (0,)
            after = {"user": int(number), "role": role, "secret_kind": kind}
            self._note(connection, by, "user_added", after=after)
        return self.get(int(number))

    def get(self, number: int) -> User:
        """An account as it is now; RecordError when there is none of this number."""
        with self._database.reading() as connection:
            return self.get_in(connection, number)

    def all(self) -> list[User]:
        """Every account, closed ones too, by name."""
        with self._database.reading() as connection:
            return [_as_user(row) for row in connection.execute(select(users).order_by("name_key"))]

    def sign_in(self, name: str, secret: str, *, marks: Collection[str] = ()) -> User:
        """Checks a name and a secret.

        Args:
            name: as it was typed.
            secret: PIN or password.
            marks: of the browser, see ``mark``. One that has signed the account in before has a
                few tries of its own: failed tries of somebody else do not lock it out.

        Raises:
            AccessError: they do not belong together, the account is closed, or too many tries
                failed; which of the first two it is, the message does not tell.
        """
        with self._trying:
            return self._try(name, secret, marks)

    def _try(self, name: str, secret: str, marks: Collection[str]) -> User:
        with self._database.reading() as connection:
            row = connection.execute(select(users).where(users.c.name_key == _key(name))).first()
        mark = None if row is None else self._known(row, marks)
        if mark is None and row is not None and row.locked_until is not None:
            left = (datetime.fromisoformat(row.locked_until) - self._now()).total_seconds()
            # A clock that was set back must not lock anybody out for longer than the longest.
            if 0 < left <= _LONGEST_WAIT_S:
                raise AccessError(f"sign-in: too many failed tries; wait {left:.0f} s")
        # A name that is not there takes as long as one that is.
        right = self._verify(self._nobody if row is None else str(row.secret_hash), secret)
        if row is None or not right or not row.active:
            self._refuse(row, mark)
            raise AccessError("sign-in: name and PIN or password do not belong together")
        if mark is not None:
            self._marked_failures.pop(mark, None)
        fresh = self._hash(secret) if self._hasher.check_needs_rehash(row.secret_hash) else None
        with self._database.writing() as connection:
            values: dict[str, Any] = {"failures": 0, "locked_until": None}
            if fresh is not None:
                values["secret_hash"] = fresh
            connection.execute(update(users).where(users.c.id == row.id).values(**values))
            user = self.get_in(connection, row.id)
            self._note(connection, user, "signed_in")
        return user

    def mark(self, user: User) -> str:
        """What a browser keeps to show later that this account signed in with it.

        It opens nothing. It is worth nothing once the account's secret was changed, or after a few
        failed tries.
        """
        with self._database.reading() as connection:
            query = select(users.c.secret_hash).where(users.c.id == user.id)
            hashed = connection.execute(query).scalar_one()
        number = secrets.token_hex(16)
        return f"{number}.{_seal(number, user.id, str(hashed))}"

    def _known(self, row: Row[Any], marks: Collection[str]) -> str | None:
        """The mark by which a browser knows the account and has tries left."""
        for each in marks:
            number, _, seal = each.partition(".")
            right = _seal(number, row.id, str(row.secret_hash))
            if not hmac.compare_digest(seal.encode(errors="replace"), right.encode()):
                continue
            if self._marked_failures[number] < _FREE_TRIES:
                return number
        return None

    def change_secret(self, user: User, old: str, new: str) -> User:
        """A user's own change of PIN or password; raises as ``sign_in`` and ``add`` do."""
        self.sign_in(user.name, old)
        kind = _kind(new)
        values = self._secret(new, kind)
        return self._replace(user, user.id, "secret_changed", values, own=True)

    def reset_secret(self, by: User | None, number: int, new: str) -> User:
        """An admin's change of another's; raises AccessError or RecordError.

        ``by`` is None when it is the device's owner on the command line: the last admin may have
        forgotten the PIN.
        """
        kind = _kind(new)
        values = {**self._secret(new, kind), "failures": 0, "locked_until": None}
        return self._replace(by, number, "secret_reset", values)

    def change_role(self, by: User, number: int, role: Role) -> User:
        """Gives an account another role; raises AccessError or RecordError."""
        if role not in ROLES:
            raise RecordError(f"role {role!r}: unknown; choose one of {', '.join(ROLES)}")
        return self._replace(by, number, "role_changed", {"role": role})

    def set_active(self, by: User, number: int, active: bool) -> User:
        """Closes an account or opens it again; accounts are never deleted, for they signed."""
        action = "user_opened" if active else "user_closed"
        return self._replace(by, number, action, {"active": active})

    def _secret(self, new: str, kind: SecretKind) -> dict[str, Any]:
        return {"secret_hash": self._hash(new), "secret_kind": kind}

    def _replace(
        self,
        by: User | None,
        number: int,
        action: str,
        values: dict[str, Any],
        *,
        own: bool = False,
    ) -> User:
        shown = {name: value for name, value in values.items() if name in _SHOWN}
        with self._database.writing() as connection:
            if by is not None and not own:
                require(self.in_transaction(connection, by), "manage")
            old = self.get_in(connection, number)
            before = {name: getattr(old, name) for name in shown}
            connection.execute(
                update(users).where(users.c.id == number).values(**values, epoch=users.c.epoch + 1)
            )
            admins = select(func.count()).where(users.c.role == "admin", users.c.active)
            if not connection.execute(admins).scalar():
                raise RecordError(f"user {old.name!r} is the only admin; make another one first")
            self._note(
                connection,
                by,
                action,
                before={"user": number, **before},
                after={"user": number, **shown},
            )
            return self.get_in(connection, number)

    def in_transaction(self, connection: Connection, user: User) -> User:
        """The account as it is now: rights may have gone since the user signed in.

        Raises:
            RecordError: there is no such account.
        """
        return self.get_in(connection, user.id)

    def get_in(self, connection: Connection, number: int) -> User:
        """An account by its number, in a transaction that is open.

        Raises:
            RecordError: there is none of this number.
        """
        row = connection.execute(select(users).where(users.c.id == number)).first()
        if row is None:
            raise RecordError(f"user {number}: no such account")
        return _as_user(row)

    def _refuse(self, row: Row[Any] | None, mark: str | None) -> None:
        if mark is not None:
            self._marked_failures[mark] += 1
        with self._database.writing() as connection:
            if row is None:
                # Not the name that was typed: people type passwords there.
                self._note(connection, None, "sign_in_refused")
                return
            if mark is not None:
                self._note(connection, None, "sign_in_refused", after={"user": row.id})
                return
            connection.execute(
                update(users).where(users.c.id == row.id).values(failures=users.c.failures + 1)
            )
            failures = connection.execute(
                select(users.c.failures).where(users.c.id == row.id)
            ).scalar_one()
            if failures >= _FREE_TRIES:
                doublings = min(failures - _FREE_TRIES, 10)
                wait = min(_FIRST_WAIT_S * 2**doublings, _LONGEST_WAIT_S)
                until = stamp(self._now() + timedelta(seconds=wait))
                connection.execute(
                    update(users).where(users.c.id == row.id).values(locked_until=until)
                )
            self._note(connection, None, "sign_in_refused", after={"user": row.id})

    def _note(self, connection: Connection, by: User | None, action: str, **what: Any) -> None:
        record(connection, self._now(), None if by is None else by.id, action, **what)

    @cached_property
    def _hasher(self) -> PasswordHasher:
        from argon2 import PasswordHasher

        return PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=_LANES)

    @cached_property
    def _nobody(self) -> str:
        return self._hash("nobody's secret")

    def _hash(self, secret: str) -> str:
        with self._hashing:
            return self._hasher.hash(_plain(secret))

    def _verify(self, hashed: str, secret: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            with self._hashing:
                return bool(self._hasher.verify(hashed, _plain(secret)))
        except (VerificationError, InvalidHashError):
            return False


_SHOWN = ("role", "active", "secret_kind")


def _as_user(row: Row[Any]) -> User:
    return User(row.id, row.name, row.role, row.secret_kind, bool(row.active), row.epoch)


def _key(name: str) -> str:
    return unicodedata.normalize("NFKC", " ".join(name.split())).casefold()


def _seal(number: str, user: int, secret_hash: str) -> str:
    # The hash is nobody's but the store's, and another one with the next secret.
    what = f"known browser {user} {number}".encode(errors="replace")
    return hmac.new(secret_hash.encode(), what, hashlib.sha256).hexdigest()


def _plain(secret: str) -> str:
    # The same letters may be typed composed or not, by the keyboard.
    return unicodedata.normalize("NFC", secret)


def _kind(secret: str) -> SecretKind:
    """What a secret is; refuses those that fall at the first guess.

    Raises:
        RecordError: too short, too long, or a row of digits.
    """
    if secret.isascii() and secret.isdecimal():
        steps = {int(b) - int(a) for a, b in pairwise(secret)}
        if not PIN_DIGITS[0] <= len(secret) <= PIN_DIGITS[1]:
            raise RecordError(f"PIN: wanted {PIN_DIGITS[0]} to {PIN_DIGITS[1]} digits")
        if steps in ({0}, {1}, {-1}):
            raise RecordError("PIN: digits in a row or all alike are guessed first; take others")
        return "pin"
    if not PASSWORD_CHARACTERS[0] <= len(secret) <= PASSWORD_CHARACTERS[1]:
        raise RecordError(
            f"password: wanted {PASSWORD_CHARACTERS[0]} to {PASSWORD_CHARACTERS[1]} characters, "
            f"or a PIN of {PIN_DIGITS[0]} digits or more"
        )
    return "password"
