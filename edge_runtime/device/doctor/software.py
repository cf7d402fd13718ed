"""The libraries of this installation, as the doctor asks for them.

Owns the protocol, which tests fill with a drawn device's answers, and the real one. Slow
libraries are imported in the method that needs them.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Protocol

from edge_runtime.backends import BackendRow
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BackendError
from edge_runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU, as CUDA tells it.

    Attributes:
        capability: compute capability, such as ``8.7``.
        library: what speaks to CUDA.
        free, total: bytes of its memory.
    """

    name: str
    capability: str
    library: str
    free: int
    total: int


class Software(Protocol):
    """What can be asked of the libraries here. Whatever raises, raises LeukoscopeError."""

    def version(self, module: str) -> str | None:
        """Of an installed package, by import name; empty when untold, None when absent."""

    def providers(self) -> tuple[str, ...]:
        """Execution providers of ONNX Runtime, which must be there.

        Raises:
            BackendError: it does not load.
        """

    def why_not(self, row: BackendRow) -> str | None:
        """Why a backend does not run here, or None."""

    def cuda_of_driver(self) -> str | None:
        """The newest CUDA that the GPU driver runs, such as ``12.6``; None without a driver."""

    def gpu(self) -> Gpu:
        """The first GPU.

        Raises:
            BackendError: none can be reached; says why.
        """

    def engine_library(self, row: BackendRow) -> str:
        """Release of the library that runs a backend's engines.

        Raises:
            BackendError: it does not load.
        """

    def opencv_has_gstreamer(self) -> str | None:
        """The release of GStreamer that OpenCV was built with, or None.

        Raises:
            BackendError: OpenCV does not load.
        """

    def open_models(self, bundle: Bundle, settings: Settings, row: BackendRow) -> str:
        """Loads every model of a bundle as a film does, and says what runs them.

        Raises:
            LeukoscopeError: one does not load.
        """


class InstalledSoftware:
    """This installation."""

    def version(self, module: str) -> str | None:
        """From the package's metadata, without loading it."""
        if find_spec(module) is None:
            return None
        try:
            return metadata.version(module)
        except metadata.PackageNotFoundError:
            return ""

    def providers(self) -> tuple[str, ...]:
        """As ONNX Runtime says."""
        return tuple(_loaded("onnxruntime").get_available_providers())

    def why_not(self, row: BackendRow) -> str | None:
        """As the backend says."""
        try:
            reason: str | None = import_module(row.module).unsupported_reason()
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            # A half-installed library is what the doctor is asked about.
            return f"it does not load ({' '.join(str(error).split())}); install its library again"
        return reason

    def cuda_of_driver(self) -> str | None:
        """As the driver says; works without a GPU and starts nothing on one."""
        version = ctypes.c_int(0)
        try:
            if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
                return None
        except (OSError, AttributeError):
            return None
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def gpu(self) -> Gpu:
        """Through the library that the TensorRT backends use."""
        from edge_runtime import device_buffers

        device = device_buffers.open_device()
        try:
            with device.current():
                free, total = device.memory()
            return Gpu(device.name, device.compute_capability, device.library, free, total)
        except device_buffers.CudaError as error:
            raise BackendError(f"the GPU does not answer: {error}") from error

    def engine_library(self, row: BackendRow) -> str:
        """As the library says."""
        from edge_runtime.engines.tensorrt_api import flavour_named, load_api

        return str(load_api(flavour_named(row.name)).__version__)

    def opencv_has_gstreamer(self) -> str | None:
        """From OpenCV's own account of how it was built."""
        cv2 = _loaded("cv2")
        found = re.search(r"GStreamer:\s+YES\s*\(([^)]*)\)", str(cv2.getBuildInformation()))
        return None if found is None else found[1]

    def open_models(self, bundle: Bundle, settings: Settings, row: BackendRow) -> str:
        """With the very wiring of ``leukoscope run``."""
        from edge_runtime.film_run import load_bundle

        try:
            with load_bundle(bundle, settings, row=row) as loaded:
                record = loaded.record
                heads = ["detector", *loaded.head_records]
                return (
                    f"{', '.join(heads).replace('_', ' ')} loaded on {record.name} "
                    f"{record.version}, {record.precision}, {record.device}"
                )
        except ImportError as error:
            raise BackendError(f"a library does not load ({error}); install it again") from error


def _loaded(module: str) -> Any:
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise BackendError(f"{module} is here and does not load ({reason})") from error
