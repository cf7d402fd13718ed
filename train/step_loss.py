"""The one seam between a training method and ultralytics' trainer: the loss of a step.

Owns what a method is given and what it gives back. Does not own the methods (tables in
``adapt`` and ``sparse``) nor the loop that asks them (see ``method_trainer``).

Ultralytics' trainer asks the network for its loss, and the network asks its criterion. A
method is a criterion of its own around ultralytics': it sees the outputs for the labelled
pictures and their labels, may run the network on other pictures, and returns the losses.
Nothing else of the trainer is touched, so optimiser, AMP, averaging, checkpoints and resuming
stay ultralytics', with and without the attribute head, which adds its own loss to whatever
the criterion returns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from edge_runtime.errors import SettingsError
from edge_runtime.types import Float32Array, Int64Array, UInt8Image

if TYPE_CHECKING:
    # Recipes are checked without them; ultralytics changes the environment when it is loaded.
    from torch import Tensor
    from ultralytics.nn.tasks import DetectionModel

# Keys that the trainer adds to ultralytics' batch.
TARGET_IMAGES = "target_img"
PATCHES = "patches"
PATCH_INDEX = "patch_idx"


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in its phase a training is; the first step has iteration and epoch 0."""

    iteration: int
    iterations: int
    epoch: int
    epochs: int

    @property
    def ratio(self) -> float:
        """Share of the phase that is done, in 0..1."""
        return min(self.iteration / max(self.iterations, 1), 1.0)


class MethodOptions(BaseModel):
    """What a method can be told; each method has its own strict subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def require_fit(self, classes: tuple[str, ...]) -> None:
        """Refuses options that name what a detector of these classes does not have.

        Asked before anything is trained; a method whose options name classes says more.

        Raises:
            SettingsError: they do.
        """


@dataclass
class StepLog:
    """Counts of what a method did, one line of JSON per epoch, and pictures of it.

    Attributes:
        folder: where ``counts.jsonl`` and pictures go; None keeps nothing (other ranks).
        pictures_every: steps between two pictures; 0 draws none.
    """

    folder: Path | None
    pictures_every: int = 0
    _sums: dict[str, float] = field(default_factory=dict)

    def count(self, **values: float) -> None:
        """Adds to this epoch's sums."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def close_epoch(self, epoch: int) -> None:
        """Writes this epoch's sums and begins anew."""
        if self.folder is not None and self._sums:
            self.folder.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"epoch": epoch, **dict(sorted(self._sums.items()))})
            with (self.folder / "counts.jsonl").open("a", encoding="utf-8") as handle:
                handle.write(line + "\n")
        self._sums = {}

    def wants_picture(self, iteration: int) -> bool:
        """Whether a picture is due at this step."""
        every = self.pictures_every
        return self.folder is not None and every > 0 and iteration % every == 0

    def picture(self, name: str, draw: Callable[[], UInt8Image]) -> None:
        """Writes one picture, RGB uint8 ``(H, W, 3)``, as ``name.jpg``."""
        if self.folder is None:
            return
        import cv2

        self.folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.folder / f"{name}.jpg"), np.ascontiguousarray(draw()[:, :, ::-1]))


def read_counts(folder: Path) -> list[dict[str, float]]:
    """What ``StepLog`` wrote, one entry per epoch; empty where nothing was.

    An epoch that was counted, but interrupted before its checkpoint, is there twice: the later
    one is what the training went on from.
    """
    file = folder / "counts.jsonl"
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list({line["epoch"]: line for line in lines}.values())


@dataclass(frozen=True)
class StepContext:
    """What a method works with.

    Attributes:
        model: the network that is trained, without any wrapper.
        plain: ultralytics' own criterion for it, ``(outputs, batch)`` to losses times the
            batch size, shape ``(3,)``, and detached values by name.
        classes: detector classes in order.
        moment: where the training is.
        averaged: the running average of the network, in eval mode.
        log: counts and pictures.
        seed: for the method's own draws.
        source_mean: mean colour of the labelled pictures, RGB in 0..1.
    """

    model: DetectionModel
    plain: Callable[[Any, dict[str, Any]], tuple[Tensor, dict[str, Tensor]]]
    classes: tuple[str, ...]
    moment: Callable[[], Moment]
    averaged: Callable[[], DetectionModel]
    log: StepLog
    seed: int = 0
    source_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)


class StepLoss(Protocol):
    """A criterion in ultralytics' sense."""

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of one step.

        Args:
            preds: the network's training outputs for ``batch["img"]``: a dict with ``boxes``
                ``(B, 4 * bins, N)``, ``scores`` ``(B, classes, N)`` and ``feats``, or a tuple
                whose second entry is one.
            batch: ``img`` ``(B, 3, H, W)`` in 0..1, ``cls`` ``(n, 1)``, ``bboxes`` ``(n, 4)``
                centre boxes as fractions, ``batch_idx`` ``(n,)``; with a method that wants
                them ``target_img`` ``(B', 3, H, W)``, or ``patches`` ``(p, 4)`` corners as
                fractions with ``patch_idx`` ``(p,)``.

        Returns:
            Losses to be summed, times the batch size, and detached values by name without
            that factor; the same names at every step.
        """
        ...


Learns = Literal["source", "target"]


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One line of a table of methods.

    Attributes:
        name: as given on the command line.
        title: in words.
        module: imported when asked for; has ``Options`` and ``build(context, options)``.
            None: ultralytics' own criterion.
        learns_from: whose labels are read, in domain adaptation.
        every_label: labels outside the patch are read as well, for reference.
        wants_target: unlabelled pictures of the target come with every batch.
        wants_patches: labelled patches come with every batch.
        pictures: how sparsely labelled pictures are given: whole, with what is outside the
            patch painted over, or cut to the patch.
    """

    name: str
    title: str
    module: str | None = None
    learns_from: Learns = "source"
    every_label: bool = False
    wants_target: bool = False
    wants_patches: bool = False
    pictures: Literal["whole", "masked", "crops"] = "whole"

    def options(self, given: Mapping[str, Any]) -> MethodOptions:
        """Checked options.

        Raises:
            SettingsError: an unknown option or a bad value.
        """
        kind: type[MethodOptions] = MethodOptions
        if self.module is not None:
            kind = import_module(self.module).Options
        try:
            return kind.model_validate(dict(given))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            # A rule about several options together has no place of its own.
            option = f"option {where}" if where else "options"
            why = first["msg"].removeprefix("Value error, ")
            known = ", ".join(kind.model_fields) or "none"
            raise SettingsError(f"method {self.name}, {option}: {why}; options: {known}") from error

    def build(self, context: StepContext, given: Mapping[str, Any]) -> StepLoss | None:
        """The criterion, or None for ultralytics' own.

        Raises:
            SettingsError: see ``options``.
        """
        options = self.options(given)
        if self.module is None:
            return None
        built: StepLoss = import_module(self.module).build(context, options)
        return built


def find_row(rows: tuple[MethodRow, ...], name: str) -> MethodRow:
    """The row of that name.

    Raises:
        SettingsError: none is.
    """
    for row in rows:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in rows)
    raise SettingsError(f"method {name!r}: unknown; choose one of {known}")


def boxes_on(
    image: UInt8Image, boxes_xyxy: Float32Array, class_ids: Int64Array, classes: tuple[str, ...]
) -> UInt8Image:
    """A picture with its boxes drawn, for people to look at; a copy.

    Args:
        image: RGB uint8 ``(H, W, 3)``.
        boxes_xyxy: float32 ``(n, 4)``, pixels.
        class_ids: int64 ``(n,)``.
        classes: only their number matters; the first three have fixed colours.
    """
    import cv2

    drawn = np.ascontiguousarray(image.copy())
    colours = ((200, 0, 60), (0, 120, 255), (0, 150, 0), (160, 0, 200), (240, 140, 0))
    for box, label in zip(boxes_xyxy.tolist(), class_ids.tolist(), strict=True):
        x1, y1, x2, y2 = (round(value) for value in box)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colours[label % len(colours)], 1)
    return drawn
