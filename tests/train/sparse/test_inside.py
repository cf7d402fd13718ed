"""The labelled-region loss: nothing is learnt outside patches, and inside as always."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from tests.train.sparse_outputs import (  # noqa: E402
    ANCHORS,
    SIDE,
    batch_of,
    criterion,
    random_outputs,
    read,
)
from train.sparse.anchors import Cells  # noqa: E402
from train.sparse.inside import (  # noqa: E402
    Patches,
    Region,
    labelled_region_loss,
    median_side_px,
)

pytestmark = pytest.mark.train

CELLS = [
    (0, 0, (10.0, 12.0, 26.0, 30.0)),
    (0, 2, (30.0, 8.0, 44.0, 22.0)),
    (1, 1, (20.0, 20.0, 38.0, 40.0)),
]
PATCHES = [(0, (8.0, 8.0, 48.0, 40.0)), (1, (16.0, 8.0, 56.0, 56.0))]
WHOLE = [(0, (0.0, 0.0, 64.0, 64.0)), (1, (0.0, 0.0, 64.0, 64.0))]


def region_of(
    plain: Any, outputs: dict[str, Any], batch: dict[str, Any], guard: float = 0.0
) -> Region:
    return Region.of_batch(batch, read(plain, outputs), guard)


def loss_of(plain: Any, outputs: dict[str, Any], batch: dict[str, Any], guard: float = 0.0) -> Any:
    anchors = read(plain, outputs)
    cells = Cells.labelled(batch, torch.device("cpu"))
    region = Region.of_batch(batch, anchors, guard)
    return labelled_region_loss(plain, anchors, cells, region)


def test_patch_over_the_whole_picture_is_ultralytics_own_loss() -> None:
    plain, outputs, batch = criterion(), random_outputs(), batch_of(CELLS, WHOLE)
    # The guard band must not matter either: every side is the picture's own.
    own = loss_of(plain, outputs, batch, guard=5.0)
    stock, items = plain(outputs, batch)
    torch.testing.assert_close(own * 2, stock, rtol=1e-6, atol=1e-6)
    assert items["box_loss"] > 0


def test_whole_patch_with_class_weights_is_ultralytics_own_loss() -> None:
    plain, outputs, batch = criterion(), random_outputs(), batch_of(CELLS, WHOLE)
    plain.class_weights = torch.tensor([0.5, 1.0, 3.0]).view(1, 1, -1)
    torch.testing.assert_close(loss_of(plain, outputs, batch) * 2, plain(outputs, batch)[0])


def test_class_gradient_is_exactly_zero_outside_and_not_inside() -> None:
    plain, outputs, batch = criterion(), random_outputs(), batch_of(CELLS, PATCHES)
    loss_of(plain, outputs, batch).sum().backward()
    inside = region_of(plain, outputs, batch).inside
    gradient = outputs["scores"].grad.abs().sum(1)
    assert 0 < int(inside.sum()) < inside.numel()
    assert (gradient[~inside] == 0).all()
    assert (gradient[inside] > 0).all()
    boxes = outputs["boxes"].grad.abs().sum(1)
    assert (boxes[~inside] == 0).all()
    assert boxes.sum() > 0


def test_outputs_outside_do_not_matter_at_all() -> None:
    plain, batch = criterion(), batch_of(CELLS, PATCHES)
    # A cell across a patch's border has anchors on both sides of it.
    batch = batch_of([*CELLS, (1, 0, (44.0, 30.0, 64.0, 50.0))], PATCHES)
    outputs = random_outputs()
    before = loss_of(plain, outputs, batch)
    inside = region_of(plain, outputs, batch).inside
    noise = random_outputs(seed=9)
    with torch.no_grad():
        for name in ("scores", "boxes"):
            outputs[name].copy_(torch.where(inside[:, None], outputs[name], noise[name] * 4))
        outputs["scores"][0, :, ANCHORS - 1] = float("inf")
    assert not inside[0, ANCHORS - 1]
    assert torch.equal(loss_of(plain, outputs, batch), before)


def test_without_a_patch_the_loss_is_zero_and_finite() -> None:
    plain, outputs = criterion(), random_outputs()
    for patches in ([], [(0, (3.0, 3.0, 3.5, 3.5))]):
        loss = loss_of(plain, outputs, batch_of(CELLS, patches))
        assert loss.tolist() == [0.0, 0.0, 0.0]
        loss.sum().backward()
        assert outputs["scores"].grad.abs().sum() == 0


def test_patch_without_cells_teaches_background() -> None:
    plain, outputs = criterion(), random_outputs()
    loss = loss_of(plain, outputs, batch_of([], PATCHES))
    assert loss[1] > 0
    assert loss[0] == loss[2] == 0


def test_cells_outside_the_patch_are_ignored() -> None:
    plain, outputs = criterion(), random_outputs()
    alone = loss_of(plain, outputs, batch_of(CELLS, PATCHES))
    # Its box reaches into the patch, its centre does not; the other one is far off.
    more = [*CELLS, (0, 1, (40.0, 34.0, 60.0, 60.0)), (1, 1, (0.0, 56.0, 10.0, 64.0))]
    assert torch.equal(loss_of(plain, outputs, batch_of(more, PATCHES)), alone)


def test_shifting_a_patch_by_one_stride_moves_one_column() -> None:
    plain, outputs = criterion(), random_outputs(1)

    def finest(x: float) -> Any:
        batch = batch_of([], [(0, (x, 16.0, x + 24.0, 40.0))], 1)
        return region_of(plain, outputs, batch).inside[0, :64].reshape(8, 8)

    first, second = finest(8.0), finest(16.0)
    assert first.sum() == 9
    assert torch.equal(first.roll(1, dims=1), second)
    assert (first ^ second).any(0).tolist() == [False, True, False, False, True] + [False] * 3


def test_several_patches_of_a_picture_are_joined() -> None:
    plain, outputs = criterion(), random_outputs(2)
    both = [(1, (0.0, 0.0, 16.0, 16.0)), (1, (40.0, 40.0, 64.0, 64.0))]
    inside = region_of(plain, outputs, batch_of([], both)).inside
    assert not inside[0].any()
    assert inside[1, :64].sum() == 4 + 9


def test_guard_band_spares_negatives_but_not_cells() -> None:
    plain, outputs = criterion(), random_outputs(1)
    patch = (0, (16.0, 16.0, 48.0, 64.0))
    # The cell's centre is 2 pixels inside the patch.
    batch = batch_of([(0, 0, (10.0, 28.0, 26.0, 44.0))], [patch], 1)
    region = region_of(plain, outputs, batch, guard=6.0)
    seen = region.negatives[0, :64].reshape(8, 8)
    # Anchors at 20 and 44 are 4 from a side; the lower side is the picture's own.
    assert seen.any(0).nonzero().flatten().tolist() == [3, 4]
    assert seen.any(1).nonzero().flatten().tolist() == [3, 4, 5, 6, 7]
    loss_of(plain, outputs, batch, guard=6.0).sum().backward()
    gradient = outputs["scores"].grad[0].abs().sum(0)
    learnt = gradient > 0
    assert torch.equal(learnt, learnt & region.inside[0])
    in_band = region.inside[0] & ~region.negatives[0]
    assert in_band.any()
    # In the band only anchors of the cell learn.
    column_2 = [row * 8 + 2 for row in range(8)]
    assert any(gradient[anchor] > 0 for anchor in column_2)
    assert gradient[7 * 8 + 2] == 0


def test_share_of_a_box_in_patches() -> None:
    patches = Patches(
        torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]]),
        torch.tensor([0, 0]),
        torch.tensor([64.0, 64.0]),
        2,
    )
    boxes = torch.tensor([[5.0, 0.0, 25.0, 10.0]] * 2 + [[40.0, 40.0, 50.0, 50.0]])
    shares = patches.shares_of(boxes, torch.tensor([0, 1, 0]))
    assert shares.tolist() == pytest.approx([0.5, 0.0, 0.0])


def test_median_side() -> None:
    size = torch.tensor([SIDE, SIDE])
    cells = Cells.labelled(batch_of(CELLS, WHOLE), torch.device("cpu"))
    median = median_side_px(cells, size)
    assert median is not None
    assert float(median) == pytest.approx((16 * 18) ** 0.5)
    assert median_side_px(cells.select(torch.zeros(3, dtype=torch.bool)), size) is None


def test_unsorted_labels_are_the_same_labels() -> None:
    plain, outputs = criterion(), random_outputs()
    torch.testing.assert_close(
        loss_of(plain, outputs, batch_of(CELLS[::-1], PATCHES)),
        loss_of(plain, outputs, batch_of(CELLS, PATCHES)),
    )
