"""Device buffers: what is missing is named, and each library is called as it wants to be."""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_runtime import device_buffers
from edge_runtime.device_buffers import (
    CudaDevice,
    CudaError,
    DeviceMemoryError,
    cuda_python,
    pycuda,
)
from edge_runtime.errors import BackendError


def no_driver(name: str) -> object:
    raise OSError(f"{name}: cannot open shared object file")


def test_a_missing_driver_is_one_clear_line() -> None:
    with pytest.raises(BackendError, match=r"no NVIDIA driver here: libcuda\.so\.1") as refusal:
        device_buffers.open_device(load_driver=no_driver)
    assert "\n" not in str(refusal.value)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cuda_python, pycuda):
        monkeypatch.setattr(module, "absent_reason", lambda: "absent")
    with pytest.raises(BackendError, match="pip install cuda-python"):
        device_buffers.open_device(load_driver=lambda name: None)


def test_the_first_installed_library_is_taken_and_its_refusal_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = object()
    monkeypatch.setattr(cuda_python, "absent_reason", lambda: "absent")
    monkeypatch.setattr(pycuda, "absent_reason", lambda: None)
    monkeypatch.setattr(pycuda, "open_device", lambda: opened)
    assert device_buffers.open_device(load_driver=lambda name: None) is opened

    def refuse() -> CudaDevice:
        raise CudaError("the GPU driver is for CUDA 11.4")

    monkeypatch.setattr(pycuda, "open_device", refuse)
    with pytest.raises(BackendError, match=r"pycuda reaches no GPU: .* CUDA 11\.4"):
        device_buffers.open_device(load_driver=lambda name: None)


def test_the_real_bindings_say_what_is_wrong_where_there_is_no_gpu() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if device_buffers.unsupported_reason() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(CudaError) as refusal:
        cuda_python.open_device()
    assert "driver" in str(refusal.value)


class _Status(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815 - CUDA's own names
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815


class _Names:
    """Answers any member's name with a marker of its own."""

    def __getattr__(self, name: str) -> str:
        return name


class FakeRuntime:
    """``cuda.bindings.runtime``: each call returns a status and what the test says."""

    cudaError_t = _Status  # noqa: N815
    cudaMemcpyKind = _Names()  # noqa: N815
    cudaStreamCaptureMode = _Names()  # noqa: N815
    cudaDeviceAttr = _Names()  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.block = np.zeros(64, np.uint8)
        self.answers: dict[str, Any] = {
            "cudaDriverGetVersion": (0, 13000),
            "cudaRuntimeGetVersion": (0, 13050),
            "cudaGetDeviceCount": (0, 1),
            "cudaDeviceGetAttribute": lambda which, gpu: (0, 8 if "Major" in which else 7),
            "cudaGetDeviceProperties": (0, type("P", (), {"name": b"Orin\0\0"})()),
            "cudaMemGetInfo": (0, 3, 8),
            "cudaMalloc": (0, 4096),
            "cudaHostAlloc": (0, self.block.ctypes.data),
            "cudaStreamCreateWithFlags": (0, 77),
            "cudaStreamEndCapture": (0, "graph"),
            "cudaGraphInstantiate": (0, "executable"),
            "cudaGetErrorString": lambda status: (0, f"error {int(status)}".encode()),
            **answers,
        }

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            answer = self.answers.get(name, (0,))
            return answer(*arguments) if callable(answer) else answer

        return call


def test_cuda_python_is_called_as_the_runtime_wants_it() -> None:
    runtime = FakeRuntime()
    device = cuda_python.open_device(runtime)
    assert (device.name, device.compute_capability) == ("Orin", "8.7")
    assert device.library == "cuda-python for CUDA 13.5"
    assert device.memory() == (3, 8)
    runtime.calls.clear()
    with device.current():
        pinned = device.allocate_pinned(64)
        pinned[:] = 5
        assert runtime.block.sum() == 5 * 64
        stream = device.open_stream()
        pointer = device.allocate(64)
        device.copy_in(pointer, pinned, 60, stream)
        device.copy_out(pinned, pointer, 50, stream)
        device.copy_across(1, 2, 3, stream)
        graph = device.capture(stream, runtime.work)
        device.launch(graph, stream)
        device.synchronise(stream)
        device.free_graph(graph)
        device.free(pointer)
        device.free_pinned(pinned)
        device.close_stream(stream)
    host = runtime.block.ctypes.data
    assert runtime.calls == [
        ("cudaSetDevice", 0),
        ("cudaHostAlloc", 64, 0),
        ("cudaStreamCreateWithFlags", 1),
        ("cudaMalloc", 64),
        ("cudaMemcpyAsync", 4096, host, 60, "cudaMemcpyHostToDevice", 77),
        ("cudaMemcpyAsync", host, 4096, 50, "cudaMemcpyDeviceToHost", 77),
        ("cudaMemcpyAsync", 1, 2, 3, "cudaMemcpyDeviceToDevice", 77),
        ("cudaStreamBeginCapture", 77, "cudaStreamCaptureModeThreadLocal"),
        ("work",),
        ("cudaStreamEndCapture", 77),
        ("cudaGraphInstantiate", "graph", 0),
        ("cudaGraphDestroy", "graph"),
        ("cudaGraphLaunch", "executable", 77),
        ("cudaStreamSynchronize", 77),
        ("cudaGraphExecDestroy", "executable"),
        ("cudaFree", 4096),
        ("cudaFreeHost", host),
        ("cudaStreamDestroy", 77),
    ]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"cudaDriverGetVersion": (0, 12060)}, r"driver is for CUDA 12\.6, .* for 13\.5; update"),
        ({"cudaGetDeviceCount": (35, 0)}, "update the GPU driver"),
        ({"cudaGetDeviceCount": (0, 0)}, "finds no GPU"),
    ],
)
def test_a_driver_too_old_or_no_gpu_is_told(answers: dict[str, Any], words: str) -> None:
    with pytest.raises(CudaError, match=words):
        cuda_python.open_device(FakeRuntime(**answers))


def test_an_older_driver_of_the_same_release_serves() -> None:
    runtime = FakeRuntime(cudaDriverGetVersion=(0, 13000))
    assert cuda_python.open_device(runtime).compute_capability == "8.7"


def test_cuda_pythons_errors_are_ours() -> None:
    device = cuda_python.open_device(FakeRuntime(cudaMalloc=(2, 0), cudaStreamSynchronize=(700,)))
    with pytest.raises(DeviceMemoryError, match="cudaMalloc: error 2"):
        device.allocate(1)
    with pytest.raises(CudaError, match="cudaStreamSynchronize: error 700"):
        device.synchronise(1)


def test_a_stream_never_stays_in_capture() -> None:
    runtime = FakeRuntime()
    device = cuda_python.open_device(runtime)

    def work() -> None:
        raise BackendError("it refuses to run")

    with pytest.raises(BackendError, match="refuses"):
        device.capture(77, work)
    assert runtime.calls[-1] == ("cudaStreamEndCapture", 77)


def fake_pycuda(calls: list[tuple[Any, ...]]) -> Any:
    """``pycuda.driver`` as far as it is used."""
    driver: Any = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class OutOfMemoryError(Error):
        pass

    class Block:
        def __init__(self, nbytes: int) -> None:
            self.nbytes = nbytes

        def __int__(self) -> int:
            return 4096

        def free(self) -> None:
            calls.append(("free", self.nbytes))

    class Host(np.ndarray[Any, np.dtype[np.uint8]]):
        def free(self) -> None:
            calls.append(("free host",))

    class Context:
        def push(self) -> None:
            calls.append(("push",))

        def pop(self) -> None:
            calls.append(("pop",))

    class Device:
        def __init__(self, index: int) -> None:
            assert index == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return "Orin"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

        def retain_primary_context(self) -> Context:
            return Context()

    class Stream:
        handle = 77

        def synchronize(self) -> None:
            calls.append(("synchronize",))

    def note(name: str) -> Callable[..., None]:
        return lambda *arguments: calls.append((name, *map(_plain, arguments)))

    def mem_alloc(nbytes: int) -> Block:
        if nbytes > 1000:
            raise OutOfMemoryError("cuMemAlloc failed:\nout of memory")
        return Block(nbytes)

    driver.Error, driver.MemoryError = Error, OutOfMemoryError
    driver.Device, driver.Stream = Device, Stream
    driver.init = note("init")
    driver.get_version = lambda: (12, 6, 0)
    driver.mem_get_info = lambda: (3, 8)
    driver.mem_alloc = mem_alloc
    driver.pagelocked_empty = lambda nbytes, dtype: np.zeros(nbytes, dtype).view(Host)[:]
    for name in ("memcpy_htod_async", "memcpy_dtoh_async", "memcpy_dtod_async"):
        setattr(driver, name, note(name))
    return driver


def _plain(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return len(argument)
    return "stream" if hasattr(argument, "handle") else argument


def test_pycuda_is_called_in_the_primary_context() -> None:
    calls: list[tuple[Any, ...]] = []
    device = pycuda.open_device(fake_pycuda(calls))
    assert (device.name, device.compute_capability) == ("Orin", "8.7")
    assert device.library == "PyCUDA for CUDA 12.6"
    assert not device.has_graphs
    calls.clear()
    with device.current():
        pinned = device.allocate_pinned(64)
        stream, pointer = device.open_stream(), device.allocate(64)
        device.copy_in(pointer, pinned, 60, stream)
        device.copy_out(pinned, pointer, 50, stream)
        device.copy_across(1, 2, 3, stream)
        device.synchronise(stream)
        device.free(pointer)
        device.free_pinned(pinned)
        device.close_stream(stream)
        with pytest.raises(DeviceMemoryError, match="mem_alloc: cuMemAlloc failed: out of memory"):
            device.allocate(2000)
        with pytest.raises(CudaError, match="no graphs"):
            device.capture(stream, lambda: None)
    assert calls == [
        ("push",),
        ("memcpy_htod_async", 4096, 60, "stream"),
        ("memcpy_dtoh_async", 50, 4096, "stream"),
        ("memcpy_dtod_async", 1, 2, 3, "stream"),
        ("synchronize",),
        ("free", 64),
        ("free host",),
        ("pop",),
    ]
