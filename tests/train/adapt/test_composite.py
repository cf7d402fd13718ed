"""Augmented copies keep boxes and classes together, and composites put them in their places."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from tests.train.adapt.adapt_support import SIDE, boxes  # noqa: E402
from train.adapt.composite import composites, surest_crops  # noqa: E402
from train.adapt.crop_augment import (  # noqa: E402
    AugmentOptions,
    LabelledCrop,
    augmented,
    blurred,
    cut,
    downscaled,
    jittered,
    lit,
    mirrored,
    safe_cut,
)

pytestmark = pytest.mark.train

FILL = (0.1, 0.2, 0.3)
NEVER = AugmentOptions(crop=0, flip=0, blur=0, jitter=0, downscale=0, light=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crop_with(rows: list[tuple[tuple[float, float, float, float], int]]) -> LabelledCrop:
    """A grey picture 32 high and 40 wide, each box painted in its class's own brightness."""
    image = torch.full((3, 32, 40), 0.05)
    for (x1, y1, x2, y2), label in rows:
        image[:, int(y1) : int(y2), int(x1) : int(x2)] = (label + 1) / 5
    return LabelledCrop(
        image,
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.int64),
        torch.linspace(0.9, 0.5, len(rows)),
    )


CELLS = [((4.0, 4.0, 12.0, 14.0), 2), ((20.0, 6.0, 36.0, 20.0), 0), ((6.0, 20.0, 14.0, 30.0), 3)]


def test_surest_quarter_is_cut_out_with_its_boxes() -> None:
    images = torch.arange(3 * 3 * SIDE * 96).reshape(3, 3, SIDE, 96).float()
    table = boxes(
        [
            (0, (10, 10, 20, 20), 1, 0.3),
            (0, (44, 40, 90, 60), 2, 0.8),
            (2, (2, 2, 12, 12), 0, 0.4),
        ]
    )
    crops = surest_crops(images, table)
    # The second picture has nothing in it, and is left out.
    assert len(crops) == 2
    assert torch.equal(crops[0].image, images[0, :, 32:, 48:])
    assert crops[0].boxes_xyxy.tolist() == [[0, 8, 42, 28]]
    assert crops[0].class_ids.tolist() == [2]
    assert torch.equal(crops[1].image, images[2, :, :32, :48])
    assert surest_crops(images, boxes([])) == []


def test_copies_without_augmentation_are_four_alike() -> None:
    crops = [crop_with(CELLS), crop_with(CELLS[:1])]
    images, labels = composites(
        crops, lambda crop: augmented(crop, NEVER, generator()), (64, 80), FILL
    )
    assert images.shape == (2, 3, 64, 80)
    for y in (0, 32):
        for x in (0, 40):
            assert torch.equal(images[0, :, y : y + 32, x : x + 40], crops[0].image)
    assert len(labels) == 4 * 3 + 4 * 1
    assert labels.pictures.tolist() == [0] * 12 + [1] * 4
    own = labels.boxes_xyxy[:12].reshape(4, 3, 4) - crops[0].boxes_xyxy
    assert own[:, :, :2].unique(dim=1).squeeze(1).tolist() == [[0, 0], [0, 32], [40, 32], [40, 0]]
    assert labels.class_ids[:12].tolist() == [2, 0, 3] * 4
    # Every box lies on its own cell.
    x, y = labels.centres
    seen = images[labels.pictures, 0, y.long(), x.long()]
    assert seen.tolist() == pytest.approx([(label + 1) / 5 for label in labels.class_ids.tolist()])


def test_smaller_copies_lie_top_left_over_the_fill() -> None:
    crop = crop_with(CELLS)
    images, _ = composites([crop], lambda each: cut(each, 0, 0, 30, 20), (64, 80), FILL)
    assert torch.equal(images[0, :, 32:52, 40:70], crop.image[:, :20, :30])
    for column in (images[0, :, 25, 10], images[0, :, 10, 35], images[0, :, 63, 79]):
        assert column.tolist() == pytest.approx(FILL)


def test_classes_stay_with_their_boxes_when_others_drop() -> None:
    part = cut(crop_with(CELLS), 16, 0, 40, 32)
    assert part.class_ids.tolist() == [0]
    assert part.boxes_xyxy.tolist() == [[4, 6, 20, 20]]
    assert part.confidences.tolist() == pytest.approx([0.7])
    assert cut(crop_with(CELLS), 36, 28, 40, 32).boxes_xyxy.shape == (0, 4)


def test_mirrored_twice_is_the_same_and_once_moves_boxes_with_cells() -> None:
    crop = crop_with(CELLS)
    once = mirrored(crop)
    for (x1, y1, x2, y2), label in zip(
        once.boxes_xyxy.tolist(), once.class_ids.tolist(), strict=True
    ):
        assert (once.image[:, int(y1) : int(y2), int(x1) : int(x2)] == (label + 1) / 5).all()
    assert torch.equal(mirrored(once).image, crop.image)
    assert torch.equal(mirrored(once).boxes_xyxy, crop.boxes_xyxy)


def test_a_safe_cut_loses_no_box_and_little_of_any() -> None:
    crop, draws = crop_with(CELLS), generator()
    area = (crop.boxes_xyxy[:, 2] - crop.boxes_xyxy[:, 0]) * (
        crop.boxes_xyxy[:, 3] - crop.boxes_xyxy[:, 1]
    )
    sizes = set()
    for _ in range(100):
        part = safe_cut(crop, 0.1, draws)
        assert part.class_ids.tolist() == [2, 0, 3]
        left = (part.boxes_xyxy[:, 2] - part.boxes_xyxy[:, 0]) * (
            part.boxes_xyxy[:, 3] - part.boxes_xyxy[:, 1]
        )
        assert (left >= area * 0.8**2 - 1e-3).all()
        sizes.add(tuple(part.image.shape[1:]))
    assert len(sizes) > 10
    alone = safe_cut(crop_with([]), 0.1, draws)
    assert alone.image.shape[1] >= 32 * 0.8


def test_colours_stay_in_range_and_what_shall_not_change_does_not() -> None:
    image = torch.rand(3, 24, 32, generator=generator())
    assert torch.equal(blurred(image, 1), image)
    assert blurred(image, 3).std() < image.std()
    assert blurred(image, 3).shape == image.shape
    small = downscaled(image, 0.5)
    assert torch.equal(small[:, ::2, ::2], small[:, 1::2, 1::2])
    assert downscaled(image, 1.0).equal(image)
    assert lit(image, 0.0, generator()).equal(image)
    assert jittered(image, 0.0, generator()).sub(image).abs().max() < 1e-5
    for seed in range(10):
        for changed in (jittered(image, 0.2, generator(seed)), lit(image, 0.1, generator(seed))):
            assert 0 <= changed.min() <= changed.max() <= 1
            assert not torch.equal(changed, image)


def test_draws_come_from_the_given_generator_alone() -> None:
    crop, options = crop_with(CELLS), AugmentOptions()
    before = torch.get_rng_state()
    first = [augmented(crop, options, generator(1)).image for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert first[0].equal(first[1])
    draws = generator(1)
    copies = [augmented(crop, options, draws) for _ in range(40)]
    assert len({tuple(copy.image.flatten()[:50].tolist()) for copy in copies}) > 20
    assert {tuple(copy.class_ids.tolist()) for copy in copies} == {(2, 0, 3)}
