"""``leukoscope serve``: the clinic's page and the microscope, in one process, until it is stopped.

Owns flags, what is refused before anything is served, the order of opening and closing, and
signals. Does not own the page (see ``clinic.web``), the microscope (see ``clinic.live``) nor the
store.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.errors import SettingsError, StoreError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from edge_runtime.clinic.store.store import ClinicStore
    from edge_runtime.clinic.web.clinic import DeviceFacts
    from edge_runtime.film_run import LoadedBundle
    from edge_runtime.settings import Settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOCK_FILE = "serve.lock"
# Requests that are being answered when the page ends get this long.
_LAST_ANSWERS_S = 3
# More than a clinic's screens ask at once; the rest is told to come back.
_MOST_AT_ONCE = 64


@app.command()
def serve(
    store: Annotated[Path, typer.Option(help="folder of the clinic's films; made when missing")],
    source: Annotated[
        str, typer.Option(help="camera or pictures, as for leukoscope run; see leukoscope cameras")
    ],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8080,
    tls_cert: Annotated[
        Path | None, typer.Option(help="certificate with its chain, PEM; needs --tls-key")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="its key, PEM, without a password")] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="serve other machines without TLS: PINs cross the network readable"
        ),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(help="name by which other machines reach this one; may be given again"),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="model bundle, folder or file [default: the device's active one, or shipped demo]"
        ),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="auto, onnxruntime, openvino, tensorrt, ... [default: auto]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="int8, float16 or float32 [default: the bundle's first]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="processor threads for inference [default: one per core]")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="end each film after so many fields")] = None,
    camera_profile: Annotated[
        Path | None,
        typer.Option(
            help="of the camera, as `leukoscope setup camera` writes it [default: the stored one "
            "of this source]"
        ),
    ] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="TOML file with any of the settings")
    ] = None,
) -> None:
    """Serve the clinic's page with the live microscope.

    Only this machine reaches it unless told otherwise. Ctrl-C or SIGTERM ends it; a film that
    runs is then kept as interrupted.
    """
    spare_memory()
    from edge_runtime.cli import spare_threads
    from edge_runtime.settings import load_settings

    spare_threads()
    flags = {"backend": backend, "precision": precision, "threads": threads, "limit": limit}
    settings = load_settings(settings_file, flags=flags)
    tls = require_tls(tls_cert, tls_key)
    if host not in _LOOPBACK and not tls and not plain:
        raise SettingsError(
            f"--host {host}: other machines would send PINs readable over the network; give "
            "--tls-cert and --tls-key, or --plain where the network is yours alone"
        )
    _require_extra()
    with contextlib.ExitStack() as open_ones:
        listener = open_ones.enter_context(listening(host, port))
        open_ones.enter_context(alone_in(store))
        with _Opened(store, bundle, settings, source, camera_profile) as opened:
            clinic_hosts = _names(host, name)
            application = opened.application(tls=tls, hosts=clinic_hosts)
            where = _address(listener, host, tls=tls)
            _serve(
                application,
                listener,
                tls_cert,
                tls_key,
                began=lambda: _say_where(where, opened.store.recovered),
                end_film=opened.session.close,
            )


def spare_memory() -> None:
    """Before threads begin: glibc would keep an arena of freed memory for each of them."""
    if "MALLOC_ARENA_MAX" in os.environ or not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        # M_ARENA_MAX of mallopt(3); another libc has no such function.
        ctypes.CDLL(None).mallopt(-8, 2)


class _Opened:
    """Store, models and microscope, open from entering to leaving."""

    def __init__(
        self,
        folder: Path,
        bundle: Path | None,
        settings: Settings,
        source: str,
        profile_file: Path | None,
    ) -> None:
        self._folder = folder
        self._bundle = bundle
        self._settings = settings
        self._source = source
        self._profile_file = profile_file
        self._open = contextlib.ExitStack()

    def __enter__(self) -> _Opened:
        with contextlib.ExitStack() as opening:
            from edge_runtime.clinic.store.store import open_store

            self.store = opening.enter_context(open_store(self._folder))
            _require_users(self.store, self._folder)
            from edge_runtime.film_run import bundle_to_run, load_bundle, profile_for

            found = bundle_to_run(self._bundle, self._settings, say=_say)
            self.loaded: LoadedBundle = opening.enter_context(load_bundle(found, self._settings))
            from edge_runtime.clinic.live.session import LiveSession

            self.session = opening.enter_context(
                LiveSession(
                    self.store,
                    self.loaded,
                    self._settings,
                    source=self._source,
                    profile=profile_for(self._source, self._profile_file, say=_say),
                )
            )
            self._open = opening.pop_all()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._open.__exit__(*exc)

    def application(self, *, tls: bool, hosts: frozenset[str] | None) -> FastAPI:
        """The page over it."""
        from edge_runtime.clinic.web.app import build_app
        from edge_runtime.clinic.web.clinic import Clinic

        return build_app(
            Clinic(
                self.store,
                self._settings,
                facts=self._facts(),
                live=self.session,
                hosts=hosts,
                tls=tls,
            )
        )

    def _facts(self) -> DeviceFacts:
        from edge_runtime.clinic.web.clinic import DeviceFacts

        record = self.loaded.record
        return DeviceFacts(
            bundle=self.loaded.bundle.id,
            bundle_sha256=self.loaded.bundle.sha256,
            backend=f"{record.name} {record.version}, {record.precision} on {record.device}",
            source=self._source,
        )


def _serve(
    application: FastAPI,
    listener: socket.socket,
    tls_cert: Path | None,
    tls_key: Path | None,
    *,
    began: Callable[[], None],
    end_film: Callable[[], None],
) -> None:
    """Serves until a signal comes: first the film ends, then the page.

    Raises:
        Exit: with 1, the page could not begin, or ended without a signal.
    """
    import uvicorn

    from edge_runtime.clinic.web.connections import PatientProtocol

    server = uvicorn.Server(
        uvicorn.Config(
            application,
            ssl_certfile=None if tls_cert is None else str(tls_cert),
            ssl_keyfile=None if tls_key is None else str(tls_key),
            log_config=None,
            access_log=False,
            server_header=False,
            # The page stands for itself; what a proxy would claim is not believed.
            proxy_headers=False,
            loop="asyncio",
            http=PatientProtocol,
            ws="none",
            limit_concurrency=_MOST_AT_ONCE,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
        )
    )
    over = threading.Event()
    asked = threading.Event()
    ended: list[str] = []

    def run() -> None:
        try:
            # In a thread of its own uvicorn leaves the signals alone. Its handlers would end the
            # page first and then the process, with the film in it.
            server.run(sockets=[listener])
        except BaseException as error:  # noqa: BLE001  said below, in the thread that ends it all
            ended.append(f"{type(error).__name__}: {error}")
        finally:
            if not asked.is_set() and not ended:
                ended.append("it gave no reason" if server.started else "it could not begin")
            over.set()

    page = threading.Thread(target=run, name="page", daemon=True)
    with _signals(over):
        page.start()
        while not server.started and not over.wait(0.02):
            pass
        if server.started:
            began()
            over.wait()
            end_film()
        asked.set()
        server.should_exit = True
        page.join()
    if ended:
        _say(f"the page ended by itself: {' '.join(ended[0].split())}")
        # Neither 0 nor the 2 of a refusal: whoever started this as a service starts it again.
        raise typer.Exit(1)


@contextlib.contextmanager
def _signals(over: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends in order; a second one at once."""

    def end(number: int, stack: object) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        over.set()

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def require_tls(cert: Path | None, key: Path | None) -> bool:
    """Whether the page is served with TLS.

    Raises:
        SettingsError: one file is missing, cannot be read, or they do not belong together.
    """
    if cert is None and key is None:
        return False
    if cert is None or key is None:
        missing = "--tls-cert" if cert is None else "--tls-key"
        raise SettingsError(f"{missing} is missing: a certificate and its key go together")
    for flag, path in (("--tls-cert", cert), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(
                f"{flag} {path}: {error.strerror}; the user who runs Leukoscope must be able to "
                "read it"
            ) from error
    import ssl

    def no_password() -> str:
        raise SettingsError(
            f"--tls-key {key}: it has a password that nobody can type at start; take it off with "
            "`openssl pkey`"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        raise SettingsError(
            f"--tls-cert {cert}, --tls-key {key}: {error.reason or error}; both must be PEM and "
            "belong together"
        ) from error
    return True


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that has its port, before anything slow is opened.

    Raises:
        SettingsError: the port is taken, or the address is not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SettingsError(f"--host {host}: {error.strerror}; give an address") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # Not before: a port of an address that is listened on can be bound once more.
            listener.listen(_MOST_AT_ONCE)
        except OSError as error:
            remedy = {
                errno.EADDRINUSE: "another program uses it; end that one or give another --port",
                errno.EACCES: "ports below 1024 belong to the system; give another --port",
                errno.EADDRNOTAVAIL: "it is no address of this machine; give another --host",
            }.get(error.errno or 0, "give another --host or --port")
            raise SettingsError(f"{host} port {port}: {error.strerror}; {remedy}") from error
        yield listener


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second page off the same store: both would examine with the one camera.

    Raises:
        StoreError: another process serves it, or the folder cannot be written.
    """
    path = folder / _LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}; choose another --store, or give the folder to the user "
            "who runs Leukoscope"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"store {folder}: another `leukoscope serve` uses it; end that one, or give "
                "another --store"
            ) from error
        yield
    finally:
        os.close(handle)


def _require_users(store: ClinicStore, folder: Path) -> None:
    if store.users.is_empty():
        raise SettingsError(
            f"store {folder}: no users yet; make the first: leukoscope clinic user add NAME "
            f"--role admin --store {folder}"
        )


def _require_extra() -> None:
    from importlib.util import find_spec

    for module in ("fastapi", "uvicorn", "sqlalchemy", "argon2", "multipart"):
        if find_spec(module) is None:
            raise SettingsError(
                f"leukoscope serve: {module} is not installed here; "
                "pip install 'leukoscope[clinic]'"
            )


def _names(host: str, given: list[str] | None) -> frozenset[str] | None:
    from edge_runtime.clinic.web.clinic import LOOPBACK_HOSTS

    named = frozenset(each.lower() for each in given or ())
    if host in _LOOPBACK:
        return LOOPBACK_HOSTS | named
    # As a browser writes it: an IPv6 address stands in brackets.
    own = f"[{host}]" if ":" in host else host
    return LOOPBACK_HOSTS | named | {own.lower()} if named else None


def _address(listener: socket.socket, host: str, *, tls: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http{'s' if tls else ''}://{shown}:{listener.getsockname()[1]}/"


def _say_where(where: str, recovered: tuple[int, ...]) -> None:
    for film in recovered:
        _say(f"film {film} was cut short when the device lost power; it is kept as interrupted")
    typer.echo(f"serving {where}")
    typer.echo(RESEARCH_USE)
    # Whoever started this as a service reads it now, not when the buffer is full.
    sys.stdout.flush()


def _say(line: str) -> None:
    typer.echo(f"leukoscope: {line}", err=True)
