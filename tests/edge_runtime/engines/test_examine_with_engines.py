"""The shipped bundle on engines, from the cache to the cells, on the recording runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime import device_buffers
from edge_runtime.attribute_head import AttributeHead
from edge_runtime.backends import BACKENDS, open_backend
from edge_runtime.backends import tensorrt as backend_module
from edge_runtime.bundle import Bundle, open_bundle, shipped_bundle_path
from edge_runtime.classifier import Classifier
from edge_runtime.engines.for_bundle import build_for_bundle, engine_target
from edge_runtime.engines.tensorrt_api import flavour_named
from edge_runtime.errors import BackendError
from edge_runtime.examiner import Examiner
from edge_runtime.film_run import load_bundle
from edge_runtime.settings import Settings
from edge_runtime.stages import Detector
from edge_runtime.types import Frame
from tests.recording_tensorrt import RecordingTensorRt
from tests.support import paint_field


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(shipped_bundle_path())


@pytest.fixture(scope="module")
def frame() -> Frame:
    """Two purple cells among red ones, small enough to be looked at through windows too."""
    reds = [(320 + step * 63, 512, 42) for step in range(-3, 2)]
    sharp = paint_field(640, 640, [(192, 192, 70), (448, 384, 70)], red_cells=reds)
    return Frame(0, 0, np.asarray(cv2.GaussianBlur(sharp, (0, 0), 2), np.uint8), "painted")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> RecordingTensorRt:
    """The recording library and GPU as if they were this machine's."""
    library = RecordingTensorRt()
    monkeypatch.setattr(backend_module, "unsupported_reason", lambda: None)
    monkeypatch.setattr(backend_module, "load_api", lambda flavour: library)
    monkeypatch.setattr(device_buffers, "open_device", lambda: library.gpu)
    return library


@pytest.fixture
def engines(api: RecordingTensorRt, shipped: Bundle, tmp_path: Path) -> Iterator[Path]:
    target = engine_target(flavour_named("tensorrt"), api=api.typed(), device=api.gpu)
    build_for_bundle(shipped, tmp_path, say=lambda line: None, target=target)
    yield tmp_path
    assert api.gpu.held == (0, 0, 0, 0)


def test_a_field_has_the_same_cells_on_engines_as_on_their_graphs(
    api: RecordingTensorRt, engines: Path, shipped: Bundle, frame: Frame
) -> None:
    manifest = shipped.manifest
    assert manifest.attribute_head is not None
    assert manifest.classifier is not None
    settings = Settings(backend="tensorrt", engines=engines, threads=2)
    with load_bundle(shipped, settings) as loaded:
        examiner = Examiner(
            loaded.detector, attribute_head=loaded.attribute_head, classifier=loaded.classifier
        )
        api.gpu.calls.clear()
        found = examiner.examine(frame)
        # Each look is a graph; each call of the attribute head or the classifier is not. The
        # two maps of a look go across to where they are kept, and from there to the head.
        looks = api.gpu.calls.count("launch")
        judged = api.gpu.calls.count("enqueue") - 1
        assert judged >= 1
        assert api.gpu.calls.count("copy_across") == 2 * looks + 2 * judged
        assert loaded.record.name == "tensorrt"
        assert loaded.record.device.startswith("Recording GPU (8.7)")
        assert loaded.record.artifact == "detector.tensorrt.int8.onnx"
    with ExitStack() as stack:
        detector, head, classifier = (
            stack.enter_context(
                open_backend(BACKENDS[0], shipped.contents[f"{name}.tensorrt.int8.onnx"], threads=1)
            )
            for name in ("detector", "attribute_head", "classifier")
        )
        expected = Examiner(
            Detector(manifest.detector, detector),
            attribute_head=AttributeHead(manifest.attribute_head, manifest.detector, head),
            classifier=Classifier(manifest.classifier, classifier),
        ).examine(frame)
    assert len(found.detections) == len(expected.detections) > 0
    assert looks == expected.windows
    for name in ("boxes_xyxy", "scores", "attribute_values", "attribute_probabilities"):
        have, want = (getattr(each.detections, name) for each in (found, expected))
        np.testing.assert_allclose(have, want, atol=1e-3)
    assert found.classes is not None
    assert expected.classes is not None
    np.testing.assert_array_equal(found.classes.class_ids, expected.classes.class_ids)


def test_an_altered_engine_is_refused_before_it_is_loaded(
    api: RecordingTensorRt, engines: Path, shipped: Bundle
) -> None:
    path = sorted(engines.glob("*.engine"))[0]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with (
        pytest.raises(BackendError, match="altered"),
        load_bundle(shipped, Settings(backend="tensorrt", engines=engines)),
    ):
        pass


def test_without_engines_the_run_says_what_to_do(
    api: RecordingTensorRt, shipped: Bundle, tmp_path: Path
) -> None:
    with (
        pytest.raises(BackendError, match="run leukoscope engine build") as refusal,
        load_bundle(shipped, Settings(backend="tensorrt", engines=tmp_path)),
    ):
        pass
    assert "\n" not in str(refusal.value)
