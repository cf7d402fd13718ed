"""Heads without training for coloured squares, in the shape of the exported ones, and their runs.

They have what matters to quantisation: convolutions with ReLU or LeakyReLU, pooling, and
fully connected layers of which the last stays float. Their weights are set by hand: they
compare mean colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from calibration.float_heads import FloatAttributeHead, FloatClassifier, float_artifact
from calibration.labelled_cells import (
    CellPicture,
    CellRow,
    CellSplit,
    LabelledCells,
    write_cells,
)
from edge_runtime.attributes import Attribute, AttributeSchema
from edge_runtime.bundle import AttributeHeadSpec, ClassifierSpec, CropInputSpec, FeatureMapSpec
from tests.export.conftest import _Nodes
from tests.support import write_image

SIDE, CROP = 64, 16
CLASSES = ("red", "green", "blue")
COLOURS = np.array([[200, 60, 60], [60, 190, 70], [70, 60, 200]], np.float64)
SCHEMA = AttributeSchema(
    name="toy",
    attributes=(
        Attribute(name="tint", values=("warm", "cold")),
        Attribute(name="hue", values=CLASSES),
    ),
)
MAPS = (
    FeatureMapSpec(name="features_s4", channels=3, stride=4),
    FeatureMapSpec(name="features_s8", channels=3, stride=8),
)
LAYERS = (1, 2)
_SHARPNESS = 30.0


def _model(n: _Nodes, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> bytes:
    from onnx import TensorProto, helper

    def values(shapes: dict[str, list[Any]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        ]

    model = helper.make_model(
        helper.make_graph(n.nodes, "toy", values(inputs), values(outputs), n.weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def _eye(channels: int) -> Any:
    return np.eye(channels).reshape(channels, channels, 1, 1)


def _nearest(copies: int) -> tuple[Any, Any]:
    """Weights and biases of a linear layer whose largest output is the nearest colour."""
    means = COLOURS / 255
    weights = np.concatenate([2 * means / copies] * copies, axis=1)
    return _SHARPNESS * weights, -_SHARPNESS * (means**2).sum(axis=1)


def toy_classifier() -> FloatClassifier:
    n = _Nodes()
    n.conv("crops", "first", _eye(3), np.zeros(3))
    n.add("Relu", ["first"], "once")
    n.conv("once", "second", _eye(3), np.zeros(3))
    n.add("Relu", ["second"], "twice")
    n.add("Add", ["once", "twice"], "sum")
    n.add("AveragePool", ["sum"], "halved", kernel_shape=[2, 2], strides=[2, 2])
    n.conv("halved", "third", _eye(3) / 2, np.zeros(3))
    n.add("Relu", ["third"], "last")
    n.add("GlobalAveragePool", ["last"], "mean")
    n.add("Flatten", ["mean"], "flat", axis=1)
    weights, biases = _nearest(1)
    n.add("Gemm", ["flat", n.weight("w", weights), n.weight("b", biases)], "logits", transB=1)
    spec = ClassifierSpec(
        architecture="toy",
        classes=CLASSES,
        input=CropInputSpec(
            name="crops", width=CROP, height=CROP, scale=1 / 255, pad_value=0, margin=0
        ),
        output="logits",
        abstain_below=0,
        artifacts=(float_artifact("classifier"),),
    )
    model = _model(n, {"crops": ["n", 3, CROP, CROP]}, {"logits": ["n", len(CLASSES)]})
    return FloatClassifier(model, spec)


def layered_detector(*, tapped: bool, seed: int = 0) -> bytes:
    """Float ONNX: two layers of mean colours, and something in place of finds."""
    n = _Nodes()
    rng = np.random.default_rng(seed)
    names = ("features_s4", "features_s8") if tapped else ("early", "later")
    turn = np.eye(3) if seed == 0 else rng.normal(size=(3, 3))
    n.conv("images", "c1", turn[:, :, None, None] * np.ones((1, 1, 4, 4)) / 16, np.zeros(3))
    n.nodes[-1].attribute.append(_strides(4))
    n.add("Relu", ["c1"], names[0])
    n.conv(names[0], "c2", np.eye(3)[:, :, None, None] * np.ones((1, 1, 2, 2)) / 4, np.zeros(3))
    n.nodes[-1].attribute.append(_strides(2))
    n.add("Relu", ["c2"], names[1])
    n.conv(names[1], "c3", rng.normal(size=(5, 3, 1, 1)), np.zeros(5))
    n.add("Reshape", ["c3", n.weight("shape", np.array([1, 5, 64]))], "output0")
    for node, name in zip(n.nodes, ("c1", "r1", "c2", "r2", "c3", "out"), strict=True):
        node.name = name
    maps = {"features_s4": [1, 3, 16, 16], "features_s8": [1, 3, 8, 8]}
    outputs: dict[str, list[Any]] = {"output0": [1, 5, 64], **(maps if tapped else {})}
    return _model(n, {"images": [1, 3, SIDE, SIDE]}, outputs)


def _strides(step: int) -> Any:
    from onnx import helper

    return helper.make_attribute("strides", [step, step])


def toy_attribute_head() -> FloatAttributeHead:
    n = _Nodes()
    n.add("Shape", ["boxes"], "cells", start=0, end=1)
    n.add("ConstantOfShape", ["cells"], "picture", value=_zero())
    pooled = [
        n.add(
            "RoiAlign",
            [each.name, "boxes", "picture"],
            f"pooled_{each.stride}",
            output_height=2,
            output_width=2,
            sampling_ratio=2,
            spatial_scale=1 / each.stride,
        )
        for each in MAPS
    ]
    n.add("Concat", pooled, "joined", axis=1)
    n.conv("joined", "mixed", _eye(6), np.zeros(6))
    n.add("LeakyRelu", ["mixed"], "active", alpha=0.01)
    n.add("MaxPool", ["active"], "peak", kernel_shape=[2, 2], strides=[2, 2])
    n.add("Flatten", ["peak"], "flat", axis=1)
    weights = [n.weight("w1", np.eye(6)), n.weight("b1", np.zeros(6))]
    n.add("Gemm", ["flat", *weights], "hidden", transB=1)
    n.add("LeakyRelu", ["hidden"], "kept", alpha=0.01)
    hue, offset = _nearest(2)
    # Warm is more red than blue.
    warm = np.array([[20.0, 0, -20, 20, 0, -20]])
    weights = [
        n.weight("w2", np.concatenate([warm, -warm, hue])),
        n.weight("b2", np.concatenate([np.zeros(2), offset])),
    ]
    n.add("Gemm", ["kept", *weights], "attribute_logits", transB=1)
    spec = AttributeHeadSpec(
        architecture="toy",
        attributes=SCHEMA,
        reads=tuple(each.name for each in MAPS),
        boxes="boxes",
        output="attribute_logits",
        not_for_classes=("green",),
        artifacts=(float_artifact("attribute_head"),),
    )
    inputs: dict[str, list[Any]] = {
        each.name: [1, 3, SIDE // each.stride, SIDE // each.stride] for each in MAPS
    }
    inputs["boxes"] = ["n", 4]
    return FloatAttributeHead(_model(n, inputs, {"attribute_logits": ["n", 5]}), spec, MAPS, LAYERS)


def _zero() -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor("zero", TensorProto.INT64, [1], [0])


def head_run(folder: Path, root: Path, *, attributes: bool, training_light: float = 1.0) -> Path:
    """A run folder with ``cells.json``, and its pictures below ``root``: a square in each."""
    rng = np.random.default_rng(0)
    pictures = []
    splits: tuple[tuple[CellSplit, int, float], ...] = (
        ("train", 24, training_light),
        ("val", 18, 1.0),
        ("test", 12, 1.0),
    )
    for split, count, light in splits:
        (root / "squares" / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            class_id = index % len(CLASSES)
            colour = COLOURS[class_id] + rng.integers(-20, 21, 3)
            pixels = np.full((SIDE, SIDE, 3), 30.0)
            x, y = (int(v) for v in rng.integers(4, 32, 2))
            pixels[y : y + 24, x : x + 24] = colour
            grain = rng.integers(-3, 4, pixels.shape)
            file = f"squares/{split}/{index:02d}.png"
            write_image(root / file, np.asarray(np.clip(light * pixels + grain, 0, 255), np.uint8))
            values = (int(class_id == 2), class_id) if class_id != 1 else (-1, -1)
            box = ((x + 12) / SIDE, (y + 12) / SIDE, 24 / SIDE, 24 / SIDE)
            row = CellRow(box_xywhn=box, class_id=class_id, attributes=values if attributes else ())
            pictures.append(CellPicture(file=file, split=split, domain="squares", cells=(row,)))
    folder.mkdir(parents=True, exist_ok=True)
    record = LabelledCells(
        name="squares",
        classes=CLASSES,
        attributes=SCHEMA if attributes else None,
        pictures=tuple(pictures),
    )
    write_cells(record, folder / "cells.json")
    return folder
