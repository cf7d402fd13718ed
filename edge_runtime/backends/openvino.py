"""OpenVINO on the CPU, an optional extra.

Owns compile options. Runs ``threads`` infer requests at once, one thread each, for the
reasons given in ``backends.onnxruntime``.
"""

from __future__ import annotations

import functools
import queue
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from edge_runtime.backends import BackendFacts, Tensor, TensorSpec, on_host
from edge_runtime.errors import BackendError
from edge_runtime.types import Float32Array


def unsupported_reason() -> str | None:
    """Why it cannot run here, or None."""
    if find_spec("openvino") is None:
        return "openvino is not installed; pip install 'leukoscope[openvino]'"
    return None


def open_backend(model: bytes, *, threads: int) -> OpenVinoBackend:
    """Loads ONNX bytes.

    Raises:
        BackendError: OpenVINO refuses the model.
    """
    return OpenVinoBackend(model, threads=threads)


class OpenVinoBackend:
    """One compiled model and a pool of infer requests."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        import openvino

        try:
            core = _core()
            self._compiled: Any = core.compile_model(
                core.read_model(model),
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": threads,
                    "PERFORMANCE_HINT": "THROUGHPUT",
                },
            )
        except Exception as error:  # OpenVINO raises RuntimeError subclasses of its own
            reason = " ".join(str(error).split())
            raise BackendError(f"openvino refuses the model: {reason}") from error
        self._version = str(openvino.__version__)
        self._streams = threads
        self._input_names = {port.get_any_name() for port in self._compiled.inputs}
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(threads):
            request = self._compiled.create_infer_request()
            # The first look at a tensor's data initialises OpenVINO's binding; two threads
            # doing that at once wait for each other for ever (seen with 2026.4).
            _ = request.get_input_tensor(0).data
            self._requests.put(request)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs as the compiled model reports them."""
        return tuple(_spec(port) for port in self._compiled.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs as the compiled model reports them."""
        return tuple(_spec(port) for port in self._compiled.outputs)

    @property
    def facts(self) -> BackendFacts:
        """Version and the devices the model was compiled for."""
        devices = ",".join(self._compiled.get_property("EXECUTION_DEVICES"))
        return BackendFacts("openvino", self._version, devices)

    @property
    def streams(self) -> int:
        """How many calls may run at once."""
        return self._streams

    def infer(self, arrays: Mapping[str, Tensor]) -> dict[str, Float32Array]:
        """Runs the model once; waits when all requests are busy.

        Raises:
            BackendError: OpenVINO fails on these arrays.
        """
        if set(arrays) != self._input_names:
            # A request runs without complaint on what an earlier call left in its input.
            wanted = sorted(self._input_names)
            raise BackendError(f"openvino: got inputs {sorted(arrays)}, the model has {wanted}")
        request = self._requests.get()
        try:
            results = request.infer({name: on_host(each) for name, each in arrays.items()})
            # The request's buffers are reused by the next call.
            return {
                port.get_any_name(): np.array(value, np.float32) for port, value in results.items()
            }
        except Exception as error:  # as above
            reason = " ".join(str(error).split())
            raise BackendError(f"openvino fails on this field: {reason}") from error
        finally:
            self._requests.put(request)

    def infer_keeping(
        self, arrays: Mapping[str, Tensor], keep: Collection[str]
    ) -> dict[str, Tensor]:
        """As ``infer``: everything is in the processor's own memory."""
        return dict(self.infer(arrays))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while not self._requests.empty():
            self._requests.get()
        self._compiled = None


@functools.cache
def _core() -> Any:
    """The one Core of this process, made when the first model is loaded.

    Each Core's CPU plugin exchanges the thread's alternate signal stack and puts the old one
    back when it goes. Two that go in another order than they came (an error's traceback keeps
    one alive) leave a freed stack in place, and the next signal, a Ctrl-C, ends the process
    with a segmentation fault. Seen with OpenVINO 2026.4.
    """
    import openvino

    return openvino.Core()


def _spec(port: Any) -> TensorSpec:
    shape = tuple(
        dimension.get_length() if dimension.is_static else -1 for dimension in port.partial_shape
    )
    return TensorSpec(port.get_any_name(), shape)
