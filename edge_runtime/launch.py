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
    # Looking for plug-ins reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    if sys.argv[1:2] == ["run"]:
        link_ahead()
    from edge_runtime.cli import main as command

    command()


def link_ahead() -> threading.Thread:
    """Links the large extension modules in a thread of its own.

    The import that follows finds them linked. One that cannot be linked is left to its
    import, which says why.
    """
    thread = threading.Thread(target=_link, name="link-ahead", daemon=True)
    thread.start()
    return thread


def _link() -> None:
    for package, pattern in _LIBRARIES:
        spec = find_spec(package)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        for library in (found for place in places for found in Path(place).glob(pattern)):
            try:
                # Unlike an import, this lets other threads run meanwhile.
                ctypes.CDLL(str(library))
            except OSError:
                continue
