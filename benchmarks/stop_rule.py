"""How often the stop rule errs and how many cells it asks for, over simulated films.

Owns the simulated films and their counting. Does not own the rule (``edge_runtime.film``). A
film is a sequence of cells, each a blast or not by the film's share, and each named by a
classifier whose recall and false rate are drawn anew for every film.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.film.confusion import BlastConfusion
from edge_runtime.film.screening import ScreeningPlan, ScreeningRule

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]

# Shares of blasts, with the hardest ones on both sides of a threshold of 20 %.
SHARES = (
    0.0, 0.01, 0.02, 0.05, 0.08, 0.10, 0.12, 0.15, 0.18, 0.195, 0.1999,
    0.20, 0.205, 0.22, 0.25, 0.30, 0.40, 0.60, 0.80, 0.95,
)  # fmt: skip
# Films at once: 2,000 of 800 cells are 1.6 million draws.
_AT_ONCE = 2000
_JEFFREYS = 0.5


@dataclass(frozen=True, slots=True)
class FilmOutcomes:
    """What became of some films of one share.

    Attributes:
        decided: int64 ``(films,)``, -1 below, 1 at or above, 0 not settled.
        cells: int64 ``(films,)``, counted when it was decided, or all that were asked for.
    """

    decided: Int64Array
    cells: Int64Array


def drawn_classifiers(
    confusion: BlastConfusion, films: int, rng: np.random.Generator
) -> tuple[Float64Array, Float64Array]:
    """Recall and false rate for each film, drawn from what the test counts leave possible."""
    blasts, others = confusion.blasts, confusion.others
    named, false = confusion.blasts_named, confusion.others_named
    return (
        rng.beta(named + _JEFFREYS, blasts - named + _JEFFREYS, films),
        rng.beta(false + _JEFFREYS, others - false + _JEFFREYS, films),
    )


def named_counts(
    share: float,
    recalls: Float64Array,
    falses: Float64Array,
    cells: int,
    rng: np.random.Generator,
) -> Int64Array:
    """Cells named blasts after each cell, int64 ``(films, cells)``."""
    films = len(recalls)
    blast = rng.random((films, cells)) < share
    chance = np.where(blast, recalls[:, None], falses[:, None])
    return np.cumsum(rng.random((films, cells)) < chance, axis=1, dtype=np.int64)


def stop_films(rule: ScreeningRule, named: Int64Array, *, most: int) -> FilmOutcomes:
    """Where each film is stopped, when it is looked at after every cell.

    Args:
        rule: with bounds.
        named: as ``named_counts`` gives them.
        most: cells after which scanning ends.

    Raises:
        ValueError: the rule can only abstain.
    """
    bounds = rule.bounds
    if bounds is None:
        raise ValueError("stop films: this rule only abstains")
    n = np.arange(1, most + 1)
    count = named[:, :most]
    below = (count <= bounds.lower[n]) & (n >= bounds.first)
    above = (count >= bounds.upper[n]) & (n >= bounds.first)
    settled = below | above
    first = settled.argmax(axis=1)
    rows = np.arange(len(named))
    done = settled[rows, first]
    decided = np.where(done, np.where(below[rows, first], -1, 1), 0)
    return FilmOutcomes(decided.astype(np.int64), np.where(done, first + 1, most).astype(np.int64))


def simulate(
    rule: ScreeningRule,
    share: float,
    films: int,
    rng: np.random.Generator,
    *,
    truth: BlastConfusion | None = None,
) -> tuple[FilmOutcomes, FilmOutcomes]:
    """Films of one share of blasts, each with a classifier drawn from ``truth``.

    Args:
        rule: with bounds.
        share: of blasts in every film.
        films: how many.
        rng: of the simulation.
        truth: test counts the classifiers are drawn from [default: those the rule knows].

    Returns:
        The films when scanning ends at the plan's largest count, and the same films when a
        person goes on as far as the errors are declared for.
    """
    truth = truth or rule.confusion
    if truth is None or rule.bounds is None:
        raise ValueError("simulate: this rule only abstains")
    last = len(rule.bounds.lower) - 1
    parts: list[list[FilmOutcomes]] = [[], []]
    for start in range(0, films, _AT_ONCE):
        recalls, falses = drawn_classifiers(truth, min(_AT_ONCE, films - start), rng)
        named = named_counts(share, recalls, falses, last, rng)
        for part, most in zip(parts, (rule.plan.most_cells, last), strict=True):
            part.append(stop_films(rule, named, most=most))
    planned, beyond = (
        FilmOutcomes(
            np.concatenate([each.decided for each in part]),
            np.concatenate([each.cells for each in part]),
        )
        for part in parts
    )
    return planned, beyond


def measure_stop_rule(
    *,
    films: int,
    seed: int = 20,
    shares: Sequence[float] = SHARES,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Error rates and cells needed, by true share, for several classifiers and plans.

    Args:
        films: for each true share.
        seed: of the simulation.
        shares: true shares of blasts.
        progress: takes a line after every plan.
    """
    parts = []
    for number, (name, confusion, plan) in enumerate(_CASES):
        rule = ScreeningRule(plan, confusion=confusion)
        # Films of their own: with the same ones, one lucky draw would show in every case.
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        rows = [_row(rule, share, films, rng) for share in shares]
        parts.append(_case(name, rule, rows))
        worst = parts[-1]["observed"]
        progress(f"{name}: missed {worst['missed']:.4f}, false {worst['false']:.4f}")
    return {
        "films_per_share": films,
        "seed": seed,
        "cases": parts,
        "fresh_test_sets": _fresh_test_sets(films, seed, progress),
        "uncorrected": _uncorrected(films, seed),
    }


_MEASURED = BlastConfusion(blasts=200, blasts_named=188, others=600, others_named=6)
_CASES: tuple[tuple[str, BlastConfusion, ScreeningPlan], ...] = (
    ("default plan", _MEASURED, ScreeningPlan()),
    ("from the first cell", _MEASURED, ScreeningPlan(fewest_cells=1)),
    ("99 % confidence", _MEASURED, ScreeningPlan(confidence=0.99)),
    ("threshold 5 %", _MEASURED, ScreeningPlan(threshold=0.05)),
    ("perfect and well measured", BlastConfusion(5000, 5000, 20000, 0), ScreeningPlan()),
    ("few test cells, much confusion", BlastConfusion(60, 51, 300, 15), ScreeningPlan()),
)


def _wrong(rule: ScreeningRule, share: float, films: FilmOutcomes) -> float:
    called = films.decided < 0 if share >= rule.plan.threshold else films.decided > 0
    return round(float(called.mean()), 4)


def _row(rule: ScreeningRule, share: float, films: int, rng: np.random.Generator) -> dict[str, Any]:
    out, beyond = simulate(rule, share, films, rng)
    settled = out.cells[out.decided != 0]
    quartiles = [int(v) for v in np.percentile(settled, (25, 50, 75))] if len(settled) else None
    return {
        "share": share,
        "below": round(float((out.decided < 0).mean()), 4),
        "above": round(float((out.decided > 0).mean()), 4),
        "not_settled": round(float((out.decided == 0).mean()), 4),
        "wrong": _wrong(rule, share, out),
        "wrong_with_twice_the_cells": _wrong(rule, share, beyond),
        "cells_when_settled_quartiles": quartiles,
        "mean_cells": round(float(out.cells.mean()), 1),
    }


def _case(name: str, rule: ScreeningRule, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    plan, bounds, confusion = rule.plan, rule.bounds, rule.confusion
    if bounds is None or confusion is None:
        raise ValueError(f"stop rule {name}: it only abstains")

    def worst(above: bool) -> float:
        side = [row for row in rows if (row["share"] >= plan.threshold) == above]
        return max(
            (max(row["wrong"], row["wrong_with_twice_the_cells"]) for row in side), default=0.0
        )

    return {
        "case": name,
        "threshold": plan.threshold,
        "fewest_cells": plan.fewest_cells,
        "most_cells": plan.most_cells,
        "classifier": str(confusion),
        "declared": round(1 - plan.confidence, 6),
        "computed": {"missed": round(bounds.missed, 4), "false": round(bounds.false, 4)},
        "observed": {"missed": worst(True), "false": worst(False)},
        "rows": list(rows),
    }


def _fresh_test_sets(
    films: int, seed: int, progress: Callable[[str], None], sets: int = 40
) -> list[dict[str, Any]]:
    """One true classifier, measured anew on another test set for each group of films.

    The rule never sees the true figures here, only a test set's counts; nothing is drawn from
    the prior it assumes.
    """
    rng = np.random.Generator(np.random.PCG64(seed + 1))
    recall, false, blasts, others = 0.94, 0.01, 200, 600
    each = max(1, films // sets)
    rules = [
        ScreeningRule(
            ScreeningPlan(),
            confusion=BlastConfusion(
                blasts, int(rng.binomial(blasts, recall)), others, int(rng.binomial(others, false))
            ),
        )
        for _ in range(sets)
    ]
    rows = []
    for share in (0.10, 0.15, 0.1999, 0.20, 0.25, 0.30):
        decided = []
        for rule in rules:
            named = named_counts(share, np.full(each, recall), np.full(each, false), 400, rng)
            decided.append(stop_films(rule, named, most=400).decided)
        done = np.concatenate(decided)
        wrong = done < 0 if share >= 0.20 else done > 0
        rows.append(
            {
                "share": share,
                "films": len(done),
                "wrong": round(float(wrong.mean()), 4),
                "not_settled": round(float((done == 0).mean()), 4),
            }
        )
    progress(f"{sets} fresh test sets: worst {max(row['wrong'] for row in rows):.4f}")
    return [{"recall": recall, "false_rate": false, "test_sets": sets, "rows": rows}]


def _uncorrected(films: int, seed: int) -> list[dict[str, Any]]:
    """What the same rule does when it takes the classifier's word for the truth."""
    rng = np.random.Generator(np.random.PCG64(seed + 2))
    believed = ScreeningRule(ScreeningPlan(), confusion=BlastConfusion(10**5, 10**5, 10**5, 0))
    rows = []
    for truth in (_MEASURED, BlastConfusion(60, 51, 300, 15)):
        for share in (0.15, 0.18, 0.1999, 0.20, 0.22, 0.25):
            out, _ = simulate(believed, share, films, rng, truth=truth)
            wrong = _wrong(believed, share, out)
            rows.append({"classifier": str(truth), "share": share, "wrong": wrong})
    return rows
