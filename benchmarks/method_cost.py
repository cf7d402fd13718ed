"""What a step of each training method costs beside a step of plain detection training.

Owns the interleaved rounds and the ratios. Does not own the trainings (see ``train``), which
time their own steps: from the batch's arrival to the end of the optimiser's step, pictures of
the target included, loading of the labelled ones not.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.attridet_recipe import FieldsSpec, Phase
from train.method_recipe import AdaptRecipe, SparseRecipe, load_adapt_recipe, load_sparse_recipe
from train.method_run import How, train_adapted, train_sparse
from train.step_loss import read_counts

# Of each experiment plain training comes first: their pictures differ in size, so that a
# method's step means something beside the plain step of its own experiment only.
ADAPT = ("source-only", "stain", "confmix", "daca")
SPARSE = ("naive", "co-mining", "sparsedet", "sla-det")


@dataclass(frozen=True, slots=True)
class CostSettings:
    """What is measured.

    Attributes:
        checkpoint: detector of the recipes' classes to begin with, so that there are
            pseudo-labels to be made.
        data_root: of the data.
        pictures: so many training pictures of each set.
        rounds: every method once per round, in turn.
    """

    checkpoint: Path
    data_root: str
    pictures: int
    rounds: int


def measure_cost(settings: CostSettings, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds per step of every method, and as a ratio to plain training of the same round."""
    seconds: dict[str, list[float]] = {name: [] for name in ADAPT + SPARSE}
    for number in range(settings.rounds):
        for name, times in seconds.items():
            say(f"round {number + 1} of {settings.rounds}: {name}")
            times.append(_seconds_per_step(settings, name, work / name))
    return {
        "what": "median over rounds of seconds per step, and of the ratio to plain training "
        "of the same experiment in the same round",
        "rounds": settings.rounds,
        "pictures": settings.pictures,
        "methods": {
            name: _beside(seconds[name], names[0], seconds[names[0]])
            for names in (ADAPT, SPARSE)
            for name in names
        },
    }


def _beside(values: list[float], plain: str, theirs: list[float]) -> dict[str, Any]:
    ratios = [value / other for value, other in zip(values, theirs, strict=True)]
    return {
        "seconds_per_step": statistics.median(values),
        "beside": plain,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def _seconds_per_step(settings: CostSettings, name: str, work: Path) -> float:
    shutil.rmtree(work, ignore_errors=True)
    recipe = _recipe(settings, name)
    how = How(workers=0)
    if isinstance(recipe, AdaptRecipe):
        train_adapted(recipe, name, work, how, source_checkpoint=settings.checkpoint)
    else:
        train_sparse(recipe, name, work, how)
    # The first epoch warms up caches and the allocator.
    last = read_counts(work / "phase2" / "method")[-1]
    return last["seconds"] / last["timed_steps"]


def _recipe(settings: CostSettings, name: str) -> AdaptRecipe | SparseRecipe:
    def fewer(spec: FieldsSpec) -> FieldsSpec:
        return spec.model_copy(update={"most": {"train": settings.pictures, "val": 4}})

    short = Phase(epochs=2, hyp={"warmup_epochs": 0.0, "lr0": 1e-5})
    root = Path(settings.data_root)
    # The epochs are too few for schedules in them: every part of a method is on.
    if name in ADAPT:
        recipe = load_adapt_recipe("adapt-hcm-lcm", root)
        return recipe.model_copy(
            update={
                "source": fewer(recipe.source),
                "target": fewer(recipe.target),
                "adapt_phase": short,
                "pictures_every": 0,
            }
        )
    sparse = load_sparse_recipe("sparse-wbc-domains", root)
    return sparse.model_copy(
        update={
            "fields": tuple(
                fewer(spec).model_copy(update={"most": {"train": settings.pictures // 2, "val": 4}})
                for spec in sparse.fields
            ),
            "phase": short,
            "start_from": str(settings.checkpoint),
            "pictures_every": 0,
            "options": {"sparsedet": {"warm_up": 0.0}, "sla-det": {"triplet_epochs": 2}},
        }
    )
