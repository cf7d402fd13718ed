"""A small detector that really detects, in the shape of the exported ones, and a run folder.

It has what matters to graph surgery: convolutions with ReLU, a residual sum, a pooling, a
concatenation, last convolutions, a softmax with the expectation over distance bins, and
decoding. Its weights are set by hand: it finds dark squares on an 8 px grid.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.types import UInt8Image
from export.training_run import TrainingRun, open_training_run
from tests.support import write_image

SIDE = 64
_STEP = 8
CELL_PX = 16
# Windows of a cell's size, without padding: it would look like a dark rim.
_GRID = (SIDE - CELL_PX) // _STEP + 1
_BINS = 4
# The bin whose weight makes half a cell: distances are in grid steps, 0 to 3.
_HALF = CELL_PX // 2 // _STEP
PAPER, PURPLE = (236, 214, 226), (110, 50, 150)


class _Nodes:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        array = np.asarray(values)
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        self.weights.append(numpy_helper.from_array(array.astype(kind), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        node = helper.make_node(kind, inputs, [output], name=f"n/{output}", **attributes)
        self.nodes.append(node)
        return output

    def conv(self, source: str, name: str, weight: Any, bias: Any, **attributes: Any) -> str:
        inputs = [source, self.weight(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.weight(f"{name}.bias", bias))
        return self.add("Conv", inputs, name, **attributes)


def square_detector(*, seed: int = 0) -> bytes:
    """ONNX bytes: float32 (1, 3, 64, 64) RGB in 0..1 to (1, 5, 49)."""
    from onnx import TensorProto, helper

    rng = np.random.default_rng(seed)
    n = _Nodes()
    # Darkness of a cell-sized window around each grid point, in four slightly unlike copies.
    spread = rng.uniform(0.9, 1.1, 4)
    seen = -np.ones((4, 3, CELL_PX, CELL_PX)) / (3 * CELL_PX**2) * spread[:, None, None, None]
    n.conv("images", "stem", seen, 0.9 * spread, strides=[_STEP] * 2)
    dark = n.add("Relu", ["stem"], "dark")
    n.conv(dark, "mix", np.eye(4).reshape(4, 4, 1, 1), np.zeros(4))
    mixed = n.add("Relu", ["mix"], "mixed")
    both = n.add("Add", [dark, mixed], "both")
    peak = n.add("MaxPool", [both], "peak", kernel_shape=[3, 3], pads=[1] * 4)
    joined = n.add("Concat", [both, peak], "joined", axis=1)
    # How dark a point is, and how much darker than all its neighbours put together.
    sharp = np.concatenate([np.full(4, 2.0), np.full(4, -1.0)]).reshape(1, 8, 1, 1)
    own = np.concatenate([np.full(4, 1.0), np.zeros(4)]).reshape(1, 8, 1, 1)
    n.conv(joined, "features", np.concatenate([sharp, own]), np.zeros(2))
    features = n.add("Relu", ["features"], "kept")
    n.conv(features, "score_last", np.array([6.0, 6.0]).reshape(1, 2, 1, 1), [-20.0])
    # Every side lies half a cell away, said as a distribution over bins.
    wanted = np.tile(np.eye(_BINS)[_HALF] * 20, 4)
    n.conv(features, "box_last", rng.normal(0, 0.01, (4 * _BINS, 2, 1, 1)), wanted)
    points = _GRID * _GRID
    n.add("Reshape", ["box_last", n.weight("bins", np.array([1, 4, _BINS, points]))], "binned")
    n.add("Transpose", ["binned"], "turned", perm=[0, 2, 1, 3])
    n.add("Softmax", ["turned"], "likely", axis=1)
    n.conv("likely", "expected", np.arange(_BINS, dtype=np.float32).reshape(1, _BINS, 1, 1), None)
    n.add("Reshape", ["expected", n.weight("sides", np.array([1, 4, points]))], "distances")
    n.add("Split", ["distances", n.weight("halves", np.array([2, 2]))], "before", axis=1)
    n.nodes[-1].output.append("behind")
    ys, xs = np.meshgrid(np.arange(_GRID), np.arange(_GRID), indexing="ij")
    # Window i begins at step i and is two steps wide.
    grid = np.stack([xs.ravel(), ys.ravel()])[None] + 1.0
    where = n.weight("grid", grid)
    n.add("Sub", [where, "before"], "low")
    n.add("Add", [where, "behind"], "high")
    n.add("Add", ["low", "high"], "doubled")
    n.add("Div", ["doubled", n.weight("two", 2.0)], "centre")
    n.add("Sub", ["high", "low"], "extent")
    n.add("Concat", ["centre", "extent"], "box", axis=1)
    n.add("Mul", ["box", n.weight("step", float(_STEP))], "pixels")
    n.add("Reshape", ["score_last", n.weight("row", np.array([1, 1, points]))], "logits")
    n.add("Sigmoid", ["logits"], "scores")
    n.add("Concat", ["pixels", "scores"], "output0", axis=1)
    model = helper.make_model(
        helper.make_graph(
            n.nodes,
            "dark_squares",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, points])],
            n.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def paint_square(column: int, row: int, *, contrast: float = 1.0, seed: int = 0) -> UInt8Image:
    """A purple square of a cell's size around a grid point, on grainy paper."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((SIDE, SIDE, 3), np.float64)
    pixels[:] = PAPER
    x, y = column * _STEP, row * _STEP
    ink = np.array(PAPER) + contrast * (np.array(PURPLE) - np.array(PAPER))
    pixels[y : y + CELL_PX, x : x + CELL_PX] = ink
    return np.asarray(np.clip(pixels + rng.integers(-3, 4, pixels.shape), 0, 255), np.uint8)


def write_fields(
    root: Path, split: str, count: int, *, seed: int, prefix: str = "f", contrast: float = 1.0
) -> None:
    """Fields with one square each, in YOLO layout."""
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        column, row = (int(v) for v in rng.integers(0, _GRID, 2))
        name = f"{prefix}_{index:03d}"
        pixels = paint_square(column, row, contrast=contrast, seed=1000 * seed + index)
        write_image(images / f"{name}.png", pixels)
        x, y = ((v * _STEP + CELL_PX / 2) / SIDE for v in (column, row))
        (labels / f"{name}.txt").write_text(f"0 {x} {y} {CELL_PX / SIDE} {CELL_PX / SIDE}\n")


def make_run(folder: Path, *, training_contrast: float = 1.0) -> TrainingRun:
    """A finished run folder with two domains, as the trainer leaves it, but for weights."""
    data = folder / "shared"
    for seed, domain in enumerate(("one", "two"), start=1):
        write_fields(data / domain, "train", 12, seed=10 * seed, contrast=training_contrast)
        write_fields(data / domain, "val", 10, seed=10 * seed + 1)
        write_fields(data / domain, "test", 8, seed=10 * seed + 2)
    composed = folder / "run" / "data"
    write_fields(composed, "train", 12, seed=51, prefix="field", contrast=training_contrast)
    write_fields(composed, "val", 10, seed=52, prefix="field")
    # The trainer keeps copies of the real validation fields beside the composed ones.
    write_fields(composed, "val", 4, seed=11, prefix="one")
    record = {
        "recipe": {
            "name": "squares",
            "model": "yolo11n.yaml",
            "activation": "relu",
            "data_root": str(data),
            "domains": [
                {"name": name, "path": name, "class_count": 1, "white_cell_classes": [0]}
                for name in ("one", "two")
            ],
            "leave_out": None,
            "compose": {"size": SIDE, "images": 12},
        },
        "compose": {"validation_pictures": {"field": 10}},
        "checkpoint": "best.pt",
        "minutes": 1.0,
    }
    (folder / "run" / "training.json").write_text(json.dumps(record))
    return open_training_run(folder / "run")


@pytest.fixture(scope="session")
def float_model() -> bytes:
    return square_detector()


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return make_run(tmp_path)


@pytest.fixture
def card_file(tmp_path: Path) -> Path:
    path = tmp_path / "card.yaml"
    path.write_text(
        "title: Squares\nsummary: >\n  Finds squares.\n  Nothing else.\n"
        "licence: AGPL-3.0-or-later\n"
        "limits: [Squares are no cells.]\ntraining_data: [drawn squares]\n"
    )
    return path
