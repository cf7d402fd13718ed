"""From a checkpoint to a float ONNX file.

Owns the call of ultralytics' exporter, what makes its file reproducible and which layers
it puts out beside the finds. The heads' graphs are in ``heads_to_onnx``. Does not own
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.errors import DataError, SettingsError, StoreError
from train.heads_to_onnx import OPSET, export_attribute_head, export_classifier, strip_traces

__all__ = [
    "OPSET",
    "export_attribute_head",
    "export_classifier",
    "export_float_onnx",
    "export_rounded_onnx",
]


def export_float_onnx(
    checkpoint: Path,
    out: Path,
    image_size: int,
    *,
    feature_layers: Sequence[int] = (),
    one_to_one: bool | None = None,
) -> Path:
    """Writes the detector with fused convolutions, one picture per call, fixed size.

    Args:
        checkpoint: ``best.pt`` of an own training run.
        out: the ONNX file to write.
        image_size: side of the square input in pixels; a multiple of 32.
        feature_layers: layers whose outputs become outputs of the graph too, called
            ``features_s4`` after the stride, 4 for one.
        one_to_one: of a network with both heads, such as YOLO26, the one that names every
            cell once (True) or the one whose doubles are suppressed afterwards (False);
            None: the first where the network has it.

    Returns:
        ``out``. Input ``images`` float32 ``(1, 3, size, size)`` in [0, 1]; output
        ``output0`` float32, either ``(1, 4 + classes, anchors)``, centre x, y, width,
        height in pixels, then scores in [0, 1], or of a one-to-one head ``(1, finds, 6)``,
        corners in pixels, score, class. The same checkpoint gives the same bytes.

    Raises:
        DataError: no such checkpoint, it is no detector, the size does not fit, or it has
            no one-to-one head and one was asked for.
        StoreError: ``out`` cannot be written.
    """
    _check(checkpoint, image_size)
    import onnx

    graph = _exported(checkpoint, image_size, one_to_one, rounding=False)
    if graph is None:
        raise DataError(f"checkpoint {checkpoint}: nothing was exported; train again")
    for layer in feature_layers:
        _expose_layer(checkpoint, graph, layer, image_size)
    onnx.checker.check_model(graph)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(graph.SerializeToString(deterministic=True))
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}; choose another folder or free space") from error
    return out


def export_rounded_onnx(
    checkpoint: Path, image_size: int, *, one_to_one: bool | None = None
) -> bytes | None:
    """The detector with the Q/DQ pairs it was trained with, as ultralytics exports them.

    Args:
        checkpoint: ``best.pt`` of an own training run.
        image_size: as for ``export_float_onnx``.
        one_to_one: as there.

    Returns:
        ONNX bytes; None where training knew nothing of int8.

    Raises:
        DataError: as ``export_float_onnx``.
        SettingsError: it was trained with int8, and what that needs is not installed.
    """
    _check(checkpoint, image_size)
    graph = _exported(checkpoint, image_size, one_to_one, rounding=True)
    return None if graph is None else bytes(graph.SerializeToString(deterministic=True))


def _check(checkpoint: Path, image_size: int) -> None:
    if not checkpoint.is_file():
        raise DataError(f"checkpoint {checkpoint}: no such file; train one or mend the path")
    if image_size <= 0 or image_size % 32:
        raise DataError(f"image size {image_size}: the detector's strides need a multiple of 32")


def _exported(
    checkpoint: Path, image_size: int, one_to_one: bool | None, *, rounding: bool
) -> Any | None:
    """Ultralytics' graph: with rounding as trained, None where there is none, or without."""
    # Neither news from its servers nor packages are fetched during an export.
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    import onnx

    with tempfile.TemporaryDirectory(prefix="leukoscope-onnx-") as scratch:
        # Ultralytics writes beside the checkpoint, which may be read-only or somebody's.
        copy = Path(scratch) / "detector.pt"
        shutil.copyfile(checkpoint, copy)
        written = _export(copy, checkpoint, image_size, one_to_one, rounding=rounding)
        if written is None:
            return None
        graph = onnx.load(str(written))
    strip_traces(graph)
    return graph


def _export(
    copy: Path, checkpoint: Path, image_size: int, one_to_one: bool | None, *, rounding: bool
) -> Path | None:
    from ultralytics import YOLO
    from ultralytics.utils.torch_utils import is_qat, strip_qat

    try:
        model = YOLO(str(copy), task="detect")
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"checkpoint {checkpoint}: {error.name} is not installed, and it was trained with "
            "int8 rounding; pip install 'leukoscope[qat]'"
        ) from error
    except Exception as error:  # unpickling foreign bytes can fail in any way
        reason = " ".join(str(error).split())
        raise DataError(f"checkpoint {checkpoint}: not one of ultralytics ({reason})") from error
    if model.task != "detect":
        raise DataError(f"checkpoint {checkpoint}: made for {model.task!r}, not for detection")
    network: Any = model.model
    if rounding and not is_qat(network):
        return None
    if not rounding:
        strip_qat(network)
    has_both = getattr(network.model[-1], "one2one_cv2", None) is not None
    if one_to_one and not has_both:
        raise DataError(
            f"checkpoint {checkpoint}: it has no one-to-one head; train a network that has, "
            "such as yolo26n.yaml, or export the classic one"
        )
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
            # False: the one-to-one head, where there is one; None: the classic one.
            nms=False if has_both and one_to_one is not False else None,
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


def _expose_layer(checkpoint: Path, graph: Any, layer: int, image_size: int) -> None:
    """Adds an output for what one layer of the detector hands to later ones."""
    import onnx

    # The exporter names nodes after the module they come from; a layer's output is the one
    # tensor of its nodes that others read.
    scope = f"/model.{layer}/"
    own = {name for node in graph.graph.node if node.name.startswith(scope) for name in node.output}
    read = {
        name
        for node in graph.graph.node
        if not node.name.startswith(scope)
        for name in node.input
        if name in own
    }
    if len(read) != 1:
        raise DataError(
            f"checkpoint {checkpoint}: layer {layer} has {len(read)} outputs that other layers "
            "read, a feature map needs one; choose another layer"
        )
    source = read.pop()
    inferred = onnx.shape_inference.infer_shapes(graph, data_prop=True)
    shape = next(
        [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in inferred.graph.value_info
        if value.name == source
    )
    name = f"features_s{image_size // shape[2]}"
    if name in {output.name for output in graph.graph.output}:
        raise DataError(f"checkpoint {checkpoint}: two feature maps of one stride, {name}")
    # Renamed, not copied: OpenVINO takes a copy away and may keep the other name of the two.
    for node in graph.graph.node:
        node.input[:] = [name if each == source else each for each in node.input]
        node.output[:] = [name if each == source else each for each in node.output]
    graph.graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    )
