"""``leukoscope calibrate``: sample, check.

Owns flags. Does not own the draw (see ``sampling``) nor the record (see ``dataset``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibration.sampling import DEFAULT_IMAGES, DEFAULT_MINIMUM
from edge_runtime.errors import DataError, SettingsError, StoreError
from edge_runtime.film_report import RESEARCH_USE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"Choose and check the pictures that int8 ranges are measured on. {RESEARCH_USE}",
)

FolderOption = Annotated[
    list[str], typer.Option("--folder", help="NAME=FOLDER of one domain's pictures; repeat it")
]
BundleOption = Annotated[
    Path | None,
    typer.Option(help="bundle whose preprocessing counts [default: shipped demo]"),
]


@app.command()
def sample(
    folder: FolderOption,
    out: Annotated[Path, typer.Option(help="record to write, JSON")],
    bundle: BundleOption = None,
    images: Annotated[int, typer.Option(min=1, help="pictures in all, at most")] = DEFAULT_IMAGES,
    minimum: Annotated[int, typer.Option(min=1, help="fewer are refused")] = DEFAULT_MINIMUM,
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="folder of evaluation pictures, which must not be drawn; repeat it"),
    ] = None,
) -> None:
    """Draw equally many pictures from every domain and record them with their hashes."""
    from calibration.sampling import Pool, draw_calibration_set, hash_files
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    pools = [Pool(name, place, tuple(_pictures(place))) for name, place in _folders(folder).items()]
    spec = open_bundle(bundle or shipped_bundle_path()).manifest.detector.input
    drawn = draw_calibration_set(
        pools,
        spec,
        images=images,
        minimum=minimum,
        seed=seed,
        evaluation_hashes=hash_files([p for place in held_out or () for p in _pictures(place)]),
    )
    try:
        out.write_text(drawn.to_json(), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}; choose another file") from error
    counts = ", ".join(f"{name} {count}" for name, count in drawn.domains.items())
    typer.echo(f"{out}: {len(drawn.images)} pictures ({counts}), digest {drawn.digest}")


@app.command()
def check(
    folder: FolderOption,
    bundle: BundleOption = None,
    record: Annotated[
        Path | None, typer.Option(help="record to check [default: the bundle's own]")
    ] = None,
) -> None:
    """Check that the pictures of a record are still there, unaltered, and fit a bundle."""
    from calibration.dataset import CalibrationSet
    from calibration.ranges import calibration_tensors
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    opened = open_bundle(bundle or shipped_bundle_path())
    if record is None:
        text = opened.contents.get("calibration.json", b"").decode()
        if not text:
            raise DataError(f"bundle {opened.id}: holds no calibration record; give --record")
    else:
        try:
            text = record.read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{record}: {error.strerror}; give an existing record") from error
    loaded = CalibrationSet.from_json(text)
    if record is None and loaded.digest != opened.manifest.calibration.digest:
        raise DataError(f"bundle {opened.id}: its record is not the one its manifest names")
    spec = opened.manifest.detector.input
    count = sum(1 for _ in calibration_tensors(loaded, _folders(folder), spec))
    typer.echo(f"{count} pictures as recorded, digest {loaded.digest}")


def _folders(named: list[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for each in named:
        name, equals, place = each.partition("=")
        if not (name and equals and place) or name in folders:
            raise SettingsError(f"--folder {each!r}: give NAME=FOLDER, every name once")
        folders[name] = Path(place)
    return folders


def _pictures(folder: Path) -> list[Path]:
    from edge_runtime.image_file import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
