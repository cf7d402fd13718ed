"""The start of the command: libraries linked ahead are the ones that the imports then use."""

from __future__ import annotations

import os
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


_BESIDE = """
import sys, time
from edge_runtime.launch import link_ahead

sys.setswitchinterval(0.0005)
longest, previous = 0.0, time.perf_counter()
thread = link_ahead()
started = time.perf_counter()
while thread.is_alive():
    now = time.perf_counter()
    longest, previous = max(longest, now - previous), now
print(longest / (time.perf_counter() - started))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the dynamic linker of Linux")
@pytest.mark.slow  # a matter of time, which a busy machine disturbs
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a second core")
def test_other_threads_run_while_libraries_are_linked() -> None:
    """The longest standstill is a small part of the linking, in the best of a few trials."""
    shares = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", _BESIDE], capture_output=True, text=True, check=True
        )
        shares.append(float(done.stdout))
    assert min(shares) < 0.4, shares


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--help"], []])
def test_a_command_that_ends_at_once_ends_cleanly(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['leukoscope', 'run', *{arguments!r}]\n"
        "from edge_runtime.launch import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    assert "Traceback" not in done.stderr


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
