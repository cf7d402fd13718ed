"""Device buffers through PyCUDA, as many Jetson images carry it.

Owns the calls and turning PyCUDA's exceptions into errors. Works in the GPU's primary
context, which is the one TensorRT works in. PyCUDA has no graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from edge_runtime.device_buffers import Bytes, CudaError, DeviceMemoryError


def absent_reason() -> str | None:
    """Why it cannot be used here, or None."""
    return None if find_spec("pycuda") is not None else "PyCUDA is not installed"


def open_device(driver: Any = None) -> PyCudaDevice:
    """GPU 0.

    Args:
        driver: PyCUDA's driver module; None means the installed one.

    Raises:
        CudaError: there is no GPU, or PyCUDA does not load.
    """
    if driver is None:
        try:
            driver = import_module("pycuda.driver")
        except ImportError as error:
            raise CudaError(f"PyCUDA does not load: {' '.join(str(error).split())}") from error
    return PyCudaDevice(driver)


class PyCudaDevice:
    """GPU 0 through PyCUDA; see ``CudaDevice``."""

    has_graphs = False

    def __init__(self, driver: Any) -> None:
        self._cuda = driver
        with self._errors("init"):
            driver.init()
            if driver.Device.count() < 1:
                raise CudaError("CUDA finds no GPU")
            gpu = driver.Device(0)
            self.name = str(gpu.name())
            major, minor = gpu.compute_capability()
            self._context = gpu.retain_primary_context()
        self.compute_capability = f"{major}.{minor}"
        release = driver.get_version()
        self.library = f"PyCUDA for CUDA {release[0]}.{release[1]}"
        # PyCUDA frees what its objects stand for when they go, so they are held here.
        self._blocks: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        """Pushes the context onto the thread's stack for the time of the block."""
        with self._errors("context"):
            self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and all bytes."""
        with self._errors("mem_get_info"):
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """Device memory."""
        with self._errors("mem_alloc"):
            block = self._cuda.mem_alloc(nbytes)
        self._blocks[int(block)] = block
        return int(block)

    def free(self, pointer: int) -> None:
        """Gives it back."""
        with self._errors("free"):
            self._blocks.pop(pointer).free()

    def allocate_pinned(self, nbytes: int) -> Bytes:
        """Page-locked host memory."""
        with self._errors("pagelocked_empty"):
            buffer: Bytes = self._cuda.pagelocked_empty(nbytes, np.uint8)
        return buffer

    def free_pinned(self, buffer: Bytes) -> None:
        """Gives it back."""
        with self._errors("free"):
            buffer.base.free()  # type: ignore[union-attr] # PyCUDA's own allocation

    def open_stream(self) -> int:
        """A stream of its own."""
        with self._errors("Stream"):
            stream = self._cuda.Stream()
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def close_stream(self, stream: int) -> None:
        """Ends it, when the last reference goes."""
        del self._streams[stream]

    def copy_in(self, pointer: int, pinned: Bytes, nbytes: int, stream: int) -> None:
        """Host to device."""
        with self._errors("memcpy_htod_async"):
            self._cuda.memcpy_htod_async(pointer, pinned[:nbytes], self._streams[stream])

    def copy_out(self, pinned: Bytes, pointer: int, nbytes: int, stream: int) -> None:
        """Device to host."""
        with self._errors("memcpy_dtoh_async"):
            self._cuda.memcpy_dtoh_async(pinned[:nbytes], pointer, self._streams[stream])

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Device to device."""
        with self._errors("memcpy_dtod_async"):
            self._cuda.memcpy_dtod_async(target, source, nbytes, self._streams[stream])

    def synchronise(self, stream: int) -> None:
        """Waits for the stream."""
        with self._errors("synchronize"):
            self._streams[stream].synchronize()

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        """Not with PyCUDA; ``has_graphs`` says so."""
        raise CudaError("PyCUDA has no graphs")

    def launch(self, graph: Any, stream: int) -> None:
        """Not with PyCUDA."""
        raise CudaError("PyCUDA has no graphs")

    def free_graph(self, graph: Any) -> None:
        """Not with PyCUDA."""
        raise CudaError("PyCUDA has no graphs")

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise DeviceMemoryError(f"{name}: {' '.join(str(error).split())}") from error
        except self._cuda.Error as error:
            raise CudaError(f"{name}: {' '.join(str(error).split())}") from error
