"""SLA-Det's three losses together, each switchable, in steps and in a real training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from edge_runtime.errors import SettingsError

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from tests.train.attributed_fields import CLASSES, write_data_yaml, write_fields  # noqa: E402
from tests.train.sparse_outputs import (  # noqa: E402
    Clock,
    batch_of,
    context_of,
    criterion,
    quiet_outputs,
    random_outputs,
    set_prediction,
)
from train.method_trainer import MethodAttriDetTrainer, MethodTrainer  # noqa: E402
from train.sparse import METHODS  # noqa: E402
from train.sparse.sla_det import LOSS_NAMES, Options, SlaDetLoss, build  # noqa: E402
from train.step_loss import find_row, read_counts  # noqa: E402

pytestmark = pytest.mark.train

PATCHES = [(0, (0.0, 0.0, 32.0, 64.0)), (1, (0.0, 0.0, 32.0, 64.0))]
CELLS = [(0, 0, (8.0, 8.0, 26.0, 26.0)), (1, 1, (8.0, 30.0, 28.0, 50.0))]
SURE = (42.0, 42.0, 60.0, 60.0)
UNDECIDED = (38.0, 6.0, 58.0, 24.0)


def scene() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two cells in patches; outside one confident and one undecided prediction."""
    outputs = quiet_outputs()
    set_prediction(outputs, 0, 6 * 8 + 6, SURE, [6.0, -9.0, -9.0])
    set_prediction(outputs, 1, 1 * 8 + 5, UNDECIDED, [math.log(4), -9.0, -9.0])
    return outputs, batch_of(CELLS, PATCHES)


def step(options: Options, clock: Clock | None = None, **context: Any) -> Any:
    outputs, batch = scene()
    loss = build(context_of(criterion(), clock or Clock(), **context), options)
    losses, items = loss(outputs, batch)
    return losses, items, outputs


def test_each_loss_can_be_switched_off() -> None:
    seen = {}
    for name, off in {
        "LR": {"pseudo_labels": False, "similarity": False},
        "LR+PL": {"similarity": False},
        "LR+PL+Tri": {},
    }.items():
        losses, items, _ = step(Options(**off))
        assert tuple(items) == LOSS_NAMES
        assert losses.shape == (5,)
        torch.testing.assert_close(losses.detach() / 2, torch.stack(list(items.values())))
        assert not any(value.requires_grad for value in items.values())
        seen[name] = [float(value) for value in items.values()]
    assert seen["LR"][:3] == seen["LR+PL"][:3] == seen["LR+PL+Tri"][:3]
    assert seen["LR"][3:] == [0.0, 0.0]
    assert seen["LR+PL"][3] > 0
    assert seen["LR+PL"][4] == 0.0
    assert seen["LR+PL+Tri"][3] == seen["LR+PL"][3]
    assert seen["LR+PL+Tri"][4] > 0


def test_gains_weigh_the_two_losses() -> None:
    paper = step(Options())[1]
    doubled = step(Options(pseudo_gain=0.2, triplet_gain=0.3))[1]
    assert float(doubled["pseudo_loss"]) == pytest.approx(2 * float(paper["pseudo_loss"]))
    assert float(doubled["triplet_loss"]) == pytest.approx(3 * float(paper["triplet_loss"]))


def test_without_labelled_regions_unlabelled_is_background() -> None:
    options = Options(labelled_region=False, pseudo_labels=False, similarity=False)
    outputs, batch = scene()
    plain = criterion()
    losses, _ = SlaDetLoss(context_of(plain, Clock()), options)(outputs, batch)
    torch.testing.assert_close(losses[:3], plain(outputs, batch)[0])
    assert losses[1] > step(Options())[0][1]


def test_class_gradient_outside_comes_from_accepted_predictions_only() -> None:
    losses, _, outputs = step(Options(similarity=False))
    losses.sum().backward()
    gradient = outputs["scores"].grad[0, :, :64].abs().sum(0).reshape(8, 8) > 0
    assert gradient[:, :4].any()
    rows, columns = gradient[:, 4:].nonzero(as_tuple=True)
    # Within the accepted box.
    assert len(rows) > 0
    assert rows.min() >= 5
    assert columns.min() >= 1
    losses, _, outputs = step(Options(pseudo_labels=False))
    losses.sum().backward()
    outside = outputs["scores"].grad[:, :, :64].reshape(2, 3, 8, 8)[..., 4:]
    assert (outside == 0).all()
    assert outputs["feats"][0].grad.abs().sum() > 0


def test_schedule_switches_losses_off() -> None:
    clock = Clock(epochs=50)
    outputs, batch = scene()
    loss = SlaDetLoss(context_of(criterion(), clock), Options(start_epoch=2))
    on = {}
    for clock.epoch in (0, 1, 2, 39, 40, 49):
        items = loss(outputs, batch)[1]
        on[clock.epoch] = (bool(items["pseudo_loss"] > 0), bool(items["triplet_loss"] > 0))
    both, labels, triplet = (True, True), (True, False), (False, True)
    assert on == {0: triplet, 1: triplet, 2: both, 39: both, 40: labels, 49: labels}
    clock.epoch = 49
    items = step(Options(last_epoch_lr_only=True, triplet_epochs=50), clock)[1]
    assert float(items["pseudo_loss"]) == float(items["triplet_loss"]) == 0.0


def test_attribute_heads_shorten_the_similarity_loss() -> None:
    clock = Clock(epochs=30)
    context = context_of(criterion(), clock)
    context.model.attribute_head = torch.nn.Identity()
    loss = SlaDetLoss(context, Options())
    outputs, batch = scene()
    on = []
    for clock.epoch in (9, 10):
        on.append(bool(loss(outputs, batch)[1]["triplet_loss"] > 0))
    assert on == [True, False]


def test_counts_and_pictures_are_written(tmp_path: Path) -> None:
    clock = Clock()
    outputs, batch = scene()
    context = context_of(criterion(), clock, tmp_path, every=2)
    loss = SlaDetLoss(context, Options())
    for clock.iteration in range(3):
        loss(outputs, batch)
    context.log.close_epoch(0)
    clock.epoch = 1
    loss(outputs, batch)
    context.log.close_epoch(1)
    first, second = read_counts(tmp_path)
    # Thresholds as themselves, however many steps an epoch has.
    assert (first["t0"], first["t1"], second["t1"]) == (0.70, 0.95, 0.95)
    assert (first["accepted"], first["similar"], first["triplet_pairs"]) == (3, 3, 3)
    assert (second["accepted"], first["rejected_in_patch"]) == (1, 0)
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == [
        "step-000000.jpg",
        "step-000002.jpg",
    ]
    picture = cv2.imread(str(tmp_path / "step-000000.jpg"))
    assert picture is not None
    assert picture.shape == (64, 128, 3)


def test_picture_shows_patches_labels_and_accepted_boxes(tmp_path: Path) -> None:
    shown: dict[str, Any] = {}
    outputs, batch = scene()
    batch["img"] = torch.zeros_like(batch["img"])
    context = context_of(criterion(), Clock(), tmp_path, every=1)
    log: Any = SimpleNamespace(
        count=lambda **_: None,
        wants_picture=lambda _: True,
        picture=lambda name, draw: shown.update({name: draw()}),
    )
    object.__setattr__(context, "log", log)
    SlaDetLoss(context, Options())(outputs, batch)
    pixels = shown["step-000000"]
    red, blue, green = ((200, 0, 60), (0, 120, 255), (0, 150, 0))
    assert tuple(pixels[50, 42]) == red
    assert tuple(pixels[20, 8]) == blue
    assert tuple(pixels[32, 32]) == green
    # Nothing was accepted in the second picture.
    assert not (pixels[:, 64:] == red).all(2).any()
    assert (pixels[:, 64:] == blue).all(2).any()


def test_starving_is_a_result(tmp_path: Path) -> None:
    context = context_of(criterion(), Clock(), tmp_path)
    outputs, batch = quiet_outputs(), batch_of(CELLS, PATCHES)
    losses, items = SlaDetLoss(context, Options())(outputs, batch)
    assert losses.isfinite().all()
    losses.sum().backward()
    assert float(items["pseudo_loss"]) == 0.0
    context.log.close_epoch(0)
    assert read_counts(tmp_path)[0]["accepted"] == 0


@pytest.mark.parametrize("patches", [[], PATCHES])
@pytest.mark.parametrize("cells", [[], CELLS])
def test_batches_without_cells_or_patches(patches: Any, cells: Any) -> None:
    outputs = random_outputs()
    losses, _ = SlaDetLoss(context_of(criterion(), Clock()), Options(t0=0.5, t1=0.8, t2=2.0))(
        outputs, batch_of(cells, patches)
    )
    assert losses.isfinite().all()
    losses.sum().backward()


def test_one_class_has_no_entropy_and_no_triplets() -> None:
    plain, outputs = criterion(1), quiet_outputs(classes=1)
    set_prediction(outputs, 0, 6 * 8 + 6, SURE, [6.0])
    set_prediction(outputs, 1, 1 * 8 + 5, UNDECIDED, [math.log(4)])
    cells = [(picture, 0, box) for picture, _, box in CELLS]
    _, items = SlaDetLoss(context_of(plain, Clock()), Options(t2=0.001))(
        outputs, batch_of(cells, PATCHES)
    )
    assert items["pseudo_loss"] > 0
    assert items["triplet_loss"] == 0


def test_averaged_network_can_be_the_teacher() -> None:
    quiet = quiet_outputs()
    asked: list[Any] = []
    options = Options(teacher="ema", similarity=False)

    def averaged(images: Any) -> Any:
        asked.append((images.shape, torch.is_grad_enabled()))
        return torch.zeros(0), quiet

    items = step(options, averaged=averaged)[1]
    assert asked == [((2, 3, 64, 64), False)]
    # It saw nothing, so nothing is accepted.
    assert float(items["pseudo_loss"]) == 0.0
    teaching, _ = scene()
    items = step(options, averaged=lambda _: (None, teaching))[1]
    assert float(items["pseudo_loss"]) > 0


def test_calibration_changes_what_is_accepted(tmp_path: Path) -> None:
    clock = Clock(epochs=10)
    context = context_of(criterion(), clock, tmp_path)
    loss = SlaDetLoss(context, Options(thresholds="calibrated", calibrate_every=2))
    outputs, batch = quiet_outputs(), batch_of(CELLS, PATCHES, 2)
    # All that the patches show is found, at 0.6.
    for (picture, kind, box), anchor in zip(CELLS, (2 * 8 + 2, 5 * 8 + 2), strict=True):
        logits = [math.log(1.5) if each == kind else -9.0 for each in range(3)]
        set_prediction(outputs, picture, anchor, box, logits)
    set_prediction(outputs, 0, 6 * 8 + 6, SURE, [math.log(1.6), -9.0, -9.0])
    pseudo = []
    for clock.epoch in range(4):
        # Two predictions a step; twenty are needed in an epoch before a calibration.
        for _ in range(11 if clock.epoch % 2 else 1):
            items = loss(outputs, batch)[1]
        pseudo.append(float(items["pseudo_loss"]))
        context.log.close_epoch(clock.epoch)
    assert [line["t1"] for line in read_counts(tmp_path)] == pytest.approx(
        [0.95, 0.95, 0.6, 0.6], abs=1e-4
    )
    assert pseudo[:2] == [0.0, 0.0]
    assert pseudo[2] > 0


def test_an_interrupted_training_goes_on_with_its_calibrated_thresholds(tmp_path: Path) -> None:
    clock = Clock(epochs=10)
    context = context_of(criterion(), clock, tmp_path)
    for epoch, t1 in enumerate((0.95, 0.95, 0.6, 0.7)):
        context.log.count(t0=t1 - 0.2, t1=t1)
        context.log.close_epoch(epoch)
    # The last line is of an epoch that has no checkpoint.
    clock.epoch = 3
    calibrated = SlaDetLoss(context, Options(thresholds="calibrated", calibrate_every=2))
    fixed = SlaDetLoss(context, Options())
    for loss in (calibrated, fixed):
        loss(quiet_outputs(), batch_of(CELLS, PATCHES, 2))
    assert (calibrated.thresholds.t0, calibrated.thresholds.t1) == pytest.approx((0.4, 0.6))
    assert (fixed.thresholds.t0, fixed.thresholds.t1) == (0.7, 0.95)


def test_smallest_labelled_cell_bounds_candidates() -> None:
    outputs, _ = scene()
    large = [(picture, kind, (4.0, 20.0, 30.0, 50.0)) for picture, kind, _ in CELLS]
    batch = batch_of(large, PATCHES)
    plain = criterion()
    items = SlaDetLoss(context_of(plain, Clock()), Options())(outputs, batch)[1]
    assert float(items["pseudo_loss"]) == 0.0
    items = SlaDetLoss(context_of(plain, Clock()), Options(min_area_px=10.0))(outputs, batch)[1]
    assert float(items["pseudo_loss"]) > 0


def test_bad_options_and_networks_are_refused() -> None:
    row = find_row(METHODS, "sla-det")
    assert row.wants_patches
    for given, message in (
        ({"tau": 1}, "option tau"),
        ({"t1": 1.5}, "option t1"),
        ({"t0": 0.8, "t1": 0.7}, "t0 0.8 is above t1 0.7"),
        ({"sign": "other"}, "option sign"),
    ):
        with pytest.raises(SettingsError, match=message):
            row.options(given)
    other: Any = lambda preds, batch: None  # noqa: E731
    with pytest.raises(SettingsError, match="needs a detector with ultralytics' v8 loss"):
        row.build(context_of(other, Clock()), {})


def write_run(root: Path, **options: Any) -> Path:
    """Drawn fields, a patch of each and the data YAML of a training."""
    images = write_fields(root, "train", 3, size=64)
    write_fields(root, "val", 1, size=64, seed=5)
    lines = ["split,image,x1,y1,x2,y2"]
    lines += [f"train,{path.name},0.0,0.0,0.66,1.0" for path in sorted(images.glob("*.png"))]
    (root / "patches.csv").write_text("\n".join(lines) + "\n")
    data = write_data_yaml(root)
    document = yaml.safe_load(data.read_text())
    document["method"] = {
        "table": "sparse",
        "name": "sla-det",
        "options": options,
        "patches": str(root / "patches.csv"),
        "pictures_every": 1,
    }
    data.write_text(yaml.safe_dump(document))
    return data


def train(trainer_class: Any, root: Path, epochs: int, **options: Any) -> Any:
    trainer = trainer_class(
        overrides={
            "model": "yolo11n.yaml",
            "data": str(write_run(root, **options)),
            "imgsz": 64,
            "batch": 3,
            "epochs": epochs,
            "workers": 0,
            "device": "cpu",
            "plots": False,
            "val": True,
            "optimizer": "SGD",
            "project": str(root / "runs"),
            "name": "run",
            "amp": False,
            "close_mosaic": 0,
        }
    )
    trainer.train()
    return trainer


# Low enough that an untrained network's predictions pass.
_LOOSE = {"t0": 0.0, "t1": 0.0, "t2": 9.0, "min_area_px": 0.0}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trainer_class", [MethodTrainer, MethodAttriDetTrainer])
def test_training_runs_with_and_without_attributes(tmp_path: Path, trainer_class: Any) -> None:
    trainer = train(trainer_class, tmp_path, 1, teacher="ema", **_LOOSE)
    folder = Path(trainer.save_dir)
    counts = [
        json.loads(line) for line in (folder / "method" / "counts.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in counts] == [0]
    assert counts[0]["accepted"] > 0
    assert counts[0]["rejected_in_patch"] > 0
    assert list((folder / "method").glob("step-*.jpg"))
    header = (folder / "results.csv").read_text().splitlines()[0]
    for name in LOSS_NAMES:
        assert f"train/{name}" in header
    assert ("train/attr_loss" in header) == (trainer_class is MethodAttriDetTrainer)
    assert np.isfinite([float(value) for value in trainer.tloss.values()]).all()
    assert float(trainer.tloss["pseudo_loss"]) > 0
    assert len(CLASSES) == 3
