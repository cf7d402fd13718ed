"""What ultralytics' trainer tells its data set, for data sets made here.

Owns that list alone, which ultralytics keeps inside a function that makes its own data set.
"""

from __future__ import annotations

from typing import Any

from ultralytics.data.utils import get_split_fraction
from ultralytics.utils import colorstr
from ultralytics.utils.torch_utils import unwrap_model


def dataset_arguments(trainer: Any, img_path: str, mode: str, batch: int | None) -> dict[str, Any]:
    """The arguments of ``YOLODataset``.

    Args:
        trainer: of ultralytics, set up.
        img_path: folder of pictures.
        mode: ``train`` with augmentations, anything else without.
        batch: pictures per step, for rectangular batches.
    """
    training = mode == "train"
    detector: Any = unwrap_model(trainer.model)
    return {
        "img_path": img_path,
        "imgsz": trainer.args.imgsz,
        "batch_size": batch,
        "augment": training,
        "hyp": trainer.args,
        "rect": trainer.args.rect or not training,
        "cache": trainer.args.cache or None,
        "single_cls": trainer.args.single_cls or False,
        "stride": max(int(detector.stride.max()), 32),
        # Ultralytics' own margin for validation pictures.
        "pad": 0.0 if training else 0.5,
        "prefix": colorstr(f"{mode}: "),
        "task": "detect",
        "classes": trainer.args.classes,
        "data": trainer.data,
        "fraction": get_split_fraction(
            trainer.args.fraction, "train" if training else trainer.args.split
        ),
    }
