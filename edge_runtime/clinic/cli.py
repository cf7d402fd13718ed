"""The ``leukoscope clinic`` command: accounts, from the console of the device.

Owns flags and how secrets are asked for. Does not own accounts (see ``store.users``). The page has
the same for admins; the first admin can only be made here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edge_runtime.errors import AccessError, LeukoscopeError, RecordError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from edge_runtime.clinic.store.roles import Role
    from edge_runtime.clinic.store.store import ClinicStore
    from edge_runtime.clinic.store.users import User

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"The clinic's store. {RESEARCH_USE}",
)
user_app = typer.Typer(no_args_is_help=True, help="Who may use the clinic's page.")
app.add_typer(user_app, name="user")

Store = Annotated[
    Path, typer.Option("--store", envvar="LEUKOSCOPE_STORE", help="folder of the clinic's store")
]
Name = Annotated[str, typer.Argument(help="as it is shown and signed with")]
By = Annotated[
    str | None, typer.Option("--by", help="admin who does so; asks for the PIN or password")
]
FromStdin = Annotated[
    bool,
    typer.Option(
        "--pin-stdin",
        help="read PINs or passwords from standard input, a line each: the admin's first, if any",
    ),
]


@app.callback()
def _clinic() -> None:
    """Keeps ``user`` a sub-command while it is the only one."""


@user_app.command()
def add(
    name: Name,
    store: Store,
    role: Annotated[
        str, typer.Option(help="operator, reviewer or admin; the first account is an admin's")
    ] = "admin",
    by: By = None,
    pin_stdin: FromStdin = False,
) -> None:
    """Make an account. The first is an admin's; later ones need --by."""
    ask = _asker(pin_stdin)
    with _open(store) as opened:
        if by is None and not opened.users.is_empty():
            raise AccessError(f"user {name!r}: there are accounts already; give --by ADMIN")
        admin = _sign_in(opened, by, ask)
        secret = ask(f"PIN or password of {name}", again=True)
        made = opened.users.add(name, cast("Role", role), secret, admin)
    typer.echo(f"{made.name}: {made.role}, {made.secret_kind}")


@user_app.command(name="list")
def list_users(store: Store) -> None:
    """Every account, closed ones too."""
    with _open(store) as opened:
        found = opened.users.all()
    for each in found:
        typer.echo(f"{each.name}: {each.role}, {each.secret_kind}{_closed(each)}")
    if not found:
        typer.echo("no account yet; make an admin's: leukoscope clinic user add NAME")


@user_app.command()
def reset(name: Name, store: Store, by: By = None, pin_stdin: FromStdin = False) -> None:
    """Give an account another PIN or password, also when the only admin forgot it.

    Without --by the audit trail names the device's owner, who has its files.
    """
    ask = _asker(pin_stdin)
    with _open(store) as opened:
        number = _named(opened, name).id
        admin = _sign_in(opened, by, ask)
        secret = ask(f"new PIN or password of {name}", again=True)
        opened.users.reset_secret(admin, number, secret)
    typer.echo(f"{name}: changed; open sessions have ended")


@user_app.command()
def disable(
    name: Name,
    store: Store,
    by: Annotated[str, typer.Option("--by", help="admin who does so; asks for the PIN")],
    pin_stdin: FromStdin = False,
) -> None:
    """Close an account. It is never deleted, for it may have signed."""
    ask = _asker(pin_stdin)
    with _open(store) as opened:
        number = _named(opened, name).id
        admin = opened.users.sign_in(by, ask(f"PIN or password of {by}"))
        opened.users.set_active(admin, number, False)
    typer.echo(f"{name}: closed")


@contextlib.contextmanager
def _open(folder: Path) -> Iterator[ClinicStore]:
    try:
        from edge_runtime.clinic.store.store import open_store
    except ModuleNotFoundError as error:
        raise LeukoscopeError(
            f"leukoscope clinic: {error.name} is not installed here; "
            "pip install 'leukoscope[clinic]'"
        ) from error
    with open_store(folder) as opened:
        yield opened


def _asker(pin_stdin: bool) -> Callable[..., str]:
    """Asks for a secret without showing it, or reads it from standard input."""
    if pin_stdin:

        def read(what: str, *, again: bool = False) -> str:
            line = sys.stdin.readline()
            if not line:
                raise RecordError(f"{what}: nothing more on standard input; give one line each")
            return line.rstrip("\r\n")

        return read
    if not sys.stdin.isatty():
        # A prompt here would show what is typed.
        raise RecordError("no terminal to ask on; give --pin-stdin")

    def prompt(what: str, *, again: bool = False) -> str:
        asked: Any = typer.prompt(what, hide_input=True, confirmation_prompt=again)
        return str(asked)

    return prompt


def _sign_in(store: ClinicStore, by: str | None, ask: Callable[..., str]) -> User | None:
    return None if by is None else store.users.sign_in(by, ask(f"PIN or password of {by}"))


def _named(store: ClinicStore, name: str) -> User:
    key = " ".join(name.split()).casefold()
    found = [each for each in store.users.all() if each.name.casefold() == key]
    if not found:
        raise RecordError(f"user {name!r}: no such account; see leukoscope clinic user list")
    return found[0]


def _closed(user: User) -> str:
    return "" if user.active else ", closed"
