"""A checkpoint becomes float ONNX: the same bytes each time, with what the manifest names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.ranges import measure_ranges
from edge_runtime.errors import DataError
from export.float_onnx import float_onnx
from export.graph import convolution_work, decode_of, float_tail, load_graph
from export.qdq import quantise_for_cpu, quantise_for_tensorrt, tensors_to_measure

pytestmark = pytest.mark.train
SIDE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector with ReLU and one class."""
    import torch
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.tasks import yaml_model_load

    folder = tmp_path_factory.mktemp("checkpoint")
    document = yaml_model_load("yolo11n.yaml")
    document = {key: value for key, value in document.items() if key != "yaml_file"}
    document |= {"nc": 1, "activation": "torch.nn.ReLU()"}
    (folder / "yolo11n-relu.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    torch.manual_seed(0)
    model = YOLO(str(folder / "yolo11n-relu.yaml"), task="detect", verbose=False)
    model.save(folder / "best.pt")
    return folder / "best.pt"


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("onnx") / "float.onnx"
    return float_onnx(checkpoint, out, SIDE).read_bytes()


def run(model: bytes, tensor: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(["output0"], {"images": tensor})[0]


def test_same_checkpoint_same_bytes_and_nothing_beside_it(
    checkpoint: Path, exported: bytes, tmp_path: Path
) -> None:
    before = sorted(checkpoint.parent.iterdir())
    again = float_onnx(checkpoint, tmp_path / "again.onnx", SIDE).read_bytes()
    assert again == exported
    assert sorted(checkpoint.parent.iterdir()) == before
    assert str(checkpoint.parent).encode() not in exported


def test_graph_computes_what_the_checkpoint_computes(checkpoint: Path, exported: bytes) -> None:
    import torch
    from ultralytics import YOLO

    picture = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    found = run(exported, picture)
    model: Any = YOLO(str(checkpoint)).model
    model.float().eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(picture))[0].numpy()
    assert found.shape == expected.shape == (1, 5, (8 * 8 + 4 * 4 + 2 * 2))
    assert found == pytest.approx(expected, abs=1e-3)


def test_head_is_found_and_all_else_quantised(exported: bytes) -> None:
    graph = load_graph(exported)
    tail = float_tail(graph)
    last = sorted(
        node.name for node in graph.graph.node if node.op_type == "Conv" and node.name in tail
    )
    # Names serve the test only: three box and three class convolutions, and DFL's.
    assert len(last) == 7
    assert all(any(part in name for part in ("cv2.", "cv3.", "dfl")) for name in last)
    rng = np.random.default_rng(1)
    tensors = [rng.random((1, 3, SIDE, SIDE), np.float32) for _ in range(3)]
    ranges = measure_ranges(exported, tensors_to_measure(exported), lambda: tensors)
    expected = run(exported, tensors[0])
    for quantise in (quantise_for_cpu, quantise_for_tensorrt):
        model = quantise(exported, ranges)
        assert convolution_work(load_graph(model)).share > 0.97
        assert len(model) < 3_500_000
        assert run(model, tensors[0])[0, :4] == pytest.approx(expected[0, :4], abs=4)


@pytest.fixture(scope="module")
def both_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network with a classic and a one-to-one head."""
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("both") / "best.pt"
    YOLO("yolo26n.yaml", task="detect", verbose=False).save(path)
    return path


@pytest.mark.parametrize(
    ("asked", "shape", "decode"),
    [
        (None, (1, 84, 6), "xyxy_score_class"),
        (True, (1, 84, 6), "xyxy_score_class"),
        (False, (1, 84, 84), "xywh_scores"),
    ],
)
def test_either_head_of_a_network_with_both(
    both_heads: Path, tmp_path: Path, asked: bool | None, shape: tuple[int, ...], decode: str
) -> None:
    model = float_onnx(both_heads, tmp_path / "a.onnx", SIDE, one_to_one=asked).read_bytes()
    graph = load_graph(model)
    assert decode_of(graph) == decode
    last = [n for n in graph.graph.node if n.op_type == "Conv" and n.name in float_tail(graph)]
    assert len(last) == 6
    tensor = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    ranges = measure_ranges(model, tensors_to_measure(model), lambda: [tensor])
    for quantise in (quantise_for_cpu, quantise_for_tensorrt):
        made = quantise(model, ranges)
        assert convolution_work(load_graph(made)).share > 0.97
        assert run(made, tensor).shape == shape


def test_a_network_without_one_to_one_head_cannot_give_one(
    checkpoint: Path, exported: bytes, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no one-to-one head"):
        float_onnx(checkpoint, tmp_path / "a.onnx", SIDE, one_to_one=True)
    assert decode_of(load_graph(exported)) == "xywh_scores"


def test_bad_checkpoints_and_sizes_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        float_onnx(tmp_path / "none.pt", tmp_path / "a.onnx", SIDE)
    with pytest.raises(DataError, match="multiple of 32"):
        float_onnx(checkpoint, tmp_path / "a.onnx", 100)
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(DataError, match="not one of ultralytics"):
        float_onnx(tmp_path / "text.pt", tmp_path / "a.onnx", SIDE)
    assert not (tmp_path / "a.onnx").exists()
