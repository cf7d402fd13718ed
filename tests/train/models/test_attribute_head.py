"""Parameter counts, taps found at run time, and pooling that looks where the box is."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.attributes import Attribute, AttributeSchema
from edge_runtime.errors import SettingsError

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from ultralytics.nn.tasks import DetectionModel  # noqa: E402

from train.losses import AsymmetricLoss  # noqa: E402
from train.models.attribute_head import (  # noqa: E402
    AttriHead,
    FeatureTap,
    Tap,
    chosen_values,
    describe_taps,
    logit_widths,
    pool_cells,
    tapped_layers,
)

pytestmark = pytest.mark.train


@pytest.mark.parametrize(("outputs", "parameters"), [(12, 1_520_140), (6, 1_518_598)])
def test_parameter_counts_of_the_paper(outputs: int, parameters: int) -> None:
    head = AttriHead(480, outputs)
    assert sum(each.numel() for each in head.parameters()) == parameters


def test_dropout_is_the_papers_unless_told() -> None:
    def rates(head: AttriHead) -> list[float]:
        return [each.p for each in head.modules() if isinstance(each, torch.nn.Dropout)]

    assert rates(AttriHead(8, 2)) == [0.2] * 3
    assert rates(AttriHead(8, 2, dropout=0.5)) == [0.5] * 3


def test_six_pairs_come_out_as_cells_by_attributes_by_values() -> None:
    logits = AttriHead(8, 12)(torch.zeros(5, 8, 24, 30))
    assert logits.reshape(-1, 6, 2).shape == (5, 6, 2)


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("yolov5n.yaml", (Tap(1, 32, 4), Tap(4, 64, 8))),
        ("yolo11n.yaml", (Tap(2, 64, 4), Tap(4, 128, 8))),
    ],
)
def test_taps_of_small_detectors(name: str, taps: tuple[Tap, ...]) -> None:
    assert describe_taps(DetectionModel(name, verbose=False), tapped_layers(name)) == taps


@pytest.mark.parametrize(
    ("name", "widths"), [("yolov5x.yaml", (160, 320)), ("yolo11m.yaml", (256, 512))]
)
def test_taps_of_the_papers_detectors(name: str, widths: tuple[int, int]) -> None:
    taps = describe_taps(DetectionModel(name, verbose=False), tapped_layers(name))
    assert tuple(each.channels for each in taps) == widths
    assert tuple(each.stride for each in taps) == (4, 8)


def test_describing_leaves_the_detector_as_it_was() -> None:
    detector: Any = DetectionModel("yolo11n.yaml", verbose=False).train()
    detector.model[1].eval()
    before = {name: each.clone() for name, each in detector.state_dict().items()}
    describe_taps(detector, (2, 4))
    assert detector.training
    assert detector.model[0].training
    assert not detector.model[1].training
    assert all(torch.equal(each, before[name]) for name, each in detector.state_dict().items())
    assert not any(module._forward_hooks for module in detector.modules())


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("yolo11n", (2, 4)),
        ("/runs/a/yolo11s-relu.yaml", (2, 4)),
        ("yolov5xu.pt", (1, 4)),
        ("yolov5m.yaml", (1, 4)),
    ],
)
def test_layers_by_name(name: str, layers: tuple[int, int]) -> None:
    assert tapped_layers(name) == layers


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov5x6.yaml", "rtdetr-l.yaml", ""])
def test_other_families_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="no known layers"):
        tapped_layers(name)


def test_tap_without_a_pass_says_so() -> None:
    layers = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    with FeatureTap(layers, (0, 1)) as tap, pytest.raises(RuntimeError, match="not run yet"):
        _ = tap.maps


def test_tap_records_each_layer_in_the_order_asked_for() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Conv2d(2, 3, 1))
    with FeatureTap(layers, (1, 0)) as tap:
        layers(torch.zeros(1, 1, 4, 4))
    assert [each.shape[1] for each in tap.maps] == [3, 2]


def test_pooling_reads_the_boxs_own_values() -> None:
    # A ramp along x and one along y, sampled at pixel centres: pooled bins must show the
    # coordinates of their own centres.
    height, width, stride = 16, 24, 4
    x = (torch.arange(width) + 0.5).expand(height, width) * stride
    y = ((torch.arange(height) + 0.5) * stride).unsqueeze(1).expand(height, width)
    ramp = torch.stack([x, y]).unsqueeze(0)
    box = torch.tensor([[20.0, 12.0, 50.0, 36.0]])
    pooled = pool_cells([ramp], [stride], box, torch.tensor([0]))
    assert pooled.shape == (1, 2, 24, 30)
    assert torch.allclose(pooled[0, 0, 0], 20 + torch.arange(30) + 0.5, atol=1e-4)
    assert torch.allclose(pooled[0, 1, :, 0], 12 + torch.arange(24) + 0.5, atol=1e-4)


def test_painting_one_box_changes_only_its_cell() -> None:
    # Wider than high, so that swapped axes cannot pass.
    detector: Any = DetectionModel("yolo11n.yaml", verbose=False).eval()
    taps = describe_taps(detector, (2, 4))
    boxes = torch.tensor([[16.0, 32.0, 56.0, 80.0], [240.0, 40.0, 300.0, 90.0]])

    def pooled(picture: Any) -> Any:
        with torch.no_grad(), FeatureTap(detector.model, (2, 4)) as tap:
            detector(picture)
        return pool_cells(tap.maps, [each.stride for each in taps], boxes, torch.zeros(2))

    blank = torch.zeros(1, 3, 128, 320)
    painted = blank.clone()
    painted[:, :, 40:90, 240:300] = 1.0
    before, after = pooled(blank), pooled(painted)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_half_precision_maps_are_pooled_in_full() -> None:
    pooled = pool_cells(
        [torch.ones(1, 2, 8, 8).half()], [4], torch.tensor([[1.0, 1, 9, 9]]), torch.zeros(1)
    )
    assert pooled.dtype == torch.float32


@pytest.mark.parametrize(("warn_only", "seen"), [(True, False), (False, True)])
def test_only_a_strict_demand_for_determinism_reaches_the_pooling(
    monkeypatch: pytest.MonkeyPatch, warn_only: bool, seen: bool
) -> None:
    flags = []

    def record(maps: Any, rois: Any, **_: Any) -> Any:
        flags.append(torch.are_deterministic_algorithms_enabled())
        return maps.new_zeros(len(rois), 2, 24, 30)

    monkeypatch.setattr("train.models.attribute_head.roi_align", record)
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        pool_cells([torch.zeros(1, 2, 8, 8)], [4], torch.ones(1, 4), torch.zeros(1))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(False)
    assert flags == [seen]


def test_no_cells_are_a_zero_with_a_gradient_down_to_the_maps() -> None:
    maps = torch.randn(1, 8, 16, 16, requires_grad=True)
    head = AttriHead(8, 4)
    logits = head(pool_cells([maps], [4], torch.zeros(0, 4), torch.zeros(0)))
    assert logits.shape == (0, 4)
    loss = AsymmetricLoss()(logits, torch.zeros(0, 2, dtype=torch.int64), (2, 2))
    loss.backward()
    assert loss.item() == 0
    assert maps.grad is not None
    assert all(each.grad is not None and (each.grad == 0).all() for each in head.parameters())


def test_reset_draws_every_weight_anew() -> None:
    head = AttriHead(8, 4)
    before = [each.clone() for each in head.parameters()]
    head.reset_parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, head.parameters(), strict=True))


def test_widths_by_kind_of_output() -> None:
    pair = Attribute(name="a", values=("no", "yes"))
    triple = Attribute(name="b", values=("x", "y", "z"))
    assert logit_widths(AttributeSchema(name="s", attributes=(pair, triple))) == (2, 3)
    assert logit_widths(AttributeSchema(name="s", attributes=(pair,)), "per_attribute") == (1,)
    with pytest.raises(SettingsError, match="'b' has 3 values"):
        logit_widths(AttributeSchema(name="s", attributes=(triple,)), "per_attribute")


def test_chosen_values_of_groups_and_single_logits() -> None:
    values, shares = chosen_values(torch.tensor([[0.0, 2.0, -1.0, -3.0]]), (3, 1))
    assert values.tolist() == [[1, 0]]
    sigmoid = torch.sigmoid(torch.tensor([0.0, 2.0, -1.0, -3.0]))
    assert shares[0, 0].item() == pytest.approx((sigmoid[1] / sigmoid[:3].sum()).item())
    assert shares[0, 1].item() == pytest.approx(1 - sigmoid[3].item())
    # Equal logits: the lower value, so that two runs agree.
    assert chosen_values(torch.zeros(1, 2), (2,))[0].tolist() == [[0]]
