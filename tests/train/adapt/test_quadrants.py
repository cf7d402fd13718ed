"""Which quarter is surest, pictures mixed along quarters, and what happens to boxes there."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from tests.train.adapt.adapt_support import SIDE, boxes  # noqa: E402
from train.adapt.confmix import sure_share  # noqa: E402
from train.adapt.pseudo_boxes import PseudoBoxes  # noqa: E402
from train.adapt.quadrants import (  # noqa: E402
    LEFT_BOTTOM,
    LEFT_TOP,
    RIGHT_BOTTOM,
    RIGHT_TOP,
    mixed_boxes,
    mixed_images,
    quadrant_of,
    surest_quadrants,
)

pytestmark = pytest.mark.train

ORDER = (LEFT_BOTTOM, LEFT_TOP, RIGHT_BOTTOM, RIGHT_TOP)
ALL = (LEFT_TOP, LEFT_BOTTOM, RIGHT_TOP, RIGHT_BOTTOM)
ROW, COLUMN = 32, 48
HEIGHT, WIDTH = 64, 96


def box(x: float, y: float, half: float = 4) -> tuple[float, float, float, float]:
    return (x - half, y - half, x + half, y + half)


def many(count: int, pictures: int, seed: int) -> PseudoBoxes:
    draws = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed))
    limits = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]).float()
    ends = draws[:, :4] * limits
    corners = torch.cat(
        [torch.minimum(ends[:, :2], ends[:, 2:]), ends[:, :2].maximum(ends[:, 2:])], 1
    )
    index = torch.arange(count) * pictures // count
    return PseudoBoxes(index, corners, torch.zeros(count).long(), draws[:, 4]).without_slivers()


def test_centres_on_a_line_are_right_and_bottom() -> None:
    table = boxes([(0, box(x, y), 0, 0.5) for x, y in ((47, 31), (47, 32), (48, 31), (48, 32))])
    assert quadrant_of(table, ROW, COLUMN).tolist() == list(ALL)


def test_highest_mean_wins_picture_by_picture() -> None:
    table = boxes(
        [
            (0, box(10, 10), 0, 0.9),
            (0, box(20, 20), 0, 0.3),
            (0, box(60, 10), 0, 0.7),
            (1, box(60, 50), 0, 0.26),
            (3, box(10, 50), 0, 0.5),
            (3, box(60, 50), 0, 0.5),
        ]
    )
    found = surest_quadrants(table, 4, ROW, COLUMN, ORDER)
    # The third picture has no box at all, the fourth two quarters alike: the first in order.
    assert found.tolist() == [RIGHT_TOP, RIGHT_BOTTOM, LEFT_BOTTOM, LEFT_BOTTOM]
    other = surest_quadrants(
        table, 4, ROW, COLUMN, (RIGHT_BOTTOM, LEFT_BOTTOM, LEFT_TOP, RIGHT_TOP)
    )
    assert other.tolist()[2:] == [RIGHT_BOTTOM, RIGHT_BOTTOM]


def test_pixels_are_the_targets_in_the_quarter_and_the_sources_elsewhere() -> None:
    source, target = torch.zeros(4, 3, HEIGHT, WIDTH), torch.ones(4, 3, HEIGHT, WIDTH)
    mixed = mixed_images(source, target, torch.tensor(ALL))
    wanted = torch.zeros(4, 3, HEIGHT, WIDTH)
    wanted[0, :, :ROW, :COLUMN] = 1
    wanted[1, :, ROW:, :COLUMN] = 1
    wanted[2, :, :ROW, COLUMN:] = 1
    wanted[3, :, ROW:, COLUMN:] = 1
    assert torch.equal(mixed, wanted)


def test_boxes_are_clipped_beside_and_above_and_left_alone_across() -> None:
    quadrants = torch.tensor([LEFT_TOP])
    source = boxes(
        [
            (0, (40, 4, 70, 20), 0, 0.9),  # beside, reaches in
            (0, (4, 24, 20, 60), 1, 0.8),  # below, reaches in
            (0, (40, 28, 90, 60), 2, 0.7),  # across, reaches in
            (0, (10, 10, 30, 30), 3, 0.6),  # in it
        ]
    )
    target = boxes(
        [
            (0, (30, 20, 60, 40), 4, 0.5),  # in it, reaches out at both sides
            (0, (60, 4, 80, 20), 5, 0.4),  # elsewhere
        ]
    )
    mixed = mixed_boxes(source, target, quadrants, ROW, COLUMN)
    assert mixed.class_ids.tolist() == [0, 1, 2, 4]
    assert mixed.boxes_xyxy.tolist() == [
        [48, 4, 70, 20],
        [4, 32, 20, 60],
        [40, 28, 90, 60],
        [30, 20, 48, 32],
    ]


@pytest.mark.parametrize("quadrant", ALL)
def test_each_label_lies_on_its_own_ground(quadrant: int) -> None:
    quadrants = torch.full((4,), quadrant)
    source, target = many(400, 4, seed=1), many(400, 4, seed=2)
    source = PseudoBoxes(source.pictures, source.boxes_xyxy, source.class_ids, source.confidences)
    target = PseudoBoxes(
        target.pictures, target.boxes_xyxy, target.class_ids + 1, target.confidences
    )
    mixed = mixed_boxes(source, target, quadrants, ROW, COLUMN)
    assert (mixed.pictures.diff() >= 0).all()
    place = quadrant_of(mixed, ROW, COLUMN)
    theirs = mixed.class_ids == 1
    assert 0 < theirs.sum() < len(theirs)
    assert (place[theirs] == quadrant).all()
    assert (place[~theirs] != quadrant).all()
    x1, y1, x2, y2 = mixed.boxes_xyxy.unbind(1)
    left = COLUMN if quadrant >= RIGHT_TOP else 0
    top = ROW if quadrant % 2 else 0
    within = (x1 >= left) & (x2 <= left + COLUMN) & (y1 >= top) & (y2 <= top + ROW)
    assert within[theirs].all()
    meets = (x1 < left + COLUMN) & (x2 > left) & (y1 < top + ROW) & (y2 > top)
    across = place == 3 - quadrant
    assert not meets[~theirs & ~across].any()
    assert meets[~theirs & across].any()


def test_same_picture_and_same_boxes_change_nothing() -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    table = boxes([(0, box(10, 10), 0, 0.9), (1, box(50, 50), 1, 0.8), (1, box(10, 50), 0, 0.3)])
    quadrants = surest_quadrants(table, 2, 32, 32, ORDER)
    assert torch.equal(mixed_images(images, images, quadrants), images)
    mixed = mixed_boxes(table, table, quadrants, 32, 32)
    assert sorted(mixed.boxes_xyxy.tolist()) == sorted(table.boxes_xyxy.tolist())


def test_weight_of_a_mixed_batch_is_the_share_of_sure_labels() -> None:
    assert sure_share(torch.zeros(0), 0.5) == 0.0
    assert sure_share(torch.tensor([0.5, 0.51, 0.9, 0.2]), 0.5) == 0.5
    assert sure_share(torch.tensor([0.6]), 0.5) == 1.0
