"""The two steps of an installation that run the bundle: engines and self-test.

Owns which backend they are for, and the words when no engine is needed or possible.
Does not own building (see ``edge_runtime.engines``) nor comparing (see ``golden``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from edge_runtime.backends import BackendRow, backend_row
from edge_runtime.bundle import Bundle
from edge_runtime.device.install import EngineStep, SelfTest
from edge_runtime.errors import BackendError, BundleError
from edge_runtime.golden import GoldenResult, run_golden

_ENGINES_MODULE = "edge_runtime.engines"


def self_test_on(backend: str, engines: Path | None = None) -> SelfTest:
    """The self-test on one backend; ``auto`` is what ``leukoscope run`` takes for it.

    Args:
        backend: which one.
        engines: folder of built engines; None means the user's cache.
    """

    def test(bundle: Bundle) -> GoldenResult:
        return run_golden(bundle, backend_row(backend), engines=engines)

    return test


def engines_for(backend: str, say: Callable[[str], None]) -> EngineStep:
    """Builds TensorRT engines where there is a TensorRT.

    Args:
        backend: what the device runs with. When it runs engines, it is an error that they
            cannot be built; otherwise it is only said.
        say: takes progress lines.
    """

    def build(bundle: Bundle, folder: Path) -> Sequence[str]:
        row = backend_row(backend)
        try:
            return _build(row, bundle, folder, say)
        except (BackendError, BundleError) as error:
            if row.runs_engines:
                raise
            return [f"no engine built: {error}; backend {row.name} is what runs"]

    return build


def _build(
    row: BackendRow, bundle: Bundle, folder: Path, say: Callable[[str], None]
) -> Sequence[str]:
    # By name, because a device image may leave that part out.
    if find_spec(_ENGINES_MODULE) is None:
        raise BackendError("this installation has no part that builds engines")
    engines = import_module(_ENGINES_MODULE)
    # Where both libraries are installed, the one that will run them builds them.
    target = engines.engine_target(engines.flavour_named(row.name)) if row.runs_engines else None
    built = engines.build_for_bundle(bundle, folder, say=say, target=target)
    return [
        f"engine {'built' if each.built else 'there already'}: {each.record.artifact} with "
        f"{each.record.flavour} {each.record.version} for {', '.join(each.record.capabilities)}"
        for each in built
    ]
