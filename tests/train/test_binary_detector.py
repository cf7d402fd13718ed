"""The first stage: what ultralytics is given, and a training of seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edge_runtime.errors import DataError, SettingsError
from tests.support import paint_field
from tests.train.drawn_cells import write_cells_folder, write_pcm_folder

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from train.binary_detector import (  # noqa: E402
    BinaryDetectorRecipe,
    open_finder,
    train_binary_detector,
    write_ultralytics_folder,
)
from train.datasets.cell_sources import CellSourceSpec, read_source  # noqa: E402

pytestmark = pytest.mark.train

SOURCE = CellSourceSpec(
    dataset="pcm-leukemia", path="pcm-leukemia", mapping="binary", validation="random"
)


def recipe_for(root: Path, **changes: Any) -> BinaryDetectorRecipe:
    document: dict[str, Any] = {
        "name": "drawn", "purpose": "test", "data_root": str(root), "source": SOURCE,
        "model": "yolo11n.yaml", "size": 64, "epochs": 1, "batch": 4, "mosaic": 0.0,
    }  # fmt: skip
    return BinaryDetectorRecipe.model_validate({**document, **changes})


def test_the_read_set_becomes_ultralytics_folders(tmp_path: Path) -> None:
    write_pcm_folder(tmp_path)
    found = read_source(SOURCE, tmp_path)
    document = yaml.safe_load(write_ultralytics_folder(found, tmp_path / "out").read_text())
    assert document["names"] == {0: "WBC", 1: "Other"}
    counts = {}
    for split in ("train", "val", "test"):
        pictures = sorted((tmp_path / "out" / document[split]).iterdir())
        labels = sorted((tmp_path / "out" / "labels" / split).iterdir())
        assert [each.stem for each in pictures] == [each.stem for each in labels]
        counts[split] = len(pictures)
        for picture, label in zip(pictures, labels, strict=True):
            rows = [line.split() for line in label.read_text().splitlines()]
            assert [row[0] for row in rows] == ["0", "1"]
            # The number in front is the set's; the rest is the picture's own name.
            name = picture.stem.partition("_")[2]
            source = tmp_path / "pcm-leukemia" / "labels"
            (own,) = [each for each in source.rglob(f"{name}.txt") if _same(each, picture)]
            wanted = [line.split()[1:] for line in own.read_text().splitlines()]
            for row, numbers in zip(rows, wanted, strict=True):
                assert [float(v) for v in row[1:]] == pytest.approx(
                    [float(v) for v in numbers], abs=1e-4
                )
    # A random fifth of the training pictures.
    assert counts == {"train": 8, "val": 2, "test": 4}


def _same(label: Path, picture: Path) -> bool:
    image = label.parent.parent.parent / "images" / label.parent.name / f"{label.stem}.png"
    return image.read_bytes() == picture.read_bytes()


def test_pictures_tested_elsewhere_are_left_out(tmp_path: Path) -> None:
    write_cells_folder(tmp_path, train=6, held_out=2)
    source = CellSourceSpec(dataset="pbc-attributes", path="pbc-attributes")
    write_ultralytics_folder(read_source(source, tmp_path), tmp_path / "out")
    names = {each.stem.partition("_")[2] for each in (tmp_path / "out/images/train").iterdir()}
    assert names == {"train2", "train3", "train4", "train5"}


def test_a_short_training_and_its_finder(tmp_path: Path) -> None:
    write_pcm_folder(tmp_path)
    best = train_binary_detector(recipe_for(tmp_path), tmp_path / "run", device="cpu", workers=0)
    assert best.is_file()
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["pictures"] == {"train": 8, "val": 2, "test": 4}
    arguments = yaml.safe_load((tmp_path / "run" / "run" / "args.yaml").read_text())
    wanted = {"optimizer": "SGD", "lr0": 0.01, "lrf": 0.01, "degrees": 10.0, "imgsz": 64}
    assert {key: arguments[key] for key in wanted} == wanted
    assert (arguments["fliplr"], arguments["flipud"]) == (0.5, 0.5)

    pixels = paint_field(96, 64, [(40, 32, 30)])
    # Two steps of training: which class it names is chance, that it names any is not.
    finds = [open_finder(best, cells=name, size=64, score=0.0)(pixels) for name in ("WBC", "Other")]
    boxes = np.concatenate([each.boxes_xyxy for each in finds])
    assert len(boxes) > 0
    assert boxes.dtype == np.float32
    assert boxes[:, 2].max() <= 96
    assert len(open_finder(best, cells="WBC", size=64, score=1.0)(pixels)) == 0
    with pytest.raises(SettingsError, match="finds WBC, Other, not 'cell'"):
        open_finder(best, cells="cell")
    with pytest.raises(SettingsError, match="holds a run already"):
        train_binary_detector(recipe_for(tmp_path), tmp_path / "run", device="cpu")


def test_what_cannot_be_trained_on(tmp_path: Path) -> None:
    write_pcm_folder(tmp_path)
    with pytest.raises(DataError, match="no checkpoint to resume"):
        train_binary_detector(recipe_for(tmp_path), tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(SettingsError, match=r"cells 'Blast': not one of WBC, Other"):
        train_binary_detector(recipe_for(tmp_path, cells="Blast"), tmp_path / "run", device="cpu")
    with pytest.raises(DataError, match="start_from none"):
        train_binary_detector(
            recipe_for(tmp_path, start_from="none.pt"), tmp_path / "run", device="cpu"
        )
    own = SOURCE.model_copy(update={"validation": "own"})
    with pytest.raises(DataError, match="no val picture; give the source another `validation`"):
        train_binary_detector(recipe_for(tmp_path, source=own), tmp_path / "run", device="cpu")
    with pytest.raises(DataError, match="no such file"):
        open_finder(tmp_path / "none.pt", cells="WBC")
