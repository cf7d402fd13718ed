"""ONNX Runtime on the CPU, the backend every installation has.

Owns session options. Each of ``threads`` concurrent calls runs on one thread of its own
(``intra_op_num_threads = 1``) instead of one call spread over all threads:

* one thread per call needs no hand-over between threads inside a layer, so two calls on
  two cores finish more fields per second than one call on both, and
* ONNX Runtime's worker threads spin while they wait for each other. Beside a core that is
  busy decoding they wait for one that does not run; with one thread per call there is
  nobody to wait for, so nobody spins.

Measured by ``leukoscope bench session-options``, see
``benchmarks/results/session_options.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from typing_extensions import Self

from edge_runtime.backends import BackendFacts, TensorSpec
from edge_runtime.errors import BackendError
from edge_runtime.types import Float32Array


def unsupported_reason() -> str | None:
    """Why it cannot run here, or None."""
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed; pip install leukoscope"
    return None


def open_backend(model: bytes, *, threads: int) -> OnnxRuntimeBackend:
    """Loads ONNX bytes.

    Raises:
        BackendError: ONNX Runtime refuses the model.
    """
    return OnnxRuntimeBackend(model, threads=threads)


class OnnxRuntimeBackend:
    """One session, called from up to ``threads`` threads at once."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Each of the concurrent calls would keep a planned block of its own; without the plan
        # they share one arena. Less memory at the same speed.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            reason = " ".join(str(error).split())
            raise BackendError(f"onnxruntime refuses the model: {reason}") from error
        self._streams = threads
        self._version = str(onnxruntime.__version__)
        self._output_names = [output.name for output in self._session.get_outputs()]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs as the session reports them."""
        return tuple(_spec(value) for value in self._session.get_inputs())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs as the session reports them."""
        return tuple(_spec(value) for value in self._session.get_outputs())

    @property
    def facts(self) -> BackendFacts:
        """Version and the execution provider the session really has."""
        return BackendFacts("onnxruntime", self._version, self._session.get_providers()[0])

    @property
    def streams(self) -> int:
        """How many calls may run at once."""
        return self._streams

    def infer(self, arrays: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
        """Runs the model once.

        Raises:
            BackendError: ONNX Runtime fails on these arrays.
        """
        try:
            results = self._session.run(self._output_names, dict(arrays))
        except Exception as error:  # as above
            reason = " ".join(str(error).split())
            raise BackendError(f"onnxruntime fails on this field: {reason}") from error
        return dict(zip(self._output_names, results, strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session = None


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(value.name, tuple(d if isinstance(d, int) else -1 for d in value.shape))
