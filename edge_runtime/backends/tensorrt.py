"""TensorRT: engines that ``leukoscope engine build`` made for this very GPU.

Owns one engine in execution: its buffers, its stream, its graph, and the order of a call:
copy in, enqueue, copy out, wait. Nothing is allocated in a call, but for the first leases of
kept outputs. Does not own engines (see ``engines``) nor CUDA (see ``device_buffers``).

Calls may come from several threads: the GPU takes one at a time, and meanwhile the others
prepare their pictures.

What is here was exercised with a recording runtime in the tests, and never on a GPU.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from edge_runtime import device_buffers
from edge_runtime.backends import BackendFacts, Tensor, TensorSpec, fits, on_host
from edge_runtime.device_buffers import CudaDevice, CudaError
from edge_runtime.engines.bindings import BoundTensor, allocate, bind_tensors
from edge_runtime.engines.builder import CellCounts
from edge_runtime.engines.cache import (
    EngineCache,
    EngineIdentity,
    default_folder,
    platform_here,
)
from edge_runtime.engines.tensorrt_api import (
    Context,
    Engine,
    Flavour,
    TensorRt,
    complaint,
    flavour_named,
    load_api,
    recording_logger,
    why_not_loaded,
)
from edge_runtime.errors import BackendError
from edge_runtime.types import Float32Array

_LOG = logging.getLogger(__name__)
_FLAVOUR = "tensorrt"


def unsupported_reason() -> str | None:
    """Why it cannot run here, or None."""
    if find_spec("tensorrt") is None:
        return f"tensorrt is not installed; {flavour_named(_FLAVOUR).install}"
    return device_buffers.unsupported_reason()


def open_backend(model: bytes, *, threads: int, engines: Path | None = None) -> TensorRtBackend:
    """Runs the engine that was built of these ONNX bytes.

    Raises:
        BackendError: no such engine is in the folder, or it does not load.
    """
    return open_engine(flavour_named(_FLAVOUR), model, threads=threads, engines=engines)


def open_engine(
    flavour: Flavour,
    model: bytes,
    *,
    threads: int,
    engines: Path | None,
    api: TensorRt | None = None,
    device: CudaDevice | None = None,
) -> TensorRtBackend:
    """The engine of ``model`` for the GPU here, out of the cache and checked.

    Args:
        flavour: which library.
        model: ONNX bytes.
        threads: how many calls may be made at once.
        engines: folder; None means the default one.
        api: the library; None means the installed one.
        device: the GPU; None means the first one.

    Raises:
        BackendError: no GPU, no such engine, or it was altered or does not load.
    """
    api = load_api(flavour) if api is None else api
    device = device_buffers.open_device() if device is None else device
    cache = EngineCache(default_folder() if engines is None else engines)
    artifact = hashlib.sha256(model).hexdigest()
    wanted = EngineIdentity(
        flavour.name,
        api.__version__,
        platform_here(),
        (device.compute_capability,),
        artifact,
        CellCounts(),
    )
    record = cache.serving(wanted)
    if record is None:
        others = [
            f"{', '.join(each.capabilities)} with {each.flavour} {each.version} on {each.platform}"
            for each in cache.records()
            if each.artifact_sha256 == artifact
        ]
        there = f"; engines there are for {' and '.join(others)}" if others else ""
        raise BackendError(
            f"backend {flavour.name}: no engine of this model for {device.name} (compute "
            f"capability {device.compute_capability}) with {flavour.name} {api.__version__} in "
            f"{cache.folder}{there}; run leukoscope engine build with this bundle (for a bundle "
            "that is installed here, leukoscope device build-engines)"
        )
    return TensorRtBackend(api, flavour, device, cache.load(record), streams=threads)


class KeptTensor:
    """An output in device memory, leased until this object goes."""

    def __init__(
        self,
        tensor: BoundTensor,
        pointer: int,
        fetch: Callable[[BoundTensor, int], Float32Array],
        give_back: Callable[[int], None],
    ) -> None:
        self.shape = tensor.shape
        self.dtype = tensor.dtype
        self.pointer = pointer
        self._tensor = tensor
        self._fetch = fetch
        self._host: Float32Array | None = None
        # By the last reference, not by a call: whoever looks at maps need not know of leases.
        weakref.finalize(self, give_back, pointer)

    def to_host(self) -> Float32Array:
        """Its values; copied once."""
        if self._host is None:
            self._host = self._fetch(self._tensor, self.pointer)
        return self._host


class TensorRtBackend:
    """One engine, its context and its stream."""

    def __init__(
        self, api: TensorRt, flavour: Flavour, device: CudaDevice, plan: bytes, *, streams: int
    ) -> None:
        """Loads an engine and makes all its memory.

        Args:
            api: the library.
            flavour: which one it is.
            device: the GPU.
            plan: the engine's bytes, checked.
            streams: how many calls may be made at once.

        Raises:
            BackendError: the engine does not load, or the GPU has no room for it.
        """
        self._name = flavour.name
        self._version = api.__version__
        self._device = device
        self._streams = streams
        # Re-entrant: an input may be an output that this very engine has kept.
        self._lock = threading.RLock()
        self._free: dict[str, list[int]] = {}
        logger = recording_logger(api)
        try:
            with device.current(), ExitStack() as owned:
                engine = _load(api, plan, logger, self._label)
                self._stream = device.open_stream()
                owned.callback(device.close_stream, self._stream)
                self._context, own_graph = self._make_context(api, engine, logger)
                bound = bind_tensors(engine, self._context, device, owned, label=self._label)
                self._inputs = {each.name: each for each in bound if each.is_input}
                self._outputs = {each.name: each for each in bound if not each.is_input}
                self._free = {name: [] for name in self._outputs}
                self._graph = None if own_graph else self._captured(owned)
                self._how = "CUDA graph" if own_graph or self._graph is not None else "no graph"
                # The logger and the engine must outlive the context.
                self._alive: tuple[Any, ...] | None = (logger, engine)
                self._owned = owned.pop_all()
        except CudaError as error:
            raise BackendError(f"{self._label} on {device.name}: {error}") from error

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs as the engine reports them."""
        return tuple(TensorSpec(each.name, each.shape) for each in self._inputs.values())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs as the engine reports them."""
        return tuple(TensorSpec(each.name, each.shape) for each in self._outputs.values())

    @property
    def facts(self) -> BackendFacts:
        """The library, the GPU, and how it is driven."""
        device = self._device
        where = f"{device.name} ({device.compute_capability}), {device.library}, {self._how}"
        return BackendFacts(self._name, self._version, where)

    @property
    def streams(self) -> int:
        """How many calls may be made at once; the GPU takes them in turn."""
        return self._streams

    def infer(self, arrays: Mapping[str, Tensor]) -> dict[str, Float32Array]:
        """Runs the engine, for many cells in several goes.

        Raises:
            BackendError: the arrays do not fit, or the GPU fails.
        """
        return {name: on_host(value) for name, value in self._run(arrays, ()).items()}

    def infer_keeping(
        self, arrays: Mapping[str, Tensor], keep: Collection[str]
    ) -> dict[str, Tensor]:
        """Runs the engine; outputs in ``keep`` stay on the GPU, but for those of free size.

        Raises:
            BackendError: the arrays do not fit, or the GPU fails or has no room.
        """
        return self._run(arrays, keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._alive is None:
                return
            # The context goes before the memory that it was told of.
            del self._context
            self._alive = None
            with self._device.current():
                self._owned.close()

    @property
    def _label(self) -> str:
        return f"{self._name} {self._version}"

    def _make_context(self, api: TensorRt, engine: Engine, logger: Any) -> tuple[Context, bool]:
        """A context, and whether the library makes graphs of its own."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        static = not any(-1 in tuple(engine.get_tensor_shape(name)) for name in names)
        strategies = getattr(api, "CudaGraphStrategy", None)
        own_graph = static and strategies is not None
        if strategies is not None and static:
            # TensorRT-RTX compiles kernels late and so knows best when they may be captured.
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            said = complaint(logger, "the library does not say why")
            raise BackendError(
                f"{self._label} on {self._device.name}: no room to run the engine ({said}); end "
                "other programs on the GPU, or choose another --backend"
            )
        return context, own_graph

    def _captured(self, owned: ExitStack) -> Any:
        """The call as a graph, where all shapes are fixed; else None."""
        everything = [*self._inputs.values(), *self._outputs.values()]
        if not self._device.has_graphs or any(each.free for each in everything):
            return None
        # Once without: the first call sets things up that cannot be captured.
        self._enqueue()
        self._device.synchronise(self._stream)
        try:
            graph = self._device.capture(self._stream, self._enqueue)
        except (CudaError, BackendError) as error:
            _LOG.warning("%s: runs without a CUDA graph: %s", self._label, error)
            return None
        owned.callback(self._device.free_graph, graph)
        return graph

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise BackendError(f"{self._label} on {self._device.name}: it refuses to run")

    def _run(self, arrays: Mapping[str, Tensor], keep: Collection[str]) -> dict[str, Tensor]:
        cells = self._checked(arrays)
        if cells == 0:
            return {
                name: np.zeros(each.shaped(0), np.float32) for name, each in self._outputs.items()
            }
        most = min((each.largest[0] for each in self._inputs.values() if each.free), default=1)
        parts: list[dict[str, Tensor]] = []
        try:
            with self._lock:
                if self._alive is None:
                    raise BackendError(f"{self._label}: the backend is closed")
                with self._device.current():
                    for start in range(0, cells, most):
                        piece = slice(start, min(start + most, cells))
                        parts.append(self._once(arrays, piece, keep, first=start == 0))
        except CudaError as error:
            raise BackendError(
                f"{self._label} on {self._device.name} fails on this field: {error}"
            ) from error
        if len(parts) == 1:
            return parts[0]
        return {
            name: np.concatenate([on_host(part[name]) for part in parts])
            if each.free
            else parts[0][name]
            for name, each in self._outputs.items()
        }

    def _once(
        self, arrays: Mapping[str, Tensor], piece: slice, keep: Collection[str], *, first: bool
    ) -> dict[str, Tensor]:
        """One call of at most as many cells as the engine takes."""
        count = piece.stop - piece.start
        for name, tensor in self._inputs.items():
            if tensor.free:
                self._put(tensor, on_host(arrays[name])[piece], count)
                if not self._context.set_input_shape(name, tensor.shaped(count)):
                    raise BackendError(f"{self._label}: it refuses {count} cells at once")
            elif first:
                self._put(tensor, arrays[name], count)
        if self._graph is None:
            self._enqueue()
        else:
            self._device.launch(self._graph, self._stream)
        kept: dict[str, Tensor] = {}
        for name, tensor in self._outputs.items():
            nbytes = tensor.nbytes(count)
            if name in keep and not tensor.free:
                leased = self._lease(tensor)
                kept[name] = leased
                self._device.copy_across(leased.pointer, tensor.pointer, nbytes, self._stream)
            else:
                self._device.copy_out(tensor.pinned, tensor.pointer, nbytes, self._stream)
        self._device.synchronise(self._stream)
        return {
            name: kept[name] if name in kept else np.array(tensor.host(count), np.float32)
            for name, tensor in self._outputs.items()
        }

    def _put(self, tensor: BoundTensor, value: Tensor, count: int) -> None:
        nbytes = tensor.nbytes(count)
        if isinstance(value, KeptTensor) and value.dtype == tensor.dtype:
            self._device.copy_across(tensor.pointer, value.pointer, nbytes, self._stream)
            return
        np.copyto(tensor.host(count), on_host(value), casting="same_kind")
        self._device.copy_in(tensor.pointer, tensor.pinned, nbytes, self._stream)

    def _lease(self, tensor: BoundTensor) -> KeptTensor:
        free = self._free[tensor.name]
        try:
            pointer = free.pop()
        except IndexError:
            # As many as there are looks at once; from then on they go round.
            what = f"kept tensor {tensor.name!r}"
            pointer = allocate(self._device, tensor.nbytes(1), self._owned, what)
        return KeptTensor(tensor, pointer, self._fetch, free.append)

    def _fetch(self, tensor: BoundTensor, pointer: int) -> Float32Array:
        """Copies a kept output to the host."""
        try:
            with self._lock:
                if self._alive is None:
                    raise BackendError(f"{self._label}: the backend is closed")
                with self._device.current():
                    nbytes = tensor.nbytes(1)
                    self._device.copy_out(tensor.pinned, pointer, nbytes, self._stream)
                    self._device.synchronise(self._stream)
                    return np.array(tensor.host(1), np.float32)
        except CudaError as error:
            raise BackendError(
                f"{self._label} on {self._device.name}: {tensor.name!r} cannot be copied: {error}"
            ) from error

    def _checked(self, arrays: Mapping[str, Tensor]) -> int:
        """The number of cells; 1 for an engine of fixed shapes."""
        if set(arrays) != set(self._inputs):
            raise BackendError(
                f"{self._label}: got inputs {sorted(arrays)}, the engine has {sorted(self._inputs)}"
            )
        counts = set()
        for name, tensor in self._inputs.items():
            shape = tuple(arrays[name].shape)
            if not fits(tensor.shape, shape):
                raise BackendError(
                    f"{self._label}: input {name!r} is {shape}, the engine takes {tensor.shape}"
                )
            if tensor.free:
                counts.add(shape[0])
        if len(counts) > 1:
            raise BackendError(f"{self._label}: inputs of {sorted(counts)} cells in one call")
        return counts.pop() if counts else 1


def _load(api: TensorRt, plan: bytes, logger: Any, label: str) -> Engine:
    runtime = api.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        said = why_not_loaded(api, runtime, plan, logger)
        raise BackendError(
            f"{label}: the engine does not load: {said}; run leukoscope engine build again"
        )
    return engine
