"""All engines of a bundle: which models, for which GPU, with which library.

Owns these choices, what is built again and what is not, and the records. Does not own how
one engine is built (see ``builder``) nor how it is kept (see ``cache``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime import device_buffers
from edge_runtime.bundle import Bundle, Precision
from edge_runtime.device_buffers import CudaDevice
from edge_runtime.engines.builder import CellCounts, build_plan
from edge_runtime.engines.cache import EngineCache, EngineIdentity, EngineRecord, platform_here
from edge_runtime.engines.layers import in_int8
from edge_runtime.engines.tensorrt_api import (
    FLAVOURS,
    Flavour,
    TensorRt,
    absent_reason,
    load_api,
)
from edge_runtime.errors import BackendError, BundleError


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """One engine that is there now.

    Attributes:
        path: the engine file.
        built: whether it was built by this call, rather than found.
    """

    record: EngineRecord
    path: Path
    built: bool


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """What engines are built with and for.

    Attributes:
        flavour: which library.
        api: the library.
        capabilities: compute capabilities, such as ``8.7``.
        gpu_here: whether the GPU of that capability is in this machine.
    """

    flavour: Flavour
    api: TensorRt
    capabilities: tuple[str, ...]
    gpu_here: bool


def installed_flavour() -> Flavour:
    """The library that engines are built with unless one is named: the first installed one.

    Raises:
        BackendError: none is installed; says what would be.
    """
    reasons = []
    for flavour in FLAVOURS:
        reason = absent_reason(flavour)
        if reason is None:
            return flavour
        reasons.append(reason)
    raise BackendError(f"no TensorRT here: {'; '.join(reasons)}")


def engine_target(
    flavour: Flavour | None = None,
    capabilities: Sequence[str] = (),
    *,
    api: TensorRt | None = None,
    device: CudaDevice | None = None,
) -> EngineTarget:
    """Library and GPU to build for.

    Args:
        flavour: which library; None means the first installed one.
        capabilities: of GPUs that need not be here; none means the GPU that is here.
        api: the library; None means the installed one.
        device: the GPU; None means the first one.

    Raises:
        BackendError: no such library or GPU is here, or the library builds for the GPU it
            runs on only.
    """
    flavour = installed_flavour() if flavour is None else flavour
    api = load_api(flavour) if api is None else api
    if capabilities:
        if not flavour.elsewhere:
            raise BackendError(
                f"{flavour.name} {api.__version__} builds for the GPU it runs on only; leave "
                f"compute capability {capabilities[0]} out and build on the device"
            )
        return EngineTarget(flavour, api, tuple(dict.fromkeys(capabilities)), gpu_here=False)
    try:
        device = device_buffers.open_device() if device is None else device
    except BackendError as error:
        if not flavour.elsewhere:
            raise
        raise BackendError(
            f"{error}; {flavour.name} also builds for a GPU elsewhere: name its --capability"
        ) from error
    return EngineTarget(flavour, api, (device.compute_capability,), gpu_here=True)


def build_for_bundle(
    bundle: Bundle,
    folder: Path,
    *,
    say: Callable[[str], None],
    target: EngineTarget | None = None,
    cells: CellCounts | None = None,
    precision: Precision | None = None,
) -> tuple[BuiltEngine, ...]:
    """An engine for every head of a bundle; those that are there and whole are kept.

    Args:
        bundle: verified.
        folder: where engines are kept; made when missing.
        say: is told one line for each head.
        target: library and GPU; None means those here.
        cells: the profile of the heads that look at single cells.
        precision: only artifacts of that precision; None means each head's first.

    Raises:
        BackendError: no TensorRT or GPU is here, or it refuses a model.
        BundleError: a head has no artifact for TensorRT.
        StoreError: the folder cannot be written.
    """
    heads = bundle.manifest.heads
    try:
        paths = [bundle.artifact_for("tensorrt", head, precision).path for head in heads]
    except BundleError as error:
        raise BundleError(
            f"{error}; export it with its TensorRT artifacts, or choose a backend that runs on "
            "the processor"
        ) from error
    target = engine_target() if target is None else target
    cache = EngineCache(folder)
    built = []
    for path in paths:
        engine = build_engine(
            cache, target, bundle.contents[path], artifact=path, cells=cells, say=say
        )
        record = engine.record
        done = f"built in {record.seconds:.1f} s" if engine.built else "already there"
        say(
            f"{path}: {done}, {record.size / 1e6:.1f} MB, {in_int8(record.convolutions)} "
            f"({record.layers_from}), for {', '.join(record.capabilities)} with "
            f"{record.flavour} {record.version}"
        )
        built.append(engine)
    return tuple(built)


def build_engine(
    cache: EngineCache,
    target: EngineTarget,
    model: bytes,
    *,
    artifact: str,
    cells: CellCounts | None = None,
    say: Callable[[str], None] = lambda line: None,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    clock: Callable[[], float] = time.perf_counter,
) -> BuiltEngine:
    """One engine: the one in the cache when it is whole, else a new one.

    Args:
        cache: where it is looked for and put.
        target: library and GPU.
        model: ONNX bytes.
        artifact: what to call the model.
        cells: the profile; None means the usual one.
        say: is told when an engine in the cache turns out altered.
        now: the time.
        clock: seconds.

    Raises:
        BackendError: the library refuses the model.
        StoreError: the folder cannot be written.
    """
    cells = CellCounts() if cells is None else cells
    identity = EngineIdentity(
        target.flavour.name,
        target.api.__version__,
        platform_here(),
        target.capabilities,
        hashlib.sha256(model).hexdigest(),
        cells,
    )
    found = cache.serving(identity)
    if found is not None:
        try:
            cache.load(found)
        except BackendError as error:
            say(f"{artifact}: built again, because {error}")
        else:
            return BuiltEngine(found, cache.folder / f"{found.key}.engine", built=False)
    times = f"{identity.flavour}-{identity.version}-{'+'.join(identity.capabilities)}"
    started = clock()
    plan = build_plan(
        target.api,
        target.flavour,
        model,
        cells=cells,
        capabilities=target.capabilities,
        gpu_here=target.gpu_here,
        timing_cache=cache.timing_cache(times),
    )
    record = EngineRecord(
        key=identity.key,
        flavour=identity.flavour,
        version=identity.version,
        platform=identity.platform,
        capabilities=identity.capabilities,
        artifact=artifact,
        artifact_sha256=identity.artifact_sha256,
        cells=(cells.minimum, cells.best, cells.maximum),
        sha256=hashlib.sha256(plan.content).hexdigest(),
        size=len(plan.content),
        built_at=now().isoformat(timespec="seconds"),
        seconds=clock() - started,
        strongly_typed=plan.strongly_typed,
        layers=plan.layers,
        layers_from=plan.layers_from,
        convolutions=plan.convolutions,
    )
    cache.store(record, plan.content)
    if plan.timing_cache:
        cache.store_timing_cache(times, plan.timing_cache)
    return BuiltEngine(record, cache.folder / f"{record.key}.engine", built=True)
