"""Devices nobody here has: their published peaks, and published times of known networks on them.

Owns these numbers and where each comes from. Does not own what is made of them (see ``roofline``).
Peaks are dense (vendors' headline figures of sparse matrices are halved); one multiply-accumulate
is two operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Precision = Literal["float32", "float16", "int8"]

_SUPER = "NVIDIA technical blog, Jetson Orin Nano Developer Kit Gets a Super Boost (December 2024)"
_TENSOR_CORE = (
    "per tensor core and clock of this generation 512 float16 and 1024 int8 operations, which "
    "gives the 17 and 33 that NVIDIA states for the Orin Nano Super"
)
_GUIDE = "Ultralytics documentation, guides/{}, YOLO11 at 640 px, batch 1, {}"


@dataclass(frozen=True, slots=True)
class Device:
    """One device at its highest power mode.

    Attributes:
        operations: peak operations a second by precision.
        bytes_per_s: peak memory bandwidth.
        floats: precision of what is not int8.
        family: devices that share fitted factors.
        sources: where the peaks come from, and what was derived.
    """

    name: str
    title: str
    family: str
    operations: Mapping[Precision, float]
    bytes_per_s: float
    floats: Precision
    sources: tuple[str, ...]


def _gpu(float16: float, int8: float) -> Mapping[Precision, float]:
    return MappingProxyType({"float16": float16, "int8": int8})


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        each.name: each
        for each in (
            Device(
                "orin-nano-super",
                "Jetson Orin Nano 8 GB, Super mode",
                "jetson",
                _gpu(17e12, 33e12),
                102e9,
                "float16",
                (f"{_SUPER}: 17 FP16 TFLOPS, 33 dense INT8 TOPS, 102 GB/s",),
            ),
            Device(
                "orin-nano",
                "Jetson Orin Nano 8 GB, 15 W",
                "jetson",
                _gpu(10e12, 20e12),
                68e9,
                "float16",
                (f"{_SUPER}: 10 FP16 TFLOPS, 20 dense INT8 TOPS, 68 GB/s",),
            ),
            Device(
                "orin-nx",
                "Jetson Orin NX 16 GB, 25 W",
                "jetson",
                _gpu(32 * 512 * 918e6, 32 * 1024 * 918e6),
                102.4e9,
                "float16",
                (
                    "NVIDIA Jetson Orin NX series data sheet: 32 tensor cores, 918 MHz, 102.4 GB/s",
                    f"derived: {_TENSOR_CORE}; its two DLAs are left out",
                ),
            ),
            Device(
                "agx-orin",
                "Jetson AGX Orin 64 GB, MAXN",
                "jetson",
                _gpu(171e12 / 4, 171e12 / 2),
                204.8e9,
                "float16",
                (
                    "NVIDIA Deep-Learning-Accelerator-SW, table of power modes: 171 sparse INT8 "
                    "TOPS of the GPU; its two DLAs are left out",
                    "NVIDIA Jetson AGX Orin series data sheet: 204.8 GB/s",
                ),
            ),
            Device(
                "t4",
                "NVIDIA T4",
                "card",
                _gpu(65e12, 130e12),
                320e9,
                "float16",
                ("NVIDIA T4 data sheet: 65 FP16 TFLOPS, 130 INT8 TOPS, 320 GB/s",),
            ),
            Device(
                "rtx-3060",
                "GeForce RTX 3060 12 GB",
                "card",
                _gpu(51e12, 102e12),
                360e9,
                "float16",
                (
                    "NVIDIA GeForce RTX 3060 product page: 101 sparse tensor TFLOPS, 112 tensor "
                    "cores, 1.78 GHz, 360 GB/s; halved. With FP32 accumulation half of it again",
                ),
            ),
            Device(
                "rtx-4060",
                "GeForce RTX 4060 8 GB",
                "card",
                _gpu(60.5e12, 121e12),
                272e9,
                "float16",
                (
                    "NVIDIA GeForce RTX 4060 product page: 242 sparse AI TOPS, 272 GB/s; halved. "
                    "With FP32 accumulation half of it again",
                ),
            ),
            Device(
                "raspberry-pi-5",
                "Raspberry Pi 5, four cores",
                "pi",
                MappingProxyType({"float32": 4 * 16 * 2.4e9, "int8": 4 * 64 * 2.4e9}),
                17.1e9,
                "float32",
                (
                    "Raspberry Pi 5 product brief: four Cortex-A76 at 2.4 GHz, 32-bit LPDDR4X-4267",
                    "derived: two 128-bit pipes a core (Arm Cortex-A76 software optimisation "
                    "guide), 16 float32 or 64 int8 operations a clock",
                ),
            ),
        )
    }
)


@dataclass(frozen=True, slots=True)
class PublishedTimes:
    """Measured times of known networks on one device.

    Attributes:
        device: name in ``DEVICES``.
        precision: all convolutions', as stated.
        runtime: what ran them.
        milliseconds: by network.
        fits: whether factors are fitted to them; otherwise they only check.
    """

    device: str
    precision: Precision
    runtime: str
    milliseconds: Mapping[str, float]
    source: str
    fits: bool


def _yolo11(*milliseconds: float) -> Mapping[str, float]:
    names = ("yolo11n", "yolo11s", "yolo11m", "yolo11l", "yolo11x")
    return MappingProxyType(dict(zip(names, milliseconds, strict=False)))


PUBLISHED: tuple[PublishedTimes, ...] = (
    PublishedTimes(
        "orin-nano-super",
        "float16",
        "TensorRT",
        _yolo11(4.91, 7.30, 13.99, 17.57, 32.94),
        _GUIDE.format("nvidia-jetson", "Jetson Orin Nano Super Developer Kit"),
        fits=True,
    ),
    PublishedTimes(
        "orin-nano-super",
        "int8",
        "TensorRT",
        _yolo11(3.91, 5.25, 9.58, 12.37, 20.72),
        _GUIDE.format("nvidia-jetson", "Jetson Orin Nano Super Developer Kit"),
        fits=True,
    ),
    PublishedTimes(
        "orin-nx",
        "float16",
        "TensorRT",
        _yolo11(4.85, 7.55, 14.45, 18.53, 35.99),
        _GUIDE.format("nvidia-jetson", "Jetson Orin NX 16GB"),
        fits=False,
    ),
    PublishedTimes(
        "orin-nx",
        "int8",
        "TensorRT",
        _yolo11(4.37, 5.63, 10.19, 13.36, 22.32),
        _GUIDE.format("nvidia-jetson", "Jetson Orin NX 16GB"),
        fits=False,
    ),
    PublishedTimes(
        "t4",
        "float16",
        "TensorRT",
        _yolo11(1.5, 2.5, 4.7, 6.2, 11.3),
        "Ultralytics README, table of YOLO11 detection, T4 TensorRT10",
        fits=True,
    ),
    PublishedTimes(
        "raspberry-pi-5",
        "float32",
        "ONNX Runtime",
        _yolo11(168.082, 324.17),
        _GUIDE.format("raspberry-pi", "Raspberry Pi 5"),
        fits=True,
    ),
)
