"""What every inference backend must keep; one that is absent here is skipped with its reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import (
    AUTO,
    BACKENDS,
    BackendRow,
    InferenceBackend,
    backend_row,
)
from edge_runtime.errors import BackendError
from edge_runtime.types import Float32Array
from tests.contracts.conftest import OpenRow
from tests.support import SIDE, paint_field


@pytest.fixture
def backend(row: BackendRow, toy_model: bytes, open_row: OpenRow) -> Iterator[InferenceBackend]:
    with open_row(row, toy_model, 2) as opened:
        yield opened


@pytest.mark.parametrize("wanted", BACKENDS, ids=lambda row: row.name)
def test_a_backend_works_here_or_says_why(wanted: BackendRow) -> None:
    reason = import_module(wanted.module).unsupported_reason()
    if reason is None:
        assert backend_row(wanted.name) == wanted
        return
    assert "\n" not in reason
    with pytest.raises(BackendError) as refusal:
        backend_row(wanted.name)
    assert reason in str(refusal.value)
    pytest.skip(f"{wanted.name}: {reason}")


def tensor(seed: int) -> Float32Array:
    rng = np.random.default_rng(seed)
    x, y, size = rng.uniform(40, 120), rng.uniform(40, 120), rng.uniform(12, 40)
    field = paint_field(SIDE, SIDE, [(x, y, size)], seed=seed)
    return np.asarray(field.transpose(2, 0, 1)[None] / 255, np.float32, order="C")


def test_it_tells_the_models_tensors(backend: InferenceBackend) -> None:
    assert [(spec.name, spec.shape) for spec in backend.inputs] == [("images", (1, 3, SIDE, SIDE))]
    assert [spec.name for spec in backend.outputs] == ["output"]
    assert backend.outputs[0].shape[:2] == (1, 5)


def test_it_tells_what_really_runs(row: BackendRow, backend: InferenceBackend) -> None:
    facts = backend.facts
    assert facts.name == row.name
    assert facts.version[0].isdigit()
    assert ("CPU" in facts.device) == (row.runtime == "cpu")
    assert backend.streams == 2


def test_it_returns_every_output_as_float32(backend: InferenceBackend) -> None:
    result = backend.infer({"images": tensor(1)})
    assert list(result) == ["output"]
    assert result["output"].dtype == np.float32
    assert result["output"].shape == backend.outputs[0].shape
    assert np.isfinite(result["output"]).all()
    assert result["output"][0, 4].max() > 0.5


def test_results_outlive_the_next_call(backend: InferenceBackend) -> None:
    first = backend.infer({"images": tensor(1)})["output"]
    kept = first.copy()
    backend.infer({"images": tensor(2)})
    assert np.array_equal(first, kept)


def test_calls_from_several_threads_answer_as_one_does(backend: InferenceBackend) -> None:
    inputs = [tensor(seed) for seed in range(8)]
    alone = [backend.infer({"images": value})["output"] for value in inputs]
    assert not np.allclose(alone[0], alone[1])
    # More callers than streams: they wait or share, and never mix their answers up.
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: backend.infer({"images": inputs[i % 8]}), range(48)))
    for number, result in enumerate(together):
        np.testing.assert_allclose(result["output"], alone[number % 8], rtol=1e-5, atol=1e-5)


def test_the_input_is_left_as_it_was(backend: InferenceBackend) -> None:
    value = tensor(3)
    before = value.copy()
    backend.infer({"images": value})
    assert np.array_equal(value, before)


@pytest.mark.parametrize("model", [b"", b"no model", bytes(4096)], ids=["empty", "text", "zeros"])
def test_rubbish_is_refused_in_one_line(row: BackendRow, model: bytes, open_row: OpenRow) -> None:
    with pytest.raises(BackendError) as refusal:
        open_row(row, model, 1)
    assert row.name in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_half_a_model_is_refused(
    row: BackendRow, toy_model: bytes, share: float, open_row: OpenRow
) -> None:
    with pytest.raises(BackendError):
        open_row(row, toy_model[: int(len(toy_model) * share)], 1)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"pictures": np.zeros((1, 3, SIDE, SIDE), np.float32)},
        {"images": np.zeros((1, 3, SIDE, SIDE + 8), np.float32)},
        {"images": np.zeros((3, SIDE, SIDE), np.float32)},
    ],
    ids=["none", "name", "size", "rank"],
)
def test_arrays_that_do_not_fit_are_a_backend_error(
    backend: InferenceBackend, arrays: dict[str, Float32Array]
) -> None:
    with pytest.raises(BackendError) as refusal:
        backend.infer(arrays)
    assert "\n" not in str(refusal.value)
    # One bad call does not use the backend up.
    assert backend.infer({"images": tensor(1)})["output"][0, 4].max() > 0.5


COME_AND_GO = """
import faulthandler, gc, signal, sys
from pathlib import Path
from edge_runtime.backends import backend_row, open_backend
faulthandler.enable()
model = Path(sys.argv[2]).read_bytes()
row = backend_row(sys.argv[1])
first, second = (open_backend(row, model, threads=1) for _ in range(2))
for backend in (first, second):
    backend.__exit__(None, None, None)
del first, second, backend
gc.collect()
signal.signal(signal.SIGINT, lambda number, stack: print("caught"))
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_is_caught_after_backends_came_and_went(
    row: BackendRow, toy_model: bytes, tmp_path: Path, repository: Path
) -> None:
    """A library that meddles with signals must leave them working, in any order of closing."""
    if row.runs_engines:
        pytest.skip(f"{row.name}: runs engines, which this process does not build")
    (tmp_path / "model.onnx").write_bytes(toy_model)
    answer = subprocess.run(
        [sys.executable, "-c", COME_AND_GO, row.name, str(tmp_path / "model.onnx")],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (0, "caught\n"), answer.stderr


@pytest.mark.parametrize("wanted", BACKENDS, ids=lambda row: row.name)
def test_an_absent_library_is_named_with_its_remedy(
    wanted: BackendRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(wanted.module)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    reason = module.unsupported_reason()
    assert "pip install" in reason
    assert wanted.extra is None or f"leukoscope[{wanted.extra}]" in reason
    with pytest.raises(BackendError, match=r"pip install") as refusal:
        backend_row(wanted.name)
    assert wanted.name in str(refusal.value)


def test_auto_never_goes_on_without_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_row(AUTO) == BACKENDS[0]
    module = import_module(BACKENDS[0].module)
    monkeypatch.setattr(module, "unsupported_reason", lambda: "taken away")
    with pytest.raises(BackendError, match="taken away"):
        backend_row(AUTO)


@pytest.mark.parametrize("name", ["", "onnx", "ONNXRUNTIME", "TensorRT"])
def test_an_unknown_backend_lists_the_known_ones(name: str) -> None:
    with pytest.raises(BackendError) as refusal:
        backend_row(name)
    assert all(row.name in str(refusal.value) for row in BACKENDS)
