"""Stain transfer: labelled pictures once more in the target's colours."""

from __future__ import annotations

from typing import Any, cast

import pytest

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

import torch
from torch import Tensor

from train.adapt.recolour import rgb_to_lab
from train.adapt.stain import Options, Stain
from train.step_loss import TARGET_IMAGES, Moment, StepContext, StepLog

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


class Asked:
    """Stands for the network and its criterion, and keeps what they were given."""

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []
        self.batches: list[dict[str, Any]] = []

    def model(self, images: Tensor) -> Tensor:
        self.pictures.append(images)
        return images.mean()

    def plain(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        self.batches.append(batch)
        return torch.ones(3) * 2, {"box_loss": torch.tensor(1.0)}

    def criterion(self, weight: float = 1.0) -> Stain:
        context = StepContext(
            model=cast("Any", self.model),
            plain=self.plain,
            classes=("cell",),
            moment=lambda: Moment(1, 10, 0, 2),
            averaged=cast("Any", None),
            log=StepLog(None),
        )
        return Stain(context, Options(weight=weight))


def batch(pictures: int, targets: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "img": 0.5 + 0.2 * torch.rand(pictures, 3, 16, 16, generator=generator),
        TARGET_IMAGES: 0.2 + 0.3 * torch.rand(targets, 3, 16, 16, generator=generator),
        "bboxes": torch.rand(pictures, 4, generator=generator),
        "cls": torch.zeros(pictures, 1),
        "batch_idx": torch.arange(pictures).float(),
    }


def test_pictures_take_the_targets_colours_and_keep_their_labels() -> None:
    asked, given = Asked(), batch(4, 4)
    losses, items = asked.criterion()(None, given)
    (painted,) = asked.pictures
    wanted = rgb_to_lab(given[TARGET_IMAGES]).mean((2, 3))
    assert torch.allclose(rgb_to_lab(painted).mean((2, 3)), wanted, atol=1.0)
    # The very same labels both times.
    assert asked.batches[0] is asked.batches[1]
    assert losses.tolist() == [4.0, 4.0, 4.0]
    assert items["painted_loss"] == pytest.approx(6.0 / 4)


def test_weight_scales_the_second_loss_alone() -> None:
    losses, _ = Asked().criterion(weight=0.25)(None, batch(2, 2))
    assert losses.tolist() == [2.5, 2.5, 2.5]


def test_fewer_target_pictures_come_again() -> None:
    asked, given = Asked(), batch(3, 1)
    asked.criterion()(None, given)
    means = rgb_to_lab(asked.pictures[0]).mean((2, 3))
    wanted = rgb_to_lab(given[TARGET_IMAGES]).mean((2, 3)).expand(3, 3)
    assert torch.allclose(means, wanted, atol=1.0)


def test_daca_takes_painted_pictures_along_on_request() -> None:
    from train.adapt.daca import Daca
    from train.adapt.daca import Options as DacaOptions

    given = batch(2, 2)
    plain = DacaOptions().stain_weight
    assert plain == 0
    asked = Asked()
    context = asked.criterion()._context
    for weight, losses in ((0.0, 2.0), (0.5, 3.0)):
        daca = object.__new__(Daca)
        daca._context, daca._options = context, DacaOptions(stain_weight=weight)
        daca._teacher = cast("Any", NoBoxes())
        daca.composed = lambda target, found: (target[:0], [])  # type: ignore[method-assign,assignment,return-value]
        daca._tell = lambda images, found, labels: None  # type: ignore[method-assign]
        total, _ = daca(None, given)
        assert total.tolist() == [losses] * 3


class NoBoxes:
    """A teacher that finds nothing."""

    def target_boxes(self, target: Tensor) -> None:
        return None
