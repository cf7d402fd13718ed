"""The inputs and outputs of a loaded engine, with the memory they live in.

Owns one block of device memory and one of pinned host memory for each, made once for the
largest shape. Does not own what is copied when (see ``backends.tensorrt``).
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.device_buffers import Bytes, CudaDevice, DeviceMemoryError, no_room
from edge_runtime.engines.tensorrt_api import Context, Engine, Shape, word
from edge_runtime.errors import BackendError

# What a bundle's graphs have at their ends.
_NUMPY: dict[str, type[np.floating[Any]]] = {"FLOAT": np.float32, "HALF": np.float16}


@dataclass(frozen=True, slots=True)
class BoundTensor:
    """One input or output.

    Attributes:
        shape: -1 in the first place where the number of cells is free.
        largest: the shape that the memory is made for.
        dtype: float32 or float16.
        pointer: device memory.
        pinned: host memory.
    """

    name: str
    is_input: bool
    shape: Shape
    largest: Shape
    dtype: np.dtype[np.floating[Any]]
    pointer: int
    pinned: Bytes

    @property
    def free(self) -> bool:
        """Whether its first size is the number of cells."""
        return self.shape[:1] == (-1,)

    def shaped(self, cells: int) -> Shape:
        """Its shape with so many cells."""
        return (cells, *self.shape[1:]) if self.free else self.shape

    def nbytes(self, cells: int) -> int:
        """Its size with so many cells."""
        return math.prod(self.shaped(cells)) * self.dtype.itemsize

    def host(self, cells: int) -> NDArray[np.floating[Any]]:
        """Its pinned memory as an array; the next call overwrites it."""
        flat = self.pinned[: self.nbytes(cells)].view(self.dtype)
        return flat.reshape(self.shaped(cells))


def bind_tensors(
    engine: Engine, context: Context, device: CudaDevice, owned: ExitStack, *, label: str
) -> tuple[BoundTensor, ...]:
    """Makes memory for every input and output and tells the context where it is.

    Args:
        engine: loaded.
        context: of that engine.
        device: the current GPU.
        owned: what will free the memory.
        label: the library, for errors.

    Raises:
        BackendError: a type or a free size that no bundle has, or the GPU has no room.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if word(engine.get_tensor_mode(name)) == "INPUT"]
    shapes = {name: _shape(engine.get_tensor_shape(name)) for name in names}
    largest = dict(shapes)
    for name in inputs:
        if -1 in shapes[name]:
            largest[name] = _shape(engine.get_tensor_profile_shape(name, 0)[2])
            context.set_input_shape(name, largest[name])
    for name in names:
        if name not in inputs:
            largest[name] = _shape(context.get_tensor_shape(name))
    bound = []
    for name in names:
        if -1 in shapes[name][1:] or -1 in largest[name]:
            raise BackendError(
                f"{label}: tensor {name!r} {shapes[name]}: only the number of cells, its first "
                "size, may be free; export the bundle again"
            )
        kind = word(engine.get_tensor_dtype(name))
        if kind not in _NUMPY:
            raise BackendError(
                f"{label}: tensor {name!r} is {kind}; wanted float32 or float16, export the "
                "bundle again"
            )
        dtype = np.dtype(_NUMPY[kind])
        nbytes = math.prod(largest[name]) * dtype.itemsize
        pointer = allocate(device, nbytes, owned, f"tensor {name!r}")
        pinned = device.allocate_pinned(nbytes)
        owned.callback(device.free_pinned, pinned)
        if not context.set_tensor_address(name, pointer):
            raise BackendError(f"{label}: it refuses memory for tensor {name!r}")
        bound.append(
            BoundTensor(name, name in inputs, shapes[name], largest[name], dtype, pointer, pinned)
        )
    return tuple(bound)


def allocate(device: CudaDevice, nbytes: int, owned: ExitStack, what: str) -> int:
    """Device memory that ``owned`` frees.

    Raises:
        BackendError: there is no room; says how much there is.
    """
    try:
        pointer = device.allocate(nbytes)
    except DeviceMemoryError as error:
        raise BackendError(no_room(device, what, nbytes)) from error
    owned.callback(device.free, pointer)
    return pointer


def _shape(sizes: Any) -> Shape:
    return tuple(int(size) for size in sizes)
