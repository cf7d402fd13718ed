"""Recipes of training methods: domain adaptation, and training on sparse labels.

Owns what such recipes may say and how they are read. Does not own the runs (see
``method_run``) nor the methods' own options, which each method checks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from train import adapt, sparse
from train.attridet_recipe import AttributeOptions, FieldsSpec, Hyperparameters, Phase
from train.recipe_file import read_recipe
from train.step_loss import MethodRow, find_row


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MethodRecipe(_Strict):
    """What the recipes of all methods have in common.

    Attributes:
        model: an ultralytics model file, or a local checkpoint to take model and weights from.
        start_from: local checkpoint of that very model whose weights to begin with.
        attributes: options of the attribute head beside the detector, or False: none.
        hyp: of all phases; a phase may change some.
        options: by method, its own options.
        pictures_every: steps between two pictures of what a method learns from.
        channels_last: see ``PhaseRun``.
        cache: of ultralytics: where decoded pictures are kept.
    """

    name: str
    purpose: str
    data_root: str = "../shared/data"
    model: str
    start_from: str | None = None
    attributes: AttributeOptions | Literal[False] = False
    image_size: int = Field(default=640, gt=0, multiple_of=32)
    batch: int = Field(default=8, gt=0)
    hyp: Hyperparameters = Hyperparameters()
    options: dict[str, dict[str, Any]] = {}
    pictures_every: int = Field(default=0, ge=0)
    channels_last: bool = False
    cache: Literal[False, "ram", "disk"] = False
    seed: int = Field(default=0, ge=0)

    def hyperparameters(self, phase: Phase) -> Hyperparameters:
        """Those of one phase."""
        return Hyperparameters.model_validate({**self.hyp.model_dump(), **phase.hyp})

    @model_validator(mode="after")
    def _starts_once(self) -> Self:
        if self.start_from is not None and self.model.endswith(".pt"):
            raise ValueError("start_from: model is a checkpoint already; give one of the two")
        return self

    def _check_options(self, rows: tuple[MethodRow, ...]) -> None:
        for name in self.options:
            find_row(rows, name)


class AdaptRecipe(MethodRecipe):
    """Labels of one microscope, pictures of another.

    Attributes:
        source: labelled fields.
        target: fields of the other microscope. Training opens their pictures only; their
            labels are read for judging, and by the method ``oracle``.
        source_phase: on the source alone; the same for every method.
        adapt_phase: the method's.
    """

    source: FieldsSpec
    target: FieldsSpec
    source_phase: Phase
    adapt_phase: Phase

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self._check_options(adapt.METHODS)
        for phase in (self.source_phase, self.adapt_phase):
            self.hyperparameters(phase)
        return self


class SparseRecipe(MethodRecipe):
    """Fields of which one patch each is labelled.

    Attributes:
        fields: labelled fields; several sets need the same classes.
        patch_share: of fully labelled training fields keep the labels in one patch of this
            share of the area, drawn by seed; None: the fields come with patches.
        patch_seed: of that draw; None takes the run's seed.
        crops_phase: before the method, on the patches cut out and enlarged, as the authors of
            SLA-Det begin; None leaves it out, and so does a ``start_from``.
        phase: the method's.
    """

    fields: tuple[FieldsSpec, ...] = Field(min_length=1)
    patch_share: float | None = Field(default=None, gt=0, le=1)
    patch_seed: int | None = Field(default=None, ge=0)
    crops_phase: Phase | None = None
    phase: Phase

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self._check_options(sparse.METHODS)
        for phase in (self.crops_phase, self.phase):
            if phase is not None:
                self.hyperparameters(phase)
        return self


AnyMethodRecipe = TypeVar("AnyMethodRecipe", AdaptRecipe, SparseRecipe)


def load_adapt_recipe(path: str | Path, data_root: Path | None = None) -> AdaptRecipe:
    """Reads a recipe of domain adaptation, a file or a shipped one by its bare name.

    Raises:
        SettingsError: missing, no YAML, or unknown or bad keys.
    """
    return read_recipe(AdaptRecipe, "a recipe of domain adaptation", path, data_root)


def load_sparse_recipe(path: str | Path, data_root: Path | None = None) -> SparseRecipe:
    """Reads a recipe of sparse training, a file or a shipped one by its bare name.

    Raises:
        SettingsError: missing, no YAML, or unknown or bad keys.
    """
    return read_recipe(SparseRecipe, "a recipe of sparse training", path, data_root)
