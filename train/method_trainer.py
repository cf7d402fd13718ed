"""Ultralytics' trainer with a method's loss, pictures without labels, and patches.

Owns what a method's run adds to ultralytics: the section ``method`` of the data YAML, the
second stream of pictures, patches through augmentations, the clock of a phase. Does not own
the methods (see ``step_loss``) nor phases (see ``method_run``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ultralytics.data import build_dataloader
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from edge_runtime.errors import SettingsError
from train import adapt, sparse
from train.attributed_dataset import AttributedDataset
from train.dataset_arguments import dataset_arguments
from train.datasets.patches import read_patches
from train.models.attridet import AttriDetSettings, AttriDetTrainer
from train.patched_dataset import PatchedAttributedDataset, PatchedDataset
from train.step_loss import TARGET_IMAGES, MethodRow, Moment, StepContext, StepLog, find_row

METHOD_KEY = "method"
LOG_FOLDER = "method"


class MethodSettings(BaseModel):
    """The section ``method`` of the data YAML, which every process of a run reads.

    Attributes:
        table: ``adapt`` or ``sparse``.
        name: of the method in it.
        options: the method's own.
        target: folder of unlabelled pictures, where the method wants some.
        patches: file ``patches.csv`` of the training pictures, where it wants patches.
        pictures_every: steps between two pictures of what is learnt from; 0 for none.
        source_mean: mean colour of the labelled pictures, RGB in 0..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Literal["adapt", "sparse"]
    name: str
    options: dict[str, Any] = {}
    target: str | None = None
    patches: str | None = None
    pictures_every: int = Field(default=0, ge=0)
    source_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> MethodSettings:
        """The settings in a data YAML that ultralytics has read.

        Raises:
            SettingsError: no such section, or a bad one.
        """
        where = data.get("yaml_file", "data YAML")
        try:
            return cls.model_validate(data[METHOD_KEY])
        except KeyError as error:
            raise SettingsError(f"{where}: no section {METHOD_KEY!r}") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in (METHOD_KEY, *first["loc"]))
            raise SettingsError(f"{where}: {key}: {first['msg']}") from error

    @property
    def row(self) -> MethodRow:
        """The method's row.

        Raises:
            SettingsError: no such method.
        """
        return find_row(adapt.METHODS if self.table == "adapt" else sparse.METHODS, self.name)


class UnlabelledDataset(YOLODataset):
    """Pictures alone: label files, where there are any, are never opened.

    The firewall of unsupervised adaptation: nothing of the target but its pixels can reach
    the training, whatever lies beside the pictures.
    """

    def get_labels(self) -> list[dict[str, Any]]:
        """One empty label per picture."""
        return [
            {
                "im_file": file,
                "shape": None,
                "cls": np.zeros((0, 1), np.float32),
                "bboxes": np.zeros((0, 4), np.float32),
                "segments": [],
                "keypoints": None,
                "normalized": True,
                "bbox_format": "xywh",
            }
            for file in self.im_files
        ]


class _Stream:
    """Batches without end, of one size."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._batches: Iterator[dict[str, Any]] = iter(())

    def __call__(self) -> dict[str, Any]:
        try:
            return next(self._batches)
        except StopIteration:
            self._batches = iter(self._loader)
            return next(self._batches)


class _MethodSteps(DetectionTrainer):
    """What a method changes, for both trainers below."""

    _stream: _Stream | None = None
    _log: StepLog | None = None
    _steps = 0
    _began = 0.0

    @property
    def method(self) -> MethodSettings:
        """The run's method, from its data YAML."""
        return MethodSettings.from_data(self.data)

    def _setup_train(self, *args: Any, **kwargs: Any) -> None:
        setup: Any = super()._setup_train
        setup(*args, **kwargs)
        settings = self.method
        row = settings.row
        trained: Any = self.model
        network: Any = unwrap_model(trained)
        folder = Path(self.save_dir) / LOG_FOLDER if RANK in {-1, 0} else None
        self._log = StepLog(folder, settings.pictures_every)
        per_epoch = max(len(self.train_loader), 1)
        self._steps = self.start_epoch * per_epoch
        if row.wants_target:
            self._stream = _Stream(self._target_loader(settings))
        context = StepContext(
            model=network,
            plain=network.init_criterion(),
            classes=tuple(self.data["names"][place] for place in sorted(self.data["names"])),
            moment=lambda: Moment(
                max(self._steps - 1, 0), self.epochs * per_epoch, self.epoch, self.epochs
            ),
            averaged=self._averaged,
            log=self._log,
            seed=self.args.seed,
            source_mean=settings.source_mean,
        )
        built = row.build(context, settings.options)
        if built is not None:
            # Not part of any checkpoint: ultralytics copies the network for its average
            # before this, and only the average is saved.
            network.criterion = built
        self.add_callback("on_train_batch_start", _start_clock)
        self.add_callback("on_train_batch_end", _stop_clock)
        self.add_callback("on_train_epoch_end", _close_epoch)

    def _averaged(self) -> DetectionModel:
        average: Any = self.ema
        model: DetectionModel = average.ema
        return model

    def _target_loader(self, settings: MethodSettings) -> Any:
        if settings.target is None:
            raise SettingsError(f"method {settings.name}: needs pictures of the target")
        batch = self.batch_size // max(self.world_size, 1)
        dataset = UnlabelledDataset(**dataset_arguments(self, settings.target, "train", batch))
        return build_dataloader(
            dataset,
            batch=batch,
            workers=self.args.workers,
            shuffle=True,
            rank=RANK,
            # Every batch of the target is as large as one of the source, for fewer
            # pictures than that nothing would be left.
            drop_last=len(dataset) >= self.batch_size,
            device=self.device,
        )

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ultralytics' batch; with a method that wants them, pictures of the target."""
        prepared: dict[str, Any] = super().preprocess_batch(batch)
        self._steps += 1
        if self._stream is not None:
            prepared[TARGET_IMAGES] = super().preprocess_batch(self._stream())["img"]
        return prepared


def _start_clock(trainer: Any) -> None:
    trainer._began = time.perf_counter()


def _stop_clock(trainer: Any) -> None:
    trainer._log.count(timed_steps=1, seconds=time.perf_counter() - trainer._began)


def _close_epoch(trainer: Any) -> None:
    trainer._log.close_epoch(trainer.epoch)


class MethodTrainer(_MethodSteps):
    """A plain detector under a method."""

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Fields; with their patches where the method wants them."""
        settings = self.method
        if mode == "train" and settings.row.wants_patches:
            return PatchedDataset(
                patches=_patches(settings), **dataset_arguments(self, img_path, mode, batch)
            )
        return super().build_dataset(img_path, mode, batch)


class MethodAttriDetTrainer(_MethodSteps, AttriDetTrainer):
    """A detector with an attribute head under a method; the head learns from labelled cells."""

    def build_dataset(
        self, img_path: str, mode: str = "train", batch: int | None = None
    ) -> AttributedDataset:
        """Fields with attributes; with their patches where the method wants them."""
        settings = self.method
        if mode == "train" and settings.row.wants_patches:
            return PatchedAttributedDataset(
                patches=_patches(settings),
                schema=AttriDetSettings.from_data(self.data).attributes,
                **dataset_arguments(self, img_path, mode, batch),
            )
        return AttriDetTrainer.build_dataset(self, img_path, mode, batch)


def _patches(settings: MethodSettings) -> dict[str, tuple[float, float, float, float]]:
    """Patches of the training pictures by file name."""
    if settings.patches is None:
        raise SettingsError(f"method {settings.name}: needs a file with patches")
    found, bad = read_patches(Path(settings.patches), _Everything())
    if bad:
        raise SettingsError(f"{settings.patches}: {bad[0]}")
    return {name: patch for (split, name), patch in found.items() if split == "train"}


class _Everything:
    """Holds every picture: the file was written by the run itself."""

    def __contains__(self, item: object) -> bool:
        return True


# Imported here by name in a process that ultralytics starts for several GPUs.
__all__ = [
    "METHOD_KEY",
    "MethodAttriDetTrainer",
    "MethodSettings",
    "MethodTrainer",
    "UnlabelledDataset",
]
