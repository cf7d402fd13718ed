"""A tiny data root in the layout of the shared data, drawn in code."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from train.recipe import Recipe, load_recipe


def _draw(path: Path, rng: np.random.Generator, size: int = 160) -> tuple[int, int, int, int]:
    pixels = np.full((size, size, 3), (205, 225, 240), np.uint8)
    for _ in range(10):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        cv2.circle(pixels, (x, y), 14, (165, 170, 215), -1)
    x, y = (int(v) for v in rng.integers(50, size - 50, 2))
    cv2.circle(pixels, (x, y), 24, (190, 130, 170), -1)
    cv2.circle(pixels, (x, y), 15, (120, 40, 90), -1)
    cv2.imwrite(str(path), pixels)
    return x - 24, y - 24, x + 25, y + 25


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for domain in ("hcm_pbc", "lcm_raabin", "bccd"):
        for split in ("train", "val", "test"):
            images = root / "wbc-domains" / domain / "images" / split
            labels = root / "wbc-domains" / domain / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for index in range(3):
                x1, y1, x2, y2 = _draw(images / f"{split}{index}.jpg", rng)
                row = [(x1 + x2) / 320, (y1 + y2) / 320, (x2 - x1) / 160, (y2 - y1) / 160]
                text = "0 " + " ".join(f"{v:.6f}" for v in row) + "\n1 0.1 0.1 0.1 0.1\n"
                (labels / f"{split}{index}.txt").write_text(text)
    for name, table in (("wbc-masks", "labels.csv"), ("pbc-extra", "annotations.csv")):
        folder = root / name
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        with (folder / table).open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["file", "mask", "split", "x1", "y1", "x2", "y2"])
            for index in range(4):
                file = f"images/c{index}.png"
                box = _draw(folder / file, rng)
                mask = np.zeros((160, 160), np.uint8)
                centre = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
                cv2.circle(mask, centre, 24, 128, -1)
                cv2.imwrite(str(folder / f"masks/c{index}.png"), mask)
                split = "train" if name == "pbc-extra" or index < 2 else ("val", "test")[index - 2]
                writer.writerow([file, f"masks/c{index}.png", split, *box])
    return root


@pytest.fixture
def tiny_recipe(data_root: Path) -> Recipe:
    recipe = load_recipe("wbc-detector")
    compose = recipe.compose.model_copy(
        update={"images": 24, "size": 128, "validation_images": 4, "share_virtual": 0.0}
    )
    train = recipe.train.model_copy(update={"epochs": 1, "batch": 8})
    return recipe.model_copy(
        update={"data_root": str(data_root), "compose": compose, "train": train}
    )


@pytest.fixture(scope="session")
def microscopes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two microscopes, drawn with other cells each; tests may add folders, not change these."""
    from tests.train.method_support import write_microscopes

    return write_microscopes(tmp_path_factory.mktemp("microscopes"))
