"""The triplet loss at the constants of its equation, and what it does to features."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from train.sparse.anchors import Cells  # noqa: E402
from train.sparse.pseudo_labels import Candidates  # noqa: E402
from train.sparse.similarity import cell_features, same_cell, triplet_loss  # noqa: E402

pytestmark = pytest.mark.train

E1, E2 = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
LABELLED, IDS = torch.stack([E1, E2]), torch.tensor([0, 1])


def loss(feature: Any, class_id: int = 0, **options: Any) -> float:
    return float(triplet_loss(feature[None], torch.tensor([class_id]), LABELLED, IDS, **options)[0])


@pytest.mark.parametrize(
    ("feature", "intended", "printed"),
    [(E1, 0.0, 0.95), ((E1 + E2) / 2**0.5, 0.05, 0.0), (E2, 1.05, 0.0)],
)
def test_constants_of_the_equation(feature: Any, intended: float, printed: float) -> None:
    assert loss(feature) == pytest.approx(intended, abs=1e-6)
    assert loss(feature, sign="printed") == pytest.approx(printed, abs=1e-6)
    # Length does not matter.
    assert loss(feature * 7.5) == pytest.approx(intended, abs=1e-6)


def test_farthest_of_its_class_and_nearest_of_others_count() -> None:
    labelled = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1, 1], [0, 1], [2, 1]]))
    got, pairs = triplet_loss(E1[None], torch.tensor([0]), labelled, torch.tensor([0, 0, 1, 2]))
    assert pairs == 1
    assert got.item() == pytest.approx(2 / 5**0.5 - 1 / 2**0.5 + 0.05)


def test_one_step_widens_the_gap() -> None:
    feature = torch.tensor([0.6, 0.8], requires_grad=True)

    def gap() -> Any:
        unit = feature / feature.norm()
        return (unit @ E1 - unit @ E2).item()

    before = gap()
    triplet_loss(feature[None], torch.tensor([0]), LABELLED, IDS)[0].backward()
    with torch.no_grad():
        feature -= 0.1 * feature.grad
    assert gap() > before


def test_mean_over_those_that_take_part() -> None:
    features = torch.stack([E2, E1, E1])
    got, pairs = triplet_loss(features, torch.tensor([0, 0, 5]), LABELLED, IDS)
    # The third has no labelled cell of its class.
    assert pairs == 2
    assert got.item() == pytest.approx(1.05 / 2)


def test_one_class_only_is_zero_in_the_graph() -> None:
    features = torch.stack([E1, E2]).requires_grad_()
    for labelled, ids in ((LABELLED, torch.tensor([0, 0])), (LABELLED[:0], IDS[:0])):
        got, pairs = triplet_loss(features, torch.tensor([0, 0]), labelled, ids)
        assert (got.item(), pairs) == (0.0, 0)
        got.backward()
        assert features.grad.abs().sum() == 0
    nothing, _ = triplet_loss(features[:0], torch.zeros(0, dtype=torch.long), LABELLED, IDS)
    assert nothing.item() == 0.0


def test_only_the_same_cell_of_the_same_picture_is_excluded() -> None:
    cells_px = torch.tensor([[10.0, 10.0, 30.0, 30.0]] * 2)
    cells = Cells(torch.zeros(2, 4), torch.zeros(2), torch.tensor([0, 1]))
    boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0], [10.0, 23.0, 30.0, 43.0]])
    found = Candidates(boxes, torch.ones(2, 1), torch.tensor([0, 0]))
    # 140 of 660 square pixels are common to the second and the cell: 0.21.
    assert same_cell(found, cells, cells_px).tolist() == [[True, False], [False, False]]
    excluded = torch.tensor([[True, False]])
    got, pairs = triplet_loss(E2[None], torch.tensor([0]), LABELLED, IDS, excluded)
    assert (got.item(), pairs) == (0.0, 0)


def test_features_are_those_of_the_cell() -> None:
    feature_map = torch.zeros(2, 2, 8, 8)
    feature_map[:, 0] = 1.0
    # One bin wider than the cell on each side, as bins are interpolated.
    feature_map[1, :, 1:5, 3:7] = torch.tensor([0.0, 3.0])[:, None, None]
    boxes = torch.tensor([[34.0, 18.0, 46.0, 30.0], [2.0, 34.0, 14.0, 60.0]])
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for kind in (torch.float32, torch.float16):
        got = cell_features(feature_map.to(kind), 8.0, boxes.to(kind), torch.tensor([1, 1]))
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)
    assert cell_features(feature_map, 8.0, boxes[:0], torch.zeros(0)).shape == (0, 2)
