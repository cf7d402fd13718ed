"""Device buffers through cuda-python, the bindings that NVIDIA maintains.

Owns the calls and turning their status into errors. Uses the CUDA runtime's interface,
whose one context per process is the one TensorRT works in.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from edge_runtime.device_buffers import Bytes, CudaError, DeviceMemoryError

# From 12.6 on; before, the module stood in the package itself.
_MODULES = ("cuda.bindings.runtime", "cuda.cudart")


def absent_reason() -> str | None:
    """Why it cannot be used here, or None."""
    return None if _module_name() else "cuda-python is not installed; pip install cuda-python"


def open_device(runtime: Any = None) -> CudaPythonDevice:
    """GPU 0.

    Args:
        runtime: the bindings' runtime module; None means the installed one.

    Raises:
        CudaError: there is no GPU, or the driver is too old for the bindings.
    """
    if runtime is None:
        name = _module_name()
        if name is None:
            raise CudaError(str(absent_reason()))
        runtime = import_module(name)
    return CudaPythonDevice(runtime)


def _module_name() -> str | None:
    for name in _MODULES:
        try:
            if find_spec(name) is not None:
                return name
        except ModuleNotFoundError:
            continue
    return None


class CudaPythonDevice:
    """GPU 0 through the CUDA runtime; see ``CudaDevice``."""

    has_graphs = True

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        driver, own = self._call("cudaDriverGetVersion"), self._call("cudaRuntimeGetVersion")
        # Within one major release an older driver serves a newer runtime.
        if driver // 1000 < own // 1000:
            raise CudaError(
                f"the GPU driver is for CUDA {_release(driver)}, cuda-python is for "
                f"{_release(own)}; update the driver, or install the cuda-python of CUDA "
                f"{driver // 1000}"
            )
        if self._call("cudaGetDeviceCount") < 1:
            raise CudaError("CUDA finds no GPU")
        self._call("cudaSetDevice", 0)
        attributes = runtime.cudaDeviceAttr
        major = self._call(
            "cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, 0
        )
        minor = self._call(
            "cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, 0
        )
        self.compute_capability = f"{major}.{minor}"
        name = self._call("cudaGetDeviceProperties", 0).name
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        self.name = text.rstrip("\0")
        self.library = f"cuda-python for CUDA {_release(own)}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """The runtime keeps a GPU per thread; new threads begin with the first one."""
        self._call("cudaSetDevice", 0)
        yield

    def memory(self) -> tuple[int, int]:
        """Free and all bytes."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """Device memory."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, pointer: int) -> None:
        """Gives it back."""
        self._call("cudaFree", pointer)

    def allocate_pinned(self, nbytes: int) -> Bytes:
        """Page-locked host memory."""
        address = int(self._call("cudaHostAlloc", nbytes, 0))
        block = (ctypes.c_uint8 * nbytes).from_address(address)
        return np.ctypeslib.as_array(block)

    def free_pinned(self, buffer: Bytes) -> None:
        """Gives it back."""
        self._call("cudaFreeHost", buffer.ctypes.data)

    def open_stream(self) -> int:
        """A stream that does not wait for the default one."""
        return int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))

    def close_stream(self, stream: int) -> None:
        """Ends it."""
        self._call("cudaStreamDestroy", stream)

    def copy_in(self, pointer: int, pinned: Bytes, nbytes: int, stream: int) -> None:
        """Host to device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, pinned.ctypes.data, nbytes, kind, stream)

    def copy_out(self, pinned: Bytes, pointer: int, nbytes: int, stream: int) -> None:
        """Device to host."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", pinned.ctypes.data, pointer, nbytes, kind, stream)

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Device to device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, nbytes, kind, stream)

    def synchronise(self, stream: int) -> None:
        """Waits for the stream."""
        self._call("cudaStreamSynchronize", stream)

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        """Records what ``work`` enqueues; other threads may allocate meanwhile."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        finally:
            # Also after a failure: a stream left in capture refuses all other work.
            status, graph = self._cuda.cudaStreamEndCapture(stream)
        self._check("cudaStreamEndCapture", status)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Runs a captured graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Gives it back."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Calls CUDA: its results without the status; None, the one, or a tuple."""
        status, *results = getattr(self._cuda, name)(*arguments)
        self._check(name, status)
        return results[0] if len(results) == 1 else tuple(results) or None

    def _check(self, name: str, status: Any) -> None:
        errors = self._cuda.cudaError_t
        if int(status) == int(errors.cudaSuccess):
            return
        _, text = self._cuda.cudaGetErrorString(status)
        said = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        if int(status) == int(errors.cudaErrorMemoryAllocation):
            raise DeviceMemoryError(f"{name}: {said}")
        if int(status) == int(errors.cudaErrorInsufficientDriver):
            said += "; update the GPU driver, or install the cuda-python of its CUDA release"
        raise CudaError(f"{name}: {said}")


def _release(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
