"""Machines drawn from files and tables: an Orin Nano, a Raspberry Pi 5, a PC with an RTX card.

The texts are in the forms that these boards and their tools use, after their documentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_runtime.backends import BackendRow
from edge_runtime.bundle import Bundle
from edge_runtime.device.doctor.machine import Machine
from edge_runtime.device.doctor.software import Gpu
from edge_runtime.errors import BackendError
from edge_runtime.settings import Settings

MEMORY = "MemTotal:        7990000 kB\nMemFree:          500000 kB\nMemAvailable:    6000000 kB\n"
PLENTY = 50_000_000_000
TODAY = datetime(2027, 1, 2, 3, 4, tzinfo=timezone.utc)


@dataclass
class DrawnSoftware:
    """Libraries as a table. ``why`` holds the reasons of backends that do not run."""

    versions: dict[str, str]
    why: dict[str, str]
    has: tuple[str, ...] = ("CPUExecutionProvider",)
    cuda: str | None = None
    card: Gpu | None = None
    release: str = "10.3.0"
    gstreamer: str | None = None
    refuses: str | None = None
    opened: list[str] = field(default_factory=list)

    def version(self, module: str) -> str | None:
        return self.versions.get(module)

    def providers(self) -> tuple[str, ...]:
        return self.has

    def why_not(self, row: BackendRow) -> str | None:
        return self.why.get(row.name)

    def cuda_of_driver(self) -> str | None:
        return self.cuda

    def gpu(self) -> Gpu:
        if self.card is None:
            raise BackendError("neither cuda-python nor PyCUDA is installed")
        return self.card

    def engine_library(self, row: BackendRow) -> str:
        return self.release

    def opencv_has_gstreamer(self) -> str | None:
        return self.gstreamer

    def open_models(self, bundle: Bundle, settings: Settings, row: BackendRow) -> str:
        if self.refuses is not None:
            raise BackendError(self.refuses)
        self.opened.append(row.name)
        return f"detector loaded on {row.name}"


GPU_BACKENDS = {
    "tensorrt": "tensorrt is not installed; JetPack brings it",
    "tensorrt-rtx": "tensorrt-rtx is not installed; pip install 'leukoscope[tensorrt-rtx]'",
    "onnxruntime-cuda": "onnxruntime here has no CUDAExecutionProvider; pip install it",
    "onnxruntime-tensorrt": "onnxruntime here has no TensorrtExecutionProvider; pip install it",
    "onnxruntime-nv-tensorrt-rtx": "no NvTensorRTRTXExecutionProvider; pip install it",
}


def without(*names: str) -> dict[str, str]:
    """Reasons of the GPU's backends, but for the named ones."""
    return {name: reason for name, reason in GPU_BACKENDS.items() if name not in names}


def draw(
    folder: Path,
    files: Mapping[str, str],
    commands: Mapping[str, str],
    *,
    processor: str,
    now: datetime = TODAY,
    **changes: Any,
) -> Machine:
    """Writes the files under ``folder``; ``commands`` are answers by whole command line."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(words: Sequence[str]) -> str | None:
        return commands.get(" ".join(words))

    parts: dict[str, Any] = {
        "root": folder,
        "run": run,
        "clock": lambda: now,
        "processor": processor,
        "free_bytes": lambda path: PLENTY,
        "may_use": lambda path: True,
    }
    return Machine(**(parts | changes))


def package(name: str, version: str) -> dict[str, str]:
    """What dpkg answers about an installed package."""
    query = f"dpkg-query -W -f=${{db:Status-Status}} ${{Version}} {name}"
    return {query: f"installed {version}"}


ORIN_FILES = {
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, "
    "EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
    "proc/meminfo": MEMORY,
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  "
    "540.4.0  Release Build  (buildbrain@mobile)\n",
    "usr/local/cuda/version.json": '{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.11"}}',
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51500\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "53250\n",
    "sys/class/thermal/thermal_zone1/trip_point_0_type": "active\n",
    "sys/class/thermal/thermal_zone1/trip_point_0_temp": "35000\n",
    "sys/class/thermal/thermal_zone1/trip_point_1_type": "passive\n",
    "sys/class/thermal/thermal_zone1/trip_point_1_temp": "99000\n",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
    "sys/class/rtc/rtc0/name": "nvvrs-pseq-rtc\n",
    "run/systemd/timesync/synchronized": "",
    "dev/video0": "",
    "sys/class/video4linux/video0/name": "vi-output, imx477 9-001a\n",
}
ORIN_COMMANDS = {
    **package("nvidia-jetpack", "6.2+b77"),
    **package("nvidia-l4t-core", "36.4.3-20250107174145"),
    **package("libnvinfer10", "10.3.0.30-1+cuda12.5"),
    **package("python3-libnvinfer", "10.3.0.30-1+cuda12.5"),
    "nvpmodel -q": "NV Power Mode: 25W\n1\n",
}
ORIN_GPU = Gpu("Orin", "8.7", "cuda-python 12.6.2", 5_000_000_000, 8_000_000_000)

PI_FILES = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/meminfo": MEMORY,
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "61200\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
    "sys/class/rtc/rtc0/name": "rpi_rtc\n",
    "dev/video0": "",
    "dev/video1": "",
    "dev/video19": "",
    "dev/video20": "",
    "sys/class/video4linux/video0/name": "HD USB Camera: HD USB Camera\n",
    "sys/class/video4linux/video1/name": "HD USB Camera: HD USB Camera\n",
    "sys/class/video4linux/video19/name": "rpi-hevc-dec\n",
    "sys/class/video4linux/video20/name": "pispbe-input\n",
}
PI_COMMANDS = {
    "vcgencmd get_throttled": "throttled=0x0\n",
    "rpicam-hello --list-cameras": "Available cameras\n-----------------\n"
    "0 : imx477 [4056x3040 12-bit RGGB] (/base/axi/pcie@1000120000/rp1/i2c@88000/imx477@1a)\n",
    "timedatectl show --property=NTPSynchronized --value": "yes\n",
    **package("python3-picamera2", "0.3.27-1"),
}

RTX_FILES = {
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\n',
    "sys/class/dmi/id/sys_vendor": "ASUS\n",
    "sys/class/dmi/id/product_name": "System Product Name\n",
    "proc/meminfo": MEMORY,
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  "
    "Tue Sep 23 10:11:16 UTC 2025\n",
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "0\n",
    "run/systemd/timesync/synchronized": "",
}
RTX_COMMANDS = {
    "nvidia-smi --query-gpu=clocks_throttle_reasons.active --format=csv,noheader": (
        "0x0000000000000001\n"
    ),
}
RTX_GPU = Gpu("NVIDIA GeForce RTX 4060", "8.9", "cuda-python 13.0.1", 7_000_000_000, 8_000_000_000)
