"""One step of each method: what is added to the loss, what is left alone, what is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from edge_runtime.errors import DataError, SettingsError  # noqa: E402
from tests.train.adapt.adapt_support import boxes, context, network, step  # noqa: E402
from train.adapt import METHODS, confmix, daca  # noqa: E402
from train.adapt.composite import composites  # noqa: E402
from train.adapt.pseudo_boxes import PseudoBoxes  # noqa: E402
from train.adapt.teaching import Teacher  # noqa: E402
from train.step_loss import Moment, find_row  # noqa: E402

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

BOTH = pytest.mark.parametrize("method", [confmix, daca], ids=["confmix", "daca"])
TERM = {confmix: "mixed_loss", daca: "composite_loss"}
# An untrained network is sure of nothing; this lets its boxes through.
ANYTHING = {"confidence": 0.0}


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@pytest.fixture(autouse=True)
def unchanged(model: Any) -> Any:
    """Statistics of normalisation as before, for the next test."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.zero_grad()
    yield
    model.load_state_dict(kept)


def sure(pictures: int) -> PseudoBoxes:
    """Two sure boxes a picture."""
    rows = [
        (picture, box, label, 0.9)
        for picture in range(pictures)
        for box, label in (((4.0, 4.0, 28.0, 26.0), 0), ((40.0, 38.0, 60.0, 60.0), 1))
    ]
    return boxes(rows)


@pytest.fixture
def sure_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher who finds the same sure boxes everywhere."""
    monkeypatch.setattr(Teacher, "boxes", lambda self, preds, pictures: sure(pictures))


def statistics(model: Any) -> dict[str, Any]:
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if "running" in name or "tracked" in name
    }


@BOTH
def test_without_a_box_the_loss_is_the_plain_one(model: Any, method: ModuleType) -> None:
    given = context(model)
    batch = step()
    preds = model(batch["img"])
    losses, items = method.build(given, method.Options(confidence=0.99))(preds, batch)
    plain, plain_items = given.plain(preds, batch)
    assert torch.equal(losses, plain)
    assert list(items) == [*plain_items, TERM[method]]
    assert items[TERM[method]].item() == 0.0
    assert not items[TERM[method]].requires_grad


@BOTH
@pytest.mark.parametrize("target", [2, 3, 5])
def test_the_term_is_that_of_ultralytics_whatever_the_batches_sizes(
    model: Any, method: ModuleType, target: int, sure_teacher: None
) -> None:
    given = context(model)
    batch = step(source=3, target=target)
    preds = model(batch["img"])
    seen: list[tuple[Any, dict[str, Any]]] = []
    plain = given.plain

    def listening(outputs: Any, labels: dict[str, Any]) -> Any:
        seen.append((outputs, labels))
        return plain(outputs, labels)

    given = context(model, plain=listening)
    options = method.Options(weight=0.5, bn_target=False)
    losses, items = method.build(given, options)(preds, batch)
    base, _ = plain(preds, batch)
    assert len(seen) == 2
    outputs, labels = seen[1]
    assert len(labels["img"]) == min(3, target)
    assert (labels["batch_idx"].diff() >= 0).all()
    assert len(labels["batch_idx"]) == (2 if method is confmix else 4) * min(3, target)
    term = plain(outputs, labels)[0] / min(3, target)
    # Every label is surer than one half, so that ConfMix's weight is 1.
    assert torch.allclose(losses, base + 0.5 * 3 * term)
    assert items[TERM[method]].item() == pytest.approx(0.5 * term.sum().item(), rel=1e-5)
    losses.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@BOTH
def test_names_of_items_never_change(model: Any, method: ModuleType) -> None:
    names = set()
    for confidence in (0.0, 0.99):
        batch = step()
        loss = method.build(context(model), method.Options(confidence=confidence))
        names.add(tuple(loss(model(batch["img"]), batch)[1]))
    assert len(names) == 1


@BOTH
@pytest.mark.parametrize("bn_target", [True, False])
def test_the_target_moves_statistics_only_where_it_may(
    model: Any, method: ModuleType, bn_target: bool, sure_teacher: None
) -> None:
    batch = step()
    preds = model(batch["img"])
    before = statistics(model)
    loss = method.build(context(model), method.Options(bn_target=bn_target))
    losses, _ = loss(preds, batch)
    after = statistics(model)
    same = [torch.equal(before[name], after[name]) for name in before]
    assert not any(same) if bn_target else all(same)
    losses.sum().backward()
    assert model.training
    assert all(module.training for module in model.modules())


@BOTH
def test_the_average_can_be_the_teacher_and_stays_as_it_was(model: Any, method: ModuleType) -> None:
    average = network().eval()
    kept = {name: value.clone() for name, value in average.state_dict().items()}
    asked: list[int] = []
    average.register_forward_hook(lambda *_: asked.append(average.training))
    batch = step()
    loss = method.build(
        context(model, averaged=lambda: average), method.Options(teacher="ema", **ANYTHING)
    )
    loss(model(batch["img"]), batch)[0].sum().backward()
    assert asked == [False]
    assert all(torch.equal(kept[name], value) for name, value in average.state_dict().items())
    assert all(p.grad is None for p in average.parameters())


def test_mixed_pictures_and_labels_of_a_step(model: Any) -> None:
    loss = confmix.build(context(model), confmix.Options())
    batch = step(2, 2)
    known, found = sure(2), boxes([(1, (4, 36, 20, 60), 2, 0.6)])
    images, labels = loss.mixed(batch["img"], batch["target_img"], known, found)
    # Without a box the first quarter in order, left and bottom, is set in just the same.
    for image, source, target in zip(images, batch["img"], batch["target_img"], strict=True):
        assert torch.equal(image[:, 32:, :32], target[:, 32:, :32])
        assert torch.equal(image[:, :32], source[:, :32])
    assert labels.pictures.tolist() == [0, 0, 1, 1, 1]
    assert labels.class_ids.tolist() == [0, 1, 0, 1, 2]


def test_the_weight_counts_sure_labels(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = boxes([(0, (4, 36, 28, 60), 0, 0.3), (1, (4, 36, 28, 60), 0, 0.9)])
    monkeypatch.setattr(Teacher, "target_boxes", lambda self, images: table)
    monkeypatch.setattr(Teacher, "boxes", lambda self, preds, pictures: boxes([]))
    given = context(model)
    batch = step(2, 2)
    confmix.build(given, confmix.Options())(model(batch["img"]), batch)
    assert given.log._sums["gamma_sum"] == pytest.approx(0.5)
    assert given.log._sums["mixed_labels"] == 2


def test_real_labels_can_stand_for_the_sources_boxes(model: Any) -> None:
    seen: list[dict[str, Any]] = []
    given = context(model)
    plain = given.plain
    given = context(
        model, plain=lambda outputs, labels: (seen.append(labels), plain(outputs, labels))[1]
    )
    batch = step(3, 3)
    options = confmix.Options(source_labels="truth", confidence=0.9)
    confmix.build(given, options)(model(batch["img"]), batch)
    # Nothing is found in the target; labels of the first and the last picture are outside
    # the quarter that is replaced, left and bottom.
    assert seen[1]["batch_idx"].tolist() == [0, 2]
    assert seen[1]["bboxes"].flatten().tolist() == pytest.approx(
        batch["bboxes"].flatten().tolist(), abs=1e-5
    )


def test_recolouring_changes_the_source_part_alone(model: Any) -> None:
    batch = step(2, 2)
    source, target = batch["img"] * 0.3, batch["target_img"]
    made = {
        kind: confmix.build(context(model), confmix.Options(recolour=kind)).mixed(
            source, target, sure(2), boxes([])
        )[0]
        for kind in ("none", "reinhard")
    }
    assert torch.equal(made["none"][:, :, 32:, :32], made["reinhard"][:, :, 32:, :32])
    means = {kind: images[:, :, :32].mean().item() for kind, images in made.items()}
    assert abs(means["reinhard"] - target.mean().item()) < 0.05
    assert means["none"] < 0.2


def test_composites_of_a_step_are_drawn_by_its_number(model: Any) -> None:
    images = step(1, 2)["target_img"]
    found = boxes([(1, (4, 4, 20, 20), 1, 0.5)])
    made = []
    for iteration in (3, 3, 4):
        given = context(
            model, moment=lambda it=iteration: Moment(it, 10, 0, 1), source_mean=(0.1, 0.2, 0.3)
        )
        made.append(daca.build(given, daca.Options()).composed(images, found))
    assert torch.equal(made[0][0], made[1][0])
    assert not torch.equal(made[0][0], made[2][0])
    assert made[0][0].shape == (1, 3, 64, 64)
    assert made[0][1].class_ids.tolist() == [1, 1, 1, 1]
    nothing, none = daca.build(context(model), daca.Options()).composed(images, boxes([]))
    assert (len(nothing), len(none)) == (0, 0)
    assert composites is daca.composites


@BOTH
def test_pictures_are_drawn_with_their_labels(
    model: Any, method: ModuleType, tmp_path: Path, sure_teacher: None
) -> None:
    cv2 = pytest.importorskip("cv2")
    batch = step(3, 3)
    method.build(context(model, tmp_path), method.Options())(model(batch["img"]), batch)
    files = list(tmp_path.glob("*.jpg"))
    assert [file.stem for file in files] == [
        {confmix: "mixed-000000-gamma-1.00", daca: "composite-000000"}[method]
    ]
    picture = cv2.imread(str(files[0]))
    assert picture.shape == (320, 3 * 320 + 2 * 4, 3)


@BOTH
def test_other_sizes_of_pictures_are_refused(model: Any, method: ModuleType) -> None:
    batch = step()
    batch["target_img"] = batch["target_img"][:, :, :32]
    loss = method.build(context(model), method.Options())
    with pytest.raises(DataError, match="train with rect: false"):
        loss(model(batch["img"]), batch)


@BOTH
def test_bad_options_are_refused(model: Any, method: ModuleType) -> None:
    row = find_row(METHODS, {confmix: "confmix", daca: "daca"}[method])
    assert row.options({}).confidence == {confmix: 0.25, daca: 0.1}[method]
    with pytest.raises(SettingsError, match=r"option teacher: .*'self' or 'ema'"):
        row.options({"teacher": "oracle"})
    with pytest.raises(SettingsError, match="no class 'blast'; there are a, b, c"):
        method.build(context(model), method.Options(per_class_confidence={"blast": 0.5}))
    with pytest.raises(SettingsError, match=r"per_class_confidence\.a: 1\.5"):
        method.build(context(model), method.Options(per_class_confidence={"a": 1.5}))


@BOTH
def test_one_class_and_thresholds_of_its_own(method: ModuleType) -> None:
    model = network(classes=1)
    batch = step()
    batch["cls"] = torch.zeros_like(batch["cls"])
    given = context(model)
    options = method.Options(per_class_confidence={"a": 0.0})
    losses, _ = method.build(given, options)(model(batch["img"]), batch)
    assert losses.isfinite().all()
    assert given.log._sums["pseudo_a"] == given.log._sums["target_boxes"] > 0
