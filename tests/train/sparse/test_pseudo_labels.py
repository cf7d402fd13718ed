"""Which predictions become labels, and what is learnt from them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from tests.train.sparse_outputs import (  # noqa: E402
    SIDE,
    batch_of,
    criterion,
    quiet_outputs,
    random_outputs,
    read,
    set_prediction,
)
from train.sparse.anchors import Cells  # noqa: E402
from train.sparse.inside import Patches, Region  # noqa: E402
from train.sparse.pseudo_labels import (  # noqa: E402
    Candidates,
    SmallestCell,
    entropy_bits,
    judge,
    pseudo_label_loss,
)

pytestmark = pytest.mark.train

PATCH = [(0, (0.0, 0.0, 32.0, 64.0)), (1, (0.0, 0.0, 32.0, 64.0))]
PAPER: dict[str, float] = {"t0": 0.70, "t1": 0.95, "t2": 0.26, "min_area": 0.0}


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def patches_of(corners: list[tuple[int, tuple[float, float, float, float]]]) -> Patches:
    return Patches(
        torch.tensor([list(box) for _, box in corners]),
        torch.tensor([picture for picture, _ in corners]),
        torch.tensor([float(SIDE)] * 2),
        2,
    )


def candidates_of(rows: list[tuple[int, tuple[float, ...], list[float]]]) -> Candidates:
    return Candidates(
        torch.tensor([list(box) for _, box, _ in rows]),
        torch.tensor([scores for _, _, scores in rows]),
        torch.tensor([picture for picture, _, _ in rows]),
    )


def test_entropy_of_the_papers_constants() -> None:
    for top, expected, accepted in ((0.975, 0.2612, False), (0.98, 0.2154, True)):
        # Fourteen classes, the rest spread evenly.
        scores = torch.tensor([[top] + [(1 - top) / 13] * 13])
        entropy = entropy_bits(scores)
        assert entropy.item() == pytest.approx(expected, abs=5e-5)
        found = Candidates(torch.tensor([[40.0, 10.0, 60.0, 30.0]]), scores, torch.tensor([0]))
        assert judge(found, patches_of(PATCH), **PAPER).accepted.tolist() == [accepted]
    assert entropy_bits(torch.tensor([[0.95, 0.05]])).item() == pytest.approx(0.2864, abs=5e-5)
    assert entropy_bits(torch.tensor([[0.5, 0.5]])).item() == pytest.approx(1.0)
    assert entropy_bits(torch.tensor([[0.3], [0.99]])).tolist() == [0.0, 0.0]
    assert entropy_bits(torch.zeros(1, 3)).isfinite().all()


def test_boxes_in_patches_are_never_taken() -> None:
    sure = [0.99, 0.0, 0.0]
    found = candidates_of(
        [
            (0, (4.0, 4.0, 20.0, 20.0), sure),  # in the patch
            (0, (24.0, 30.0, 41.0, 40.0), sure),  # centre outside, half of it in the patch
            (0, (31.0, 4.0, 51.0, 20.0), sure),  # a twentieth in the patch
            (0, (40.0, 40.0, 60.0, 60.0), sure),  # outside
        ]
    )
    judged = judge(found, patches_of(PATCH), **PAPER)
    assert judged.accepted.tolist() == [False, False, True, True]
    assert judged.counts["rejected_in_patch"] == 2
    # The other picture's patch does not matter.
    assert judge(found, patches_of(PATCH[1:]), **PAPER).accepted.all()


def test_every_rule_rejects_and_is_counted() -> None:
    box = (40.0, 40.0, 60.0, 60.0)
    found = candidates_of(
        [
            (0, box, [0.99, 0.0, 0.0]),
            (0, (40.0, 40.0, 44.0, 44.0), [0.99, 0.0, 0.0]),  # too small
            (0, box, [0.90, 0.0, 0.0]),  # undecided
            (0, box, [0.97, 0.60, 0.0]),  # two classes
            (0, (0.0, 0.0, 20.0, 20.0), [0.99, 0.0, 0.0]),  # labelled region
            (1, box, [0.71, 0.3, 0.0]),  # undecided
        ]
    )
    judged = judge(found, patches_of(PATCH), **{**PAPER, "min_area": 100.0})
    assert judged.accepted.tolist() == [True, False, False, False, False, False]
    assert judged.similar.tolist() == [False, False, True, False, False, True]
    assert judged.counts == {
        "candidates": 6,
        "rejected_in_patch": 1,
        "rejected_area": 1,
        "rejected_confidence": 2,
        "rejected_entropy": 1,
        "accepted": 1,
        "similar": 2,
    }


def test_stricter_thresholds_never_add_labels() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(400, 3, generator=generator) ** 6
    scores[:, 0] = 0.6 + 0.4 * torch.rand(400, generator=generator)
    boxes = torch.tensor([[40.0, 10.0, 60.0, 30.0]]).repeat(400, 1)
    found = Candidates(boxes, scores, torch.zeros(400, dtype=torch.long))

    def accepted(**changes: float) -> Any:
        return judge(found, patches_of(PATCH), **{**PAPER, "t2": 0.8, **changes}).accepted

    t1 = [accepted(t1=value) for value in (0.75, 0.85, 0.95, 1.0)]
    t2 = [accepted(t2=value) for value in (1.2, 0.8, 0.4, 0.26, 0.0)]
    for series in (t1, t2):
        for looser, stricter in pairwise(series):
            assert not (stricter & ~looser).any()
            assert stricter.sum() < looser.sum()
    assert not t1[-1].any()


def test_candidates_are_decoded_and_thinned() -> None:
    plain, outputs = criterion(), quiet_outputs()
    box = (42.0, 42.0, 58.0, 60.0)
    set_prediction(outputs, 1, 6 * 8 + 6, box, [logit(0.9), -9.0, -9.0])
    set_prediction(outputs, 1, 5 * 8 + 6, box, [-9.0, logit(0.8), -9.0])
    set_prediction(outputs, 0, 6 * 8 + 6, box, [-9.0, -9.0, logit(0.75)])
    set_prediction(outputs, 0, 0, (0.0, 0.0, 12.0, 12.0), [logit(0.6), -9.0, -9.0])
    found = Candidates.find(read(plain, outputs), floor=0.7, nms_iou=0.5, agnostic=True)
    assert found.pictures.tolist() == [1, 0]
    assert found.class_ids.tolist() == [0, 2]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.75])
    torch.testing.assert_close(found.boxes_px, torch.tensor([box, box]), rtol=0, atol=0.01)
    assert not found.boxes_px.requires_grad
    assert not found.scores.requires_grad
    by_class = Candidates.find(read(plain, outputs), floor=0.7, nms_iou=0.5, agnostic=False)
    assert sorted(by_class.class_ids.tolist()) == [0, 1, 2]
    none = Candidates.find(read(plain, outputs), floor=0.95, nms_iou=0.5, agnostic=True)
    assert len(none) == len(none.confidence) == len(none.class_ids) == 0
    judged = judge(none, patches_of(PATCH), **PAPER)
    assert judged.counts["accepted"] == 0


CELLS = [(0, 1, (36.0, 8.0, 52.0, 24.0)), (1, 2, (40.0, 30.0, 60.0, 52.0))]


def pseudo(outputs: dict[str, Any], cells: Cells, *, box_area: bool = False) -> Any:
    plain = criterion()
    anchors = read(plain, outputs)
    patches = [(picture, PATCH[0][1]) for picture in range(len(anchors.logits))]
    region = Region.of_batch(batch_of([], patches, len(anchors.logits)), anchors, 0.0)
    return pseudo_label_loss(plain, anchors, cells, region.inside, box_area=box_area)


def cells_of(rows: list[Any]) -> Cells:
    return Cells.labelled(batch_of(rows, []), torch.device("cpu"))


def test_gradient_at_pseudo_positives_only() -> None:
    sums = []
    for box_area in (False, True):
        outputs = random_outputs()
        pseudo(outputs, cells_of(CELLS), box_area=box_area).sum().backward()
        classes = outputs["scores"].grad.abs().sum(1) > 0
        boxes = outputs["boxes"].grad.abs().sum(1) > 0
        centres = read(criterion(), outputs).centres_px
        for picture, _, (x1, y1, x2, y2) in CELLS:
            x, y = centres.T
            # Ultralytics widens boxes narrower than 16 pixels; these are not.
            within = (x >= x1) & (x < x2) & (y >= y1) & (y < y2) & (x >= 32)
            assert not (classes[picture] & ~within).any()
            assert not (boxes[picture] & ~within).any()
            if box_area:
                assert (classes[picture] == within).all()
        assert not (boxes & ~classes).any()
        sums.append(int(classes.sum()))
    assert 0 < sums[0] <= sums[1]


def test_order_of_rows_does_not_matter() -> None:
    outputs = random_outputs()
    torch.testing.assert_close(
        pseudo(outputs, cells_of(CELLS[::-1])), pseudo(outputs, cells_of(CELLS))
    )


def test_doubling_the_batch_leaves_the_loss() -> None:
    rows = [*CELLS, (0, 0, (40.0, 36.0, 58.0, 58.0)), (1, 0, (34.0, 4.0, 50.0, 22.0))]
    outputs = random_outputs()
    with torch.no_grad():
        # Good predictions, so that the sum of target scores is above its lower bound of 1.
        for picture, kind, box in rows:
            column, row = int((box[0] + box[2]) / 16), int((box[1] + box[3]) / 16)
            for anchor in (row * 8 + column, row * 8 + column - 1, row * 8 - 8 + column):
                logits = [4.0 if kind == each else -4.0 for each in range(3)]
                set_prediction(outputs, picture, anchor, box, logits)
    doubled = {
        name: torch.cat([value, value])
        for name, value in outputs.items()
        if name in ("boxes", "scores")
    }
    doubled["feats"] = [torch.cat([each, each]) for each in outputs["feats"]]
    once = pseudo(outputs, cells_of(rows))
    copies = [(picture + 2, kind, box) for picture, kind, box in rows]
    assert once[0] > 0
    torch.testing.assert_close(pseudo(doubled, cells_of([*rows, *copies])), once)


def test_smallest_cell_leaves_out_cut_ones() -> None:
    smallest = SmallestCell()
    size = torch.tensor([SIDE, SIDE])
    assert smallest.area_px == 0.0
    smallest.see(cells_of([(0, 0, (0.0, 4.0, 3.0, 20.0))]), size)
    assert smallest.area_px == 0.0
    smallest.see(cells_of([(0, 0, (10.0, 10.0, 20.0, 24.0)), CELLS[0]]), size)
    assert smallest.area_px == pytest.approx(140.0)
    smallest.see(cells_of(CELLS), size)
    assert smallest.area_px == pytest.approx(140.0)
