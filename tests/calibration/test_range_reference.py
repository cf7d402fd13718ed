"""Ranges held against ONNX Runtime's own calibrators, and memory against the number of pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.histograms import observe
from calibration.progress import counted
from calibration.ranges import Method, choose_range, measure_ranges
from edge_runtime.types import Float32Array
from tests.calibration.test_ranges import doubling_graph

pytest.importorskip("onnx")


def tensors() -> list[Float32Array]:
    """Bell-shaped with a long tail, as activations behind a convolution are."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6):
        values = rng.normal(0, 1, (1, 1, 100, 100))
        tail = rng.random(values.shape) < 0.001
        found.append(np.where(tail, values * 4, values).astype(np.float32))
    return found


class _Reader:
    def __init__(self) -> None:
        self._feeds = iter([{"images": each} for each in tensors()])

    def get_next(self) -> dict[str, Float32Array] | None:
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[dict[str, Float32Array]]:
        return self._feeds

    def __next__(self) -> dict[str, Float32Array]:
        return next(self._feeds)

    def __len__(self) -> int:
        return len(tensors())


def of_onnxruntime(name: str, folder: Path, options: dict[str, Any]) -> tuple[float, float]:
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    model = folder / "model.onnx"
    model.write_bytes(doubling_graph())
    calibrator = create_calibrator(
        str(model),
        ["Mul", "Relu"],
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod[name],
        extra_options=options,
    )
    calibrator.collect_data(_Reader())
    low, high = calibrator.compute_data()["twice"].range_value
    return float(np.ravel(low)[0]), float(np.ravel(high)[0])


# Percentiles are of bins of slightly different width, hence the slack.
@pytest.mark.parametrize(
    ("method", "name", "options", "slack"),
    [
        ("minmax", "MinMax", {}, 1e-6),
        ("percentile", "Percentile", {"percentile": 99.99, "symmetric": False}, 0.03),
    ],
)
def test_ranges_are_those_of_onnxruntime(
    method: Method, name: str, options: dict[str, Any], slack: float, tmp_path: Path
) -> None:
    low, high = of_onnxruntime(name, tmp_path, options)
    found = measure_ranges(doubling_graph(), ["twice"], tensors, method=method)["twice"]
    assert found.high == pytest.approx(high, rel=slack)
    assert found.low == pytest.approx(low, rel=slack)


def test_entropy_loses_no_more_than_that_of_onnxruntime(tmp_path: Path) -> None:
    """Where it ends depends on the bins: 128, 512 and 2048 give ONNX Runtime 16, 15 and 9."""
    values = 2 * np.concatenate(tensors()).ravel().astype(np.float64)

    def squared_error(low: float, high: float) -> float:
        step = (high - low) / 255
        rounded = np.rint(np.clip(values, low, high) / step) * step
        return float(((rounded - values) ** 2).mean())

    theirs = of_onnxruntime("Entropy", tmp_path, {"num_bins": 2048, "num_quantized_bins": 128})
    found = measure_ranges(doubling_graph(), ["twice"], tensors, method="entropy")["twice"]
    assert theirs[1] < 16 < measure_ranges(doubling_graph(), ["twice"], tensors)["twice"].high
    assert found.high < 14
    assert squared_error(found.low, found.high) <= squared_error(*theirs)


def test_one_pair_of_passes_serves_all_methods() -> None:
    passes = 0

    def feeds() -> list[Float32Array]:
        nonlocal passes
        passes += 1
        return tensors()

    seen = observe(doubling_graph(), ["twice"], feeds)["twice"]
    assert passes == 2
    assert int(seen.counts.sum()) == 60_000
    alone = measure_ranges(doubling_graph(), ["twice"], tensors, method="mse")["twice"]
    assert choose_range(seen, "mse") == alone
    assert choose_range(seen, "minmax").high == seen.high


def test_progress_counts_over_both_passes() -> None:
    told: list[tuple[int, int]] = []
    feeds = counted(tensors, 12, lambda done, total: told.append((done, total)))
    observe(doubling_graph(), ["twice"], feeds)
    assert told == [(done, 12) for done in range(1, 13)]


# Peak memory of this process in MB after so many pictures of 640 px, each of which leaves
# 26 MB of activations behind it.
MEASURE = """
import json, resource, sys
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from calibration.histograms import observe

names = ["a", "b"]
weights = [numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "wa"),
           numpy_helper.from_array(np.ones((8, 8, 1, 1), np.float32), "wb")]
nodes = [helper.make_node("Conv", ["x", "wa"], ["a"], pads=[1] * 4),
         helper.make_node("Conv", ["a", "wb"], ["b"])]
value = helper.make_tensor_value_info
graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [1, 3, 640, 640])],
                          [value("b", TensorProto.FLOAT, [1, 8, 640, 640])], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

def feeds():
    rng = np.random.default_rng(0)
    for _ in range(int(sys.argv[1])):
        yield rng.random((1, 3, 640, 640), np.float32)

observe(model.SerializeToString(), names, feeds)
json.dump(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, sys.stdout)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the module resource is not there")
def test_memory_does_not_grow_with_the_number_of_pictures(repository: Path) -> None:
    def peak(pictures: int) -> float:
        answer = subprocess.run(
            [sys.executable, "-c", MEASURE, str(pictures)],
            cwd=repository,
            capture_output=True,
            check=True,
        )
        return float(json.loads(answer.stdout))

    few, many = peak(3), peak(15)
    # Twelve pictures more hold 310 MB of activations.
    assert many - few < 30, f"{few:.0f} MB after 3 pictures, {many:.0f} MB after 15"
