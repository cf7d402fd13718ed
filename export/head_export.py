"""Heads join a bundle: a draft with a detector becomes one with a classifier or attributes.

Owns what of a draft changes when heads join it, and reading their training runs. Does not
own making a head's artifacts (see ``heads``), nor changing the detector's graphs (see
``feature_maps``), nor the decision to write.

The detector keeps its ranges, operating point and card. An attribute head only makes its
graphs put out two more tensors; that no find changes by a bit is checked, not assumed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path

from calibration.labelled_cells import OpenedCells, open_cells
from edge_runtime.bundle import AttributeHeadSpec, ClassifierSpec, FeatureMapSpec, Runtime
from edge_runtime.errors import DataError, SettingsError
from edge_runtime.preprocess import fit_window, tensor_of
from edge_runtime.types import Float32Array
from export import float_onnx
from export.bundle_writer import BundleDraft
from export.cards import CardText, with_card
from export.feature_maps import check_feature_maps, expose_feature_maps
from export.heads import (
    DetectorGraphs,
    HeadOptions,
    HeadResult,
    assemble_attribute_head,
    assemble_classifier,
)

DESCRIPTION_NAME = "description.toml"
CELLS_NAME = "cells.json"
CLASSIFIER_NAME, ATTRIBUTE_HEAD_NAME = "classifier.pt", "attribute_head.pt"
# Enough to tell a checkpoint from another one; every picture has thousands of values.
_PICTURES_TO_COMPARE = 8


@dataclass(frozen=True, slots=True)
class HeadSources:
    """Where heads come from.

    Attributes:
        data: root of all training data.
        detector: checkpoint of the draft's detector; an attribute head needs it.
        classifier: a classifier's run folder.
        classifier_card: what people wrote of it.
        attribute_head: an attribute head's run folder.
        attribute_card: what people wrote of it.
    """

    data: Path
    detector: Path | None = None
    classifier: Path | None = None
    classifier_card: CardText | None = None
    attribute_head: Path | None = None
    attribute_card: CardText | None = None


def with_heads(
    draft: BundleDraft,
    sources: HeadSources,
    options: HeadOptions,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[BundleDraft, tuple[HeadResult, ...]]:
    """Makes, measures and adds heads.

    Args:
        draft: with its detector's int8 artifacts; heads of the same kind are replaced.
        sources: the training runs.
        options: see there.
        say: told every step.

    Returns:
        The new draft and each head's result; look at ``passed`` before writing.

    Raises:
        DataError: a run, its data or the detector does not fit.
        SettingsError: nothing to add, or an attribute head without its detector.
        BackendError: a backend refuses a graph.
    """
    if sources.classifier is None and sources.attribute_head is None:
        raise SettingsError("no head to add: give --classifier, --attribute-head or both")
    runtimes = {each.runtime for each in draft.detector.artifacts}
    options = replace(options, cpu_only=options.cpu_only or "tensorrt" not in runtimes)
    results: list[HeadResult] = []
    if sources.classifier is not None:
        made = float_onnx.float_classifier(sources.classifier / CLASSIFIER_NAME)
        cells = open_cells(sources.classifier / CELLS_NAME, sources.data)
        card = _card(sources.classifier_card, "--classifier-card")
        result = assemble_classifier(made, cells, card, options, say=say)
        draft = _joined(draft, result)
        results.append(result)
    if sources.attribute_head is not None:
        draft, result = _with_attributes(draft, sources, sources.attribute_head, options, say)
        results.append(result)
    return _described(draft), tuple(results)


def _with_attributes(
    draft: BundleDraft,
    sources: HeadSources,
    run: Path,
    options: HeadOptions,
    say: Callable[[str], None],
) -> tuple[BundleDraft, HeadResult]:
    if sources.detector is None:
        raise SettingsError(
            "an attribute head reads its detector's feature maps: give --detector, the "
            "checkpoint the bundle and the head were made with"
        )
    size = draft.detector.input.width
    made = float_onnx.float_attribute_head(run / ATTRIBUTE_HEAD_NAME, sources.detector, size)
    cells = open_cells(run / CELLS_NAME, sources.data)
    say(f"{sources.detector} to float ONNX with layers {', '.join(map(str, made.layers))}")
    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as scratch:
        float_model = float_onnx.float_onnx(
            sources.detector,
            Path(scratch) / "float.onnx",
            size,
            feature_layers=made.layers,
            one_to_one=draft.detector.output.decode == "xyxy_score_class",
        ).read_bytes()
    draft = _with_feature_maps(draft, float_model, made.feature_maps, cells, say)
    by_runtime: dict[Runtime, bytes] = {}
    for artifact in draft.detector.artifacts:
        by_runtime.setdefault(artifact.runtime, draft.contents[artifact.path])
    if "cpu" not in by_runtime:
        raise DataError("bundle: its detector has no artifact for processors; export it again")
    result = assemble_attribute_head(
        made,
        DetectorGraphs(draft.detector, float_model, by_runtime),
        cells,
        _card(sources.attribute_card, "--attribute-card"),
        options,
        say=say,
    )
    return _joined(draft, result), result


def _with_feature_maps(
    draft: BundleDraft,
    float_model: bytes,
    maps: tuple[FeatureMapSpec, ...],
    cells: OpenedCells,
    say: Callable[[str], None],
) -> BundleDraft:
    """The detector's artifacts put out the maps, if they do not already."""
    contents = dict(draft.contents)
    tensors = _some_tensors(draft, cells)
    for artifact in draft.detector.artifacts:
        before = contents[artifact.path]
        exposed = before
        if draft.detector.feature_maps != maps:
            exposed = expose_feature_maps(before, float_model, maps)
        least = check_feature_maps(before, exposed, float_model, maps, tensors)
        said = ", ".join(f"{name} {value:.4f}" for name, value in least.items())
        say(f"{artifact.path}: finds unchanged; least correlation with float maps: {said}")
        contents[artifact.path] = exposed
    detector = draft.detector.model_copy(update={"feature_maps": maps})
    return replace(draft, detector=detector, contents=contents)


def _some_tensors(draft: BundleDraft, cells: OpenedCells) -> list[Float32Array]:
    spec = draft.detector.input
    tensors = []
    for picture in islice(cells.cells.of_split("val"), _PICTURES_TO_COMPARE):
        pixels = picture.read(cells.root)
        tensors.append(tensor_of(pixels, fit_window(pixels.shape[1], pixels.shape[0], spec), spec))
    if not tensors:
        raise DataError("labelled cells: no validation picture to compare feature maps on")
    return tensors


def _joined(draft: BundleDraft, result: HeadResult) -> BundleDraft:
    """The draft with a head in place of an earlier one of its kind."""
    old = draft.classifier if result.head == "classifier" else draft.attribute_head
    gone = set() if old is None else {each.path for each in old.artifacts}
    kept = {path: content for path, content in draft.contents.items() if path not in gone}
    spec = result.spec
    verdicts = [each for each in draft.parity if each.artifact not in gone]
    return replace(
        draft,
        parity=(*verdicts, *(row.record() for row in result.gate)),
        contents={**kept, **result.contents},
        classifier=spec if isinstance(spec, ClassifierSpec) else draft.classifier,
        attribute_head=spec if isinstance(spec, AttributeHeadSpec) else draft.attribute_head,
        head_cards={**draft.head_cards, result.head: result.card},
    )


def _described(draft: BundleDraft) -> BundleDraft:
    """With the film description's sentences, and a page on all of its models."""
    contents: Mapping[str, bytes] = draft.contents
    if draft.description is None:
        sentences = files("edge_runtime.film").joinpath("description.toml").read_bytes()
        contents = {**contents, DESCRIPTION_NAME: sentences}
        draft = replace(draft, description=DESCRIPTION_NAME)
    return with_card(replace(draft, contents=contents))


def _card(text: CardText | None, flag: str) -> CardText:
    if text is None:
        raise SettingsError(f"a head needs a model card: give {flag}, a YAML file")
    return text
