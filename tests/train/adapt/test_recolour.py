"""Lab against known colours, and colours handed over."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from train.adapt.recolour import lab_to_rgb, reinhard, rgb_to_lab  # noqa: E402

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
    ],
)
def test_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    picture = torch.tensor(rgb, dtype=torch.float32).reshape(1, 3, 1, 1)
    assert rgb_to_lab(picture).flatten().tolist() == pytest.approx(lab, abs=0.03)


def test_there_and_back() -> None:
    pictures = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lab_to_rgb(rgb_to_lab(pictures)), pictures, atol=1e-4)


def test_colours_become_the_others_and_structure_stays() -> None:
    draws = torch.Generator().manual_seed(0)
    source = 0.5 + 0.1 * torch.rand(2, 3, 32, 32, generator=draws)
    tint = torch.tensor([0.55, 0.35, 0.45])[:, None, None]
    like = tint + 0.15 * torch.rand(2, 3, 32, 32, generator=draws)
    given = reinhard(source, like)
    ours, wanted = rgb_to_lab(given), rgb_to_lab(like)
    assert torch.allclose(ours.mean((2, 3)), wanted.mean((2, 3)), atol=0.5)
    assert torch.allclose(ours.std((2, 3)), wanted.std((2, 3)), rtol=0.1)
    together = torch.stack([rgb_to_lab(source)[:, 0].flatten(), ours[:, 0].flatten()])
    assert torch.corrcoef(together)[0, 1] > 0.9
    assert torch.allclose(reinhard(source, source), source, atol=1e-3)
    blank = torch.full((1, 3, 8, 8), 0.5)
    assert reinhard(blank, like[:1, :, :8, :8]).isfinite().all()
