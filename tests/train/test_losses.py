"""The asymmetric loss against constants worked out by hand, masking, and its gradient."""

from __future__ import annotations

import math

import pytest

from edge_runtime.attributes import MISSING

torch = pytest.importorskip("torch")

from train.losses import AsymmetricLoss, one_hot_targets  # noqa: E402

pytestmark = pytest.mark.train

SIX_PAIRS = (2,) * 6
LOSS = AsymmetricLoss()


def single(z: float, y: int, loss: AsymmetricLoss = LOSS) -> tuple[float, float]:
    """Loss and gradient of one logit with target ``y``."""
    logits = torch.tensor([[z]], dtype=torch.float32, requires_grad=True)
    value = loss(logits, torch.tensor([[y]]), (1,))
    value.backward()
    return value.item(), logits.grad.item()


def test_constants_of_the_defaults() -> None:
    assert single(0.0, 1)[0] == pytest.approx(0.346574, abs=1e-6)
    assert single(0.0, 0)[0] == pytest.approx(0.016950, abs=1e-6)


def test_gradient_of_a_positive_keeps_its_focusing_weight_out() -> None:
    assert single(0.0, 1)[1] == pytest.approx(-0.25, abs=1e-6)


@pytest.mark.parametrize("p", [0.08, 0.05, 1e-6])
def test_negatives_inside_the_margin_cost_exactly_nothing(p: float) -> None:
    # A hair below 0.08, which float32 cannot hold.
    assert single(math.log(p / (1 - p)) - 1e-6, 0) == (0.0, 0.0)


def test_six_pairs_at_zero() -> None:
    values = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    assert LOSS(torch.zeros(2, 12), values, SIX_PAIRS).item() == pytest.approx(2.18114, abs=1e-5)


def test_without_focusing_and_margin_it_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 12, generator=generator)
    values = torch.randint(0, 2, (7, 6), generator=generator)
    targets, _ = one_hot_targets(values, SIX_PAIRS)
    reference = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="sum"
    )
    plain = AsymmetricLoss(gamma_negative=0, gamma_positive=0, margin=0)
    assert plain(logits, values, SIX_PAIRS).item() == pytest.approx(reference.item() / 7, rel=1e-5)


def test_targets_of_uneven_groups_and_single_logits() -> None:
    values = torch.tensor([[2, 0, 1], [0, MISSING, 0]])
    targets, known = one_hot_targets(values, (3, 2, 1))
    assert targets.tolist() == [[0, 0, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0]]
    assert known.tolist() == [[True] * 6, [True, True, True, False, False, True]]


def test_a_cell_without_any_attribute_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 12, generator=generator)
    values = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 1, 0, 0, 1, 1], [MISSING] * 6])
    with_it = LOSS(logits, values, SIX_PAIRS)
    assert with_it.item() == pytest.approx(LOSS(logits[:2], values[:2], SIX_PAIRS).item())


def test_logits_under_the_mask_neither_cost_nor_learn() -> None:
    values = torch.tensor([[MISSING, 1, 0, 1, 1, 0]])
    logits = torch.zeros(1, 12, requires_grad=True)
    low = LOSS(logits, values, SIX_PAIRS)
    low.backward()
    assert logits.grad is not None
    assert logits.grad[0, :2].tolist() == [0, 0]
    assert (logits.grad[0, 2:] != 0).all()
    changed = torch.zeros(1, 12)
    changed[0, :2] = torch.tensor([40.0, -40.0])
    assert LOSS(changed, values, SIX_PAIRS).item() == low.item()
    # Five pairs count, and still one cell.
    assert low.item() == pytest.approx(2.18114 * 5 / 6, abs=1e-5)


@pytest.mark.parametrize("cells", [0, 2])
def test_nothing_known_is_a_zero_with_a_gradient(cells: int) -> None:
    layer = torch.nn.Linear(4, 12)
    loss = LOSS(layer(torch.ones(cells, 4)), torch.full((cells, 6), MISSING), SIX_PAIRS)
    loss.backward()
    assert loss.item() == 0.0
    assert layer.weight.grad is not None
    assert (layer.weight.grad == 0).all()


@pytest.mark.parametrize("z", [-1e4, 1e4])
@pytest.mark.parametrize("y", [0, 1])
def test_extreme_logits_stay_finite(z: float, y: int) -> None:
    value, gradient = single(z, y)
    assert math.isfinite(value)
    assert math.isfinite(gradient)


def test_half_precision_logits_are_computed_in_full() -> None:
    logits = torch.tensor([[0.5, -0.5]])
    values = torch.tensor([[1]])
    full = LOSS(logits, values, (2,))
    half = LOSS(logits.half(), values, (2,))
    assert half.dtype == torch.float32
    assert half.item() == full.item()


def test_a_value_the_attribute_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="attribute 1 of cell 0 has value 2; wanted 0 to 1"):
        one_hot_targets(torch.tensor([[0, 2]]), (3, 2))
    with pytest.raises(ValueError, match="value -2"):
        one_hot_targets(torch.tensor([[-2, 0]]), (3, 2))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="for 2 attributes"):
        one_hot_targets(torch.zeros(1, 3, dtype=torch.int64), (2, 2))
    with pytest.raises(ValueError, match=r"\(1, 4\) wanted"):
        LOSS(torch.zeros(1, 5), torch.zeros(1, 2, dtype=torch.int64), (2, 2))
