"""Where the ``leukoscope`` command starts.

Owns one saving of time: while Python code is still being imported, the large libraries
that ``leukoscope run`` needs are read and linked on another core. Does not own flags or
commands (see ``cli``).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

# In the order in which a run imports them.
_LIBRARIES = (
    ("numpy", "_core/_multiarray_umath*.so"),
    ("cv2", "cv2*.so"),
    ("onnxruntime", "capi/onnxruntime_pybind11_state*.so"),
)


def main() -> None:
    """Entry point of the command."""
    set_environment()
    linking = link_ahead() if sys.argv[1:2] == ["run"] else None
    try:
        from edge_runtime.cli import main as command

        command()
    finally:
        # Libraries must not be half linked when the process ends.
        if linking is not None:
            linking.join()


def set_environment() -> None:
    """What libraries read when they are linked; what a user has set stays."""
    # Looking for plug-ins reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    # Decoders report a broken file on stderr as well; it is told once, by us.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def link_ahead() -> threading.Thread:
    """Links the large extension modules in a thread of its own.

    The import that follows finds them linked. One that cannot be linked is left to its
    import, which says why. Join the thread before the process ends.
    """
    thread = threading.Thread(target=_link, name="link-ahead", daemon=True)
    thread.start()
    return thread


def _link() -> None:
    # Called as a foreign function: that lets other threads run, which an import or the
    # constructor of ctypes.CDLL does not.
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes = [ctypes.c_char_p, ctypes.c_int]
    dlopen.restype = ctypes.c_void_p
    for package, pattern in _LIBRARIES:
        spec = find_spec(package)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        for library in (found for place in places for found in Path(place).glob(pattern)):
            dlopen(os.fsencode(library), os.RTLD_NOW)
