"""The part of TensorRT's Python interface that is used here, and which library provides it.

Owns the types (written down here, because ``tensorrt`` carries none for all its releases),
the two flavours, and the words for what a library refuses. Does not own building
(see ``builder``) nor running (see ``backends.tensorrt``).

The interface is the same from TensorRT 8.6 to 11 and in TensorRT-RTX for all that stands
here. What differs is asked of the library itself, by the flags and methods it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Protocol, cast

from edge_runtime.errors import BackendError

FlavourName = Literal["tensorrt", "tensorrt-rtx"]
Shape = tuple[int, ...]


class NetworkTensor(Protocol):
    """One tensor of a parsed network."""

    name: str
    dtype: Any
    shape: Sequence[int]


class NetworkLayer(Protocol):
    """One layer of a parsed network."""

    name: str
    type: Any
    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> NetworkTensor | None:
        """An input tensor; None for an optional one that is absent."""

    def get_output(self, index: int) -> NetworkTensor:
        """An output tensor."""


class Network(Protocol):
    """A parsed network."""

    num_layers: int
    num_inputs: int
    num_outputs: int

    def get_layer(self, index: int) -> NetworkLayer:
        """One layer, in the graph's order."""

    def get_input(self, index: int) -> NetworkTensor:
        """One of the network's inputs."""


class Parser(Protocol):
    """Reads ONNX bytes into a network."""

    num_errors: int

    def parse(self, model: bytes) -> bool:
        """False when it refuses the model."""

    def get_error(self, index: int) -> Any:
        """One reason why."""


class Profile(Protocol):
    """Smallest, usual and largest shape of inputs of free size."""

    def set_shape(self, name: str, minimum: Shape, best: Shape, maximum: Shape) -> None:
        """Of one input."""


class BuilderConfig(Protocol):
    """How an engine is built."""

    profiling_verbosity: Any
    # Of the flavours that build for GPUs that are not here.
    num_compute_capabilities: int

    def set_flag(self, flag: Any) -> None:
        """Allows or demands something of the builder."""

    def add_optimization_profile(self, profile: Profile) -> int:
        """The profile's index, negative when it does not fit the network."""

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        """False when the library cannot build for it."""

    def create_timing_cache(self, content: bytes) -> Any:
        """A timing cache, from an earlier build's bytes or none."""

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        """False when the cache is another device's."""

    def get_timing_cache(self) -> Any:
        """The cache with what this build added."""


class Builder(Protocol):
    """Makes engines."""

    def create_network(self, flags: int) -> Network:
        """An empty network."""

    def create_builder_config(self) -> BuilderConfig:
        """A config of defaults."""

    def create_optimization_profile(self) -> Profile:
        """An empty profile."""

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> Any:
        """The plan, a buffer; None when building failed."""


class Context(Protocol):
    """One engine in execution: its shapes, addresses and scratch memory."""

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        """False when the shape lies outside the profile."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """A tensor's shape for the input shapes that are set."""

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        """Where a tensor lies in device memory."""

    def execute_async_v3(self, stream: int) -> bool:
        """Puts one inference into a stream; False when it cannot."""


class Engine(Protocol):
    """A loaded engine."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str:
        """Name of an input or output."""

    def get_tensor_mode(self, name: str) -> Any:
        """Input or output."""

    def get_tensor_dtype(self, name: str) -> Any:
        """Its type."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """Its shape, -1 where free."""

    def get_tensor_profile_shape(self, name: str, index: int) -> Sequence[Sequence[int]]:
        """Smallest, usual and largest shape of an input."""

    def create_execution_context(self, *options: Any) -> Context | None:
        """None when there is no memory for it."""

    def create_runtime_config(self) -> Any:
        """How it is executed; TensorRT-RTX only."""

    def create_engine_inspector(self) -> Any:
        """Tells the layers."""


class Runtime(Protocol):
    """Loads engines."""

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        """None when the plan does not fit this machine."""


class TensorRt(Protocol):
    """The library's module."""

    __version__: str
    ILogger: Any
    BuilderFlag: Any
    LayerInformationFormat: Any
    NetworkDefinitionCreationFlag: Any
    ProfilingVerbosity: Any

    def Builder(self, logger: Any) -> Builder:  # noqa: N802 - TensorRT's own names
        """A builder."""

    def OnnxParser(self, network: Network, logger: Any) -> Parser:  # noqa: N802
        """A parser that fills ``network``."""

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802
        """A runtime."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """One library with this interface.

    Attributes:
        modules: import names to try, in order.
        install: what to do where it is absent.
        elsewhere: whether it builds for GPUs other than the one it runs on.
        times_kernels: whether it times kernels while it builds, and keeps the times.
    """

    name: FlavourName
    modules: tuple[str, ...]
    install: str
    elsewhere: bool
    times_kernels: bool


FLAVOURS: tuple[Flavour, ...] = (
    Flavour(
        "tensorrt",
        ("tensorrt",),
        "JetPack brings it; on a workstation pip install tensorrt",
        elsewhere=False,
        times_kernels=True,
    ),
    Flavour(
        "tensorrt-rtx",
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        "pip install 'leukoscope[tensorrt-rtx]' (x86-64)",
        elsewhere=True,
        times_kernels=False,
    ),
)

# What ``Runtime.get_engine_validity`` says, by name of its flag.
_INVALID = {
    "VERSION_MISMATCH": "another release built it",
    "UNSUPPORTED_CC": "it was built for another GPU",
    "OLD_CUDA_DRIVER": "the GPU driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "it is no engine of this library",
    "CUDA_ERROR": "the GPU does not answer",
}


def flavour_named(name: str) -> Flavour:
    """The flavour of that name.

    Raises:
        BackendError: there is none.
    """
    for flavour in FLAVOURS:
        if flavour.name == name:
            return flavour
    known = " or ".join(flavour.name for flavour in FLAVOURS)
    raise BackendError(f"engine flavour {name!r}: unknown; choose {known}")


def absent_reason(flavour: Flavour) -> str | None:
    """Why the library is not here, or None; loads nothing."""
    if any(find_spec(module) is not None for module in flavour.modules):
        return None
    return f"{flavour.modules[0]} is not installed; {flavour.install}"


def load_api(flavour: Flavour) -> TensorRt:
    """Loads the library.

    Raises:
        BackendError: it is not installed, or does not load.
    """
    reason = absent_reason(flavour)
    if reason is not None:
        raise BackendError(reason)
    module = next(name for name in flavour.modules if find_spec(name) is not None)
    try:
        # The wheel's own __init__ loads the shared libraries before the bindings.
        return cast(TensorRt, import_module(module))
    except Exception as error:  # a missing shared library shows as any of several classes
        reason = " ".join(str(error).split())
        raise BackendError(
            f"{flavour.name}: {module} is installed and does not load ({reason}); "
            f"install it again: {flavour.install}"
        ) from error


def members(enumeration: Any) -> dict[str, Any]:
    """The members of one of the library's enumerations, by name."""
    return dict(enumeration.__members__)


def word(member: Any) -> str:
    """The bare name of a member of an enumeration, such as ``INT8``."""
    return str(getattr(member, "name", member)).rpartition(".")[2]


def recording_logger(api: TensorRt) -> Any:
    """A logger that keeps what the library complains of, and its list of layers.

    Has ``complaints``, a list of lines, and ``layers``, the text of the builder's own list
    of layers, empty until an engine was built.
    """
    severity = api.ILogger.Severity
    worst = int(severity.ERROR)

    class _Recorder(api.ILogger):  # type: ignore[misc, name-defined] # a class of the library
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.complaints: list[str] = []
            self.layers = ""

        def log(self, level: Any, message: str) -> None:
            if int(level) <= worst:
                self.complaints.append(" ".join(message.split()))
            elif message.startswith("Layers:"):
                self.layers = message

    return _Recorder()


def complaint(logger: Any, otherwise: str) -> str:
    """The first thing the library complained of: what follows mostly is its consequence."""
    return logger.complaints[0] if logger.complaints else otherwise


def why_not_loaded(api: TensorRt, runtime: Any, plan: bytes, logger: Any) -> str:
    """Why a plan did not load, in one clause."""
    said = complaint(logger, "the library does not say why")
    diagnose = getattr(runtime, "get_engine_validity", None)
    if diagnose is None:
        return said
    _, bits = diagnose(plan)
    names = members(getattr(api, "EngineInvalidityDiagnostics", _NoMembers))
    reasons = [_INVALID.get(name, name) for name, bit in names.items() if int(bits) & int(bit)]
    return "; ".join([*reasons, said])


class _NoMembers:
    __members__: dict[str, Any] = {}  # noqa: RUF012 - stands for an enumeration of none
