"""Rows on an NVIDIA GPU: driver, CUDA, GPU, TensorRT.

Owns which of them matter for the wished backend and what brings them. Does not own engines
(see ``installed``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_runtime.backends import BackendRow
from edge_runtime.device.doctor.board import os_release
from edge_runtime.device.doctor.machine import Machine
from edge_runtime.device.doctor.rows import DoctorRow, gigabytes
from edge_runtime.device.doctor.software import Gpu, Software
from edge_runtime.errors import LeukoscopeError

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
# On Debian's side; the Python module is another package.
_TENSORRT_PACKAGES = ("libnvinfer10", "libnvinfer8", "tensorrt")
_OWN_ENVIRONMENT = (
    "make the Python environment with --system-site-packages, which provisioning/first-boot.sh "
    "does on a Jetson"
)


def gpu_rows(machine: Machine, software: Software, wished: BackendRow) -> Iterator[DoctorRow]:
    """Rows on the GPU; one line where there is none and none is wished."""
    needed = wished.runtime == "tensorrt"
    driver = _driver(machine)
    cuda = software.cuda_of_driver()
    card = machine.is_jetson or _has_card(machine)
    if not card and driver is None and cuda is None:
        yield DoctorRow(
            "GPU", "no NVIDIA GPU here", "missing" if needed else "good",
            f"choose a backend of the processor; {wished.name} needs an NVIDIA GPU"
            if needed else None,
            stops=needed,
        )  # fmt: skip
        return
    if cuda is None:
        yield DoctorRow(
            "CUDA driver",
            f"{driver or 'none'}; libcuda.so.1 does not load",
            "missing", _driver_remedy(machine), stops=needed,
        )  # fmt: skip
    else:
        yield DoctorRow("CUDA driver", f"{driver or 'release not told'}, for CUDA up to {cuda}")
        yield _gpu(software, needed=needed, cuda=cuda)
    yield _toolkit(machine)
    yield _tensorrt(machine, software, wished)


def _driver(machine: Machine) -> str | None:
    told = re.search(
        r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s",
        machine.text("proc/driver/nvidia/version") or "",
    )
    return None if told is None else told[1]


def _has_card(machine: Machine) -> bool:
    return any(
        machine.text(path) == _NVIDIA_VENDOR
        and (machine.text(path.replace("/vendor", "/class")) or "").startswith(_DISPLAY_CLASS)
        for path in machine.matching("sys/bus/pci/devices/*/vendor")
    )


def _driver_remedy(machine: Machine) -> str:
    if machine.is_jetson:
        return "flash the board with JetPack, or sudo apt-get install nvidia-l4t-cuda"
    if os_release(machine).get("ID") == "ubuntu":
        return "sudo ubuntu-drivers install"
    return "sudo apt-get install nvidia-driver (Debian's non-free), then restart"


def _gpu(software: Software, *, needed: bool, cuda: str) -> DoctorRow:
    try:
        gpu: Gpu = software.gpu()
    except LeukoscopeError as error:
        major = cuda.split(".", maxsplit=1)[0]
        return DoctorRow(
            "GPU", str(error), "missing" if needed else "attention",
            f"pip install 'cuda-python=={major}.*'", stops=needed,
        )  # fmt: skip
    return DoctorRow(
        "GPU",
        f"{gpu.name}, compute capability {gpu.capability}, {gigabytes(gpu.free)} of "
        f"{gigabytes(gpu.total)} free, through {gpu.library}",
    )


def _toolkit(machine: Machine) -> DoctorRow:
    text = machine.text("usr/local/cuda/version.json") or ""
    told = re.search(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([^"]+)"', text)
    # Wheels bring what they need of it.
    return DoctorRow("CUDA toolkit", told[1] if told else "none, none needed")


def _tensorrt(machine: Machine, software: Software, wished: BackendRow) -> DoctorRow:
    found = []
    for flavour, modules in (
        ("tensorrt", ("tensorrt",)),
        ("tensorrt-rtx", ("tensorrt_rtx", "tensorrt_rtx_bindings")),
    ):
        for module in modules:
            version = software.version(module)
            if version is not None:
                found.append(f"{flavour} {version or '(release not told)'}")
                break
    packages = {name: machine.package(name) for name in _TENSORRT_PACKAGES}
    system = next((f"{name} {version}" for name, version in packages.items() if version), None)
    if found:
        return DoctorRow("TensorRT", ", ".join(found) + (f"; system {system}" if system else ""))
    needed = wished.runs_engines
    if system is None:
        return DoctorRow(
            "TensorRT", "not installed", "missing" if needed else "good",
            _tensorrt_remedy(machine, wished) if needed else None, stops=needed,
        )  # fmt: skip
    bound = machine.package("python3-libnvinfer")
    return DoctorRow(
        "TensorRT",
        f"system {system}, which this Python does not see",
        "missing" if needed else "attention",
        _OWN_ENVIRONMENT
        if bound
        else "sudo apt-get install python3-libnvinfer, then " + _OWN_ENVIRONMENT,
        stops=needed,
    )


def _tensorrt_remedy(machine: Machine, wished: BackendRow) -> str:
    if machine.is_jetson:
        return "sudo apt-get install nvidia-jetpack"
    if wished.extra is not None:
        return f"pip install 'leukoscope[{wished.extra}]'"
    return "pip install tensorrt"
