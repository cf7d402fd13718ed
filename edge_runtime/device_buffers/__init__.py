"""Memory on an NVIDIA GPU, streams and graphs, behind one protocol.

Owns the protocol and the choice of the library that speaks to CUDA. Two are accepted:
cuda-python, which NVIDIA maintains, and PyCUDA, which many Jetson images carry. Does not
own what is computed (see ``backends.tensorrt``).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BackendError

Bytes = NDArray[np.uint8]


class CudaError(Exception):
    """A call of CUDA failed; the message is CUDA's own, in one line."""


class DeviceMemoryError(CudaError):
    """The GPU has no room for an allocation."""


class CudaDevice(Protocol):
    """The first GPU. Pointers and streams are numbers, as CUDA counts them.

    All methods raise ``CudaError``; those that allocate raise ``DeviceMemoryError`` when
    there is no room. Everything but the properties must be called inside ``current()``,
    from any thread.
    """

    @property
    def library(self) -> str:
        """Which library speaks to CUDA, with its version."""

    @property
    def name(self) -> str:
        """The GPU's name."""

    @property
    def compute_capability(self) -> str:
        """Such as ``8.7``."""

    @property
    def has_graphs(self) -> bool:
        """Whether the library can capture a stream's work and launch it as one."""

    def current(self) -> AbstractContextManager[None]:
        """Makes this GPU the calling thread's."""

    def memory(self) -> tuple[int, int]:
        """Free bytes and all bytes."""

    def allocate(self, nbytes: int) -> int:
        """Device memory; returns its pointer."""

    def free(self, pointer: int) -> None:
        """Gives device memory back."""

    def allocate_pinned(self, nbytes: int) -> Bytes:
        """Host memory that the GPU copies from and to by itself."""

    def free_pinned(self, buffer: Bytes) -> None:
        """Gives it back; the array must not be touched any more."""

    def open_stream(self) -> int:
        """A stream of its own."""

    def close_stream(self, stream: int) -> None:
        """Ends a stream."""

    def copy_in(self, pointer: int, pinned: Bytes, nbytes: int, stream: int) -> None:
        """Host to device, without waiting."""

    def copy_out(self, pinned: Bytes, pointer: int, nbytes: int, stream: int) -> None:
        """Device to host, without waiting."""

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Device to device, without waiting."""

    def synchronise(self, stream: int) -> None:
        """Waits until all work in the stream is done."""

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        """What ``work`` puts into the stream, as a graph, without doing it."""

    def launch(self, graph: Any, stream: int) -> None:
        """Puts a graph into the stream."""

    def free_graph(self, graph: Any) -> None:
        """Gives a graph back."""


@dataclass(frozen=True, slots=True)
class BuffersRow:
    """One library; its module has ``absent_reason`` and ``open_device``."""

    name: str
    module: str


BUFFERS: tuple[BuffersRow, ...] = (
    BuffersRow("cuda-python", "edge_runtime.device_buffers.cuda_python"),
    BuffersRow("pycuda", "edge_runtime.device_buffers.pycuda"),
)


def open_device(*, load_driver: Callable[[str], object] = ctypes.CDLL) -> CudaDevice:
    """The first GPU, through the first library that is installed.

    Args:
        load_driver: loads a shared library by name or raises OSError.

    Raises:
        BackendError: no driver, no library, a driver too old, or no GPU; says which.
    """
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        load_driver(driver)
    except OSError as error:
        raise BackendError(
            f"no NVIDIA driver here: {driver} does not load; install the GPU's driver "
            "(in a container, pass the GPU in), or choose another --backend"
        ) from error
    for row in BUFFERS:
        module = import_module(row.module)
        if module.absent_reason() is None:
            try:
                device: CudaDevice = module.open_device()
            except CudaError as error:
                raise BackendError(f"{row.name} reaches no GPU: {error}") from error
            return device
    raise BackendError(
        "neither cuda-python nor PyCUDA is installed; pip install cuda-python "
        "(JetPack images often carry PyCUDA)"
    )


def unsupported_reason() -> str | None:
    """Why no GPU can be used here, or None."""
    try:
        open_device()
    except BackendError as error:
        return str(error)
    return None


def no_room(device: CudaDevice, what: str, nbytes: int) -> str:
    """One line for memory that ran out, with how much there is."""
    try:
        free, total = device.memory()
        there = f"{free / 1e6:.0f} of {total / 1e6:.0f} MB free"
    except CudaError:
        there = "how much is free it does not say"
    return (
        f"{device.name} has no room for {nbytes / 1e6:.1f} MB of {what} ({there}); end other "
        "programs on the GPU, or choose another --backend"
    )
