"""A classifier and an attribute head for ``support``'s purple discs, and bundles with them.

Both are small ONNX graphs without training that measure colour and size, so tests can
demand what they say of a disc of a given stain and diameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import MODEL_NAME, SIDE, STAINS, _Graph, manifest_of, toy_detector, write_bundle

pytest.importorskip("onnx", reason="the toy models are made with onnx; leukoscope[export]")

CROP_SIDE = 24
CLASSIFIER_NAME, HEAD_NAME = "classifier.onnx", "attribute_head.onnx"
CLASSES = tuple(STAINS)
MAPS = (("early", 4), ("later", 8))
SIZE_BORDER_PX = 40.0
SCHEMA: dict[str, Any] = {
    "name": "toy-2",
    "attributes": [
        {"name": "size", "values": ["small", "large"]},
        {"name": "redness", "values": ["none", "some", "much"]},
    ],
}
_REDS = np.array([stain[0] / 255 for stain in STAINS.values()])


def toy_classifier(
    side: int = CROP_SIDE, *, sharpness: float = 400.0, classes: int = 3, batch: int | str = "n"
) -> bytes:
    """ONNX bytes: float32 (n, 3, side, side) RGB in 0..1 to (n, classes) logits of the stains."""
    graph = _Graph()
    # The mean red of the middle third, where every crop shows its disc only.
    kernel = np.zeros((1, 3, side, side))
    third = slice(side // 3, 2 * side // 3)
    kernel[0, 0, third, third] = 1 / (third.stop - third.start) ** 2
    red = graph.op("Reshape", graph.op("Conv", "crops", kernel), np.array([-1, 1]))
    off = graph.op("Sub", red, np.resize(_REDS, classes)[None])
    graph.op("Mul", graph.op("Mul", off, off), -sharpness, named="logits")
    return _model(
        graph, {"crops": [batch, 3, side, side]}, {"logits": [batch, classes]}, name="stains"
    )


def toy_attribute_head(
    side: int = SIDE,
    *,
    maps: Sequence[tuple[str, int]] = MAPS,
    widths: Sequence[int] = (2, 3),
    boxes: int | str = "n",
) -> bytes:
    """ONNX bytes: feature maps and boxes to logits of size and redness, one for each value.

    With ``widths`` of one, of size alone: one output that is positive for large cells.
    """
    graph = _Graph()
    op = graph.op
    # Zero for each box: all are of the only picture.
    width = op("Conv", op("Reshape", "boxes", np.array([-1, 4, 1])), _column(-1, 0, 1, 0))
    width = op("Reshape", width, np.array([-1, 1]))
    which = op("Cast", op("Reshape", op("Mul", width, 0.0), np.array([-1])), to=7)
    size = op("Mul", op("Sub", width, SIZE_BORDER_PX), 0.5)
    logits = [size] if len(widths) == 1 else [op("Neg", size), size]
    reds = []
    for name, stride in maps:
        pooled = op(
            "RoiAlign",
            name,
            "boxes",
            which,
            output_height=3,
            output_width=3,
            sampling_ratio=2,
            spatial_scale=1 / stride,
        )
        centre = np.zeros((1, 3, 3, 3))
        centre[0, 0, 1, 1] = 1
        reds.append(op("Reshape", op("Conv", pooled, centre), np.array([-1, 1])))
    if len(widths) > 1:
        red = op("Mul", op("Add", reds[0], reds[-1]), 0.5)
        off = op("Sub", red, np.resize(_REDS, widths[1])[None])
        logits.append(op("Sub", 3.0, op("Mul", op("Mul", off, off), 300.0)))
    op("Concat", *logits, axis=1, named="attributes")
    shapes: dict[str, list[int | str]] = {
        name: [1, 3, side // stride, side // stride] for name, stride in maps
    }
    return _model(
        graph,
        shapes | {"boxes": [boxes, 4]},
        {"attributes": [boxes, sum(widths)]},
        name="size_and_redness",
    )


def classifier_part(**changes: Any) -> dict[str, Any]:
    """The manifest's part on ``toy_classifier``."""
    part = {
        "architecture": "mean red, no training",
        "classes": list(CLASSES),
        "input": {
            "name": "crops",
            "width": CROP_SIDE,
            "height": CROP_SIDE,
            "scale": 1 / 255,
            "pad_value": 114,
            "margin": 0.1,
        },
        "output": "logits",
        "abstain_below": 0.6,
        "artifacts": [_artifact(CLASSIFIER_NAME)],
    }
    return part | changes


def head_part(**changes: Any) -> dict[str, Any]:
    """The manifest's part on ``toy_attribute_head``."""
    part = {
        "architecture": "RoiAlign of colours, no training",
        "attributes": SCHEMA,
        "reads": [name for name, _ in MAPS],
        "boxes": "boxes",
        "output": "attributes",
        "artifacts": [_artifact(HEAD_NAME)],
    }
    return part | changes


def write_toy_bundle(
    folder: Path,
    *,
    classifier: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
    models: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Path:
    """A bundle of the toy detector and the heads whose manifest parts are given.

    ``models`` takes the place of the toy models by file name and adds files; ``changes`` are
    keys of the manifest.
    """
    files = {MODEL_NAME: toy_detector(maps=MAPS if head is not None else ())}
    if classifier is not None:
        files[CLASSIFIER_NAME] = toy_classifier()
    if head is not None:
        files[HEAD_NAME] = toy_attribute_head()
    files |= models or {}
    document = manifest_of(files)
    if head is not None:
        document["detector"]["feature_maps"] = [
            {"name": name, "channels": 3, "stride": stride} for name, stride in MAPS
        ]
        document["attribute_head"] = dict(head)
    if classifier is not None:
        document["classifier"] = dict(classifier)
    return write_bundle(folder, files, document | changes)


def _artifact(path: str) -> dict[str, str]:
    return {"path": path, "runtime": "cpu", "precision": "float32", "quantisation": "none"}


def _column(*weights: float) -> Any:
    return np.array(weights, float).reshape(1, 4, 1)


def _model(
    graph: _Graph,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    *,
    name: str,
) -> bytes:
    from onnx import TensorProto, helper

    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 16)],
        ir_version=8,
    )
    return bytes(made.SerializeToString())
