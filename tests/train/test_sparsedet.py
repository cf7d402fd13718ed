"""SparseDet on a detector without proposals: regions nobody labelled, and agreement on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch

from edge_runtime.errors import SettingsError
from tests.train.sparse_steps import (
    batch_with,
    boxes,
    context_of,
    outputs_with,
    tiny_detector,
    train_tiny,
)
from train import sparse
from train.own_checkpoint import load_own_checkpoint
from train.sparse.mining import anchor_centres, labels_of
from train.sparse.sparse_det import Options, SparseDet, build, disagreement
from train.sparse.views import draws_of_step, erase_in_one_cell, other_lighting
from train.step_loss import find_row, read_counts

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

LABEL = (0, 0, (0, 0, 3, 3))
LIKELY = (0, 1, (4, 0, 7, 3))


def method(model: Any, iteration: int = 50, folder: Path | None = None, **told: Any) -> SparseDet:
    return SparseDet(context_of(model, iteration=iteration, folder=folder), Options(**told))


def test_a_region_counts_up_to_the_overlap_with_a_label_and_above_the_score() -> None:
    own = method(tiny_detector())
    # 24 x 24 pixels, of which the label below covers a fifth, and more than a fifth.
    both = outputs_with([(*LIKELY, 0.9), (1, 0, (0, 0, 3, 3), 0.79)])
    for width, wanted in ((4.8, 1), (5.04, 0)):
        label = boxes([(0, 0, (32.0, 0.0, 32.0 + width, 24.0))])
        regions, left_out = own.candidates(both, both, label)
        assert len(regions) == wanted
        assert bool(left_out.any()) == bool(wanted)
        assert not left_out[1].any()
    regions, _ = own.candidates(both, both, boxes([(1, 0, (32.0, 0.0, 56.0, 24.0))]))
    assert regions.boxes_xyxy.tolist() == [[32, 0, 56, 24]]
    assert regions.pictures.tolist() == [0]


def test_both_views_decide_together() -> None:
    own = method(tiny_detector())
    sure, unsure = outputs_with([(*LIKELY, 0.95)]), outputs_with([(*LIKELY, 0.6)])
    assert len(own.candidates(sure, sure, boxes([]))[0]) == 1
    assert len(own.candidates(sure, unsure, boxes([]))[0]) == 0
    nearly = outputs_with([(*LIKELY, 0.7)])
    assert len(own.candidates(sure, nearly, boxes([]))[0]) == 1


def test_overlapping_regions_are_one() -> None:
    own = method(tiny_detector())
    twice = outputs_with([(0, 1, (4, 0, 7, 3), 0.9), (0, 0, (3, 0, 6, 3), 0.95)])
    regions, _ = own.candidates(twice, twice, boxes([]))
    assert regions.boxes_xyxy.tolist() == [[24, 0, 48, 24]]


def test_a_region_is_never_background(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_detector()
    batch = batch_with([LABEL])
    weak, strong = outputs_with([(*LIKELY, 0.9)]), outputs_with([(*LIKELY, 0.9)])
    monkeypatch.setattr(model, "forward", lambda images: strong)
    method(model, merge_confidence=0.99)(weak, batch)[0].sum().backward()
    centres = anchor_centres(model, weak)
    x1, y1, x2, y2 = (8 * side for side in LIKELY[2])
    inside = (
        (centres[:, 0] >= x1) & (centres[:, 0] < x2) & (centres[:, 1] >= y1) & (centres[:, 1] < y2)
    )
    # Nine of the finest level, and whichever of the coarser ones lie in it.
    assert inside[:64].sum() == 9
    for outputs in (weak, strong):
        gradient = outputs["scores"].grad.abs().sum(1)
        assert (gradient[0, inside] == 0).all()
        assert (gradient[0, ~inside] > 0).all()
        assert (gradient[1] > 0).all()


def test_before_the_warm_up_is_over_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_detector()
    batch = batch_with([LABEL])
    plain = model.init_criterion()
    expected, items = plain(outputs_with([(*LIKELY, 0.95)]), batch)
    for iteration in (10, 11):
        weak, strong = outputs_with([(*LIKELY, 0.95)]), outputs_with([(*LIKELY, 0.95)])
        strong["feats"] = [each + 1 for each in strong["feats"]]
        monkeypatch.setattr(model, "forward", lambda images, given=strong: given)
        losses, own = method(model, iteration)(weak, batch)
        assert list(own) == [*items, "consistency_loss"]
        if iteration == 10:
            # Half of two equal losses, and no agreement asked for.
            assert torch.allclose(losses[:3], expected)
            assert losses[3] == 0
        else:
            assert losses[1] < expected[1]
            # Features differ by 1 everywhere; times the two pictures of the batch.
            assert float(losses[3]) == pytest.approx(2.0)
            assert float(own["consistency_loss"]) == pytest.approx(1.0)


def test_what_the_weak_view_is_sure_of_is_learnt_by_the_strong_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_detector()
    own = method(model)
    batch = batch_with([LABEL])
    cells = [(*LIKELY, 0.95), (1, 0, (1, 4, 4, 7), 0.89), (0, 1, (0, 0, 3, 3), 0.97)]
    sure = own.sure_finds(outputs_with(cells), labels_of(batch))
    # Not the unsure one, nor the labelled cell under another class.
    assert sure.boxes_xyxy.tolist() == [[32, 0, 56, 24]]
    assert sure.class_ids.tolist() == [1]
    weak, strong = outputs_with([(*LIKELY, 0.95)]), outputs_with([(*LIKELY, 0.95)])
    monkeypatch.setattr(model, "forward", lambda images: strong)
    own(weak, batch)[0].sum().backward()
    anchor = 1 * 8 + 5
    assert weak["scores"].grad[0, 1, anchor] == 0
    # It is raised there, as a target's is.
    assert strong["scores"].grad[0, 1, anchor] < 0


def test_equal_views_agree_and_different_ones_do_not() -> None:
    features = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    regions = boxes([(1, 0, (8.0, 8.0, 40.0, 40.0))])
    assert disagreement(features, features, regions, 64) == 0
    other = features.clone()
    other[0] += 1.0
    assert disagreement(features, other, regions, 64) == 0
    other[1] += 2.0
    assert float(disagreement(features, other, regions, 64)) == pytest.approx(4.0, abs=1e-4)
    weak = features.clone().requires_grad_()
    nothing = disagreement(weak, other, boxes([]), 64)
    nothing.backward()
    assert nothing == 0
    assert weak.grad is not None
    assert (weak.grad == 0).all()


def test_a_part_of_one_labelled_cell_is_erased_and_nothing_else() -> None:
    images = torch.ones(3, 3, 64, 64)
    cells = boxes([(0, 0, (8.0, 8.0, 40.0, 28.0)), (2, 0, (0.0, 0.0, 20.0, 20.0))])
    more = boxes([(2, 1, (40.0, 40.0, 60.0, 64.0))])
    shares = []
    for step in range(40):
        erased = erase_in_one_cell(
            images, cells, area=(0.4, 0.7), ratio=(0.3, 3.3), draws=draws_of_step(0, step)
        )
        gone = (erased == 0).all(1)
        assert not gone[1].any()
        assert not gone[0][:, :8].any()
        assert not gone[0][:, 40:].any()
        assert not gone[0][:8].any()
        assert not gone[0][28:].any()
        shares.append(float(gone[0].sum()) / (32 * 20))
    made = [share for share in shares if share > 0]
    assert len(made) > 30
    # Whole pixels: a side of 12 may be half a pixel off.
    assert all(0.36 <= share <= 0.75 for share in made)
    assert max(made) - min(made) > 0.1
    alone = erase_in_one_cell(
        images, more, area=(0.4, 0.7), ratio=(0.3, 3.3), draws=draws_of_step(0, 1)
    )
    assert torch.equal(alone[:2], images[:2])
    assert (images == 1).all()


def test_lighting_shifts_every_picture_as_a_whole() -> None:
    images = torch.full((3, 3, 4, 4), 0.5)
    lit = other_lighting(images, 25.5, draws=draws_of_step(0, 0))
    shift = (lit - images).flatten(2)
    assert torch.allclose(shift, shift[:, :, :1].expand_as(shift))
    assert not torch.allclose(shift[0], shift[1])
    assert shift.abs().max() < 0.2
    # As weak as in the published program: far less than a grey level.
    assert (other_lighting(images, 1.2, draws=draws_of_step(0, 0)) - images).abs().max() < 2 / 255


def test_bad_options_are_refused() -> None:
    row = find_row(sparse.METHODS, "sparsedet")
    with pytest.raises(SettingsError, match="option warm_up"):
        row.options({"warm_up": 2})
    for bad in ((0.7, 0.4), (0.0, 0.4), (0.4, 1.2)):
        with pytest.raises(SettingsError, match="option erase_area"):
            row.options({"erase_area": bad})
    with pytest.raises(SettingsError, match="option erase_ratio"):
        row.options({"erase_ratio": (0.0, 3.0)})
    assert "adapted" in row.title


def test_a_training_with_it(tmp_path: Path) -> None:
    options = {"warm_up": 0.0, "candidate_confidence": 0.002, "merge_confidence": 0.003}
    trainer = train_tiny(tmp_path, "sparsedet", options)
    folder = Path(trainer.save_dir)
    (counts,) = read_counts(folder / "method")
    assert counts["labelled"] > 0
    assert counts["candidates"] > 0
    assert counts["anchors_left_out"] >= counts["candidates"]
    assert len(list((folder / "method").glob("step*.jpg"))) == 2
    assert trainer.tloss["consistency_loss"] > 0
    trained = load_own_checkpoint(folder / "weights" / "last.pt")
    # The saved network is the plain one: nothing was added for the method.
    assert trained.state_dict().keys() == tiny_detector().state_dict().keys()
    assert build(context_of(tiny_detector()), Options()) is not None
