"""Rows on the board: system, JetPack, memory, temperature, throttling, clock.

Owns the meaning of what the kernel, the firmware and the packages say. Does not own the GPU
(see ``gpu``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import date

from edge_runtime.device.doctor.machine import Machine
from edge_runtime.device.doctor.rows import DoctorRow, gigabytes

# A film on the shipped bundle took 380 MB with four threads (x86-64); large pictures take more.
_SPARE_MEMORY_BYTES = 768 * 1024 * 1024
# No clock before the day this was written is right.
_WRITTEN = date(2026, 11, 1)
_BEYOND = date(2100, 1, 1)

# Of ``vcgencmd get_throttled``; bits 16 to 19 say the same of the time since the start.
_PI_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "temperature limit"}
_PI_SINCE_START = 16
# Of NVIDIA's management library: only those that mean heat or a weak supply.
_NVIDIA_SLOW = {
    0x8: "slowed by hardware",
    0x20: "slowed by heat",
    0x40: "slowed by heat (hardware)",
    0x80: "slowed by the power supply",
}
_COOLER = "better cooling: fan, heat sink, free air"
_SUPPLY = "a power supply that gives what the board asks for"


def board_rows(machine: Machine) -> Iterator[DoctorRow]:
    """Rows on everything but GPU, libraries and bundles."""
    yield _system(machine)
    board = machine.board
    yield DoctorRow("board", board or "it does not say")
    if machine.is_jetson:
        yield _jetpack(machine)
        yield _power_mode(machine)
    yield _memory(machine)
    yield _temperature(machine)
    yield _throttling(machine)
    yield _clock(machine)


def _system(machine: Machine) -> DoctorRow:
    release = os_release(machine)
    kernel = machine.text("proc/sys/kernel/osrelease")
    parts = [release.get("PRETTY_NAME", "unknown system"), machine.processor]
    if kernel:
        parts.append(f"Linux {kernel}")
    return DoctorRow("system", ", ".join(parts))


def os_release(machine: Machine) -> dict[str, str]:
    """``/etc/os-release`` as a table."""
    found = {}
    for line in (machine.text("etc/os-release") or "").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            try:
                found[key.strip()] = " ".join(shlex.split(value))
            except ValueError:
                continue
    return found


def _jetpack(machine: Machine) -> DoctorRow:
    line = machine.text("etc/nv_tegra_release") or ""
    told = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", line)
    core = machine.package("nvidia-l4t-core")
    l4t = f"{told[1]}.{told[2]}" if told else core
    jetpack = machine.package("nvidia-jetpack")
    if l4t is None:
        return DoctorRow(
            "JetPack", "neither /etc/nv_tegra_release nor nvidia-l4t-core is here", "missing",
            "flash the board with JetPack 6.2 or newer",
        )  # fmt: skip
    if jetpack is None:
        return DoctorRow(
            "JetPack", f"L4T {l4t}; the package nvidia-jetpack is not installed", "attention",
            "sudo apt-get install nvidia-jetpack (brings CUDA and TensorRT)",
        )  # fmt: skip
    # L4T 36 is JetPack 6, the first with Python 3.10.
    if int(l4t.split(".", maxsplit=1)[0]) < 36:
        return DoctorRow(
            "JetPack", f"{jetpack} (L4T {l4t}): its Python is older than 3.10", "attention",
            "flash the board with JetPack 6.2 or newer",
        )  # fmt: skip
    return DoctorRow("JetPack", f"{jetpack} (L4T {l4t})")


def _power_mode(machine: Machine) -> DoctorRow:
    said = machine.run(["nvpmodel", "-q"]) or ""
    mode = re.search(r"NV Power Mode:\s*(\S+)", said)
    if mode is None:
        return DoctorRow("power mode", "nvpmodel does not say")
    return DoctorRow("power mode", f"{mode[1]} (others: see `sudo nvpmodel -p --verbose`)")


def _memory(machine: Machine) -> DoctorRow:
    sizes = dict(
        re.findall(r"^(\w+):\s+(\d+) kB", machine.text("proc/meminfo") or "", re.MULTILINE)
    )
    if "MemTotal" not in sizes or "MemAvailable" not in sizes:
        return DoctorRow("memory", "/proc/meminfo does not say", "attention")
    free, total = (int(sizes[name]) * 1024 for name in ("MemAvailable", "MemTotal"))
    said = f"{gigabytes(free)} of {gigabytes(total)} available"
    if free < _SPARE_MEMORY_BYTES:
        return DoctorRow("memory", said, "attention", "end other programs, such as a desktop")
    return DoctorRow("memory", said)


def _temperature(machine: Machine) -> DoctorRow:
    """The hottest zone, and whether one is where the kernel starts to slow down."""
    hottest: tuple[int, str] | None = None
    over = []
    for zone in machine.matching("sys/class/thermal/thermal_zone*"):
        heat = machine.number(f"{zone}/temp")
        if heat is None:
            continue
        name = machine.text(f"{zone}/type") or zone.rpartition("/")[2]
        hottest = max(hottest or (heat, name), (heat, name))
        limit = _slowing_at(machine, zone)
        if limit is not None and heat >= limit:
            over.append(f"{name} {heat / 1000:.0f} °C, slows down from {limit / 1000:.0f} °C")
    if hottest is None:
        return DoctorRow("temperature", "no sensor tells it")
    if over:
        return DoctorRow("temperature", "; ".join(over), "attention", _COOLER)
    return DoctorRow("temperature", f"{hottest[0] / 1000:.0f} °C ({hottest[1]})")


def _slowing_at(machine: Machine, zone: str) -> int | None:
    """The lowest trip point that slows something down; fans have ``active`` ones."""
    limits = []
    for trip in machine.matching(f"{zone}/trip_point_*_type"):
        if machine.text(trip) in ("passive", "hot", "critical"):
            limit = machine.number(trip.removesuffix("_type") + "_temp")
            # Zero and below stand for a point that is not set.
            if limit is not None and limit > 0:
                limits.append(limit)
    return min(limits, default=None)


def _throttling(machine: Machine) -> DoctorRow:
    now: list[str] = []
    before: list[str] = []
    told = False
    if machine.is_raspberry_pi:
        bits = re.search(
            r"throttled=0x([0-9a-fA-F]+)", machine.run(["vcgencmd", "get_throttled"]) or ""
        )
        if bits is not None:
            told, mask = True, int(bits[1], 16)
            now += [name for bit, name in _PI_NOW.items() if mask >> bit & 1]
            before += [name for bit, name in _PI_NOW.items() if mask >> (bit + _PI_SINCE_START) & 1]
    for folder in machine.matching("sys/class/hwmon/hwmon*"):
        for path in machine.matching(f"{folder}/oc*_event_cnt"):
            told = True
            if machine.number(path):
                before.append("over-current")
        if machine.text(f"{folder}/name") == "rpi_volt":
            told = True
            if machine.number(f"{folder}/in0_lcrit_alarm"):
                now.append("under-voltage")
    for path in machine.matching(
        "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
    ):
        told = True
        if machine.number(path):
            before.append("processor slowed by heat")
    reasons = machine.run(
        ["nvidia-smi", "--query-gpu=clocks_throttle_reasons.active", "--format=csv,noheader"]
    )
    mask_of_gpu = re.search(r"0x([0-9a-fA-F]+)", reasons or "")
    if mask_of_gpu is not None:
        told = True
        now += [
            f"GPU {name}" for bit, name in _NVIDIA_SLOW.items() if int(mask_of_gpu[1], 16) & bit
        ]
    if not told:
        return DoctorRow("throttling", "nothing tells it here")
    if not now and not before:
        return DoctorRow("throttling", "none since the start")
    said = [f"now: {', '.join(dict.fromkeys(now))}"] if now else []
    said += [f"since the start: {', '.join(dict.fromkeys(before))}"] if before else []
    weak = any("volt" in each or "current" in each or "supply" in each for each in now + before)
    return DoctorRow("throttling", "; ".join(said), "attention", _SUPPLY if weak else _COOLER)


def _clock(machine: Machine) -> DoctorRow:
    now = machine.clock()
    said = now.strftime("%Y-%m-%d %H:%M UTC")
    if not _WRITTEN <= now.date() < _BEYOND:
        return DoctorRow(
            "clock", f"{said}: not a plausible date; keys have days and will not count",
            "attention", "sudo timedatectl set-ntp true, or sudo date -u -s 'YYYY-MM-DD HH:MM'",
        )  # fmt: skip
    told = machine.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    synchronised = (
        machine.there("run/systemd/timesync/synchronized") or (told or "").strip() == "yes"
    )
    battery = "hardware clock" if machine.there("sys/class/rtc/rtc0") else "no hardware clock"
    if not synchronised:
        return DoctorRow(
            "clock", f"{said}, not synchronised, {battery}", "attention",
            "sudo timedatectl set-ntp true; without a network, compare it with a watch",
        )  # fmt: skip
    return DoctorRow("clock", f"{said}, synchronised, {battery}")
