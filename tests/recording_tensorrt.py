"""A TensorRT and a GPU that write down every call and compute with ONNX Runtime.

Work put into a stream is done when the stream is waited for, and not before, so a backend
that forgets to wait, or reuses host memory too early, gives wrong numbers. Memory is found by
its pointer only; freed memory, foreign streams and calls outside ``current()`` are errors.

As a module it is also a row's backend: ``open_backend`` builds an engine and runs it.
"""

from __future__ import annotations

import enum
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pytest

from edge_runtime.backends.tensorrt import TensorRtBackend, open_engine
from edge_runtime.device_buffers import Bytes, CudaError, DeviceMemoryError
from edge_runtime.engines.cache import EngineCache
from edge_runtime.engines.for_bundle import build_engine, engine_target
from edge_runtime.engines.tensorrt_api import TensorRt, flavour_named

pytest.importorskip("onnx", reason="the recording runtime reads models with onnx")

MB = 1_000_000


class RecordingGpu:
    """A ``CudaDevice`` whose memory is a table in the host's."""

    library = "recording"
    name = "Recording GPU"

    def __init__(
        self, *, capability: str = "8.7", room: int = 1000 * MB, graphs: bool = True
    ) -> None:
        self.compute_capability = capability
        self.has_graphs = graphs
        self.calls: list[str] = []
        self.room = room
        self.fails_at: dict[str, Exception] = {}
        self._memory: dict[int, Bytes] = {}
        self._pinned: dict[int, Bytes] = {}
        self._queues: dict[int, list[Callable[[], None]]] = {}
        self._capturing: list[Callable[[], None]] | None = None
        self._graphs: list[Any] = []
        self._next = 1 << 20
        self._inside = threading.local()

    @property
    def held(self) -> tuple[int, int, int, int]:
        """Blocks of device memory, of pinned memory, streams and graphs not given back."""
        return len(self._memory), len(self._pinned), len(self._queues), len(self._graphs)

    @contextmanager
    def current(self) -> Iterator[None]:
        self._inside.depth = getattr(self._inside, "depth", 0) + 1
        try:
            yield
        finally:
            self._inside.depth -= 1

    def memory(self) -> tuple[int, int]:
        used = sum(block.size for block in self._memory.values())
        return self.room - used, self.room

    def allocate(self, nbytes: int) -> int:
        self._note("allocate")
        if nbytes > self.memory()[0]:
            raise DeviceMemoryError("cudaMalloc: out of memory")
        self._next += 4096 + nbytes
        self._memory[self._next] = np.full(nbytes, 0xAB, np.uint8)
        return self._next

    def free(self, pointer: int) -> None:
        self._note("free")
        del self._memory[pointer]

    def allocate_pinned(self, nbytes: int) -> Bytes:
        self._note("allocate_pinned")
        block = np.full(nbytes, 0xCD, np.uint8)
        self._pinned[block.ctypes.data] = block
        return block

    def free_pinned(self, buffer: Bytes) -> None:
        self._note("free_pinned")
        del self._pinned[buffer.ctypes.data]

    def open_stream(self) -> int:
        self._note("open_stream")
        self._next += 8
        self._queues[self._next] = []
        return self._next

    def close_stream(self, stream: int) -> None:
        self._note("close_stream")
        del self._queues[stream]

    def copy_in(self, pointer: int, pinned: Bytes, nbytes: int, stream: int) -> None:
        self._note("copy_in")
        assert pinned.ctypes.data in self._pinned, "not pinned"
        self.enqueue(stream, lambda: self._write(pointer, pinned[:nbytes]))

    def copy_out(self, pinned: Bytes, pointer: int, nbytes: int, stream: int) -> None:
        self._note("copy_out")
        assert pinned.ctypes.data in self._pinned, "not pinned"
        self.enqueue(stream, lambda: np.copyto(pinned[:nbytes], self.read(pointer, nbytes)))

    def copy_across(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._note("copy_across")
        self.enqueue(stream, lambda: self._write(target, self.read(source, nbytes)))

    def synchronise(self, stream: int) -> None:
        self._note("synchronise")
        queue = self._queues[stream]
        while queue:
            queue.pop(0)()

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        self._note("capture")
        assert not self._queues[stream], "captured before the stream was idle"
        self._capturing = []
        try:
            work()
        finally:
            graph, self._capturing = self._capturing, None
        self._graphs.append(graph)
        return graph

    def launch(self, graph: Any, stream: int) -> None:
        self._note("launch")
        self._queues[stream].extend(graph)

    def free_graph(self, graph: Any) -> None:
        self._note("free_graph")
        self._graphs.remove(graph)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        if self._capturing is None:
            self._queues[stream].append(work)
        else:
            self._capturing.append(work)

    def read(self, pointer: int, nbytes: int) -> Bytes:
        return self._memory[pointer][:nbytes]

    def _write(self, pointer: int, content: Bytes) -> None:
        self._memory[pointer][: content.size] = content

    def _note(self, name: str) -> None:
        assert getattr(self._inside, "depth", 0) > 0, f"{name} outside current()"
        self.calls.append(name)
        if name in self.fails_at:
            raise self.fails_at[name]


_GPU = RecordingGpu()


class _Kind(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class _OldKind(enum.IntEnum):
    EXPLICIT_BATCH = 0


class _NewKind(enum.IntEnum):
    STRONGLY_TYPED = 0


class _Flag(enum.IntEnum):
    FP16 = 0
    INT8 = 2


class _Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class _Capability(enum.IntEnum):
    NONE = 0
    SM86 = 86
    SM89 = 89


_Verbosity = enum.IntEnum("_Verbosity", ["LAYER_NAMES_ONLY", "DETAILED"])
_Format = enum.IntEnum("_Format", ["ONELINE", "JSON"])
_Mode = enum.IntEnum("_Mode", ["NONE", "INPUT", "OUTPUT"])
_Type = enum.IntEnum("_Type", ["FLOAT", "HALF", "INT8", "INT32", "INT64"])
_LayerType = enum.IntEnum("_LayerType", ["CONVOLUTION", "QUANTIZE", "DEQUANTIZE", "ELEMENTWISE"])

_ONNX_LAYERS = {
    "Conv": _LayerType.CONVOLUTION,
    "QuantizeLinear": _LayerType.QUANTIZE,
    "DequantizeLinear": _LayerType.DEQUANTIZE,
}


class _Logger:
    Severity = _Severity

    def __init__(self) -> None:
        pass


@dataclass
class RecordingTensorRt:
    """The library's module, as release ``version`` would be."""

    version: str = "10.3.0"
    gpu: RecordingGpu = field(default_factory=RecordingGpu)
    refuses_to_build: str | None = None
    context_fails: bool = False
    refuses_to_load: str | None = None
    calls: list[str] = field(default_factory=list)

    ILogger = _Logger
    BuilderFlag = _Flag
    ProfilingVerbosity = _Verbosity
    LayerInformationFormat = _Format
    ComputeCapability = _Capability

    @property
    def __version__(self) -> str:
        return self.version

    @property
    def NetworkDefinitionCreationFlag(self) -> Any:  # noqa: N802
        major = int(self.version.split(".")[0])
        return _OldKind if major < 10 else _Kind if major < 11 else _NewKind

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        return _Builder(self, logger)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return _Parser(network, logger)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return _Runtime(self, logger)

    def typed(self) -> TensorRt:
        return cast(TensorRt, self)


@dataclass
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: Any


@dataclass
class _Layer:
    name: str
    type: Any
    inputs: list[_Tensor | None]
    outputs: list[_Tensor]

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> _Tensor | None:
        return self.inputs[index]

    def get_output(self, index: int) -> _Tensor:
        return self.outputs[index]


@dataclass
class _Network:
    flags: int
    layers: list[_Layer] = field(default_factory=list)
    inputs: list[_Tensor] = field(default_factory=list)
    outputs: list[_Tensor] = field(default_factory=list)
    model: bytes = b""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_layer(self, index: int) -> _Layer:
        return self.layers[index]

    def get_input(self, index: int) -> _Tensor:
        return self.inputs[index]


@dataclass
class _Parser:
    network: _Network
    logger: Any
    num_errors: int = 0

    def parse(self, model: bytes) -> bool:
        import onnx

        try:
            loaded = onnx.load_from_string(model)
            onnx.checker.check_model(loaded)
            loaded = onnx.shape_inference.infer_shapes(loaded)
        except Exception as error:  # noqa: BLE001 - as the real one: False and a line
            self.logger.log(_Severity.ERROR, f"ModelImporter:\n{error}")
            return False
        if not loaded.graph.node:
            return False
        values = [*loaded.graph.value_info, *loaded.graph.input, *loaded.graph.output]
        tensors = {value.name: _tensor_of(value) for value in values}
        self.network.model = model
        self.network.inputs = [tensors[value.name] for value in loaded.graph.input]
        self.network.outputs = [tensors[value.name] for value in loaded.graph.output]

        def known(name: str) -> _Tensor:
            return tensors.get(name, _Tensor(name, (), _Type.FLOAT))

        for node in loaded.graph.node:
            kind = _ONNX_LAYERS.get(node.op_type, _LayerType.ELEMENTWISE)
            inputs = [known(name) if name else None for name in node.input]
            outputs = [known(name) for name in node.output]
            self.network.layers.append(_Layer(node.name, kind, inputs, outputs))
        return True

    def get_error(self, index: int) -> Any:
        raise IndexError(index)


def _tensor_of(value: Any) -> _Tensor:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return _Tensor(value.name, shape, _Type.HALF if kind.elem_type == 10 else _Type.FLOAT)


class _TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class _Config:
    def __init__(self, api: RecordingTensorRt) -> None:
        self._api = api
        self.profiling_verbosity: Any = None
        self.num_compute_capabilities = 0
        self.profile: dict[str, list[list[int]]] = {}
        self.timing = _TimingCache(b"")

    def set_flag(self, flag: _Flag) -> None:
        self._api.calls.append(f"flag {flag.name}")

    def add_optimization_profile(self, profile: Any) -> int:
        self.profile = profile.shapes
        return 0

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        self._api.calls.append(f"capability {capability.name} {index}")
        return True

    def create_timing_cache(self, content: bytes) -> _TimingCache:
        return _TimingCache(content)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        self._api.calls.append(f"timing {cache.content!r}")
        assert not ignore_mismatch
        self.timing = cache
        return not cache.content.startswith(b"of another device")

    def get_timing_cache(self) -> _TimingCache:
        return _TimingCache(self.timing.content + b"+build")


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = [list(shape) for shape in shapes]


class _Builder:
    def __init__(self, api: RecordingTensorRt, logger: Any) -> None:
        self._api = api
        self._logger = logger

    def create_network(self, flags: int) -> _Network:
        self._api.calls.append(f"network {flags}")
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config(self._api)

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        self._api.calls.append("build")
        if self._api.refuses_to_build is not None:
            self._logger.log(_Severity.ERROR, self._api.refuses_to_build)
            return None
        assert config.profiling_verbosity is _Verbosity.DETAILED
        header = {
            "capability": self._api.gpu.compute_capability,
            "version": self._api.version,
            "profile": config.profile,
            "outputs": [[each.name, each.shape, int(each.dtype)] for each in network.outputs],
            "inputs": [[each.name, each.shape, int(each.dtype)] for each in network.inputs],
            "convolutions": [
                layer.name for layer in network.layers if layer.type == _LayerType.CONVOLUTION
            ],
        }
        return b"PLAN" + json.dumps(header).encode() + b"\0" + network.model


class _Runtime:
    def __init__(self, api: RecordingTensorRt, logger: Any) -> None:
        self._api = api
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        header, _, model = plan.removeprefix(b"PLAN").partition(b"\0")
        facts = json.loads(header)
        mine = (self._api.gpu.compute_capability, self._api.version)
        assert (facts["capability"], facts["version"]) == mine, "another machine's engine"
        if self._api.refuses_to_load is not None:
            self._logger.log(_Severity.ERROR, self._api.refuses_to_load)
            return None
        return _Engine(self._api, facts, model)


class _Engine:
    def __init__(self, api: RecordingTensorRt, facts: dict[str, Any], model: bytes) -> None:
        import onnxruntime

        self.api = api
        self.facts = facts
        self.session: Any = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.tensors = {name: tuple(shape) for name, shape, _ in facts["inputs"]}
        self.tensors |= {name: tuple(shape) for name, shape, _ in facts["outputs"]}
        self.types = {name: _Type(kind) for name, _, kind in [*facts["inputs"], *facts["outputs"]]}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        names: list[str] = list(self.tensors)
        return names[index]

    def get_tensor_mode(self, name: str) -> Any:
        inputs = [each[0] for each in self.facts["inputs"]]
        return _Mode.INPUT if name in inputs else _Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.types[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        shapes: list[list[int]] = self.facts["profile"][name]
        return shapes

    def create_execution_context(self, *options: Any) -> _Context | None:
        return None if self.api.context_fails else _Context(self)

    def create_engine_inspector(self) -> Any:
        return self

    def get_engine_information(self, kind: Any) -> str:
        assert int(kind) == int(_Format.JSON)
        layers = [
            {
                "Name": f"{name} + relu",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "x", "Format/Datatype": "Channel major Int8 format"}],
                "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
                "Weights": {"Type": "Int8", "Count": 9},
                "TacticName": "i8816",
                "Metadata": f"[ONNX Layer: {name}]",
            }
            for name in self.facts["convolutions"]
        ]
        return json.dumps({"Layers": layers, "Bindings": []})


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._gpu = engine.api.gpu
        self._addresses: dict[str, int] = {}
        self._cells = 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.facts["profile"][name]
        if not low[0] <= shape[0] <= high[0] or list(shape[1:]) != low[1:]:
            return False
        self._cells = shape[0]
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self._engine.tensors[name]
        return (self._cells, *shape[1:]) if shape[0] == -1 else shape

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self._addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self._gpu._note("enqueue")
        # Shapes are those of the moment of enqueueing, memory is that of the moment of running.
        shapes = {name: self.get_tensor_shape(name) for name in self._engine.tensors}
        self._gpu.enqueue(stream, lambda: self._run(shapes))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]]) -> None:
        inputs = [each[0] for each in self._engine.facts["inputs"]]
        arrays = {}
        for name in inputs:
            dtype = np.dtype(np.float16 if self._engine.types[name] == _Type.HALF else np.float32)
            nbytes = int(np.prod(shapes[name])) * dtype.itemsize
            raw = self._gpu.read(self._addresses[name], nbytes)
            arrays[name] = raw.view(dtype).reshape(shapes[name])
        names = [name for name in self._engine.tensors if name not in inputs]
        for name, value in zip(names, self._engine.session.run(names, arrays), strict=True):
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            self._gpu._write(self._addresses[name], flat)


def unsupported_reason() -> str | None:
    return None


def open_backend(
    model: bytes,
    *,
    threads: int,
    engines: Path | None = None,
    api: RecordingTensorRt | None = None,
) -> TensorRtBackend:
    """Builds with the recording library and opens what came out, on the one GPU there is."""
    api = RecordingTensorRt(gpu=_GPU) if api is None else api
    flavour = flavour_named("tensorrt")
    with TemporaryDirectory() as place:
        folder = Path(place) if engines is None else engines
        target = engine_target(flavour, api=api.typed(), device=api.gpu)
        build_engine(EngineCache(folder), target, model, artifact="model.onnx")
        return open_engine(
            flavour, model, threads=threads, engines=folder, api=api.typed(), device=api.gpu
        )


__all__ = ["MB", "CudaError", "RecordingGpu", "RecordingTensorRt", "open_backend"]
