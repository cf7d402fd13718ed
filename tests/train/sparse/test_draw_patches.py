"""Patches drawn on fully labelled fields, and the pictures that the baselines see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import DataError, SettingsError
from train.datasets.labelled import LabelledImage, LabelledSet, Patch
from train.sparse.draw_patches import (
    crop_to_patch,
    draw_patch,
    draw_patches,
    masked_pixels,
    patch_pixels,
    with_patch,
)


def field(
    name: str = "a.png",
    boxes: list[list[float]] | None = None,
    split: str = "train",
    patch: Patch | None = None,
) -> LabelledImage:
    rows = np.array(boxes or [], np.float32).reshape(-1, 4)
    return LabelledImage(
        Path("images") / name,
        split,
        "drawn",
        rows,
        np.arange(len(rows), dtype=np.int64),
        np.zeros((len(rows), 0), np.int64),
        patch_xyxyn=patch,
    )


def labelled(*images: LabelledImage) -> LabelledSet:
    return LabelledSet("own", Path("set"), ("a", "b", "c"), None, images)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6, 1.0])
def test_patches_have_their_share_and_lie_inside(share: float) -> None:
    patches = np.array([draw_patch(f"{index}.png", 1, share) for index in range(300)])
    x1, y1, x2, y2 = patches.T
    width, height = x2 - x1, y2 - y1
    np.testing.assert_allclose(width * height, share, rtol=1e-6)
    assert (patches >= 0).all()
    assert (patches <= 1).all()
    ratio = width / height
    low, high = max(0.5, share), min(2.0, 1 / share)
    assert ratio.min() >= low - 1e-6
    assert ratio.max() <= high + 1e-6
    if share < 0.5:
        # Both shapes, and all over the picture.
        assert np.mean(ratio < 1) == pytest.approx(0.5, abs=0.1)
        room = x1 / (1 - width)
        assert np.histogram(room, 4, (0, 1))[0].min() > 50


def test_patches_depend_on_seed_and_name_alone() -> None:
    assert draw_patch("a.png", 0) == draw_patch("a.png", 0)
    others = {draw_patch("a.png", 1), draw_patch("b.png", 0), draw_patch("a.png", 0)}
    assert len(others) == 3
    first = labelled(field("a.png"), field("b.png"))
    second = labelled(field("b.png"), field("a.png"))
    one, two = (draw_patches(each, seed=4).images for each in (first, second))
    assert one[0].patch_xyxyn == two[1].patch_xyxyn


def test_cells_are_kept_by_their_centre_with_their_whole_box() -> None:
    boxes = [[0.3, 0.3, 0.1, 0.1], [0.49, 0.3, 0.2, 0.2], [0.51, 0.3, 0.2, 0.2]]
    kept = with_patch(field(boxes=boxes), (0.2, 0.2, 0.5, 0.6))
    np.testing.assert_array_equal(kept.boxes_xywhn, np.array(boxes[:2], np.float32))
    assert kept.class_ids.tolist() == [0, 1]
    assert kept.patch_xyxyn == (0.2, 0.2, 0.5, 0.6)


def test_only_training_pictures_get_patches() -> None:
    full = labelled(
        field("a.png", [[0.5, 0.5, 0.1, 0.1]]), field("b.png", [[0.5, 0.5, 0.1, 0.1]], "test")
    )
    sparse = draw_patches(full, seed=0, share=0.3)
    assert sparse.images[0].patch_xyxyn is not None
    assert sparse.images[1] is full.images[1]
    assert "0.3 of the area, seed 0" in sparse.notes[-1]
    with pytest.raises(SettingsError, match=r"a\.png: has a labelled patch already"):
        draw_patches(sparse, seed=1)


def test_bad_shares_and_limits_are_refused() -> None:
    for share in (0.0, 1.2, -1.0, float("nan")):
        with pytest.raises(SettingsError, match="share of patches"):
            draw_patch("a.png", 0, share)
    for aspect in ((2.0, 0.5), (0.0, 1.0), (3.0, 4.0)):
        with pytest.raises(SettingsError, match="aspect ratio of patches"):
            draw_patch("a.png", 0, 0.5, aspect)


@pytest.mark.parametrize(
    "patch",
    [(0.5, 0.5, 1.01, 0.9), (-0.1, 0.0, 0.5, 0.5), (0.5, 0.2, 0.4, 0.6), (0.0, 0.0, 0.0, 1.0)],
)
def test_patch_outside_the_picture_is_refused(patch: Patch) -> None:
    with pytest.raises(DataError, match=r"a\.png: labelled patch .* is not inside the picture"):
        field(patch=patch)
    with pytest.raises(DataError, match="is not inside the picture"):
        with_patch(field(), patch)


def test_masked_pictures_show_the_patch_only() -> None:
    pixels = np.random.default_rng(0).integers(0, 100, (40, 60, 3)).astype(np.uint8)
    before = pixels.copy()
    masked = masked_pixels(pixels, (0.25, 0.5, 0.75, 1.0))
    np.testing.assert_array_equal(masked[20:, 15:45], pixels[20:, 15:45])
    outside = np.ones((40, 60), bool)
    outside[20:, 15:45] = False
    assert (masked[outside] == 114).all()
    np.testing.assert_array_equal(pixels, before)
    assert masked.shape == pixels.shape


def test_patches_have_at_least_one_pixel() -> None:
    assert patch_pixels((0.0, 0.0, 1.0, 1.0), 30, 20) == (0, 0, 30, 20)
    assert patch_pixels((0.99, 0.99, 1.0, 1.0), 30, 20) == (29, 19, 30, 20)
    assert patch_pixels((0.5, 0.5, 0.501, 0.501), 10, 10) == (5, 5, 6, 6)


def test_crops_hold_the_patch_and_its_cells() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[40:60, 80:120] = 200
    pixels[70:90, 130:170] = 90
    # The second box reaches beyond the patch to the right and below.
    boxes = [[0.5, 0.5, 0.2, 0.2], [0.75, 0.8, 0.2, 0.2]]
    image = field(boxes=boxes, patch=(0.25, 0.25, 0.76, 0.82))
    crop, found, class_ids = crop_to_patch(image, pixels)
    assert crop.shape == (57, 102, 3)
    assert class_ids.tolist() == [0, 1]
    sides = np.array([102, 57] * 2)
    centre, size = found[:, :2], found[:, 2:]
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1) * sides
    np.testing.assert_allclose(corners, [[30, 15, 70, 35], [80, 45, 102, 57]], atol=1e-3)
    x1, y1, x2, y2 = (round(float(value)) for value in corners[0])
    assert (crop[y1:y2, x1:x2] == 200).all()
    assert (crop == 200).sum() == 3 * 20 * 40
    assert found.dtype == np.float32
    crop[:] = 1
    assert pixels.max() == 200


def test_crops_of_empty_patches_and_of_none() -> None:
    pixels = np.zeros((10, 10, 3), np.uint8)
    _, boxes, class_ids = crop_to_patch(field(patch=(0.0, 0.0, 0.5, 0.5)), pixels)
    assert (boxes.shape, class_ids.shape) == ((0, 4), (0,))
    with pytest.raises(SettingsError, match="has no labelled patch to cut out"):
        crop_to_patch(field(), pixels)


@pytest.mark.realdata
def test_a_fifth_of_real_fields_holds_a_fifth_of_their_cells(shared_data: Path) -> None:
    from train.datasets.yolo_set import read

    full = read(shared_data / "wbc-domains" / "bccd")
    shares = []
    for seed in range(3):
        sparse = draw_patches(full, seed=seed)
        pairs = list(zip(full.of_split("train"), sparse.of_split("train"), strict=True))
        assert len(pairs) > 100
        for _, image in pairs:
            assert image.patch_xyxyn is not None
            x1, y1, x2, y2 = image.patch_xyxyn
            assert (x2 - x1) * (y2 - y1) == pytest.approx(0.2, rel=0.01)
        kept, all_of_them = (sum(len(pair[at]) for pair in pairs) for at in (1, 0))
        shares.append(kept / all_of_them)
        assert sparse.of_split("test") == full.of_split("test")
    # A patch that lies inside the picture reaches the border rarely, and these fields have
    # many cells there: a little less than the share of the area.
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03)
