"""What runs a model: the InferenceBackend protocol and the table of backends.

A backend knows tensors, not boxes. A new one is one module and one row here. A backend
that is asked for by name runs or is refused with a reason; none is ever replaced by
another in silence, and ``facts`` say what really ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Protocol

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

    def infer(self, arrays: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
        """Output arrays by name, for input arrays by name."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class BackendRow:
    """One line of the table; the module has ``unsupported_reason`` and ``open_backend``."""

    name: str
    module: str
    runtime: Runtime
    extra: str | None


BACKENDS: tuple[BackendRow, ...] = (
    BackendRow("onnxruntime", "edge_runtime.backends.onnxruntime", "cpu", None),
    BackendRow("openvino", "edge_runtime.backends.openvino", "cpu", "openvino"),
)


def backend_row(name: str) -> BackendRow:
    """The row of a backend; ``auto`` is ONNX Runtime, which every installation has.

    Raises:
        BackendError: unknown name, or the backend does not work here.
    """
    wanted = BACKENDS[0].name if name == AUTO else name
    for row in BACKENDS:
        if row.name == wanted:
            reason = import_module(row.module).unsupported_reason()
            if reason is not None:
                raise BackendError(f"backend {name}: {reason}")
            return row
    known = ", ".join([AUTO, *(row.name for row in BACKENDS)])
    raise BackendError(f"backend {name!r}: unknown; choose one of {known}")


def open_backend(row: BackendRow, model: bytes, *, threads: int) -> InferenceBackend:
    """Loads a model.

    Args:
        row: which backend.
        model: ONNX bytes out of a verified bundle.
        threads: processor threads it may use in all.

    Raises:
        BackendError: the backend refuses the model.
    """
    backend: InferenceBackend = import_module(row.module).open_backend(model, threads=threads)
    return backend
