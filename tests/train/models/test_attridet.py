"""Joint loss, one gradient under loss scaling, phases, and a real run of the trainer."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.errors import SettingsError

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

from ultralytics.cfg import get_cfg  # noqa: E402
from ultralytics.nn.tasks import DetectionModel  # noqa: E402

from tests.train.attributed_fields import (  # noqa: E402
    CLASSES,
    SCHEMA,
    write_data_yaml,
    write_fields,
)
from train.attributed_dataset import AttributedDataset  # noqa: E402
from train.models.attridet import (  # noqa: E402
    AttriDetModel,
    AttriDetSettings,
    AttriDetTrainer,
)

pytestmark = pytest.mark.train

SETTINGS = AttriDetSettings(attributes=SCHEMA, dropout=0.0)
# What GradScaler starts with.
LOSS_SCALE = 65536.0
BACKBONE = "model.0.conv.weight"


def network(settings: AttriDetSettings = SETTINGS, cfg: str = "yolo11n.yaml") -> Any:
    torch.manual_seed(0)
    model: Any = AttriDetModel(cfg, settings, nc=len(CLASSES))
    model.args = get_cfg()
    return model.train()


def batch_of(images: Path, count: int = 4) -> dict[str, Any]:
    fields = AttributedDataset(
        schema=SCHEMA,
        img_path=str(images),
        imgsz=96,
        augment=False,
        hyp=get_cfg(),
        data={"names": dict(enumerate(CLASSES)), "nc": len(CLASSES), "channels": 3},
    )
    batch = AttributedDataset.collate_fn([fields[index] for index in range(count)])
    return {**batch, "img": batch["img"].float() / 255}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return batch_of(write_fields(tmp_path_factory.mktemp("fields"), "train", 4, size=96))


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_total_is_the_detectors_loss_and_the_attribute_loss_times_the_batch(
    batch: dict[str, Any],
) -> None:
    model = network(AttriDetSettings(attributes=SCHEMA, dropout=0.0, weight=0.7))
    outputs = model(batch["img"])
    plain, plain_items = DetectionModel.loss(model, batch, outputs)
    total, items = model.loss(batch, outputs)
    attribute = model.attribute_loss(outputs["attribute_maps"], batch)
    assert torch.equal(total[:3], plain)
    assert total[3].item() == pytest.approx(4 * 0.7 * attribute.item())
    assert list(items) == [*plain_items, "attr_loss"]
    assert items["attr_loss"].item() == pytest.approx(0.7 * attribute.item())
    assert not items["attr_loss"].requires_grad


def test_one_pass_of_a_batch_gives_the_same_loss(batch: dict[str, Any]) -> None:
    model = network().eval()
    with torch.no_grad():
        whole, _ = model(batch)
        answer = model(batch["img"])
        # As a validator does it: an eval-mode answer is a pair, boxes first.
        assert isinstance(answer, tuple)
        again, _ = model.loss(batch, answer)
    assert torch.equal(whole, again)


def test_detector_answers_as_without_the_head(batch: dict[str, Any]) -> None:
    model = network().eval()
    plain: Any = DetectionModel("yolo11n.yaml", nc=len(CLASSES), verbose=False)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("attribute_head")}
    plain.load_state_dict(own)
    with torch.no_grad():
        assert torch.equal(model(batch["img"])[0], plain.eval()(batch["img"])[0])


def test_attribute_gradient_reaches_the_backbone_undiminished_under_loss_scaling(
    batch: dict[str, Any],
) -> None:
    model = network()
    outputs = model(batch["img"])
    alone = gradients(model, 4 * model.attribute_loss(outputs["attribute_maps"], batch))
    assert alone[BACKBONE].abs().max() > 0

    def through_scaler(weight: float) -> dict[str, Any]:
        model.attribute_weight = weight
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=LOSS_SCALE)
        model.zero_grad()
        total, _ = model(batch)
        scaler.scale(total.sum()).backward()
        scaler.unscale_(optimizer)
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    unscaled = gradients(model, model(batch)[0].sum())
    scaled, detector_only = through_scaler(1.0), through_scaler(0.0)
    for name, gradient in unscaled.items():
        assert torch.allclose(scaled[name], gradient, rtol=1e-4, atol=1e-6), name
    # And what the attribute loss adds there is its whole gradient, not a 65,536th of it.
    added = scaled[BACKBONE] - detector_only[BACKBONE]
    assert (added - alone[BACKBONE]).norm() < 0.01 * alone[BACKBONE].norm()


def test_unjudged_cells_change_neither_loss_nor_gradient(batch: dict[str, Any]) -> None:
    model = network()
    values = batch["attributes"].clone()
    values[::2] = MISSING
    masked = {**batch, "attributes": values}
    rows = torch.arange(len(values)) % 2 == 1
    fewer = {
        **batch,
        "attributes": batch["attributes"][rows],
        "bboxes": batch["bboxes"][rows],
        "batch_idx": batch["batch_idx"][rows],
    }
    maps = model(batch["img"])["attribute_maps"]
    assert torch.equal(model.attribute_loss(maps, masked), model.attribute_loss(maps, fewer))


def test_batch_without_judged_cells_still_trains_the_detector(batch: dict[str, Any]) -> None:
    model = network()
    blank = {**batch, "attributes": torch.full_like(batch["attributes"], MISSING)}
    total, items = model(blank)
    found = gradients(model, total.sum())
    assert items["attr_loss"].item() == 0
    assert all(torch.isfinite(each).all() for each in found.values())
    head = [each for name, each in found.items() if name.startswith("attribute_head")]
    assert len(head) == len(list(model.attribute_head.parameters()))
    assert all((each == 0).all() for each in head)
    assert found[BACKBONE].abs().max() > 0


def test_boxes_land_where_they_are_in_a_picture_that_is_not_square(batch: dict[str, Any]) -> None:
    model = network()
    seen = {}

    def remember(_maps: Any, boxes: Any, _index: Any) -> Any:
        seen["boxes"] = boxes
        return torch.zeros(len(boxes), sum(model.widths), requires_grad=True)

    model.attribute_logits = remember
    one = {
        "img": torch.zeros(1, 3, 64, 128),
        "bboxes": torch.tensor([[0.5, 0.5, 0.25, 0.5]]),
        "batch_idx": torch.zeros(1),
        "attributes": torch.zeros(1, 2, dtype=torch.int64),
    }
    model.attribute_loss([torch.zeros(1, 8, 16, 32)], one)
    assert seen["boxes"].tolist() == [[48, 16, 80, 48]]


@pytest.mark.slow
def test_both_losses_fall_on_a_handful_of_fields(batch: dict[str, Any]) -> None:
    model = network(cfg="yolov5n.yaml")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    detector, attributes = [], []
    for _ in range(36):
        total, items = model(batch)
        optimizer.zero_grad()
        total.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
        optimizer.step()
        detector.append(sum(items[name].item() for name in ("box_loss", "cls_loss", "dfl_loss")))
        attributes.append(items["attr_loss"].item())
    # An untrained detector's first losses are small: hardly an anchor is assigned to a cell.
    assert max(detector[-4:]) < 0.7 * min(detector[4:9])
    assert max(attributes[-4:]) < 0.1 * attributes[0]


def test_copies_and_checkpoints_stand_on_their_own(batch: dict[str, Any]) -> None:
    model = network()
    model(batch)[0].sum().backward()
    # What the averaged model and the checkpoint writer do, right after a training step.
    twin = copy.deepcopy(model)
    buffer = io.BytesIO()
    model.criterion = None
    torch.save({"model": model}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)["model"]
    for other in (twin, loaded):
        other.args = get_cfg()
        with torch.no_grad():
            assert torch.equal(other.eval()(batch)[0], model.eval()(batch)[0])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert not torch.equal(twin(batch)[0], model(batch)[0])


def test_single_logits_for_binary_attributes(batch: dict[str, Any]) -> None:
    binary = AttributeSchema(name="warm only", attributes=SCHEMA.attributes[1:])
    settings = AttriDetSettings(attributes=binary, outputs="per_attribute")
    model = network(settings)
    assert model.widths == (1,)
    total, _ = model({**batch, "attributes": batch["attributes"][:, 1:]})
    assert torch.isfinite(total).all()


def test_unknown_families_need_layers(batch: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="no known layers"):
        AttriDetModel("yolov8n.yaml", SETTINGS)
    model = network(SETTINGS.model_copy(update={"layers": (2, 4)}), cfg="yolov8n.yaml")
    assert [tap.stride for tap in model.taps] == [4, 8]
    assert torch.isfinite(model(batch)[0]).all()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, "no section 'attridet'"),
        ({}, "attridet.attributes: Field required"),
        ({"attributes": SCHEMA.model_dump(), "wieght": 1}, "attridet.wieght: Extra inputs"),
        ({"attributes": SCHEMA.model_dump(), "weight": -1}, "attridet.weight"),
    ],
)
def test_bad_settings_name_the_file_and_the_key(section: Any, message: str) -> None:
    data = {"yaml_file": "data.yaml"} | ({} if section is None else {"attridet": section})
    with pytest.raises(SettingsError, match=rf"data\.yaml: {message}"):
        AttriDetSettings.from_data(data)


def trainer(root: Path, **changes: Any) -> Any:
    """A trainer that is never run: only its way of making models is asked."""
    settings = AttriDetSettings(attributes=SCHEMA, **changes)
    made: Any = AttriDetTrainer.__new__(AttriDetTrainer)
    made.data = {
        "attridet": settings.model_dump(),
        "nc": len(CLASSES),
        "channels": 3,
        "names": dict(enumerate(CLASSES)),
    }
    made.args = get_cfg()
    made.resume = False
    return made


def test_second_phase_keeps_or_renews_the_head(tmp_path: Path) -> None:
    first = network()
    kept = trainer(tmp_path).get_model("yolo11n.yaml", first)
    fresh_trainer = trainer(tmp_path, fresh_head=True)
    fresh = fresh_trainer.get_model("yolo11n.yaml", first)
    fresh_trainer.resume = True
    resumed = fresh_trainer.get_model("yolo11n.yaml", first)

    def same(model: Any, name: str) -> bool:
        return bool(torch.equal(model.state_dict()[name], first.state_dict()[name]))

    head = "attribute_head.convolutions.0.weight"
    assert [same(each, head) for each in (kept, fresh, resumed)] == [True, False, True]
    assert all(same(each, BACKBONE) for each in (kept, fresh, resumed))


def test_a_plain_detectors_weights_are_a_start(tmp_path: Path) -> None:
    plain: Any = DetectionModel("yolo11n.yaml", nc=len(CLASSES), verbose=False)
    model = trainer(tmp_path).get_model("yolo11n.yaml", plain)
    assert torch.equal(model.state_dict()[BACKBONE], plain.state_dict()[BACKBONE])


def test_a_head_for_other_attributes_is_refused_unless_renewed(tmp_path: Path) -> None:
    other = SCHEMA.model_copy(update={"name": "other"})
    first = network(AttriDetSettings(attributes=other))
    with pytest.raises(SettingsError, match=r"schema 'other'.*set fresh_head: true"):
        trainer(tmp_path).get_model("yolo11n.yaml", first)
    trainer(tmp_path, fresh_head=True).get_model("yolo11n.yaml", first)


class StoppedError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trainer_runs_resumes_and_starts_a_second_phase(tmp_path: Path) -> None:
    write_fields(tmp_path, "train", 8)
    write_fields(tmp_path, "val", 4, seed=1)
    common = {
        "model": "yolo11n.yaml",
        "data": str(write_data_yaml(tmp_path)),
        "imgsz": 96,
        "batch": 4,
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "optimizer": "SGD",
        "project": str(tmp_path),
        "exist_ok": True,
        "pretrained": False,
        "close_mosaic": 1,
    }

    def interrupt(_trainer: Any) -> None:
        raise StoppedError

    first: Any = AttriDetTrainer(overrides={**common, "epochs": 2, "name": "one"})
    first.add_callback("on_model_save", interrupt)
    with pytest.raises(StoppedError):
        first.train()
    last = tmp_path / "one" / "weights" / "last.pt"
    saved = torch.load(last, weights_only=False)["ema"].attribute_head.state_dict()

    # A resumed run keeps its head even where a second phase would not.
    write_data_yaml(tmp_path, fresh_head=True)
    heads = []

    def remember(trainer: Any) -> None:
        heads.append(copy.deepcopy(trainer.model.attribute_head.state_dict()))

    resumed: Any = AttriDetTrainer(overrides={"resume": str(last), "device": "cpu"})
    resumed.add_callback("on_train_start", remember)
    resumed.train()
    assert resumed.start_epoch == 1
    assert all(torch.equal(heads[0][name], each.float()) for name, each in saved.items())
    lines = (tmp_path / "one" / "results.csv").read_text().splitlines()
    assert len(lines) == 3
    assert "train/attr_loss" in lines[0]
    assert "val/attr_loss" in lines[0]

    second: Any = AttriDetTrainer(
        overrides={**common, "epochs": 1, "name": "two", "pretrained": str(last)}
    )
    second.add_callback("on_train_start", remember)
    second.train()
    finished = torch.load(last, weights_only=False)["model"].attribute_head.state_dict()
    assert not any(
        torch.equal(heads[1][name], each.float())
        for name, each in finished.items()
        if name.endswith("weight")
    )
    assert (tmp_path / "two" / "weights" / "best.pt").is_file()
