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

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from typing_extensions import Self

from edge_runtime.backends import BackendFacts, Tensor, TensorSpec, on_host
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
    return OnnxRuntimeBackend(
        _cpu_session(model), name="onnxruntime", version=_version(), streams=threads
    )


def _cpu_session(model: bytes) -> Any:
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
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own unrelated classes
        raise BackendError(f"onnxruntime refuses the model: {_reason(error)}") from error


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())


class OnnxRuntimeBackend:
    """One session, called from several threads at once.

    Args:
        session: an open ``onnxruntime.InferenceSession``.
        name: of the backend, as in the table.
        version: of ONNX Runtime.
        streams: how many calls may run at once.
    """

    def __init__(self, session: Any, *, name: str, version: str, streams: int) -> None:
        self._session = session
        self._name = name
        self._version = version
        self._streams = streams
        self._output_names = [output.name for output in session.get_outputs()]

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
        return BackendFacts(self._name, self._version, self._session.get_providers()[0])

    @property
    def streams(self) -> int:
        """How many calls may run at once."""
        return self._streams

    def infer(self, arrays: Mapping[str, Tensor]) -> dict[str, Float32Array]:
        """Runs the model once.

        Raises:
            BackendError: ONNX Runtime fails on these arrays.
        """
        try:
            results = self._session.run(
                self._output_names, {name: on_host(each) for name, each in arrays.items()}
            )
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise BackendError(f"{self._name} fails on this field: {_reason(error)}") from error
        return dict(zip(self._output_names, results, strict=True))

    def infer_keeping(
        self, arrays: Mapping[str, Tensor], keep: Collection[str]
    ) -> dict[str, Tensor]:
        """As ``infer``: a session hands out nothing but arrays."""
        return dict(self.infer(arrays))

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
