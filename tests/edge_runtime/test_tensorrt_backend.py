"""The TensorRT backend on a runtime that writes every call down."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import on_host
from edge_runtime.backends.tensorrt import open_engine
from edge_runtime.device_buffers import CudaError, DeviceMemoryError
from edge_runtime.engines.cache import EngineCache
from edge_runtime.engines.for_bundle import build_engine, engine_target
from edge_runtime.engines.tensorrt_api import flavour_named
from edge_runtime.errors import BackendError
from edge_runtime.types import Float32Array
from tests.recording_tensorrt import MB, RecordingGpu, RecordingTensorRt, open_backend
from tests.support import SIDE, toy_detector
from tests.toy_heads import CROP_SIDE, MAPS, toy_attribute_head, toy_classifier

STREAM_AND_BUFFERS = ["open_stream"] + ["allocate", "allocate_pinned"] * 2
NOTHING_HELD = (0, 0, 0, 0)


def picture(seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).random((1, 3, SIDE, SIDE)).astype(np.float32)


def crops(count: int) -> Float32Array:
    values = np.random.default_rng(count).random((count, 3, CROP_SIDE, CROP_SIDE))
    return values.astype(np.float32)


def test_a_call_copies_in_enqueues_copies_out_and_waits() -> None:
    api = RecordingTensorRt(gpu=RecordingGpu(graphs=False))
    with open_backend(toy_detector(), threads=1, api=api) as backend:
        assert api.gpu.calls == STREAM_AND_BUFFERS
        api.gpu.calls.clear()
        for _ in range(2):
            backend.infer({"images": picture()})
        assert api.gpu.calls == ["copy_in", "enqueue", "copy_out", "synchronise"] * 2
        assert "no graph" in backend.facts.device
    assert api.gpu.held == NOTHING_HELD


def test_fixed_shapes_run_as_a_graph_captured_once() -> None:
    api = RecordingTensorRt()
    with open_backend(toy_detector(), threads=1, api=api) as backend:
        # The first inference sets up what may not be captured, so it comes before.
        assert api.gpu.calls == [
            *STREAM_AND_BUFFERS,
            "enqueue",
            "synchronise",
            "capture",
            "enqueue",
        ]
        api.gpu.calls.clear()
        first = backend.infer({"images": picture(1)})["output"]
        assert api.gpu.calls == ["copy_in", "launch", "copy_out", "synchronise"]
        assert not np.array_equal(first, backend.infer({"images": picture(2)})["output"])
        assert backend.facts.device == "Recording GPU (8.7), recording, CUDA graph"
    assert api.gpu.held == NOTHING_HELD


def test_a_graph_that_cannot_be_captured_is_told_and_done_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = RecordingTensorRt()
    api.gpu.fails_at["capture"] = CudaError("operation not permitted when capturing")
    with open_backend(toy_detector(), threads=1, api=api) as backend:
        assert "without a CUDA graph" in caplog.text
        assert "no graph" in backend.facts.device
        backend.infer({"images": picture()})
        assert api.gpu.calls[-3:] == ["enqueue", "copy_out", "synchronise"]
    assert api.gpu.held == NOTHING_HELD


def test_any_number_of_cells_goes_in_pieces_of_64_without_new_memory() -> None:
    api = RecordingTensorRt()
    with open_backend(toy_classifier(), threads=1, api=api) as backend:
        assert "capture" not in api.gpu.calls
        api.gpu.calls.clear()
        assert backend.infer({"crops": crops(130)})["logits"].shape == (130, 3)
        assert api.gpu.calls == ["copy_in", "enqueue", "copy_out", "synchronise"] * 3
        api.gpu.calls.clear()
        assert backend.infer({"crops": crops(0)})["logits"].shape == (0, 3)
        assert api.gpu.calls == []


def test_maps_go_from_the_detector_to_the_head_without_the_host() -> None:
    gpu = RecordingGpu()
    models = (toy_detector(maps=MAPS), toy_attribute_head())
    apis = [RecordingTensorRt(gpu=gpu) for _ in models]
    boxes = np.array([[10, 10, 60, 60], [30, 20, 90, 100]], np.float32)
    with (
        open_backend(models[0], threads=1, api=apis[0]) as detector,
        open_backend(models[1], threads=1, api=apis[1]) as head,
    ):
        plain = detector.infer({"images": picture()})
        expected = head.infer({"early": plain["early"], "later": plain["later"], "boxes": boxes})
        for turn in range(3):
            gpu.calls.clear()
            kept = detector.infer_keeping({"images": picture()}, ["early", "later"])
            maps = {name: kept[name] for name in ("early", "later")}
            answer = head.infer(maps | {"boxes": boxes})
            detect = ["copy_in", "launch", "copy_out", *["copy_across"] * 2, "synchronise"]
            judge = [*["copy_across"] * 2, "copy_in", "enqueue", "copy_out", "synchronise"]
            # Only the first look makes memory for kept maps; it goes round from then on.
            assert [call for call in gpu.calls if call != "allocate"] == detect + judge
            assert gpu.calls.count("allocate") == (2 if turn == 0 else 0)
            np.testing.assert_array_equal(answer["attributes"], expected["attributes"])
            del kept, maps
            gc.collect()
    assert gpu.held == NOTHING_HELD


def test_a_kept_map_is_copied_once_and_not_after_the_end() -> None:
    api = RecordingTensorRt()
    with open_backend(toy_detector(maps=MAPS), threads=1, api=api) as detector:
        plain = detector.infer({"images": picture()})
        kept = detector.infer_keeping({"images": picture()}, ["early", "later"])
        api.gpu.calls.clear()
        for _ in range(2):
            np.testing.assert_array_equal(on_host(kept["early"]), plain["early"])
        assert api.gpu.calls == ["copy_out", "synchronise"]
    np.testing.assert_array_equal(on_host(kept["early"]), plain["early"])
    with pytest.raises(BackendError, match="closed"):
        on_host(kept["later"])
    with pytest.raises(BackendError, match="closed"):
        detector.infer({"images": picture()})


@pytest.mark.parametrize("call", ["copy_in", "enqueue", "launch", "copy_out", "synchronise"])
def test_a_failing_call_is_one_line_and_everything_is_given_back(call: str) -> None:
    api = RecordingTensorRt(gpu=RecordingGpu(graphs=call == "launch"))
    with open_backend(toy_detector(), threads=1, api=api) as backend:
        api.gpu.fails_at[call] = CudaError("an illegal memory access was encountered")
        with pytest.raises(BackendError, match="illegal memory access") as refusal:
            backend.infer({"images": picture()})
        assert "Recording GPU" in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert api.gpu.held == NOTHING_HELD


@pytest.mark.parametrize("call", ["open_stream", "allocate", "allocate_pinned", "enqueue"])
def test_what_fails_while_loading_leaves_nothing_behind(call: str) -> None:
    api = RecordingTensorRt()
    api.gpu.fails_at[call] = CudaError("unspecified launch failure")
    with pytest.raises(BackendError, match="unspecified launch failure"):
        open_backend(toy_detector(), threads=1, api=api)
    assert api.gpu.held == NOTHING_HELD


@pytest.mark.parametrize("room", [MB // 10, 6 * MB // 10])
def test_too_little_device_memory_says_how_much_and_gives_all_back(room: int) -> None:
    api = RecordingTensorRt(gpu=RecordingGpu(room=room))
    with pytest.raises(BackendError, match=r"has no room for \d+\.\d MB of tensor") as refusal:
        open_backend(toy_classifier(64), threads=1, api=api)
    assert "MB free" in str(refusal.value)
    assert "--backend" in str(refusal.value)
    assert api.gpu.held == NOTHING_HELD


def test_memory_that_runs_out_in_a_call_is_told_too() -> None:
    api = RecordingTensorRt()
    with open_backend(toy_detector(maps=MAPS), threads=1, api=api) as backend:
        api.gpu.fails_at["allocate"] = DeviceMemoryError("cudaMalloc: out of memory")
        with pytest.raises(BackendError, match="kept tensor 'early'"):
            backend.infer_keeping({"images": picture()}, ["early"])
        del api.gpu.fails_at["allocate"]
        assert backend.infer({"images": picture()})["output"].any()
    assert api.gpu.held == NOTHING_HELD


def test_a_context_without_room_is_one_line() -> None:
    api = RecordingTensorRt(context_fails=True)
    with pytest.raises(BackendError, match="no room to run the engine"):
        open_backend(toy_detector(), threads=1, api=api)
    assert api.gpu.held == NOTHING_HELD


def test_half_precision_ends_are_float32_to_the_caller() -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    with open_backend(model.SerializeToString(), threads=1) as backend:
        answer = backend.infer({"x": np.array([[-1, 0.5, 2, 1 / 3]], np.float32)})["y"]
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(
        answer, np.array([[0, 0.5, 2, 1 / 3]], np.float16).astype(np.float32)
    )


def test_inputs_of_different_numbers_of_cells_are_refused() -> None:
    with open_backend(toy_attribute_head(), threads=1) as head:
        maps = {n: np.zeros((1, 3, SIDE // s, SIDE // s), np.float32) for n, s in MAPS}
        with pytest.raises(BackendError, match="'boxes' is"):
            head.infer(maps | {"boxes": np.zeros((2, 5), np.float32)})
        with pytest.raises(BackendError, match="got inputs"):
            head.infer(maps)


def test_an_engine_for_another_gpu_names_both(tmp_path: Path) -> None:
    model = toy_detector()
    flavour = flavour_named("tensorrt")
    there = RecordingTensorRt(gpu=RecordingGpu(capability="7.2"))
    target = engine_target(flavour, api=there.typed(), device=there.gpu)
    build_engine(EngineCache(tmp_path), target, model, artifact="m.onnx")
    here = RecordingTensorRt()
    with pytest.raises(BackendError, match="no engine of this model") as refusal:
        open_engine(flavour, model, threads=1, engines=tmp_path, api=here.typed(), device=here.gpu)
    said = str(refusal.value)
    assert "compute capability 8.7" in said
    assert "are for 7.2 with tensorrt 10.3.0" in said
    assert "leukoscope engine build" in said


def test_a_plan_that_the_library_refuses_says_so(tmp_path: Path) -> None:
    model = toy_detector()
    api = RecordingTensorRt()
    with open_backend(model, threads=1, api=api, engines=tmp_path):
        pass
    api.refuses_to_load = "stdVersionRead: the plan was made by another library"
    with pytest.raises(BackendError, match="does not load: stdVersionRead") as refusal:
        open_engine(
            flavour_named("tensorrt"),
            model,
            threads=1,
            engines=tmp_path,
            api=api.typed(),
            device=api.gpu,
        )
    assert "leukoscope engine build" in str(refusal.value)
    assert api.gpu.held == NOTHING_HELD
