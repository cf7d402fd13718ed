"""A detector trained with int8 rounding for one epoch on four drawn fields."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.types import Float32Array
from tests.export.conftest import CELL_PX, SIDE, paint_square
from tests.support import write_image

REPOSITORY = Path(__file__).resolve().parents[2]


def trained_with_rounding(folder: Path) -> tuple[Path, list[Float32Array]]:
    """The checkpoint, and the fields as input tensors."""
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.tasks import yaml_model_load

    pictures = []
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        for number in range(4):
            pixels = paint_square(number, 6 - number)
            write_image(folder / "images" / split / f"{number}.png", pixels)
            centre = ((number * 8 + CELL_PX / 2) / SIDE, ((6 - number) * 8 + CELL_PX / 2) / SIDE)
            label = folder / "labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"0 {centre[0]} {centre[1]} {CELL_PX / SIDE} {CELL_PX / SIDE}\n")
            pictures.append(np.float32(pixels.transpose(2, 0, 1)[None]) / np.float32(255))
    data: dict[str, Any] = {"path": str(folder), "names": {0: "WBC"}}
    data |= {split: f"images/{split}" for split in ("train", "val")}
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    document = {k: v for k, v in yaml_model_load("yolo11n.yaml").items() if k != "yaml_file"}
    document |= {"nc": 1, "activation": "torch.nn.ReLU()"}
    (folder / "yolo11n-relu.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    # Of the shipped detector: from random weights no scale would mean anything.
    start = REPOSITORY / "models" / "wbc-detector.pt"
    YOLO(str(folder / "yolo11n-relu.yaml"), task="detect", verbose=False).train(
        data=str(folder / "data.yaml"),
        pretrained=str(start),
        quantize=8,
        epochs=1,
        imgsz=SIDE,
        batch=2,
        optimizer="AdamW",
        lr0=0.0001,
        mosaic=0.0,
        warmup_bias_lr=0.0,
        device="cpu",
        workers=0,
        val=False,
        plots=False,
        amp=False,
        project=str(folder),
        name="run",
    )
    return folder / "run" / "weights" / "last.pt", pictures
