"""From a checkpoint to a float ONNX file.

Owns the call of ultralytics' exporter and what makes its file reproducible. Does not own
anything after that: quantisation, gate and bundle are in ``export``, which reaches this
module through ``export.float_onnx`` only.

A checkpoint is a pickle: loading one runs whatever its author put into it. Give this
module checkpoints of your own training runs and nothing from elsewhere. Bundles hold
ONNX, so no device ever has to.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.errors import DataError, StoreError

# The highest that TensorRT 8.6 reads in full; per-channel DequantizeLinear needs 13.
OPSET = 17


def export_float_onnx(checkpoint: Path, out: Path, image_size: int) -> Path:
    """Writes the detector with fused convolutions, one picture per call, fixed size.

    Args:
        checkpoint: ``best.pt`` of an own training run.
        out: the ONNX file to write.
        image_size: side of the square input in pixels; a multiple of 32.

    Returns:
        ``out``. Input ``images`` float32 ``(1, 3, size, size)`` in [0, 1]; output
        ``output0`` float32 ``(1, 4 + classes, anchors)``, centre x, y, width, height in
        pixels, then scores in [0, 1]. The same checkpoint gives the same bytes.

    Raises:
        DataError: no such checkpoint, it is no detector, or the size does not fit.
        StoreError: ``out`` cannot be written.
    """
    if not checkpoint.is_file():
        raise DataError(f"checkpoint {checkpoint}: no such file; train one or mend the path")
    if image_size <= 0 or image_size % 32:
        raise DataError(f"image size {image_size}: the detector's strides need a multiple of 32")
    # Neither news from its servers nor packages are fetched during an export.
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    import onnx

    with tempfile.TemporaryDirectory(prefix="leukoscope-onnx-") as scratch:
        # Ultralytics writes beside the checkpoint, which may be read-only or somebody's.
        copy = Path(scratch) / "detector.pt"
        shutil.copyfile(checkpoint, copy)
        graph = onnx.load(str(_export(copy, checkpoint, image_size)))
    _strip_traces(graph)
    onnx.checker.check_model(graph)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(graph.SerializeToString(deterministic=True))
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}; choose another folder or free space") from error
    return out


def _export(copy: Path, checkpoint: Path, image_size: int) -> Path:
    from ultralytics import YOLO

    try:
        model = YOLO(str(copy), task="detect")
    except Exception as error:  # unpickling foreign bytes can fail in any way
        reason = " ".join(str(error).split())
        raise DataError(f"checkpoint {checkpoint}: not one of ultralytics ({reason})") from error
    if model.task != "detect":
        raise DataError(f"checkpoint {checkpoint}: made for {model.task!r}, not for detection")
    with warnings.catch_warnings(), _quiet("ultralytics"):
        # The tracing exporter is deprecated; its successor leaves source paths in the graph.
        warnings.simplefilter("ignore")
        written = model.export(
            format="onnx",
            imgsz=image_size,
            batch=1,
            opset=OPSET,
            dynamic=False,
            simplify=False,
            nms=False,
            device="cpu",
            verbose=False,
        )
    return Path(str(written))


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keeps a library's advice on what to do with the file off the screen."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _strip_traces(graph: Any) -> None:
    """Removes dates, source lines and versions, which differ between equal exports."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    graph.graph.doc_string = ""
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
