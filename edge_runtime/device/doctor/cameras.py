"""Rows on cameras: video devices, libcamera, GStreamer.

Owns telling a camera from a codec, and what a missing piece is installed with. Does not own
reading a camera (see ``edge_runtime.cameras``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_runtime.cameras import CAMERAS
from edge_runtime.device.doctor.machine import Machine
from edge_runtime.device.doctor.rows import DoctorRow
from edge_runtime.device.doctor.software import Software
from edge_runtime.errors import LeukoscopeError

# Video devices that are decoders, scalers and parts of a sensor's path.
_NO_CAMERAS = re.compile(r"codec|-isp|pispbe|hevc|rpivid|rp1-cfe|unicam|-dec|-enc", re.IGNORECASE)
_LIBCAMERA_TOOLS = ("rpicam-hello", "libcamera-hello")


def camera_rows(machine: Machine, software: Software) -> Iterator[DoctorRow]:
    """Rows on cameras; none of them stops a film, which may come from a folder."""
    yield _video(machine)
    if machine.is_raspberry_pi:
        yield _libcamera(machine)
        yield _picamera2(machine, software)
    yield _gstreamer(machine, software)
    # Said, so that a camera that is found here is not taken for one that can be read.
    yield DoctorRow("sources of a film", "; ".join(row.help for row in CAMERAS))


def _video(machine: Machine) -> DoctorRow:
    nodes: dict[str, list[str]] = {}
    locked = []
    for path in machine.matching("dev/video[0-9]*"):
        node = path.rpartition("/")[2]
        name = machine.text(f"sys/class/video4linux/{node}/name") or "unnamed"
        if _NO_CAMERAS.search(name):
            continue
        nodes.setdefault(name, []).append(f"/{path}")
        if not machine.may_use(machine.root / path):
            locked.append(f"/{path}")
    if not nodes:
        return DoctorRow(
            "cameras", "no video device of a camera", "missing",
            "plug a USB camera in; a film may also come from a folder of images",
        )  # fmt: skip
    said = "; ".join(f"{name} ({', '.join(paths)})" for name, paths in nodes.items())
    if locked:
        return DoctorRow(
            "cameras", f"{said}; this user may not open {', '.join(locked)}", "attention",
            "sudo usermod -aG video USER, then log in again",
        )  # fmt: skip
    return DoctorRow("cameras", said)


def _libcamera(machine: Machine) -> DoctorRow:
    for tool in _LIBCAMERA_TOOLS:
        said = machine.run([tool, "--list-cameras"])
        if said is None:
            continue
        sensors = re.findall(r"^\s*\d+\s*:\s*(\S+\s*\[[^\]]*\])", said, re.MULTILINE)
        if sensors:
            return DoctorRow("libcamera", ", ".join(sensors))
        return DoctorRow(
            "libcamera", f"{tool} finds no camera", "missing",
            "see that the ribbon cable sits right, with the power off",
        )  # fmt: skip
    return DoctorRow("libcamera", "not installed", "missing", "sudo apt-get install rpicam-apps")


def _picamera2(machine: Machine, software: Software) -> DoctorRow:
    version = software.version("picamera2")
    if version is not None:
        return DoctorRow("picamera2", version or "installed")
    system = machine.package("python3-picamera2")
    if system is not None:
        return DoctorRow(
            "picamera2", f"system {system}, which this Python does not see", "attention",
            "make the Python environment with --system-site-packages",
        )  # fmt: skip
    return DoctorRow(
        "picamera2", "not installed", "missing", "sudo apt-get install python3-picamera2"
    )


def _gstreamer(machine: Machine, software: Software) -> DoctorRow:
    try:
        version = software.opencv_has_gstreamer()
    except LeukoscopeError as error:
        return DoctorRow(
            "OpenCV", str(error), "missing",
            "pip install --force-reinstall opencv-python-headless", stops=True,
        )  # fmt: skip
    if version is not None:
        return DoctorRow("GStreamer in OpenCV", version)
    if not machine.is_jetson:
        return DoctorRow("GStreamer in OpenCV", "no; cameras on a Jetson's ribbon cable need it")
    return DoctorRow(
        "GStreamer in OpenCV",
        "no: a camera on the ribbon cable cannot be read through this OpenCV",
        "attention",
        "pip uninstall opencv-python-headless in an environment with --system-site-packages, so "
        "that JetPack's own OpenCV is found",
    )
