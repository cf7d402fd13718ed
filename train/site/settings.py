"""What decides an adaptation to a site: one strict frozen object.

Owns defaults and limits. Does not own the training (see ``run``).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from train.attridet_recipe import Hyperparameters
from train.datasets.class_names import Others
from train.datasets.site_fields import FieldFormat


class SiteHyperparameters(Hyperparameters):
    """What goes to the ultralytics trainer, with defaults for tens of fields.

    A detector that is nearly right needs small steps and pictures that stay recognisable: hard
    mosaics and strong scaling would move it away from the one microscope it is to learn.

    Attributes:
        freeze: so many of the first layers keep their weights and batch statistics.
    """

    optimizer: Literal["SGD", "AdamW", "Adam"] = "AdamW"
    # Ultralytics takes none above 1.
    lr0: float = Field(default=5e-4, gt=0, le=1)
    lrf: float = Field(default=0.05, gt=0, le=1)
    cos_lr: bool = True
    momentum: float = Field(default=0.9, ge=0, lt=1)
    warmup_epochs: float = Field(default=1.0, ge=0)
    warmup_bias_lr: float = Field(default=0.0, ge=0)
    hsv_s: float = Field(default=0.4, ge=0, le=1)
    hsv_v: float = Field(default=0.3, ge=0, le=1)
    scale: float = Field(default=0.25, ge=0, le=1)
    flipud: float = Field(default=0.5, ge=0, le=1)
    mosaic: float = Field(default=0.3, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0, le=1)
    close_mosaic: int = Field(default=5, ge=0)
    patience: int = Field(default=12, gt=0)
    freeze: int = Field(default=0, ge=0)


class SiteSettings(BaseModel):
    """Everything that decides an adaptation, but for the pictures themselves.

    Attributes:
        fields: folder of the site's labelled fields.
        labels: their format.
        most_fields: at most so many of them, drawn by seed; fewer are among those of more.
        replay: folders of the source's labelled sets in YOLO layout. Their ``train`` pictures
            are shown again, their ``check_split`` pictures are only measured on.
        mix_replay: False trains on the site alone, for comparison; the check stays.
        ratio: pictures of the site for each replayed one. 4 is the on-device study's, which
            kept 0.925 of 0.934 on its source.
        start_from: own detector's checkpoint.
        renames: name of a class in a set to the model's name of it.
        others: what becomes of cells whose class the model does not have.
        minimum_fields: fewer different fields are refused.
        held_out_share: of the fields, on which training stops and which it never sees.
        held_out_minimum: so many at least.
        limit_drop: points of AP50-95 that a source set may lose.
        pictures_per_epoch: at least; few fields are repeated.
        size: side of the square input; None takes the checkpoint's.
        score: of finds that are drawn for a person; no figure depends on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fields: str
    labels: FieldFormat | Literal["auto"] = "auto"
    most_fields: int | None = Field(default=None, gt=0)
    replay: tuple[str, ...] = Field(min_length=1)
    mix_replay: bool = True
    ratio: float = Field(default=4.0, ge=0.01, le=1000)
    start_from: str
    renames: dict[str, str] = {}
    others: Others = "refuse"
    minimum_fields: int = Field(default=5, ge=3)
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    held_out_minimum: int = Field(default=2, ge=1)
    check_split: Literal["val", "test"] = "val"
    limit_drop: float = Field(default=2.0, ge=0)
    pictures_per_epoch: int = Field(default=200, gt=0)
    epochs: int = Field(default=40, gt=0)
    batch: int = Field(default=16, gt=0)
    size: int | None = Field(default=None, gt=0, multiple_of=32)
    score: float = Field(default=0.25, gt=0, le=1)
    # NumPy's older generators, which ultralytics seeds as well, take 32 bits.
    seed: int = Field(default=0, ge=0, lt=2**32)
    hyp: SiteHyperparameters = SiteHyperparameters()
