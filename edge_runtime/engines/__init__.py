"""TensorRT engines: built on the device out of a bundle's ONNX, kept, checked, looked into.

What others use is here; the parts are in the modules. Building needs a TensorRT; looking
at what was built needs none.
"""

from __future__ import annotations

from edge_runtime.engines.cache import EngineCache, EngineRecord, default_folder
from edge_runtime.engines.for_bundle import (
    BuiltEngine,
    build_engine,
    build_for_bundle,
    engine_target,
)
from edge_runtime.engines.tensorrt_api import flavour_named

__all__ = [
    "BuiltEngine",
    "EngineCache",
    "EngineRecord",
    "build_engine",
    "build_for_bundle",
    "default_folder",
    "engine_target",
    "flavour_named",
]
