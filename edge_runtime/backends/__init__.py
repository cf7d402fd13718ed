"""What runs a model: the InferenceBackend protocol and the table of backends.

A backend knows tensors, not boxes. A new one is one module and one row here. A backend
that is asked for by name runs or is refused with a reason; none is ever replaced by
another in silence, and ``facts`` say what really ran.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeAlias

import numpy as np
from typing_extensions import Self

from edge_runtime.bundle import Runtime
from edge_runtime.errors import BackendError
from edge_runtime.types import Float32Array

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name and shape of one input or output; -1 where the size is free."""

    name: str
    shape: tuple[int, ...]


def fits(shape: tuple[int, ...] | None, expected: tuple[int, ...]) -> bool:
    """Whether a tensor's shape is the expected one, as far as the model fixes it."""
    return (
        shape is not None
        and len(shape) == len(expected)
        and all(have in (-1, want) for have, want in zip(shape, expected, strict=True))
    )


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What the loaded backend says of itself, not what was asked of it."""

    name: str
    version: str
    device: str


class DeviceTensor(Protocol):
    """An output that its backend left where it was computed, for another model there."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    def to_host(self) -> Float32Array:
        """Its values; copied when first asked for.

        Raises:
            BackendError: the backend is closed, or the copy fails.
        """


# What a model takes: an array, or what another model of the same backend has kept.
Tensor: TypeAlias = Float32Array | DeviceTensor


def on_host(tensor: Tensor) -> Float32Array:
    """The values of a tensor, wherever they are."""
    return tensor if isinstance(tensor, np.ndarray) else tensor.to_host()


class InferenceBackend(Protocol):
    """A context manager that maps named arrays to named arrays.

    ``infer`` may be called from several threads at once, as many as ``streams`` says.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input tensors of the loaded model."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output tensors of the loaded model."""

    @property
    def facts(self) -> BackendFacts:
        """What really runs."""

    @property
    def streams(self) -> int:
        """How many calls of ``infer`` may run at once."""

    def infer(self, arrays: Mapping[str, Tensor]) -> dict[str, Float32Array]:
        """Output arrays by name, for input arrays by name."""

    def infer_keeping(
        self, arrays: Mapping[str, Tensor], keep: Collection[str]
    ) -> dict[str, Tensor]:
        """The same, with the outputs named in ``keep`` left on the device if there is one.

        They are meant for another model of the same backend; ``on_host`` gives their values.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class BackendRow:
    """One line of the table; the module has ``unsupported_reason`` and ``open_backend``.

    Attributes:
        runtime: which family of artifacts it runs.
        extra: what installs it, of this package's own extras.
        runs_engines: it runs engines that were built beforehand, not ONNX: its
            ``open_backend`` takes the folder they lie in.
    """

    name: str
    module: str
    runtime: Runtime
    extra: str | None
    runs_engines: bool = False


_HERE = "edge_runtime.backends"

BACKENDS: tuple[BackendRow, ...] = (
    BackendRow("onnxruntime", f"{_HERE}.onnxruntime", "cpu", None),
    BackendRow("openvino", f"{_HERE}.openvino", "cpu", "openvino"),
    BackendRow("tensorrt", f"{_HERE}.tensorrt", "tensorrt", None, runs_engines=True),
    BackendRow(
        "tensorrt-rtx", f"{_HERE}.tensorrt_rtx", "tensorrt", "tensorrt-rtx", runs_engines=True
    ),
    BackendRow("onnxruntime-cuda", f"{_HERE}.onnxruntime_cuda", "tensorrt", None),
    BackendRow("onnxruntime-tensorrt", f"{_HERE}.onnxruntime_tensorrt", "tensorrt", None),
    BackendRow(
        "onnxruntime-nv-tensorrt-rtx", f"{_HERE}.onnxruntime_nv_tensorrt_rtx", "tensorrt", None
    ),
)


def backend_row(name: str) -> BackendRow:
    """The row of a backend; ``auto`` is ONNX Runtime, which every installation has.

    Raises:
        BackendError: unknown name, or the backend does not work here.
    """
    row = row_named(name)
    reason = import_module(row.module).unsupported_reason()
    if reason is not None:
        raise BackendError(f"backend {name}: {reason}")
    return row


def row_named(name: str) -> BackendRow:
    """The row of a backend, whether it works here or not.

    Raises:
        BackendError: unknown name.
    """
    wanted = BACKENDS[0].name if name == AUTO else name
    for row in BACKENDS:
        if row.name == wanted:
            return row
    known = ", ".join([AUTO, *(row.name for row in BACKENDS)])
    raise BackendError(f"backend {name!r}: unknown; choose one of {known}")


def open_backend(
    row: BackendRow, model: bytes, *, threads: int, engines: Path | None = None
) -> InferenceBackend:
    """Loads a model.

    Args:
        row: which backend.
        model: ONNX bytes out of a verified bundle.
        threads: processor threads it may use in all.
        engines: folder of built engines, for the backends that run those; None means the
            default one.

    Raises:
        BackendError: the backend refuses the model, or has no engine of it.
    """
    open_row = import_module(row.module).open_backend
    backend: InferenceBackend = (
        open_row(model, threads=threads, engines=engines)
        if row.runs_engines
        else open_row(model, threads=threads)
    )
    return backend
