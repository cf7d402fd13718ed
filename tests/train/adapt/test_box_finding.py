"""Spread of sides against constants worked out by hand, and boxes found in planted outputs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from tests.train.adapt.adapt_support import (  # noqa: E402
    BINS,
    SHARP,
    SIDE,
    STRIDES,
    boxes,
    planted,
    sides,
)
from train.adapt.box_uncertainty import (  # noqa: E402
    box_confidence,
    box_share,
    detection_confidence,
    side_distances,
)
from train.adapt.pseudo_boxes import (  # noqa: E402
    PseudoBoxes,
    as_labels,
    find_boxes,
    from_labels,
    joined,
)

pytestmark = pytest.mark.train

# Centre (36, 36) with stride 8, in the first level of 64 px.
ANCHOR = 4 * 8 + 4
CERTAIN = sides((1,), (1,), (1,), (1,))


def find(
    outputs: object, threshold: float = 0.25, share: float = 0.0, classes: int = 2
) -> PseudoBoxes:
    return find_boxes(
        outputs,
        strides=STRIDES,
        thresholds=torch.full((classes,), threshold),
        nms_iou=0.5,
        sigma_reference=2.0,
        share=share,
    )


@pytest.mark.parametrize(
    ("bins", "mean", "deviation"),
    [
        ((3,), 3.0, 0.0),
        ((3, 4), 3.5, 0.5),
        (tuple(range(BINS)), 7.5, 4.6098),
        ((0, BINS - 1), 7.5, 7.5),
    ],
)
def test_spread_of_a_side(bins: tuple[int, ...], mean: float, deviation: float) -> None:
    logits = torch.zeros(BINS)
    logits[list(bins)] = SHARP
    found = side_distances(logits)
    assert found[0].item() == pytest.approx(mean, abs=1e-4)
    assert found[1].item() == pytest.approx(deviation, abs=1e-4)


def test_confidence_falls_with_spread_and_ends_at_the_reference() -> None:
    spreads = torch.linspace(0, 3, 13)[:, None].expand(-1, 4)
    confidence = box_confidence(spreads, 2.0)
    assert confidence[0] == 1
    assert confidence[4].item() == pytest.approx(0.5)
    below = spreads[:, 0] <= 2
    assert (confidence[below].diff() < 0).all()
    assert (confidence[~below] == 0).all()
    one_side = torch.tensor([2.0, 0.0, 0.0, 0.0])
    assert box_confidence(one_side, 2.0).item() == pytest.approx(0.75)


def test_schedule_of_the_boxes_share() -> None:
    assert box_share(0.0) == 0
    assert box_share(0.5) == pytest.approx(0.8483, abs=1e-4)
    assert box_share(1.0) == pytest.approx(0.9866, abs=1e-4)


def test_confidence_is_never_above_the_score() -> None:
    draws = torch.rand(2, 200, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.3, 1.0):
        assert (detection_confidence(draws[0], draws[1], share) <= draws[0]).all()
    assert torch.equal(detection_confidence(draws[0], draws[1], 0.0), draws[0])


def test_a_planted_box_is_found_where_it_is() -> None:
    found = find(planted(2, 2, [(1, ANCHOR, 1, 0.9, sides((1,), (2,), (2,), (1,)))]))
    assert found.pictures.tolist() == [1]
    assert found.class_ids.tolist() == [1]
    assert found.confidences.tolist() == pytest.approx([0.9])
    assert found.boxes_xyxy[0].tolist() == pytest.approx([28, 20, 52, 44], abs=1e-3)


def test_an_unsure_box_loses_confidence_as_the_adaptation_goes_on() -> None:
    vague = sides((1,), (1,), (1,), tuple(range(BINS)))
    outputs = planted(1, 2, [(0, ANCHOR, 0, 0.8, vague)])
    assert find(outputs).confidences.tolist() == pytest.approx([0.8])
    assert find(outputs, share=1.0).confidences.tolist() == pytest.approx([0.6])
    assert len(find(outputs, threshold=0.7)) == 1
    assert len(find(outputs, threshold=0.7, share=1.0)) == 0


def test_doubles_go_class_by_class_and_picture_by_picture() -> None:
    rows = [
        (0, ANCHOR, 0, 0.8, CERTAIN),
        (0, ANCHOR + 1, 0, 0.6, sides((2,), (1,), (0,), (1,))),
        (0, ANCHOR + 8, 1, 0.7, sides((1,), (2,), (1,), (0,))),
        (1, ANCHOR, 0, 0.5, CERTAIN),
    ]
    found = find(planted(2, 2, rows))
    assert found.pictures.tolist() == [0, 0, 1]
    assert found.class_ids.tolist() == [0, 1, 0]
    assert found.confidences.tolist() == pytest.approx([0.8, 0.7, 0.5])


def test_thresholds_are_the_classes_own_and_pictures_can_be_fewer() -> None:
    rows = [(0, ANCHOR, 0, 0.4, CERTAIN), (0, 0, 1, 0.4, CERTAIN), (1, 0, 1, 0.9, CERTAIN)]
    found = find_boxes(
        planted(2, 2, rows),
        strides=STRIDES,
        thresholds=torch.tensor([0.3, 0.5]),
        nms_iou=0.5,
        sigma_reference=2.0,
        share=0.0,
        pictures=1,
    )
    assert (found.pictures.tolist(), found.class_ids.tolist()) == ([0], [0])


def test_boxes_end_at_the_border_and_an_eval_answer_is_read_as_well() -> None:
    outputs = planted(1, 2, [(0, 0, 0, 0.9, sides((3,), (3,), (2,), (2,)))])
    found = find((torch.zeros(1), outputs))
    assert found.boxes_xyxy[0].tolist() == pytest.approx([0, 0, 20, 20], abs=1e-3)
    assert len(find(planted(3, 2, []))) == 0


def test_joined_tables_are_in_the_order_of_pictures() -> None:
    first = boxes([(0, (1, 1, 9, 9), 0, 0.1), (2, (2, 2, 9, 9), 0, 0.2)])
    second = boxes([(0, (3, 3, 9, 9), 1, 0.3), (1, (4, 4, 9, 9), 1, 0.4)])
    together = joined([first, second])
    assert together.pictures.tolist() == [0, 0, 1, 2]
    assert together.confidences.tolist() == pytest.approx([0.1, 0.3, 0.4, 0.2])


def test_labels_and_back() -> None:
    images = torch.zeros(3, 3, SIDE, 2 * SIDE)
    table = boxes([(0, (8, 8, 24, 40), 1, 1.0), (2, (64, 0, 128, 64), 0, 1.0)])
    batch = as_labels(table, images)
    assert batch["bboxes"][0].tolist() == pytest.approx([0.125, 0.375, 0.125, 0.5])
    again = from_labels(batch, 3)
    assert again.boxes_xyxy.tolist() == table.boxes_xyxy.tolist()
    assert again.class_ids.tolist() == [1, 0]
    assert from_labels(batch, 2).pictures.tolist() == [0]
