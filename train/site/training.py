"""Ultralytics' detection trainer on pictures that change from epoch to epoch.

Owns showing each epoch its part of the plan, and one run of the trainer. Does not own the plan
(see ``plan``) nor the loop, AMP, EMA and early stopping, which are ultralytics'.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils.torch_utils import unwrap_model

from edge_runtime.errors import DataError
from train.phase_run import PhaseRun
from train.run_folder import storing
from train.site.plan import EpochPlan
from train.site.settings import SiteSettings

RUN = "run"
REJECTED = "rejected.pt"
_LISTED = 5


class PlannedDataset(YOLODataset):
    """All pictures of a plan, of which an epoch shows some, some of them several times."""

    def __init__(self, folder: str, plan: EpochPlan, **options: Any) -> None:
        super().__init__(img_path=folder, **options)
        if len(self.labels) != plan.site + plan.replay:
            taken = {Path(file).name for file in self.im_files}
            left = [each for each in Path(folder).iterdir() if each.name not in taken]
            shown = ", ".join(sorted(str(each.resolve()) for each in left)[:_LISTED])
            raise DataError(
                f"{len(left)} of {plan.site + plan.replay} pictures cannot be read by "
                f"ultralytics: {shown}; copy the data again"
            )
        self._plan = plan
        self._whole = (self.im_files, self.labels, self.npy_files)
        self.show(0)

    def show(self, epoch: int) -> None:
        """Makes the dataset that of one epoch; loaders must be reset after it."""
        chosen = self._plan.epoch(epoch).tolist()
        files, labels, arrays = self._whole
        self.im_files = [files[place] for place in chosen]
        self.labels = [labels[place] for place in chosen]
        self.npy_files = [arrays[place] for place in chosen]
        self.ni = len(chosen)
        self.ims, self.im_hw0, self.im_hw = ([None] * self.ni for _ in range(3))
        # Mosaic takes its partners from what was loaded last, so they keep the ratio as well.
        self.buffer: list[int] = []
        self.max_buffer_length = min(self.ni, self.batch_size * 8, 1000)


class SiteTrainer(DetectionTrainer):
    """The trainer; ``plan`` is set before it runs."""

    plan: EpochPlan

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """The planned pictures for training, the held-out ones as they are."""
        if mode != "train":
            return super().build_dataset(img_path, mode, batch)
        network: Any = self.model
        detector: Any = unwrap_model(network)
        return PlannedDataset(
            img_path,
            self.plan,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=True,
            hyp=self.args,
            rect=False,
            cache=None,
            single_cls=False,
            stride=max(int(detector.stride.max()), 32),
            pad=0.0,
            prefix="train: ",
            task=self.args.task,
            classes=None,
            data=self.data,
            fraction=1.0,
        )


def train_on_plan(
    settings: SiteSettings,
    plan: EpochPlan,
    out: Path,
    *,
    size: int,
    device: str,
    resume: bool,
    workers: int,
    threads: int,
) -> Path:
    """All epochs, those that are left, or none after a finished run.

    Returns:
        The checkpoint that was best on the held-out fields.

    Raises:
        DataError: ultralytics cannot read a picture of the source, or what is left of an
            interrupted run is damaged.
        SettingsError: the device's memory is too small.
        StoreError: the disk is full.
    """
    # Channels last: the same numbers in less time.
    run = PhaseRun(out, RUN, device, workers, threads, channels_last=True)
    best, rejected = run.weights / "best.pt", run.weights / REJECTED
    if not (resume and run.finished):

        def planned(overrides: dict[str, Any]) -> SiteTrainer:
            trainer = SiteTrainer(overrides=overrides)
            trainer.plan = plan
            trainer.add_callback("on_train_epoch_start", _show)
            return trainer

        # A model whose file names an activation makes it that of every later model.
        activation = Conv.default_act
        try:
            run.train(planned, _arguments(settings, out, size), resume=resume)
        finally:
            Conv.default_act = activation
    if rejected.is_file():
        # Stopped between the verdict and its record, a rejected one has its name already.
        return rejected
    if not best.is_file():
        # No epoch had a figure above nothing.
        with storing(out):
            best.write_bytes(run.last.read_bytes())
    return best


def held_out_curve(out: Path) -> list[float]:
    """AP50-95 of the held-out fields after each epoch, as the trainer measured it."""
    with (out / RUN / "results.csv").open(newline="") as handle:
        rows = [{key.strip(): text for key, text in row.items()} for row in csv.DictReader(handle)]
    return [float(row["metrics/mAP50-95(B)"]) for row in rows]


def best_epoch(curve: list[float]) -> int | None:
    """The epoch, from 1 on, that the best checkpoint is of: of equally good ones the last."""
    return len(curve) - int(np.argmax(curve[::-1])) if curve else None


def _show(running: Any) -> None:
    running.train_loader.dataset.show(running.epoch)
    running.train_loader.reset()


def _arguments(settings: SiteSettings, out: Path, size: int) -> dict[str, Any]:
    return {
        **settings.hyp.model_dump(),
        "model": settings.start_from,
        # The checkpoint itself brings its weights.
        "pretrained": True,
        "data": str(out / "data" / "data.yaml"),
        "epochs": settings.epochs,
        "imgsz": size,
        "batch": settings.batch,
        # One step for every batch. The usual 64 pictures a step leave three steps an epoch.
        "nbs": settings.batch,
        "seed": settings.seed,
        "deterministic": True,
        "plots": False,
        "erasing": 0.0,
        "auto_augment": None,
        # As everywhere in this house's figures; ultralytics' own is 0.7.
        "iou": 0.6,
    }
