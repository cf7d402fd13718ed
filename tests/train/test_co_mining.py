"""Co-mining: what is mined, who learns from it, and views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from edge_runtime.errors import SettingsError
from tests.train.sparse_steps import (
    CLASSES,
    batch_with,
    boxes,
    context_of,
    corners_of,
    outputs_with,
    tiny_detector,
    train_tiny,
)
from train import sparse
from train.own_checkpoint import load_own_checkpoint
from train.sparse import mining
from train.sparse.anchor_loss import AnchorLoss
from train.sparse.co_mining import Options, build, unlabelled_finds
from train.sparse.mining import (
    anchor_boxes,
    anchor_centres,
    find_cells,
    inside_patches,
    labels_of,
    run_view,
    suppress,
    with_boxes,
)
from train.sparse.views import draws_of_step, other_colours
from train.step_loss import find_row, read_counts

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

LABEL = (0, 0, (0, 0, 3, 3))
FIRST = (0, 1, (4, 0, 7, 3))
SECOND = (1, 0, (1, 4, 4, 7))


class Recorder:
    """In place of ultralytics' criterion: remembers, and gives zeros."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls.append((preds, batch))
        return torch.zeros(3), dict.fromkeys(("box_loss", "cls_loss", "dfl_loss"), torch.zeros(()))


def test_each_view_learns_from_labels_and_from_what_the_other_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_detector()
    first = outputs_with([(*FIRST, 0.9)])
    second = outputs_with([(*SECOND, 0.9), (0, 0, (4, 4, 7, 7), 0.55)])
    seen: list[Tensor] = []

    def forward(images: Tensor) -> dict[str, Any]:
        seen.append(images)
        return second

    monkeypatch.setattr(model, "forward", forward)
    recorder = Recorder()
    batch = batch_with([LABEL])
    build(context_of(model, plain=recorder), Options(changed_share=1.0))(first, batch)
    assert len(seen) == 1
    assert seen[0].shape == batch["img"].shape
    assert not torch.equal(seen[0], batch["img"])
    (preds, targets), (other_preds, other_targets) = recorder.calls
    assert preds is first
    assert corners_of(targets) == {LABEL, SECOND}
    assert other_preds is second
    assert corners_of(other_targets) == {LABEL, FIRST}
    assert not targets["bboxes"].requires_grad
    assert not other_targets["bboxes"].requires_grad


def test_anchors_say_the_boxes_that_outputs_were_made_of() -> None:
    model = tiny_detector()
    found = find_cells(
        model, outputs_with([(*FIRST, 0.7), (*SECOND, 0.9)]), confidence=0.6, suppression_iou=0.6
    )
    assert found.boxes_xyxy.tolist() == [[8, 32, 32, 56], [32, 0, 56, 24]]
    assert found.class_ids.tolist() == [0, 1]
    assert found.pictures.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert not found.boxes_xyxy.requires_grad
    assert not found.scores.requires_grad


def test_anchor_boxes_are_those_of_the_detector_itself() -> None:
    model = tiny_detector().eval()
    with torch.no_grad():
        decoded, outputs = model(torch.rand(1, 3, 64, 64))
    x, y, width, height = decoded[0, :4]
    theirs = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
    assert torch.allclose(anchor_boxes(model, outputs)[0], theirs, atol=1e-3)


def test_a_find_is_dropped_where_it_is_a_labelled_cell_of_its_class() -> None:
    label = boxes([(0, 0, (0, 0, 100, 100))])
    same = boxes([(0, 0, (0, 0, 100, 41)), (0, 0, (0, 0, 100, 39))])
    assert unlabelled_finds(same, label, 0.4).boxes_xyxy.tolist() == [[0, 0, 100, 39]]
    others = boxes([(0, 1, (0, 0, 100, 100)), (1, 0, (0, 0, 100, 100))])
    assert len(unlabelled_finds(others, label, 0.4)) == 2
    assert len(unlabelled_finds(same, boxes([]), 0.4)) == 2


def test_suppression_keeps_the_surest_of_a_class_in_a_picture() -> None:
    rows = [(0, 0, (0, 0, 10, 10)), (0, 0, (0, 0, 10, 9)), (0, 1, (0, 0, 10, 9))]
    found = boxes([*rows, (1, 0, (0, 0, 10, 9)), (0, 0, (0, 0, 10, 5))])
    found.scores.copy_(torch.tensor([0.7, 0.9, 0.8, 0.95, 0.65]))
    kept = suppress(found, 0.6)
    assert kept.scores.tolist() == pytest.approx([0.95, 0.9, 0.8, 0.65])
    assert len(suppress(found, 0.6, by_class=False)) == 3


def test_a_diverging_network_cannot_flood_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_detector()
    outputs = outputs_with([])
    everywhere = {**outputs, "scores": torch.full_like(outputs["scores"], 5.0)}
    found = find_cells(model, everywhere, confidence=0.6, suppression_iou=1.0)
    assert torch.bincount(found.pictures).tolist() == [168, 168]
    monkeypatch.setattr(mining, "_MOST_PER_PICTURE", 7)
    found = find_cells(model, everywhere, confidence=0.6, suppression_iou=1.0)
    assert torch.bincount(found.pictures).tolist() == [7, 7]
    monkeypatch.setattr(mining, "_MOST_BEFORE_SUPPRESSION", 5)
    assert len(find_cells(model, everywhere, confidence=0.6, suppression_iou=1.0)) == 5
    nothing = {**outputs, "scores": torch.full_like(outputs["scores"], float("nan"))}
    assert len(find_cells(model, nothing, confidence=0.6, suppression_iou=0.6)) == 0


def test_added_boxes_stand_with_their_picture_and_none_is_lost() -> None:
    model = tiny_detector()
    batch = batch_with([LABEL, (1, 1, (2, 2, 5, 5))])
    more = boxes([(0, 1, (32.0, 0.0, 56.0, 24.0)), (1, 0, (8.0, 32.0, 32.0, 56.0))])
    joined = with_boxes(batch, more)
    assert joined["batch_idx"].tolist() == [0, 0, 1, 1]
    assert joined["cls"].view(-1).tolist() == [0, 1, 1, 0]
    assert corners_of(joined) == {LABEL, (1, 1, (2, 2, 5, 5)), FIRST, SECOND}
    criterion = model.init_criterion()
    table = torch.cat([joined["batch_idx"].view(-1, 1), joined["cls"], joined["bboxes"]], 1)
    packed = criterion.preprocess(table, 2, torch.full((4,), 64.0))
    assert (packed[..., 1:].sum(2) > 0).sum() == 4
    again = labels_of(joined)
    assert again.boxes_xyxy[1].tolist() == pytest.approx([32, 0, 56, 24])
    empty = with_boxes(batch_with([]), more)
    assert corners_of(empty) == {FIRST, SECOND}


def test_without_finds_and_with_equal_views_both_losses_are_the_plain_one() -> None:
    model = tiny_detector()
    batch = batch_with([LABEL, SECOND])
    preds = model(batch["img"])
    plain, items = model.init_criterion()(preds, batch)
    step = build(context_of(model), Options(changed_share=0.0, confidence=0.99))
    losses, own = step(preds, batch)
    assert torch.allclose(losses, 2 * plain)
    assert list(own) == list(items)
    assert own["cls_loss"] == pytest.approx(2 * items["cls_loss"])


def test_outside_the_patch_nothing_is_background_in_the_patch_aware_variant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_detector()
    batch = batch_with([LABEL])
    grads = {}
    for aware in (False, True):
        first, second = outputs_with([]), outputs_with([(*FIRST, 0.9)])
        monkeypatch.setattr(model, "forward", lambda images, given=second: given)
        step = build(context_of(model), Options(patch_aware=aware))
        step(first, batch)[0].sum().backward()
        grads[aware] = first["scores"].grad.abs().sum(1)
    inside = inside_patches(anchor_centres(model, first), batch)
    # Left half of both pictures: half of the anchors of every level.
    assert inside.sum(1).tolist() == [42, 42]
    assert (grads[True][inside] > 0).all()
    # A cell found in the other view, in the right half of picture 0, is learnt all the same.
    found = (grads[True] > 0) & ~inside
    assert found[0].any()
    assert not found[1].any()
    x1, y1, x2, y2 = (8 * side for side in FIRST[2])
    for x, y in anchor_centres(model, first)[found[0]].tolist():
        assert x1 < x < x2
        assert y1 < y < y2
    assert (grads[False] > 0).all()


def test_the_weighted_loss_is_ultralytics_own_where_everything_is_known() -> None:
    model = tiny_detector()
    batch = batch_with([LABEL, SECOND])
    outputs = outputs_with([(*SECOND, 0.8)])
    known = torch.ones(2, outputs["scores"].shape[2]).bool()
    mine, items = AnchorLoss(model)(outputs, batch, known)
    plain, theirs = model.init_criterion()(outputs, batch)
    assert torch.equal(mine, plain)
    assert items.keys() == theirs.keys()


def test_colours_change_by_picture_and_nothing_moves() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)) / 4 + 0.25
    before = images.clone()
    nothing = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}

    def changed(step: int = 0, share: float = 1.0, **told: float) -> Tensor:
        return other_colours(
            images, **{**nothing, **told}, share=share, draws=draws_of_step(0, step)
        )

    assert torch.allclose(changed(), images, atol=1e-6)
    brighter = changed(brightness=0.8)
    ratios = (brighter / images).flatten(1)
    assert torch.allclose(ratios, ratios[:, :1].expand_as(ratios), atol=1e-4)
    assert ((ratios >= 0.2 - 1e-4) & (ratios <= 1.8 + 1e-4)).all()
    assert len(set(ratios[:, 0].tolist())) == 4
    # Towards each pixel's own grey, so greys stay; towards the mean grey, so that stays.
    grey = functional.rgb_to_grayscale(images)
    paler = functional.rgb_to_grayscale(changed(saturation=0.4))
    assert torch.allclose(paler, grey, atol=2e-3)
    assert not torch.allclose(changed(saturation=0.4), images, atol=1e-2)
    flat = functional.rgb_to_grayscale(changed(contrast=0.2)).mean((1, 2, 3))
    assert torch.allclose(flat, grey.mean((1, 2, 3)), atol=2e-3)
    turned = changed(hue=0.2)
    assert torch.allclose(turned.amax(1), images.amax(1), atol=1e-3)
    assert not torch.allclose(turned, images, atol=1e-2)
    everything = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
    assert torch.equal(changed(5, **everything), changed(5, **everything))
    assert not torch.equal(changed(5, **everything), changed(6, **everything))
    assert torch.equal(changed(5, share=0.0, **everything), images)
    some = [torch.equal(a, b) for a, b in zip(changed(1, 0.5, **everything), images, strict=True)]
    assert len(some) == 4
    assert torch.equal(images, before)


@pytest.mark.parametrize("moves", [True, False])
def test_the_second_view_moves_running_statistics_only_if_it_may(moves: bool) -> None:
    model = tiny_detector()
    images = batch_with([LABEL])["img"]
    expected = model(images)["scores"]
    before = {name: value.clone() for name, value in model.named_buffers()}
    scores = run_view(model, images, moves_statistics=moves)["scores"]
    assert torch.equal(scores, expected)
    for name, value in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            assert torch.equal(value, before[name]) != moves
    assert {each.momentum for each in model.modules() if isinstance(each, nn.BatchNorm2d)} == {0.03}


def test_half_precision_rounds_no_box() -> None:
    model = tiny_detector()
    outputs = outputs_with([(*FIRST, 0.7), (*SECOND, 0.9)])
    exact = anchor_boxes(model, outputs)
    half = {
        "boxes": outputs["boxes"].bfloat16(),
        "scores": outputs["scores"].bfloat16(),
        "feats": [each.bfloat16() for each in outputs["feats"]],
    }
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(anchor_boxes(model, half), exact, atol=1e-3)
        assert torch.equal(anchor_centres(model, half), anchor_centres(model, outputs))


def test_bad_options_and_models_are_refused() -> None:
    row = find_row(sparse.METHODS, "co-mining")
    with pytest.raises(SettingsError, match="option confidence"):
        row.options({"confidence": 1.5})
    with pytest.raises(SettingsError, match="option tau"):
        row.options({"tau": 0.6})
    model = tiny_detector()
    layers: Any = model.model
    layers[-1].one2one_cv2 = torch.nn.Identity()
    with pytest.raises(SettingsError, match="one-to-one head"):
        build(context_of(model), Options())


def test_a_training_with_it(tmp_path: Path) -> None:
    trainer = train_tiny(tmp_path, "co-mining", {"confidence": 0.002})
    folder = Path(trainer.save_dir)
    (counts,) = read_counts(folder / "method")
    assert counts["labelled"] > 0
    assert counts["mined_in_view"] > 0
    assert len(list((folder / "method").glob("step*.jpg"))) == 2
    trained = load_own_checkpoint(folder / "weights" / "last.pt")
    assert trained.state_dict().keys() == tiny_detector().state_dict().keys()
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())
    assert len(CLASSES) == 2
