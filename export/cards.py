"""The model card: what people wrote of a model, joined with what was measured.

Owns reading the card file and rendering ``model_card.md``. Does not own the figures.
Page and manifest are made of the same object, so they cannot say different things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calibration.accuracy import DetectionMetrics
from edge_runtime.bundle import (
    AttributeHeadSpec,
    CalibrationSummary,
    ClassifierSpec,
    DetectorSpec,
    DomainSpec,
    HeadName,
    ModelCard,
)
from edge_runtime.errors import DataError
from edge_runtime.film_report import RESEARCH_USE
from export.bundle_writer import BundleDraft

CARD_NAME = "model_card.md"
# A table of more columns does not fit a page.
_WIDEST = 6
_COUNTS = frozenset({"fields", "cells"})


class CardText(BaseModel):
    """What a person writes; figures come from the export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1)
    summary: str = Field(min_length=1)
    limits: tuple[str, ...] = Field(min_length=1)
    licence: str = Field(min_length=1)
    training_data: tuple[str, ...] = Field(min_length=1)


def card_of(
    text: CardText, metrics: Mapping[str, Mapping[str, float]], *, metrics_of: str
) -> ModelCard:
    """What people wrote, with figures.

    Args:
        text: what the card file says.
        metrics: figures by name, per domain or artifact.
        metrics_of: artifact, machine and date of the metrics.
    """
    return ModelCard(
        title=text.title,
        summary=text.summary,
        limits=text.limits,
        licence=text.licence,
        training_data=text.training_data,
        metrics={domain: dict(values) for domain, values in metrics.items()},
        metrics_of=metrics_of,
    )


def reworded(card: ModelCard, text: CardText) -> ModelCard:
    """A card with its figures as they were and everything people wrote anew."""
    return card_of(text, card.metrics, metrics_of=card.metrics_of)


def load_card(path: Path) -> CardText:
    """Reads a card file (YAML).

    Raises:
        DataError: it is missing, no YAML, or lacks something a card must say.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"model card {path}: {error.strerror}; give --card a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"model card {path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        card = CardText.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(f"model card {path}: {where}: {first['msg']}") from error
    return card.model_copy(update={"summary": " ".join(card.summary.split())})


def model_card(
    text: CardText, metrics: Mapping[str, DetectionMetrics], *, metrics_of: str
) -> ModelCard:
    """The manifest's card.

    Args:
        text: what the card file says.
        metrics: per evaluation domain.
        metrics_of: artifact, machine and date of the metrics.
    """
    figures = {
        domain: {
            "fields": measured.images,
            "cells": measured.cells,
            # More digits than a few hundred cells can carry would feign precision.
            "AP50-95": round(measured.ap, 4),
            "AP50": round(measured.ap50, 4),
            "AR": round(measured.ar, 4),
            "recall": round(measured.recall, 4),
            "precision": round(measured.precision, 4),
        }
        for domain, measured in metrics.items()
    }
    return card_of(text, figures, metrics_of=metrics_of)


def with_card(draft: BundleDraft) -> BundleDraft:
    """A draft with the page that says what it is; an earlier one goes."""
    page = render_card(
        draft.model_card,
        draft.detector,
        draft.calibration,
        bundle_id=f"{draft.name}-{draft.version}",
        classifier=draft.classifier,
        attribute_head=draft.attribute_head,
        head_cards=draft.head_cards,
        domain=draft.domain,
    )
    return replace(draft, contents={**draft.contents, CARD_NAME: page.encode()})


def render_card(
    card: ModelCard,
    detector: DetectorSpec,
    calibration: CalibrationSummary,
    *,
    bundle_id: str,
    classifier: ClassifierSpec | None = None,
    attribute_head: AttributeHeadSpec | None = None,
    head_cards: Mapping[HeadName, ModelCard] | None = None,
    domain: DomainSpec | None = None,
) -> str:
    """The cards of a bundle's models as one Markdown page."""
    heads: list[str] = []
    cards = head_cards or {}
    if classifier is not None and "classifier" in cards:
        heads += _classifier_lines(cards["classifier"], classifier)
    if attribute_head is not None and "attribute_head" in cards:
        heads += _attribute_lines(cards["attribute_head"], attribute_head)
    names = list(dict.fromkeys(name for values in card.metrics.values() for name in values))
    table = [
        "| domain | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
        *(
            f"| {domain} | " + " | ".join(_say(name, values) for name in names) + " |"
            for domain, values in card.metrics.items()
        ),
    ]
    domains = ", ".join(f"{name} {count}" for name, count in calibration.domains.items())
    return "\n".join(
        [
            f"# {card.title}",
            "",
            f"**{RESEARCH_USE}**",
            "",
            card.summary,
            "",
            f"- Bundle: {bundle_id}",
            f"- Detector: {detector.architecture}; input {detector.input.width} x "
            f"{detector.input.height} px; classes: {', '.join(detector.classes)}",
            f"- Operating point: score {detector.thresholds.score:g}",
            *(
                f"- `{artifact.path}`: {artifact.runtime}, {artifact.precision}, "
                f"{artifact.quantisation}"
                for artifact in detector.artifacts
            ),
            f"- Licence: {card.licence}",
            "",
            "## What it is not",
            "",
            *(f"- {limit}" for limit in card.limits),
            "",
            "## How good it is",
            "",
            f"Measured: {card.metrics_of}. COCO definitions; recall and precision at the "
            "operating point, IoU 0.5.",
            "",
            *table,
            "",
            "## What it was trained on",
            "",
            *(f"- {line}" for line in card.training_data),
            "",
            "## What its int8 ranges were measured on",
            "",
            f"{calibration.images} training pictures ({domains}), method {calibration.method}, "
            f"digest `{calibration.digest}`.",
            "",
            *([] if domain is None else _domain_lines(domain)),
            *heads,
        ]
    )


def _domain_lines(spec: DomainSpec) -> list[str]:
    return [
        "## Which films these figures hold for",
        "",
        "A film is called outside the validated domain when the median of its fields' scores is "
        f"above {spec.threshold:g}. The score is the {spec.distance.replace('_', ' ')} distance "
        f"of pooled features ({', '.join(spec.reads)}) to the nearest domain below, in units of "
        f"that domain's border, within which {spec.quantile:.0%} of its held-out fields lie on "
        f"{', '.join(f'`{name}`' for name in spec.borders_hold_for)}. It tells films that look "
        "unlike these; it does not tell how many cells are found or named right.",
        "",
        "| domain | training fields | validation fields | shrinkage | border |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {each.name} | {each.training_fields} | {each.validation_fields} | "
            f"{each.shrinkage:.3f} | {each.borders[spec.distance]:.2f} |"
            for each in spec.domains
        ),
        "",
    ]


def _classifier_lines(card: ModelCard, spec: ClassifierSpec) -> list[str]:
    facts = [
        f"- Classifier: {spec.architecture}; input {spec.input.width} x {spec.input.height} px",
        f"- Classes: {', '.join(spec.classes)}",
        f"- Temperature {spec.temperature:g}; a cell whose best class is less probable than "
        f"{spec.abstain_below:g} stays unclassified",
    ]
    if spec.blasts:
        facts.append(f"- Count as blasts: {', '.join(spec.blasts)}")
    if spec.outside_differential:
        facts.append(f"- Counted beside the white cells: {', '.join(spec.outside_differential)}")
    return _head_lines(card, facts, spec)


def _attribute_lines(card: ModelCard, spec: AttributeHeadSpec) -> list[str]:
    facts = [
        f"- Attribute head: {spec.architecture}; reads {', '.join(spec.reads)} of the detector",
        *(f"- {each.name}: {', '.join(each.values)}" for each in spec.attributes.attributes),
    ]
    if spec.not_for_classes:
        facts.append(f"- Not shown for: {', '.join(spec.not_for_classes)}")
    return _head_lines(card, facts, spec)


def _head_lines(
    card: ModelCard, facts: list[str], spec: ClassifierSpec | AttributeHeadSpec
) -> list[str]:
    lines = [f"# {card.title}", "", f"**{RESEARCH_USE}**", "", card.summary, "", *facts]
    lines += [
        f"- `{each.path}`: {each.runtime}, {each.precision}, {each.quantisation}"
        for each in spec.artifacts
    ]
    lines += [f"- Licence: {card.licence}", "", "## What it is not", ""]
    lines += [f"- {limit}" for limit in card.limits]
    lines += ["", "## How good it is", "", f"Measured: {card.metrics_of}.", ""]
    lines += _tables(card.metrics)
    lines += ["## What it was trained on", "", *(f"- {each}" for each in card.training_data), ""]
    return lines


def _tables(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One table for each kind of figures; wide ones lie on their side."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name, values in metrics.items():
        kinds.setdefault(tuple(values), []).append(name)
    lines: list[str] = []
    for figures, names in kinds.items():
        if len(figures) <= _WIDEST:
            lines += [f"| | {' | '.join(figures)} |", "|---|" + "---:|" * len(figures)]
            lines += [
                f"| {name} | {' | '.join(_say(f, metrics[name]) for f in figures)} |"
                for name in names
            ]
        else:
            lines += [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
            lines += [
                f"| {f} | {' | '.join(_say(f, metrics[name]) for name in names)} |" for f in figures
            ]
        lines.append("")
    return lines


def _say(name: str, values: Mapping[str, float]) -> str:
    if name not in values:
        return "–"
    return f"{values[name]:.0f}" if name in _COUNTS else f"{values[name]:.3f}"
