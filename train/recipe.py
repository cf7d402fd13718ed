"""A training recipe: one YAML file, one strict frozen object.

Owns what a recipe may say and how it is read. Does not own training (see ``trainer``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_runtime.errors import SettingsError
from train.recipe_file import RECIPES, read_recipe

__all__ = ["RECIPES", "Recipe", "load_recipe"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Domain(_Strict):
    """Fields of one imaging domain in YOLO layout (``images/<split>``, ``labels/<split>``)."""

    name: str
    path: str = Field(description="relative to the recipe's data root")
    class_count: int = 3
    white_cell_classes: tuple[int, ...] = (0,)


class CellSource(_Strict):
    """Single-cell pictures to cut cells from."""

    name: str
    path: str
    kind: Literal["wbc_masks", "pbc"]
    as_fields_of: str | None = Field(
        default=None, description="also use whole pictures as fields of this domain"
    )


class ComposeSpec(_Strict):
    """How many training pictures of which kind; shares need not add up to 1."""

    images: int = Field(gt=0)
    size: int = Field(default=320, gt=0)
    seed: int = Field(default=0, ge=0)
    share_field: float = Field(default=0.42, gt=0)
    share_grid: float = Field(default=0.14, ge=0)
    share_paste: float = Field(default=0.28, ge=0)
    share_virtual: float = Field(default=0.16, ge=0)
    share_empty: float = Field(default=0.0, ge=0, description="pictures without any white cell")
    bare_tiles: float = Field(
        default=0.0, ge=0, le=1, description="largest share of grid tiles without a white cell"
    )
    share_fitted: float = Field(
        default=0.4, ge=0, le=1, description="of the field pictures: whole and unsqueezed"
    )
    virtual_films: int = 16
    validation_images: int = Field(default=120, description="composed from validation fields")


class TrainSpec(_Strict):
    """What goes to the ultralytics trainer."""

    epochs: int = Field(gt=0)
    batch: int = 16
    optimizer: str = "AdamW"
    lr0: float = 0.002
    lrf: float = 0.02
    warmup_epochs: float = 0.3
    weight_decay: float = 0.0005
    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5
    channels_last: bool = True
    validate_every_epoch: bool = True
    qat: bool = Field(
        default=False,
        description="int8 rounding while training, with scales of the checkpoint it begins with",
    )


class Recipe(_Strict):
    """Everything that decides a detector, but for the data itself."""

    name: str
    purpose: str
    model: str = "yolo11n.yaml"
    activation: Literal["relu", "silu"] = "relu"
    data_root: str = "../shared/data"
    domains: tuple[Domain, ...]
    cell_sources: tuple[CellSource, ...] = ()
    leave_out: str | None = Field(
        default=None, description="a domain or cell source that training must not see"
    )
    seed: int = 0
    compose: ComposeSpec
    train: TrainSpec

    def without(self, left_out: str) -> Recipe:
        """The same recipe for a leave-one-domain-out fold.

        Raises:
            SettingsError: no such domain or source.
        """
        names = {d.name for d in self.domains} | {c.name for c in self.cell_sources} | {"virtual"}
        if left_out not in names:
            raise SettingsError(
                f"leave_out {left_out!r}: not in this recipe; choose one of {sorted(names)}"
            )
        return self.model_copy(update={"leave_out": left_out})


def load_recipe(path: str | Path, data_root: str | Path | None = None) -> Recipe:
    """Reads a recipe file, or one of the shipped recipes by its bare name.

    ``data_root``, when given, takes the place of the recipe's own.

    Raises:
        SettingsError: the file is missing, is no YAML, or has unknown or bad keys.
    """
    return read_recipe(Recipe, "a detector's recipe", path, data_root)
