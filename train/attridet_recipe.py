"""A recipe of AttriDet: one YAML file, one strict frozen object.

Owns what such a recipe may say and how it is read. Does not own the training it describes
(see ``attridet_run``) nor what a table of a paper says beside it (see ``reproduce``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from edge_runtime.errors import SettingsError
from train.datasets.splits import Validation
from train.models.attribute_head import HeadOutputs
from train.recipe import RECIPES

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FieldsSpec(_Strict):
    """Labelled fields of one data set of the catalogue.

    Attributes:
        dataset: its name in the catalogue, or ``own``: a folder in YOLO layout whose
            ``data.yaml`` names its classes.
        path: its folder, relative to the data root.
        mapping: class mapping of the catalogue to apply, if any.
        classes: keep cells of these classes only, in this order; None keeps all.
        others: what pictures with cells of other classes are good for then: left out, or
            those cells count as background.
        validation: where validation pictures come from when the set has none of its own.
        most: at most so many pictures of a split, drawn by seed; splits without an entry
            are taken whole.
    """

    dataset: str
    path: str
    mapping: str | None = None
    classes: tuple[str, ...] | None = Field(default=None, min_length=1)
    others: Literal["leave_out", "background"] = "leave_out"
    validation: Validation = "random"
    most: dict[Split, int] = {}


class AttributeOptions(_Strict):
    """The attribute head beside the detector.

    Attributes:
        weight: of the attribute loss beside the detector's.
        dropout: the paper's 0.2; the authors' code has 0.5.
        outputs: logits per value (the authors' code), or one per binary attribute (the paper).
        layers: tapped layers; None takes those of the detector's family.
    """

    weight: float = Field(default=1.0, ge=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    outputs: HeadOutputs = "per_value"
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)


class Hyperparameters(_Strict):
    """What goes to the ultralytics trainer, under its own names.

    The values are the paper's and those of its authors' recipe, but for box, cls and dfl:
    the anchor-based detector's gains mean something else in ultralytics' loss.
    """

    # Not "auto": that ignores lr0.
    optimizer: Literal["SGD", "AdamW", "Adam"] = "SGD"
    lr0: float = Field(default=0.01, gt=0)
    lrf: float = Field(default=0.1, gt=0)
    cos_lr: bool = False
    momentum: float = Field(default=0.937, ge=0, lt=1)
    weight_decay: float = Field(default=0.0005, ge=0)
    warmup_epochs: float = Field(default=3.0, ge=0)
    warmup_bias_lr: float = Field(default=0.1, ge=0)
    box: float = Field(default=7.5, ge=0)
    cls: float = Field(default=0.5, ge=0)
    dfl: float = Field(default=1.5, ge=0)
    hsv_h: float = Field(default=0.015, ge=0, le=1)
    hsv_s: float = Field(default=0.7, ge=0, le=1)
    hsv_v: float = Field(default=0.4, ge=0, le=1)
    degrees: float = Field(default=0.0, ge=0, le=180)
    translate: float = Field(default=0.1, ge=0, le=1)
    scale: float = Field(default=0.9, ge=0, le=1)
    fliplr: float = Field(default=0.5, ge=0, le=1)
    flipud: float = Field(default=0.0, ge=0, le=1)
    mosaic: float = Field(default=1.0, ge=0, le=1)
    mixup: float = Field(default=0.1, ge=0, le=1)
    close_mosaic: int = Field(default=0, ge=0)
    patience: int = Field(default=100, gt=0)
    amp: bool = True


class Phase(_Strict):
    """One run of the trainer; it starts from the last weights of the phase before.

    Attributes:
        fresh_head: draw the attribute head anew, as the authors do in their second phase.
        hyp: changes to the recipe's hyperparameters in this phase.
    """

    epochs: int = Field(gt=0)
    fresh_head: bool = False
    hyp: dict[str, float | int | bool | str] = {}


class AttriDetRecipe(_Strict):
    """Everything that decides an AttriDet, but for the data itself.

    Attributes:
        fields: what it learns from and is judged on.
        model: an ultralytics model file (``yolov5n.yaml`` to ``yolo11x.yaml``), or a local
            checkpoint to take model and weights from.
        start_from: local checkpoint of that very model whose weights to begin with.
        attributes: the head, or False: the plain detector, for comparison.
        cache: of ultralytics: where decoded pictures are kept.
    """

    name: str
    purpose: str
    data_root: str = "../shared/data"
    fields: FieldsSpec
    model: str
    start_from: str | None = None
    attributes: AttributeOptions | Literal[False] = AttributeOptions()
    image_size: int = Field(default=640, gt=0, multiple_of=32)
    batch: int = Field(default=8, gt=0)
    hyp: Hyperparameters = Hyperparameters()
    phases: tuple[Phase, ...] = Field(min_length=1)
    cache: Literal[False, "ram", "disk"] = False
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        for phase in self.phases:
            self.hyperparameters(phase)
        if self.start_from is not None and self.model.endswith(".pt"):
            raise ValueError("start_from: model is a checkpoint already; give one of the two")
        return self

    def hyperparameters(self, phase: Phase) -> Hyperparameters:
        """Those of one phase.

        Raises:
            ValueError: a change that is none, or a bad value.
        """
        return Hyperparameters.model_validate({**self.hyp.model_dump(), **phase.hyp})


def read_document(path: str | Path, folder: Path = RECIPES) -> tuple[Path, Any]:
    """A YAML file, or a shipped one by its bare name, with the file it was.

    Raises:
        SettingsError: missing or no YAML.
    """
    file = Path(path)
    if not file.exists() and (folder / f"{path}.yaml").exists():
        file = folder / f"{path}.yaml"
    try:
        return file, yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"recipe {path}: {error.strerror}; give a YAML file") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"recipe {file}: not YAML: {' '.join(str(error).split())}") from error


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, as ``key: what``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    return f"{where}: {' '.join(first['msg'].split())}"


def load_attridet_recipe(path: str | Path, data_root: Path | None = None) -> AttriDetRecipe:
    """Reads a recipe, a file or a shipped one by its bare name.

    Raises:
        SettingsError: missing, no YAML, or unknown or bad keys.
    """
    file, document = read_document(path)
    try:
        recipe = AttriDetRecipe.model_validate(document)
    except ValidationError as error:
        raise SettingsError(f"recipe {file}: {first_fault(error)}") from error
    return recipe if data_root is None else recipe.model_copy(update={"data_root": str(data_root)})
