"""Collects the wheels of a device on a connected machine, for an installation without a network.

Owns which packages a target needs. pip downloads them, one by one and without their
dependencies: pip judges a dependency's conditions (Python release, processor) by the machine
it runs on, here they are judged by the target. Versions are those of ``constraints.txt``
where they fit. Needs ``packaging`` and pip; runs on any machine.

usage: python collect_wheels.py --target orin-nano --wheel LEUKOSCOPE.whl --out payload/wheels
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.parser import BytesParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
# The oldest tag that wheels carry, for glibc 2.5, is long gone; 2.17 is manylinux2014.
_OLDEST_GLIBC = 17


class CollectError(Exception):
    """A wheel cannot be had, or two packages want different releases of a third."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a device runs.

    Attributes:
        python: release, such as ``3.10``.
        processor: as ``uname -m`` says it.
        glibc: minor release of glibc 2.
        extras: of Leukoscope.
        also: further requirements.
    """

    python: str
    processor: str
    glibc: int
    extras: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """What conditions of dependencies are judged by."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.processor,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    @property
    def pip_flags(self) -> list[str]:
        """Tells pip to download for the target."""
        abi = "cp" + self.python.replace(".", "")
        tags = [f"manylinux_2_{minor}" for minor in range(self.glibc, _OLDEST_GLIBC - 1, -1)]
        tags += ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
        platforms = [flag for tag in tags for flag in ("--platform", f"{tag}_{self.processor}")]
        return [
            *("--only-binary=:all:", "--python-version", self.python, "--implementation", "cp"),
            *("--abi", abi, "--abi", "abi3", "--abi", "none"),
            *platforms,
        ]


# JetPack 6.2: Ubuntu 22.04, CUDA 12.6; its TensorRT comes with the system.
_JETPACK = Target("3.10", "aarch64", 35, also=("cuda-python==12.6.*",))
TARGETS: dict[str, Target] = {
    "orin-nano": _JETPACK,
    "orin-nx": _JETPACK,
    "agx-orin": _JETPACK,
    # Raspberry Pi OS 12; for its release 13 give --python 3.13 --glibc 41.
    "raspberry-pi-5": Target("3.11", "aarch64", 36),
    # Ubuntu 24.04, and a driver for CUDA 13.
    "x86-rtx": Target(
        "3.12", "x86_64", 39, extras=("tensorrt-rtx",), also=("cuda-python==13.0.*",)
    ),
}

# A requirement with its pinned version, to the wheel.
Download = Callable[[Requirement], Path]


def pins_for(lines: Iterable[str], target: Target) -> dict[str, str]:
    """Versions by name, of the lines of a constraints file that count on the target."""
    pins: dict[str, str] = {}
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(target.environment):
            (only,) = requirement.specifier
            pins[canonicalize_name(requirement.name)] = only.version
    return pins


def collect(
    own: Path,
    target: Target,
    pins: Mapping[str, str],
    download: Download,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Path]:
    """Leukoscope's wheel, all that it needs on the target, and pip.

    Args:
        own: Leukoscope's wheel.
        target: the device.
        pins: versions to take where they fit what is asked for.
        download: fetches one wheel.
        say: takes a line for each pin that does not fit.

    Returns:
        Wheels by name of their package.

    Raises:
        CollectError: two packages want different releases of a third.
    """
    name = canonicalize_name("leukoscope")
    wheels: dict[str, Path] = {name: own}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement("pip"), *map(Requirement, target.also)]
    waiting += _needs(own, target, ("", *target.extras), seen, name)
    while waiting:
        wanted = waiting.pop(0)
        key = canonicalize_name(wanted.name)
        if key == name:
            # An extra of its own that names another.
            waiting += _needs(own, target, tuple(wanted.extras), seen, name)
            continue
        if key not in wheels:
            wheels[key] = download(_pinned(wanted, pins.get(key), say))
        _, version, _, _ = parse_wheel_filename(wheels[key].name)
        if not wanted.specifier.contains(version, prereleases=True):
            raise CollectError(f"{key}: {version} is taken, and something wants {wanted}")
        waiting += _needs(wheels[key], target, ("", *wanted.extras), seen, key)
    return wheels


def _pinned(wanted: Requirement, pin: str | None, say: Callable[[str], None]) -> Requirement:
    if pin is None:
        return wanted
    if not wanted.specifier.contains(pin, prereleases=True):
        say(f"{wanted.name}: constraints.txt has {pin}, which does not fit {wanted}")
        return wanted
    return Requirement(f"{wanted.name}=={pin}")


def _needs(
    wheel: Path, target: Target, extras: Sequence[str], seen: set[tuple[str, str]], key: str
) -> list[Requirement]:
    """What a wheel needs on the target; each of its extras is answered once."""
    fresh = [extra for extra in extras if (key, extra) not in seen]
    seen.update((key, extra) for extra in fresh)
    with zipfile.ZipFile(wheel) as archive:
        entry = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = BytesParser().parsebytes(archive.read(entry))
    found = []
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        marker = requirement.marker
        for extra in fresh:
            if marker is None or marker.evaluate(target.environment | {"extra": extra}):
                found.append(requirement)
                break
    return found


def pip_download(target: Target, folder: Path) -> Download:
    """Downloads with pip, from the index that pip is set up with."""

    def download(requirement: Requirement) -> Path:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                    *("--disable-pip-version-check", "--dest", place),
                    *target.pip_flags,
                    str(requirement),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            found = list(Path(place).glob("*.whl"))
            if done.returncode != 0 or len(found) != 1:
                last = (done.stderr.strip() or "no wheel").splitlines()[-1]
                raise CollectError(
                    f"{requirement}: no wheel for Python {target.python} on {target.processor} "
                    f"with glibc 2.{target.glibc}: {last}"
                )
            return Path(shutil.move(found[0], folder / found[0].name))

    return download


def write_sums(folder: Path) -> None:
    """``SHA256SUMS`` of all wheels in a folder, for ``sha256sum --check``."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.glob("*.whl"))
    ]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _empty(folder: Path) -> Path:
    """A folder that is made when absent; another target's wheels must not be in it."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CollectError(f"{folder} is not empty; name a new folder")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 with one line."""
    parser = argparse.ArgumentParser(description="Collect the wheels of a device.")
    parser.add_argument("--target", required=True, choices=sorted(TARGETS))
    parser.add_argument("--wheel", required=True, type=Path, help="of Leukoscope")
    parser.add_argument("--out", required=True, type=Path, help="folder; new or empty")
    parser.add_argument("--constraints", type=Path, default=CONSTRAINTS)
    parser.add_argument("--python", help="release on the device, such as 3.11")
    parser.add_argument("--glibc", type=int, help="minor release of glibc 2 on the device")
    parser.add_argument("--extra", action="append", default=[], help="such as openvino")
    parser.add_argument("--also", action="append", default=[], help="a further requirement")
    given = parser.parse_args(arguments)
    known = TARGETS[given.target]
    target = replace(
        known,
        python=given.python or known.python,
        glibc=given.glibc or known.glibc,
        extras=(*known.extras, *given.extra),
        also=(*known.also, *given.also),
    )
    try:
        own = Path(shutil.copy(given.wheel, _empty(given.out)))
        pins = pins_for(given.constraints.read_text(encoding="utf-8").splitlines(), target)
        wheels = collect(own, target, pins, pip_download(target, given.out), say=print)
    except (CollectError, OSError, zipfile.BadZipFile) as error:
        print(f"collect_wheels: {error}", file=sys.stderr)
        return 2
    write_sums(given.out)
    size = sum(path.stat().st_size for path in wheels.values())
    print(f"{len(wheels)} wheels, {size / 1e6:.0f} MB, in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
