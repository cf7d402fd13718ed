"""``leukoscope cameras``: which cameras are here, and which kinds cannot work and why.

Owns flags and lines. Does not own looking for cameras (see the modules of the table).
"""

from __future__ import annotations

from typing import Annotated

import typer

from edge_runtime.film_report import RESEARCH_USE

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Live cameras: list those that are here. {RESEARCH_USE}",
)


@app.command()
def cameras(
    open_them: Annotated[
        bool, typer.Option("--open", help="open each one, and say what it is set to")
    ] = False,
) -> None:
    """List the cameras that are here, each with the source that opens it."""
    from edge_runtime.cameras import CAMERAS

    rows = [row for row in CAMERAS if row.live]
    widest = max(len(row.name) for row in rows)
    for row in rows:
        module = row.load()
        reason = module.unsupported_reason()
        found = [] if reason is not None else module.find_cameras()
        for camera in found:
            typer.echo(f"{row.name:<{widest}}  {camera.source}  {camera.name}".rstrip())
            if open_them:
                _say_session(camera.source, " " * widest)
        if not found:
            typer.echo(f"{row.name:<{widest}}  {reason or 'none found'}; {row.help}")
    typer.echo("Other sources: " + "; ".join(row.help for row in CAMERAS if not row.live))


def _say_session(source: str, indent: str) -> None:
    from edge_runtime.cameras import is_live, open_camera
    from edge_runtime.errors import CameraError

    try:
        with open_camera(source, limit=1) as camera:
            if not is_live(camera):
                return
            session = camera.sessions[-1]
    except CameraError as error:
        # The others are still to be listed.
        typer.echo(f"{indent}  {error}")
        return
    light = {
        "exposure": None if session.exposure_ms is None else f"{session.exposure_ms:g} ms",
        "gain": None if session.gain is None else f"{session.gain:g}",
        "white balance": None
        if session.white_balance_k is None
        else f"{session.white_balance_k:g} K",
    }
    said = [f"{name} {value}" for name, value in light.items() if value is not None]
    typer.echo(
        f"{indent}  {session.width} x {session.height} {session.pixel_format}"
        + ("" if session.fps is None else f" at {session.fps:g}/s")
        + (f"; {', '.join(said)}" if said else "")
        + (f"; locked: {', '.join(session.locked)}" if session.locked else "")
    )
    for name, why in session.not_locked.items():
        typer.echo(f"{indent}  not locked: {name}: {why}")
