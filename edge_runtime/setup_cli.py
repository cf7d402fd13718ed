"""``leukoscope setup``: camera.

Owns flags and what is printed. Does not own any measuring (see ``film.camera_setup``) nor the
profile's file (see ``film.camera_profile``).
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.errors import CameraError, FrameError, SettingsError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from edge_runtime.film.camera_profile import CameraProfile
    from edge_runtime.types import UInt8Image

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Set a microscope's camera up. {RESEARCH_USE}",
)


@app.callback()
def _setup() -> None:
    """Keeps ``leukoscope setup camera`` a sub-command even while it is the only one."""


@app.command()
def camera(
    source: Annotated[
        str, typer.Option(help="good fields of a film, in focus: as for leukoscope run")
    ],
    name: Annotated[str, typer.Option(help="what to call this camera on this microscope")],
    empty: Annotated[
        Path | None, typer.Option(help="picture of clear glass, for light and white balance")
    ] = None,
    micrometer: Annotated[
        Path | None, typer.Option(help="picture of a stage micrometer, for the scale")
    ] = None,
    division_um: Annotated[
        float, typer.Option(min=0.1, help="distance of the micrometer's lines, µm")
    ] = 10.0,
    pixel_size_um: Annotated[
        float | None, typer.Option(min=0.001, max=10, help="µm per pixel, when it is known")
    ] = None,
    fields: Annotated[int, typer.Option(min=5, help="fields to look at")] = 12,
    out: Annotated[
        Path | None, typer.Option(help="folder of camera profiles [default: the user's]")
    ] = None,
) -> None:
    """Measure a camera's light, colour, scale and the limits of its good fields.

    Without a micrometer and a known size, the scale comes from red cells.
    """
    from pydantic import ValidationError

    from edge_runtime.film.camera_profile import profile_folder, save_profile
    from edge_runtime.film.camera_setup import build_profile

    pictures = _fields(source, fields)
    try:
        profile = build_profile(
            name=name,
            source=source,
            now=datetime.now(timezone.utc),
            fields=pictures,
            empty=_picture(empty, "--empty"),
            micrometer=_picture(micrometer, "--micrometer"),
            division_um=division_um,
            pixel_size_um=pixel_size_um,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"camera {name!r}: {first['loc'][0]}: {first['msg']}; for --name take letters, "
            "digits, dots, dashes and underscores"
        ) from error
    path = save_profile(profile, out or profile_folder())
    _print(profile, len(pictures))
    typer.echo(f"written to {path}")
    typer.echo(RESEARCH_USE)


def _fields(source: str, wanted: int) -> list[UInt8Image]:
    from edge_runtime.cameras import open_camera
    from edge_runtime.types import Frame

    pictures: list[UInt8Image] = []
    with open_camera(source, limit=wanted) as opened:
        for item in opened:
            if isinstance(item, Frame):
                pictures.append(item.pixels)
            else:
                typer.echo(f"leukoscope: {item.name}: {item.reason}", err=True)
            if len(pictures) == wanted:
                break
    if not pictures:
        raise CameraError(f"source {source!r}: no field could be read; check --source")
    return pictures


def _picture(path: Path | None, flag: str) -> UInt8Image | None:
    from edge_runtime.image_file import read_image

    if path is None:
        return None
    try:
        return read_image(path)
    except FrameError as error:
        raise SettingsError(f"{flag} {path}: {error}") from error


def _print(profile: CameraProfile, fields: int) -> None:
    limits = profile.limits
    typer.echo(f"{profile.name}: {profile.width} x {profile.height} pixels, {fields} fields")
    typer.echo(f"  scale: {profile.pixel_size_um} µm per pixel, from {profile.pixel_size_from}")
    if profile.light:
        darkest = min(min(cell) for row in profile.light for cell in row)
        gains = ", ".join(f"{gain:.2f}" for gain in profile.white_balance)
        typer.echo(f"  light: corners down to {darkest:.0%}; white balance {gains}")
    else:
        typer.echo("  light: not measured; give --empty")
    typer.echo(
        f"  refused: edges over {limits.blur_um:.2f} µm, smear over {limits.smear:.1f}, light "
        f"below {limits.dark:.0f} or above {limits.bright:.0f}"
    )
