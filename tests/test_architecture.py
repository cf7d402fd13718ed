"""The house rules that a reader relies on and a tool can check.

import-linter holds the direction of imports; here is what it cannot see: what really gets
loaded, what the base install really carries, and how long files have become.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = ("edge_runtime", "calibration", "export", "train", "benchmarks")
TRAINING_FRAMEWORKS = {"torch", "torchvision", "ultralytics"}

# Import name -> distribution, where the two differ.
DISTRIBUTION_OF = {
    "cv2": "opencv-python-headless",
    "argon2": "argon2-cffi",
    "fhir": "fhir.resources",
    "fpdf": "fpdf2",
    "fontTools": "fonttools",
    "PIL": "pillow",
}
# What only a clinic's device has, and where alone it may be imported.
CLINIC_FOLDERS = (
    "edge_runtime/clinic/store/",
    "edge_runtime/clinic/exports/",
    "edge_runtime/clinic/web/",
    "edge_runtime/clinic/paper/",
    "edge_runtime/clinic/film_pdf.py",
    "edge_runtime/serve_cli.py",
)

# Imports every module of one package in a fresh interpreter and reports what that loaded.
# An optional backend's own library may be absent; anything else missing is an error.
LOAD_EVERYTHING = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [package.__name__]
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if found.name.endswith(".__main__"):
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
    names.append(found.name)
roots = sorted({name.partition(".")[0] for name in sys.modules})
json.dump({"imported": names, "loaded": roots}, sys.stdout)
"""


def _sources(repository: Path, package: str) -> Iterator[Path]:
    return (path for path in sorted((repository / package).rglob("*.py")))


def _imported_roots(source: Path) -> set[str]:
    """Top-level names that a file imports anywhere, inside functions included."""
    roots: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


def _project_table(repository: Path) -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads(
        (repository / "pyproject.toml").read_text(encoding="utf-8")
    )
    table: dict[str, Any] = document["project"]
    return table


def _constraint_lines(repository: Path) -> list[str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("package", ["edge_runtime", "calibration"])
def test_importing_the_device_side_loads_no_training_framework(
    repository: Path, package: str
) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", LOAD_EVERYTHING, package],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    on_disk = {
        ".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__")
        for path in _sources(repository, package)
        if path.name != "__main__.py"
    }
    assert set(report["imported"]) == on_disk
    assert not TRAINING_FRAMEWORKS & set(report["loaded"])


def test_the_device_side_imports_only_what_the_base_install_carries(repository: Path) -> None:
    project = _project_table(repository)
    declared = [*project["dependencies"], *project["optional-dependencies"]["openvino"]]
    carried = {canonicalize_name(Requirement(line).name) for line in declared}
    clinic = {
        canonicalize_name(Requirement(line).name)
        for line in project["optional-dependencies"]["clinic"]
    }
    strangers = set()
    for source in _sources(repository, "edge_runtime"):
        path = source.relative_to(repository).as_posix()
        here = carried | clinic if path.startswith(CLINIC_FOLDERS) else carried
        for root in _imported_roots(source) - sys.stdlib_module_names - {"edge_runtime", "tomllib"}:
            if canonicalize_name(DISTRIBUTION_OF.get(root, root)) not in here:
                strangers.add(f"{path}: {root}")
    assert strangers == set()


def test_no_source_file_has_outgrown_its_reader(repository: Path) -> None:
    lengths = {
        str(source.relative_to(repository)): len(source.read_text(encoding="utf-8").splitlines())
        for package in (*PACKAGES, "tests")
        for source in _sources(repository, package)
    }
    assert {name: length for name, length in lengths.items() if length > 600} == {}


def test_every_declared_requirement_is_pinned_and_fits_its_bound(repository: Path) -> None:
    project = _project_table(repository)
    pinned: dict[str, list[str]] = {}
    for line in _constraint_lines(repository):
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        pinned.setdefault(canonicalize_name(requirement.name), []).append(specifier.version)
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (Requirement(line) for group in groups for line in group):
        name = canonicalize_name(requirement.name)
        if name == project["name"]:
            continue
        assert name in pinned, f"{name} is declared and not pinned in constraints.txt"
        for version in pinned[name]:
            assert requirement.specifier.contains(version), f"{requirement} refuses {version}"


def test_constraints_are_exact_versions_without_addresses(repository: Path) -> None:
    exact = re.compile(
        r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.!+]*( ; python_version (<|>=) \"3\.1\d\")?"
    )
    lines = _constraint_lines(repository)
    assert [line for line in lines if not exact.fullmatch(line)] == []


def test_both_opencv_wheels_are_pinned_alike(repository: Path) -> None:
    pins = dict(
        line.split("==") for line in _constraint_lines(repository) if line.startswith("opencv")
    )
    assert pins["opencv-python"] == pins["opencv-python-headless"]
