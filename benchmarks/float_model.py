"""The float model that all contenders share: the ONNX file and a bundle around it.

Owns making these two for one measurement. Does not own the exporter (``train.to_onnx``) nor
the bundles that are shipped (``export.bundle_writer``).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from edge_runtime.bundle import MANIFEST_NAME, Artifact, Bundle, BundledFile
from edge_runtime.errors import DataError

_ONNX_NAME = "float32.onnx"


def float_onnx(checkpoint: Path, bundle: Bundle, folder: Path) -> Path:
    """Exports a checkpoint at the bundle's input size.

    Raises:
        DataError: the checkpoint is missing or no detector, or the bundle's input is not
            square.
    """
    from train.to_onnx import export_float_onnx

    spec = bundle.manifest.detector.input
    if spec.width != spec.height:
        raise DataError(
            f"bundle {bundle.id}: input {spec.width} x {spec.height}; a checkpoint is exported "
            "square, give a bundle with a square input"
        )
    # In a process of its own: torch's memory and threads have no place beside a measurement.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _quiet) as pool:
        return pool.submit(export_float_onnx, checkpoint, folder / _ONNX_NAME, spec.width).result()


def swap_in_float_model(bundle: Bundle, onnx: Path, folder: Path) -> Path:
    """The same bundle with a float model as its only artifact.

    Args:
        bundle: gives input, thresholds, working scale and classes.
        onnx: the float model, with the bundle's tensor names.
        folder: is made; holds the bundle afterwards.

    Returns:
        ``folder``.
    """
    content = onnx.read_bytes()
    artifact = Artifact(path=_ONNX_NAME, runtime="cpu", precision="float32", quantisation="none")
    listed = BundledFile(
        path=_ONNX_NAME, sha256=hashlib.sha256(content).hexdigest(), size=len(content)
    )
    manifest = bundle.manifest
    detector = manifest.detector.model_copy(update={"artifacts": (artifact,)})
    written = manifest.model_copy(update={"files": (listed,), "detector": detector})
    folder.mkdir(parents=True)
    (folder / _ONNX_NAME).write_bytes(content)
    (folder / MANIFEST_NAME).write_text(written.model_dump_json(), encoding="utf-8")
    return folder


def _quiet() -> None:
    """Keeps the exporter's own lines off the screen; it reads this when it is imported."""
    os.environ["YOLO_VERBOSE"] = "false"
