"""Golden data of a bundle: small drawn fields, and what its artifacts find in them.

Owns which fields are drawn and how outputs are kept. Does not own the comparison on a
device (see ``edge_runtime.golden``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge_runtime.backends import backend_row
from edge_runtime.bundle import Bundle, GoldenSpec, GoldenTolerance, Runtime
from edge_runtime.errors import BundleError, DataError, FrameError
from edge_runtime.golden import GoldenOutputs, GoldenRun, look_at
from edge_runtime.settings import Settings
from edge_runtime.types import Frame, UInt8Image

GOLDEN_FOLDER = "golden"
OUTPUTS_NAME = f"{GOLDEN_FOLDER}/outputs.json"
# Same program and processor family: what is left are roundings of other instruction sets.
SAME_RUNTIME = GoldenTolerance(box_iou=0.9, score=0.05, probability=0.05)
# Another program rounds int8 elsewhere; docs/reference/bundle.md has what was measured.
OTHER_RUNTIME = GoldenTolerance(box_iou=0.8, score=0.1, probability=0.2)
# Real pictures cannot be given on with every bundle; these are drawn.
_SEED = 20
_FIELDS = 3
_WIDTH, _HEIGHT, _PIXEL_UM = 320, 240, 0.2
_BACKEND = "onnxruntime"


def drawn_fields() -> tuple[list[UInt8Image], float]:
    """The golden fields, RGB uint8 ``(240, 320, 3)``, and their µm per pixel."""
    from edge_runtime.cameras.virtual import VirtualCamera
    from edge_runtime.virtual_film import FilmSpec, OpticalProfile, VirtualFilm

    profile = OpticalProfile(
        "golden",
        pixel_size_um=_PIXEL_UM,
        resolution=(_WIDTH, _HEIGHT),
        frame_rate_hz=1.0,
        blur_sigma_um=0.12,
        sensor_noise_sigma=1.5,
    )
    # Many cells on a small film: each is something to compare.
    spec = FilmSpec(
        size_um=(200.0, 50.0),
        white_cells_per_mm2=1500.0,
        red_cell_coverage=0.35,
        blast_fraction=0.2,
    )
    camera = VirtualCamera(VirtualFilm.build(_SEED, spec), profile, _FIELDS)
    return [frame.pixels for frame in camera], _PIXEL_UM


def fields_of(folder: Path) -> list[UInt8Image]:
    """An integrator's own pictures, by name.

    Raises:
        DataError: the folder has none, or one cannot be used.
    """
    from edge_runtime.image_file import IMAGE_SUFFIXES, read_image

    if not folder.is_dir():
        raise DataError(f"golden fields {folder}: no such folder; name one with pictures")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"golden fields {folder}: no picture in it; put two or three fields there")
    fields = []
    for path in paths:
        try:
            fields.append(read_image(path))
        except FrameError as error:
            raise DataError(f"golden field {path}: {error}") from error
    return fields


def make_golden(
    bundle: Bundle,
    fields: Sequence[UInt8Image],
    pixel_size_um: float | None,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[GoldenSpec, dict[str, bytes]]:
    """Runs every runtime family's artifacts with ONNX Runtime and keeps what they say.

    Args:
        bundle: verified; golden data it has already are not looked at.
        fields: RGB uint8 ``(H, W, 3)``.
        pixel_size_um: of the fields, when known.
        say: takes one line for each family.

    Returns:
        The manifest's part, and the files that belong to it.

    Raises:
        BackendError: ONNX Runtime refuses an artifact.
        BundleError: no cell is found, so the test would prove nothing.
    """
    from edge_runtime.film_run import load_bundle

    frames = [
        Frame(number, 0, pixels, f"field {number}", pixel_size_um)
        for number, pixels in enumerate(fields)
    ]
    runs: dict[Runtime, GoldenRun] = {}
    for runtime in _families(bundle):
        row = replace(backend_row(_BACKEND), runtime=runtime)
        with load_bundle(bundle, Settings(threads=1), row=row) as loaded:
            run = look_at(loaded, frames)
        cells = sum(map(len, run.fields))
        say(f"golden data, {runtime}: {cells} cells in {len(fields)} fields")
        if cells == 0:
            raise BundleError(
                f"bundle {bundle.id}: the {runtime} artifacts find no cell in the golden fields, "
                "so a self-test would prove nothing; give fields of yours with --golden-fields"
            )
        runs[runtime] = run
    names = [f"{GOLDEN_FOLDER}/field_{number}.bmp" for number in range(len(fields))]
    outputs = GoldenOutputs(runs=runs).model_dump(mode="json")
    text = json.dumps(outputs, sort_keys=True, separators=(",", ":")) + "\n"
    files = {name: _bmp(pixels) for name, pixels in zip(names, fields, strict=True)}
    spec = GoldenSpec(
        fields=tuple(names),
        pixel_size_um=pixel_size_um,
        outputs=OUTPUTS_NAME,
        same_runtime=SAME_RUNTIME,
        other_runtime=OTHER_RUNTIME,
    )
    return spec, {**files, OUTPUTS_NAME: text.encode()}


def _families(bundle: Bundle) -> list[Runtime]:
    """Runtime families for which every head has an artifact."""
    manifest = bundle.manifest
    parts = (manifest.detector, manifest.classifier, manifest.attribute_head)
    have = [{each.runtime for each in part.artifacts} for part in parts if part is not None]
    return sorted(set.intersection(*have))


def _bmp(pixels: UInt8Image) -> bytes:
    # Neither lossy nor compressed: a compressor's output has versions.
    done, raw = cv2.imencode(".bmp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"no BMP of a {pixels.shape} picture")
    return np.asarray(raw, np.uint8).tobytes()
