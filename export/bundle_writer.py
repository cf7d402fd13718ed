"""Writing bundles: one manifest, its files, the same bytes for the same content.

Owns the layout on disk, what the manifest says of a detector's input and output, and the
defaults a detector is shipped with. Does not own how artifacts are made nor the
manifest's fields (see ``edge_runtime.bundle``, which also verifies what is written here).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from edge_runtime.bundle import (
    BUNDLE_SCHEMA,
    MANIFEST_NAME,
    SIGNATURES_NAME,
    Artifact,
    AttributeHeadSpec,
    Bundle,
    BundledFile,
    CalibrationSummary,
    ClassifierSpec,
    Decode,
    DetectorSpec,
    DomainSpec,
    GoldenSpec,
    HeadName,
    InputSpec,
    Manifest,
    ModelCard,
    OutputSpec,
    ParityRecord,
    Thresholds,
    WorkingScale,
    open_bundle,
)
from edge_runtime.bundle_container import (
    UNREADABLE,
    BundleReader,
    FolderReader,
    ZipReader,
    plain_zip,
)
from edge_runtime.errors import BundleError, StoreError
from edge_runtime.film_report import RESEARCH_USE

# A shipped bundle travels in the repository and over a clinic's mobile link.
LARGEST_BUNDLE_BYTES = 16_000_000
CLASSES = ("WBC",)
# Cells of 64 px in a 320 px input are large enough for their outline and leave some 25
# cells' room in a window; below 40 px recall falls. A white cell measures about 13 um.
DEFAULT_SCALE = WorkingScale(
    cell_px=64, min_cell_px=40, cell_um=13, probe_score=0.4, max_windows=48
)
# Cells touch but do not lie on each other: boxes that share more are one cell.
DEFAULT_THRESHOLDS = Thresholds(score=0.4, nms_iou=0.6, max_cells=300)
# The grey that training letterboxes with.
_PAD_VALUE = 114


@dataclass(frozen=True, slots=True)
class BundleDraft:
    """Everything a bundle will hold.

    Attributes:
        contents: bytes of every file but the manifest, by path inside the bundle.
        description: which of them holds the film description's sentences.
        head_cards: of the heads it has.
        domain: which films it was validated on.
        parity: verdicts of the accuracy gate.
        golden: what a device's self-test compares with.
    """

    name: str
    version: str
    detector: DetectorSpec
    calibration: CalibrationSummary
    model_card: ModelCard
    contents: Mapping[str, bytes]
    classifier: ClassifierSpec | None = None
    attribute_head: AttributeHeadSpec | None = None
    description: str | None = None
    head_cards: Mapping[HeadName, ModelCard] = field(default_factory=dict)
    domain: DomainSpec | None = None
    parity: tuple[ParityRecord, ...] = ()
    golden: GoldenSpec | None = None


def draft_of(bundle: Bundle, *, keep_golden: bool = False) -> BundleDraft:
    """A bundle as a draft, to write another one like it.

    Args:
        bundle: verified.
        keep_golden: take its golden data along. They hold for the very same models only, so
            whoever adds or changes one leaves them out.
    """
    manifest = bundle.manifest
    golden = manifest.golden
    left = set[str]() if golden is None or keep_golden else {*golden.fields, golden.outputs}
    return BundleDraft(
        name=manifest.name,
        version=manifest.version,
        detector=manifest.detector,
        calibration=manifest.calibration,
        model_card=manifest.model_card,
        contents={path: raw for path, raw in bundle.contents.items() if path not in left},
        classifier=manifest.classifier,
        attribute_head=manifest.attribute_head,
        description=manifest.description,
        head_cards=manifest.head_cards,
        domain=manifest.domain,
        parity=manifest.parity,
        golden=golden if keep_golden else None,
    )


def detector_spec(
    *,
    architecture: str,
    image_size: int,
    artifacts: Sequence[Artifact],
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    working_scale: WorkingScale = DEFAULT_SCALE,
    decode: Decode = "xywh_scores",
) -> DetectorSpec:
    """The manifest's detector for graphs out of ``export.float_onnx``."""
    return DetectorSpec(
        architecture=architecture,
        classes=CLASSES,
        input=InputSpec(
            name="images",
            width=image_size,
            height=image_size,
            scale=1 / 255,
            pad_value=_PAD_VALUE,
        ),
        output=OutputSpec(name="output0", decode=decode),
        thresholds=thresholds,
        working_scale=working_scale,
        artifacts=tuple(artifacts),
    )


def write_bundle(
    draft: BundleDraft,
    out: Path,
    *,
    largest_bytes: int = LARGEST_BUNDLE_BYTES,
    sign: Callable[[bytes], bytes] | None = None,
) -> Bundle:
    """Writes a bundle folder, or one file when ``out`` ends in ``.zip``.

    Args:
        draft: what it will hold.
        out: folder or file.
        largest_bytes: larger bundles are refused.
        sign: makes ``signatures.json`` from the manifest's bytes; see ``signing``.

    Returns:
        The bundle as read back.

    Raises:
        BundleError: too large, or it would not verify.
        StoreError: ``out`` is something other than a bundle, or cannot be written.
    """
    manifest = _manifest(draft)
    files = {MANIFEST_NAME: manifest, **draft.contents}
    if sign is not None:
        files[SIGNATURES_NAME] = sign(manifest)
    total = sum(len(content) for content in files.values())
    if total > largest_bytes:
        raise BundleError(
            f"bundle {draft.name}: {total / 1e6:.1f} MB, at most {largest_bytes / 1e6:g} MB; "
            "take a smaller model"
        )
    return write_files(files, out)


def write_files(files: Mapping[str, bytes], out: Path) -> Bundle:
    """Writes files that make up a bundle, manifest and signatures among them.

    They are put together beside ``out``, opened and verified as a device would, and only
    then take the place of an earlier bundle there.

    Raises:
        BundleError: they would not verify.
        StoreError: ``out`` is something other than a bundle, or cannot be written.
    """
    refuse_foreign(out)
    draft_path = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".zip":
            _write_zip(files, draft_path)
        else:
            _write_folder(files, draft_path)
        open_bundle(draft_path)
        _put_in_place(draft_path, out)
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}; choose another folder or free space") from error
    finally:
        _remove(draft_path)
    return open_bundle(out)


def write_float_bundle(
    onnx: Path, out: Path, *, image_size: int, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> Path:
    """Writes a bundle around a float model, for comparisons; it is not one to ship.

    Args:
        onnx: out of ``export.float_onnx``.
        out: bundle folder or ``.zip`` file.
        image_size: side of the model's input in pixels.
        thresholds: the operating point and the rest.

    Raises:
        BundleError: it would not verify.
        StoreError: the model cannot be read, or the bundle not written.
    """
    try:
        model = onnx.read_bytes()
    except OSError as error:
        raise StoreError(f"{onnx}: {error.strerror}; export the float model first") from error
    artifact = Artifact(
        path="detector.float32.onnx", runtime="cpu", precision="float32", quantisation="none"
    )
    draft = BundleDraft(
        name="float-comparison",
        version="0.0.0",
        detector=detector_spec(
            architecture="float comparison",
            image_size=image_size,
            artifacts=[artifact],
            thresholds=thresholds,
        ),
        calibration=CalibrationSummary(digest="", images=0, domains={}, method="none"),
        model_card=ModelCard(
            title="Float model for a comparison",
            summary="Made by a benchmark; not one to ship.",
            limits=(RESEARCH_USE,),
            licence="AGPL-3.0-or-later",
            training_data=(),
            metrics={},
            metrics_of="not measured",
        ),
        contents={artifact.path: model},
    )
    # Four bytes a weight: the limit is one for shipping.
    write_bundle(draft, out, largest_bytes=2 * LARGEST_BUNDLE_BYTES + len(model))
    return out


def _manifest(draft: BundleDraft) -> bytes:
    for path in draft.contents:
        pure = PurePosixPath(path)
        # Checked before writing, not only when read back: then it would be too late.
        if (
            pure.is_absolute()
            or ".." in pure.parts
            or "\\" in path
            or path in (MANIFEST_NAME, SIGNATURES_NAME)
        ):
            raise BundleError(f"bundle {draft.name}: no file can be called {path!r} in it")
    try:
        manifest = Manifest(
            schema_version=BUNDLE_SCHEMA,
            name=draft.name,
            version=draft.version,
            research_use=RESEARCH_USE,
            files=tuple(
                BundledFile(
                    path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content)
                )
                for path, content in sorted(draft.contents.items())
            ),
            detector=draft.detector,
            classifier=draft.classifier,
            attribute_head=draft.attribute_head,
            description=draft.description,
            domain=draft.domain,
            golden=draft.golden,
            calibration=draft.calibration,
            parity=draft.parity,
            model_card=draft.model_card,
            head_cards=dict(draft.head_cards),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"bundle {draft.name!r}: {where}: {first['msg']}") from error
    document = manifest.model_dump(mode="json")
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def refuse_foreign(out: Path) -> None:
    """An earlier bundle may be replaced; anything else at that place is somebody's.

    A folder with a ``manifest.json`` is no bundle yet: web pages have one too.

    Raises:
        StoreError: something else is there.
    """
    if out.suffix == ".zip":
        if out.is_dir() or (out.exists() and not _is_bundle(out)):
            raise StoreError(f"{out}: exists and is no bundle file; choose another name")
    elif out.exists() and not _is_empty(out) and not _is_bundle(out):
        raise StoreError(
            f"{out}: exists and holds no bundle, or more than one; choose an empty or new folder"
        )


def _is_bundle(place: Path) -> bool:
    """Whether there is nothing but what a manifest lists; it need not be whole."""
    with contextlib.suppress(BundleError, *UNREADABLE, TypeError):
        if place.is_dir():
            return _lists_all(FolderReader(place))
        with zipfile.ZipFile(place) as archive:
            return _lists_all(ZipReader(place, archive))
    return False


def _lists_all(reader: BundleReader) -> bool:
    listed = {each["path"] for each in json.loads(reader.read(MANIFEST_NAME))["files"]}
    return reader.names() <= {MANIFEST_NAME, SIGNATURES_NAME, *listed}


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _write_folder(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in sorted(files.items()):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _write_zip(files: Mapping[str, bytes], path: Path) -> None:
    with path.open("xb") as file:
        file.writelines(plain_zip(files))


def _put_in_place(made: Path, out: Path) -> None:
    if not out.is_dir():
        made.replace(out)
        return
    # A folder cannot be replaced in one step; the old one steps aside until the new is in.
    aside = made.with_name(f"{made.name}.old")
    out.rename(aside)
    try:
        made.rename(out)
    except OSError:
        aside.rename(out)
        raise
    shutil.rmtree(aside)


def _remove(path: Path) -> None:
    """Clears what is left of an unfinished bundle; the error that stopped it counts."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()
