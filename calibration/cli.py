"""``leukoscope calibrate``: sample, check.

Owns flags. Does not own the draw (see ``sampling``) nor the record (see ``dataset``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calibration.sampling import DEFAULT_IMAGES, DEFAULT_MINIMUM
from edge_runtime.clinic.atomic_file import prepare_folder, replacing
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.film_report import RESEARCH_USE

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet
    from calibration.stratified_draw import CellSource
    from edge_runtime.bundle import Bundle

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
    minimum: Annotated[
        int, typer.Option(min=1, help="fewer are refused; the record keeps this number")
    ] = DEFAULT_MINIMUM,
    seed: Annotated[int, typer.Option(min=0, help="of the draw")] = 0,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="folder of evaluation pictures, which must not be drawn; repeat it"),
    ] = None,
    cells_from: Annotated[
        str,
        typer.Option(help="who counts the cells: labels (YOLO files), detector (--bundle) or none"),
    ] = "labels",
    cell_class: Annotated[
        list[int] | None,
        typer.Option(min=0, help="class id of a label row that counts; repeat it [default: all]"),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="draw from domains only, as `leukoscope export bundle` does"),
    ] = False,
) -> None:
    """Draw pictures from every domain, over focus, stain and number of cells, and record them."""
    from calibration.progress import shown
    from calibration.sampling import Pool, draw_calibration_set, hash_files
    from calibration.stratified_draw import draw_stratified
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    pools = [
        Pool(name, place, tuple(_pictures(place))) for name, place in named_folders(folder).items()
    ]
    opened = open_bundle(bundle or shipped_bundle_path())
    spec = opened.manifest.detector.input
    evaluated = [p for place in held_out or () for p in _held_out(place)]
    prepare_folder(out.parent, (out.name,))
    if plain:
        drawn = draw_calibration_set(
            pools,
            spec,
            images=images,
            minimum=minimum,
            seed=seed,
            evaluation_hashes=hash_files(evaluated),
        )
    else:
        with _cell_source(cells_from, cell_class, opened) as cells, shown("pictures") as progress:
            drawn = draw_stratified(
                pools,
                spec,
                images=images,
                minimum=minimum,
                seed=seed,
                evaluated=evaluated,
                cells=cells,
                progress=progress,
            )
    with replacing(out) as file:
        file.write(drawn.to_json().encode())
    counts = ", ".join(f"{name} {count}" for name, count in drawn.domains.items())
    typer.echo(f"{out}: {len(drawn.images)} pictures ({counts}), digest {drawn.digest}")
    if minimum < DEFAULT_MINIMUM:
        typer.echo(f"held to a minimum of {minimum} instead of {DEFAULT_MINIMUM}, as recorded")
    if drawn.strata:
        reached = sum(1 for each in drawn.strata if each.drawn)
        typer.echo(f"{reached} of {len(drawn.strata)} strata of focus, stain and cells are in it")
    for reason, count in drawn.passed_over.items():
        typer.echo(f"{count} passed over: {reason}")


@contextmanager
def _cell_source(
    name: str, classes: list[int] | None, bundle: Bundle
) -> Iterator[CellSource | None]:
    """Who counts cells, opened as long as the block runs."""
    from calibration.field_traits import CELLS_FROM, label_counter
    from calibration.stratified_draw import CellSource

    if name not in CELLS_FROM:
        raise SettingsError(f"--cells-from {name!r}: choose one of {', '.join(CELLS_FROM)}")
    if name == "none":
        yield None
    elif name == "labels":
        yield CellSource(name, label_counter(None if classes is None else tuple(classes)))
    else:
        from edge_runtime.film_run import load_bundle
        from edge_runtime.settings import Settings
        from edge_runtime.types import Frame, UInt8Image

        with load_bundle(bundle, Settings(threads=1), detector_only=True) as loaded:

            def count(path: Path, pixels: UInt8Image) -> int:
                frame = Frame(0, 0, pixels, path.name)
                return len(loaded.detector.examine(frame).detections)

            yield CellSource(f"detector of {bundle.id}", count)


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
        loaded = CalibrationSet.from_json(text)
        if loaded.digest != opened.manifest.calibration.digest:
            raise DataError(f"bundle {opened.id}: its record is not the one its manifest names")
    else:
        loaded = read_record(record)
    spec = opened.manifest.detector.input
    count = sum(1 for _ in calibration_tensors(loaded, named_folders(folder), spec))
    typer.echo(f"{count} pictures as recorded, digest {loaded.digest}")


def read_record(path: Path) -> CalibrationSet:
    """A calibration set from its file.

    Raises:
        DataError: missing or not a record of one.
    """
    from calibration.dataset import CalibrationSet

    try:
        return CalibrationSet.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: unreadable; give an existing record of a set") from error


def named_folders(named: list[str]) -> dict[str, Path]:
    """Folders by domain out of ``NAME=FOLDER``.

    Raises:
        SettingsError: another form, or a name twice.
    """
    folders: dict[str, Path] = {}
    for each in named:
        name, equals, place = each.partition("=")
        if not (name and equals and place) or name in folders:
            raise SettingsError(f"--folder {each!r}: give NAME=FOLDER, every name once")
        folders[name] = Path(place)
    return folders


def _held_out(folder: Path) -> list[Path]:
    found = _pictures(folder)
    if not found:
        # Otherwise a slip of a folder's name would let evaluation pictures be drawn.
        raise DataError(f"--held-out {folder}: no picture in it; name the evaluation pictures'")
    return found


def _pictures(folder: Path) -> list[Path]:
    from edge_runtime.image_file import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
