"""Putting a film run together: bundle, backends, stages, camera, sinks.

Owns wiring only, so that the command line, tests, evaluation and benchmarks all run the
same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime import __version__
from edge_runtime.backends import BackendRow, InferenceBackend, backend_row, open_backend
from edge_runtime.bundle import UNCLASSIFIED, Artifact, Bundle, HeadName, ModelCard
from edge_runtime.cameras import Camera
from edge_runtime.errors import BundleError
from edge_runtime.film_report import (
    AttributeHeadRecord,
    BackendRecord,
    BundleRecord,
    ClassifierRecord,
    ModelCardSummary,
)
from edge_runtime.settings import Settings
from edge_runtime.sinks import Sink
from edge_runtime.types import Frame, RunStatus

if TYPE_CHECKING:
    from edge_runtime.attribute_head import AttributeHead
    from edge_runtime.classifier import Classifier
    from edge_runtime.domain_score import DomainScorer
    from edge_runtime.film.camera_profile import CameraProfile
    from edge_runtime.film.description import DescriptionTemplate
    from edge_runtime.film.gate import GateVerdict
    from edge_runtime.film.guide import FilmGuide
    from edge_runtime.film.screening import ScreeningRule
    from edge_runtime.film_record import FilmSetup
    from edge_runtime.pipeline import FilmRunner
    from edge_runtime.stages import Detector


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle whose stages are ready.

    Attributes:
        backend: the detector's.
        record: what really runs the detector.
        head_records: what really runs each head.
        template: of the film's description, when the bundle has its own.
        domain: tells how far a field looks from the validated domains.
    """

    bundle: Bundle
    backend: InferenceBackend
    detector: Detector
    record: BackendRecord
    attribute_head: AttributeHead | None = None
    classifier: Classifier | None = None
    head_records: dict[HeadName, BackendRecord] = field(default_factory=dict)
    template: DescriptionTemplate | None = None
    domain: DomainScorer | None = None


@contextmanager
def load_bundle(
    bundle: Bundle,
    settings: Settings,
    *,
    detector_only: bool = False,
    row: BackendRow | None = None,
) -> Iterator[LoadedBundle]:
    """Opens, for every head, the backend the settings name with the artifact made for it.

    Args:
        bundle: verified.
        settings: backend, threads and operating point.
        detector_only: leave the other heads out, to measure the detector.
        row: the backend, when it is not the one that the settings name.

    Raises:
        BackendError: the backend is not available here, or refuses a model, or a model does
            not fit the manifest.
        BundleError: the bundle has no artifact for it, or its description is no template.
    """
    row = backend_row(settings.backend) if row is None else row
    manifest = bundle.manifest
    heads = (None,) if detector_only else manifest.heads
    artifacts = {head: bundle.artifact_for(row.runtime, head, settings.precision) for head in heads}
    template = _template(bundle)
    threads = settings.threads or os.cpu_count() or 1
    with ExitStack() as open_ones:
        with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
            opening = loader.submit(
                _open_all, row, bundle, artifacts, threads, engines_folder(settings), open_ones
            )
            # OpenCV and the pipeline load while the backends read their models.
            from edge_runtime.attribute_head import AttributeHead
            from edge_runtime.classifier import Classifier
            from edge_runtime.pipeline import FilmRunner  # noqa: F401
            from edge_runtime.stages import Detector
        backends = opening.result()
        records = {
            head: _backend_record(backends[head], artifacts[head], threads) for head in backends
        }
        detector = Detector(manifest.detector, backends[None], score=settings.score)
        head = classifier = None
        if manifest.attribute_head is not None and "attribute_head" in backends:
            head = AttributeHead(
                manifest.attribute_head, manifest.detector, backends["attribute_head"]
            )
        if manifest.classifier is not None and "classifier" in backends:
            classifier = Classifier(manifest.classifier, backends["classifier"])
        yield LoadedBundle(
            bundle,
            backends[None],
            detector,
            records[None],
            head,
            classifier,
            {name: record for name, record in records.items() if name is not None},
            template,
            None if detector_only else _domain_scorer(bundle),
        )


def engines_folder(settings: Settings) -> Path | None:
    """Where engines of these settings lie: as set, else under the device's root.

    Returns:
        None for the user's cache.
    """
    if settings.engines is not None or settings.device_root is None:
        return settings.engines
    from edge_runtime.device.slots import DeviceRoot

    return DeviceRoot(settings.device_root).engines


def bundle_to_run(given: Path | None, settings: Settings, *, say: Callable[[str], None]) -> Bundle:
    """The bundle a person names, the device's active one, or the shipped one, in this order.

    Where keys are trusted, by a setting or by a device's root, the bundle must be signed.

    Args:
        given: a file or folder, or None.
        settings: device root and trusted keys.
        say: takes what a person must know, as when another slot than the active one starts.

    Raises:
        BundleError: it does not verify, or no slot can start.
        SettingsError: the folder of trusted keys is none.
    """
    from edge_runtime.bundle import open_bundle, shipped_bundle_path

    root = settings.device_root
    if given is None and root is not None:
        from edge_runtime.device.slots import active_bundle

        return active_bundle(root, say=say)
    keys = settings.trusted_keys or (None if root is None else root / "keys")
    if keys is None:
        return open_bundle(given or shipped_bundle_path())
    from datetime import datetime, timezone

    from edge_runtime.signature import load_trusted_keys

    trust = load_trusted_keys(keys, at=datetime.now(timezone.utc))
    return open_bundle(given or shipped_bundle_path(), trust=trust)


def _domain_scorer(bundle: Bundle) -> DomainScorer | None:
    spec = bundle.manifest.domain
    if spec is None:
        return None
    from edge_runtime.domain_score import DomainScorer, statistics_of

    where = f"bundle {bundle.id}"
    statistics = statistics_of(bundle.manifest, bundle.contents, where=where)
    return DomainScorer(spec, bundle.manifest.detector, statistics)


def _open_all(
    row: BackendRow,
    bundle: Bundle,
    artifacts: dict[HeadName | None, Artifact],
    threads: int,
    engines: Path | None,
    open_ones: ExitStack,
) -> dict[HeadName | None, InferenceBackend]:
    return {
        head: open_ones.enter_context(
            open_backend(row, bundle.contents[artifact.path], threads=threads, engines=engines)
        )
        for head, artifact in artifacts.items()
    }


def _backend_record(backend: InferenceBackend, artifact: Artifact, threads: int) -> BackendRecord:
    facts = backend.facts
    return BackendRecord(
        name=facts.name,
        version=facts.version,
        device=facts.device,
        precision=artifact.precision,
        artifact=artifact.path,
        threads=threads,
    )


def _template(bundle: Bundle) -> DescriptionTemplate | None:
    path = bundle.manifest.description
    if path is None:
        return None
    from edge_runtime.film.description import parse_template

    try:
        text = bundle.contents[path].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(
            f"description template {path}: not UTF-8 at byte {error.start}; export it again"
        ) from error
    return parse_template(text, where=path)


def film_runner(
    loaded: LoadedBundle,
    camera: Camera,
    *,
    source: str,
    settings: Settings,
    sinks: Sequence[Sink] = (),
    on_status: Callable[[RunStatus], None] = lambda status: None,
    guide: FilmGuide | None = None,
    on_frame: Callable[[Frame, GateVerdict | None], None] | None = None,
    every_frame: bool = True,
) -> FilmRunner:
    """A runner for one film; the camera must be open.

    Args:
        loaded: the bundle's stages.
        camera: open.
        source: as a person named it.
        settings: in force.
        sinks: where results go.
        on_status: after every field.
        guide: of this film (see ``film_guide``); None examines every field and counts every find.
        on_frame: gets every frame before it is examined (see ``FilmRunner``).
        every_frame: pictures are made of fields that show nothing new as well.
    """
    from edge_runtime.pipeline import FilmRunner

    return FilmRunner(
        camera=camera,
        detector=loaded.detector,
        attribute_head=loaded.attribute_head,
        classifier=loaded.classifier,
        domain=loaded.domain,
        streams=loaded.backend.streams,
        sinks=sinks,
        setup=film_setup(loaded, source=source, settings=settings),
        on_status=on_status,
        guide=guide,
        on_frame=on_frame,
        every_frame=every_frame,
    )


def film_guide(
    loaded: LoadedBundle,
    settings: Settings,
    *,
    live: bool,
    profile: CameraProfile | None = None,
    gate: bool = True,
    mosaic: bool = True,
) -> FilmGuide:
    """A guide for one film of overlapping fields, as of a live camera or a stage moved by hand.

    Args:
        loaded: the bundle's stages.
        settings: of screening.
        live: whether frames follow each other in time, so that motion between them tells
            something.
        profile: of the camera, for the gate's limits and the size of its pixels.
        gate: refuse fields that are not good enough.
        mosaic: put fields together, so that each cell counts once.
    """
    from edge_runtime.film.gate import FieldGate
    from edge_runtime.film.guide import FilmGuide
    from edge_runtime.film.mosaic import FilmMosaic
    from edge_runtime.film.screening import blasts_of
    from edge_runtime.film.tally import RunningTally

    spec = None if loaded.classifier is None else loaded.classifier.spec
    blasts = blasts_of(spec)
    tally = None
    if spec is not None:
        tally = RunningTally(
            spec.classes,
            unclassified=UNCLASSIFIED,
            outside=spec.outside_differential,
            blasts=blasts,
        )
    return FilmGuide(
        gate=FieldGate(profile, live=live) if gate else None,
        mosaic=FilmMosaic() if mosaic else None,
        tally=tally,
        rule=_rule_in_background(loaded, settings) if spec is not None else lambda wait: None,
        profile=profile,
        blasts=blasts,
    )


def guide_for(
    camera: Camera,
    loaded: LoadedBundle,
    settings: Settings,
    *,
    source: str,
    profile_file: Path | None = None,
    gate: bool | None = None,
    mosaic: bool | None = None,
    say: Callable[[str], None],
) -> FilmGuide | None:
    """The guide that suits a camera; none for separate pictures, unless a person asks for one.

    Args:
        camera: open.
        loaded: the bundle's stages.
        settings: of screening.
        source: as a person named the camera; its stored profile is found by it.
        profile_file: of the camera's profile, when it is not the stored one.
        gate: refuse fields that are not good enough; None: when fields overlap, or a profile is
            named.
        mosaic: count each cell once; None: when fields overlap.
        say: takes what a person must know.

    Raises:
        SettingsError: a profile cannot be read, or is none.
    """
    from edge_runtime.cameras import is_moved, shows_motion

    moved = is_moved(camera)
    gate = (moved or profile_file is not None) if gate is None else gate
    mosaic = moved if mosaic is None else mosaic
    if not gate and not mosaic:
        return None
    profile = profile_for(
        source,
        profile_file,
        say=say if gate else lambda line: None,
        otherwise=", or --no-gate",
    )
    return film_guide(
        loaded, settings, live=shows_motion(camera), profile=profile, gate=gate, mosaic=mosaic
    )


def profile_for(
    source: str, file: Path | None, *, say: Callable[[str], None], otherwise: str = ""
) -> CameraProfile | None:
    """The profile that a person names, or the stored one of this source; None when there is none.

    Args:
        source: as a person named the camera.
        file: the profile's, when it is not the stored one.
        say: told when nobody has set the camera up.
        otherwise: what else may be done then, after the command that sets it up.

    Raises:
        SettingsError: a profile cannot be read, or is none.
    """
    from edge_runtime.film.camera_profile import load_profile, profile_of

    if file is not None:
        return load_profile(file)
    found = profile_of(source)
    if found is None:
        say(
            f"{source}: nobody has set this camera up; fields are refused by limits that suit no "
            f"camera well: `leukoscope setup camera`{otherwise}"
        )
    return found


def _rule_in_background(
    loaded: LoadedBundle, settings: Settings
) -> Callable[[bool], ScreeningRule | None]:
    """The screening rule, made beside the film: its bounds take longer than a first field may."""
    from edge_runtime.film.screening import build_rule

    maker = ThreadPoolExecutor(1, thread_name_prefix="screening")
    making = maker.submit(build_rule, loaded.bundle.manifest, settings)
    maker.shutdown(wait=False)
    return lambda wait: making.result() if wait or making.done() else None


def film_setup(loaded: LoadedBundle, *, source: str, settings: Settings) -> FilmSetup:
    """What is known of a film before its first field; a sink may want it, too."""
    from edge_runtime.film_record import FilmSetup

    manifest = loaded.bundle.manifest
    head = loaded.attribute_head
    # The report states what was in force, not what was left to the bundle.
    in_force = settings.model_copy(
        update={"score": loaded.detector.score, "threads": loaded.record.threads}
    )
    return FilmSetup(
        source=source,
        bundle=BundleRecord(
            id=loaded.bundle.id,
            sha256=loaded.bundle.sha256,
            signed_by=list(loaded.bundle.signed_by),
        ),
        backend=loaded.record,
        model_card=_card(manifest.model_card),
        class_names=manifest.detector.classes,
        settings=in_force,
        version=__version__,
        classifier=_classifier_record(loaded),
        attribute_head=_head_record(loaded),
        attribute_schema=None if head is None else head.spec.attributes,
        head_cards={
            name: _card(card)
            for name, card in manifest.head_cards.items()
            if name in loaded.head_records
        },
        template=loaded.template,
        domain=None if loaded.domain is None else loaded.domain.spec,
    )


def _card(card: ModelCard) -> ModelCardSummary:
    return ModelCardSummary(
        title=card.title,
        summary=card.summary,
        limits=list(card.limits),
        licence=card.licence,
        metrics=card.metrics,
    )


def _classifier_record(loaded: LoadedBundle) -> ClassifierRecord | None:
    if loaded.classifier is None:
        return None
    spec = loaded.classifier.spec
    return ClassifierRecord(
        architecture=spec.architecture,
        backend=loaded.head_records["classifier"],
        classes=list(spec.classes),
        abstain_below=spec.abstain_below,
        outside_differential=list(spec.outside_differential),
    )


def _head_record(loaded: LoadedBundle) -> AttributeHeadRecord | None:
    if loaded.attribute_head is None:
        return None
    spec = loaded.attribute_head.spec
    return AttributeHeadRecord(
        architecture=spec.architecture,
        backend=loaded.head_records["attribute_head"],
        schema_name=spec.attributes.name,
        attributes={each.name: list(each.values) for each in spec.attributes.attributes},
        not_for_classes=list(spec.not_for_classes),
    )
