"""The start of the command: libraries linked ahead are the ones that the imports then use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_runtime.launch import _LIBRARIES

_MAPPED = """
import sys
from pathlib import Path
from edge_runtime.launch import link_ahead

link_ahead().join()
assert not {"numpy", "cv2", "onnxruntime"} & set(sys.modules)
maps = Path("/proc/self/maps").read_text()
before = [name for name in ("multiarray_umath", "cv2", "onnxruntime_pybind11") if name in maps]
import cv2, numpy, onnxruntime
print(*before, int(numpy.ones(3).sum()), len(onnxruntime.get_available_providers()) > 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's map of libraries")
def test_libraries_are_linked_without_being_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MAPPED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["multiarray_umath", "cv2", "onnxruntime_pybind11", "3", "True"]


def test_a_missing_or_broken_library_is_left_to_its_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / "brokenpackage").mkdir()
    (folder / "brokenpackage" / "__init__.py").touch()
    (folder / "brokenpackage" / "lib.so").write_text("no library")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(
        "edge_runtime.launch._LIBRARIES",
        (("brokenpackage", "*.so"), ("no_such_package", "*.so"), *_LIBRARIES),
    )
    from edge_runtime.launch import link_ahead

    thread = link_ahead()
    thread.join()
    assert not thread.is_alive()
