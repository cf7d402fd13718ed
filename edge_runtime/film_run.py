"""Putting a film run together: bundle, backend, detector, camera, sinks.

Owns wiring only, so that the command line, tests, evaluation and benchmarks all run the
same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime import __version__
from edge_runtime.backends import InferenceBackend, backend_row, open_backend
from edge_runtime.bundle import Bundle
from edge_runtime.cameras import Camera
from edge_runtime.film_report import BackendRecord, BundleRecord, ModelCardSummary
from edge_runtime.settings import Settings
from edge_runtime.sinks import Sink
from edge_runtime.types import RunStatus

if TYPE_CHECKING:
    from edge_runtime.pipeline import FilmRunner
    from edge_runtime.stages import Detector


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle whose detector is ready."""

    bundle: Bundle
    backend: InferenceBackend
    detector: Detector
    record: BackendRecord


@contextmanager
def load_bundle(bundle: Bundle, settings: Settings) -> Iterator[LoadedBundle]:
    """Opens the backend the settings name with the artifact made for it.

    Raises:
        BackendError: the backend is not available here or refuses the model.
        BundleError: the bundle has no artifact for it.
    """
    row = backend_row(settings.backend)
    artifact = bundle.artifact_for(row.runtime)
    threads = settings.threads or os.cpu_count() or 1
    with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
        opening = loader.submit(open_backend, row, bundle.contents[artifact.path], threads=threads)
        # OpenCV and the pipeline load while the backend reads its model.
        from edge_runtime.pipeline import FilmRunner  # noqa: F401
        from edge_runtime.stages import Detector
    with opening.result() as backend:
        facts = backend.facts
        record = BackendRecord(
            name=facts.name,
            version=facts.version,
            device=facts.device,
            precision=artifact.precision,
            artifact=artifact.path,
            threads=threads,
        )
        detector = Detector(bundle.manifest.detector, backend, score=settings.score)
        yield LoadedBundle(bundle, backend, detector, record)


def film_runner(
    loaded: LoadedBundle,
    camera: Camera,
    *,
    source: str,
    settings: Settings,
    sinks: Sequence[Sink] = (),
    on_status: Callable[[RunStatus], None] = lambda status: None,
) -> FilmRunner:
    """A runner for one film; the camera must be open."""
    from edge_runtime.pipeline import FilmRunner, FilmSetup

    manifest = loaded.bundle.manifest
    card = manifest.model_card
    # The report states what was in force, not what was left to the bundle.
    in_force = settings.model_copy(
        update={"score": loaded.detector.score, "threads": loaded.record.threads}
    )
    setup = FilmSetup(
        source=source,
        bundle=BundleRecord(id=loaded.bundle.id, sha256=loaded.bundle.sha256),
        backend=loaded.record,
        model_card=ModelCardSummary(
            title=card.title,
            summary=card.summary,
            limits=list(card.limits),
            licence=card.licence,
            metrics=card.metrics,
        ),
        class_names=manifest.detector.classes,
        settings=in_force,
        version=__version__,
    )
    return FilmRunner(
        camera=camera,
        detector=loaded.detector,
        streams=loaded.backend.streams,
        sinks=sinks,
        setup=setup,
        on_status=on_status,
    )
