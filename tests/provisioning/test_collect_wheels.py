"""Which wheels a target needs is judged by the target, not by the machine that collects."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement


@pytest.fixture(scope="module")
def collecting(request: pytest.FixtureRequest) -> Any:
    path = request.config.rootpath / "provisioning" / "collect_wheels.py"
    spec = importlib.util.spec_from_file_location("collect_wheels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["collect_wheels"] = module
    spec.loader.exec_module(module)
    return module


def wheel(folder: Path, name: str, version: str, needs: Sequence[str] = ()) -> Path:
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in needs)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\n")
    return path


class Index:
    """An index of drawn wheels that notes what is asked of it."""

    def __init__(self, folder: Path, **needs: Sequence[str]) -> None:
        self.folder, self.needs, self.asked = folder, needs, list[str]()

    def __call__(self, requirement: Requirement) -> Path:
        self.asked.append(str(requirement))
        pinned = [each.version for each in requirement.specifier if each.operator == "=="]
        version = pinned[0].replace(".*", ".5") if pinned else "9.0"
        return wheel(self.folder, requirement.name, version, self.needs.get(requirement.name, ()))


OWN = [
    "numpy>=2",
    "tomli>=2; python_version < '3.11'",
    "libs>=1; extra == 'rtx' and platform_machine == 'x86_64'",
]


def test_conditions_are_those_of_the_target(collecting: Any, tmp_path: Path) -> None:
    own = wheel(tmp_path, "leukoscope", "0.1.0", OWN)
    lines = [
        "# exact",
        "numpy==2.4 ; python_version >= '3.11'",
        "numpy==2.2 ; python_version < '3.11'",
    ]
    found = {}
    for python, processor in (("3.10", "aarch64"), ("3.12", "x86_64")):
        target = collecting.Target(python, processor, 35, extras=("rtx",))
        index = Index(tmp_path, numpy=["deep; python_version < '3.11'"])
        wheels = collecting.collect(own, target, collecting.pins_for(lines, target), index)
        found[python] = sorted(wheels)
        assert ("numpy==2.2" if python == "3.10" else "numpy==2.4") in index.asked
    assert found["3.10"] == ["deep", "leukoscope", "numpy", "pip", "tomli"]
    assert found["3.12"] == ["leukoscope", "libs", "numpy", "pip"]


def test_a_pin_that_does_not_fit_gives_way_and_is_told(collecting: Any, tmp_path: Path) -> None:
    own = wheel(tmp_path, "leukoscope", "0.1.0")
    target = collecting.Target("3.10", "aarch64", 35, also=("cuda-python==12.6.*",))
    said: list[str] = []
    index = Index(tmp_path)
    collecting.collect(own, target, {"cuda-python": "13.5.0"}, index, say=said.append)
    assert "cuda-python==12.6.*" in index.asked
    assert said == [
        "cuda-python: constraints.txt has 13.5.0, which does not fit cuda-python==12.6.*"
    ]


def test_two_that_want_different_releases_are_refused(collecting: Any, tmp_path: Path) -> None:
    own = wheel(tmp_path, "leukoscope", "0.1.0", ["a", "b==1.0"])
    index = Index(tmp_path, a=["b==2.0"])
    with pytest.raises(collecting.CollectError, match=r"b: 1\.0 is taken, and something wants"):
        collecting.collect(own, collecting.Target("3.11", "x86_64", 36), {}, index)


def test_an_extra_asked_for_later_is_answered(collecting: Any, tmp_path: Path) -> None:
    own = wheel(
        tmp_path,
        "leukoscope",
        "0.1.0",
        ["a", "c", "leukoscope[more]; extra == 'all'", "d; extra == 'more'"],
    )
    index = Index(tmp_path, a=["e; extra == 'fast'"], c=["a[fast]"])
    target = collecting.Target("3.11", "x86_64", 36, extras=("all",))
    wheels = collecting.collect(own, target, {}, index)
    assert sorted(wheels) == ["a", "c", "d", "e", "leukoscope", "pip"]
    assert len(index.asked) == len(set(index.asked)) == 5


def test_every_profile_has_a_target(collecting: Any, repository: Path) -> None:
    profiles = {path.stem for path in (repository / "provisioning/profiles").iterdir()}
    assert set(collecting.TARGETS) == profiles
    flags = collecting.TARGETS["orin-nano"].pip_flags
    assert "manylinux_2_35_aarch64" in flags
    assert "manylinux_2_36_aarch64" not in flags
    assert "cp310" in flags
