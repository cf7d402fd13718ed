"""Patches go where their pictures go, through every augmentation that is allowed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.errors import DataError, SettingsError

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from ultralytics.cfg import get_cfg  # noqa: E402

from tests.train.attributed_fields import (  # noqa: E402
    CLASSES,
    SCHEMA,
    class_of,
    colour_at,
    write_fields,
)
from train.patched_dataset import PatchedAttributedDataset, PatchedDataset  # noqa: E402

pytestmark = pytest.mark.train

PLAIN = {
    "hsv_h": 0.0,
    "hsv_s": 0.0,
    "hsv_v": 0.0,
    "mosaic": 0.0,
    "fliplr": 0.0,
    "translate": 0.0,
    "scale": 0.0,
    "erasing": 0.0,
}
SIDE = 128
Patch = tuple[float, float, float, float]


def write_painted(root: Path, count: int = 4) -> tuple[Path, dict[str, Patch]]:
    """Pale fields with a blue patch; in it one dark cell, but none in every second field."""
    rng = np.random.default_rng(0)
    images, labels = root / "images" / "train", root / "labels" / "train"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    patches: dict[str, Patch] = {}
    for index in range(count):
        height, width = (96, 128) if index % 2 else (128, 128)
        pixels = np.full((height, width, 3), (225, 225, 225), np.uint8)
        w, h = (int(value) for value in rng.integers(40, 64, 2))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        pixels[y : y + h, x : x + w] = (255, 0, 0)
        name = f"{index}.png"
        cv2.imwrite(str(images / name), pixels)
        patches[name] = (x / width, y / height, (x + w) / width, (y + h) / height)
        row = f"1 {(x + w / 2) / width} {(y + h / 2) / height} {16 / width} {16 / height}\n"
        (labels / f"{index}.txt").write_text("" if index % 2 else row)
    return images, patches


def dataset(
    images: Path, patches: dict[str, Patch], *, augment: bool = True, **changes: Any
) -> PatchedDataset:
    classes = changes.pop("classes", None)
    single_cls = changes.pop("single_cls", False)
    return PatchedDataset(
        patches=patches,
        img_path=str(images),
        imgsz=SIDE,
        augment=augment,
        hyp=get_cfg(overrides={**PLAIN, **changes}),
        data={"names": dict(enumerate(CLASSES)), "nc": len(CLASSES), "channels": 3},
        batch_size=4,
        classes=classes,
        single_cls=single_cls,
    )


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Patch]]:
    return write_painted(tmp_path_factory.mktemp("painted"))


def blue_of(sample: dict[str, Any]) -> NDArray[np.bool_]:
    red, green, blue = sample["img"].numpy().astype(int)
    return np.asarray((blue > 180) & (red < 80) & (green < 80))


def covered(sample: dict[str, Any], grow: float) -> NDArray[np.bool_]:
    height, width = sample["img"].shape[1:]
    mask = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in sample["patches"].tolist():
        left, top = max(round(x1 * width - grow), 0), max(round(y1 * height - grow), 0)
        right, bottom = round(x2 * width + grow), round(y2 * height + grow)
        mask[top : max(bottom, 0), left : max(right, 0)] = True
    return mask


def check_patches(sample: dict[str, Any], most_lost: float = 0) -> int:
    """Patches must cover what is blue and nothing else, give or take two pixels of a border.

    Of a patch that a mosaic cuts to less than a tenth, ultralytics drops the rest as it drops
    the rest of a cell; it then counts as unlabelled. ``most_lost`` is the area of such a rest.
    """
    blue = blue_of(sample)
    assert blue.sum() > 200
    lost = (blue & ~covered(sample, 2)).astype(np.uint8)
    pieces = cv2.connectedComponentsWithStats(lost)[2][1:, cv2.CC_STAT_AREA]
    assert (pieces <= most_lost).all()
    assert not (covered(sample, -2) & ~blue).any()
    assert (sample["patches"] >= 0).all()
    assert (sample["patches"] <= 1).all()
    # No patch among the cells.
    assert (sample["cls"] < len(CLASSES)).all()
    assert len(sample["cls"]) == len(sample["bboxes"]) == len(sample["batch_idx"])
    return len(sample["patches"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fliplr": 1.0},
        {"flipud": 1.0},
        {"translate": 0.2, "scale": 0.4},
        {"mosaic": 1.0},
        {"mosaic": 1.0, "fliplr": 0.5, "flipud": 0.5, "scale": 0.3, "translate": 0.1},
    ],
    ids=lambda changes: "+".join(changes) or "none",
)
def test_patches_cover_what_they_covered(
    painted: tuple[Path, dict[str, Patch]], changes: dict[str, Any]
) -> None:
    fields = dataset(*painted, **changes)
    random.seed(2)
    np.random.seed(2)
    # A tenth of the largest patch, scaled as much as the case allows.
    lost = 0.1 * (64 * 64) * (1 + changes.get("scale", 0.0)) ** 2 if "mosaic" in changes else 0
    samples = [fields[index] for index in range(len(fields)) for _ in range(4)]
    counts = [check_patches(sample, lost) for sample in samples]
    assert max(counts) > 1 if "mosaic" in changes else set(counts) == {1}


def test_flips_move_patches(painted: tuple[Path, dict[str, Patch]]) -> None:
    plain, flipped = dataset(*painted)[0], dataset(*painted, fliplr=1.0)[0]
    x1, y1, x2, y2 = plain["patches"][0].tolist()
    assert flipped["patches"][0].tolist() == pytest.approx([1 - x2, y1, 1 - x1, y2], abs=1e-5)


def test_padding_is_outside(painted: tuple[Path, dict[str, Patch]]) -> None:
    images, patches = painted
    # All of the wide picture is labelled, so above and below it there is padding only.
    sample = dataset(images, dict.fromkeys(patches, (0.0, 0.0, 1.0, 1.0)), augment=False)[1]
    assert sample["img"].shape[1:] == (SIDE, SIDE)
    assert sample["patches"][0].tolist() == pytest.approx([0, 16 / 128, 1, 112 / 128], abs=0.01)


def test_field_whose_patch_has_no_cell_survives(painted: tuple[Path, dict[str, Patch]]) -> None:
    fields = dataset(*painted)
    samples = [fields[index] for index in range(4)]
    assert [len(sample["cls"]) for sample in samples] == [1, 0, 1, 0]
    assert [len(sample["patches"]) for sample in samples] == [1] * 4
    batch = PatchedDataset.collate_fn(samples)
    assert batch["patches"].shape == (4, 4)
    assert batch["patch_idx"].tolist() == [0, 1, 2, 3]
    assert batch["batch_idx"].tolist() == [0, 2]
    assert batch["patches"].dtype == torch.float32
    assert batch["patch_idx"].dtype == torch.int64


def test_batches_of_mosaics_say_whose_each_patch_is(
    painted: tuple[Path, dict[str, Patch]],
) -> None:
    fields = dataset(*painted, mosaic=1.0)
    random.seed(0)
    np.random.seed(0)
    samples = [fields[index] for index in range(3)]
    batch = PatchedDataset.collate_fn(samples)
    for index, sample in enumerate(samples):
        assert torch.equal(batch["patches"][batch["patch_idx"] == index], sample["patches"])


def test_choosing_classes_leaves_patches_alone(painted: tuple[Path, dict[str, Patch]]) -> None:
    for changes, cells in (({"single_cls": True}, [0.0]), ({"classes": [0]}, [])):
        sample = dataset(*painted, **changes)[0]
        check_patches(sample)
        assert sample["cls"].flatten().tolist() == cells
        assert len(sample["patches"]) == 1


def test_closing_the_mosaic_keeps_patches(painted: tuple[Path, dict[str, Patch]]) -> None:
    fields = dataset(*painted, mosaic=1.0)
    hyp: Any = get_cfg(overrides={**PLAIN, "mosaic": 1.0})
    fields.close_mosaic(hyp)
    assert check_patches(fields[0]) == 1


@pytest.mark.parametrize("name", ["degrees", "shear", "perspective", "mixup", "cutmix"])
def test_augmentations_that_break_patches_are_refused(
    painted: tuple[Path, dict[str, Patch]], name: str
) -> None:
    given: dict[str, Any] = {name: 0.0005}
    with pytest.raises(SettingsError, match=f"{name}: a labelled patch does not survive it"):
        dataset(*painted, **given)
    # Not in validation, where nothing is augmented.
    assert dataset(*painted, augment=False, **given)


def test_field_without_a_patch_is_an_error(painted: tuple[Path, dict[str, Patch]]) -> None:
    images, patches = painted
    with pytest.raises(DataError, match=r"3\.png: no patch is known of it"):
        dataset(images, {name: patch for name, patch in patches.items() if name != "3.png"})


def test_attributes_stay_with_their_cells(tmp_path: Path) -> None:
    images = write_fields(tmp_path, "train", 4)
    names = [path.name for path in images.iterdir()]
    fields = PatchedAttributedDataset(
        patches=dict.fromkeys(names, (0.1, 0.1, 0.6, 0.9)),
        schema=SCHEMA,
        img_path=str(images),
        imgsz=SIDE,
        augment=True,
        hyp=get_cfg(overrides={**PLAIN, "mosaic": 1.0, "fliplr": 0.5}),
        data={"names": dict(enumerate(CLASSES)), "nc": len(CLASSES), "channels": 3},
        batch_size=4,
    )
    random.seed(1)
    np.random.seed(1)
    samples = [fields[index] for index in range(4)]
    for sample in samples:
        height, width = sample["img"].shape[1:]
        assert len(sample["attributes"]) == len(sample["cls"]) > 0
        for box, kind, values in zip(
            sample["bboxes"].tolist(),
            sample["cls"].flatten().tolist(),
            sample["attributes"].tolist(),
            strict=True,
        ):
            colour = colour_at(sample["img"].numpy(), box[0] * width, box[1] * height)
            assert (values[0], kind) == (colour, class_of(colour))
    batch = PatchedAttributedDataset.collate_fn(samples)
    assert len(batch["attributes"]) == len(batch["bboxes"]) == len(batch["batch_idx"])
    assert len(batch["patches"]) == len(batch["patch_idx"]) >= 4
