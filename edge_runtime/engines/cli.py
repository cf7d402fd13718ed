"""``leukoscope engine``: build, list, inspect and clear.

Owns flags and tables of text only.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.errors import BackendError
from edge_runtime.film_report import RESEARCH_USE
from edge_runtime.manifest import Precision

if TYPE_CHECKING:
    from edge_runtime.engines.cache import EngineCache, EngineRecord

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"TensorRT engines of a bundle, built on the device. {RESEARCH_USE}",
)

Engines = Annotated[
    Path | None,
    typer.Option(help="folder of engines [default: LEUKOSCOPE_ENGINES or the user's cache]"),
]


@app.command()
def build(
    bundle: Annotated[
        Path | None, typer.Option(help="model bundle, folder or file [default: shipped demo]")
    ] = None,
    engines: Engines = None,
    flavour: Annotated[
        str | None,
        typer.Option(help="tensorrt or tensorrt-rtx [default: the one that is installed]"),
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            help="compute capability such as 8.6, several times for several; with tensorrt-rtx "
            "the GPU need not be here [default: the GPU here]"
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="int8, float16 or float32 [default: the bundle's first]"),
    ] = None,
) -> None:
    """Build the engines of every head; those that are there and whole are kept."""
    from edge_runtime.bundle import open_bundle, shipped_bundle_path
    from edge_runtime.engines.for_bundle import build_for_bundle, engine_target
    from edge_runtime.engines.tensorrt_api import flavour_named

    opened = open_bundle(bundle or shipped_bundle_path())
    wanted = [_capability(text) for text in capability or ()]
    target = engine_target(None if flavour is None else flavour_named(flavour), wanted)
    cache = _cache(engines)
    build_for_bundle(opened, cache.folder, say=typer.echo, target=target, precision=precision)
    typer.echo(f"engines in {cache.folder}")
    if not target.gpu_here:
        typer.echo("built ahead of time, not run: no GPU was used")


@app.command("list")
def list_engines(engines: Engines = None) -> None:
    """List the built engines and whether their files are whole."""
    cache = _cache(engines)
    records = cache.records()
    for record in records:
        typer.echo(
            f"{record.key[:12]}  {record.artifact}  {record.flavour} {record.version}  "
            f"{record.platform}  for {', '.join(record.capabilities)}  "
            f"{record.size / 1e6:.1f} MB  {record.built_at}  {_state(cache, record)}"
        )
    for name in cache.unreadable():
        typer.echo(f"{name}: no engine with a record; leukoscope engine clear removes it")
    if not records:
        typer.echo(f"no engines in {cache.folder}; leukoscope engine build makes them")


@app.command()
def inspect(
    key: Annotated[str, typer.Argument(help="beginning of an engine's key, as listed")],
    engines: Engines = None,
    layers: Annotated[bool, typer.Option("--layers", help="every layer of the engine")] = False,
) -> None:
    """Show which convolutions of an engine run in int8, as the library tells it."""
    cache = _cache(engines)
    record = _one(cache, key)
    from edge_runtime.engines.layers import in_int8

    typer.echo(f"{record.artifact}: {in_int8(record.convolutions)}")
    typer.echo(f"told by: {record.layers_from}")
    if record.flavour == "tensorrt-rtx":
        typer.echo("kernels are compiled on the GPU when the engine is first loaded there")
    if not record.strongly_typed:
        typer.echo("not strongly typed: the library may choose higher precision for a layer")
    _table(
        ("convolution", "asked", "runs", "as"),
        [(row.name, row.asked, row.runs, row.kind) for row in record.convolutions],
    )
    if layers:
        _table(
            ("layer", "kind", "input", "weights", "output"),
            [
                (
                    layer.name,
                    layer.kind,
                    *(",".join(types) for types in (layer.inputs, layer.weights, layer.outputs)),
                )
                for layer in record.layers
            ],
        )
    kinds = Counter((layer.kind or "?", layer.precision) for layer in record.layers)
    for (kind, precision), count in sorted(kinds.items()):
        typer.echo(f"  {count:>4} layers {kind}: {precision}")
    typer.echo(RESEARCH_USE)


@app.command()
def clear(
    key: Annotated[
        str | None, typer.Argument(help="beginning of an engine's key [default: all]")
    ] = None,
    engines: Engines = None,
) -> None:
    """Remove one engine, or all of them with the kernel times."""
    cache = _cache(engines)
    removed = cache.remove(None if key is None else [_one(cache, key).key])
    typer.echo(f"removed {len(removed)} files from {cache.folder}")


def _cache(engines: Path | None) -> EngineCache:
    from edge_runtime.engines.cache import EngineCache, default_folder

    return EngineCache(engines or default_folder())


def _one(cache: EngineCache, start: str) -> EngineRecord:
    found = [record for record in cache.records() if record.key.startswith(start)]
    if len(found) == 1 and start:
        return found[0]
    known = ", ".join(record.key[:12] for record in cache.records()) or "none"
    raise BackendError(
        f"engine {start!r}: {len(found)} engines in {cache.folder} begin so; there are {known}"
    )


def _state(cache: EngineCache, record: EngineRecord) -> str:
    try:
        cache.load(record)
    except BackendError as error:
        return f"DAMAGED: {error}"
    return "whole"


def _capability(text: str) -> str:
    major, point, minor = text.partition(".")
    if not (point and major.isdecimal() and minor.isdecimal() and len(minor) == 1):
        raise BackendError(f"compute capability {text!r}: wanted two numbers such as 8.6")
    return text


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
