"""One ONNX model to one engine, with any TensorRT from 8.6 to 11 or TensorRT-RTX.

Owns the network's flags, the profile, the target GPUs, and asking what came out. Does not
own where engines are kept (see ``cache``) nor which models are built (see ``for_bundle``).

The types of the result are those that the graph states: the network is strongly typed, or
on releases that cannot do that, the builder is allowed exactly the types that occur in the
graph. Int8 comes from the graph's Q/DQ pairs alone. No calibrator is used anywhere; the
releases from 11 on have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.engines.layers import (
    ConvolutionRow,
    EngineLayer,
    Precision,
    convolution_table,
    layers_from_json,
    layers_from_log,
)
from edge_runtime.engines.tensorrt_api import (
    BuilderConfig,
    Flavour,
    Network,
    Shape,
    TensorRt,
    complaint,
    members,
    recording_logger,
    word,
)
from edge_runtime.errors import BackendError

_INSPECTOR = "engine inspector"
_LOG = "builder's log"


@dataclass(frozen=True, slots=True)
class CellCounts:
    """How many cells a model of free size takes at once: the engine's profile.

    16 is how many crops the classifier stage hands over at once, 64 more cells than most
    fields have; of larger numbers the backend makes several calls.
    """

    minimum: int = 1
    best: int = 16
    maximum: int = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build gave.

    Attributes:
        content: the engine's bytes.
        strongly_typed: whether the library was held to the graph's types.
        layers: of the engine; empty when nothing tells them.
        layers_from: what told them, or why nothing does.
        convolutions: what became of each convolution of the model.
        timing_cache: bytes for the next build; empty where there is none.
    """

    content: bytes
    strongly_typed: bool
    layers: tuple[EngineLayer, ...]
    layers_from: str
    convolutions: tuple[ConvolutionRow, ...]
    timing_cache: bytes = b""


def build_plan(
    api: TensorRt,
    flavour: Flavour,
    model: bytes,
    *,
    cells: CellCounts,
    capabilities: Sequence[str] = (),
    gpu_here: bool = True,
    timing_cache: bytes = b"",
) -> Plan:
    """Builds an engine; takes seconds to minutes.

    Args:
        api: the library.
        flavour: which one it is.
        model: ONNX bytes.
        cells: the profile of inputs whose first size is free.
        capabilities: compute capabilities to build for, such as ``8.6``; a library that
            only builds for the GPU it runs on builds for that one.
        gpu_here: whether the engine can be loaded here and asked for its layers.
        timing_cache: an earlier build's, on the same device; empty for none.

    Raises:
        BackendError: the library refuses the model, a capability, or fails to build.
    """
    logger = recording_logger(api)
    try:
        return _build(
            api, flavour, model, logger, cells, tuple(capabilities), gpu_here, timing_cache
        )
    except BackendError:
        raise
    except Exception as error:  # the bindings raise TypeError, RuntimeError and their own
        said = complaint(logger, " ".join(str(error).split()))
        raise BackendError(f"{flavour.name} {api.__version__} fails to build: {said}") from error


def _build(
    api: TensorRt,
    flavour: Flavour,
    model: bytes,
    logger: object,
    cells: CellCounts,
    capabilities: tuple[str, ...],
    gpu_here: bool,
    timing_cache: bytes,
) -> Plan:
    label = f"{flavour.name} {api.__version__}"
    builder = api.Builder(logger)
    kinds = members(api.NetworkDefinitionCreationFlag)
    strongly_typed = "STRONGLY_TYPED" in kinds
    # Before 10 every network was asked to be of explicit batch; later it is nothing else.
    wanted = [kinds[name] for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if name in kinds]
    network = builder.create_network(sum(1 << int(kind) for kind in wanted))
    parser = api.OnnxParser(network, logger)
    # Of an empty model the parser makes an empty network and is content.
    if not parser.parse(model) or network.num_outputs == 0:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(" ".join(str(error.desc()).split()) for error in errors[:1])
        raise BackendError(
            f"{label} refuses the model: {said or complaint(logger, 'it is no ONNX model')}; "
            "export the bundle again"
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    if not strongly_typed:
        _allow_types(api, network, config)
    if capabilities and flavour.elsewhere:
        _target(api, config, capabilities, label)
    free = _free_inputs(network)
    if free:
        profile = builder.create_optimization_profile()
        for name, rest in free:
            counts = (cells.minimum, cells.best, cells.maximum)
            profile.set_shape(name, *((count, *rest) for count in counts))
        if config.add_optimization_profile(profile) < 0:
            said = complaint(logger, "the library does not say why")
            raise BackendError(f"{label} refuses {cells.maximum} cells at once: {said}")
    if flavour.times_kernels:
        cache = config.create_timing_cache(timing_cache)
        # Times of another device or release are no reason to fail: they are made again.
        if not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        said = complaint(logger, "the library does not say why")
        raise BackendError(f"{label} fails to build the engine: {said}")
    content = bytes(serialized)
    kept = bytes(config.get_timing_cache().serialize()) if flavour.times_kernels else b""
    layers, source = _layers(api, content, logger, gpu_here)
    table = convolution_table(_asked(network), layers)
    return Plan(content, strongly_typed, layers, source, table, kept)


def _allow_types(api: TensorRt, network: Network, config: BuilderConfig) -> None:
    """Without strong typing: the types that stand in the graph, and no others."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    if any(word(layer.type) == "QUANTIZE" for layer in layers):
        config.set_flag(api.BuilderFlag.INT8)
    outputs = [each.get_output(index) for each in layers for index in range(each.num_outputs)]
    if any(word(tensor.dtype) == "HALF" for tensor in outputs):
        config.set_flag(api.BuilderFlag.FP16)


def _target(
    api: TensorRt, config: BuilderConfig, capabilities: tuple[str, ...], label: str
) -> None:
    known = members(getattr(api, "ComputeCapability"))  # noqa: B009 - not of all flavours
    names = ["SM" + capability.replace(".", "") for capability in capabilities]
    for capability, name in zip(capabilities, names, strict=True):
        if name not in known:
            there = [each[2:-1] + "." + each[-1] for each in known if each.startswith("SM")]
            raise BackendError(
                f"{label} does not build for compute capability {capability}; it knows "
                f"{', '.join(there)}"
            )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(known[name], index):
            raise BackendError(f"{label} refuses compute capability {capabilities[index]}")


def _free_inputs(network: Network) -> list[tuple[str, Shape]]:
    """Inputs of any number of cells: their names and the sizes behind the first."""
    free: list[tuple[str, Shape]] = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(int(extent) for extent in tensor.shape)
        if -1 in shape[1:]:
            raise BackendError(
                f"model input {tensor.name!r} {shape}: only its first size may be free; "
                "export the bundle again"
            )
        if shape[:1] == (-1,):
            free.append((tensor.name, shape[1:]))
    return free


def _asked(network: Network) -> list[tuple[str, Precision]]:
    """The convolutions of the graph, int8 where input and weights come out of Q/DQ pairs."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {
        layer.get_output(index).name: word(layer.type)
        for layer in layers
        for index in range(layer.num_outputs)
    }
    asked: list[tuple[str, Precision]] = []
    for layer in layers:
        if word(layer.type) != "CONVOLUTION":
            continue
        inputs = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
        rounded = [makers.get(each.name) == "DEQUANTIZE" for each in inputs if each is not None]
        half = any(each is not None and word(each.dtype) == "HALF" for each in inputs)
        plain: Precision = "float16" if half else "float32"
        asked.append((layer.name, "int8" if rounded == [True, True] else plain))
    return asked


def _layers(
    api: TensorRt, content: bytes, logger: object, gpu_here: bool
) -> tuple[tuple[EngineLayer, ...], str]:
    """The engine's layers and what told them."""
    if gpu_here:
        engine = api.Runtime(logger).deserialize_cuda_engine(content)
        if engine is not None:
            inspector = engine.create_engine_inspector()
            text = inspector.get_engine_information(api.LayerInformationFormat.JSON)
            try:
                return layers_from_json(text), _INSPECTOR
            except ValueError as error:
                return (), f"the {_INSPECTOR}'s answer cannot be read ({error})"
    from_log = layers_from_log(getattr(logger, "layers", ""))
    if from_log:
        return from_log, _LOG
    return (), f"no GPU here to ask the {_INSPECTOR} on, and the {_LOG} lists none"
