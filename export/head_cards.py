"""Figures of heads as their model cards show them.

Owns which figures a card has and what they are called. Does not own measuring them nor the
page (see ``cards``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.confidence import at_temperature
from edge_runtime.bundle import AttributeHeadSpec, ClassifierSpec, ModelCard
from edge_runtime.film.confusion import BLASTS, BLASTS_NAMED, OTHERS, OTHERS_NAMED
from edge_runtime.types import Int64Array
from export.cards import CardText, card_of
from export.head_evaluation import AttributeAnswers, ClassAnswers
from export.parity import GateRow

# More digits than a few hundred cells can carry would feign precision.
_DIGITS = 4


def class_figures(
    spec: ClassifierSpec, answers: ClassAnswers, variant: str
) -> dict[str, dict[str, float]]:
    """A classifier's figures on test cells, per domain.

    Accuracy and F1 are of every cell's best class; ``named`` is the share of cells probable
    enough to be named, ``accuracy of named`` is of those. With blasts there are their counts too.
    """
    said = at_temperature(answers.probabilities[variant], spec.temperature)
    best = said.argmax(axis=1)
    named = said.max(axis=1) >= np.float32(spec.abstain_below)
    figures: dict[str, dict[str, float]] = {}
    for domain, found in answers.figures(spec.classes, variant).items():
        rows = answers.domains == domain
        if not rows.any():
            rows = np.ones(len(answers.domains), np.bool_)
        right = (best == answers.truth)[rows & named]
        figures[f"test, {domain}"] = _rounded(
            {
                "cells": found.cells,
                "accuracy": found.accuracy,
                "macro-F1": found.macro_f1,
                "named": float(named[rows].mean()),
                "accuracy of named": float(right.mean()) if len(right) else None,
                **{f"F1 {each.name}": each.f1 for each in found.classes},
                **_blast_counts(spec, answers.truth[rows], best[rows], named[rows]),
            }
        )
    return figures


def _blast_counts(
    spec: ClassifierSpec,
    truth: Int64Array,
    best: NDArray[np.int64],
    named: NDArray[np.bool_],
) -> dict[str, float]:
    """What the stop rule on a device reads: counts, for a share alone does not say how sure.

    Cells outside the differential are no white cells of it; a cell without a sure class was
    not named a blast. Nothing for a classifier without blasts.
    """
    if not spec.blasts:
        return {}
    blasts = [spec.classes.index(name) for name in spec.blasts]
    outside = [spec.classes.index(name) for name in spec.outside_differential]
    blast = np.isin(truth, blasts)
    other = ~blast & ~np.isin(truth, outside)
    called = named & np.isin(best, blasts)
    return {
        BLASTS: int(blast.sum()),
        BLASTS_NAMED: int((called & blast).sum()),
        OTHERS: int(other.sum()),
        OTHERS_NAMED: int((called & other).sum()),
    }


def attribute_figures(
    spec: AttributeHeadSpec, answers: AttributeAnswers, variant: str
) -> dict[str, dict[str, float]]:
    """An attribute head's figures on the labelled boxes of test cells, per domain.

    ``macro-F1 of the commonest`` is what answering each attribute's most frequent value
    would have.
    """
    figures: dict[str, dict[str, float]] = {}
    for domain, found in answers.figures(spec.attributes, variant).items():
        commonest = [each.majority_macro_f1 for each in found.attributes]
        known = [value for value in commonest if value is not None]
        figures[f"test, {domain}"] = _rounded(
            {
                "cells": max(each.cells for each in found.attributes),
                "macro-F1": found.mean_macro_f1,
                "macro-F1 of the commonest": sum(known) / len(known) if known else None,
                **{f"macro-F1 {each.name}": each.macro_f1 for each in found.attributes},
            }
        )
    return figures


def head_card(
    text: CardText,
    metrics: Mapping[str, Mapping[str, float]],
    gate: Sequence[GateRow],
    *,
    metrics_of: str,
) -> ModelCard:
    """A head's card for the manifest.

    Args:
        text: what the card file says.
        metrics: figures on test cells.
        gate: the verdicts; their figures are shown too.
        metrics_of: artifact, machine and date of the metrics.
    """
    shown = {name: dict(values) for name, values in metrics.items()}
    for row in gate:
        for each in row.parity.domains:
            name = f"{row.artifact} on {row.backend}, validation, {each.domain}"
            lost = "points lost" if row.figure == "macro-F1" else f"{row.figure}: points lost"
            shown.setdefault(name, {}).update(
                _rounded(
                    {
                        f"{row.figure} float": each.float_figure,
                        f"{row.figure} int8": each.int8_figure,
                        lost: each.lost_points,
                    }
                )
            )
    return card_of(text, shown, metrics_of=metrics_of)


def _rounded(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in values.items() if value is not None}
