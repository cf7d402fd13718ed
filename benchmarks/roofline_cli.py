"""``leukoscope bench roofline``: the published check, the shipped heads, or any model.

Owns flags, tables and exporting the published networks. Does not own the estimate.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmarks.roofline_graph import Kernel
    from edge_runtime.bundle import Bundle

WHAT = "roofline of networks on devices nobody here has"
_RESULT = Path("benchmarks") / "results" / "roofline.json"
_NETWORKS = ("yolo11n", "yolo11s", "yolo11m", "yolo11l", "yolo11x")
_SIDE_PX = 640
_SHOWN_KERNELS = 12


def roofline(
    model: Annotated[
        list[Path] | None, typer.Option(help="any ONNX file instead of the shipped heads")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="of an input with a free size: images=1x3x640x640")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="only this one; may be repeated")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="bundle folder or file [default: shipped demo]")
    ] = None,
    factors: Annotated[
        Path, typer.Option(help="result whose fitted factors a --model is judged by")
    ] = _RESULT,
    out: Annotated[
        Path | None, typer.Option(help="result file [default: benchmarks/results/roofline.json]")
    ] = None,
) -> None:
    """Estimate times on Jetsons, cards and the Raspberry Pi 5 from operations and bytes.

    Without --model the factors are fitted to published times of YOLO11 (networks exported here
    with random weights, which takes some minutes), the error is told row by row, and the shipped
    bundle's heads are estimated. Nothing is measured.
    """
    from benchmarks.machine import machine_facts, require_writable, write_result
    from benchmarks.roofline import fits_of, measure_roofline
    from benchmarks.roofline_devices import DEVICES
    from edge_runtime.bundle import open_bundle, shipped_bundle_path
    from edge_runtime.errors import DataError, SettingsError

    for name in device or []:
        if name not in DEVICES:
            raise SettingsError(f"--device {name!r}: unknown; choose of {', '.join(DEVICES)}")
    devices = device or list(DEVICES)
    place = out if out is not None or model else _RESULT
    if place is not None:
        require_writable(place)
    now = datetime.now(timezone.utc)
    if model:
        shapes = _shapes(shape or [])
        fits = fits_of(_json(factors))
        networks = {each.name: _kernels(each, shapes) for each in model}
        found: dict[str, Any] = {
            "models": {name: _row(kernels, devices, fits) for name, kernels in networks.items()}
        }
        for name, kernels in networks.items():
            _print_kernels(name, kernels)
    else:
        if shape:
            raise SettingsError("--shape: is for --model; the bundle's heads have fixed sizes")
        found = measure_roofline(_published())
        _print_checks(found["checks"])
        opened = open_bundle(bundle or shipped_bundle_path())
        found |= {"bundle": opened.id, "models": _heads(opened, devices, fits_of(found))}
    _print_models(found["models"])
    if place is None:
        return
    if not found["models"]:
        raise DataError("nothing was estimated; the bundle has no artifact for these devices")
    write_result(place, WHAT, machine_facts(now), found)
    typer.echo(f"written to {place}")


def add_to(app: typer.Typer) -> None:
    """Adds the command to ``leukoscope bench``."""
    app.command("roofline")(roofline)


def _heads(
    bundle: Bundle, devices: Sequence[str], fits: Sequence[Any]
) -> dict[str, dict[str, Any]]:
    """Every head with the artifact that each kind of device would run."""
    from benchmarks.roofline_devices import DEVICES
    from benchmarks.roofline_graph import kernels_of
    from edge_runtime.bundle import HeadName, Runtime

    manifest = bundle.manifest
    heads: dict[str, HeadName | None] = {"detector": None}
    if manifest.attribute_head is not None:
        heads["attribute_head"] = "attribute_head"
    if manifest.classifier is not None:
        heads["classifier"] = "classifier"
    kinds: dict[Runtime, list[str]] = {
        "tensorrt": [name for name in devices if DEVICES[name].floats == "float16"],
        "cpu": [name for name in devices if DEVICES[name].floats == "float32"],
    }
    found = {}
    for title, head in heads.items():
        for runtime, names in kinds.items():
            if names:
                artifact = bundle.artifact_for(runtime, head)
                kernels = kernels_of(bundle.contents[artifact.path])
                found[artifact.path] = {"head": title, **_row(kernels, names, fits)}
    return found


def _row(kernels: Sequence[Kernel], devices: Sequence[str], fits: Sequence[Any]) -> dict[str, Any]:
    from benchmarks.roofline import estimate
    from benchmarks.roofline_devices import DEVICES

    macs = sum(each.macs for each in kernels)
    return {
        "gflop": round(2 * macs / 1e9, 4),
        "int8_share": round(sum(each.macs for each in kernels if each.int8) / max(macs, 1), 4),
        "kernels": [
            {
                "name": each.name,
                "operation": each.operation,
                "nodes": each.nodes,
                "mflop": round(2 * each.macs / 1e6, 3),
                "int8": each.int8,
                "float_values": each.float_elements,
                "int8_values": each.int8_elements,
            }
            for each in kernels
        ],
        "estimates": [estimate(kernels, DEVICES[name], fits) for name in devices],
    }


def _published() -> dict[str, list[Kernel]]:
    """Kernels of the networks whose times are published."""
    from benchmarks.roofline_graph import kernels_of

    networks = {}
    with tempfile.TemporaryDirectory(prefix="leukoscope-roofline-") as scratch:
        for name in _NETWORKS:
            typer.echo(f"exporting {name} with random weights", err=True)
            # In a process of its own, whose memory goes when it ends.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                path = pool.submit(_export, name, scratch).result()
            networks[name] = kernels_of(path.read_bytes())
            path.unlink()
    return networks


def _export(name: str, folder: str) -> Path:
    os.environ |= {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": folder,
    }
    from ultralytics import YOLO

    os.chdir(folder)
    # Weights do not change what is computed, so none are fetched.
    return Path(folder) / YOLO(f"{name}.yaml").export(
        format="onnx", imgsz=_SIDE_PX, simplify=False, dynamic=False
    )


def _kernels(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[Kernel]:
    from benchmarks.roofline_graph import kernels_of
    from edge_runtime.errors import DataError

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"--model {path}: {error.strerror}; give an ONNX file") from error
    return kernels_of(content, shapes)


def _shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    from edge_runtime.errors import SettingsError

    found = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        parts = sizes.split("x")
        if not name or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
            raise SettingsError(f"--shape {text!r}: write it as images=1x3x640x640")
        found[name] = tuple(int(part) for part in parts)
    return found


def _json(path: Path) -> dict[str, Any]:
    from edge_runtime.errors import DataError

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"--factors {path}: cannot be read; run bench roofline without --model first"
        ) from error
    return document if isinstance(document, dict) else {}


def _print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    for check in checks:
        table = Table(title=f"{check['device']}, {check['precision']}, {check['runtime']}")
        table.add_column("network")
        for heading in ("published ms", "ideal ms", "estimated ms", "error", "one factor's error"):
            table.add_column(heading, justify="right")
        for row in check["rows"]:
            table.add_row(
                row["network"],
                f"{row['published_ms']:.2f}",
                f"{row['ideal_ms']:.2f}",
                f"{row['estimated_ms']:.2f}",
                f"{row['error']:+.0%}",
                f"{row['error_of_efficiency_alone']:+.0%}",
            )
        Console().print(table)
        typer.echo(check["estimated"])


def _print_kernels(name: str, kernels: Sequence[Kernel]) -> None:
    from rich.console import Console
    from rich.table import Table

    heaviest = sorted(kernels, key=lambda each: each.macs, reverse=True)[:_SHOWN_KERNELS]
    table = Table(title=f"{name}: {len(heaviest)} of {len(kernels)} kernels")
    table.add_column("kernel", no_wrap=True, overflow="ellipsis", max_width=48)
    for heading in ("MFLOP", "float values", "int8 values"):
        table.add_column(heading, justify="right")
    for each in heaviest:
        table.add_row(
            each.name,
            f"{2 * each.macs / 1e6:.1f}",
            f"{each.float_elements:,}",
            f"{each.int8_elements:,}",
        )
    Console().print(table)


def _print_models(models: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="estimated, not measured; milliseconds a call, one picture or cell")
    for heading in ("model", "device"):
        table.add_column(heading)
    for heading in ("GFLOP", "int8", "ideal", "estimate", "range", "waits for memory"):
        table.add_column(heading, justify="right")
    for name, model in models.items():
        for row in model["estimates"]:
            table.add_row(
                name.removesuffix(".onnx"),
                row["device"],
                f"{model['gflop']:.3f}",
                f"{model['int8_share']:.0%}",
                f"{row['ideal_ms']:.2f}",
                f"{row['estimated_ms']:.2f}",
                f"{row['low_ms']:.2f} – {row['high_ms']:.2f}",
                f"{row['memory_share']:.0%}",
            )
    Console(width=120).print(table)
