"""A real detector of purple discs, a bundle around it, and fields it finds cells in.

The model is a small ONNX graph without training: it measures area, centre and spread of
purple in windows of two sizes and answers as the exported detectors do. Discs that lie apart
come out within a pixel or two, so tests can demand positions.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_runtime.types import UInt8Image

SIDE = 160
# Narrowest and widest disc, in input pixels, that the toy model finds reliably.
NARROWEST_PX, WIDEST_PX = 8, 110
MODEL_NAME = "detector.onnx"

_PAPER = (236, 226, 214)
_RED_CELL = (206, 142, 146)
_NUCLEUS = (92, 48, 150)
# All purple to the toy detector; they differ in how red they are.
STAINS = {"navy": (20, 48, 150), "violet": _NUCLEUS, "plum": (170, 48, 150)}
# The model works on blocks of 4 pixels and looks through windows of 14 and 36 blocks.
_BLOCK = 4
_WINDOWS = (14, 36)


def paint_field(
    width: int,
    height: int,
    cells: Iterable[tuple[float, float, float]] = (),
    *,
    red_cells: Iterable[tuple[float, float, float]] = (),
    stained: Mapping[str, Iterable[tuple[float, float, float]]] | None = None,
    squeeze: float = 1.0,
    seed: int = 0,
) -> UInt8Image:
    """A field, RGB uint8: purple and red discs given as centre x, centre y, diameter.

    ``stained`` holds cells in the colours that ``toy_classifier`` tells apart, by class.
    ``squeeze`` multiplies the discs' widths only.
    """
    rng = np.random.default_rng(seed)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = _PAPER
    painted = [(STAINS[name], discs) for name, discs in (stained or {}).items()]
    for colour, discs in ((_RED_CELL, red_cells), (_NUCLEUS, cells), *painted):
        for x, y, diameter in discs:
            # Sixteenths of a pixel, so that sizes are not rounded to whole ones.
            centre = (round(x * 16), round(y * 16))
            axes = (round(diameter * squeeze * 8), round(diameter * 8))
            cv2.ellipse(pixels, centre, axes, 0, 0, 360, colour, cv2.FILLED, cv2.LINE_AA, 4)
    grain = rng.integers(-3, 4, (height, width, 1), np.int16)
    return np.asarray(np.clip(pixels + grain, 0, 255), np.uint8)


def write_image(path: Path, pixels: UInt8Image) -> Path:
    """Writes an RGB image in the format its suffix names."""
    done = cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done
    return path


def toy_detector(
    side: int = SIDE,
    *,
    input_name: str = "images",
    output: str = "output",
    maps: Sequence[tuple[str, int]] = (),
) -> bytes:
    """ONNX bytes: float32 (1, 3, side, side) RGB in 0..1 to (1, 5, anchors).

    ``maps`` names further outputs with their strides: the input's colours, averaged.
    """
    from onnx import TensorProto, helper

    graph = _Graph()
    # Purple is blue well above green; neither red cells nor paper nor padding are.
    purple = graph.op("Conv", input_name, np.array([0.0, -25.0, 25.0]).reshape(1, 3, 1, 1))
    mask = graph.op("Clip", graph.op("Sub", purple, 5.0), 0.0, 1.0)
    ramp = (np.arange(side) + 0.5) / side
    xs, ys = np.meshgrid(ramp, ramp)
    weights = np.stack([np.ones_like(xs), xs, ys, xs * xs, ys * ys])[None]
    blocks = graph.op(
        "AveragePool",
        graph.op("Mul", mask, weights),
        kernel_shape=[_BLOCK] * 2,
        strides=[_BLOCK] * 2,
    )
    tables = [_boxes_seen_through(graph, blocks, side, window) for window in _WINDOWS]
    graph.op("Concat", *tables, axis=2, named=output)
    for name, stride in maps:
        pool = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        graph.op("AveragePool", input_name, named=name, **pool)
    shapes = {name: [1, 3, side // stride, side // stride] for name, stride in maps}
    anchors = len(_WINDOWS) * (side // (2 * _BLOCK) + 1) ** 2
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "purple_discs",
            [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [1, 3, side, side])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in ({output: [1, 5, anchors]} | shapes).items()
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


class _Graph:
    """Collects ONNX nodes; arguments that are no tensor names become constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: Any, named: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = named or f"t{len(self.nodes)}"
        inputs = tuple(i if isinstance(i, str) else self._constant(i) for i in inputs)
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def above(self, value: str, threshold: float) -> str:
        """1 above the threshold, 0 below, steep between."""
        steep = self.op("Mul", self.op("Sub", value, threshold), 1e4)
        return self.op("Clip", steep, 0.0, 1.0)

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        array = np.asarray(value)
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.astype(kind), name))
        return name


def _boxes_seen_through(graph: _Graph, blocks: str, side: int, window: int) -> str:
    """What windows of one size say: (1, 5, windows), centre, size, score."""
    op = graph.op
    pooled = op(
        "AveragePool",
        blocks,
        kernel_shape=[window] * 2,
        strides=[2, 2],
        pads=[window // 2] * 4,
        count_include_pad=1,
    )
    fill, *sums = (op("Conv", pooled, np.eye(5)[i].reshape(1, 5, 1, 1)) for i in range(5))
    x, y, xx, yy = (op("Div", value, op("Max", fill, 1e-9)) for value in sums)
    # A disc's diameter is four times its standard deviation along one axis.
    width, height = (
        op("Mul", op("Sqrt", op("Max", op("Sub", square, op("Mul", mean, mean)), 1e-9)), 4.0 * side)
        for square, mean in ((xx, x), (yy, y))
    )
    grid = np.arange(0, side + 1, 2 * _BLOCK) / side
    columns, rows = (axis[None, None] for axis in np.meshgrid(grid, grid))
    off_x, off_y = op("Sub", x, columns), op("Sub", y, rows)
    distance = op("Add", op("Mul", off_x, off_x), op("Mul", off_y, off_y))
    # Only windows centred on their disc speak: the others may have cut it.
    score = op("Clip", op("Sub", 1.0, op("Mul", distance, side * side / 128.0)), 0.0, 1.0)
    # Two discs in one window spread wider than one disc of their area does.
    area = op("Mul", fill, float((window * _BLOCK) ** 2))
    share = op("Div", area, op("Max", op("Mul", op("Mul", width, height), np.pi / 4), 1e-6))
    for condition in (
        graph.above(share, 0.75),
        graph.above(op("Sub", 1.0, fill), 0.25),
        graph.above(area, 12.0),
    ):
        score = op("Mul", score, condition)
    scaled = (op("Mul", x, float(side)), op("Mul", y, float(side)), width, height, score)
    return op("Reshape", op("Concat", *scaled, axis=1), np.array([1, 5, -1]))


def manifest_of(files: Mapping[str, bytes], *, side: int = SIDE) -> dict[str, Any]:
    """A valid manifest for bundle files, of which ``detector.onnx`` is the model."""
    return {
        "schema_version": 1,
        "name": "toy-discs",
        "version": "0.1.0",
        "research_use": "For research use only. Not for use in diagnostic procedures.",
        "files": [
            {"path": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in files.items()
        ],
        "detector": {
            "architecture": "moments of purple, no training",
            "classes": ["wbc"],
            "input": {
                "name": "images",
                "width": side,
                "height": side,
                "scale": 1 / 255,
                "pad_value": 114,
            },
            "output": {"name": "output", "decode": "xywh_scores"},
            "thresholds": {"score": 0.4, "nms_iou": 0.5, "max_cells": 300},
            "working_scale": {
                "cell_px": 32,
                "min_cell_px": 16,
                "cell_um": 13.0,
                "probe_score": 0.4,
                "max_windows": 48,
            },
            "artifacts": [
                {
                    "path": MODEL_NAME,
                    "runtime": "cpu",
                    "precision": "float32",
                    "quantisation": "none",
                }
            ],
        },
        "calibration": {"digest": "none", "images": 0, "domains": {}, "method": "none"},
        "model_card": {
            "title": "Purple discs",
            "summary": "Finds purple discs on a light ground.",
            "limits": ["It has never seen a cell."],
            "licence": "AGPL-3.0-or-later",
            "training_data": ["none"],
            "metrics": {"discs": {"ap50": 1.0}},
            "metrics_of": "nothing",
        },
    }


def write_bundle(folder: Path, files: Mapping[str, bytes], document: Any = None) -> Path:
    """A bundle folder; ``document`` takes the place of the manifest made from ``files``."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    text = json.dumps(manifest_of(files) if document is None else document, indent=1)
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return folder


def zip_bundle(folder: Path, archive: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """The same bundle as one file, always with the same bytes."""
    with zipfile.ZipFile(archive, "w", compression) as out:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            entry.compress_type = compression
            out.writestr(entry, path.read_bytes())
    return archive
